//! A cluster is drained under flows that are in use: none of them moves, neither of those from
//! inside the site nor of those from another one. The task waits for them; what comes then goes to
//! the other cluster, and stays there in its turn while the first one comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::clusters;
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::netns::Netns;
use nett_netns_tests::services::{PORT, WEB};
use nett_netns_tests::story::{Operator, TASK, Traffic, tell_from_wires};
use serde_json::Value;

/// Of each family, from each of two hosts.
const FLOWS: usize = 256;
const HOSTS: [&str; 2] = ["osl-c1", "svg-c1"];
/// Flows send four packets a second each.
const IDLE: Duration = Duration::from_secs(2);
/// The node that hands to backends at osl.
const ROUTER: &str = "osl-r1";
/// By which the backends of the second cluster are reached: an Ethernet address of their own.
const SECOND: &str = "second";

/// What arrives at the backends of each cluster: flows by source address and port.
struct Backends {
    host: Netns,
}

// === impl Backends ===

impl Backends {
    /// Makes two of osl's service host, so that it is seen by which gateway a packet came.
    fn make(lab: &Lab) -> Result<Self> {
        let (host, first) = clusters::interface(lab)?;
        // Who is asked for an address says only that of the interface that has it.
        host.sysctl(&[("ipv4/conf/all/arp_ignore", "1"), ("ipv4/conf/default/arp_ignore", "1")])?;
        host.ip(&format!("link add {SECOND} link {first} type macvlan mode bridge"))?;
        host.ip(&format!("link set {SECOND} up"))?;
        clusters::second_on(&host, SECOND)?;
        let [vip4, vip6] = WEB.vips();
        let (mut sets, mut rules) = (String::new(), String::new());
        for (name, interface) in [("first", first.as_str()), ("second", SECOND)] {
            for (family, kind, ip, vip) in
                [("4", "ipv4_addr", "ip", &vip4), ("6", "ipv6_addr", "ip6", &vip6)]
            {
                sets += &format!(
                    "set {name}{family} {{ type {kind} . inet_service; flags dynamic; \
                     size 65535; }}\n"
                );
                rules += &format!(
                    "iifname \"{interface}\" {ip} daddr {vip} udp dport {PORT} \
                     add @{name}{family} {{ {ip} saddr . udp sport }}\n"
                );
            }
        }
        host.nft(&format!(
            "table inet seen {{\n{sets}chain come {{ type filter hook prerouting priority -300\n\
             {rules}}}\n}}\n"
        ))?;
        Ok(Self { host })
    }

    /// The flows of which packets came to each cluster since it was forgotten.
    fn flows(&self) -> Result<[BTreeSet<String>; 2]> {
        let of = |cluster: &str| -> Result<BTreeSet<String>> {
            let mut all = BTreeSet::new();
            for family in ["4", "6"] {
                let set = format!("{cluster}{family}");
                let text = self.host.output("nft", &["-j", "list", "set", "inet", "seen", &set])?;
                let listed: Value = serde_json::from_str(&text)?;
                let objects = listed["nftables"].as_array().context("objects")?;
                let elements = objects.iter().find_map(|one| one["set"]["elem"].as_array());
                all.extend(elements.into_iter().flatten().map(Value::to_string));
            }
            Ok(all)
        };
        Ok([of("first")?, of("second")?])
    }

    fn forget(&self) -> Result<()> {
        for set in ["first4", "first6", "second4", "second6"] {
            self.host.output("nft", &["flush", "set", "inet", "seen", set])?;
        }
        Ok(())
    }
}

/// The service keeps flows where they are.
fn keep_flows(lab: &Lab) -> Result<()> {
    let path = lab.layout().services();
    let text = fs::read_to_string(&path)?;
    let id = format!("id = \"{}\"\n", WEB.id);
    ensure!(text.contains(&id), "{text}");
    let shift = format!("shift = {{ kind = \"resilient\", idle = \"{}s\" }}\n", IDLE.as_secs());
    Ok(fs::write(&path, text.replace(&id, &format!("{id}{shift}")))?)
}

/// Of each resilient group that hands to backends, how many buckets lead to each cluster, whose
/// backends are members; as `ip` lists them.
fn buckets(lab: &Lab) -> Result<Vec<[Option<usize>; 2]>> {
    let ns = lab.ns(ROUTER)?;
    let shown: Value = serde_json::from_str(&ns.output("ip", &["-j", "nexthop", "show"])?)?;
    let all = shown.as_array().context("nexthops")?;
    let gateways: BTreeMap<u64, &str> = all
        .iter()
        .filter_map(|one| Some((one["id"].as_u64()?, one["gateway"].as_str()?)))
        .collect();
    let mut found = Vec::new();
    for group in all.iter().filter(|one| one["type"] == "resilient") {
        let id = group["id"].as_u64().context("an id")?.to_string();
        let text = ns.output("ip", &["-j", "nexthop", "bucket", "show", "id", &id])?;
        let listed: Value = serde_json::from_str(&text)?;
        let ways = listed.as_array().context("buckets")?.iter();
        let ways: Vec<u64> = ways.filter_map(|one| one["bucket"]["nhid"].as_u64()).collect();
        let members = group["group"].as_array().context("members")?.iter();
        let members: Vec<u64> = members.filter_map(|member| member["id"].as_u64()).collect();
        let of = |cluster: [String; 2]| {
            let own =
                |id: &&u64| gateways.get(id).is_some_and(|at| cluster.iter().any(|a| a == at));
            let own = members.iter().find(own)?;
            Some(ways.iter().filter(|id| *id == own).count())
        };
        let counts = clusters::addresses().map(of);
        if counts != [None, None] {
            found.push(counts);
        }
    }
    ensure!(found.len() == 4, "each family from inside and from outside: {shown}");
    Ok(found)
}

