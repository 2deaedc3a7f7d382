//! Diff over the union of keys, and the safe order.

use std::collections::BTreeSet;

use super::{Op, Plan};
use crate::lower::object::{
    AddressSet, Guard, Layout, Nexthop, NexthopId, NodeState, RouteKey, RouteTarget,
};

/// The operations that turn `actual` into `desired`.
///
/// Planning again after all of them were carried out gives an empty plan (a property test). Objects
/// of `actual` that are not in `desired` are deleted, so `actual` must hold own objects only.
pub fn plan(desired: &NodeState, actual: &NodeState) -> Plan {
    let mut ops = Vec::new();
    let (singles, groups) = nexthop_sets(desired, actual);
    let (floors, routes) = route_sets(desired, actual);

    singles.iter().chain(&groups).for_each(|id| ops.extend(set_nexthop(*id, desired, actual)));
    floors.iter().chain(&routes).for_each(|key| ops.extend(set_route(key, desired, actual)));
    set_guard(&mut ops, desired.guard.as_ref(), actual.guard.as_ref());
    ops.extend(desired.rules.difference(&actual.rules).cloned().map(Op::AddRule));

    ops.extend(actual.rules.difference(&desired.rules).cloned().map(Op::DeleteRule));
    if let (None, Some(guard)) = (&desired.guard, &actual.guard) {
        ops.push(Op::DeleteGuard(guard.clone()));
    }
    routes.iter().chain(&floors).for_each(|key| ops.extend(drop_route(key, desired, actual)));
    groups.iter().chain(&singles).for_each(|id| ops.extend(drop_nexthop(*id, desired, actual)));
    set_answers(&mut ops, desired, actual);
    Plan { ops }
}

/// All nexthop ids of both sides: those that are single wherever they exist, and the others. An
/// id range holds one kind only, so an id never changes its kind.
fn nexthop_sets(a: &NodeState, b: &NodeState) -> (Vec<NexthopId>, Vec<NexthopId>) {
    let ids: BTreeSet<NexthopId> = a.nexthops.keys().chain(b.nexthops.keys()).copied().collect();
    let single = |id: &NexthopId| {
        let nexthop = a.nexthops.get(id).or_else(|| b.nexthops.get(id));
        matches!(nexthop, Some(Nexthop::Single { .. }))
    };
    ids.into_iter().partition(single)
}

fn route_sets(a: &NodeState, b: &NodeState) -> (Vec<RouteKey>, Vec<RouteKey>) {
    let keys: BTreeSet<RouteKey> = a.routes.keys().chain(b.routes.keys()).copied().collect();
    keys.into_iter().partition(|key| key.metric == Layout::METRIC_FLOOR)
}

fn set_nexthop(id: NexthopId, desired: &NodeState, actual: &NodeState) -> Option<Op> {
    match (desired.nexthops.get(&id), actual.nexthops.get(&id)) {
        (Some(to), None) => Some(Op::AddNexthop(id, to.clone())),
        (Some(to), Some(from)) if to != from => {
            Some(Op::ReplaceNexthop { id, from: from.clone(), to: to.clone() })
        }
        (Some(_), Some(_)) | (None, _) => None,
    }
}

fn drop_nexthop(id: NexthopId, desired: &NodeState, actual: &NodeState) -> Option<Op> {
    match (desired.nexthops.get(&id), actual.nexthops.get(&id)) {
        (None, Some(from)) => Some(Op::DeleteNexthop(id, from.clone())),
        (Some(_), _) | (None, None) => None,
    }
}

fn set_route(key: &RouteKey, desired: &NodeState, actual: &NodeState) -> Option<Op> {
    let (to, from): (Option<&RouteTarget>, _) = (desired.routes.get(key), actual.routes.get(key));
    match (to, from) {
        (Some(to), None) => Some(Op::AddRoute(*key, *to)),
        (Some(to), Some(from)) if to != from => {
            Some(Op::ReplaceRoute { key: *key, from: *from, to: *to })
        }
        (Some(_), Some(_)) | (None, _) => None,
    }
}

fn drop_route(key: &RouteKey, desired: &NodeState, actual: &NodeState) -> Option<Op> {
    match (desired.routes.get(key), actual.routes.get(key)) {
        (None, Some(from)) => Some(Op::DeleteRoute(*key, *from)),
        (Some(_), _) | (None, None) => None,
    }
}

/// A table that differs only in its sets of addresses changes elements; any other difference
/// replaces the whole table in one transaction.
fn set_guard(ops: &mut Vec<Op>, desired: Option<&Guard>, actual: Option<&Guard>) {
    let Some(to) = desired else { return };
    let Some(from) = actual else {
        ops.push(Op::LoadGuard { from: None, to: to.clone() });
        return;
    };
    if to == from {
        return;
    }
    let mut with_sets_of_to = from.clone();
    for set in AddressSet::ALL {
        set.of_mut(&mut with_sets_of_to).clone_from(set.of(to));
    }
    if with_sets_of_to != *to {
        ops.push(Op::LoadGuard { from: Some(from.clone()), to: to.clone() });
        return;
    }
    for set in AddressSet::ALL {
        let (from, to) = (set.of(from), set.of(to));
        if from != to {
            ops.push(Op::Elements {
                set,
                add: to.difference(from).copied().collect(),
                delete: from.difference(to).copied().collect(),
            });
        }
    }
}

fn set_answers(ops: &mut Vec<Op>, desired: &NodeState, actual: &NodeState) {
    let services: BTreeSet<_> = desired.answers.keys().chain(actual.answers.keys()).collect();
    for service in services {
        let (to, from) = (desired.answers.get(service), actual.answers.get(service));
        if to != from {
            ops.push(Op::Answers {
                service: service.clone(),
                from: from.cloned(),
                to: to.cloned(),
            });
        }
    }
}
