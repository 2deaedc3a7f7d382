//! A picture of a node's forwarding state that can be compared with a later one.
//!
//! Read with `ip -j` and `nft -j`; what changes by itself (counters, handles, ages) is left out,
//! the rest is one sorted line per object.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::netns::Netns;

/// Rules, routes of every table, nexthops and the nft ruleset, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    pub lines: BTreeSet<String>,
}

/// Keys whose values change without anybody changing the object, or that number it afresh.
const RESTLESS: [&str; 12] = [
    "age", "bytes", "cache", "expires", "handle", "hoplimit", "index", "metainfo", "packets",
    "pref", "used", "users",
];

const IP: [(&str, &str); 5] = [
    ("rule4", "-4 -j rule show"),
    ("rule6", "-6 -j rule show"),
    ("route4", "-4 -j -N -details route show table all"),
    ("route6", "-6 -j -N -details route show table all"),
    ("nexthop", "-j -N nexthop show"),
];

// === impl Kernel ===

impl Kernel {
    pub fn of(ns: &Netns) -> Result<Self> {
        let mut lines = BTreeSet::new();
        for (kind, command) in IP {
            let text = ns.ip(command)?;
            add(&mut lines, kind, &text).with_context(|| format!("ip {command}"))?;
        }
        let ruleset = ns.output("nft", &["-j", "list", "ruleset"])?;
        let parsed: Value = serde_json::from_str(&ruleset).context("nft -j list ruleset")?;
        let objects = parsed["nftables"].as_array().into_iter().flatten();
        // Rules of a chain have an order, which a set of lines would lose: number them.
        for (place, object) in objects.enumerate() {
            let number = if object.get("rule").is_some() { place } else { 0 };
            lines.insert(format!("nft {number:04} {}", calm(object)));
        }
        lines.retain(|l| !l.ends_with("null"));
        Ok(Self { lines })
    }

    /// `- line` for what is gone in `later` and `+ line` for what is new there.
    pub fn changes(&self, later: &Self) -> Vec<String> {
        let gone = self.lines.difference(&later.lines).map(|l| format!("- {l}"));
        let new = later.lines.difference(&self.lines).map(|l| format!("+ {l}"));
        gone.chain(new).collect()
    }
}

fn add(lines: &mut BTreeSet<String>, kind: &str, json: &str) -> Result<()> {
    // `ip -j nexthop` prints nothing at all when there is none.
    let text = if json.trim().is_empty() { "[]" } else { json };
    let objects: Vec<Value> = serde_json::from_str(text)?;
    lines.extend(objects.iter().map(|o| format!("{kind} {}", calm(o))));
    Ok(())
}

/// The value without restless keys; serde_json keeps keys sorted.
fn calm(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields
                .iter()
                .filter(|(key, _)| !RESTLESS.contains(&key.as_str()))
                .map(|(key, value)| (key.clone(), calm(value)));
            let kept: Map<String, Value> = kept.collect();
            if kept.is_empty() { Value::Null } else { kept.into() }
        }
        Value::Array(items) => items.iter().map(calm).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_do_not_count_as_change() {
        let one = r#"{"counter":{"name":"leak","packets":1,"handle":3}}"#;
        let two = r#"{"counter":{"name":"leak","packets":9,"handle":4}}"#;
        let calmed = |text| calm(&serde_json::from_str(text).expect("json"));
        assert_eq!(calmed(one), calmed(two));
        let other = r#"{"counter":{"name":"stray","packets":1}}"#;
        assert_ne!(calmed(one), calmed(other));
    }

    #[test]
    fn changes_name_both_directions() {
        let kernel =
            |lines: &[&str]| Kernel { lines: lines.iter().map(|l| (*l).to_owned()).collect() };
        let changes = kernel(&["a", "b"]).changes(&kernel(&["b", "c"]));
        assert_eq!(changes, ["- a", "+ c"]);
    }
}
