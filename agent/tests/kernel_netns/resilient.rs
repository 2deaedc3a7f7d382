//! Resilient groups on a real kernel, in the words of `ip`: what is written is read back, weights
//! change in place, and what somebody else makes of a group is made good.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use nett_agent::kernel::{Filled, Kernel, LinuxKernel, SimulatedKernel};
use nett_policy::fabric::Family;
use nett_policy::lower::object::{
    Buckets, Layout, Nexthop, NexthopId, NodeState, RouteKey, RouteTarget,
};
use nett_policy::lower::resilient::wanted;
use nett_policy::plan::plan;

use crate::netns::Netns;
use crate::reconcile::{open, reach};
use crate::state;

const COUNT: u16 = 64;

fn id(family: Family) -> NexthopId {
    NexthopId::resilient(3, false, family)
}

fn members(family: Family, weights: [u32; 2]) -> Vec<(NexthopId, u32)> {
    [1, 2].map(|link| NexthopId::link(link, family)).into_iter().zip(weights).collect()
}

fn key(family: Family) -> RouteKey {
    let vip = if family == Family::V4 { "198.51.100.77/32" } else { "fd99::77/128" };
    state::route(Layout::default().table_svc, vip, Layout::METRIC_ACTIVE)
}

/// A VIP whose flows stay where they are, over two links.
fn desired(weights: [u32; 2], buckets: Option<Buckets>) -> NodeState {
    let mut state = state::border();
    for family in Family::BOTH {
        let Nexthop::Group { family, members, .. } =
            state::group(family, &members(family, weights))
        else {
            unreachable!("it is a group");
        };
        state.nexthops.insert(id(family), Nexthop::Group { family, members, buckets });
        state.routes.insert(key(family), RouteTarget::Nexthop(id(family)));
    }
    state
}

fn usual() -> Option<Buckets> {
    Some(Buckets { count: COUNT, idle: 6000, unbalanced: 0 })
}

/// How many buckets lead to each link, as `ip` lists them.
fn listed(netns: &Netns, family: Family) -> BTreeMap<NexthopId, u32> {
    let text = netns.ip(&format!("nexthop bucket show id {}", id(family)));
    let mut buckets = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.windows(2).find(|pair| pair[0] == "nhid").expect("a nexthop");
        *buckets.entry(NexthopId(at[1].parse().expect("a number"))).or_default() += 1;
    }
    buckets
}

#[test]
fn a_resilient_group_is_read_back_and_changed_in_place() {
    let netns = Netns::border();
    netns.inside(async || {
        let mut kernel = open();
        for weights in [[256, 1], [1, 1], [3, 1], [1, 256]] {
            let desired = desired(weights, usual());
            reach(&mut kernel, &desired).await;
            for family in Family::BOTH {
                let listed_once = listed(&netns, family);
                let Nexthop::Group { members, .. } = &desired.nexthops[&id(family)] else {
                    unreachable!("it is a group");
                };
                let mut meant = wanted(members, COUNT);
                meant.retain(|_, count| *count > 0);
                // Nobody uses a bucket, so all of them follow the weights at once.
                assert_eq!(listed_once, meant, "{weights:?}");
            }
        }
        let shown = netns.ip(&format!("nexthop show id {}", id(Family::V4)));
        let words = format!("type resilient buckets {COUNT} idle_timer 60 unbalanced_timer 0");
        assert!(shown.contains(&words), "{shown}");
    });
}

/// Others may change a timer, which is put right in place, or make another group of it, which the
/// kernel does not undo in place ("Can not replace a nexthop group with one of a different type").
#[test]
fn what_others_make_of_a_resilient_group_is_made_good() {
    let netns = Netns::border();
    netns.inside(async || {
        let mut kernel = open();
        let desired = desired([1, 1], usual());
        reach(&mut kernel, &desired).await;
        for family in Family::BOTH {
            let group: Vec<String> =
                members(family, [1, 1]).iter().map(|(id, _)| id.to_string()).collect();
            let (group, id) = (group.join("/"), id(family));
            netns.ip(&format!(
                "nexthop replace id {id} group {group} type resilient idle_timer 7 proto 217"
            ));
        }
        let changed = kernel.read().await.expect("readable");
        assert_ne!(changed.state, desired, "it is noticed");
        reach(&mut kernel, &desired).await;

        for (count, kind) in [(1, ""), (2, "type resilient buckets 8")] {
            for family in Family::BOTH {
                let group: Vec<String> =
                    members(family, [1, 1]).iter().map(|(id, _)| id.to_string()).collect();
                let (group, id) = (group.join("/"), id(family));
                netns.ip(&format!("nexthop del id {id}"));
                netns.ip(&format!("nexthop add id {id} group {group} {kind} proto 217"));
                let route = key(family);
                let flag = if family == Family::V4 { "-4" } else { "-6" };
                netns.ip(&format!(
                    "{flag} route add {} table {} metric {} nhid {id} proto 217",
                    route.destination, route.table, route.metric
                ));
            }
            let before = kernel.read().await.expect("readable");
            let plan = plan(&desired, &before.state);
            assert!(!plan.is_empty(), "{count} is noticed");
            reach(&mut kernel, &desired).await;
            for family in Family::BOTH {
                let shown = netns.ip(&format!("nexthop show id {}", id(family)));
                assert!(shown.contains(&format!("buckets {COUNT} ")), "{shown}");
            }
        }
    });
}

