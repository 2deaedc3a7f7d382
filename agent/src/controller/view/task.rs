//! Tasks: who asked for what, how far it is, what continues or reverts it.

use nett_policy::id::{EntryId, WallMs};
use nett_policy::log::entry::{Ask, Effect, Object, StepState, Verb, WishKind};
use nett_policy::log::fold::{Fact, TaskRecord, Written};
use nett_policy::task::acks::Course;
use nett_policy::task::decide::{Present, propose};
use nett_policy::task::steps::{Step, steps};
use nett_policy::task::view::{Reading, TaskState, read, start_slot};

use super::super::Controller;
use crate::api::types::{
    AckDoc, ApiError, ApprovalDoc, Payload, Stamp, StepDoc, StepStateDoc, TaskDoc, TaskLine,
    TaskStateDoc,
};

// === impl Controller ===

impl Controller {
    /// Newest first.
    pub(super) fn task_lines(&self) -> Vec<TaskLine> {
        let mut tasks: Vec<_> = self.fold.commands().collect();
        tasks.sort_by_key(|(_, written, _)| std::cmp::Reverse(written.at));
        tasks.into_iter().map(|(id, _, _)| self.task_line(id)).collect()
    }

    pub(super) fn task_line(&self, id: &EntryId) -> TaskLine {
        let (written, command) = self.fold.command(id).expect("the caller knows the task");
        let reading = read(&self.fold, id);
        let progress = match self.effect(id) {
            Some(effect) => {
                format!("{}/{}", reading.done, steps(&effect.moves, self.world()).len())
            }
            None => String::new(),
        };
        TaskLine {
            id: id.to_string(),
            verb: command.request.ask.verb_name().to_owned(),
            subject: subject(&command.request.ask),
            person: command.request.person.name.clone(),
            state: state_doc(reading.state()),
            progress,
            opened_at: written.at.into(),
        }
    }

    pub(super) fn task_payload(&self, id: &str) -> Result<Payload, ApiError> {
        let id = self.known_task(id)?;
        Ok(Payload::Task(self.task_doc(&id)))
    }

    /// Goes up with everything that is shown of a task: facts, wishes, acknowledgements.
    pub(super) fn revision(&self, task: &EntryId) -> u64 {
        let record = self.fold.task(task);
        let entries = record.map_or(0, |r| r.facts().count() + r.wishes().count());
        let acks = self.open_course(task, |course, step| {
            let slot = start_slot(&self.fold, task, step.number);
            let acked = |node| slot.as_ref().is_some_and(|slot| self.ack_of(node, slot).is_some());
            course.required(step).iter().filter(|node| acked(node)).count()
        });
        // A fact weighs more than all acknowledgements of a step, which are gone with the next.
        let entries = u64::try_from(entries).unwrap_or(u64::MAX);
        entries.saturating_mul(1000) + u64::try_from(acks.unwrap_or(0)).unwrap_or(0) + 1
    }

    fn effect(&self, task: &EntryId) -> Option<&Effect> {
        match &self.fold.task(task)?.effect()?.what {
            Fact::Effective { effect, .. } => Some(effect),
            Fact::Step(_) | Fact::End(_) => None,
        }
    }

