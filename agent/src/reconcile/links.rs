//! Which links of this node can carry packets, judged by its interfaces.
//!
//! A nexthop object says nothing about that: the kernel keeps it when the address under it is
//! removed, and drops it in silence when the carrier goes. So a link is usable in a family when its
//! interface is up with carrier and has the address that the fabric names, and the address is not
//! tentative.
//!
//! Crash story: a function of the last readback, nothing is kept.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use nett_policy::fabric::Family;
use nett_policy::id::LinkId;
use nett_policy::lower::LinksUp;

use crate::kernel::Interface;

/// A link of this node by the interface that carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnLink {
    pub link: LinkId,
    pub interface: String,
    /// The addresses of this end, with their prefix lengths.
    pub addresses: Vec<IpNet>,
}

/// What was seen of the links.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) up: LinksUp,
    /// Why a link, or a family of it, is not usable; one line each, for the operator.
    pub(super) troubles: BTreeSet<String>,
}

pub(super) fn see(links: &[OwnLink], interfaces: &BTreeMap<String, Interface>) -> Seen {
    let mut seen = Seen::default();
    for OwnLink { link, interface, addresses } in links {
        let mut trouble = |what: String| {
            seen.troubles.insert(format!("link {link}: {what}"));
        };
        match interfaces.get(interface) {
            None => trouble(format!("interface {interface} does not exist")),
            Some(there) if !there.up => {
                trouble(format!("interface {interface} is down or has no carrier"));
            }
            Some(there) => {
                for family in Family::BOTH {
                    let own = addresses.iter().filter(|a| Family::of_net(**a) == family);
                    match unusable(there, own) {
                        None => seen.up.insert(link.clone(), family),
                        Some(what) => trouble(format!("{what} on {interface}")),
                    }
                }
            }
        }
    }
    seen
}

/// The first address that is not there, or not yet.
fn unusable<'a>(there: &Interface, mut own: impl Iterator<Item = &'a IpNet>) -> Option<String> {
    own.find_map(|address| {
        if !there.addresses.contains(address) {
            Some(format!("address {address} is missing"))
        } else if there.tentative.contains(address) {
            Some(format!("address {address} is tentative (duplicate address detection)"))
        } else {
            None
        }
    })
}
