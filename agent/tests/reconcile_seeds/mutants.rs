//! Rules that are broken on purpose where the reconciler meets its kernel: the laws must see each.
//!
//! The reconciler knows nothing of them. What it is told, or what becomes of what it writes, is
//! such that the whole does what a reconciler with that rule missing would do.

use nett_agent::kernel::{KernelError, Readback};
use nett_policy::fabric::Family;
use nett_policy::lower::object::{Layout, Nexthop, RouteTarget, RuleAction};
use nett_policy::plan::{Object, Op};

use crate::laws::place_of;
use crate::stage::Stage;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Hears of no change.
    DeafMonitor,
    /// Takes what is not whole for whole.
    TrustsTornReads,
    /// Believes that a rule is there, and does not write it.
    ForgetsRules,
    /// Does not try again what was refused once.
    NoRetry,
    /// Takes places that somebody else has.
    Overwrites,
    /// Rules before the floors of their tables.
    RulesFirst,
    /// Rules before one that ends the search ahead of them.
    EndsLast,
    /// Deletes a nexthop before what uses it has left.
    NexthopsFirst,
    /// Writes the nft table again at every look.
    Restless,
    /// Leaves the nft table as somebody else has changed it.
    NoGuardRepair,
    /// Sends classes by every way that there is.
    WrongGroup,
    /// Takes all away and writes it anew where the nft table changes.
    Flushes,
    /// Deletes what has its marks, whoever put it there.
    NoReceipt,
}

// === impl Mutant ===

impl Mutant {
    pub(crate) const ALL: [Self; 13] = [
        Self::DeafMonitor,
        Self::TrustsTornReads,
        Self::ForgetsRules,
        Self::NoRetry,
        Self::Overwrites,
        Self::RulesFirst,
        Self::EndsLast,
        Self::NexthopsFirst,
        Self::Restless,
        Self::NoGuardRepair,
        Self::WrongGroup,
        Self::Flushes,
        Self::NoReceipt,
    ];

    /// What the law says that is there for it.
    pub(crate) fn law(self) -> &'static str {
        match self {
            Self::DeafMonitor | Self::ForgetsRules | Self::NoRetry => "not in place",
            Self::NoGuardRepair => "not in place: nft table inet nett",
            Self::TrustsTornReads => "was not read whole",
            Self::Overwrites => "changes what is somebody else's",
            Self::RulesFirst => "comes before its floor",
            Self::EndsLast => "which stops what is not to come so far",
            Self::NexthopsFirst => "deletes what route",
            Self::Restless => "times in a second",
            Self::WrongGroup => "as nobody asked",
            Self::Flushes => "lets Packet",
            Self::NoReceipt => "deletes what this agent did not put there",
        }
    }
}

/// What a mutant remembers.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    hidden: Vec<Object>,
    held: Vec<Op>,
}

// === impl Stage ===

