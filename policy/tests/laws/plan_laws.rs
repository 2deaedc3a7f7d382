//! A plan leads from what is to what should be, and may stop anywhere on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use nett_policy::fabric::Family;
use nett_policy::failover::WayOut;
use nett_policy::id::{NodeId, Weight};
use nett_policy::lower::LinksUp;
use nett_policy::lower::object::{
    Buckets, ClassNumber, Guard, GuardElement, GuardKind, GuardMark, GuardSet, Layout, Nexthop,
    NexthopId, NodeState, RouteKey, RouteTarget, Rule, RuleAction, Subject, Table,
};
use nett_policy::plan::{Op, plan};
use proptest::prelude::*;
use proptest::sample::subsequence;

use super::desk::{Desk, Nodes, Order, orders};
use super::ground::Ground;
use super::machine::{apply, whole};

/// Holds every law for one pair of states.
fn holds(desired: &NodeState, actual: &NodeState) -> Result<(), String> {
    let plan_of = plan(desired, actual);
    let mut state = actual.clone();
    whole(&state)?;
    for op in &plan_of.ops {
        apply(&mut state, op)?;
        kept(desired, actual, &state).map_err(|what| format!("after {op}: {what}"))?;
        // A stop here and a new start must come to the same end.
        let mut resumed = state.clone();
        plan(desired, &state).ops.iter().try_for_each(|op| apply(&mut resumed, op))?;
        if resumed != *desired {
            return Err(format!("a plan made after {op} leads elsewhere"));
        }
    }
    if state != *desired {
        return Err("the plan leads elsewhere".to_owned());
    }
    let again = plan(desired, &state);
    if !again.is_empty() {
        return Err(format!("planning again gives\n{again}"));
    }
    if plan_of.is_empty() != (desired == actual) {
        return Err("only equal states have an empty plan".to_owned());
    }
    Ok(())
}

/// What both sides have is there at every moment, as one of the two has it.
fn kept(desired: &NodeState, actual: &NodeState, now: &NodeState) -> Result<(), String> {
    for (key, to) in &desired.routes {
        let Some(from) = actual.routes.get(key) else { continue };
        match now.routes.get(key) {
            Some(target) if target == to || target == from => {}
            Some(_) | None => return Err(format!("route {key} is away")),
        }
    }
    for (id, to) in &desired.nexthops {
        let Some(from) = actual.nexthops.get(id) else { continue };
        match now.nexthops.get(id) {
            Some(nexthop) if nexthop == to || nexthop == from => {}
            Some(_) | None => return Err(format!("nexthop {id} is away")),
        }
    }
    if let Some(rule) = desired.rules.intersection(&actual.rules).find(|r| !now.rules.contains(r)) {
        return Err(format!("rule {rule} is away"));
    }
    if desired.guard.is_some() && actual.guard.is_some() && now.guard.is_none() {
        return Err("the table is away".to_owned());
    }
    Ok(())
}

/// A way through the kernel: gateways with their weights, or none.
fn way(state: &NodeState, target: RouteTarget) -> Vec<(Nexthop, u32)> {
    let RouteTarget::Nexthop(id) = target else { return Vec::new() };
    match &state.nexthops[&id] {
        Nexthop::Group { family: _, members, buckets: _ } => {
            let member = |(id, weight): (&NexthopId, &Weight)| {
                (state.nexthops[id].clone(), u32::from(weight.get()))
            };
            let mut all: Vec<_> = members.iter().map(member).collect();
            all.retain(|(nexthop, _)| !matches!(nexthop, Nexthop::Blackhole { .. }));
            all.sort();
            all
        }
        single @ Nexthop::Single { .. } => vec![(single.clone(), 1)],
        Nexthop::Blackhole { .. } => Vec::new(),
    }
}

/// No route goes a third way while its group, or those of others, change.
fn faithful(desired: &NodeState, actual: &NodeState) -> Result<(), String> {
    let mut now = actual.clone();
    for op in &plan(desired, actual).ops {
        apply(&mut now, op)?;
        for (key, target) in &now.routes {
            let ends = [desired, actual].map(|s| s.routes.get(key).map(|t| way(s, *t)));
            if !ends.contains(&Some(way(&now, *target))) {
                return Err(format!("after {op}: route {key} goes a third way"));
            }
        }
    }
    Ok(())
}

