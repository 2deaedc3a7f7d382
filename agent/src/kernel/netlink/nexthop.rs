//! Nexthop objects: `struct nhmsg` and `NHA_*` of linux/nexthop.h, which no crate covers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nett_policy::fabric::Family;
use nett_policy::id::Weight;
use nett_policy::lower::object::{Buckets, Nexthop, NexthopId};

use super::attr::{Attributes, Malformed, Message, address_bytes, read_address, read_u32};
use super::{AF_UNSPEC, family_number, family_of};

pub(crate) const RTM_NEWNEXTHOP: u16 = 104;
pub(crate) const RTM_DELNEXTHOP: u16 = 105;
pub(crate) const RTM_GETNEXTHOP: u16 = 106;
pub(crate) const RTM_NEWNEXTHOPBUCKET: u16 = 116;
const RTM_GETNEXTHOPBUCKET: u16 = 118;

const NHMSG: usize = 8;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_GROUP_TYPE: u16 = 3;
const NHA_BLACKHOLE: u16 = 4;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_ENCAP: u16 = 8;
const NHA_FDB: u16 = 11;
const NHA_RES_GROUP: u16 = 12;
const NHA_RES_BUCKET: u16 = 13;
const NHA_RES_BUCKET_NH_ID: u16 = 3;
/// `NEXTHOP_GRP_TYPE_RES`
const RESILIENT: u16 = 1;
const NHA_RES_GROUP_BUCKETS: u16 = 1;
const NHA_RES_GROUP_IDLE_TIMER: u16 = 2;
const NHA_RES_GROUP_UNBALANCED_TIMER: u16 = 3;
/// Bytes of `struct nexthop_grp`.
const MEMBER: usize = 8;
const RTNH_F_ONLINK: u32 = 4;

/// A nexthop object as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) id: NexthopId,
    pub(crate) protocol: u8,
    /// `None` for groups, which have no family of their own.
    pub(crate) family: Option<Family>,
    pub(crate) form: Form,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Form {
    Single {
        gateway: IpAddr,
        index: u32,
    },
    /// Resilient with buckets.
    Group(BTreeMap<NexthopId, Weight>, Option<Buckets>),
    /// In the family of the row.
    Blackhole,
    /// Encapsulation and what else Nett does not write.
    Other,
}

/// `struct nhmsg`: family, scope, protocol, reserved, flags.
fn header(family: u8, protocol: u8, flags: u32) -> [u8; NHMSG] {
    let [a, b, c, d] = flags.to_ne_bytes();
    [family, 0, protocol, 0, a, b, c, d]
}

/// `flags` say whether it may or must exist. `index` is the device of a single, by number.
pub(crate) fn put(
    flags: u16,
    protocol: u8,
    id: NexthopId,
    nexthop: &Nexthop,
    index: u32,
) -> Message {
    match nexthop {
        Nexthop::Single { gateway, .. } => {
            let family = family_number(Family::of(*gateway));
            let header = header(family, protocol, RTNH_F_ONLINK);
            let mut message = Message::new(RTM_NEWNEXTHOP, flags, &header);
            message.put_u32(NHA_ID, id.0);
            message.put(NHA_GATEWAY, &address_bytes(*gateway));
            message.put_u32(NHA_OIF, index);
            message
        }
        Nexthop::Group { family: _, members, buckets } => {
            let header = header(AF_UNSPEC, protocol, 0);
            let mut message = Message::new(RTM_NEWNEXTHOP, flags, &header);
            message.put_u32(NHA_ID, id.0);
            let mut value = Vec::with_capacity(members.len() * MEMBER);
            for (member, weight) in members {
                value.extend_from_slice(&member.0.to_ne_bytes());
                let less_one = u8::try_from(weight.get() - 1).expect("weights are 1 to 256");
                // weight, weight_high, resvd2
                value.extend_from_slice(&[less_one, 0, 0, 0]);
            }
            message.put(NHA_GROUP, &value);
            if let Some(Buckets { count, idle, unbalanced }) = buckets {
                message.put(NHA_GROUP_TYPE, &RESILIENT.to_ne_bytes());
                message.nest(NHA_RES_GROUP, |nest| {
                    nest.put(NHA_RES_GROUP_BUCKETS, &count.to_ne_bytes());
                    nest.put_u32(NHA_RES_GROUP_IDLE_TIMER, *idle);
                    nest.put_u32(NHA_RES_GROUP_UNBALANCED_TIMER, *unbalanced);
                });
            }
            message
        }
        Nexthop::Blackhole { family } => {
            let header = header(family_number(*family), protocol, 0);
            let mut message = Message::new(RTM_NEWNEXTHOP, flags, &header);
            message.put_u32(NHA_ID, id.0);
            message.put(NHA_BLACKHOLE, &[]);
            message
        }
    }
}

pub(crate) fn delete(id: NexthopId) -> Message {
    let mut message = Message::new(RTM_DELNEXTHOP, 0, &header(AF_UNSPEC, 0, 0));
    message.put_u32(NHA_ID, id.0);
    message
}

pub(crate) fn get(id: NexthopId) -> Message {
    let mut message = Message::new(RTM_GETNEXTHOP, 0, &header(AF_UNSPEC, 0, 0));
    message.put_u32(NHA_ID, id.0);
    message
}