impl Stage {
    /// What is carried out instead of an operation.
    pub(crate) fn instead(&mut self, op: &Op) -> Vec<Op> {
        match (self.mutant, op) {
            (Some(Mutant::ForgetsRules), Op::AddRule(_)) => Vec::new(),
            (Some(Mutant::Overwrites), Op::AddRoute(key, to)) => {
                let taken = self.foreign.iter().filter_map(place_of);
                let taken = taken.into_iter().any(|place| place == Object::Route(*key));
                let over = Op::ReplaceRoute { key: *key, from: RouteTarget::Unreachable, to: *to };
                vec![if taken { over } else { op.clone() }]
            }
            (Some(Mutant::RulesFirst), Op::AddRoute(key, _))
                if key.metric == Layout::METRIC_FLOOR =>
            {
                self.memory.held.push(op.clone());
                Vec::new()
            }
            (Some(Mutant::EndsLast), Op::AddRule(rule))
                if rule.action == RuleAction::Unreachable =>
            {
                self.memory.held.push(op.clone());
                Vec::new()
            }
            (Some(Mutant::RulesFirst | Mutant::EndsLast), Op::AddRule(_)) => {
                let mut all = vec![op.clone()];
                all.append(&mut self.memory.held);
                all
            }
            (Some(Mutant::NexthopsFirst), Op::ReplaceRoute { from, .. }) => {
                let gone = match from {
                    RouteTarget::Nexthop(id) => self.kernel.state().nexthops.get(id).cloned(),
                    RouteTarget::Unreachable => None,
                };
                let unwanted = |id| self.plans.iter().all(|p| !p.nexthops.contains_key(id));
                match (from, gone) {
                    (RouteTarget::Nexthop(id), Some(nexthop)) if unwanted(id) => {
                        vec![Op::DeleteNexthop(*id, nexthop), op.clone()]
                    }
                    _ => vec![op.clone()],
                }
            }
            (Some(Mutant::NoGuardRepair), Op::LoadGuard { from: Some(_), .. }) => Vec::new(),
            (Some(Mutant::WrongGroup), Op::ReplaceNexthop { id, from, to }) => {
                let (id, from, to) = (*id, from.clone(), self.with_all(to));
                vec![Op::ReplaceNexthop { id, from, to }]
            }
            (Some(Mutant::WrongGroup), Op::AddNexthop(id, to)) => {
                vec![Op::AddNexthop(*id, self.with_all(to))]
            }
            (Some(Mutant::Flushes), Op::LoadGuard { from: Some(from), to }) => {
                let rules = &self.kernel.state().rules;
                let gone = rules.iter().cloned().map(Op::DeleteRule);
                let back = rules.iter().cloned().map(Op::AddRule);
                let table =
                    [Op::DeleteGuard(from.clone()), Op::LoadGuard { from: None, to: to.clone() }];
                gone.chain(table).chain(back).collect()
            }
            (Some(Mutant::NoReceipt), op) if op.deletes() => {
                let strangers = self.strangers.iter().filter_map(|object| self.deletion(object));
                [op.clone()].into_iter().chain(strangers).collect()
            }
            _ => vec![op.clone()],
        }
    }

    /// A group with every way of its family that there is.
    fn with_all(&self, to: &Nexthop) -> Nexthop {
        let mut all = to.clone();
        if let Nexthop::Group { family, members, .. } = &mut all
            && let Some(weight) = members.values().next().copied()
        {
            let is_way = |nexthop: &Nexthop| match nexthop {
                Nexthop::Single { gateway, .. } => Family::of(*gateway) == *family,
                Nexthop::Group { .. } | Nexthop::Blackhole { .. } => false,
            };
            let there = self.kernel.state().nexthops.iter().filter(|(_, n)| is_way(n));
            for (id, _) in there {
                members.entry(*id).or_insert(weight);
            }
        }
        all
    }

    fn deletion(&self, object: &Object) -> Option<Op> {
        let state = self.kernel.state();
        match object {
            Object::Nexthop(id) => Some(Op::DeleteNexthop(*id, state.nexthops.get(id)?.clone())),
            Object::Route(key) => Some(Op::DeleteRoute(*key, *state.routes.get(key)?)),
            Object::Rule(rule) => Some(Op::DeleteRule(rule.clone())),
            Object::Guard => None,
        }
    }

    /// What is answered instead of an error.
    pub(crate) fn instead_of(&mut self, op: &Op, error: KernelError) -> Result<(), KernelError> {
        match (self.mutant, &error, op.object()) {
            (Some(Mutant::NoRetry), KernelError::Refused { .. }, Some(object)) => {
                self.memory.hidden.push(object);
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// What is read instead of what is there.
    pub(crate) fn lie(&mut self, readback: &mut Readback) {
        match self.mutant {
            Some(Mutant::TrustsTornReads) => readback.complete = true,
            Some(Mutant::Overwrites) => readback.foreign.clear(),
            Some(Mutant::Restless) => {
                if let Some(guard) = &mut readback.state.guard {
                    guard.mark_mask = 1;
                }
            }
            Some(Mutant::NoRetry) => {
                let Some(wanted) = self.plans.last() else { return };
                for object in &self.memory.hidden {
                    let state = &mut readback.state;
                    match object {
                        Object::Nexthop(id) => {
                            let there = wanted.nexthops.get(id).map(|n| (*id, n.clone()));
                            state.nexthops.extend(there);
                        }
                        Object::Route(key) => {
                            state.routes.extend(wanted.routes.get(key).map(|to| (*key, *to)));
                        }
                        Object::Rule(rule) => {
                            state.rules.extend(wanted.rules.get(rule).cloned());
                        }
                        Object::Guard => state.guard.clone_from(&wanted.guard),
                    }
                }
            }
            _ => {}
        }
    }
}
