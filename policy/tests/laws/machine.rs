//! A node that carries operations out one by one and insists on everything a kernel insists on.

use nett_policy::fabric::Family;
use nett_policy::lower::object::{Nexthop, NexthopId, NodeState, RouteTarget};
use nett_policy::plan::Op;

/// Carries one operation out. The error says what a kernel (or a careful reader) would object to.
pub(crate) fn apply(state: &mut NodeState, op: &Op) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{op}: {what}"));
    match op {
        Op::AddNexthop(id, to) => {
            if state.nexthops.insert(*id, to.clone()).is_some() {
                return wrong("exists");
            }
        }
        Op::ReplaceNexthop { id, from, to } => {
            if state.nexthops.insert(*id, to.clone()).as_ref() != Some(from) {
                return wrong("was something else");
            }
        }
        Op::DeleteNexthop(id, was) => {
            if state.nexthops.remove(id).as_ref() != Some(was) {
                return wrong("was something else");
            }
        }
        Op::AddRoute(key, to) => {
            if state.routes.insert(*key, *to).is_some() {
                return wrong("exists");
            }
        }
        Op::ReplaceRoute { key, from, to } => {
            if state.routes.insert(*key, *to) != Some(*from) {
                return wrong("was something else");
            }
        }
        Op::DeleteRoute(key, was) => {
            if state.routes.remove(key) != Some(*was) {
                return wrong("was something else");
            }
        }
        Op::AddRule(rule) if !state.rules.insert(rule.clone()) => return wrong("exists"),
        Op::DeleteRule(rule) if !state.rules.remove(rule) => return wrong("is not there"),
        Op::AddRule(_) | Op::DeleteRule(_) => {}
        Op::LoadGuard { from, to } => {
            if state.guard.replace(to.clone()) != *from {
                return wrong("was something else");
            }
        }
        Op::DeleteGuard(was) => {
            if state.guard.take().as_ref() != Some(was) {
                return wrong("was something else");
            }
        }
        Op::Elements { add, delete } => {
            let Some(guard) = &mut state.guard else { return wrong("there is no table") };
            let kept = &mut guard.refused;
            let fits = kept.is_disjoint(add) && kept.is_superset(delete);
            if !fits || (add.is_empty() && delete.is_empty()) {
                return wrong("the elements do not fit");
            }
            *kept = kept.difference(delete).chain(add).copied().collect();
        }
        Op::Classes { from, to } => {
            let Some(guard) = &mut state.guard else { return wrong("there is no table") };
            if guard.classes != *from || from == to {
                return wrong("was something else");
            }
            guard.classes = to.clone();
        }
        Op::Answers { service, from, to } => {
            let was = match to {
                Some(to) => state.answers.insert(service.clone(), to.clone()),
                None => state.answers.remove(service),
            };
            if was.as_ref() != from.as_ref() || to == from {
                return wrong("was something else");
            }
        }
    }
    whole(state).map_err(|what| format!("after {op}: {what}"))
}

/// Nothing points at something that is not there, and a group holds singles of its own family.
pub(crate) fn whole(state: &NodeState) -> Result<(), String> {
    for (key, target) in &state.routes {
        match target {
            RouteTarget::Nexthop(id) if !state.nexthops.contains_key(id) => {
                return Err(format!("route {key} points at missing {id}"));
            }
            RouteTarget::Nexthop(_) | RouteTarget::Unreachable => {}
        }
    }
    let single = |id: &NexthopId| match state.nexthops.get(id) {
        Some(Nexthop::Single { gateway, .. }) => Some(gateway.is_ipv4()),
        Some(Nexthop::Blackhole { family }) => Some(*family == Family::V4),
        Some(Nexthop::Group { .. }) | None => None,
    };
    let black = |id: &NexthopId| matches!(state.nexthops[id], Nexthop::Blackhole { .. });
    for (id, nexthop) in &state.nexthops {
        let Nexthop::Group { family, members, buckets: _ } = nexthop else { continue };
        let is_v4 = *family == Family::V4;
        if members.is_empty() {
            return Err(format!("group {id} is empty"));
        }
        if let Some(member) = members.keys().find(|m| single(m) != Some(is_v4)) {
            return Err(format!(
                "group {id} has member {member}, which is no single of its family"
            ));
        }
        if members.len() > 1 && members.keys().any(black) {
            return Err(format!("group {id} has a blackhole among others"));
        }
    }
    Ok(())
}
