//! Plans carried out on a real kernel.

use nett_agent::kernel::{Foreign, Kernel, KernelError, LinuxKernel, Readback};
use nett_policy::fabric::Family;
use nett_policy::lower::object::{Layout, NexthopId, NodeState, RouteTarget};
use nett_policy::plan::plan;
use serde_json::Value;

use crate::forks::Owner;
use crate::netns::Netns;
use crate::state;

pub(crate) fn open() -> Owner<LinuxKernel> {
    Owner::new(LinuxKernel::open(Layout::default()).expect("a command socket"))
}

/// Reads, plans, applies; the plan of the next look must be empty.
pub(crate) async fn reach(kernel: &mut LinuxKernel, desired: &NodeState) -> Readback {
    let before = kernel.read().await.expect("readable");
    assert!(before.complete);
    for op in plan(desired, &before.state).ops {
        kernel.apply(&op).await.unwrap_or_else(|e| panic!("{op}: {e}"));
    }
    let after = kernel.read().await.expect("readable");
    assert_eq!(after.guard_damage, None);
    let rest = plan(desired, &after.state);
    assert!(rest.is_empty(), "the second plan is not empty:\n{rest}");
    after
}

fn protocol_is_ours(object: &&Value) -> bool {
    let protocol = &object["protocol"];
    *protocol == "217" || *protocol == 217
}

fn ours(objects: &[Value]) -> usize {
    objects.iter().filter(protocol_is_ours).count()
}

#[test]
fn a_border_gets_what_it_should_have_and_a_second_plan_is_empty() {
    let netns = Netns::border();
    let desired = state::border();
    netns.inside(async || {
        let mut kernel = open();
        reach(&mut kernel, &desired).await;
        // A new agent finds the same: nothing to do after a restart.
        drop(kernel);
        reach(&mut open(), &desired).await;
    });

    let nexthops = netns.ip_json("nexthop list");
    assert_eq!(ours(&nexthops), desired.nexthops.len());
    let class = NexthopId::class(0, Family::V4).0;
    let group = nexthops.iter().find(|n| n["id"] == class).expect("the group");
    let members = group["group"].as_array().expect("members");
    assert_eq!(members.len(), 2, "{group}");
    let single =
        nexthops.iter().find(|n| n["id"] == NexthopId::link(1, Family::V4).0).expect("the single");
    assert_eq!(single["gateway"], "192.0.2.2");
    assert_eq!(single["dev"], "wan0");
    assert_eq!(single["flags"], serde_json::json!(["onlink"]));

    for (family, vip, floor) in
        [("-4", "198.51.100.1", "198.51.100.0/24"), ("-6", "fd99::1", "fd99::/48")]
    {
        let routes = netns.ip_json(&format!("{family} route show table 7000"));
        let vip = routes.iter().find(|r| r["dst"] == vip).expect("the VIP");
        assert!(vip["nhid"].is_u64(), "{vip}");
        assert_eq!(vip["metric"], 100);
        let floor = routes.iter().find(|r| r["dst"] == floor).expect("the floor");
        assert_eq!(floor["type"], "unreachable");
        assert_eq!(floor["metric"], u32::MAX);
        let rules = netns.ip_json(&format!("{family} rule show"));
        assert_eq!(ours(&rules), desired.rules.len() / 2);
        let marked = rules.iter().find(|r| r["priority"] == 4400).expect("4400");
        assert_eq!(marked["fwmark"], "0x1000");
        assert_eq!(marked["fwmask"], "0x3000");
        let local = rules.iter().find(|r| r["priority"] == 4440).expect("4440");
        assert_eq!(local["suppress_prefixlen"], 0);
    }
}

#[test]
fn all_of_it_can_go_again_and_what_is_foreign_stays() {
    let netns = Netns::border();
    for command in [
        "nexthop add id 77 via 192.0.2.2 dev wan0",
        "route add 203.0.113.0/24 via 192.0.2.2 proto static",
        "route add 203.0.113.0/24 via 192.0.2.2 table 900 proto 217",
        "-6 route add fd77::/48 via fd00:0::2 proto static",
        "rule add pref 4000 to 203.0.113.0/24 lookup 900",
    ] {
        netns.ip(command);
    }
    netns
        .nft("table inet other { chain c { type filter hook forward priority 0; }; }")
        .expect("nft");
    let picture = || {
        [
            netns.ip("nexthop list"),
            netns.ip("-4 route show table all"),
            netns.ip("-6 route show table all"),
            netns.ip("-4 rule"),
            netns.ip("-6 rule"),
            netns.nft("list ruleset").expect("nft"),
        ]
    };
    let before = picture();
    netns.inside(async || {
        let mut kernel = open();
        reach(&mut kernel, &state::border()).await;
        let after = reach(&mut kernel, &NodeState::default()).await;
        assert_eq!(after.foreign, Vec::new());
    });
    assert_eq!(before, picture());
}