/// The setting of a service changes: another group of the other type, and the route goes over
/// without being away.
#[test]
fn a_service_goes_over_to_a_resilient_group_and_back() {
    let netns = Netns::border();
    let plain = || {
        let mut state = desired([1, 1], None);
        for family in Family::BOTH {
            let group = state.nexthops.remove(&id(family)).expect("it is there");
            let class = NexthopId::class(9, family);
            state.nexthops.insert(class, group);
            state.routes.insert(key(family), RouteTarget::Nexthop(class));
        }
        state
    };
    netns.inside(async || {
        let mut kernel = open();
        reach(&mut kernel, &plain()).await;
        for next in [desired([1, 1], usual()), plain()] {
            let before = kernel.read().await.expect("readable");
            for op in plan(&next, &before.state).ops {
                kernel.apply(&op).await.unwrap_or_else(|e| panic!("{op}: {e}"));
                for family in Family::BOTH {
                    let flag = if family == Family::V4 { "-4" } else { "-6" };
                    let RouteKey { table, destination, .. } = key(family);
                    let way = netns.ip(&format!("{flag} route show table {table} {destination}"));
                    assert!(way.contains("nhid"), "after {op}: {way}");
                }
            }
            reach(&mut kernel, &next).await;
        }
    });
}

/// A packet for each of so many flows of each family that every bucket is used.
fn use_all_buckets() {
    let sockets = [("192.0.2.1", "198.51.100.77"), ("fd00::1", "fd99::77")].map(|pair| {
        let [own, vip] = [pair.0, pair.1].map(|text| text.parse::<IpAddr>().expect("an address"));
        let socket = UdpSocket::bind((own, 0)).expect("the border has the address");
        // Nobody answers there, and packets that wait for an answer fill the socket.
        socket.set_nonblocking(true).expect("sockets can be told");
        (socket, vip)
    });
    for port in 20_000..21_000 {
        for (socket, vip) in &sockets {
            // The way is looked up first, and that is what uses a bucket.
            let _ = socket.send_to(b"flow", (*vip, port));
        }
    }
}

fn spread_by_ports() {
    for family in ["ipv4", "ipv6"] {
        let path = format!("/proc/sys/net/{family}/fib_multipath_hash_policy");
        std::fs::write(path, "1").expect("root may");
    }
}

/// Members that no bucket leads to are told of by neither.
fn led(netns: &Netns) -> Filled {
    Family::BOTH.map(|family| (id(family), listed(netns, family))).into()
}

/// What is in use stays with a member that no bucket is meant for, and is told of until it is idle:
/// by the real kernel, by the simulated one, and by `ip`.
#[test]
fn buckets_in_use_are_told_of_until_they_are_idle() {
    let netns = Netns::border();
    netns.inside(async || {
        spread_by_ports();
        let mut real = open();
        let mut simulated = SimulatedKernel::new(&["wan0", "wan1", "core0"]);
        let groups: BTreeSet<NexthopId> = Family::BOTH.map(id).into();
        let buckets = Some(Buckets { count: COUNT, idle: 800, unbalanced: 0 });
        let look = async |real: &mut LinuxKernel, simulated: &mut SimulatedKernel| {
            let real = real.buckets(&groups).await.expect("readable");
            (real, simulated.buckets(&groups).await.expect("readable"))
        };
        for (weights, used) in [([1, 1], true), ([1, 256], false)] {
            let desired = desired(weights, buckets);
            reach(&mut real, &desired).await;
            for op in plan(&desired, simulated.state()).ops {
                simulated.apply(&op).await.expect("it can");
            }
            let (one, other) = look(&mut real, &mut simulated).await;
            assert_eq!((&one, &other), (&led(&netns), &led(&netns)), "{weights:?}");
            let half = u32::from(COUNT / 2);
            assert!(one.values().flat_map(BTreeMap::values).all(|n| *n == half), "{one:?}");
            if used {
                use_all_buckets();
                for index in [1, 2] {
                    for family in Family::BOTH {
                        simulated.use_buckets(NexthopId::link(index, family), true);
                    }
                }
            }
        }
        for family in Family::BOTH {
            simulated.use_buckets(NexthopId::link(1, family), false);
        }
        let end = Instant::now() + Duration::from_secs(60);
        let (left, simulated) = loop {
            let (real, simulated) = look(&mut real, &mut simulated).await;
            let leads = |family| real[&id(family)].contains_key(&NexthopId::link(1, family));
            if !Family::BOTH.into_iter().any(leads) {
                break (real, simulated);
            }
            assert!(Instant::now() < end, "they never fall idle: {real:?}");
            std::thread::yield_now();
        };
        assert_eq!((&left, &simulated), (&led(&netns), &led(&netns)));
    });
}

/// What is not there, or is another kind of group, has no bucket.
#[test]
fn who_has_no_buckets_has_none() {
    let netns = Netns::border();
    netns.inside(async || {
        let mut kernel = open();
        reach(&mut kernel, &state::border()).await;
        let groups = [id(Family::V4), NexthopId::class(0, Family::V4)];
        let filled = kernel.buckets(&groups.into()).await.expect("readable");
        assert_eq!(filled, groups.map(|id| (id, BTreeMap::new())).into());
    });
}
