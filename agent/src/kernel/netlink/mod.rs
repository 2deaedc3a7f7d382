//! The request layer over netlink sockets, and the codecs of the objects Nett uses.
//!
//! Codecs encode keys and values of Nett and decode only what Nett compares. They never see a
//! socket; the connection never sees an object.

pub(crate) mod attr;
pub(crate) mod link;
pub(crate) mod neighbour;
pub(crate) mod nexthop;
pub(crate) mod route;
pub(crate) mod rule;
pub(crate) mod socket;
pub(crate) mod stats;
pub(crate) mod wire;

#[cfg(test)]
mod tests;

use nett_policy::fabric::Family;

pub(crate) const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

pub(crate) fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

pub(crate) fn family_of(number: u8) -> Option<Family> {
    match number {
        AF_INET => Some(Family::V4),
        AF_INET6 => Some(Family::V6),
        _ => None,
    }
}
