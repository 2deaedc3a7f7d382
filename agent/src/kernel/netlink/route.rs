//! Routes: `struct rtmsg` and `RTA_*` of linux/rtnetlink.h. Only routes by nexthop id and
//! `unreachable` routes are written.

use std::net::IpAddr;

use ipnet::IpNet;
use nett_policy::fabric::Family;
use nett_policy::lower::object::{NexthopId, RouteKey, RouteTarget, Table};

use super::attr::{Attributes, Malformed, Message, address_bytes, read_address, read_u32};
use super::{family_number, family_of};

pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

const RTMSG: usize = 12;
const RTA_DST: u16 = 1;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;
const RTA_NH_ID: u16 = 30;
const RTN_UNICAST: u8 = 1;
pub(in crate::kernel) const RTN_BLACKHOLE: u8 = 6;
pub(in crate::kernel) const RTN_UNREACHABLE: u8 = 7;
const RT_SCOPE_NOWHERE: u8 = 255;
const RT_TABLE_UNSPEC: u8 = 0;

/// A route as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: RouteKey,
    pub(crate) protocol: u8,
    /// `None` for what Nett never writes: plain gateways, other types, a type of service.
    pub(crate) target: Option<RouteTarget>,
}

struct Header {
    family: Family,
    length: u8,
    protocol: u8,
    scope: u8,
    kind: u8,
}

fn message(kind: u16, flags: u16, key: &RouteKey, header: &Header) -> Message {
    let Header { family, length, protocol, scope, kind: route_kind } = *header;
    // family, dst_len, src_len, tos, table, protocol, scope, type, flags
    let bytes = [
        family_number(family),
        length,
        0,
        0,
        RT_TABLE_UNSPEC,
        protocol,
        scope,
        route_kind,
        0,
        0,
        0,
        0,
    ];
    let mut message = Message::new(kind, flags, &bytes);
    if length > 0 {
        message.put(RTA_DST, &address_bytes(key.destination.network()));
    }
    message.put_u32(RTA_TABLE, key.table.0);
    message.put_u32(RTA_PRIORITY, key.metric);
    message
}

pub(crate) fn put(flags: u16, protocol: u8, key: &RouteKey, target: RouteTarget) -> Message {
    let header = Header {
        family: Family::of_net(key.destination),
        length: key.destination.prefix_len(),
        protocol,
        scope: 0,
        kind: match target {
            RouteTarget::Nexthop(_) => RTN_UNICAST,
            RouteTarget::Unreachable => RTN_UNREACHABLE,
        },
    };
    let mut message = message(RTM_NEWROUTE, flags, key, &header);
    if let RouteTarget::Nexthop(id) = target {
        message.put_u32(RTA_NH_ID, id.0);
    }
    message
}

/// By prefix, table, metric and protocol, whatever its target has become.
pub(crate) fn delete(protocol: u8, key: &RouteKey) -> Message {
    let header = Header {
        family: Family::of_net(key.destination),
        length: key.destination.prefix_len(),
        protocol,
        scope: RT_SCOPE_NOWHERE,
        kind: 0,
    };
    message(RTM_DELROUTE, 0, key, &header)
}

/// The routes of one table; the kernel filters. A table that does not exist is refused by IPv4
/// with ENOENT.
pub(crate) fn dump_table(family: Family, table: Table) -> Message {
    let mut header = [0; RTMSG];
    header[0] = family_number(family);
    let mut message = Message::new(RTM_GETROUTE, 0, &header);
    message.put_u32(RTA_TABLE, table.0);
    message
}

/// The routes of one protocol in all tables; the kernel filters.
pub(crate) fn dump_protocol(family: Family, protocol: u8) -> Message {
    let mut header = [0; RTMSG];
    header[0] = family_number(family);
    header[5] = protocol;
    Message::new(RTM_GETROUTE, 0, &header)
}

pub(crate) fn decode(kind: u16, payload: &[u8]) -> Result<Option<Row>, Malformed> {
    if kind != RTM_NEWROUTE && kind != RTM_DELROUTE {
        return Ok(None);
    }
    let header = payload.first_chunk::<RTMSG>();
    let header = header.ok_or(Malformed("a route header"))?;
    let [number, length, _, tos, table, protocol, _, route_kind, ..] = *header;
    let Some(family) = family_of(number) else {
        return Ok(None);
    };
    let mut table = u32::from(table);
    let (mut address, mut metric, mut nexthop) = (None, 0, None);
    for attribute in Attributes::after(payload, RTMSG)? {
        let (kind, value) = attribute?;
        match kind {
            RTA_DST => address = Some(read_address(value)?),
            RTA_PRIORITY => metric = read_u32(value)?,
            RTA_TABLE => table = read_u32(value)?,
            RTA_NH_ID => nexthop = Some(NexthopId(read_u32(value)?)),
            _ => {}
        }
    }
    let address: IpAddr = address.unwrap_or(family.default_route().addr());
    let target = match (route_kind, nexthop) {
        _ if tos != 0 => None,
        // What the kernel calls a route whose nexthop is a blackhole.
        (RTN_UNICAST | RTN_BLACKHOLE, Some(id)) => Some(RouteTarget::Nexthop(id)),
        (RTN_UNREACHABLE, None) => Some(RouteTarget::Unreachable),
        _ => None,
    };
    Ok(Some(Row {
        key: RouteKey {
            table: Table(table),
            destination: IpNet::new(address, length).map_err(|_| Malformed("a prefix"))?,
            metric,
        },
        protocol,
        target,
    }))
}
