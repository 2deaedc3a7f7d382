//! Tasks: who asked for what, how far it is, what continues or reverts it.

use nett_policy::id::{EntryId, NodeId, SiteId, WallMs};
use nett_policy::log::conflict::Conflict;
use nett_policy::log::entry::{
    Ask, Asked, Object, Request, Slot, Step, StepKind, StepState, Verb, WishKind,
};
use nett_policy::log::fold::{Fact, TaskRecord, Written};
use nett_policy::task::decide::{Present, propose};
use nett_policy::task::external::request_id;
use nett_policy::task::next::standstill;
use nett_policy::task::view::{
    Given, Reading, TaskState, approvals, first_effect, last_effect, read, start_slot, state_of,
    wishes,
};

use super::super::{Controller, SILENCE};
use super::ms;
use crate::api::types::{
    AckDoc, ApiError, ApprovalDoc, ExternalDoc, Payload, Stamp, StepDoc, StepStateDoc, TaskDoc,
    TaskLine, TaskStateDoc, WishDoc,
};

/// How many services a task and each of its steps names: what is shown has to fit into a message.
pub(super) const LISTED: usize = 100;

fn more(all: usize) -> u64 {
    u64::try_from(all.saturating_sub(LISTED)).unwrap_or(u64::MAX)
}

// === impl Controller ===

impl Controller {
    /// Newest first.
    pub(super) fn task_lines(&self) -> Vec<TaskLine> {
        let mut tasks: Vec<_> = self.fold.commands().collect();
        tasks.sort_by_key(|(_, written, _)| std::cmp::Reverse(written.at));
        let local = self.local_lines().into_iter();
        local.chain(tasks.into_iter().map(|(id, _, _)| self.task_line(id))).collect()
    }

