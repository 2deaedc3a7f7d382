//! What a border should have: two links, a class with two VIPs, both families.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use nett_policy::fabric::Family;
use nett_policy::id::Weight;
use nett_policy::lower::object::{
    ClassNumber, Guard, GuardElement, GuardKind, GuardMark, GuardSet, Layout, Nexthop, NexthopId,
    NodeState, RouteKey, RouteTarget, Rule, RuleAction, Subject, Table,
};

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

pub(crate) fn nets(list: &[&str]) -> BTreeSet<IpNet> {
    list.iter().map(|text| net(text)).collect()
}

pub(crate) fn weight(value: u32) -> Weight {
    Weight::new(value).expect("1 to 256")
}

pub(crate) fn route(table: Table, destination: &str, metric: u32) -> RouteKey {
    RouteKey { table, destination: net(destination), metric }
}

pub(crate) fn group(family: Family, members: &[(NexthopId, u32)]) -> Nexthop {
    let members = members.iter().map(|(id, w)| (*id, weight(*w)));
    Nexthop::Group { family, members: members.collect(), buckets: None }
}

pub(crate) fn guard(kind: GuardKind) -> Guard {
    let mark =
        |interface: &str, index| GuardMark { interface: interface.to_owned(), index, source: None };
    Guard {
        kind,
        mark_mask: Layout::default().mark_mask,
        marks: BTreeSet::from([mark("wan0", 1), mark("wan1", 2)]),
        outer: BTreeSet::from(["wan0".to_owned(), "wan1".to_owned()]),
        ways: BTreeSet::from(["core0", "wan0", "wan1"].map(str::to_owned)),
        site: nets(&["10.1.0.0/16", "10.1.7.0/24", "fd01::/32"]),
        remote: nets(&["10.2.0.0/16", "10.3.0.0/16", "fd02::/32"]),
        vips: nets(&["198.51.100.0/24", "fd99::/48"]),
        classes: Arc::new(classes()),
        failover: BTreeMap::new(),
        transit: BTreeSet::new(),
        refused: refused(),
    }
}

