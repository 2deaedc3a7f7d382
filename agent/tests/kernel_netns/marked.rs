//! Failover traffic on its way over a link: marked in the words of nft, of tc and of the far end.

use std::collections::BTreeMap;
use std::sync::Arc;

use nett_agent::kernel::Kernel;
use nett_policy::fabric::Family;
use nett_policy::failover::WayOut;
use nett_policy::lower::object::{
    ClassNumber, Guard, GuardElement, GuardKind, GuardSet, NodeState, Subject,
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

/// Marks on both links; the class is failover traffic over the first.
fn marked(mut guard: Guard, slot: u32) -> Guard {
    let mark = |text: &str| text.parse().expect("a mark");
    guard.failover = BTreeMap::from([
        ("wan0".to_owned(), mark("dscp 10 class 1:20")),
        ("wan1".to_owned(), mark("dscp 63")),
    ]);
    for family in Family::BOTH {
        for set in [GuardSet::FailoverTo, GuardSet::FailoverFrom] {
            let subject = Subject::Class(ClassNumber::new(slot, family));
            let set = set(WayOut::new("wan0"));
            guard.refused.insert(GuardElement { set, subject });
        }
    }
    guard
}

/// As [`marked`], with a VIP apart.
fn listed() -> Guard {
    let mut guard = marked(state::guard(GuardKind::Border), 0);
    for vip in ["198.51.100.7", "fd99::7"] {
        guard.refused.insert(state::element(GuardSet::FailoverTo(WayOut::new("wan1")), vip));
        guard.refused.insert(state::element(GuardSet::FailoverFrom(WayOut::new("wan0")), vip));
    }
    guard
}

/// What nft lists of the parts that mark.
const PARTS: [&str; 17] = [
    "map inet nett to_class4",
    "map inet nett to_class6",
    "map inet nett from_class4",
    "map inet nett from_class6",
    "set inet nett failover_to",
    "set inet nett failover_to4",
    "set inet nett failover_to6",
    "set inet nett failover_from",
    "set inet nett failover_from4",
    "set inet nett failover_from6",
    "map inet nett marked_by",
    "chain inet nett failover_mark",
    "chain inet nett to_class_0",
    "chain inet nett from_class_11",
    "chain inet nett mark_to",
    "chain inet nett mark_from",
    "chain inet nett fwd_mark",
];

/// Gives a host's loopback the first VIP of a family, at once.
fn served(family: Family) -> String {
    let nodad = if family == Family::V6 { " nodad" } else { "" };
    format!("addr add {} dev lo{nodad}", address(family, 1))
}

#[test]
fn nft_prints_what_marks_as_it_was_meant_and_the_rest_as_without() {
    let Printed { plain, whole } =
        printed(&listed(), "marked.nft", &PARTS, ["fwd_mark", "to_class_0"]);
    // Everything of the table without marks is in the one with them, in that order.
    let mut lines = whole.lines();
    for line in plain.lines() {
        assert!(lines.any(|other| other == line), "{line} is missing:\n{whole}");
    }
}

#[test]
fn every_part_is_read_back_and_what_others_change_is_put_right() {
    let netns = Netns::border();
    let guard = listed();
    let commands = [
        "delete element inet nett failover_to { 0x0 . \"wan0\" }",
        "delete element inet nett failover_from6 { fd99::7 . \"wan0\" }",
        "add element inet nett failover_to4 { 198.51.100.1 . \"wan1\" }",
        "delete element inet nett to_class4 { 198.51.100.2 : jump to_class_0 }",
        "delete element inet nett from_class6 { fd99::3 : jump from_class_11 }; \
         add element inet nett from_class6 { fd99::3 : jump from_class_9 }",
        "delete element inet nett from_class4 { 198.51.100.3 : jump from_class_10 }; \
         add element inet nett from_class4 { 198.51.100.3 : jump to_class_10 }",
        "flush chain inet nett to_class_9",
        "flush chain inet nett mark_from",
        "delete element inet nett marked_by { \"wan1\" }",
        "flush chain inet nett failover_mark",
        "insert rule inet nett fwd_mark return",
    ];
    is_kept(&netns, &guard, &commands);
    // Without the setting nothing of it is left.
    netns.inside(async || {
        let mut kernel = open();
        reach(&mut kernel, &with(&state::guard(GuardKind::Border))).await;
    });
    let listed = netns.nft("list table inet nett").expect("nft");
    assert!(!listed.contains("failover") && !listed.contains("to_class"), "{listed}");
    assert!(!listed.contains("marked.") && !listed.contains("from_class"), "{listed}");
}

#[test]
fn who_is_marked_changes_as_elements_and_a_class_with_its_number() {
    let netns = Netns::border();
    let guard = listed();
    netns.inside(async || {
        let mut kernel = open();
        reach(&mut kernel, &with(&guard)).await;
        let mut next = guard.clone();
        let gone =
            next.refused.iter().filter(|e| e.set == GuardSet::FailoverTo(WayOut::new("wan0")));
        let gone: Vec<GuardElement> = gone.copied().collect();
        assert_eq!(gone.len(), 2);
        next.refused.retain(|element| !gone.contains(element));
        let ops = plan(&with(&next), &with(&guard)).ops;
        assert!(matches!(&ops[..], [Op::Elements { .. }]), "{ops:?}");
        for _ in 0..2 {
            kernel.apply(&ops[0]).await.expect("applies twice");
        }
        let read = kernel.read().await.expect("readable");
        assert_eq!((read.state.guard.as_ref(), &read.guard_damage), (Some(&next), &None));

        let mut classes = (*next.classes).clone();
        classes.remove(&state::address("198.51.100.3"));
        classes.insert(state::address("198.51.100.1"), ClassNumber::new(77, Family::V4));
        let before = next.clone();
        next.classes = Arc::new(classes);
        let ops = plan(&with(&next), &with(&before)).ops;
        assert!(matches!(&ops[..], [Op::Classes { .. }]), "{ops:?}");
        for _ in 0..2 {
            kernel.apply(&ops[0]).await.expect("applies twice");
        }
        // Another look from the beginning: nothing is remembered.
        let read = open().read().await.expect("readable");
        assert_eq!((read.state.guard.as_ref(), &read.guard_damage), (Some(&next), &None));
    });
    for (map, chain) in [("to_class4", "to_class_268"), ("from_class4", "from_class_268")] {
        let map = netns.nft(&format!("list map inet nett {map}")).expect("nft");
        let there = map.contains(&format!("198.51.100.1 : jump {chain}"));
        assert!(there && !map.contains("198.51.100.3"), "{map}");
    }
    let chains = netns.nft("list chains inet").expect("nft");
    assert!(chains.contains("chain to_class_268 ") && !chains.contains("class_10 "), "{chains}");
}

/// Packets of both families that may have no answer, with both bits of ECN set.
fn ping(from: &Netns, source: Option<u32>, to: impl Fn(Family) -> String) {
    for family in Family::BOTH {
        let source = source.map(|n| format!("-I {}", address(family, n))).unwrap_or_default();
        let command = format!("ping -q -Q 0x03 -c {PINGS} -i 0.01 -W 0.01 {source} {}", to(family));
        let words: Vec<&str> = command.split_whitespace().collect();
        let _ = from.run(&words);
    }
}

/// What a neighbour sees, by whom it is about: the checksum was right, or the kernel would have
/// dropped it before.
fn watch(netns: &Netns) {
    let mut rules = String::new();
    for (family, echo) in [("ip", "icmp"), ("ip6", "icmpv6")] {
        for (name, field, number) in
            [("to", "daddr", 1), ("apart", "daddr", 2), ("from", "saddr", 1)]
        {
            let of = if family == "ip" { Family::V4 } else { Family::V6 };
            let vip = address(of, number);
            rules += &format!(
                "{family} {field} {vip} {family} dscp 10 {family} ecn ce \
                 counter name {name}_marked\n\
                 {family} {field} {vip} {family} dscp 0 {family} ecn ce \
                 counter name {name}_plain\n"
            );
        }
        rules += &format!("{echo} type echo-request {family} dscp 10 counter name marked\n");
    }
    let names =
        ["to_marked", "to_plain", "apart_marked", "apart_plain", "from_marked", "from_plain"];
    let counters: String =
        names.iter().chain(&["marked"]).map(|name| format!("counter {name} {{ }}\n")).collect();
    let table = format!(
        "table inet watch {{\n{counters}chain arrives {{\n\
         type filter hook prerouting priority -300\n{rules}}}\n}}"
    );
    netns.nft(&table).unwrap_or_else(|e| panic!("{table}: {e}"));
}

fn seen(netns: &Netns, name: &str) -> u64 {
    let text = netns.nft(&format!("list counter inet watch {name}")).expect("the counter");
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "packets").expect("packets");
    words[at + 1].parse().expect("a number")
}

