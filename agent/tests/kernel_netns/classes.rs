//! Many VIPs in few steering classes: what installing and draining them costs, beside `ip -batch`.
//!
//! `NETT_VIPS` sets how many there are per family (2000 in a plain test run, 100000 for a
//! measurement); the times are printed. What is asserted holds at any size: a drain of all classes
//! takes one operation per class and family, and less time than installing.

use std::time::{Duration, Instant};

use nett_agent::kernel::{Kernel, Parts};
use nett_policy::fabric::Family;
use nett_policy::lower::object::{Layout, NexthopId, NodeState, RouteTarget};
use nett_policy::plan::{Op, plan_kernel};

use crate::netns::Netns;
use crate::reconcile::open;
use crate::state;

const CLASSES: u32 = 20;

fn vips() -> u32 {
    let number = std::env::var("NETT_VIPS").ok().and_then(|n| n.parse().ok());
    number.unwrap_or(2000)
}

fn address(family: Family, n: u32) -> String {
    match family {
        Family::V4 => format!("10.{}.{}.{}/32", 100 + n / 65536, n / 256 % 256, n % 256),
        Family::V6 => format!("fd99::7:{:x}:{:x}/128", n / 65536, n % 65536),
    }
}

/// `count` VIPs per family in `nett-svc` and `nett-in`, over `ways` links.
fn state_of(count: u32, ways: &[u8]) -> NodeState {
    let layout = Layout::default();
    let mut desired = state::border();
    for family in Family::BOTH {
        let members: Vec<_> = ways.iter().map(|w| (NexthopId::link(*w, family), 1)).collect();
        for class in 1..=CLASSES {
            desired
                .nexthops
                .insert(NexthopId::class(class, family), state::group(family, &members));
        }
        for n in 0..count {
            let class = NexthopId::class(n % CLASSES + 1, family);
            for table in [layout.table_svc, layout.table_in] {
                let key = state::route(table, &address(family, n), 100);
                desired.routes.insert(key, RouteTarget::Nexthop(class));
            }
        }
    }
    desired
}

#[expect(clippy::print_stderr, reason = "the numbers of the measurement, shown by --nocapture")]
fn say(what: &str, took: Duration) {
    eprintln!("{what:42} {took:?}");
}

/// As many routes by nexthop id, added by iproute2 to a table of its own.
fn bare(netns: &Netns, count: u32) -> Duration {
    let mut lines = String::new();
    for table in [900, 901] {
        for family in Family::BOTH {
            for n in 0..count {
                let id = NexthopId::class(n % CLASSES + 1, family).0;
                let to = address(family, n);
                lines += &format!("route add {to} table {table} metric 100 nhid {id}\n");
            }
        }
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), lines).expect("written");
    let begun = Instant::now();
    netns.ip(&format!("-batch {}", file.path().display()));
    begun.elapsed()
}

#[test]
fn draining_classes_costs_a_group_each_however_many_vips_they_have() {
    let netns = Netns::border();
    netns.run(&["sysctl", "-q", "-w", "net.ipv4.nexthop_compat_mode=0"]).expect("sysctl");
    let count = vips();
    let (both, one) = (state_of(count, &[1, 2]), state_of(count, &[2]));
    netns.inside(async || {
        let mut kernel = open();
        let before = kernel.read().await.expect("readable");
        let ops = plan_kernel(&both, &before.state).ops;
        let begun = Instant::now();
        for (op, result) in ops.iter().zip(kernel.apply_all(&ops).await) {
            result.unwrap_or_else(|e| panic!("{op}: {e}"));
        }
        say("install, routes by group", begun.elapsed());

        let begun = Instant::now();
        let ops = plan_kernel(&one, &both).ops;
        say("plan of a drain", begun.elapsed());
        let groups = ops.iter().filter(|op| matches!(op, Op::ReplaceNexthop { .. })).count();
        assert_eq!((ops.len(), groups), (2 * CLASSES as usize, 2 * CLASSES as usize));
        let begun = Instant::now();
        for op in &ops {
            kernel.apply(op).await.unwrap_or_else(|e| panic!("{op}: {e}"));
        }
        say("drain, one group per class and family", begun.elapsed());
        let mut readback = before;
        let begun = Instant::now();
        let touched = Parts { nexthops: true, ..Parts::default() };
        kernel.refresh(&mut readback, &touched).await.expect("readable");
        say("readback of what a drain touched", begun.elapsed());
        assert_eq!(readback.state.nexthops, one.nexthops);
        let begun = Instant::now();
        let whole = kernel.read().await.expect("readable");
        say("readback of everything", begun.elapsed());
        assert_eq!(whole.state.routes.len(), one.routes.len());
    });
    say("as many routes by ip -batch", bare(&netns, count));
}
