//! Diff over the union of keys, and the safe order.
//!
//! Work is proportional to the number of objects, one comparison each, without copies: a node has
//! hundreds of thousands of routes and mostly a handful of differences.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};

use super::{Op, Plan, guard};
use crate::id::ServiceId;
use crate::lower::answers::{Answers, ServiceAnswers};
use crate::lower::object::{
    Layout, Nexthop, NexthopId, NodeState, RouteKey, RouteTarget, Rule, RuleAction, Table,
};

/// A key with what should be there and what is, of which at least one exists and which differ.
type Change<'a, K, V> = (&'a K, Option<&'a V>, Option<&'a V>);

/// The operations that turn `actual` into `desired`.
///
/// Planning again after all of them were carried out gives an empty plan (a property test). Objects
/// of `actual` that are not in `desired` are deleted, so `actual` must hold own objects only.
pub fn plan(desired: &NodeState, actual: &NodeState) -> Plan {
    let mut plan = plan_kernel(desired, actual);
    plan.ops.extend(answer_ops(&desired.answers, &actual.answers));
    plan
}

/// As [`plan`], without the zone's answers, which are not the kernel's.
pub fn plan_kernel(desired: &NodeState, actual: &NodeState) -> Plan {
    let mut ops = Vec::new();
    let [singles, groups] = nexthops(desired, actual);
    let (groups, others): (Vec<_>, Vec<_>) = groups.into_iter().partition(becomes);
    let [floors, routes] = routes(desired, actual);

    let turn = Turn::of(&singles, &groups, &others);
    let first = |group: &&Change<'_, NexthopId, Nexthop>| turn.comes_first(group);
    let leaves = |route: &&Change<'_, RouteKey, RouteTarget>| turn.leaves(route);
    let (new, old) = (|c: &&Change<'_, _, _>| c.2.is_none(), |c: &&Change<'_, _, _>| c.2.is_some());

    // Who hears of a VIP from here is told first that it is over.
    let announced = |c: &&Change<'_, RouteKey, RouteTarget>| is_announced(c.0);
    ops.extend(routes.iter().filter(announced).filter_map(drop_route));
    let guard = guard::changes(desired.guard.as_ref(), actual.guard.as_ref());
    // Packets that are to stay on their way are looked up apart before others leave it; and what
    // another site sends through here is looked up before anything lets it in.
    let (keeping, other): (Vec<_>, Vec<_>) =
        desired.rules.difference(&actual.rules).cloned().partition(keeps);
    ops.extend(keeping.into_iter().map(Op::AddRule));
    ops.extend(guard.before);
    ops.extend(singles.iter().filter(new).filter_map(set_nexthop));
    ops.extend(groups.iter().filter(new).filter(first).filter_map(set_nexthop));
    ops.extend(floors.iter().filter_map(set_route));
    ops.extend(routes.iter().filter(leaves).filter_map(set_route));
    // Now only those routes use such a group that go on using it, or are to use another such one.
    let detours = detours(&turn, desired, actual);
    ops.extend(reshaped(&others, &detours, desired, actual));
    ops.extend(groups.iter().filter(old).filter(first).filter_map(set_nexthop));
    ops.extend(singles.iter().filter(old).filter_map(set_nexthop));
    ops.extend(groups.iter().filter(|g| !first(g)).filter_map(set_nexthop));
    let last = routes.iter().filter(|route| !leaves(route));
    ops.extend(
        last.filter_map(|(key, to, from)| set_route(&(key, *to, detours.get(key).or(*from)))),
    );
    // What was carried on and is delivered here is not looked up there any more when it is let in.
    let apart = carrying_tables(desired, actual);
    let carried = |c: &&Change<'_, RouteKey, RouteTarget>| apart.contains(&c.0.table);
    ops.extend(routes.iter().filter(carried).filter_map(drop_route));
    ops.extend(guard.after);
    ops.extend(other.into_iter().map(Op::AddRule));

    ops.extend(actual.rules.difference(&desired.rules).cloned().map(Op::DeleteRule));
    if let (None, Some(guard)) = (&desired.guard, &actual.guard) {
        ops.push(Op::DeleteGuard(guard.clone()));
    }
    let carrying = routes.iter().filter(|route| !is_announced(route.0) && !carried(route));
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

/// False for a group that the kernel can not change into what it should be: see
/// [`Nexthop::becomes`]: another number of buckets, or somebody else has changed it.
fn becomes(change: &Change<'_, NexthopId, Nexthop>) -> bool {
    let (_, to, from) = change;
    to.zip(*from).is_none_or(|(to, from)| from.becomes(to))
}

/// Routes that use a group which is made anew, while that is not there: over what they go.
fn detours(
    turn: &Turn,
    desired: &NodeState,
    actual: &NodeState,
) -> BTreeMap<RouteKey, RouteTarget> {
    if turn.reshaped.is_empty() {
        return BTreeMap::new();
    }
    let detour = |(key, from): (&RouteKey, &RouteTarget)| {
        let to = desired.routes.get(key)?;
        // One that leaves for what does not change has left before.
        let stays = from == to || turn.uses(Some(to));
        let anew = matches!(from, RouteTarget::Nexthop(id) if turn.reshaped.contains(id));
        (anew && stays).then(|| (*key, stand_in(*from, *to, desired, actual)))
    };
    actual.routes.iter().filter_map(detour).collect()
}

/// A member of the group that the route is to use, the greatest share first; else one of the group
/// that it uses now.
fn stand_in(
    from: RouteTarget,
    to: RouteTarget,
    desired: &NodeState,
    actual: &NodeState,
) -> RouteTarget {
    let members = |state: &NodeState, target| {
        let RouteTarget::Nexthop(id) = target else { return Vec::new() };
        let Some(Nexthop::Group { members, .. }) = state.nexthops.get(&id) else {
            return Vec::new();
        };
        let mut members: Vec<_> = members.iter().map(|(id, weight)| (*id, *weight)).collect();
        members.sort_by_key(|(id, weight)| (Reverse(*weight), *id));
        members.into_iter().map(|(id, _)| id).collect()
    };
    let unchanged = |id: &NexthopId| {
        actual.nexthops.get(id).is_some_and(|there| desired.nexthops.get(id) == Some(there))
    };
    // Those were added before.
    let new = |id: &NexthopId| !actual.nexthops.contains_key(id);
    let (to, from) = (members(desired, to), members(actual, from));
    let found = to.iter().find(|id| unchanged(id)).or_else(|| to.iter().find(|id| new(id)));
    let found = found.or_else(|| from.iter().find(|id| unchanged(id)));
    found.map_or(RouteTarget::Unreachable, |id| RouteTarget::Nexthop(*id))
}

/// Makes groups anew. What uses one and goes on to comes back; what is to use another one takes it
/// in its turn.
fn reshaped(
    groups: &[Change<'_, NexthopId, Nexthop>],
    detours: &BTreeMap<RouteKey, RouteTarget>,
    desired: &NodeState,
    actual: &NodeState,
) -> Vec<Op> {
    let route = |key: &RouteKey, from, to| Op::ReplaceRoute { key: *key, from, to };
    let mut ops = Vec::new();
    for (key, over) in detours {
        ops.push(route(key, actual.routes[key], *over));
    }
    for (id, to, from) in groups {
        if let (Some(to), Some(from)) = (*to, *from) {
            ops.push(Op::DeleteNexthop(**id, from.clone()));
            ops.push(Op::AddNexthop(**id, to.clone()));
        }
    }
    for (key, over) in detours.iter().filter(|(key, _)| desired.routes[key] == actual.routes[key]) {
        ops.push(route(key, *over, desired.routes[key]));
    }
    ops
}

fn keeps(rule: &Rule) -> bool {
    let class = rule.fwmark.map(|(mark, _)| mark & Layout::MARK_CLASS);
    let carries = rule.iif.is_some() && class == Some(Layout::MARK_CAME);
    carries || class == Some(Layout::MARK_KEPT)
}

/// The tables of what other sites send through here: no other rule looks into them.
fn carrying_tables(desired: &NodeState, actual: &NodeState) -> BTreeSet<Table> {
    const CAME: Option<(u32, u32)> = Some((Layout::MARK_CAME, Layout::MARK_CLASS));
    let rules = desired.rules.iter().chain(&actual.rules);
    let carrying = rules.filter(|rule| rule.iif.is_some() && rule.fwmark == CAME);
    let table = |rule: &Rule| match rule.action {
        RuleAction::Lookup { table, .. } => Some(table),
        RuleAction::Unreachable => None,
    };
    carrying.filter_map(table).collect()
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
    /// Those of `groups` that the kernel cannot change in place.
    reshaped: BTreeSet<NexthopId>,
}

impl Turn {
    fn of(
        singles: &[Change<'_, NexthopId, Nexthop>],
        groups: &[Change<'_, NexthopId, Nexthop>],
        reshaped: &[Change<'_, NexthopId, Nexthop>],
    ) -> Self {
        let changes = |c: &&Change<'_, NexthopId, Nexthop>| c.1.is_some() && c.2.is_some();
        let singles = singles.iter().filter(changes).map(|c| *c.0).collect();
        let reshaped: BTreeSet<NexthopId> = reshaped.iter().map(|c| *c.0).collect();
        let turn = Self { singles, groups: BTreeSet::new(), reshaped: BTreeSet::new() };
        let settles = |g: &&Change<'_, NexthopId, Nexthop>| changes(g) || !turn.comes_first(g);
        let groups = groups.iter().filter(settles).map(|g| *g.0).chain(reshaped.iter().copied());
        Self { groups: groups.collect(), reshaped, ..turn }
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
        self.uses(route.2) && !self.uses(route.1)
    }

    fn uses(&self, target: Option<&RouteTarget>) -> bool {
        match target {
            Some(RouteTarget::Nexthop(id)) => self.groups.contains(id),
            Some(RouteTarget::Unreachable) | None => false,
        }
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

/// What becomes of the zone's answers: the last operations of a plan.
pub(super) fn answer_ops(desired: &Answers, actual: &Answers) -> Vec<Op> {
    let op = |(service, to, from): Change<'_, ServiceId, ServiceAnswers>| Op::Answers {
        service: service.clone(),
        from: from.cloned(),
        to: to.cloned(),
    };
    changes(desired, actual).into_iter().map(op).collect()
}