/// The packets that a class of tc has sent over the first link.
fn sent(netns: &Netns, class: &str) -> u64 {
    let text = netns.run(&["tc", "-s", "class", "show", "dev", "wan0"]).expect("tc");
    let rest = text.split_once(&format!("class htb {class} ")).expect("the class").1;
    let words: Vec<&str> = rest.split_whitespace().skip_while(|word| *word != "Sent").collect();
    words[3].parse().expect("a number of packets")
}

#[test]
fn packets_of_what_failed_over_are_marked_and_no_others() {
    let netns = Netns::border();
    let [outside, host] = neighbours(&netns);
    for command in [
        "qdisc add dev wan0 root handle 1: htb default 10",
        "class add dev wan0 parent 1: classid 1:10 htb rate 1gbit",
        "class add dev wan0 parent 1: classid 1:20 htb rate 1gbit",
    ] {
        netns
            .run(&[&["tc"][..], &command.split(' ').collect::<Vec<_>>()[..]].concat())
            .expect("tc");
    }
    // Answers of a VIP at this site, to the far end.
    for family in Family::BOTH {
        host.ip(&served(family));
    }
    watch(&outside);
    watch(&host);
    let far = |family: Family| match family {
        Family::V4 => "192.0.2.2".to_owned(),
        Family::V6 => "fd00:0::2".to_owned(),
    };
    let vip = |n: u32| move |family: Family| address(family, n);
    let both = 2 * PINGS;
    netns.inside(async || {
        let mut kernel = open();
        let mut desired = state_of(&[]);
        let guard = desired.guard.take().expect("a border has one");
        desired.guard = Some(marked(guard.clone(), SLOT));
        // One VIP stands apart and is not away.
        let apart = |desired: &mut NodeState| {
            let guard = desired.guard.as_mut().expect("a border has one");
            for family in Family::BOTH {
                guard.refused.insert(state::element(GuardSet::Apart, &address(family, 2)));
            }
        };
        apart(&mut desired);
        // What the far end is, is another site.
        let remote = |desired: &mut NodeState| {
            let guard = desired.guard.as_mut().expect("a border has one");
            guard.remote.extend(state::nets(&["192.0.2.0/30", "fd00:0::/64"]));
        };
        remote(&mut desired);
        reach(&mut kernel, &desired).await;

        // The host does not have the first VIP that it asks for.
        for family in Family::BOTH {
            host.ip(&format!("addr del {} dev lo", address(family, 1)));
        }
        ping(&host, None, vip(1));
        assert_eq!((seen(&outside, "to_marked"), seen(&outside, "to_plain")), (both, 0));
        assert_eq!(sent(&netns, "1:20"), both);
        ping(&host, None, vip(2));
        assert_eq!((seen(&outside, "apart_marked"), seen(&outside, "apart_plain")), (0, both));
        ping(&host, None, far);
        assert_eq!(seen(&outside, "marked"), both, "no service, no mark");
        for family in Family::BOTH {
            host.ip(&served(family));
        }
        ping(&host, Some(1), far);
        assert_eq!((seen(&outside, "from_marked"), seen(&outside, "from_plain")), (both, 0));
        assert_eq!(sent(&netns, "1:20"), 2 * both);
        let counters = kernel.counters().await.expect("readable");
        assert_eq!(counters["marked.wan0"].packets, 2 * both, "{counters:?}");
        assert_eq!(counters["marked.wan1"].packets, 0);
        // Who it goes to stands apart and is at home; who it comes from is not, and it is marked.
        ping(&host, Some(1), vip(2));
        assert_eq!((seen(&outside, "from_marked"), seen(&outside, "from_plain")), (2 * both, 0));
        assert_eq!(kernel.counters().await.expect("readable")["marked.wan0"].packets, 3 * both);
        // Both are away, and it is counted once.
        ping(&host, Some(1), vip(0));
        assert_eq!((seen(&outside, "from_marked"), seen(&outside, "from_plain")), (3 * both, 0));
        assert_eq!(kernel.counters().await.expect("readable")["marked.wan0"].packets, 4 * both);
        // What comes into the site is not marked.
        assert_eq!(seen(&host, "marked"), 0);

        // At home again: the same packets go as they came.
        let mut home = desired.clone();
        home.guard =
            Some(Guard { failover: desired.guard.clone().expect("one").failover, ..guard });
        apart(&mut home);
        remote(&mut home);
        reach(&mut kernel, &home).await;
        ping(&host, Some(1), far);
        assert_eq!((seen(&outside, "from_marked"), seen(&outside, "from_plain")), (3 * both, both));
        let counters = kernel.counters().await.expect("readable");
        assert_eq!(counters["marked.wan0"].packets, 4 * both, "it goes on where it was");
    });
}
