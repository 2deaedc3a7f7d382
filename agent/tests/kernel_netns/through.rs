//! What goes from one other site through this one to another: in the words of nft, and in packets.

use std::collections::BTreeSet;

use nett_agent::kernel::Kernel;
use nett_policy::fabric::Family;
use nett_policy::failover::WayOut;
use nett_policy::lower::object::{
    ClassNumber, Guard, GuardElement, GuardKind, GuardSet, Layout, NexthopId, NodeState,
    RouteTarget, Rule, RuleAction, Subject,
};
use nett_policy::plan::{Op, plan};

use crate::classes::{address, neighbours};
use crate::counting::state_of;
use crate::netns::Netns;
use crate::printed::{Printed, is_kept, printed, with};
use crate::reconcile::{open, reach};
use crate::state;

/// The class of [`state_of`].
const SLOT: u32 = 7;
const PINGS: u64 = 4;
const HOPS: u8 = Layout::TRANSIT_HOPS;

fn carried(interface: &str) -> GuardSet {
    GuardSet::Carried(WayOut::new(interface))
}

fn of_class(slot: u32, family: Family, set: GuardSet) -> GuardElement {
    GuardElement { set, subject: Subject::Class(ClassNumber::new(slot, family)) }
}

/// From the second link to the first and back; a class that is not delivered here goes on.
fn through(mut guard: Guard, slot: u32) -> Guard {
    guard.transit =
        BTreeSet::from([["wan1", "wan0"], ["wan0", "wan1"]].map(|p| p.map(str::to_owned)));
    for family in Family::BOTH {
        guard.refused.insert(of_class(slot, family, GuardSet::ShutIn));
        guard.refused.insert(of_class(slot, family, carried("wan1")));
    }
    guard
}

/// As [`through`], with VIPs that stand apart.
fn listed() -> Guard {
    let mut guard = through(state::guard(GuardKind::Border), 2);
    for vip in ["198.51.100.7", "fd99::7"] {
        guard.refused.insert(state::element(carried("wan0"), vip));
    }
    guard
}

/// What nft lists of the parts that let through.
const PARTS: [&str; 10] = [
    "set inet nett through",
    "set inet nett carried",
    "set inet nett carried4",
    "set inet nett carried6",
    "map inet nett transit_by",
    "chain inet nett transit",
    "chain inet nett carry",
    "chain inet nett apart",
    "chain inet nett class_11",
    "chain inet nett fwd_guard",
];

#[test]
fn nft_prints_what_lets_through_as_it_was_meant_and_the_rest_as_without() {
    let Printed { plain, whole } = printed(&listed(), "through.nft", &PARTS, ["transit", "carry"]);
    // Every rule of the table without it is in the one with it.
    for line in plain.lines().filter(|line| line.contains("comment")) {
        assert!(whole.lines().any(|other| other == line), "{line} is missing:\n{whole}");
    }
}

#[test]
fn every_part_is_read_back_and_what_others_change_is_put_right() {
    let netns = Netns::border();
    let guard = listed();
    let commands = [
        "delete element inet nett through { \"wan0\" . \"wan1\" }",
        "add element inet nett through { \"wan0\" . \"wan0\" }",
        "delete element inet nett carried { 0x10 . \"wan1\" }",
        "delete element inet nett carried4 { 198.51.100.7 . \"wan0\" }",
        "add element inet nett carried6 { fd99::1 . \"wan1\" }",
        "delete element inet nett transit_by { \"wan1\" }",
        "flush chain inet nett carry",
        "insert rule inet nett transit accept",
        "insert rule inet nett apart return",
    ];
    is_kept(&netns, &guard, &commands);
    // A class that comes gets the same chain, and without the statement nothing is left of it.
    netns.inside(async || {
        let mut kernel = open();
        reach(&mut kernel, &with(&guard)).await;
        let mut next = guard.clone();
        let mut classes = (*next.classes).clone();
        classes.insert(state::address("198.51.100.1"), ClassNumber::new(77, Family::V4));
        next.classes = classes.into();
        let ops = plan(&with(&next), &with(&guard)).ops;
        assert!(matches!(&ops[..], [Op::Classes { .. }]), "{ops:?}");
        kernel.apply(&ops[0]).await.expect("applies");
        let read = open().read().await.expect("readable");
        assert_eq!((read.state.guard.as_ref(), &read.guard_damage), (Some(&next), &None));
        reach(&mut kernel, &with(&state::guard(GuardKind::Border))).await;
    });
    let listed = netns.nft("list table inet nett").expect("nft");
    for word in ["through", "carr", "transit", "spent", "another site"] {
        assert!(!listed.contains(word), "{word}: {listed}");
    }
}

