//! One plan, carried out as far as it can be: an object that fails holds up only what needs it.
//!
//! What needs what: a group its members, a route its nexthop, a rule the floors under the table it
//! looks into, the nft table and the rules that end the search before it (but for those of the
//! kept, which are planned first); the other way round, a nexthop goes only when nothing uses it, a
//! table's routes only when no rule that is to go looks into it any more. So a class whose new
//! group is refused stays on its last good one, and a round that stops anywhere leaves nothing that
//! falls through to the main table.
//!
//! Crash story: as for the whole reconciler, the kernel is the only state.

use std::collections::BTreeSet;

use nett_policy::fabric::Family;
use nett_policy::lower::object::{
    Layout, Nexthop, NexthopId, NodeState, RouteKey, RouteTarget, Rule, RuleAction, Table,
};
use nett_policy::plan::{Op, Plan};
use tokio::time::Instant;

use super::ledger::Ledger;
use super::value::note;
use crate::kernel::{Kernel, KernelError, Parts};
use crate::rng::Rng;
use crate::telemetry::Metrics;
use crate::telemetry::event::{KernelOp, KernelRun, Outcome};
use crate::watchdog::Pulse;

/// Operations of one call to the kernel.
const RUN: usize = 4096;
/// More operations than this in one run are told in one line.
const TOLD: usize = 64;

/// What a round works with.
pub(super) struct Round<'a, K> {
    pub(super) kernel: &'a mut K,
    pub(super) ledger: &'a mut Ledger,
    pub(super) rng: &'a mut Rng,
    pub(super) metrics: &'a Metrics,
    pub(super) desired: &'a NodeState,
    /// What is there, as far as known; follows every operation that succeeds.
    pub(super) model: &'a mut NodeState,
    pub(super) dry_run: bool,
    pub(super) pulse: &'a mut Pulse,
}

/// What a round did.
#[derive(Debug, Default)]
pub(super) struct Carried {
    pub(super) done: usize,
    /// What is worth reading back.
    pub(super) touched: Parts,
    pub(super) failed: bool,
    /// Nobody knows what became of an operation: read before anything else is done.
    pub(super) unknown: bool,
}

/// What failed or waited in this round, by what it holds up.
#[derive(Debug, Default)]
struct Missing {
    floors: BTreeSet<(Family, Table)>,
    /// Rules that end the search.
    ends: Vec<Rule>,
    rule_added: bool,
    rule_deleted: bool,
}

// === impl Round ===

impl<K: Kernel> Round<'_, K> {
    pub(super) async fn carry_out(mut self, plan: &Plan) -> Carried {
        let mut carried = Carried::default();
        if self.dry_run {
            for op in &plan.ops {
                self.metrics.emit(KernelOp { op, outcome: Outcome::DryRun });
            }
            return carried;
        }
        let mut missing = Missing::default();
        let mut used: Option<BTreeSet<NexthopId>> = None;
        let mut run: Vec<Op> = Vec::new();
        for op in &plan.ops {
            let Some(object) = op.object() else { continue };
            if !run.is_empty() && (run.len() == RUN || !goes_with(&run[0], op)) {
                self.apply_run(&mut run, &mut carried, &mut missing).await;
                if carried.unknown {
                    return carried;
                }
            }
            match (op, &used) {
                (Op::DeleteNexthop(..), None) => used = Some(used_nexthops(self.model)),
                (Op::DeleteNexthop(..), Some(_)) => {}
                // Whatever it is, it may use others.
                (_, _) => used = None,
            }
            if self.ledger.hold(&object, Instant::now()).is_some() {
                missing.note(op);
                continue;
            }
            if self.waits_for(op, &missing, used.as_ref()) {
                // Tried as soon as the other one is there, whatever went wrong before.
                self.ledger.done(&object);
                missing.note(op);
                continue;
            }
            run.push(op.clone());
            if !joins(op) {
                self.apply_run(&mut run, &mut carried, &mut missing).await;
                if let (Op::DeleteNexthop(..), Some(used)) = (op, &mut used) {
                    *used = used_nexthops(self.model);
                }
            }
            if carried.unknown {
                return carried;
            }
        }
        self.apply_run(&mut run, &mut carried, &mut missing).await;
        carried
    }

    async fn apply_run(&mut self, run: &mut Vec<Op>, carried: &mut Carried, missing: &mut Missing) {
        let ops = std::mem::take(run);
        if ops.is_empty() {
            return;
        }
        self.pulse.answer();
        let results = match ops.as_slice() {
            [op] => vec![self.kernel.apply(op).await],
            many => self.kernel.apply_all(many).await,
        };
        let quiet = ops.len() > TOLD;
        let mut done = 0;
        for (op, result) in ops.iter().zip(results) {
            let Some(object) = op.object() else { continue };
            carried.touched.add(op);
            match result {
                Ok(()) => {
                    if !quiet {
                        self.metrics.emit(KernelOp { op, outcome: Outcome::Done });
                    }
                    note(op, self.model);
                    self.ledger.done(&object);
                    done += 1;
                }
                Err(error) => {
                    let text = super::chain(&error);
                    self.metrics.emit(KernelOp { op, outcome: Outcome::Refused(&text) });
                    carried.failed = true;
                    carried.unknown |= matches!(error, KernelError::Unanswered { .. });
                    missing.note(op);
                    self.ledger.failed(object, error, Instant::now(), self.rng);
                }
            }
        }
        if quiet {
            self.metrics.emit(KernelRun { op: &ops[0], done });
        }
        carried.done += done;
    }

    /// Whether something has to be there, or gone, before this operation may be carried out.
    fn waits_for(&self, op: &Op, missing: &Missing, used: Option<&BTreeSet<NexthopId>>) -> bool {
        match op {
            Op::AddNexthop(_, Nexthop::Group { members, .. })
            | Op::ReplaceNexthop { to: Nexthop::Group { members, .. }, .. } => {
                members.keys().any(|id| !self.model.nexthops.contains_key(id))
            }
            // A route that is not there is better off with the last good group than without one.
            Op::AddRoute(_, RouteTarget::Nexthop(id)) => !self.model.nexthops.contains_key(id),
            Op::ReplaceRoute { to: RouteTarget::Nexthop(id), .. } => {
                self.model.nexthops.get(id) != self.desired.nexthops.get(id)
            }
            Op::AddRule(rule) => self.rule_waits(rule, missing),
            Op::DeleteRule(_) => missing.rule_added,
            Op::DeleteGuard(_) => missing.rule_deleted,
            Op::DeleteRoute(key, _) => self.route_waits(key, missing),
            Op::DeleteNexthop(id, _) => used.is_some_and(|used| used.contains(id)),
            Op::AddNexthop(..)
            | Op::ReplaceNexthop { .. }
            | Op::AddRoute(..)
            | Op::ReplaceRoute { .. }
            | Op::LoadGuard { .. }
            | Op::Elements { .. }
            | Op::Classes { .. }
            | Op::Answers { .. } => false,
        }
    }

    /// A rule brings traffic to a table: first the floor beneath, the table that guards, and what
    /// ends the search before it for packets that are not to come so far.
    fn rule_waits(&self, rule: &Rule, missing: &Missing) -> bool {
        let unguarded = self.desired.guard.is_some() && self.model.guard.is_none();
        unguarded
            || match rule.action {
                RuleAction::Lookup { table, .. } => {
                    missing.floors.contains(&(rule.family, table))
                        || missing.ends.iter().any(|end| is_behind(rule, end))
                }
                RuleAction::Unreachable => false,
            }
    }

    fn route_waits(&self, key: &RouteKey, missing: &Missing) -> bool {
        let (family, table) = (Family::of_net(key.destination), key.table);
        if key.metric == Layout::METRIC_FLOOR && missing.floors.contains(&(family, table)) {
            return true;
        }
        let looks = |rule: &&Rule| {
            rule.family == family
                && matches!(rule.action, RuleAction::Lookup { table: to, .. } if to == table)
        };
        self.model.rules.iter().filter(looks).any(|rule| !self.desired.rules.contains(rule))
    }
}

