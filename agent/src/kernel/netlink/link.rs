//! Interfaces and their addresses: `struct ifinfomsg` and `struct ifaddrmsg`, read only.

use std::net::IpAddr;

use ipnet::IpNet;

use super::attr::{Attributes, Malformed, Message, read_address, read_text, read_u32};
use super::family_of;

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;

const IFINFOMSG: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_EXT_MASK: u16 = 29;
/// `RTEXT_FILTER_SKIP_STATS`
const SKIP_STATS: u32 = 1 << 3;
const IFF_UP: u32 = 0x1;
const IFF_LOWER_UP: u32 = 0x1_0000;

const IFADDRMSG: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkRow {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Administratively up, and with carrier.
    pub(crate) up: bool,
    /// Administratively down.
    pub(crate) shut: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddressRow {
    pub(crate) index: u32,
    pub(crate) address: IpNet,
    /// Duplicate address detection is running, or has failed: not usable yet, or at all.
    pub(crate) tentative: bool,
}

pub(crate) fn dump_links() -> Message {
    let mut message = Message::new(RTM_GETLINK, 0, &[0; IFINFOMSG]);
    message.put_u32(IFLA_EXT_MASK, SKIP_STATS);
    message
}

pub(crate) fn dump_addresses() -> Message {
    Message::new(RTM_GETADDR, 0, &[0; IFADDRMSG])
}

pub(crate) fn decode_link(kind: u16, payload: &[u8]) -> Result<Option<LinkRow>, Malformed> {
    if kind != RTM_NEWLINK {
        return Ok(None);
    }
    let header = payload.first_chunk::<IFINFOMSG>();
    let header = header.ok_or(Malformed("a link header"))?;
    let flags = read_u32(&header[8..])?;
    let mut name = None;
    for attribute in Attributes::after(payload, IFINFOMSG)? {
        let (kind, value) = attribute?;
        if kind == IFLA_IFNAME {
            name = Some(read_text(value));
            break;
        }
    }
    Ok(Some(LinkRow {
        index: read_u32(&header[4..])?,
        name: name.ok_or(Malformed("a link without name"))?,
        up: flags & IFF_UP != 0 && flags & IFF_LOWER_UP != 0,
        shut: flags & IFF_UP == 0,
    }))
}

pub(crate) fn decode_address(kind: u16, payload: &[u8]) -> Result<Option<AddressRow>, Malformed> {
    if kind != RTM_NEWADDR {
        return Ok(None);
    }
    let header = payload.first_chunk::<IFADDRMSG>();
    let header = header.ok_or(Malformed("an address header"))?;
    if family_of(header[0]).is_none() {
        return Ok(None);
    }
    let mut flags = u32::from(header[2]);
    let (mut address, mut local): (Option<IpAddr>, Option<IpAddr>) = (None, None);
    for attribute in Attributes::after(payload, IFADDRMSG)? {
        let (kind, value) = attribute?;
        match kind {
            IFA_ADDRESS => address = Some(read_address(value)?),
            IFA_LOCAL => local = Some(read_address(value)?),
            IFA_FLAGS => flags = read_u32(value)?,
            _ => {}
        }
    }
    let own = local.or(address).ok_or(Malformed("an address message"))?;
    Ok(Some(AddressRow {
        index: read_u32(&header[4..])?,
        address: IpNet::new(own, header[1]).map_err(|_| Malformed("an address length"))?,
        tentative: flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED) != 0,
    }))
}
