//! What was on the nodes before the agents, and belongs to others, is there byte for byte after
//! everything that Nett does, up to its own removal, which leaves nothing of Nett.

use std::collections::BTreeMap;

use anyhow::Result;
use nett_netns_tests::eventually::{eventually_true, patience};
use nett_netns_tests::files::{Node, Role};
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::netns::Netns;
use nett_netns_tests::services::{API, EDGE};
use nett_netns_tests::story::{Operator, TASK, tell_from_wires};

/// Somebody else's objects, some close to ours: priorities beside and before our block, a VIP in a
/// foreign table, a host of the VIP range as a neighbour's address, groups of nexthops.
const FOREIGN: [&str; 12] = [
    "rule add pref 4999 fwmark 0x4000/0x4000 lookup 99",
    "-6 rule add pref 4999 fwmark 0x4000/0x4000 lookup 99",
    "rule add pref 100 from 10.200.0.0/16 lookup 98",
    "route add unreachable 10.99.5.0/24 table 99 proto static",
    "route add 10.99.0.10/32 dev DEV table 98 proto bgp metric 100",
    "-6 route add fd00:99::10/128 dev DEV table 98 proto bgp metric 100",
    "nexthop add id 77 dev DEV",
    "nexthop add id 78 group 77",
    "route add 10.77.0.0/24 nhid 78 proto zebra",
    "-6 route add fd00:77::/64 dev DEV proto ra",
    "address add 10.250.0.1/32 dev lo",
    "address add fd00:250::1/128 dev lo",
];

/// A table of others with a set, a counter and a base chain.
const TABLE: &str = "table inet other {
    set peers { type ipv4_addr; elements = { 10.99.0.10, 192.0.2.1 } }
    counter theirs { }
    chain input { type filter hook prerouting priority -149; ip saddr @peers accept; }
}";

/// How each foreign object, and everything the lab itself needs, is read.
const LOOKS: [&str; 11] = [
    "-j rule show pref 4999",
    "-j -6 rule show pref 4999",
    "-j rule show pref 100",
    "-j -N route show table 99",
    "-j -N route show table 98",
    "-j -N -6 route show table 98",
    "-j -N nexthop show id 77",
    "-j -N nexthop show id 78",
    "-j -N route show table main",
    "-j -N -6 route show table main",
    "-j address show",
];

fn install(node: &Node, ns: &Netns) -> Result<()> {
    let device = match node.role {
        Role::Border => "core",
        Role::Route => "lan",
    };
    for line in FOREIGN {
        ns.ip(&line.replace("DEV", device))?;
    }
    ns.nft(TABLE)
}

/// What the tools print, byte for byte.
fn look(ns: &Netns) -> Result<BTreeMap<String, String>> {
    let mut seen = BTreeMap::new();
    for command in LOOKS {
        seen.insert(format!("ip {command}"), ns.ip(command)?);
    }
    let table = ns.output("nft", &["list", "table", "inet", "other"])?;
    seen.insert("nft list table inet other".to_owned(), table);
    Ok(seen)
}

fn look_at_all(lab: &Lab) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let nodes = Node::all().into_iter();
    nodes.map(|n| Ok((n.name.clone(), look(&lab.ns(&n.name)?)?))).collect()
}

/// What is left that carries Nett's protocol number or name.
fn ours(ns: &Netns) -> Result<Vec<String>> {
    let mut left = Vec::new();
    let listings = [
        "-N -4 rule show",
        "-N -6 rule show",
        "-N -4 route show table all",
        "-N -6 route show table all",
        "-N nexthop show",
    ];
    for listing in listings {
        let text = ns.ip(listing)?;
        left.extend(
            text.lines().filter(|l| format!("{l} ").contains("proto 217 ")).map(str::to_owned),
        );
    }
    let tables = ns.output("nft", &["list", "tables"])?;
    left.extend(tables.lines().filter(|l| l.ends_with(" nett")).map(str::to_owned));
    Ok(left)
}

#[test]
fn what_belongs_to_others_stays_byte_for_byte() -> Result<()> {
    tell_from_wires("what_belongs_to_others_stays_byte_for_byte", |lab| {
        for node in Node::all() {
            install(&node, &lab.ns(&node.name)?)?;
        }
        let before = look_at_all(lab)?;
        for seen in before.values().flatten() {
            assert!(seen.1.len() > 10, "nothing to compare: {seen:?}");
        }
        let same = |lab: &Lab, after: &str| -> Result<()> {
            for (node, seen) in look_at_all(lab)? {
                assert_eq!(before[&node], seen, "{node} after {after}");
            }
            Ok(())
        };
        lab.start_nett()?;
        same(lab, "the start of the agents")?;
        for node in Node::all() {
            let count = ours(&lab.ns(&node.name)?)?.len();
            assert!(count > 20, "{}: only {count} objects of ours are seen", node.name);
        }
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        let moved = mira.complete(&["failover", API.id, "--to", "svg"])?;
        same(lab, "a failover")?;
        mira.complete(&["steer", EDGE.id, "--to", "osl=70,svg=30"])?;
        same(lab, "a steer")?;
        mira.complete(&["drain", "service", EDGE.id, "--at", "svg"])?;
        same(lab, "a drain")?;
        mira.complete(&["undrain", "service", EDGE.id, "--at", "svg"])?;
        same(lab, "an undrain")?;
        mira.complete(&["revert", &moved])?;
        same(lab, "a revert")?;
        for node in Node::all() {
            lab.take_process(&agent_name(&node.name))?.kill();
            lab.start_agent(&node.name)?;
            lab.wait_for_agent(&node.name)?;
        }
        same(lab, "a kill and a new start of every agent")?;
        for node in Node::all() {
            let ns = lab.ns(&node.name)?;
            lab.take_process(&agent_name(&node.name))?.stop(TASK)?;
            let agent = lab.programs().agent.display().to_string();
            let config = lab.layout().agent_config(&node.name).display().to_string();
            ns.output(&agent, &["purge", "--config", &config])?;
            let left = ours(&ns)?;
            assert_eq!(left, Vec::<String>::new(), "{}: left behind", node.name);
        }
        same(lab, "purge")
    })
}

#[test]
fn what_others_add_while_agents_run_stays_too() -> Result<()> {
    tell_from_wires("what_others_add_while_agents_run_stays_too", |lab| {
        lab.start_nett()?;
        for node in Node::all() {
            install(&node, &lab.ns(&node.name)?)?;
        }
        let before = look_at_all(lab)?;
        let mira = Operator { lab, node: "svg-b1", name: "mira" };
        mira.complete(&["failover", API.id, "--to", "svg"])?;
        // A removed rule of ours comes back, without a look at theirs.
        let border = lab.ns("osl-b1")?;
        let rule = "rule show pref 4431";
        let ours = border.ip(rule)?;
        border.ip("rule del pref 4431")?;
        eventually_true(patience(), "our rule is repaired", || Ok(border.ip(rule)? == ours))?;
        for (node, seen) in look_at_all(lab)? {
            assert_eq!(before[&node], seen, "{node}");
        }
        Ok(())
    })
}