    fn open_course<T>(&self, task: &EntryId, f: impl Fn(&Course<'_>, &Step) -> T) -> Option<T> {
        let (written, _) = self.fold.command(task)?;
        let effect = self.effect(task)?;
        let number = read(&self.fold, task).open_step()?;
        let (world, before, site) = (self.world(), &self.intent, &written.site);
        let course = Course { world, before, task, site, effect };
        let steps = course.steps();
        steps.iter().find(|s| s.number == number).map(|step| f(&course, step))
    }

    fn task_doc(&self, id: &EntryId) -> TaskDoc {
        let (written, command) = self.fold.command(id).expect("the caller knows the task");
        let reading = read(&self.fold, id);
        let record = self.fold.task(id);
        let ended = reading.end.and(reading.last.as_ref()).map(|last| last.at.into());
        let effective = record.and_then(TaskRecord::effect).map(|w| w.at.into());
        // The task itself would stand in its own way as an open one.
        let without = self.fold.without(id);
        let rest = Present { fold: &without, ..self.present() };
        let services = match (self.effect(id), &command.request.ask) {
            (Some(effect), _) => effect.moves.iter().map(|m| m.service.to_string()).collect(),
            (None, Ask::Command { verb, overrides, .. }) => propose(rest, verb, overrides)
                .map(|p| p.services.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            (None, Ask::Wish { .. }) => Vec::new(),
        };
        let (continue_with, revert_with) = ways_on(id, &reading);
        TaskDoc {
            id: id.to_string(),
            revision: self.revision(id),
            verb: command.request.ask.verb_name().to_owned(),
            subject: subject(&command.request.ask),
            person: command.request.person.name.clone(),
            reason: command.request.reason.clone(),
            home: written.site.to_string(),
            state: state_doc(reading.state()),
            plan_hash: command.plan_hash.clone(),
            services,
            approvals_needed: command.approvals_needed,
            approvals: self.approval_docs(id),
            opened_at: written.at.into(),
            effective_at: effective,
            ended_at: ended,
            steps: self.step_docs(id, &reading),
            outcome_reason: reading.end_reason.clone(),
            continue_with,
            revert_with,
        }
    }

    fn approval_docs(&self, task: &EntryId) -> Vec<ApprovalDoc> {
        let Some((_, command)) = self.fold.command(task) else { return Vec::new() };
        let counted = nett_policy::task::view::approvals(&self.fold, command, &self.setting.fabric);
        let wishes = self.fold.task(task).into_iter().flat_map(TaskRecord::wishes);
        let doc = |wish: &Written<nett_policy::log::entry::Request>| {
            let Ask::Wish { kind, .. } = &wish.what.ask else { return None };
            let approve = matches!(kind, WishKind::Approve { .. });
            let counts = !approve || counted.iter().any(|g| g.id == wish.what.id);
            Some(ApprovalDoc {
                person: wish.what.person.name.clone(),
                at: wish.at.into(),
                reason: wish.what.reason.clone(),
                approve,
                counts,
                note: if counts { String::new() } else { "does not count".to_owned() },
            })
        };
        wishes.filter_map(doc).collect()
    }

    fn step_docs(&self, task: &EntryId, reading: &Reading) -> Vec<StepDoc> {
        let (Some((written, _)), Some(effect)) = (self.fold.command(task), self.effect(task))
        else {
            return Vec::new();
        };
        let (world, before, site) = (self.world(), &self.intent, &written.site);
        let course = Course { world, before, task, site, effect };
        let open = reading.open_step();
        let doc = |step: &Step| {
            let times = self.step_times(task, step.number);
            let slot = start_slot(&self.fold, task, step.number);
            let acks = course.required(step).into_iter().map(|node| AckDoc {
                acked: step.number <= reading.done
                    || slot.as_ref().is_some_and(|s| self.ack_of(&node, s).is_some()),
                age_ms: self.age_of(&node),
                node: node.to_string(),
            });
            StepDoc {
                number: step.number,
                kind: step.kind.as_str().to_owned(),
                services: step.states.keys().map(ToString::to_string).collect(),
                state: match () {
                    () if step.number <= reading.done => StepStateDoc::Done,
                    () if reading.failed.is_some() && step.number == reading.started => {
                        StepStateDoc::Failed
                    }
                    () if open == Some(step.number) => StepStateDoc::Started,
                    () => StepStateDoc::Waiting,
                },
                started_at: times.started.map(Stamp::from),
                done_at: times.done.map(Stamp::from),
                acknowledge: acks.collect(),
                evidence: times.evidence,
                failure: times.failure,
            }
        };
        course.steps().iter().map(doc).collect()
    }

    /// How long ago a node reported; its own word is always new.
    fn age_of(&self, node: &nett_policy::id::NodeId) -> Option<u64> {
        if *node == self.setting.node.id {
            return Some(0);
        }
        let heard = self.peers.reports.get(node)?;
        Some(super::ms(self.last_now.saturating_sub(heard.at)))
    }

    fn step_times(&self, task: &EntryId, number: u32) -> StepTimes {
        let mut times = StepTimes::default();
        for fact in self.fold.task(task).into_iter().flat_map(TaskRecord::facts) {
            let Fact::Step(step) = &fact.what else { continue };
            if step.step != number {
                continue;
            }
            match &step.state {
                StepState::Started => times.started = Some(fact.at),
                StepState::Done { evidence } => {
                    times.done = Some(fact.at);
                    times.evidence = evidence.clone();
                }
                StepState::Failed { reason } => {
                    times.done = Some(fact.at);
                    times.failure = reason.clone();
                }
            }
        }
        times
    }
}

#[derive(Default)]
struct StepTimes {
    started: Option<WallMs>,
    done: Option<WallMs>,
    evidence: Vec<String>,
    failure: String,
}

/// What a command is about, in words.
pub(super) fn subject(ask: &Ask) -> String {
    let Ask::Command { verb, .. } = ask else { return String::new() };
    let object = |object: &Object| match object {
        Object::Site(site) => format!("site {site}"),
        Object::ServiceAt(service, site) => format!("{service} at {site}"),
    };
    match verb {
        Verb::Failover { services, to } => format!("{services} -> {to}"),
        Verb::Failback { services } => services.to_string(),
        Verb::Steer { services, to } => {
            let shares: Vec<String> = to.iter().map(|(s, w)| format!("{s}={w}")).collect();
            format!("{services} -> {}", shares.join(","))
        }
        Verb::Drain { object: o } | Verb::Undrain { object: o } => object(o),
        Verb::Revert { task } => format!("task {task}"),
    }
}

pub(super) fn state_doc(state: TaskState) -> TaskStateDoc {
    match state {
        TaskState::WaitingApproval => TaskStateDoc::WaitingApproval,
        TaskState::Running => TaskStateDoc::Running,
        TaskState::Ended(outcome) => TaskStateDoc::from(outcome),
    }
}

fn ways_on(task: &EntryId, reading: &Reading) -> (Vec<String>, Vec<String>) {
    let revert = format!("nettctl revert {task} --reason TEXT");
    match reading.state() {
        TaskState::WaitingApproval => (
            vec![format!("nettctl approve {task} --reason TEXT")],
            vec![format!("nettctl reject {task} --reason TEXT")],
        ),
        TaskState::Running => (vec![format!("nettctl task watch {task}")], Vec::new()),
        TaskState::Ended(_) if reading.effective => (Vec::new(), vec![revert]),
        TaskState::Ended(_) => (Vec::new(), Vec::new()),
    }
}
