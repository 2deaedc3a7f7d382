//! How far a task has come, read from its facts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::fabric::{Fabric, OperatorRole};
use crate::id::{EntryId, NodeId, ServiceId, WallMs};
use crate::log::entry::{
    AdoptFact, Ask, Command, Effect, Outcome, Person, Request, Slot, Step, StepState, Turn,
    WishKind,
};
use crate::log::fold::{Fact, Fold, TaskRecord, Written};
use crate::log::intent::Intent;

/// What the facts of a task say, walked from index 0 to the first gap or terminal fact.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// How often the task took effect: once, and again when it undoes itself.
    pub effects: u32,
    /// The number of the last step of the last effect that was started; 0 is none.
    pub started: u32,
    /// The steps of the last effect that are done.
    pub done: BTreeSet<u32>,
    /// Why steps of the last effect failed.
    pub failed: BTreeMap<u32, String>,
    /// Why steps of the first effect failed, once it is undone.
    pub undone: Option<BTreeMap<u32, String>>,
    pub paused: bool,
    pub end: Option<Outcome>,
    pub end_reason: String,
    pub term: u32,
    /// The index the next fact gets.
    pub next_index: u32,
    /// Nodes that whoever adopted the task says are off.
    pub asserted: BTreeSet<NodeId>,
    /// Wishes that a fact has consumed.
    pub consumed: BTreeSet<EntryId>,
    /// When and by whom the last fact was written.
    pub last: Option<Written<()>>,
}

/// The state of a task in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    WaitingApproval,
    Running,
    /// No further step starts until it is resumed.
    Paused,
    /// Every step is over, and it undoes itself unless somebody confirms it.
    Confirming,
    Ended(Outcome),
}

/// A wish as given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub id: EntryId,
    pub person: Person,
    pub at: WallMs,
    pub expires_at: WallMs,
    pub reason: String,
    pub kind: WishKind,
}

// === impl Reading ===

impl Reading {
    pub fn of(record: &TaskRecord, task: &EntryId) -> Self {
        let mut reading = Self::default();
        for (term, index, fact) in record.facts(task) {
            reading.next_index = index + 1;
            reading.term = term;
            reading.last = Some(fact.without_what());
            reading.take(&fact.what);
            if reading.end.is_some() {
                return reading;
            }
        }
        // Who adopts a task writes its next fact, also when the old home wrote all before it.
        for adopt in record.adopts() {
            let slot = &adopt.what.slot;
            if slot.index <= reading.next_index {
                reading.term = reading.term.max(slot.term);
                if let Ask::Wish { kind: WishKind::Adopt { asserted }, .. } =
                    &adopt.what.request.ask
                {
                    reading.asserted.extend(asserted.iter().cloned());
                }
            }
        }
        reading
    }

    fn take(&mut self, fact: &Fact) {
        match fact {
            Fact::Effective { approvals, .. } => {
                if self.effects > 0 {
                    self.undone = Some(std::mem::take(&mut self.failed));
                }
                self.effects += 1;
                self.consumed.extend(approvals.iter().cloned());
                (self.started, self.paused) = (0, false);
                self.done.clear();
                self.failed.clear();
            }
            Fact::Step(step) => match &step.state {
                StepState::Started { gates, facts: _ } => {
                    self.started = step.step;
                    self.consumed.extend(gates.iter().cloned());
                }
                StepState::Done { .. } => {
                    self.done.insert(step.step);
                }
                StepState::Failed { reason } => {
                    drop(self.failed.insert(step.step, reason.clone()));
                }
            },
            Fact::Turn(turn) => {
                self.paused = turn.turn == Turn::Paused;
                self.consumed.insert(turn.wish.clone());
            }
            Fact::End(end) => {
                self.end = Some(end.outcome);
                self.end_reason = end.reason.clone();
            }
        }
    }

    pub fn effective(&self) -> bool {
        self.effects > 0
    }

    /// True once it undoes itself, or has. What it moved under a lease is stopped from then on.
    pub fn is_taken_back(&self) -> bool {
        self.effects > 1 || self.end == Some(Outcome::Reverted)
    }

    /// `steps` is how many the last effect has, and `confirm` whether the command asked for it.
    pub fn state_of(&self, steps: usize, confirm: bool) -> TaskState {
        match self.end {
            Some(outcome) => TaskState::Ended(outcome),
            None if self.paused => TaskState::Paused,
            None if confirm
                && self.effects == 1
                && self.done.len() + self.failed.len() == steps =>
            {
                TaskState::Confirming
            }
            None if self.effective() => TaskState::Running,
            None => TaskState::WaitingApproval,
        }
    }

    /// The step that nodes acknowledge now: it was started, and is neither done nor failed.
    pub fn open_step(&self) -> Option<u32> {
        let over = self.done.contains(&self.started) || self.failed.contains_key(&self.started);
        (self.end.is_none() && self.started > 0 && !over).then_some(self.started)
    }

    /// The nodes that this step still needs to hear from, or has heard from.
    pub fn required<'a>(&'a self, step: &'a Step) -> impl Iterator<Item = &'a NodeId> {
        step.required.iter().filter(|node| !self.asserted.contains(*node))
    }

    /// The nodes that carry the step out when they can.
    pub fn owed<'a>(&'a self, step: &'a Step) -> impl Iterator<Item = &'a NodeId> {
        let asserted = step.required.iter().filter(|node| self.asserted.contains(*node));
        step.owed.iter().chain(asserted)
    }
}

/// The reading of a task that was accepted; a record without facts reads as waiting.
pub fn read(fold: &Fold, task: &EntryId) -> Reading {
    fold.task(task).map(|record| Reading::of(record, task)).unwrap_or_default()
}