/// The kernel cannot filter this dump by protocol.
pub(crate) fn dump() -> Message {
    Message::new(RTM_GETNEXTHOP, 0, &header(AF_UNSPEC, 0, 0))
}

/// The buckets of one resilient group.
pub(crate) fn dump_buckets(group: NexthopId) -> Message {
    let mut message = Message::new(RTM_GETNEXTHOPBUCKET, 0, &header(AF_UNSPEC, 0, 0));
    message.put_u32(NHA_ID, group.0);
    message
}

/// The member that a bucket leads to.
pub(crate) fn decode_bucket(kind: u16, payload: &[u8]) -> Result<Option<NexthopId>, Malformed> {
    if kind != RTM_NEWNEXTHOPBUCKET {
        return Ok(None);
    }
    for attribute in Attributes::after(payload, NHMSG)? {
        let (NHA_RES_BUCKET, bucket) = attribute? else { continue };
        for attribute in Attributes::of(bucket) {
            if let (NHA_RES_BUCKET_NH_ID, member) = attribute? {
                return Ok(Some(NexthopId(read_u32(member)?)));
            }
        }
    }
    Err(Malformed("a bucket without nexthop"))
}

pub(crate) fn decode(kind: u16, payload: &[u8]) -> Result<Option<Row>, Malformed> {
    if kind != RTM_NEWNEXTHOP && kind != RTM_DELNEXTHOP {
        return Ok(None);
    }
    let header = payload.first_chunk::<NHMSG>();
    let header = header.ok_or(Malformed("a nexthop header"))?;
    let (mut id, mut index, mut gateway, mut group) = (None, None, None, None);
    let (mut other, mut black) = (false, false);
    let (mut resilient, mut buckets) = (false, None);
    for attribute in Attributes::after(payload, NHMSG)? {
        let (kind, value) = attribute?;
        match kind {
            NHA_ID => id = Some(NexthopId(read_u32(value)?)),
            NHA_OIF => index = Some(read_u32(value)?),
            NHA_GATEWAY => gateway = Some(read_address(value)?),
            NHA_GROUP => group = Some(members(value)?),
            // 0 is the hash-threshold group, which is also what is meant without it.
            NHA_GROUP_TYPE => {
                resilient = value == RESILIENT.to_ne_bytes();
                other |= value != [0, 0] && !resilient;
            }
            NHA_BLACKHOLE => black = true,
            NHA_RES_GROUP => buckets = Some(read_buckets(value)?),
            NHA_ENCAP | NHA_FDB => other = true,
            _ => {}
        }
    }
    let form = match (gateway, index, group) {
        _ if other => Form::Other,
        (None, None, None) if black => Form::Blackhole,
        (Some(gateway), Some(index), None) => Form::Single { gateway, index },
        (None, None, Some(Some(group))) if resilient == buckets.is_some() => {
            Form::Group(group, buckets)
        }
        _ => Form::Other,
    };
    Ok(Some(Row {
        id: id.ok_or(Malformed("a nexthop without id"))?,
        protocol: header[2],
        family: family_of(header[0]),
        form,
    }))
}

/// Times are in `USER_HZ`, hundredths of a second. The kernel also says for how long it has been
/// unbalanced, which is no setting.
fn read_buckets(value: &[u8]) -> Result<Buckets, Malformed> {
    let mut buckets = Buckets { count: 0, idle: 0, unbalanced: 0 };
    for attribute in Attributes::of(value) {
        let (kind, value) = attribute?;
        match kind {
            NHA_RES_GROUP_BUCKETS => {
                let count = value.first_chunk::<2>().ok_or(Malformed("a number of buckets"))?;
                buckets.count = u16::from_ne_bytes(*count);
            }
            NHA_RES_GROUP_IDLE_TIMER => buckets.idle = whole(read_u32(value)?),
            NHA_RES_GROUP_UNBALANCED_TIMER => buckets.unbalanced = whole(read_u32(value)?),
            _ => {}
        }
    }
    Ok(buckets)
}

/// Nett sets whole seconds. The kernel keeps jiffies, which at 300 a second come back as a
/// hundredth less (`jiffies_to_clock_t`, kernel/time/time.c).
fn whole(hundredths: u32) -> u32 {
    match hundredths % 100 {
        99 => hundredths.saturating_add(1),
        1 => hundredths - 1,
        _ => hundredths,
    }
}

/// `None` for weights above what Nett can say.
fn members(value: &[u8]) -> Result<Option<BTreeMap<NexthopId, Weight>>, Malformed> {
    let (entries, []) = value.as_chunks::<MEMBER>() else {
        return Err(Malformed("a nexthop group"));
    };
    let mut members = BTreeMap::new();
    for [a, b, c, d, low, high, _, _] in entries.iter().copied() {
        let weight = (u32::from(high) << 8) + u32::from(low) + 1;
        let Ok(weight) = Weight::new(weight) else {
            return Ok(None);
        };
        members.insert(NexthopId(u32::from_ne_bytes([a, b, c, d])), weight);
    }
    Ok(Some(members))
}
