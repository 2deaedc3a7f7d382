//! What the counting sets count, in packets of `ping` and in the words of `nft`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nett_agent::kernel::{Kernel, LinuxKernel};
use nett_policy::fabric::Family;
use nett_policy::lower::object::{
    ClassNumber, GuardElement, GuardSet, Layout, NexthopId, NodeState, RouteTarget, Subject,
};

use crate::classes::{address, neighbours};
use crate::netns::Netns;
use crate::reconcile::{open, reach};
use crate::state;

/// The number of the only class.
const SLOT: u32 = 7;
const VIPS: u32 = 3;
/// How many packets each ping sends.
const PINGS: u64 = 4;

/// A few VIPs behind the links, of which these are counted; those that are named stand apart.
pub(crate) fn state_of(counted: &[(GuardSet, Option<u32>)]) -> NodeState {
    let layout = Layout::default();
    let mut desired = state::border();
    let guard = desired.guard.as_mut().expect("a border has one");
    guard.vips = state::nets(&["10.96.0.0/11", "fd99::/48"]);
    let mut classes = BTreeMap::new();
    for family in Family::BOTH {
        let class = ClassNumber::new(SLOT, family);
        let group = NexthopId::class(SLOT, family);
        desired.nexthops.insert(group, state::group(family, &[(NexthopId::link(1, family), 1)]));
        for n in 0..VIPS {
            let vip = state::address(&address(family, n));
            classes.insert(vip, class);
            let net = ipnet::IpNet::from(vip).to_string();
            let key = state::route(layout.table_svc, &net, Layout::METRIC_ACTIVE);
            desired.routes.insert(key, RouteTarget::Nexthop(group));
        }
        for (set, apart) in counted {
            let subject = match apart {
                None => Subject::Class(class),
                Some(n) => Subject::Vip(state::address(&address(family, *n))),
            };
            guard.refused.insert(GuardElement { set: *set, subject });
        }
    }
    if !counted.is_empty() {
        guard.refused.insert(GuardElement::COUNTING);
    }
    guard.classes = Arc::new(classes);
    desired
}

/// Packets of both families that nobody answers.
fn ping(from: &Netns, source: Option<u32>, to: impl Fn(Family) -> String) {
    for family in Family::BOTH {
        let source = source.map(|n| format!("-I {}", address(family, n))).unwrap_or_default();
        let command = format!("ping -q -c {PINGS} -i 0.01 -W 0.01 {source} {}", to(family));
        let words: Vec<&str> = command.split_whitespace().collect();
        // Its exit status says that there was no answer.
        let _ = from.run(&words);
    }
}

fn vip(n: u32) -> impl Fn(Family) -> String {
    move |family| address(family, n)
}

/// The far end of the first link.
fn far(family: Family) -> String {
    match family {
        Family::V4 => "192.0.2.2".to_owned(),
        Family::V6 => "fd00:0::2".to_owned(),
    }
}

/// The packets that nft lists for the elements of a set.
fn listed(netns: &Netns, set: &str) -> Vec<u64> {
    let text = netns.nft(&format!("list set inet nett {set}")).expect("the set is there");
    let words: Vec<&str> = text.split_whitespace().collect();
    let after = words.windows(2).filter(|pair| pair[0] == "packets");
    after.filter_map(|pair| pair[1].parse().ok()).collect()
}

#[test]
fn what_comes_and_what_is_answered_is_counted_by_class_or_apart() {
    let netns = Netns::border();
    let [outside, host] = neighbours(&netns);
    for family in Family::BOTH {
        for n in 0..VIPS {
            host.ip(&format!("addr add {} dev lo", address(family, n)));
        }
    }
    let all = |apart| GuardSet::COUNTED.map(|set| (set, apart));
    netns.inside(async || {
        let mut kernel = open();
        let watched = async |kernel: &mut LinuxKernel, state: &NodeState| {
            let guard = state.guard.as_ref().expect("a border has one");
            let elements: BTreeSet<GuardElement> = guard.counted().copied().collect();
            kernel.watched(&elements).await.expect("readable")
        };
        let of = |all: &BTreeMap<GuardElement, u64>, set| -> Vec<u64> {
            all.iter().filter(|(e, _)| e.set == set).map(|(_, n)| *n).collect()
        };

        reach(&mut kernel, &state_of(&[])).await;
        ping(&outside, None, vip(1));
        let class = state_of(&all(None));
        reach(&mut kernel, &class).await;
        let idle = watched(&mut kernel, &class).await;
        assert_eq!(idle.values().sum::<u64>(), 0, "nothing was counted before: {idle:?}");
        ping(&outside, None, vip(1));
        ping(&outside, None, vip(2));
        // Its own addresses would keep the host from sending to them.
        for family in Family::BOTH {
            host.ip(&format!("addr del {} dev lo", address(family, 0)));
        }
        ping(&host, None, vip(0));
        ping(&host, Some(1), far);
        // The host's own address is no service.
        ping(&host, None, far);
        let seen = watched(&mut kernel, &class).await;
        assert_eq!(of(&seen, GuardSet::CountTo), [2 * PINGS; 2], "{seen:?}");
        assert_eq!(of(&seen, GuardSet::CountIn), [PINGS; 2], "{seen:?}");
        assert_eq!(of(&seen, GuardSet::CountFrom), [PINGS; 2], "{seen:?}");
        assert_eq!(listed(&netns, "count_to"), [2 * PINGS; 2]);
        assert_eq!(listed(&netns, "count_from"), [PINGS; 2]);

        // One of them stands apart: it is counted alone, and the class goes on where it was.
        let mut both = all(None).to_vec();
        both.extend([(GuardSet::Apart, Some(2))]);
        both.extend(all(Some(2)));
        let apart = state_of(&both);
        reach(&mut kernel, &apart).await;
        ping(&outside, None, vip(2));
        ping(&host, Some(2), far);
        let seen = watched(&mut kernel, &apart).await;
        // The far end answers what came from it, which is what comes for it, too.
        assert_eq!(of(&seen, GuardSet::CountTo), [2 * PINGS; 4], "{seen:?}");
        assert_eq!(of(&seen, GuardSet::CountFrom), [PINGS; 4], "{seen:?}");

        reach(&mut kernel, &state_of(&[])).await;
        assert_eq!(watched(&mut kernel, &state_of(&[])).await, BTreeMap::new());
        let readback = kernel.read().await.expect("readable");
        assert_eq!(readback.guard_damage, None);
    });
}
