//! Which fact a task needs next. Any agent of the home site may ask and write it; whoever loses the
//! compare-and-set reads on and asks again, so nobody is elected.

use std::collections::BTreeSet;
use std::time::Duration;

use super::acks::Course;
use super::decide::{Present, judge};
use super::steps::{Step, StepKind};
use super::view::{Reading, TaskState, approvals, read, rejection, start_slot};
use crate::id::{EntryId, NodeId, WallMs};
use crate::log::entry::{
    Body, Command, EffectiveFact, EndFact, Outcome, Slot, StepFact, StepState,
};
use crate::log::fold::Fact;

/// How long a step may wait for its acknowledgements.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a task may wait for its approvals.
pub const APPROVAL_TIMEOUT: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Write(Box<Body>),
    /// Nothing yet; ask again when something is read, or after this long.
    Wait(Option<Duration>),
}

/// A node's word about a step it was to carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    pub slot: Slot,
    pub ok: bool,
    pub evidence: Vec<String>,
}

/// What the asking agent knows beside the log.
pub struct Seen<'a> {
    /// The node's acknowledgement of this slot, if it has given one.
    pub ack: &'a dyn Fn(&NodeId, &Slot) -> Option<Ack>,
    /// How long ago, on this agent's monotonic clock, the task's last fact was read.
    pub since_last: Duration,
    pub now: WallMs,
}

/// The next fact of a task whose home is `present.home`.
pub fn next(present: Present<'_>, task: &EntryId, seen: &Seen<'_>) -> Next {
    let Some((written, command)) = present.fold.command(task) else {
        return Next::Wait(None);
    };
    let reading = read(present.fold, task);
    let slot = Slot { task: task.clone(), term: 0, index: reading.next_index };
    match reading.state() {
        TaskState::Ended(_) => Next::Wait(None),
        TaskState::WaitingApproval => waiting(present, command, written.at, slot, seen),
        TaskState::Running => running(present, task, &reading, slot, seen),
    }
}

fn waiting(
    present: Present<'_>,
    command: &Command,
    accepted: WallMs,
    slot: Slot,
    seen: &Seen<'_>,
) -> Next {
    let task = &command.request.id;
    if let Some(given) = rejection(present.fold, task, present.world.fabric) {
        let reason = format!("rejected by {}: {}", given.person.name, given.reason);
        return end(slot, Outcome::Rejected, reason);
    }
    let waited = Duration::from_millis(seen.now.0.saturating_sub(accepted.0));
    if waited >= APPROVAL_TIMEOUT {
        return end(slot, Outcome::Expired, "not approved within 15 minutes".to_owned());
    }
    let given = approvals(present.fold, command, present.world.fabric);
    if given.len() < usize::from(command.approvals_needed) {
        return Next::Wait(Some(APPROVAL_TIMEOUT - waited));
    }
    // The plan is made again from what is known now: another hash, or a rule that refuses, and the
    // approval does not fit any more.
    // Without the task itself, which would else stand in its own way as an open one.
    let fold = present.fold.without(task);
    match judge(Present { fold: &fold, ..present }, &command.request) {
        Ok(proposal) if proposal.plan_hash == command.plan_hash => {
            let approvals = given.into_iter().map(|g| g.id).collect();
            let effect = proposal.effect;
            let fact = EffectiveFact { slot, approvals, effect };
            Next::Write(Box::new(Body::Effective(fact)))
        }
        Ok(_) => end(slot, Outcome::Failed, "the state changed since the plan".to_owned()),
        Err(refusal) => {
            let reason = format!("refused when it was to take effect: {refusal}");
            end(slot, Outcome::Failed, reason)
        }
    }
}

fn running(
    present: Present<'_>,
    task: &EntryId,
    reading: &Reading,
    slot: Slot,
    seen: &Seen<'_>,
) -> Next {
    if let Some(reason) = &reading.failed {
        return end(slot, Outcome::Failed, reason.clone());
    }
    let fact = present.fold.task(task).and_then(|record| record.effect());
    let Some(Fact::Effective { effect, .. }) = fact.map(|w| &w.what) else {
        return Next::Wait(None);
    };
    let site = present.home;
    let course = Course { world: present.world, before: present.intent, task, site, effect };
    let steps = course.steps();
    let at = |number: u32| steps.iter().find(|s| s.number == number);
    if let Some(number) = reading.open_step() {
        return match at(number) {
            Some(step) => open_step(present, &course, step, slot, seen),
            None => {
                let reason = format!("step {number} does not exist in this fabric any more");
                fact_of(slot, number, StepState::Failed { reason })
            }
        };
    }
    match at(reading.done + 1) {
        None => end(slot, Outcome::Done, String::new()),
        Some(step) => match step.delay.checked_sub(seen.since_last) {
            Some(left) if !left.is_zero() => Next::Wait(Some(left)),
            Some(_) | None => fact_of(slot, step.number, StepState::Started),
        },
    }
}

fn open_step(
    present: Present<'_>,
    course: &Course<'_>,
    step: &Step,
    slot: Slot,
    seen: &Seen<'_>,
) -> Next {
    let Some(started) = start_slot(present.fold, course.task, step.number) else {
        return Next::Wait(None);
    };
    let required = course.required(step);
    let mut evidence = Vec::new();
    let mut missing: BTreeSet<&NodeId> = BTreeSet::new();
    for node in &required {
        match (seen.ack)(node, &started) {
            None => drop(missing.insert(node)),
            Some(ack) if ack.ok => {
                evidence.extend(ack.evidence.iter().map(|line| format!("{node}: {line}")));
            }
            Some(ack) => {
                let reason = format!("{node}: {}", ack.evidence.join("; "));
                return fact_of(slot, step.number, StepState::Failed { reason });
            }
        }
    }
    if missing.is_empty() {
        if step.kind == StepKind::Withdraw && !step.delay.is_zero() {
            evidence.push(format!("unmeasured: waited {} ms", step.delay.as_millis()));
        }
        return fact_of(slot, step.number, StepState::Done { evidence });
    }
    match STEP_TIMEOUT.checked_sub(seen.since_last) {
        Some(left) if !left.is_zero() => Next::Wait(Some(left)),
        Some(_) | None => {
            let names: Vec<&str> = missing.into_iter().map(NodeId::as_str).collect();
            let seconds = STEP_TIMEOUT.as_secs();
            let reason = format!("no acknowledgement in {seconds} s from {}", names.join(", "));
            fact_of(slot, step.number, StepState::Failed { reason })
        }
    }
}

fn fact_of(slot: Slot, step: u32, state: StepState) -> Next {
    Next::Write(Box::new(Body::Step(StepFact { slot, step, state })))
}

fn end(slot: Slot, outcome: Outcome, reason: String) -> Next {
    Next::Write(Box::new(Body::End(EndFact { slot, outcome, reason })))
}
