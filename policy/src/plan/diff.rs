//! Diff over the union of keys, and the safe order.
//!
//! Work is proportional to the number of objects, one comparison each, without copies: a node has
//! hundreds of thousands of routes and mostly a handful of differences.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::{Op, Plan, guard};
use crate::lower::object::{Layout, Nexthop, NexthopId, NodeState, RouteKey, RouteTarget};

/// A key with what should be there and what is, of which at least one exists and which differ.
type Change<'a, K, V> = (&'a K, Option<&'a V>, Option<&'a V>);

/// The operations that turn `actual` into `desired`.
///
/// Planning again after all of them were carried out gives an empty plan (a property test). Objects
/// of `actual` that are not in `desired` are deleted, so `actual` must hold own objects only.
pub fn plan(desired: &NodeState, actual: &NodeState) -> Plan {
    let mut plan = plan_kernel(desired, actual);
    set_answers(&mut plan.ops, desired, actual);
    plan
}

/// As [`plan`], without the zone's answers, which are not the kernel's.
pub fn plan_kernel(desired: &NodeState, actual: &NodeState) -> Plan {
    let mut ops = Vec::new();
    let [singles, groups] = nexthops(desired, actual);
    let [floors, routes] = routes(desired, actual);

    let turn = Turn::of(&singles, &groups);
    let first = |group: &&Change<'_, NexthopId, Nexthop>| turn.comes_first(group);
    let leaves = |route: &&Change<'_, RouteKey, RouteTarget>| turn.leaves(route);
    let (new, old) = (|c: &&Change<'_, _, _>| c.2.is_none(), |c: &&Change<'_, _, _>| c.2.is_some());

    // Who hears of a VIP from here is told first that it is over.
    let announced = |c: &&Change<'_, RouteKey, RouteTarget>| is_announced(c.0);
    ops.extend(routes.iter().filter(announced).filter_map(drop_route));
    let guard = guard::changes(desired.guard.as_ref(), actual.guard.as_ref());
    ops.extend(guard.before);
    ops.extend(singles.iter().filter(new).filter_map(set_nexthop));
    ops.extend(groups.iter().filter(new).filter(first).filter_map(set_nexthop));
    ops.extend(floors.iter().filter_map(set_route));
    ops.extend(routes.iter().filter(leaves).filter_map(set_route));
    ops.extend(groups.iter().filter(old).filter(first).filter_map(set_nexthop));
    ops.extend(singles.iter().filter(old).filter_map(set_nexthop));
    ops.extend(groups.iter().filter(|g| !first(g)).filter_map(set_nexthop));
    ops.extend(routes.iter().filter(|route| !leaves(route)).filter_map(set_route));
    ops.extend(guard.after);
    ops.extend(desired.rules.difference(&actual.rules).cloned().map(Op::AddRule));

    ops.extend(actual.rules.difference(&desired.rules).cloned().map(Op::DeleteRule));
    if let (None, Some(guard)) = (&desired.guard, &actual.guard) {
        ops.push(Op::DeleteGuard(guard.clone()));
    }
    let carrying = routes.iter().filter(|route| !is_announced(route.0));
    ops.extend(carrying.chain(&floors).filter_map(drop_route));
    ops.extend(groups.iter().chain(&singles).filter_map(drop_nexthop));
    Plan { ops }
}

/// What differs, by key; both maps are walked once.
fn changes<'a, K: Ord, V: PartialEq>(
    desired: &'a BTreeMap<K, V>,
    actual: &'a BTreeMap<K, V>,
) -> Vec<Change<'a, K, V>> {
    let mut found = Vec::new();
    let (mut to, mut from) = (desired.iter().peekable(), actual.iter().peekable());
    loop {
        let order = match (to.peek(), from.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return found,
        };
        match order {
            Ordering::Less => found.extend(to.next().map(|(k, v)| (k, Some(v), None))),
            Ordering::Greater => found.extend(from.next().map(|(k, v)| (k, None, Some(v)))),
            Ordering::Equal => {
                if let (Some((key, to)), Some((_, from))) = (to.next(), from.next())
                    && to != from
                {
                    found.push((key, Some(to), Some(from)));
                }
            }
        }
    }
}

