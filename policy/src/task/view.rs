//! How far a task has come, read from its facts.

use crate::fabric::{Fabric, OperatorRole};
use crate::id::{EntryId, WallMs};
use crate::log::entry::{Ask, Command, Outcome, Person, Slot, StepState, WishKind};
use crate::log::fold::{Fact, Fold, TaskRecord, Written};

/// What the facts of a task say, walked from index 0 to the first gap or terminal fact.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    pub effective: bool,
    /// The number of the last step that was started; 0 is none.
    pub started: u32,
    /// The number of the last step that is done; 0 is none.
    pub done: u32,
    /// The reason, when the last started step failed.
    pub failed: Option<String>,
    pub end: Option<Outcome>,
    pub end_reason: String,
    /// The index the next fact gets.
    pub next_index: u32,
    /// When and by whom the last fact was written.
    pub last: Option<Written<()>>,
}

/// The state of a task in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    WaitingApproval,
    Running,
    Ended(Outcome),
}

/// An approval or rejection as given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub id: EntryId,
    pub person: Person,
    pub at: WallMs,
    pub reason: String,
    pub kind: WishKind,
}

// === impl Reading ===

impl Reading {
    pub fn of(record: &TaskRecord) -> Self {
        let mut reading = Self::default();
        for fact in record.facts() {
            let Written { entry, site, node, at, seq, what } = fact;
            reading.next_index += 1;
            reading.last = Some(Written {
                entry: entry.clone(),
                site: site.clone(),
                node: node.clone(),
                at: *at,
                seq: *seq,
                what: (),
            });
            match what {
                Fact::Effective { .. } => reading.effective = true,
                Fact::Step(step) => match &step.state {
                    StepState::Started => reading.started = step.step,
                    StepState::Done { .. } => reading.done = step.step,
                    StepState::Failed { reason } => reading.failed = Some(reason.clone()),
                },
                Fact::End(end) => {
                    reading.end = Some(end.outcome);
                    reading.end_reason = end.reason.clone();
                    break;
                }
            }
        }
        reading
    }

    pub fn state(&self) -> TaskState {
        match self.end {
            Some(outcome) => TaskState::Ended(outcome),
            None if self.effective => TaskState::Running,
            None => TaskState::WaitingApproval,
        }
    }

    /// The slot of the fact that nodes acknowledge now: the start of the step that is not done.
    pub fn open_step(&self) -> Option<u32> {
        (self.end.is_none() && self.failed.is_none() && self.started > self.done)
            .then_some(self.started)
    }
}

/// The reading of a task that was accepted; a record without facts reads as waiting.
pub fn read(fold: &Fold, task: &EntryId) -> Reading {
    fold.task(task).map(Reading::of).unwrap_or_default()
}

/// The slot in which a step was started.
pub fn start_slot(fold: &Fold, task: &EntryId, step: u32) -> Option<Slot> {
    let facts = fold.task(task)?.facts();
    let starts = |fact: &Written<Fact>| match &fact.what {
        Fact::Step(fact) if fact.step == step => matches!(fact.state, StepState::Started),
        Fact::Step(_) | Fact::Effective { .. } | Fact::End(_) => false,
    };
    let index = facts.zip(0u32..).find(|(fact, _)| starts(fact)).map(|(_, index)| index)?;
    Some(Slot { task: task.clone(), term: 0, index })
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
            && is_approver(fabric, &given)
            && counted.iter().all(|c| c.person.key != given.person.key)
        {
            counted.push(given);
        }
    }
    counted
}

/// The rejection of a task, if there is one.
pub fn rejection(fold: &Fold, task: &EntryId, fabric: &Fabric) -> Option<Given> {
    let rejects = |given: &Given| given.kind == WishKind::Reject && is_approver(fabric, given);
    wishes(fold, task).into_iter().find(rejects)
}

/// Checked where it counts as well as where it was given: that was another site's agent.
fn is_approver(fabric: &Fabric, given: &Given) -> bool {
    let operator = fabric.operator_by_key(&given.person.key);
    operator.is_some_and(|o| o.roles.contains(&OperatorRole::Approver))
}

fn wishes(fold: &Fold, task: &EntryId) -> Vec<Given> {
    let all = fold.task(task).into_iter().flat_map(TaskRecord::wishes);
    let given = |written: &Written<crate::log::entry::Request>| match &written.what.ask {
        Ask::Wish { kind, .. } => Some(Given {
            id: written.what.id.clone(),
            person: written.what.person.clone(),
            at: written.at,
            reason: written.what.reason.clone(),
            kind: kind.clone(),
        }),
        Ask::Command { .. } => None,
    };
    all.filter_map(given).collect()
}

// === impl TaskState ===

impl TaskState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WaitingApproval => "waiting-approval",
            Self::Running => "running",
            Self::Ended(outcome) => outcome.as_str(),
        }
    }
}
