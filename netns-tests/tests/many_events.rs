//! An agent that runs through very many changes of others holds no more memory than before:
//! `make events` makes a million on each of two nodes, `make test` 60,000.
//!
//! Routes, rules, nexthops and addresses of another program come and go in batches of iproute2,
//! which the kernel tells everybody who listens. The memory is what `/proc` says, after a third of
//! them, when everything has been filled once, and at the end.

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::netns::Netns;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::story::tell;

/// A border and a route node.
const NODES: [&str; 2] = ["osl-b1", "osl-r1"];
/// What may be added after the first third, in KiB: a mebibyte in a million events, and in fewer
/// what an allocator's pages do by themselves.
const MOST_GROWTH: [u64; 2] = [1024, 4096];
/// So many events show slow growth.
const MANY: usize = 1_000_000;
/// How many events the lines of [`lines`] make: each object one when it comes and one when it goes,
/// and an address one more for its local route.
const EVENTS_OF_A_PASS: usize = 10;
/// Passes in one batch.
const PASSES: usize = 250;

/// Somebody else's objects come and go.
fn lines(batch: usize) -> Vec<String> {
    let of = |pass: usize| {
        let (high, low) = (batch % 200, pass);
        let id = 900_000 + pass;
        [
            format!("route add 203.0.{high}.{low}/32 dev lo proto static"),
            format!("rule add pref 30000 from 203.0.{high}.{low}/32 lookup main"),
            format!("nexthop add id {id} blackhole"),
            format!("address add 172.30.{high}.{low}/32 dev lo"),
            format!("address del 172.30.{high}.{low}/32 dev lo"),
            format!("nexthop del id {id}"),
            format!("rule del pref 30000 from 203.0.{high}.{low}/32 lookup main"),
            format!("route del 203.0.{high}.{low}/32 dev lo proto static"),
        ]
    };
    (1..=PASSES).flat_map(of).collect()
}

/// The resident memory of a node's agent in KiB.
fn resident(lab: &mut Lab, node: &str) -> Result<u64> {
    let pid = lab.process(&agent_name(node))?.record().pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let size = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    size.context("a process has memory")
}

fn spend(ns: &Netns, batches: std::ops::Range<usize>) -> Result<()> {
    batches.into_iter().try_for_each(|batch| ns.ip_batch(&lines(batch)))
}

#[test]
fn very_many_changes_of_others_leave_nothing_behind() -> Result<()> {
    let events = std::env::var("NETT_EVENTS").ok().and_then(|text| text.parse().ok());
    let batches = events.unwrap_or(60_000_usize).div_ceil(PASSES * EVENTS_OF_A_PASS);
    tell("very_many_changes_of_others_leave_nothing_behind", |lab| {
        for node in NODES {
            let ns = lab.ns(node)?;
            let whole = Kernel::of(&ns)?;
            spend(&ns, 0..batches / 3)?;
            let warm = resident(lab, node)?;
            spend(&ns, batches / 3..batches)?;
            let end = resident(lab, node)?;
            eventually(patience(), "the kernel is as before", || {
                let left = whole.changes(&Kernel::of(&ns)?);
                ensure!(left.is_empty(), "{node}: {left:?}");
                Ok(())
            })?;
            let told = batches * PASSES * EVENTS_OF_A_PASS;
            show(&format!("{node} after {told} events: {warm} KiB at a third, {end} at the end"));
            let grown = end.saturating_sub(warm);
            let most = MOST_GROWTH[usize::from(told < MANY)];
            ensure!(grown <= most, "{node} holds {grown} KiB more: {warm}, then {end}");
        }
        Ok(())
    })
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