    pub(super) fn task_line(&self, id: &EntryId) -> TaskLine {
        let (written, command) = self.fold.command(id).expect("the caller knows the task");
        let reading = read(&self.fold, id);
        let progress = match last_effect(&self.fold, id) {
            Some(effect) => format!("{}/{}", reading.done.len(), effect.steps.len()),
            None => String::new(),
        };
        TaskLine {
            id: id.to_string(),
            verb: command.request.ask.verb_name().to_owned(),
            subject: subject(&command.request.ask),
            person: command.request.person.name.clone(),
            state: state_doc(state_of(&self.fold, id, &reading)),
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
        let entries =
            record.map_or(0, |r| r.facts(task).count() + r.wishes().count() + r.adopts().count());
        // A fact weighs more than all acknowledgements of a step, which are gone with the next.
        let entries = u64::try_from(entries).unwrap_or(u64::MAX);
        let acks = u64::try_from(self.acks_of(task)).unwrap_or(0);
        entries.saturating_mul(1000) + acks + 1
    }

    /// How many nodes have acknowledged the open step.
    fn acks_of(&self, task: &EntryId) -> usize {
        let reading = read(&self.fold, task);
        let Some(number) = reading.open_step() else { return 0 };
        let Some(slot) = start_slot(&self.fold, task, number) else { return 0 };
        let Some(effect) = last_effect(&self.fold, task) else { return 0 };
        let Some(step) = effect.steps.iter().find(|s| s.number == number) else { return 0 };
        reading.required(step).filter(|node| self.ack_of(node, &slot).is_some()).count()
    }

    fn task_doc(&self, id: &EntryId) -> TaskDoc {
        let (written, command) = self.fold.command(id).expect("the caller knows the task");
        let reading = read(&self.fold, id);
        let state = state_of(&self.fold, id, &reading);
        let ended = reading.end.and(reading.last.as_ref()).map(|last| last.at.into());
        let effective = self.fold.effects(id).next().map(|(w, _)| w.at.into());
        let steps = self.step_docs(id, &reading);
        let services = self.services_of(id, &command.request.ask);
        let verb = command.request.ask.verb_name();
        let ways = ways_on(id, (verb, state), &reading, &silent_of(&steps));
        TaskDoc {
            id: id.to_string(),
            revision: self.revision(id),
            verb: verb.to_owned(),
            subject: subject(&command.request.ask),
            person: command.request.person.name.clone(),
            reason: command.request.reason.clone(),
            home: self.fold.home(id).to_string(),
            term: reading.term,
            state: state_doc(state),
            plan_hash: command.plan_hash.clone(),
            more_services: more(services.len()),
            services: services.into_iter().take(LISTED).collect(),
            approvals_needed: command.approvals_needed,
            approvals: self.approval_docs(id),
            wishes: self.wish_docs(id, &reading),
            opened_at: written.at.into(),
            effective_at: effective,
            ended_at: ended,
            times: self.times_doc(id),
            costs: self.cost_docs(id),
            steps,
            without: without_of(&command.request.ask),
            unprotected: self.unprotected_by(id),
            outcome_reason: reading.end_reason.clone(),
            stands_still: standstill(self.present(), id, self.sight.now),
            supersedes: command.supersedes.iter().map(ToString::to_string).collect(),
            conflicts: self.conflicts_of(id),
            continue_with: ways.0,
            revert_with: ways.1,
        }
    }

    fn services_of(&self, id: &EntryId, ask: &Ask) -> Vec<String> {
        if let Some(effect) = first_effect(&self.fold, id) {
            return effect.moves.iter().map(|m| m.service.to_string()).collect();
        }
        let Ask::Command { verb, overrides, terms, .. } = ask else { return Vec::new() };
        // The task itself would stand in its own way as an open one.
        let without = self.fold.without(id);
        let rest = Present { fold: &without, ..self.present() };
        let services = propose(rest, verb, overrides, terms).map(|p| p.services);
        services.unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    /// The split decisions that the task is a part of, one line each.
    fn conflicts_of(&self, id: &EntryId) -> Vec<String> {
        let mut lines = Vec::new();
        for conflict in &self.conflicts {
            let Conflict { subject, winner, losers } = conflict;
            if winner.order().task == *id {
                let others: Vec<&str> = losers.iter().map(|l| l.order().task.as_str()).collect();
                lines.push(format!("wins {subject} over task {}", others.join(", ")));
            } else if losers.iter().any(|l| l.order().task == *id) {
                let (by, person) = (&winner.order().task, &winner.person.name);
                lines.push(format!("loses {subject} to task {by} by {person}"));
            }
        }
        lines
    }

    /// Everything people want of the task beside approving and rejecting it.
    fn wish_docs(&self, task: &EntryId, reading: &Reading) -> Vec<WishDoc> {
        let given = wishes(&self.fold, task).into_iter();
        let other = given
            .filter(|given| !matches!(given.kind, WishKind::Approve { .. } | WishKind::Reject));
        let doc = |given: Given| WishDoc {
            wish: match &given.kind {
                WishKind::Gate { name } => format!("gate {name}"),
                kind => kind.name().to_owned(),
            },
            person: given.person.name.clone(),
            at: given.at.into(),
            reason: given.reason.clone(),
            consumed: reading.consumed.contains(&given.id),
        };
        other.map(doc).collect()
    }

    fn approval_docs(&self, task: &EntryId) -> Vec<ApprovalDoc> {
        let Some((_, command)) = self.fold.command(task) else { return Vec::new() };
        let counted = approvals(&self.fold, command, &self.setting.fabric);
        // What took effect took effect: who approved it then is not judged again.
        let consumed = read(&self.fold, task).consumed;
        let wishes = self.fold.task(task).into_iter().flat_map(TaskRecord::wishes);
        let doc = |wish: &Written<Request>| {
            let Ask::Wish { kind, .. } = &wish.what.ask else { return None };
            let approve = match kind {
                WishKind::Approve { .. } => true,
                WishKind::Reject => false,
                _ => return None,
            };
            let counts = !approve
                || consumed.contains(&wish.what.id)
                || counted.iter().any(|g| g.id == wish.what.id);
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

    /// The steps of what the task does now; of an undo, behind those of what it undoes.
    fn step_docs(&self, task: &EntryId, reading: &Reading) -> Vec<StepDoc> {
        let Some(effect) = last_effect(&self.fold, task) else { return Vec::new() };
        let open = reading.open_step();
        let doc = |step: &Step| {
            let times = self.step_times(task, step.number);
            let slot = start_slot(&self.fold, task, step.number);
            let acks = reading.required(step).map(|node| AckDoc {
                acked: reading.done.contains(&step.number)
                    || slot.as_ref().is_some_and(|s| self.ack_of(node, s).is_some()),
                age_ms: self.age_of(node),
                told: slot.as_ref().map(|s| self.told(task, step, node, s)).unwrap_or_default(),
                node: node.to_string(),
            });
            StepDoc {
                number: step.number,
                wave: step.wave,
                kind: step.kind.as_str().to_owned(),
                services: step.states.keys().take(LISTED).map(ToString::to_string).collect(),
                more_services: more(step.states.len()),
                state: match () {
                    () if reading.done.contains(&step.number) => StepStateDoc::Done,
                    () if reading.failed.contains_key(&step.number) => StepStateDoc::Failed,
                    () if open == Some(step.number) => StepStateDoc::Started,
                    () => StepStateDoc::Waiting,
                },
                started_at: times.started.map(Stamp::from),
                done_at: times.done.map(Stamp::from),
                acknowledge: acks.collect(),
                owed: self.owed_docs(reading, step, times.start.as_ref()),
                gates: step.gates.iter().cloned().collect(),
                external: step.asked.as_ref().map(|asked| external_doc(step, asked, slot.as_ref())),
                evidence: times.evidence,
                failure: times.failure,
            }
        };
        effect.steps.iter().map(doc).collect()
    }

    /// What a node measures for a step; of one that is not heard any more first of all that.
    fn told(&self, task: &EntryId, step: &Step, node: &NodeId, slot: &Slot) -> Vec<String> {
        let mut told = self.told_of(node, slot).unwrap_or_default();
        let measures = step.kind == StepKind::Drained && self.ack_of(node, slot).is_none();
        if let Some(silence) = self.silence_of(node, task).filter(|_| measures) {
            let before = if told.is_empty() { "" } else { "; what it told before is no verdict" };
            told.insert(0, format!("{silence}{before}"));
        }
        told
    }

    /// The nodes that are said to be off; each has done its part when it says that it has read the
    /// start of the step.
    fn owed_docs(
        &self,
        reading: &Reading,
        step: &Step,
        start: Option<&(SiteId, u64)>,
    ) -> Vec<AckDoc> {
        let read = |node: &NodeId| {
            let head = |(site, seq): &(SiteId, u64)| {
                let report = &self.peers.reports.get(node)?.report;
                Some(report.heads.get(site)?.seq >= *seq)
            };
            start.and_then(head).unwrap_or(false)
        };
        let doc = |node: &NodeId| AckDoc {
            acked: read(node),
            age_ms: self.age_of(node),
            told: Vec::new(),
            node: node.to_string(),
        };
        reading.owed(step).map(doc).collect()
    }

    /// How long ago a node reported; its own word is always new.
    fn age_of(&self, node: &nett_policy::id::NodeId) -> Option<u64> {
        if *node == self.setting.node.id {
            return Some(0);
        }
        let heard = self.peers.reports.get(node)?;
        Some(super::ms(self.last_now.saturating_sub(heard.at)))
    }

    /// Of a step of the last effect.
    fn step_times(&self, task: &EntryId, number: u32) -> StepTimes {
        let mut times = StepTimes::default();
        let facts = self.fold.task(task).into_iter().flat_map(|record| record.facts(task));
        for (_, _, fact) in facts {
            let step = match &fact.what {
                Fact::Effective { .. } => {
                    times = StepTimes::default();
                    continue;
                }
                Fact::Step(step) if step.step == number => step,
                Fact::Step(_) | Fact::Turn(_) | Fact::End(_) => continue,
            };
            match &step.state {
                StepState::Started { .. } => {
                    times.started = Some(fact.at);
                    times.start = Some((fact.site.clone(), fact.seq));
                }
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

fn external_doc(step: &Step, asked: &Asked, started: Option<&Slot>) -> ExternalDoc {
    ExternalDoc {
        party: asked.party.clone(),
        verb: asked.act.as_str().to_owned(),
        when: asked.when.to_string(),
        timeout_ms: ms(step.timeout),
        request: started.map(|slot| request_id(slot, asked)),
    }
}

#[derive(Default)]
struct StepTimes {
    started: Option<WallMs>,
    /// Where the start stands: whose log, and its number there.
    start: Option<(SiteId, u64)>,
    done: Option<WallMs>,
    evidence: Vec<String>,
    failure: String,
}

/// What a command is about, in words.
pub(super) fn subject(ask: &Ask) -> String {
    let Ask::Command { verb, terms, .. } = ask else { return String::new() };
    let softly = if terms.soft { ", softly" } else { "" };
    let object = |object: &Object| match object {
        Object::Site(site) => format!("site {site}"),
        Object::ServiceAt(service, site) => format!("{service} at {site}"),
        Object::Node(node) => format!("node {node}"),
        Object::Link(link) => format!("link {link}"),
        Object::Cluster(cluster) => format!("cluster {cluster}"),
    };
    match verb {
        Verb::Failover { services, to } if terms.without.is_empty() => {
            format!("{services} -> {to}")
        }
        Verb::Failover { services, to } => {
            let sites: Vec<&str> = terms.without.iter().map(SiteId::as_str).collect();
            format!("{services} -> {to}, without quorum ({} off)", sites.join(", "))
        }
        Verb::Failback { services } => services.to_string(),
        Verb::Steer { services, to } => {
            let shares: Vec<String> = to.iter().map(|(s, w)| format!("{s}={w}")).collect();
            format!("{services} -> {}", shares.join(","))
        }
        Verb::Drain { object: o } => object(o) + softly,
        Verb::Undrain { object: o } => object(o),
        Verb::Evacuate { site, to: Some(to) } => format!("site {site} -> {to}"),
        Verb::Evacuate { site, to: None } => format!("site {site}"),
        Verb::Hold { services } | Verb::Release { services } => services.to_string(),
        Verb::Revert { task } => format!("task {task}"),
        Verb::Resolve { subject, to: Some(to) } => format!("{subject} -> {to}"),
        Verb::Resolve { subject, to: None } => subject.to_string(),
        Verb::Revoke { person } => format!("the key of {person}"),
    }
}

/// The sites that the author of a command says are off with their voters.
pub(super) fn without_of(ask: &Ask) -> Vec<String> {
    match ask {
        Ask::Command { terms, .. } => terms.without.iter().map(ToString::to_string).collect(),
        Ask::Wish { .. } => Vec::new(),
    }
}

pub(super) fn state_doc(state: TaskState) -> TaskStateDoc {
    match state {
        TaskState::WaitingApproval => TaskStateDoc::WaitingApproval,
        TaskState::Running => TaskStateDoc::Running,
        TaskState::Paused => TaskStateDoc::Paused,
        TaskState::Confirming => TaskStateDoc::Confirming,
        TaskState::Ended(outcome) => TaskStateDoc::from(outcome),
    }
}

/// The nodes that the open step waits for and that have not been heard of late.
fn silent_of(steps: &[StepDoc]) -> Vec<&str> {
    let open = steps.iter().filter(|step| step.state == StepStateDoc::Started);
    let silent = |ack: &&AckDoc| !ack.acked && ack.age_ms.is_none_or(|age| age > ms(SILENCE));
    open.flat_map(|step| &step.acknowledge).filter(silent).map(|ack| ack.node.as_str()).collect()
}

/// The command lines that take a task further, and those that take it back; `waits_for` are the
/// silent nodes that it waits for.
fn ways_on(
    task: &EntryId,
    (verb, state): (&str, TaskState),
    reading: &Reading,
    waits_for: &[&str],
) -> (Vec<String>, Vec<String>) {
    let line = |verb: &str| format!("nettctl {verb} {task} --reason TEXT");
    let watch = format!("nettctl task watch {task}");
    match state {
        TaskState::WaitingApproval => (vec![line("approve")], vec![line("reject")]),
        TaskState::Running => {
            let mut on = vec![watch, line("task pause")];
            if !waits_for.is_empty() {
                let off = waits_for.join(" --off ");
                on.push(format!(
                    "nettctl {verb} ... --supersede --fencing asserted --off {off} --reason TEXT"
                ));
            }
            (on, vec![line("task cancel")])
        }
        TaskState::Paused => (vec![line("task resume")], vec![line("task cancel")]),
        TaskState::Confirming => (vec![line("task confirm")], vec![line("task cancel")]),
        TaskState::Ended(_) if reading.effective() => (Vec::new(), vec![line("revert")]),
        TaskState::Ended(_) => (Vec::new(), Vec::new()),
    }
}
