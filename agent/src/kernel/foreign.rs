//! Objects of others that stand where Nett's objects should: reported, never touched.

use std::fmt;

use nett_policy::fabric::Family;
use nett_policy::lower::object::{Layout, NexthopId, RouteKey};

/// An object of somebody else in our place. `Display` names it and its owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Foreign {
    /// A route in one of our tables.
    Route { key: RouteKey, protocol: u8 },
    /// A rule in our block of priorities.
    Rule { family: Family, priority: u32, protocol: u8 },
    /// A nexthop object in our range of ids.
    Nexthop { id: NexthopId, protocol: u8 },
    /// A table `inet nett` without our userdata.
    NftTable,
    /// A route with our protocol in a table that is not ours.
    RouteElsewhere { key: RouteKey },
    /// A rule with our protocol outside our priorities.
    RuleElsewhere { family: Family, priority: u32 },
    /// A nexthop with our protocol outside our ids.
    NexthopElsewhere { id: NexthopId },
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let six = |family: &Family| if *family == Family::V6 { "-6 " } else { "" };
        match self {
            Self::Route { key, protocol } => {
                write!(f, "route {key} of {}", Owner(*protocol))
            }
            Self::Rule { family, priority, protocol } => {
                write!(f, "rule {}pref {priority} of {}", six(family), Owner(*protocol))
            }
            Self::Nexthop { id, protocol } => write!(f, "nexthop id {id} of {}", Owner(*protocol)),
            Self::NftTable => f.write_str("nft table inet nett without Nett's comment"),
            Self::RouteElsewhere { key } => {
                write!(f, "route {key} with our protocol outside our tables")
            }
            Self::RuleElsewhere { family, priority } => write!(
                f,
                "rule {}pref {priority} with our protocol outside our priorities",
                six(family)
            ),
            Self::NexthopElsewhere { id } => write!(
                f,
                "nexthop id {id} with our protocol outside our ids ({} to {})",
                Layout::NEXTHOP_IDS.start(),
                Layout::NEXTHOP_IDS.end()
            ),
        }
    }
}

/// A protocol number with the name that iproute2's `rt_protos` gives it.
pub(crate) struct Owner(pub(crate) u8);

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "unspec",
            1 => "redirect",
            2 => "kernel",
            3 => "boot",
            4 => "static",
            9 => "ra",
            11 => "zebra",
            12 => "bird",
            16 => "dhcp",
            17 => "kube-router",
            18 => "keepalived",
            186 => "bgp",
            188 => "ospf",
            196 => "frr static",
            other => return write!(f, "protocol {other}"),
        };
        write!(f, "protocol {} ({name})", self.0)
    }
}
