//! Changes of a node's forwarding state, in one form for whoever tells of them: the plan that
//! announced them, the kernel that reported them, the program that asked for them.
//!
//! The kernel's reports are the lines of `ip monitor` and `nft monitor`. They do not say whether
//! an object is new or replaced, so a [`Known`] remembers what was there; an object that is
//! deleted and added again gives two changes and never passes for a replacement.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::netns::Netns;

/// Nett's protocol number for routes, rules and nexthops, as the tools print it.
pub const PROTOCOL: &str = "217";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Add,
    Replace,
    Delete,
}

/// The sets of the nft table whose elements a command changes.
const SETS: [&str; 11] = [
    "drained",
    "shut_in",
    "shut_out",
    "apart4",
    "apart6",
    "drained4",
    "drained6",
    "shut_in4",
    "shut_in6",
    "shut_out4",
    "shut_out6",
];

/// One object that came, went or became another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// `nexthop ID`, `route ADDRESS table N`, `SET ADDRESS`; a foreign or unexpected thing is the
    /// line that told of it.
    pub object: String,
    pub kind: Kind,
    /// What it is now, in iproute2's words (`group 1,3/2`, `nhid 5`, `unreachable`); empty for a
    /// deleted object and for set elements.
    pub value: String,
}

/// The objects a node has, by [`Change::object`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known(BTreeSet<String>);

// === impl Change ===

impl Change {
    pub(super) fn new(kind: Kind, object: String, value: String) -> Self {
        let value = if kind == Kind::Delete { String::new() } else { value };
        Self { object, kind, value }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.kind {
            Kind::Add => '+',
            Kind::Replace => '~',
            Kind::Delete => '-',
        };
        write!(f, "{sign} {} {}", self.object, self.value)
    }
}

// === impl Known ===

impl Known {
    /// The nexthops and routes of every table of a namespace as they are now, and the elements of
    /// Nett's sets.
    pub fn of(ns: &Netns) -> Result<Self> {
        let mut known = Self::default();
        let listings = ["nexthop show", "-4 route show table all", "-6 -N route show table all"];
        for listing in listings {
            for line in ns.ip(listing)?.lines().filter(|l| !l.trim().is_empty()) {
                known.0.insert(spoken(line)?.0);
            }
        }
        let ruleset = ns.output("nft", &["list", "ruleset"])?;
        for set in SETS {
            let Some((_, rest)) = ruleset.split_once(&format!("set {set} {{")) else { continue };
            let body = rest.split("\n\t}").next().unwrap_or_default();
            let Some((_, elements)) = body.split_once("elements = {") else { continue };
            let elements = elements.split('}').next().unwrap_or_default();
            known.0.extend(elements.split(',').map(|e| format!("{set} {}", e.trim())));
        }
        Ok(known)
    }

    /// The change a line of `ip monitor route rule nexthop` tells of.
    pub fn hear(&mut self, line: &str) -> Result<Change> {
        let (deleted, rest) = match line.strip_prefix("Deleted ") {
            Some(rest) => (true, rest),
            None => (false, line),
        };
        if !rest.split(' ').collect::<Vec<_>>().windows(2).any(|w| w == ["proto", PROTOCOL]) {
            let kind = if deleted { Kind::Delete } else { Kind::Add };
            return Ok(Change::new(kind, line.trim().to_owned(), String::new()));
        }
        let (object, value) = spoken(rest)?;
        Ok(Change::new(self.kind(deleted, &object), object, value))
    }

    /// The changes a line of `nft monitor` tells of; none for the end of a transaction.
    pub fn hear_nft(&mut self, line: &str) -> Vec<Change> {
        if line.trim().is_empty() || line.starts_with('#') {
            return Vec::new();
        }
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let deleted = verb == "delete";
        let elements = rest.strip_prefix("element inet nett ").and_then(|e| {
            let (set, elements) = e.split_once(' ')?;
            Some((set, elements.trim().strip_prefix('{')?.strip_suffix('}')?))
        });
        let Some((set, elements)) = elements else {
            let kind = if deleted { Kind::Delete } else { Kind::Add };
            return vec![Change::new(kind, line.trim().to_owned(), String::new())];
        };
        let objects = elements.split(',').map(|e| format!("{set} {}", e.trim()));
        let change =
            |object: String| Change::new(self.kind(deleted, &object), object, String::new());
        objects.map(change).collect()
    }

    fn kind(&mut self, deleted: bool, object: &str) -> Kind {
        if deleted {
            self.0.remove(object);
            return Kind::Delete;
        }
        if self.0.insert(object.to_owned()) { Kind::Add } else { Kind::Replace }
    }
}

/// Object and value of a line of `ip route` or `ip nexthop`.
fn spoken(line: &str) -> Result<(String, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |name: &str| {
        let at = words.iter().position(|w| *w == name)?;
        words.get(at + 1).copied()
    };
    if words.first() == Some(&"id") {
        let id = after("id").context("a nexthop has an id")?;
        return Ok((format!("nexthop {id}"), nexthop_value(&words)?));
    }
    let typed = |w: &str| w.starts_with(|c: char| c.is_ascii_hexdigit()) && w.contains(['.', ':']);
    let (kind, to) = match words.as_slice() {
        [to, ..] if *to == "default" || typed(to) => ("", *to),
        [kind, to, ..] => (*kind, *to),
        _ => bail!("neither a route nor a nexthop: {line}"),
    };
    let table = after("table").unwrap_or("main");
    let value = match after("nhid") {
        Some(id) => format!("nhid {id}"),
        None => kind.to_owned(),
    };
    Ok((route(to, table), value))
}