#[test]
fn replacing_groups_and_routes_changes_them_in_place() {
    let netns = Netns::border();
    let mut desired = state::border();
    netns.inside(async || {
        let mut kernel = open();
        reach(&mut kernel, &desired).await;
        for family in Family::BOTH {
            let one = [(NexthopId::link(2, family), 7)];
            let id = NexthopId::class(0, family);
            desired.nexthops.insert(id, state::group(family, &one));
        }
        let vip = state::route(Layout::default().table_svc, "fd99::1/128", 100);
        desired.routes.insert(vip, RouteTarget::Unreachable);
        let vip = state::route(Layout::default().table_svc, "198.51.100.1/32", 100);
        desired.routes.insert(vip, RouteTarget::Unreachable);
        reach(&mut kernel, &desired).await;
        let back = state::border();
        reach(&mut kernel, &back).await;
        reach(&mut kernel, &desired).await;
    });
    let nexthops = netns.ip_json("nexthop list");
    for family in Family::BOTH {
        let id = NexthopId::class(0, family).0;
        let group = nexthops.iter().find(|n| n["id"] == id).expect("the group");
        let members = group["group"].as_array().expect("members");
        assert_eq!(members.len(), 1, "{group}");
        assert_eq!(members[0]["weight"], 7, "{group}");
    }
    for (family, vip) in [("-4", "198.51.100.1"), ("-6", "fd99::1")] {
        let routes = netns.ip_json(&format!("{family} route show table 7000 {vip}"));
        assert_eq!(routes.len(), 1);
        assert_eq!(routes[0]["type"], "unreachable");
    }
}

#[test]
fn doing_it_twice_is_no_error() {
    let netns = Netns::border();
    let desired = state::border();
    netns.inside(async || {
        let mut kernel = open();
        let up = plan(&desired, &NodeState::default());
        let down = plan(&NodeState::default(), &desired);
        for ops in [&up, &down] {
            for op in ops.ops.iter().chain(&ops.ops) {
                // The whole plan a second time, as after a crash before the result was noted.
                let done = kernel.apply(op).await;
                done.unwrap_or_else(|e| panic!("{op}: {e}"));
            }
            if std::ptr::eq(ops, &up) {
                reach(&mut kernel, &desired).await;
            }
        }
        reach(&mut kernel, &NodeState::default()).await;
    });
}

#[test]
fn lost_carrier_is_seen_and_repaired_when_it_returns() {
    let netns = Netns::border();
    let desired = state::border();
    netns.inside(async || {
        let mut kernel = open();
        reach(&mut kernel, &desired).await;
        for wan in ["wan0p", "wan1p"] {
            netns.ip(&format!("link set {wan} down"));
        }
        let lost = kernel.read().await.expect("readable");
        assert!(!lost.interfaces["wan0"].up);
        assert!(lost.interfaces["core0"].up);
        let repair = plan(&desired, &lost.state);
        assert!(!repair.is_empty());
        let refused = kernel.apply(&repair.ops[0]).await;
        assert!(matches!(&refused, Err(KernelError::Interface { .. })), "{refused:?}");
        for wan in ["wan0p", "wan1p"] {
            netns.ip(&format!("link set {wan} up"));
        }
        reach(&mut kernel, &desired).await;
    });
    assert_eq!(ours(&netns.ip_json("nexthop list")), desired.nexthops.len());
}

#[test]
fn a_link_made_anew_is_found_by_its_name() {
    let netns = Netns::border();
    let desired = state::border();
    netns.inside(async || {
        let mut kernel = open();
        reach(&mut kernel, &desired).await;
        netns.ip("link del wan0");
        netns.ip("link add wan0 type veth peer name wan0p");
        netns.ip("link set wan0 up");
        netns.ip("link set wan0p up");
        reach(&mut kernel, &desired).await;
    });
    let nexthops = netns.ip_json("nexthop list");
    let id = NexthopId::link(1, Family::V4).0;
    assert!(nexthops.iter().any(|n| n["id"] == id && n["dev"] == "wan0"));
}

#[test]
fn foreign_objects_in_our_place_are_reported_and_left_alone() {
    let netns = Netns::border();
    let desired = state::border();
    let class = NexthopId::class(0, Family::V4);
    for command in [
        "route add 198.51.100.1 via 192.0.2.2 table 7000 metric 100 proto static".to_owned(),
        "-6 route add unreachable fd99::/48 table 7001 metric 4294967295 proto 11".to_owned(),
        format!("nexthop add id {} blackhole proto zebra", class.0),
        "rule add pref 4450 to 203.0.113.0/24 lookup 900".to_owned(),
    ] {
        netns.ip(&command);
    }
    netns.nft("table inet nett { chain mine { }; }").expect("nft");
    let before = netns.ip("route show table 7000 proto static");
    netns.inside(async || {
        let mut kernel = open();
        let read = kernel.read().await.expect("readable");
        let named: Vec<String> = read.foreign.iter().map(ToString::to_string).collect();
        assert_eq!(
            named,
            [
                "route 198.51.100.1/32 table 7000 metric 100 of protocol 4 (static)".to_owned(),
                "route fd99::/48 table 7001 metric 4294967295 of protocol 11 (zebra)".to_owned(),
                format!("nexthop id {} of protocol 11 (zebra)", class.0),
                "rule pref 4450 of protocol 0 (unspec)".to_owned(),
                "nft table inet nett without Nett's comment".to_owned(),
            ]
        );
        assert_eq!(read.state, NodeState::default());
        let mut taken = Vec::new();
        for op in plan(&desired, &read.state).ops {
            match kernel.apply(&op).await {
                Ok(()) => {}
                Err(KernelError::Foreign { object, .. }) => taken.push(object),
                Err(error) => panic!("{op}: {error}"),
            }
        }
        assert_eq!(taken.len(), 4, "{taken:#?}");
        assert!(read.foreign.contains(&Foreign::NftTable));
    });
    assert_eq!(before, netns.ip("route show table 7000 proto static"));
    assert!(netns.nft("list table inet nett").expect("nft").contains("chain mine"));
}
