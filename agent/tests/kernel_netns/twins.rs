//! The simulated kernel beside the real one: the same operations and faults, the same objects.
//!
//! Histories are random but drawn from fixed seeds, so that a difference can be looked at again:
//! the message names the seed and the steps.

use std::collections::BTreeSet;
use std::sync::Arc;

use nett_agent::kernel::{Kernel, LinuxKernel, SimulatedKernel};
use nett_policy::fabric::Family;
use nett_policy::lower::object::{ClassNumber, Layout, Nexthop, NexthopId, NodeState, RouteTarget};
use nett_policy::plan::{Op, plan};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::netns::Netns;
use crate::reconcile::open;
use crate::state;

#[derive(Debug, Clone)]
enum Step {
    /// One operation, whether it fits or not.
    Apply(usize),
    /// All that is missing.
    Repair,
    Carrier(&'static str, bool),
    Address(&'static str),
    /// Somebody else removes all nexthops.
    Flush,
    /// `lo` goes down, and comes back.
    Lo,
}

/// Operations on few objects, so that they meet: up, down and changes in between.
fn menu() -> Vec<Op> {
    let full = state::border();
    let mut other = full.clone();
    for family in Family::BOTH {
        let one = [(NexthopId::link(2, family), 3)];
        let id = NexthopId::class(0, family);
        other.nexthops.insert(id, state::group(family, &one));
        // One class closes while another opens.
        let closes = NexthopId::site(1, family);
        other.nexthops.insert(closes, state::shut(family));
        let opens = [(NexthopId::link(1, family), 1)];
        other.nexthops.insert(NexthopId::class_in(2, family), state::group(family, &opens));
    }
    for target in other.routes.values_mut() {
        if matches!(target, RouteTarget::Nexthop(id) if id.0 >= 0x4E65_4000) {
            *target = RouteTarget::Unreachable;
        }
    }
    if let Some(guard) = &mut other.guard {
        guard.refused = BTreeSet::new();
        let mut classes = (*guard.classes).clone();
        classes.pop_first();
        classes.extend([(state::address("198.51.100.8"), ClassNumber::new(7, Family::V4))]);
        guard.classes = Arc::new(classes);
    }
    let none = NodeState::default();
    let states = [(&full, &none), (&other, &full), (&full, &other), (&none, &full)];
    states.iter().flat_map(|(to, from)| plan(to, from).ops).collect()
}

fn steps(menu: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..menu).prop_map(Step::Apply),
        2 => Just(Step::Repair),
        2 => (prop_oneof![Just("wan0"), Just("wan1")], any::<bool>())
            .prop_map(|(wan, up)| Step::Carrier(wan, up)),
        1 => prop_oneof![Just("wan0"), Just("wan1")].prop_map(Step::Address),
        1 => Just(Step::Flush),
        1 => Just(Step::Lo),
    ];
    prop::collection::vec(step, 1..40)
}

async fn both(
    op: &Op,
    real: &mut LinuxKernel,
    simulated: &mut SimulatedKernel,
) -> Result<(), TestCaseError> {
    let (real, simulated) = (real.apply(op).await, simulated.apply(op).await);
    let kind = |result: &Result<(), _>| result.as_ref().err().map(std::mem::discriminant);
    prop_assert_eq!(kind(&real), kind(&simulated), "{}: {:?} {:?}", op, real, simulated);
    Ok(())
}

/// The kernel deals with a changed carrier a moment later (net/core/link_watch.c).
fn carrier_is(netns: &Netns, wan: &str, up: bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let is_up = || netns.ip_json(&format!("link show dev {wan}"))[0]["operstate"] == "UP";
    while is_up() != up {
        assert!(std::time::Instant::now() < end, "{wan}: the carrier does not follow");
        std::thread::yield_now();
    }
}

async fn history(netns: &Netns, menu: &[Op], steps: &[Step]) -> Result<(), TestCaseError> {
    let mut real = open();
    let mut simulated = SimulatedKernel::new(&["wan0", "wan1", "core0"]);
    for step in steps {
        match step {
            Step::Apply(nth) => both(&menu[*nth], &mut real, &mut simulated).await?,
            Step::Repair => {
                let read = real.read().await.expect("readable");
                for op in plan(&state::border(), &read.state).ops {
                    both(&op, &mut real, &mut simulated).await?;
                }
            }
            Step::Carrier(wan, up) => {
                let state = if *up { "up" } else { "down" };
                netns.ip(&format!("link set {wan}p {state}"));
                carrier_is(netns, wan, *up);
                simulated.set_carrier(wan, *up);
            }
            Step::Address(wan) => {
                let address = if *wan == "wan0" { "192.0.2.1/30" } else { "192.0.2.5/30" };
                // Gone already, if an earlier step took it.
                let _ = netns.try_ip(&format!("addr del {address} dev {wan}"));
                simulated.remove_address(wan, state::net(address));
            }
            Step::Flush => {
                // It complains about groups that went with their members.
                let _ = netns.try_ip("nexthop flush");
                simulated.flush_nexthops();
            }
            Step::Lo => {
                netns.ip("link set lo down");
                netns.ip("link set lo up");
                simulated.lose_lo();
            }
        }
        let read = real.read().await.expect("readable");
        prop_assert!(read.complete);
        let expected = simulated.state();
        let difference = plan(expected, &read.state);
        prop_assert!(difference.is_empty(), "after {:?}, simulated - real:\n{}", step, difference);
    }
    Ok(())
}

#[test]
fn the_simulated_kernel_loses_and_refuses_what_the_real_one_does() {
    let menu = menu();
    let config = Config { cases: 60, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[17; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let outcome = runner.run(&steps(menu.len()), |steps| {
        let netns = Netns::border();
        netns.inside(async || history(&netns, &menu, &steps).await)
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// The order of a plan is safe to stop at, and nothing it does is refused by the real kernel.
#[test]
fn a_plan_that_stops_anywhere_is_completed_by_the_next() {
    let desired = state::border();
    let all = plan(&desired, &NodeState::default()).ops;
    let netns = Netns::border();
    for stop in (0..=all.len()).step_by(7) {
        netns.inside(async || {
            let mut kernel = open();
            for op in &all[..stop] {
                kernel.apply(op).await.unwrap_or_else(|e| panic!("{op}: {e}"));
            }
            drop(kernel);
            let mut kernel = open();
            let read = kernel.read().await.expect("readable");
            let rest = plan(&desired, &read.state).ops;
            assert_eq!(rest.len(), all.len() - stop);
            for op in rest.iter().chain(&plan(&NodeState::default(), &desired).ops) {
                kernel.apply(op).await.unwrap_or_else(|e| panic!("{op}: {e}"));
            }
        });
    }
    let layout = Layout::default();
    let single = desired.nexthops.values().filter(|n| matches!(n, Nexthop::Single { .. }));
    assert_eq!(single.count(), 4);
    assert_eq!(netns.ip(&format!("route show table {}", layout.table_svc)), "");
}
