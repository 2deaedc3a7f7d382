//! What a state holds at one object.

use nett_policy::lower::object::{Guard, Nexthop, NodeState, RouteTarget};
use nett_policy::plan::Object;

/// Compared, never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Absent,
    Nexthop(&'a Nexthop),
    /// With what its group is, if it has one: another group under the same id is another way.
    Route(RouteTarget, Option<&'a Nexthop>),
    Rule,
    Guard(&'a Guard),
}

// === impl Value ===

impl<'a> Value<'a> {
    pub(super) fn of(object: &Object, state: &'a NodeState) -> Self {
        let value = match object {
            Object::Nexthop(id) => state.nexthops.get(id).map(Self::Nexthop),
            Object::Route(key) => state.routes.get(key).map(|target| {
                let way = match target {
                    RouteTarget::Nexthop(id) => state.nexthops.get(id),
                    RouteTarget::Unreachable => None,
                };
                Self::Route(*target, way)
            }),
            Object::Rule(rule) => state.rules.contains(rule).then_some(Self::Rule),
            Object::Guard => state.guard.as_ref().map(Self::Guard),
        };
        value.unwrap_or(Self::Absent)
    }

    pub(super) fn is_there(self) -> bool {
        self != Self::Absent
    }
}

/// Puts what an operation did into a state, so that the next one is judged by it.
pub(super) fn note(op: &nett_policy::plan::Op, state: &mut NodeState) {
    use nett_policy::plan::Op;
    match op {
        Op::AddNexthop(id, to) | Op::ReplaceNexthop { id, from: _, to } => {
            state.nexthops.insert(*id, to.clone());
        }
        Op::DeleteNexthop(id, _) => drop(state.nexthops.remove(id)),
        Op::AddRoute(key, to) | Op::ReplaceRoute { key, from: _, to } => {
            state.routes.insert(*key, *to);
        }
        Op::DeleteRoute(key, _) => drop(state.routes.remove(key)),
        Op::AddRule(rule) => drop(state.rules.insert(rule.clone())),
        Op::DeleteRule(rule) => drop(state.rules.remove(rule)),
        Op::LoadGuard { from: _, to } => state.guard = Some(to.clone()),
        Op::DeleteGuard(_) => state.guard = None,
        Op::Elements { add, delete } => {
            if let Some(guard) = &mut state.guard {
                guard.refused.retain(|element| !delete.contains(element));
                guard.refused.extend(add);
            }
        }
        Op::Classes { from: _, to } => {
            if let Some(guard) = &mut state.guard {
                guard.classes = to.clone();
            }
        }
        Op::Answers { .. } => {}
    }
}
