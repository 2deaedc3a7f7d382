//! Entries of the neighbour table: `struct ndmsg`. They are read, and the kernel is asked to look
//! for one; none is ever written.

use std::net::IpAddr;

use nett_policy::fabric::Family;
use nett_policy::lower::object::Mac;

use super::attr::{Attributes, Malformed, Message, address_bytes};
use super::family_number;
use super::socket::NLM_F_CREATE;

const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const NDMSG: usize = 12;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// Where `ndm_state` and `ndm_flags` are in the header.
const STATE: std::ops::Range<usize> = 8..10;
const FLAGS: usize = 10;
/// The states in which packets are sent at once: reachable, stale, delay, probe, noarp, permanent
/// (NUD_VALID of net/neighbour.h).
const NUD_VALID: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80;
/// As if a packet was to be sent (linux/neighbour.h).
const NTF_USE: u8 = 0x01;

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

/// Lets the kernel look for a neighbour as if there was a packet for it; one that it knows or looks
/// for stays as it is.
pub(crate) fn seek(address: IpAddr, interface: u32) -> Message {
    let mut header = [0; NDMSG];
    header[0] = family_number(Family::of(address));
    header[4..8].copy_from_slice(&interface.to_ne_bytes());
    header[FLAGS] = NTF_USE;
    let mut message = Message::new(RTM_NEWNEIGH, NLM_F_CREATE, &header);
    message.put(NDA_DST, &address_bytes(address));
    message
}

/// Whether packets to the neighbour of this entry are sent at once.
pub(crate) fn is_known(kind: u16, payload: &[u8]) -> Result<Option<bool>, Malformed> {
    if kind != RTM_NEWNEIGH {
        return Ok(None);
    }
    // Also refuses a header that is too short.
    Attributes::after(payload, NDMSG)?;
    let state = payload[STATE].try_into().map_or(0, u16::from_ne_bytes);
    Ok(Some(state & NUD_VALID != 0))
}
