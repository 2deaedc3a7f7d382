//! Counters of a story's own in a namespace: how many packets of a kind passed, and which flows.
//! They lie in a table of their own, and count only.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use super::counters;
use crate::netns::Netns;

/// A table `eyes` in a namespace, removed with it.
#[derive(Debug)]
pub struct Eyes {
    ns: Netns,
}

// === impl Eyes ===

impl Eyes {
    /// Counts packets in the forward hook: each line is a counter's name and what it counts in
    /// nft's words. Flows to the service port that come in from `flows_from` are listed by
    /// source port.
    pub fn open(ns: &Netns, lines: &[(&str, String)], flows_from: Option<&str>) -> Result<Self> {
        let mut rules = String::new();
        let mut counters = String::new();
        for (name, what) in lines {
            counters += &format!("counter {name} {{ }}\n");
            rules += &format!("{what} counter name {name}\n");
        }
        if let Some(interface) = flows_from {
            let port = crate::services::PORT;
            rules +=
                &format!("iifname \"{interface}\" udp dport {port} add @flows {{ udp sport }}\n");
        }
        ns.nft(&format!(
            "table inet eyes {{\n{counters}\
             set flows {{ type inet_service; flags dynamic; size 65535; }}\n\
             chain seen {{ type filter hook forward priority 100\n{rules} }}\n}}\n"
        ))?;
        Ok(Self { ns: ns.clone() })
    }

    pub fn count(&self, name: &str) -> Result<u64> {
        let all = counters::named(&self.ns, "eyes")?;
        all.get(name).copied().with_context(|| format!("no counter {name}"))
    }

    /// The source ports seen since the last [`Self::forget`].
    pub fn flows(&self) -> Result<BTreeSet<u64>> {
        let text = self.ns.output("nft", &["-j", "list", "set", "inet", "eyes", "flows"])?;
        let json: Value = serde_json::from_str(&text)?;
        let objects = json["nftables"].as_array().context("nft lists objects")?;
        let elements = objects.iter().find_map(|o| o["set"]["elem"].as_array());
        Ok(elements.into_iter().flatten().filter_map(Value::as_u64).collect())
    }

    pub fn forget(&self) -> Result<()> {
        self.ns.output("nft", &["flush", "set", "inet", "eyes", "flows"]).map(drop)
    }
}