/// Waits until buckets are shared so.
fn shared(lab: &Lab, what: &str, is: impl Fn([Option<usize>; 2]) -> bool) -> Result<()> {
    let patience = IDLE + Duration::from_secs(5) + patience();
    eventually(patience, what, || {
        let all = buckets(lab)?;
        ensure!(all.iter().all(|counts| is(*counts)), "{all:?}");
        Ok(())
    })
    .map(drop)
}

fn halves(counts: [Option<usize>; 2]) -> bool {
    matches!(counts, [Some(one), Some(other)] if one == other && one > 0)
}

/// The steps of a task: kind, state and evidence.
fn steps(mira: Operator<'_>, task: &str) -> Result<Vec<(String, String, String)>> {
    let shown = mira.run(&["-o", "json", "task", "show", task])?.must_be(0)?.json()?;
    let steps = shown["ok"]["steps"].as_array().context("steps")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let step = |step: &Value| (text(&step["kind"]), text(&step["state"]), step.to_string());
    Ok(steps.iter().map(step).collect())
}

/// Waits until the step at this place is in a state.
fn step_is(mira: Operator<'_>, task: &str, place: usize, state: &str) -> Result<()> {
    eventually(TASK, &format!("step {} is {state}", place + 1), || {
        let steps = steps(mira, task)?;
        let step = steps.get(place).context("a step")?;
        ensure!(step.1 == state, "{step:?}");
        Ok(())
    })
    .map(drop)
}

fn ordered(mira: Operator<'_>, args: &[&str]) -> Result<String> {
    let told = mira.order(args)?.must_be(0)?.json()?;
    Ok(told["task"].as_str().context("a task")?.to_owned())
}

#[test]
fn flows_in_use_hold_a_drained_cluster() -> Result<()> {
    tell_from_wires("flows_in_use_hold_a_drained_cluster", |lab| {
        clusters::two(lab)?;
        keep_flows(lab)?;
        let backends = Backends::make(lab)?;
        lab.start_nett()?;
        let lab = &*lab;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        shared(lab, "both clusters are used", halves)?;

        let traffic = Traffic::start(lab, &HOSTS, &WEB.vips(), FLOWS)?;
        traffic.run_for(2 * FLOWS)?;
        let before = backends.flows()?;
        let [first, second] = &before;
        ensure!(first.is_disjoint(second), "a flow came to both");
        ensure!(first.len() + second.len() == 4 * FLOWS, "{} {}", first.len(), second.len());
        let share = 4 * FLOWS / 4..=4 * FLOWS * 3 / 4;
        ensure!(share.contains(&first.len()), "{} of {}", first.len(), 4 * FLOWS);

        let task = ordered(mira, &["drain", "cluster", "osl/k1"])?;
        step_is(mira, &task, 1, "started")?;
        backends.forget()?;
        // Several packets of each flow, and longer than `idle`.
        traffic.run_for(12 * FLOWS)?;
        let after = backends.flows()?;
        let moved = |from: &[BTreeSet<String>; 2], to: &[BTreeSet<String>; 2]| {
            from[0].intersection(&to[1]).count() + from[1].intersection(&to[0]).count()
        };
        ensure!(moved(&before, &after) == 0, "{} flows moved", moved(&before, &after));
        ensure!(after == before, "some flows ended");
        let all = buckets(lab)?;
        let holds = |counts: &[Option<usize>; 2]| matches!(counts, [Some(1..), Some(1..)]);
        ensure!(all.iter().all(holds), "{all:?}");
        let waiting = steps(mira, &task)?;
        let kinds: Vec<(&str, &str)> =
            waiting.iter().map(|(kind, state, _)| (kind.as_str(), state.as_str())).collect();
        let expected = [("reroute", "done"), ("drained", "started"), ("reroute", "waiting")];
        ensure!(kinds == expected, "{waiting:?}");
        ensure!(waiting[1].2.contains("buckets lead to osl/k1"), "{}", waiting[1].2);
        let report = traffic.finish();
        ensure!((report.lost(), report.answers_of("svg")) == (0, 0), "{}", report.summary());

        mira.wait_for(&task, "done")?;
        let done = steps(mira, &task)?;
        ensure!(done[1].2.contains("measured: no bucket leads to osl/k1"), "{}", done[1].2);
        let all = buckets(lab)?;
        ensure!(all.iter().all(|counts| matches!(counts, [None, Some(1..)])), "{all:?}");

        backends.forget()?;
        let traffic = Traffic::start(lab, &HOSTS, &WEB.vips(), FLOWS)?;
        traffic.run_for(2 * FLOWS)?;
        let fresh = backends.flows()?;
        ensure!(fresh[0].is_empty(), "{} new flows came to the drained one", fresh[0].len());
        ensure!(fresh[1].len() == 4 * FLOWS, "{}", fresh[1].len());

        let task = ordered(mira, &["undrain", "cluster", "osl/k1"])?;
        mira.wait_for(&task, "done")?;
        traffic.run_for(12 * FLOWS)?;
        let after = backends.flows()?;
        ensure!(after == fresh, "{} flows moved", moved(&fresh, &after));
        let report = traffic.finish();
        ensure!((report.lost(), report.answers_of("svg")) == (0, 0), "{}", report.summary());
        shared(lab, "the cluster has its share again", halves)
    })
}