/// The state of a task in one word.
pub fn state(fold: &Fold, task: &EntryId) -> TaskState {
    state_of(fold, task, &read(fold, task))
}

/// As [`state`], for a reading at hand.
pub fn state_of(fold: &Fold, task: &EntryId, reading: &Reading) -> TaskState {
    let steps = last_effect(fold, task).map_or(0, |effect| effect.steps.len());
    let confirm = fold.command(task).and_then(|(_, command)| command.request.ask.confirm_within());
    reading.state_of(steps, confirm.is_some())
}

pub fn is_open(fold: &Fold, task: &EntryId) -> bool {
    read(fold, task).end.is_none()
}

/// What the task does now: its effect, or the undo of it.
pub fn last_effect<'a>(fold: &'a Fold, task: &EntryId) -> Option<&'a Arc<Effect>> {
    fold.task(task)?.effects(task).last().map(|(_, effect)| effect)
}

/// What the command did when it took effect.
pub fn first_effect<'a>(fold: &'a Fold, task: &EntryId) -> Option<&'a Arc<Effect>> {
    fold.task(task)?.effects(task).next().map(|(_, effect)| effect)
}

/// The slot in which a step of the last effect was started.
pub fn start_slot(fold: &Fold, task: &EntryId, step: u32) -> Option<Slot> {
    let mut found = None;
    for (term, index, fact) in fold.task(task)?.facts(task) {
        match &fact.what {
            Fact::Effective { .. } => found = None,
            Fact::Step(fact) if fact.step == step => {
                if matches!(fact.state, StepState::Started { .. }) {
                    found = Some(Slot { task: task.clone(), term, index });
                }
            }
            Fact::Step(_) | Fact::Turn(_) => {}
            Fact::End(_) => break,
        }
    }
    found
}

/// The approvals that count for a task: bound to its plan, from people with the role, none of whom
/// issued the command. One per person, in order of the wish's id.
pub fn approvals(fold: &Fold, command: &Command, fabric: &Fabric) -> Vec<Given> {
    let mut counted: Vec<Given> = Vec::new();
    for given in wishes(fold, &command.request.id) {
        let fits = matches!(&given.kind,
            WishKind::Approve { plan_hash } if *plan_hash == command.plan_hash);
        let other = given.person.key != command.request.person.key;
        if fits
            && other
            && has_role(fabric, &given, OperatorRole::Approver)
            && counted.iter().all(|c| c.person.key != given.person.key)
        {
            counted.push(given);
        }
    }
    counted
}

/// The first wish of a kind that counts and that no fact has consumed.
pub fn wished(
    fold: &Fold,
    task: &EntryId,
    fabric: &Fabric,
    reading: &Reading,
    is: impl Fn(&WishKind) -> bool,
) -> Option<Given> {
    let counts = |given: &Given| {
        is(&given.kind)
            && !reading.consumed.contains(&given.id)
            && has_role(fabric, given, role_for(&given.kind))
    };
    wishes(fold, task).into_iter().find(counts)
}

/// Who may give a wish.
pub fn role_for(kind: &WishKind) -> OperatorRole {
    match kind {
        WishKind::Approve { .. } | WishKind::Reject => OperatorRole::Approver,
        WishKind::Gate { .. } => OperatorRole::Gate,
        WishKind::Cancel
        | WishKind::Pause
        | WishKind::Resume
        | WishKind::Confirm
        | WishKind::Adopt { .. } => OperatorRole::Operator,
    }
}

/// Checked where it counts as well as where it was given: that was another site's agent.
fn has_role(fabric: &Fabric, given: &Given, role: OperatorRole) -> bool {
    let operator = fabric.operator_by_key(&given.person.key);
    operator.is_some_and(|o| o.roles.contains(&role))
}

/// All wishes about a task, by their ids.
pub fn wishes(fold: &Fold, task: &EntryId) -> Vec<Given> {
    let all = fold.task(task).into_iter().flat_map(TaskRecord::wishes);
    let given = |written: &Written<Request>| match &written.what.ask {
        Ask::Wish { kind, .. } => Some(Given {
            id: written.what.id.clone(),
            person: written.what.person.clone(),
            at: written.at,
            expires_at: written.what.expires_at,
            reason: written.what.reason.clone(),
            kind: kind.clone(),
        }),
        Ask::Command { .. } => None,
    };
    all.filter_map(given).collect()
}

/// The services of an open task that another command has taken over since.
pub fn overtaken<'a>(
    intent: &'a Intent,
    task: &EntryId,
    effect: &'a Effect,
) -> Vec<(&'a ServiceId, &'a EntryId)> {
    let taken = effect.moves.iter().filter_map(|one| {
        let by = &intent.mover(&one.service)?.order.task;
        (by != task).then_some((&one.service, by))
    });
    taken.collect()
}

/// The entry that makes its author's site the home of a task, from behind the last fact that is
/// known there. `request` is a judged wish to adopt.
pub fn adoption(fold: &Fold, request: Request, rank: u32) -> AdoptFact {
    let task = match &request.ask {
        Ask::Wish { task, .. } => task.clone(),
        Ask::Command { .. } => request.id.clone(),
    };
    let reading = read(fold, &task);
    let slot = Slot { task, term: reading.term + 1, index: reading.next_index };
    AdoptFact { request, slot, rank }
}

// === impl TaskState ===

impl TaskState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WaitingApproval => "waiting-approval",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Confirming => "confirming",
            Self::Ended(outcome) => outcome.as_str(),
        }
    }
}