fn route(to: &str, table: &str) -> String {
    let host = to.strip_suffix("/32").filter(|a| a.contains('.'));
    let host = host.or_else(|| to.strip_suffix("/128"));
    format!("route {} table {table}", host.unwrap_or(to))
}

/// `group A,WEIGHT/B` with the weight 1 left out, else `via GATEWAY dev INTERFACE`.
fn nexthop_value(words: &[&str]) -> Result<String> {
    let after = |name: &str| {
        let at = words.iter().position(|w| *w == name)?;
        words.get(at + 1).copied()
    };
    if let Some(members) = after("group") {
        let members = members.split('/').map(|m| m.strip_suffix(",1").unwrap_or(m));
        return Ok(format!("group {}", members.collect::<Vec<_>>().join("/")));
    }
    if words.contains(&"blackhole") {
        return Ok("blackhole".to_owned());
    }
    let (via, dev) = (after("via").unwrap_or_default(), after("dev"));
    Ok(format!("via {via} dev {}", dev.context("a single nexthop has a device")?))
}

/// What a plan (`nettctl -o json plan ..`) announces for a node, all steps in one list. Answers
/// of the name server are no kernel objects and left out.
pub fn planned(plan: &Value, node: &str) -> Result<Vec<Change>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let steps = list(&plan["ok"]["steps"]);
    let nodes = steps.iter().flat_map(|s| list(&s["nodes"])).filter(|n| n["node"] == node);
    let ops = nodes.flat_map(|n| list(&n["ops"])).filter(|op| op["object"] != "answers");
    ops.map(|op| announced(&op)).collect()
}

fn announced(op: &Value) -> Result<Change> {
    let text = op["text"].as_str().context("an operation has a text")?;
    let kind = match op["op"].as_str() {
        Some("add") => Kind::Add,
        Some("replace") => Kind::Replace,
        Some("delete") => Kind::Delete,
        other => bail!("{text}: no kind of operation: {other:?}"),
    };
    let now = text.split("  (was ").next().unwrap_or(text);
    let words: Vec<&str> = now.split(' ').collect();
    let (object, value) = match words.as_slice() {
        [_, "nexthop", "id", id, ..] => (format!("nexthop {id}"), nexthop_value(&words[3..])?),
        [_, "route", to, "table", table, "metric", _, value @ ..] => {
            (route(to, table), value.join(" "))
        }
        [_, "nft", "element", "inet", "nett", set, "{", address, "}"] => {
            (format!("{set} {address}"), String::new())
        }
        _ => (now.to_owned(), String::new()),
    };
    Ok(Change::new(kind, object, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_new_once_and_replaced_afterwards() {
        let mut known = Known::default();
        let line = "fd00:99::40 nhid 7 table 7001 proto 217 metric 100 pref medium";
        let mut kinds = Vec::new();
        for line in [line, line, &format!("Deleted {line}"), line] {
            kinds.push(known.hear(line).expect("readable").kind);
        }
        assert_eq!(kinds, [Kind::Add, Kind::Replace, Kind::Delete, Kind::Add]);
    }

    #[test]
    fn plan_and_monitor_speak_of_the_same_object() {
        let pairs = [
            ("~ nexthop id 9 group 1,3/2,1  (was group 2,1)", "id 9 group 1,3/2 proto 217 "),
            ("~ nexthop id 7 blackhole", "id 7 blackhole proto 217 "),
            (
                "~ nexthop id 8 via 10.2.1.3 dev core onlink",
                "id 8 via 10.2.1.3 dev core scope \
              link proto 217 onlink",
            ),
            (
                "~ route 10.99.0.4/32 table 7001 metric 100 unreachable  (was nhid 4)",
                "unreachable 10.99.0.4 table 7001 proto 217 metric 100",
            ),
            (
                "~ route 10.99.0.5/32 table 7001 metric 100 nhid 4  (was unreachable)",
                "blackhole 10.99.0.5 nhid 4 table 7001 proto 217 metric 100",
            ),
            (
                "~ route fd00:99::4/128 table 7001 metric 100 unreachable",
                "unreachable fd00:99::4 dev lo table 7001 proto 217 metric 100 pref medium",
            ),
        ];
        for (plan, monitor) in pairs {
            let op = serde_json::json!({ "op": "replace", "text": plan });
            let announced = announced(&op).expect("readable");
            let mut known = Known(BTreeSet::from([announced.object.clone()]));
            assert_eq!(known.hear(monitor).expect("readable"), announced);
        }
    }

    #[test]
    fn set_elements_are_heard_one_by_one() {
        let mut known = Known::default();
        let line = "add element inet nett drained4 { 10.99.0.1, 10.99.0.2 }";
        let heard: Vec<String> = known.hear_nft(line).iter().map(ToString::to_string).collect();
        assert_eq!(heard, ["+ drained4 10.99.0.1 ", "+ drained4 10.99.0.2 "]);
        let of_class = known.hear_nft("delete element inet nett shut_in { 0x00000a3c }");
        assert_eq!(of_class.len(), 1);
        assert_eq!(of_class[0].to_string(), "- shut_in 0x00000a3c ");
        assert_eq!(known.hear_nft("# new generation 3 by process 1 (x)"), []);
        assert_eq!(known.hear_nft("add table inet o").len(), 1, "foreign things are told");
    }

    #[test]
    fn a_foreign_object_is_never_taken_for_ours() {
        let heard = Known::default().hear("10.0.0.0/8 via 10.1.1.1 dev core").expect("readable");
        assert_eq!(heard.object, "10.0.0.0/8 via 10.1.1.1 dev core");
    }
}
