//! What a border should have: two links, a class with two VIPs, both families.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use nett_policy::fabric::Family;
use nett_policy::id::Weight;
use nett_policy::lower::object::{
    Guard, GuardKind, GuardMark, Layout, Nexthop, NexthopId, NodeState, RouteKey, RouteTarget,
    Rule, RuleAction, Table,
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
    Nexthop::Group { family, members: members.collect() }
}

pub(crate) fn guard(kind: GuardKind) -> Guard {
    let mark =
        |interface: &str, index| GuardMark { interface: interface.to_owned(), index, source: None };
    Guard {
        kind,
        mark_mask: Layout::default().mark_mask,
        marks: BTreeSet::from([mark("wan0", 1), mark("wan1", 2)]),
        outer: BTreeSet::from(["wan0".to_owned(), "wan1".to_owned()]),
        site: nets(&["10.1.0.0/16", "10.1.7.0/24", "fd01::/32"]),
        remote: nets(&["10.2.0.0/16", "10.3.0.0/16", "fd02::/32"]),
        vips: nets(&["198.51.100.0/24", "fd99::/48"]),
        drained: BTreeSet::from([
            "198.51.100.9".parse().expect("an address"),
            "fd99::9".parse().expect("an address"),
        ]),
        unreachable: BTreeSet::from([
            "198.51.100.7".parse().expect("an address"),
            "fd99::7".parse().expect("an address"),
        ]),
    }
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
        all.insert(NexthopId::site(1, family), group(family, &ways));
    }
    all
}

fn routes(layout: &Layout) -> BTreeMap<RouteKey, RouteTarget> {
    let active = Layout::METRIC_ACTIVE;
    let floor = Layout::METRIC_FLOOR;
    let mut all = BTreeMap::new();
    let families = [
        (Family::V4, "198.51.100.1/32", "198.51.100.0/24", "10.2.0.0/16"),
        (Family::V6, "fd99::1/128", "fd99::/48", "fd02::/32"),
    ];
    for (family, vip, range, remote) in families {
        let class = RouteTarget::Nexthop(NexthopId::class(0, family));
        let site = RouteTarget::Nexthop(NexthopId::site(1, family));
        let default = family.default_route().to_string();
        all.insert(route(layout.table_svc, vip, active), class);
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