/// Class 0 is served; of class 1, nobody serves one VIP and another has no way at all.
fn classes() -> BTreeMap<IpAddr, ClassNumber> {
    let mut all = BTreeMap::new();
    for (family, net) in [(Family::V4, "198.51.100."), (Family::V6, "fd99::")] {
        for (host, slot) in [(1, 0), (2, 0), (3, 2), (7, 1), (9, 1)] {
            let vip = address(&format!("{net}{host}"));
            all.insert(vip, ClassNumber::new(slot, family));
        }
    }
    all
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn element(set: GuardSet, vip: &str) -> GuardElement {
    GuardElement { set, subject: Subject::Vip(address(vip)) }
}

/// VIPs 9 and 7 stand apart, and class 2 is not delivered here.
fn refused() -> BTreeSet<GuardElement> {
    let mut all = BTreeSet::new();
    for (family, net) in [(Family::V4, "198.51.100."), (Family::V6, "fd99::")] {
        for host in [7, 9] {
            for set in [GuardSet::Apart, GuardSet::ShutIn, GuardSet::ShutOut] {
                all.insert(element(set, &format!("{net}{host}")));
            }
        }
        all.insert(element(GuardSet::Drained, &format!("{net}9")));
        let subject = Subject::Class(ClassNumber::new(2, family));
        all.insert(GuardElement { set: GuardSet::ShutIn, subject });
    }
    all
}

/// The group of a class without a way.
pub(crate) fn shut(family: Family) -> Nexthop {
    group(family, &[(NexthopId::blackhole(family), 1)])
}

fn nexthops() -> BTreeMap<NexthopId, Nexthop> {
    let mut all = BTreeMap::new();
    for family in Family::BOTH {
        for index in [1, 2] {
            let gateway = match family {
                Family::V4 => format!("192.0.2.{}", 4 * (index - 1) + 2),
                Family::V6 => format!("fd00:{}::2", index - 1),
            };
            let single = Nexthop::Single {
                gateway: gateway.parse().expect("an address"),
                interface: format!("wan{}", index - 1),
            };
            all.insert(NexthopId::link(index, family), single);
        }
        let ways = [1, 2].map(|index| (NexthopId::link(index, family), 1));
        all.insert(NexthopId::class(0, family), group(family, &ways));
        all.insert(NexthopId::blackhole(family), Nexthop::Blackhole { family });
        all.insert(NexthopId::class_in(2, family), shut(family));
        all.insert(NexthopId::site(1, family), group(family, &ways));
    }
    all
}

fn routes(layout: &Layout) -> BTreeMap<RouteKey, RouteTarget> {
    let active = Layout::METRIC_ACTIVE;
    let floor = Layout::METRIC_FLOOR;
    let mut all = BTreeMap::new();
    let families = [
        (Family::V4, "198.51.100.1/32", "198.51.100.3/32", "198.51.100.0/24", "10.2.0.0/16"),
        (Family::V6, "fd99::1/128", "fd99::3/128", "fd99::/48", "fd02::/32"),
    ];
    for (family, vip, shut_vip, range, remote) in families {
        let class = RouteTarget::Nexthop(NexthopId::class(0, family));
        let site = RouteTarget::Nexthop(NexthopId::site(1, family));
        let default = family.default_route().to_string();
        all.insert(route(layout.table_svc, vip, active), class);
        let shut = RouteTarget::Nexthop(NexthopId::class_in(2, family));
        all.insert(route(layout.table_in, shut_vip, active), shut);
        all.insert(route(layout.table_svc, range, floor), RouteTarget::Unreachable);
        all.insert(route(layout.table_in, range, floor), RouteTarget::Unreachable);
        all.insert(route(layout.table_xs, remote, active), site);
        all.insert(route(layout.table_xs, remote, floor), RouteTarget::Unreachable);
        for index in [1, 2] {
            let table = layout.table_return(index);
            let way = RouteTarget::Nexthop(NexthopId::link(index, family));
            all.insert(route(table, &default, active), way);
            all.insert(route(table, &default, floor), RouteTarget::Unreachable);
        }
    }
    all
}

fn rules(layout: &Layout) -> BTreeSet<Rule> {
    let lookup = |table, suppress_prefixlength| RuleAction::Lookup { table, suppress_prefixlength };
    let main = Table(254);
    let mut all = BTreeSet::new();
    for (family, range) in [(Family::V4, "198.51.100.0/24"), (Family::V6, "fd99::/48")] {
        let mut add = |offset, change: &dyn Fn(&mut Rule), action| {
            let mut rule = Rule {
                priority: layout.rule_base + offset,
                family,
                iif: None,
                fwmark: None,
                from: None,
                to: None,
                action,
            };
            change(&mut rule);
            all.insert(rule);
        };
        for wan in ["wan0", "wan1"] {
            let iif = move |r: &mut Rule| r.iif = Some(wan.to_owned());
            let sent = move |r: &mut Rule| {
                iif(r);
                r.fwmark = Some((Layout::MARK_SENT, Layout::MARK_CLASS));
            };
            let from = move |r: &mut Rule| {
                iif(r);
                r.from = Some(net(range));
            };
            add(0, &sent, lookup(main, None));
            add(1, &from, lookup(main, None));
            add(10, &iif, lookup(layout.table_in, None));
            add(19, &iif, RuleAction::Unreachable);
        }
        for index in [1, 2] {
            let mark = Layout::MARK_CAME | index;
            let marked = move |r: &mut Rule| r.fwmark = Some((mark, 0x307f));
            let table = Table(layout.table_return_base + index);
            add(20, &marked, lookup(table, None));
        }
        add(30, &|_| {}, lookup(layout.table_svc, None));
        let vip = |r: &mut Rule| r.to = Some(net(range));
        add(31, &vip, RuleAction::Unreachable);
        add(40, &|_| {}, lookup(main, Some(0)));
        add(60, &|_| {}, lookup(layout.table_xs, None));
    }
    all
}

pub(crate) fn border() -> NodeState {
    let layout = Layout::default();
    NodeState {
        nexthops: nexthops(),
        routes: routes(&layout),
        rules: rules(&layout),
        guard: Some(guard(GuardKind::Border)),
        answers: BTreeMap::new(),
    }
}
