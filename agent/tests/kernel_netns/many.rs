//! Many objects at once, and operations that fail among others that do not.

use std::collections::BTreeMap;
use std::sync::Arc;

use nett_agent::kernel::{Kernel, KernelError};
use nett_policy::fabric::Family;
use nett_policy::lower::object::{
    ClassNumber, GuardSet, Layout, NexthopId, NodeState, RouteTarget,
};
use nett_policy::plan::plan;

use crate::netns::Netns;
use crate::reconcile::{open, reach};
use crate::state;

const MANY: u32 = 5000;

fn many() -> NodeState {
    let layout = Layout::default();
    let mut desired = state::border();
    for n in 0..MANY {
        for (family, vip) in [
            (Family::V4, format!("198.51.{}.{}/32", 128 + n / 250, n % 250)),
            (Family::V6, format!("fd99::2:{n:x}/128")),
        ] {
            let class = RouteTarget::Nexthop(NexthopId::class(0, family));
            for table in [layout.table_svc, layout.table_in] {
                desired.routes.insert(state::route(table, &vip, 100), class);
            }
        }
    }
    let guard = desired.guard.as_mut().expect("a border has one");
    let mut classes = BTreeMap::new();
    for n in 0..MANY {
        for vip in [format!("198.51.{}.{}", 128 + n / 250, n % 250), format!("fd99::2:{n:x}")] {
            guard.refused.insert(state::element(GuardSet::Apart, &vip));
            guard.refused.insert(state::element(GuardSet::Drained, &vip));
            let vip = state::address(&vip);
            classes.insert(vip, ClassNumber::new(n % 20, Family::of(vip)));
        }
    }
    guard.classes = Arc::new(classes);
    desired
}

#[test]
fn many_routes_classes_and_single_vips_come_and_go() {
    let netns = Netns::border();
    let desired = many();
    netns.inside(async || {
        let mut kernel = open();
        for wanted in [&desired, &state::border(), &desired, &NodeState::default()] {
            let before = kernel.read().await.expect("readable");
            assert!(before.complete);
            let ops = plan(wanted, &before.state).ops;
            for (op, result) in ops.iter().zip(kernel.apply_all(&ops).await) {
                result.unwrap_or_else(|e| panic!("{op}: {e}"));
            }
            reach(&mut kernel, wanted).await;
            // Once more, though all of it is done: every place is taken by an equal object.
            for (op, result) in ops.iter().zip(kernel.apply_all(&ops).await) {
                result.unwrap_or_else(|e| panic!("again {op}: {e}"));
            }
        }
    });
    assert_eq!(netns.ip("nexthop list"), "");
}

#[test]
fn one_refused_route_among_many_is_told_and_the_others_are_there() {
    let netns = Netns::border();
    let desired = many();
    let taken = "198.51.130.7";
    netns.ip("link set lo up");
    netns.ip(&format!("route add blackhole {taken} table 7000 metric 100 proto static"));
    netns.inside(async || {
        let mut kernel = open();
        let ops = plan(&desired, &NodeState::default()).ops;
        let results = kernel.apply_all(&ops).await;
        let failed: Vec<_> = results.into_iter().filter_map(Result::err).collect();
        assert!(
            matches!(&failed[..], [KernelError::Foreign { object, .. }] if object.contains(taken)),
            "{failed:?}"
        );
    });
    let routes = netns.ip_json("-4 route show table 7000");
    assert_eq!(routes.len(), MANY as usize + 2);
    assert!(netns.ip(&format!("route show table 7000 {taken}")).contains("blackhole"));
}
