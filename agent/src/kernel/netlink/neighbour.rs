//! Entries of the neighbour table: `struct ndmsg`, read only.

use std::net::IpAddr;

use nett_policy::fabric::Family;
use nett_policy::lower::object::Mac;

use super::attr::{Attributes, Malformed, Message, address_bytes};
use super::family_number;

const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const NDMSG: usize = 12;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

/// Asks for the one entry of an address on an interface.
pub(crate) fn get(address: IpAddr, interface: u32) -> Message {
    let mut header = [0; NDMSG];
    header[0] = family_number(Family::of(address));
    header[4..8].copy_from_slice(&interface.to_ne_bytes());
    let mut message = Message::new(RTM_GETNEIGH, 0, &header);
    message.put(NDA_DST, &address_bytes(address));
    message
}

/// The Ethernet address of an entry, if it has one.
pub(crate) fn decode(kind: u16, payload: &[u8]) -> Result<Option<Mac>, Malformed> {
    if kind != RTM_NEWNEIGH {
        return Ok(None);
    }
    for attribute in Attributes::after(payload, NDMSG)? {
        let (kind, value) = attribute?;
        if kind == NDA_LLADDR {
            return Ok(value.try_into().ok().map(Mac));
        }
    }
    Ok(None)
}