/// What another site sends to a third one goes on, and a class with it.
fn state_through() -> NodeState {
    let layout = Layout::default();
    let mut desired = state_of(&[]);
    let guard = desired.guard.take().expect("a border has one");
    desired.guard = Some(through(guard, SLOT));
    for (family, remote) in [(Family::V4, "10.2.0.0/16"), (Family::V6, "fd02::/32")] {
        let direct = NexthopId::direct(1, family);
        let ways = [(NexthopId::link(1, family), 1)];
        desired.nexthops.insert(direct, state::group(family, &ways));
        let vip = ipnet::IpNet::from(state::address(&address(family, 2))).to_string();
        for to in [remote, &vip] {
            let key = state::route(layout.table_via(1), to, Layout::METRIC_ACTIVE);
            desired.routes.insert(key, RouteTarget::Nexthop(direct));
        }
        desired.rules.insert(Rule {
            priority: layout.rule_base + 9,
            family,
            iif: Some("wan1".to_owned()),
            fwmark: Some((Layout::MARK_CAME, Layout::MARK_CLASS)),
            from: None,
            to: None,
            action: RuleAction::Lookup { table: layout.table_via(1), suppress_prefixlength: None },
        });
    }
    desired
}

/// Counts what comes back to the far end of the links, by the hops that it has left, and lets
/// nothing of it go on.
fn watch(far: &Netns) {
    let table = format!(
        "table inet watch {{\ncounter marked {{ }}\ncounter other {{ }}\nchain arrives {{\n\
         type filter hook prerouting priority -300\n\
         iifname \"wan0p\" icmp type echo-request ip ttl {HOPS} counter name marked drop\n\
         iifname \"wan0p\" icmpv6 type echo-request ip6 hoplimit {HOPS} counter name marked drop\n\
         iifname \"wan0p\" icmp type echo-request counter name other drop\n\
         iifname \"wan0p\" icmpv6 type echo-request counter name other drop\n}}\n}}"
    );
    far.nft(&table).unwrap_or_else(|e| panic!("{table}: {e}"));
}

fn seen(far: &Netns, name: &str) -> u64 {
    let text = far.nft(&format!("list counter inet watch {name}")).expect("the counter");
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "packets").expect("packets");
    words[at + 1].parse().expect("a number")
}

/// Packets that nobody answers, by the second link.
fn ping(far: &Netns, hops: u8, to: &str) {
    let command = format!("ping -q -c {PINGS} -i 0.01 -W 0.01 -t {hops} {to}");
    let words: Vec<&str> = command.split_whitespace().collect();
    let _ = far.run(&words);
}

#[test]
fn packets_with_hops_left_go_through_once_and_others_do_not() {
    let netns = Netns::border();
    let [far, _host] = neighbours(&netns);
    watch(&far);
    netns.inside(async || {
        let mut kernel = open();
        let desired = state_through();
        reach(&mut kernel, &desired).await;
        let mut through = 0;
        let mut spent = 0;
        for family in Family::BOTH {
            let host = if family == Family::V4 { "10.2.9.9" } else { "fd02::9" };
            for to in [address(family, 2), host.to_owned()] {
                // The border counts one down before it looks.
                ping(&far, HOPS + 2, &to);
                through += PINGS;
                assert_eq!((seen(&far, "marked"), seen(&far, "other")), (through, 0), "{to}");
                ping(&far, HOPS + 1, &to);
                spent += PINGS;
                let counters = kernel.counters().await.expect("readable");
                let counted = ["transit.wan0", "transit.wan1", "spent", "hairpin"]
                    .map(|name| counters[name].packets);
                assert_eq!(counted, [through, 0, spent, 0], "{to}");
                assert_eq!(seen(&far, "marked"), through, "{to}");
            }
        }
        // A VIP of the class that has no way on from here, and a site that nobody named.
        let refused = kernel.counters().await.expect("readable")["refused"].packets;
        let mut closed = desired.clone();
        let guard = closed.guard.as_mut().expect("one");
        guard.refused.retain(|element| !matches!(element.set, GuardSet::Carried(_)));
        reach(&mut kernel, &closed).await;
        for family in Family::BOTH {
            ping(&far, 64, &address(family, 2));
        }
        let counters = kernel.counters().await.expect("readable");
        assert_eq!(counters["refused"].packets, refused + 2 * PINGS);
        ping(&far, 64, "10.3.9.9");
        assert_eq!(seen(&far, "marked") + seen(&far, "other"), through);

        // Somebody else sends it back by the link that it came by.
        netns.ip("route add 10.3.0.0/16 via 192.0.2.6 dev wan1 table 4077");
        netns.ip("rule add pref 4300 iif wan1 to 10.3.0.0/16 lookup 4077");
        ping(&far, 64, "10.3.9.9");
        let counters = kernel.counters().await.expect("readable");
        assert_eq!(counters["hairpin"].packets, PINGS, "{counters:?}");
    });
}