/// What a node has whose agent knew no blackholes: routes without a way are `unreachable`, services
/// that depart into the site share the group of `nett-in`, and its nft table is of another version.
fn former(state: &NodeState) -> NodeState {
    let black = |id: &NexthopId| matches!(state.nexthops.get(id), Some(Nexthop::Blackhole { .. }));
    let shut = |id: &NexthopId| match state.nexthops.get(id) {
        Some(Nexthop::Group { members, .. }) => members.keys().all(black),
        _ => black(id),
    };
    let local = NexthopId::class_local(0, Family::V4).0;
    let is_local = |id: &NexthopId| id.0 >= local && (id.0 - local) % 8 < 2;
    let old_id = |id: &NexthopId| if is_local(id) { NexthopId(id.0 - 4) } else { *id };
    let old_target = |target: &RouteTarget| match target {
        RouteTarget::Nexthop(id) if shut(id) => RouteTarget::Unreachable,
        RouteTarget::Nexthop(id) => RouteTarget::Nexthop(old_id(id)),
        RouteTarget::Unreachable => RouteTarget::Unreachable,
    };
    let kept = state.nexthops.iter().filter(|(id, _)| !shut(id));
    NodeState {
        nexthops: kept.map(|(id, nexthop)| (old_id(id), nexthop.clone())).collect(),
        routes: state.routes.iter().map(|(key, to)| (*key, old_target(to))).collect(),
        guard: state.guard.as_ref().map(|guard| Guard {
            mark_mask: 0,
            classes: Arc::default(),
            refused: BTreeSet::new(),
            ..guard.clone()
        }),
        ..state.clone()
    }
}

/// Ids by kind, as `Layout` cuts the range: an id is never single here and group there.
fn singles() -> Vec<NexthopId> {
    let mut ids: Vec<NexthopId> = (1..=3).map(|n| NexthopId::link(n, Family::V4)).collect();
    ids.extend((1..=3).map(|n| NexthopId::node(n, Family::V4)));
    ids
}

fn groups() -> Vec<NexthopId> {
    let of = |class| [NexthopId::class(class, Family::V4), NexthopId::class_in(class, Family::V4)];
    (0..3).flat_map(of).chain([NexthopId::site(1, Family::V4)]).collect()
}

fn single() -> impl Strategy<Value = Nexthop> {
    (1..4u8, 0..2u8).prop_map(|(host, device)| Nexthop::Single {
        gateway: [10, 0, 0, host].into(),
        interface: format!("wan{device}"),
    })
}

prop_compose! {
    fn nexthops()(
        chosen in subsequence(singles(), 0..=6),
        values in prop::collection::vec(single(), 6),
        group_ids in subsequence(groups(), 0..=7),
        members in prop::collection::vec((0..64u32, 1..4u32), 7),
    ) -> BTreeMap<NexthopId, Nexthop> {
        let mut all: BTreeMap<_, _> = chosen.iter().copied().zip(values).collect();
        for (id, (bits, weight)) in group_ids.into_iter().zip(members) {
            let weight = Weight::new(weight).expect("1 to 3");
            let place = |n: usize| 1u32.checked_shl(u32::try_from(n).expect("small"));
            let is_in = |n: usize| place(n).is_some_and(|bit| bits & bit != 0);
            let picked = chosen.iter().enumerate().filter(|(n, _)| is_in(*n));
            let members: BTreeMap<_, _> = picked.map(|(_, id)| (*id, weight)).collect();
            let black = BTreeMap::from([(NexthopId::blackhole(Family::V4), Weight::ONE)]);
            let members = if members.is_empty() { black } else { members };
            all.insert(id, Nexthop::Group { family: Family::V4, members, buckets: None });
        }
        let black = Nexthop::Blackhole { family: Family::V4 };
        all.insert(NexthopId::blackhole(Family::V4), black);
        all
    }
}