// === impl Missing ===

impl Missing {
    fn note(&mut self, op: &Op) {
        match op {
            Op::AddRoute(key, _) | Op::ReplaceRoute { key, .. }
                if key.metric == Layout::METRIC_FLOOR =>
            {
                self.floors.insert((Family::of_net(key.destination), key.table));
            }
            Op::AddRule(rule) => {
                self.rule_added = true;
                if rule.action == RuleAction::Unreachable {
                    self.ends.push(rule.clone());
                }
            }
            Op::DeleteRule(_) => self.rule_deleted = true,
            _ => {}
        }
    }
}

/// Whether packets that are to end at a rule would come to another one without it.
fn is_behind(rule: &Rule, end: &Rule) -> bool {
    let apart = rule.iif.as_ref().zip(end.iif.as_ref()).is_some_and(|(one, other)| one != other);
    rule.family == end.family && end.priority < rule.priority && !apart
}

impl Parts {
    fn add(&mut self, op: &Op) {
        match op {
            Op::AddNexthop(..) | Op::ReplaceNexthop { .. } | Op::DeleteNexthop(..) => {
                self.nexthops = true;
            }
            Op::AddRoute(key, _)
            | Op::ReplaceRoute { key, from: _, to: _ }
            | Op::DeleteRoute(key, _) => {
                self.tables.insert((Family::of_net(key.destination), key.table));
            }
            Op::AddRule(_) | Op::DeleteRule(_) => self.rules = true,
            Op::LoadGuard { .. }
            | Op::DeleteGuard(_)
            | Op::Elements { .. }
            | Op::Classes { .. } => self.guard = true,
            Op::Answers { .. } => {}
        }
    }
}

/// Routes go together with others in one call, and groups that are there: none of them needs
/// another one.
fn joins(op: &Op) -> bool {
    match op {
        Op::AddRoute(..) | Op::ReplaceRoute { .. } | Op::DeleteRoute(..) => true,
        Op::ReplaceNexthop { to, .. } => matches!(to, Nexthop::Group { .. }),
        _ => false,
    }
}

/// Only one kind of operation goes together in one call.
fn goes_with(first: &Op, op: &Op) -> bool {
    joins(op) && std::mem::discriminant(first) == std::mem::discriminant(op)
}

/// The members of groups and the targets of routes.
fn used_nexthops(state: &NodeState) -> BTreeSet<NexthopId> {
    let mut used = BTreeSet::new();
    for nexthop in state.nexthops.values() {
        match nexthop {
            Nexthop::Single { .. } | Nexthop::Blackhole { .. } => {}
            Nexthop::Group { members, .. } => used.extend(members.keys().copied()),
        }
    }
    used.extend(state.routes.values().filter_map(|target| match target {
        RouteTarget::Nexthop(id) => Some(*id),
        RouteTarget::Unreachable => None,
    }));
    used
}
