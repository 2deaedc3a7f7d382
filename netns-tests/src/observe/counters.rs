//! Packets counted by the kernel: per interface, and what leaked out of a border's uplink.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::netns::Netns;

/// Packets through an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interface {
    pub received: u64,
    pub sent: u64,
}

/// Packets per named counter of the lab's `inet` host, for example `vip_osl`: towards VIPs out of
/// the uplink of osl's border.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leaks(pub BTreeMap<String, u64>);

/// The interface's counters as `ip -s link` tells them.
pub fn interface(ns: &Netns, name: &str) -> Result<Interface> {
    let text = ns.ip(&format!("-j -s link show dev {name}"))?;
    let links: Value = serde_json::from_str(&text)?;
    let packets = |direction: &str| {
        let count = &links[0]["stats64"][direction]["packets"];
        count
            .as_u64()
            .with_context(|| format!("`ip -s link` tells no {direction} packets of {name}"))
    };
    Ok(Interface { received: packets("rx")?, sent: packets("tx")? })
}

/// The named counters of one nft table.
pub fn named(ns: &Netns, table: &str) -> Result<BTreeMap<String, u64>> {
    let text = ns.output("nft", &["-j", "list", "counters", "table", "inet", table])?;
    let all: Value = serde_json::from_str(&text)?;
    let objects = all["nftables"].as_array().into_iter().flatten();
    let counters = objects.filter_map(|o| {
        let counter = o.get("counter")?;
        Some((counter["name"].as_str()?.to_owned(), counter["packets"].as_u64()?))
    });
    Ok(counters.collect())
}

// === impl Leaks ===

impl Leaks {
    /// What was added since `earlier`, without the counters that stood still.
    pub fn since(&self, earlier: &Self) -> Self {
        let grown = self.0.iter().filter_map(|(name, count)| {
            let before = earlier.0.get(name).copied().unwrap_or_default();
            Some((name.clone(), count.checked_sub(before).filter(|n| *n > 0)?))
        });
        Self(grown.collect())
    }

    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}