fn rules() -> impl Strategy<Value = BTreeSet<Rule>> {
    let rule = (4400..4405u32, 0..3u32).prop_map(|(priority, table)| Rule {
        priority,
        family: Family::V4,
        iif: None,
        fwmark: None,
        from: None,
        to: None,
        action: match table {
            0 => RuleAction::Unreachable,
            n => RuleAction::Lookup { table: Table(7000 + n), suppress_prefixlength: None },
        },
    });
    prop::collection::btree_set(rule, 0..4)
}

/// Any two of two classes with four VIPs and one without a class, in any of the sets.
fn guard() -> impl Strategy<Value = Option<Guard>> {
    let vip = |n: u8| IpAddr::from([10, 99, 0, n]);
    let classes = prop::collection::btree_map(0..4u8, 0..2u32, 0..5);
    let set = prop_oneof![
        Just(GuardSet::Apart),
        Just(GuardSet::Drained),
        Just(GuardSet::ShutIn),
        Just(GuardSet::ShutOut),
        Just(GuardSet::FailoverTo(WayOut::new("wan0"))),
        Just(GuardSet::Carried(WayOut::new("wan0"))),
    ];
    let of_class = |(set, class)| match set {
        GuardSet::Apart => None,
        set => Some(GuardElement { set, subject: Subject::Class(ClassNumber(class)) }),
    };
    let of_classes = prop::collection::btree_set((set.clone(), 0..2u32), 0..4);
    let of_vips = prop::collection::btree_set((set, 0..5u8), 0..8);
    let guard = (1..3u8, classes, of_classes, of_vips);
    let guard = guard.prop_map(move |(index, classes, of_classes, of_vips)| {
        let of_vip = |(set, n)| GuardElement { set, subject: Subject::Vip(vip(n)) };
        let classes = classes.into_iter().map(|(n, class)| (vip(n), ClassNumber(class)));
        Guard {
            kind: GuardKind::Border,
            mark_mask: 0x307f,
            marks: BTreeSet::from([GuardMark {
                interface: "wan0".to_owned(),
                index,
                source: None,
            }]),
            outer: BTreeSet::from(["wan0".to_owned()]),
            ways: BTreeSet::from(["core".to_owned(), "wan0".to_owned()]),
            site: BTreeSet::new(),
            remote: BTreeSet::new(),
            vips: BTreeSet::new(),
            classes: Arc::new(classes.collect()),
            failover: BTreeMap::new(),
            transit: BTreeSet::from([["wan0", "wan1"].map(str::to_owned)]),
            refused: of_classes
                .into_iter()
                .filter_map(of_class)
                .chain(of_vips.into_iter().map(of_vip))
                .collect(),
        }
    });
    prop::option::weighted(0.8, guard)
}

/// Nobody is let in before the routes have changed who is refused before, and who will be refused
/// is by then. Who is carried on to another site is so while both states say it.
fn refuses(desired: &NodeState, actual: &NodeState) -> Result<(), String> {
    let (Some(to), Some(from)) = (&desired.guard, &actual.guard) else { return Ok(()) };
    let mut now = actual.clone();
    for op in &plan(desired, actual).ops {
        let routes = matches!(op, Op::ReplaceNexthop { .. } | Op::ReplaceRoute { .. });
        let guard = now.guard.as_ref().filter(|_| routes);
        for (vip, class) in guard.iter().flat_map(|guard| &*guard.classes) {
            // A VIP that changes its class belongs to neither for a moment.
            let same = [from, to].map(|g| g.classes.get(vip)) == [Some(class); 2];
            for set in GuardSet::REFUSING.into_iter().filter(|_| same) {
                let due = from.refuses(*vip, set) || to.refuses(*vip, set);
                if guard.is_some_and(|guard| guard.refuses(*vip, set) != due) {
                    return Err(format!("at {op}: {vip} and {set:?}, which should be {due}"));
                }
            }
            let carried = GuardSet::Carried(WayOut::new("wan0"));
            let due = [from, to].iter().all(|g| g.refuses(*vip, carried));
            if same && guard.is_some_and(|guard| guard.refuses(*vip, carried) != due) {
                return Err(format!("at {op}: {vip} is carried, or not: it should be {due}"));
            }
        }
        apply(&mut now, op)?;
    }
    Ok(())
}

