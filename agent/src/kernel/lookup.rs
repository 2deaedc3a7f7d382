//! The kernel's own route lookup for one packet, as `ip route get ... fibmatch` asks. Reads only.
//!
//! Crash story: nothing is kept.

use std::net::IpAddr;

use ipnet::IpNet;
use nett_policy::fabric::Family;
use nix::errno::Errno;

use super::error::KernelError;
use super::netlink::route::{RTN_BLACKHOLE, RTN_UNREACHABLE};
use super::netlink::socket::{Connection, Failure, OwnPorts};
use super::netlink::{attr, family_number};
use attr::{Attributes, Malformed, Message, address_bytes, read_address, read_u32};

/// A socket of its own: nobody waits for the writer of the kernel.
pub struct Lookup {
    connection: Connection,
}

/// A packet that comes in by an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub from: IpAddr,
    pub to: IpAddr,
    pub interface: String,
    pub mark: u32,
}

/// What the kernel would do with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Route {
        table: u32,
        destination: IpNet,
        nexthop: Option<u32>,
    },
    /// No way, with the kernel's error.
    Refused(Errno),
}

/// By which way the kernel would send it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub gateway: IpAddr,
    pub interface: String,
}

/// NETLINK_ROUTE (linux/netlink.h); the rest from linux/rtnetlink.h.
const ROUTE: isize = 0;
const OBJECT: &str = "the route lookup";
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTMSG: usize = 12;
const RTM_F_LOOKUP_TABLE: u32 = 0x1000;
const RTM_F_FIB_MATCH: u32 = 0x2000;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_IIF: u16 = 3;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_TABLE: u16 = 15;
const RTA_MARK: u16 = 16;
const RTA_NH_ID: u16 = 30;

impl Lookup {
    /// In the network namespace of the calling thread.
    ///
    /// # Errors
    /// When no socket is to be had.
    pub fn open() -> Result<Self, KernelError> {
        let connection = Connection::open(ROUTE, OwnPorts::default());
        let connection = connection.map_err(|e| KernelError::of(OBJECT, e))?;
        Ok(Self { connection })
    }

    /// # Errors
    /// When the interface does not exist, or the kernel does not answer.
    pub async fn ask(&mut self, asked: &Asked) -> Result<Found, KernelError> {
        let message = question(asked, RTM_F_FIB_MATCH)?;
        let to = asked.to;
        let found = self.connection.get(message, |kind, payload| decode(kind, payload, to)).await;
        match found {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Ok(Found::Refused(Errno::ENODATA)),
            Err(Failure::Refused { errno, .. }) => Ok(Found::Refused(errno)),
            Err(failure) => Err(KernelError::of(OBJECT, failure)),
        }
    }

    /// By which of the ways of its route this packet goes; `None` where it has none. Unlike the
    /// route it is always the packet's own: IPv6 keeps one entry for each nexthop and processor
    /// (`rt6i_pcpu`, net/ipv6/route.c), which names the route that it was first made for, although
    /// others use that nexthop.
    ///
    /// # Errors
    /// When the interface does not exist, or the kernel does not answer.
    pub async fn taken(&mut self, asked: &Asked) -> Result<Option<Taken>, KernelError> {
        let message = question(asked, 0)?;
        match self.connection.get(message, decode_taken).await {
            Ok(taken) => Ok(taken.flatten()),
            Err(Failure::Refused { .. }) => Ok(None),
            Err(failure) => Err(KernelError::of(OBJECT, failure)),
        }
    }
}

fn question(asked: &Asked, flags: u32) -> Result<Message, KernelError> {
    let Asked { from, to, interface, mark } = asked;
    let index = nix::net::if_::if_nametoindex(interface.as_str()).map_err(|_| {
        let reason = format!("there is no interface {interface}");
        KernelError::Interface { object: OBJECT.to_owned(), reason }
    })?;
    let length = if to.is_ipv4() { 32 } else { 128 };
    let mut header = [0; RTMSG];
    header[0] = family_number(Family::of(*to));
    (header[1], header[2]) = (length, length);
    // IPv6 tells the table unasked, and takes the question for a mistake.
    let table = if to.is_ipv4() { RTM_F_LOOKUP_TABLE } else { 0 };
    header[8..].copy_from_slice(&(table | flags).to_ne_bytes());
    let mut message = Message::new(RTM_GETROUTE, 0, &header);
    message.put(RTA_DST, &address_bytes(*to));
    message.put(RTA_SRC, &address_bytes(*from));
    message.put_u32(RTA_IIF, index);
    message.put_u32(RTA_MARK, *mark);
    Ok(message)
}

fn decode_taken(kind: u16, payload: &[u8]) -> Result<Option<Option<Taken>>, Malformed> {
    if kind != RTM_NEWROUTE {
        return Ok(None);
    }
    let (mut gateway, mut interface) = (None, None);
    for attribute in Attributes::after(payload, RTMSG)? {
        match attribute? {
            (RTA_GATEWAY, value) => gateway = Some(read_address(value)?),
            (RTA_OIF, value) => interface = nix::net::if_::if_indextoname(read_u32(value)?).ok(),
            _ => {}
        }
    }
    let named = interface.map(|name| name.to_string_lossy().into_owned());
    Ok(Some(gateway.zip(named).map(|(gateway, interface)| Taken { gateway, interface })))
}

fn decode(kind: u16, payload: &[u8], to: IpAddr) -> Result<Option<Found>, Malformed> {
    if kind != RTM_NEWROUTE {
        return Ok(None);
    }
    let header = payload.first_chunk::<RTMSG>().ok_or(Malformed("a route header"))?;
    match header[7] {
        RTN_UNREACHABLE => return Ok(Some(Found::Refused(Errno::EHOSTUNREACH))),
        // The route of a class without a way; its packets are refused before.
        RTN_BLACKHOLE => return Ok(Some(Found::Refused(Errno::EINVAL))),
        _ => {}
    }
    let (mut table, mut nexthop) = (u32::from(header[4]), None);
    // The default route has no destination.
    let mut destination = Family::of(to).default_route().addr();
    for attribute in Attributes::after(payload, RTMSG)? {
        let (kind, value) = attribute?;
        match kind {
            RTA_DST => destination = read_address(value)?,
            RTA_TABLE => table = read_u32(value)?,
            RTA_NH_ID => nexthop = Some(read_u32(value)?),
            _ => {}
        }
    }
    let destination =
        IpNet::new(destination, header[1]).map_err(|_| Malformed("a prefix length"))?;
    Ok(Some(Found::Route { table, destination, nexthop }))
}