/// Those that are single wherever they exist, and the others. An id range holds one kind only, so
/// an id never changes its kind.
fn nexthops<'a>(
    desired: &'a NodeState,
    actual: &'a NodeState,
) -> [Vec<Change<'a, NexthopId, Nexthop>>; 2] {
    let single = |change: &Change<'_, NexthopId, Nexthop>| {
        !matches!(change.1.or(change.2), Some(Nexthop::Group { .. }))
    };
    changes(&desired.nexthops, &actual.nexthops).into_iter().partition::<Vec<_>, _>(single).into()
}

fn is_announced(key: &RouteKey) -> bool {
    key.metric == Layout::METRIC_ADVERTISED
}

fn routes<'a>(
    desired: &'a NodeState,
    actual: &'a NodeState,
) -> [Vec<Change<'a, RouteKey, RouteTarget>>; 2] {
    let all = changes(&desired.routes, &actual.routes).into_iter();
    let floor = |change: &Change<'_, RouteKey, RouteTarget>| {
        let (key, to, _) = change;
        key.metric == Layout::METRIC_FLOOR && !matches!(to, Some(RouteTarget::Nexthop(_)))
    };
    all.partition::<Vec<_>, _>(floor).into()
}

/// Whose turn it is among objects that use each other.
///
/// A group that changes serves all routes that use it at once, and a single all groups. So a route
/// that is to use another group leaves before its old one changes, and comes to its new one after
/// that has changed; and the same for groups and their members.
struct Turn {
    singles: BTreeSet<NexthopId>,
    groups: BTreeSet<NexthopId>,
}

impl Turn {
    fn of(
        singles: &[Change<'_, NexthopId, Nexthop>],
        groups: &[Change<'_, NexthopId, Nexthop>],
    ) -> Self {
        let changes = |c: &&Change<'_, NexthopId, Nexthop>| c.1.is_some() && c.2.is_some();
        let singles = singles.iter().filter(changes).map(|c| *c.0).collect();
        let turn = Self { singles, groups: BTreeSet::new() };
        let settles = |g: &&Change<'_, NexthopId, Nexthop>| changes(g) || !turn.comes_first(g);
        let groups = groups.iter().filter(settles).map(|g| *g.0).collect();
        Self { groups, ..turn }
    }

    /// True for a group that is whole without any single that changes.
    fn comes_first(&self, group: &Change<'_, NexthopId, Nexthop>) -> bool {
        let uses = |nexthop: Option<&Nexthop>| match nexthop {
            Some(Nexthop::Group { members, .. }) => {
                members.keys().any(|id| self.singles.contains(id))
            }
            Some(Nexthop::Single { .. } | Nexthop::Blackhole { .. }) | None => false,
        };
        !uses(group.1) && (group.2.is_none() || uses(group.2))
    }

    fn leaves(&self, route: &Change<'_, RouteKey, RouteTarget>) -> bool {
        let uses = |target: Option<&RouteTarget>| match target {
            Some(RouteTarget::Nexthop(id)) => self.groups.contains(id),
            Some(RouteTarget::Unreachable) | None => false,
        };
        uses(route.2) && !uses(route.1)
    }
}

fn set_nexthop(change: &Change<'_, NexthopId, Nexthop>) -> Option<Op> {
    let (id, to, from) = *change;
    let to = to?.clone();
    Some(match from {
        None => Op::AddNexthop(*id, to),
        Some(from) => Op::ReplaceNexthop { id: *id, from: from.clone(), to },
    })
}

fn drop_nexthop(change: &Change<'_, NexthopId, Nexthop>) -> Option<Op> {
    let (id, to, from) = *change;
    let from = from.filter(|_| to.is_none())?;
    Some(Op::DeleteNexthop(*id, from.clone()))
}

fn set_route(change: &Change<'_, RouteKey, RouteTarget>) -> Option<Op> {
    let (key, to, from) = *change;
    let to = *to?;
    Some(match from {
        None => Op::AddRoute(*key, to),
        Some(from) => Op::ReplaceRoute { key: *key, from: *from, to },
    })
}

fn drop_route(change: &Change<'_, RouteKey, RouteTarget>) -> Option<Op> {
    let (key, to, from) = *change;
    let from = from.filter(|_| to.is_none())?;
    Some(Op::DeleteRoute(*key, *from))
}

fn set_answers(ops: &mut Vec<Op>, desired: &NodeState, actual: &NodeState) {
    for (service, to, from) in changes(&desired.answers, &actual.answers) {
        ops.push(Op::Answers { service: service.clone(), from: from.cloned(), to: to.cloned() });
    }
}