prop_compose! {
    /// Any node state in which nothing points at something missing.
    fn states()(
        nexthops in nexthops(),
        rules in rules(),
        guard in guard(),
        routes in prop::collection::vec((0..2u32, 0..5u8, any::<bool>(), 0..16usize), 0..10),
    ) -> NodeState {
        let ids: Vec<NexthopId> = nexthops.keys().copied().collect();
        let route = |(table, host, floor, pick): (u32, u8, bool, usize)| {
            let metric = if floor { Layout::METRIC_FLOOR } else { Layout::METRIC_ACTIVE };
            let destination = ipnet::IpNet::from(std::net::IpAddr::from([10, 99, 0, host]));
            let key = RouteKey { table: Table(7000 + table), destination, metric };
            // One pick more than there are ids: `unreachable`.
            let target = ids.get(pick % (ids.len() + 1)).copied();
            (key, target.map_or(RouteTarget::Unreachable, RouteTarget::Nexthop))
        };
        let routes = routes.into_iter().map(route).collect();
        NodeState { nexthops, routes, rules, guard, answers: BTreeMap::new() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_two_states_have_a_plan_that_may_stop_anywhere(a in states(), b in states()) {
        holds(&a, &b).map_err(TestCaseError::fail)?;
        refuses(&a, &b).map_err(TestCaseError::fail)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_nodes_should_have_before_and_after_any_task(
        first in orders(),
        second in orders(),
        links in (0..4usize, 0..4usize),
        stays in any::<bool>(),
    ) {
        let ground = if stays { Ground::resilient() } else { Ground::two_sites() };
        let before = after_tasks(&ground, &[&first]);
        let after = after_tasks(&ground, &[&first, &second]);
        let up = |bits: usize| {
            let all = ground.links().into_iter().enumerate();
            let up: LinksUp =
                all.filter(|(n, _)| bits & (1 << n) != 0).map(|(_, link)| link).collect();
            move |_: &NodeId| up.clone()
        };
        let before = ground.lower(&before, &up(links.0));
        let after = ground.lower(&after, &up(links.1));
        for (node, desired) in &after {
            let named = |why| TestCaseError::fail(format!("{node}: {why}"));
            holds(desired, &before[node]).map_err(named)?;
            faithful(desired, &before[node]).map_err(named)?;
            refuses(desired, &before[node]).map_err(named)?;
            for old in [former(&before[node]), former(desired)] {
                holds(desired, &old).map_err(named)?;
                faithful(desired, &old).map_err(named)?;
            }
            holds(desired, &NodeState::default()).map_err(TestCaseError::fail)?;
            holds(&NodeState::default(), desired).map_err(TestCaseError::fail)?;
        }
    }
}

/// A group of another type or size under the id of a resilient one, which the kernel does not
/// change in place: it goes and comes again, and no route is without a way meanwhile.
#[test]
fn a_group_that_cannot_be_changed_in_place_is_made_anew() {
    let ground = Ground::resilient();
    let up = ground.links().into_iter().collect::<LinksUp>();
    let states = ground.lower(&after_tasks(&ground, &[]), &|_| up.clone());
    let mut anew = 0;
    for (node, desired) in &states {
        let others = [None, Some(Buckets { count: 7, idle: 100, unbalanced: 0 })];
        for other in others {
            let mut actual = desired.clone();
            for nexthop in actual.nexthops.values_mut() {
                if let Nexthop::Group { buckets: buckets @ Some(_), .. } = nexthop {
                    *buckets = other;
                }
            }
            let plan = plan(desired, &actual);
            let replaced =
                |op: &&Op| matches!(op, Op::ReplaceNexthop { from, to, .. } if !from.becomes(to));
            assert_eq!(plan.ops.iter().find(replaced), None, "{node}: {plan}");
            anew += plan.ops.iter().filter(|op| matches!(op, Op::AddNexthop(..))).count();
            let mut now = actual.clone();
            for op in &plan.ops {
                apply(&mut now, op).unwrap_or_else(|why| panic!("{node}: {why}"));
                for (key, target) in &desired.routes {
                    let way = now.routes.get(key).map(|target| way(&now, *target));
                    let has_way = !self::way(desired, *target).is_empty();
                    assert!(
                        !has_way || way.is_some_and(|way| !way.is_empty()),
                        "{node}: {op}: {key}"
                    );
                }
            }
            assert_eq!(now.nexthops, desired.nexthops, "{node}");
            assert_eq!(now.routes, desired.routes, "{node}");
        }
    }
    assert!(anew >= 8, "only {anew} groups");
}

/// Services whose groups change places, with other sizes: no packet of one goes the other's way.
#[test]
fn groups_that_change_places_send_nobody_the_way_of_another() {
    let single =
        |n: u8| Nexthop::Single { gateway: [10, 0, 0, n].into(), interface: "wan0".to_owned() };
    let [one, two] = [1, 2].map(|n| NexthopId::link(n, Family::V4));
    let [a, b] = [0, 1].map(|slot| NexthopId::resilient(slot, false, Family::V4));
    let group = |member: NexthopId, count: u16| Nexthop::Group {
        family: Family::V4,
        members: BTreeMap::from([(member, Weight::ONE)]),
        buckets: Some(Buckets { count, idle: 100, unbalanced: 0 }),
    };
    let key = |host: u8| {
        let destination = ipnet::IpNet::from(std::net::IpAddr::from([10, 99, 0, host]));
        RouteKey { table: Table(7000), destination, metric: Layout::METRIC_ACTIVE }
    };
    let state = |groups: Vec<(NexthopId, Nexthop)>, routes: Vec<(RouteKey, NexthopId)>| NodeState {
        nexthops: [(one, single(1)), (two, single(2))].into_iter().chain(groups).collect(),
        routes: routes.into_iter().map(|(key, id)| (key, RouteTarget::Nexthop(id))).collect(),
        ..NodeState::default()
    };
    let desired =
        state(vec![(a, group(one, 8)), (b, group(two, 16))], vec![(key(1), a), (key(2), b)]);
    let swapped =
        state(vec![(a, group(two, 16)), (b, group(one, 8))], vec![(key(1), b), (key(2), a)]);
    let pushed = state(vec![(a, group(two, 16))], vec![(key(2), a)]);
    let plain = NodeState {
        nexthops: swapped
            .nexthops
            .iter()
            .map(|(id, nexthop)| match nexthop.clone() {
                Nexthop::Group { family, members, .. } => {
                    (*id, Nexthop::Group { family, members, buckets: None })
                }
                other => (*id, other),
            })
            .collect(),
        ..swapped.clone()
    };
    for actual in [&swapped, &pushed, &plain] {
        let mut now = actual.clone();
        for op in &plan(&desired, actual).ops {
            apply(&mut now, op).unwrap_or_else(|why| panic!("{why}"));
            for (host, own) in [(1, one), (2, two)] {
                let Some(target) = now.routes.get(&key(host)) else { continue };
                let way = way(&now, *target);
                let own = &now.nexthops[&own];
                assert!(
                    !way.is_empty() || actual.routes.len() < 2,
                    "after {op}: {host} is refused"
                );
                assert!(way.iter().all(|(nexthop, _)| nexthop == own), "after {op}: {host}");
            }
        }
        assert_eq!(now, desired);
    }
}

/// The intent after each order was given, approved and carried out.
fn after_tasks(ground: &Ground, orders: &[&Order]) -> nett_policy::log::intent::Intent {
    let mut desk = Desk::new(ground, 0);
    for order in orders {
        desk.order(1, order, false);
        desk.wish(0, 0, true);
        while desk.advance(Nodes::Done).is_some() {}
    }
    desk.intent()
}
