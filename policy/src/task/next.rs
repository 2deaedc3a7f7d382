//! Which fact a task needs next. Any agent of the home site may ask and write it; whoever loses the
//! compare-and-set reads on and asks again, so nobody is elected.
//!
//! Where several wishes are there together, the writer takes reject, cancel, expire, pause,
//! approve, resume, gate, in that order. Readers never choose: they read the fact.

mod quiet;

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::sync::Arc;
use std::time::Duration;

use super::decide::{Present, abandoned, judge, propose_undo};
use super::drained;
use super::external::Answer;
use super::gates::{Opened, open_gates};
pub use super::steps::STEP_TIMEOUT;
use super::steps::{Step, StepKind, leaves_only, old_answers_live};
use super::view::{
    Reading, approvals, first_effect, last_effect, overtaken, read, start_slot, wished,
};
use crate::id::{EntryId, NodeId, ServiceId, WallMs};
use crate::log::entry::{
    Ask, Asked, Body, Command, Effect, EffectiveFact, EndFact, Move, Outcome, Slot, StepFact,
    StepState, Turn, TurnFact, WishKind,
};
use crate::log::intent::{Intent, World};
use crate::service::{Isolation, Service};
use crate::traffic::Spread;

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
    /// What the node measures in this slot while it has not acknowledged, in its words.
    pub told: &'a dyn Fn(&NodeId, &Slot) -> Option<Vec<String>>,
    /// How long ago the node reported last; `None` when it never has.
    pub heard: &'a dyn Fn(&NodeId) -> Option<Duration>,
    /// How long ago, on this agent's monotonic clock, the task's last fact was read.
    pub since_last: Duration,
    pub now: WallMs,
}

/// A task at hand.
#[derive(Clone, Copy)]
struct At<'a> {
    present: Present<'a>,
    task: &'a EntryId,
    command: &'a Command,
    reading: &'a Reading,
    seen: &'a Seen<'a>,
}

/// The next fact of a task whose home is `present.home`.
pub fn next(present: Present<'_>, task: &EntryId, seen: &Seen<'_>) -> Next {
    let Some((written, command)) = present.fold.command(task) else {
        return Next::Wait(None);
    };
    let reading = read(present.fold, task);
    if reading.end.is_some() {
        return Next::Wait(None);
    }
    let at = At { present, task, command, reading: &reading, seen };
    match reading.effective() {
        false => at.waiting(written.at),
        true => at.running(),
    }
}

impl At<'_> {
    fn slot(&self) -> Slot {
        let (term, index) = (self.reading.term, self.reading.next_index);
        Slot { task: self.task.clone(), term, index }
    }

    fn end(&self, outcome: Outcome, reason: impl Into<String>) -> Next {
        let (slot, reason) = (self.slot(), reason.into());
        Next::Write(Box::new(Body::End(EndFact { slot, outcome, reason })))
    }

    fn step(&self, step: u32, state: StepState) -> Next {
        let slot = self.slot();
        Next::Write(Box::new(Body::Step(StepFact { slot, step, state })))
    }

    fn wished(&self, is: impl Fn(&WishKind) -> bool) -> Option<super::view::Given> {
        let Present { world, fold, .. } = self.present;
        wished(fold, self.task, world.fabric, self.reading, is)
    }

    fn cancelled(&self) -> Option<Next> {
        let given = self.wished(|kind| *kind == WishKind::Cancel)?;
        let reason = format!("cancelled by {}: {}", given.person.name, given.reason);
        Some(self.end(Outcome::Cancelled, reason))
    }

    fn superseded(&self) -> Option<Next> {
        let by = self.present.fold.superseded_by(self.task)?;
        Some(self.end(Outcome::Superseded, format!("task {by} was accepted in its place")))
    }

    fn paused(&self) -> Option<Next> {
        if self.reading.paused {
            return None;
        }
        let given = self.wished(|kind| *kind == WishKind::Pause)?;
        let (slot, turn) = (self.slot(), Turn::Paused);
        Some(Next::Write(Box::new(Body::Turn(TurnFact { slot, turn, wish: given.id }))))
    }

    fn resumed(&self) -> Option<Next> {
        let given = self.wished(|kind| *kind == WishKind::Resume)?;
        let (slot, turn) = (self.slot(), Turn::Resumed);
        Some(Next::Write(Box::new(Body::Turn(TurnFact { slot, turn, wish: given.id }))))
    }

    fn waiting(&self, accepted: WallMs) -> Next {
        let Present { world, fold, .. } = self.present;
        if let Some(given) = self.wished(|kind| *kind == WishKind::Reject) {
            let reason = format!("rejected by {}: {}", given.person.name, given.reason);
            return self.end(Outcome::Rejected, reason);
        }
        if let Some(next) = self.cancelled().or_else(|| self.superseded()) {
            return next;
        }
        let author = &self.command.request.person;
        if world.fabric.operator_by_key(&author.key).is_none() {
            let reason =
                format!("the key of {}, who gave it, does not count any more", author.name);
            return self.end(Outcome::Cancelled, reason);
        }
        let waited = Duration::from_millis(self.seen.now.0.saturating_sub(accepted.0));
        if waited >= APPROVAL_TIMEOUT {
            return self.end(Outcome::Expired, "not approved within 15 minutes");
        }
        if let Some(next) = self.paused() {
            return next;
        }
        let left = Some(APPROVAL_TIMEOUT - waited);
        if self.reading.paused {
            return self.resumed().unwrap_or(Next::Wait(left));
        }
        let given = approvals(fold, self.command, world.fabric);
        if given.len() < usize::from(self.command.approvals_needed) {
            return Next::Wait(left);
        }
        let approvals = given.into_iter().map(|g| g.id).collect();
        self.take_effect(approvals)
    }

    /// The plan is made again from what is known now: another hash, or a rule that refuses, and the
    /// approval does not fit any more.
    fn take_effect(&self, approvals: Vec<EntryId>) -> Next {
        let command = self.command;
        // Without the task itself, which would else stand in its own way as an open one.
        let fold = self.present.fold.without(self.task);
        // What the site before this one had begun is in force until this one begins.
        let adopted =
            self.present.fold.task(self.task).is_some_and(|r| r.adopts().next().is_some());
        let read = adopted.then(|| Intent::read(&fold));
        let intent = read.as_ref().unwrap_or(self.present.intent);
        match judge(Present { fold: &fold, intent, ..self.present }, &command.request) {
            Ok(proposal) if proposal.plan_hash == command.plan_hash => {
                let (slot, effect) = (self.slot(), proposal.effect);
                Next::Write(Box::new(Body::Effective(EffectiveFact { slot, approvals, effect })))
            }
            Ok(_) => self.end(Outcome::Failed, "the state changed since the plan"),
            Err(refusal) => {
                let hint = refusal.hint.iter().map(|h| format!("; {h}")).collect::<String>();
                let by = &refusal.refused_by;
                let reason = format!("refused by {by} when it was to take effect: {refusal}{hint}");
                self.end(Outcome::Failed, reason)
            }
        }
    }

    fn running(&self) -> Next {
        let Some(effect) = last_effect(self.present.fold, self.task) else {
            return Next::Wait(None);
        };
        if let Some(next) = self.cancelled().or_else(|| self.superseded()) {
            return next;
        }
        if let Some(next) = self.overtaken(effect) {
            return next;
        }
        if let Some(next) = self.paused() {
            return next;
        }
        if let Some(number) = self.reading.open_step() {
            return match effect.steps.iter().find(|s| s.number == number) {
                Some(step) => self.open_step(effect, step),
                None => {
                    let reason = format!("the task has no step {number}");
                    self.step(number, StepState::Failed { reason })
                }
            };
        }
        if self.reading.paused {
            return self.resumed().unwrap_or(Next::Wait(None));
        }
        match self.due(effect) {
            Some(step) => self.start(step),
            None => self.over(effect),
        }
    }

    /// Another command took over everything that this one moves: a step more would do nothing.
    fn overtaken(&self, effect: &Effect) -> Option<Next> {
        let taken = overtaken(self.present.intent, self.task, effect);
        if taken.is_empty() || taken.len() < effect.moves.len() {
            return None;
        }
        let by: BTreeSet<&str> = taken.iter().map(|(_, by)| by.as_str()).collect();
        let by: Vec<&str> = by.into_iter().collect();
        let reason = format!("task {} decided about the same", by.join(", "));
        Some(self.end(Outcome::Superseded, reason))
    }

    /// The step that comes next: after a failure that ends its wave only one of a later wave.
    fn due<'b>(&self, effect: &'b Effect) -> Option<&'b Step> {
        let ended = |step: &&Step| {
            self.reading.failed.contains_key(&step.number) && !self.goes_on_past(effect, step)
        };
        let failed: BTreeSet<u8> = effect.steps.iter().filter(ended).map(|s| s.wave).collect();
        let later = |step: &&Step| {
            step.number > self.reading.started && (failed.is_empty() || step.wave > 0)
        };
        effect.steps.iter().filter(later).find(|step| !failed.contains(&step.wave))
    }

    /// What does not answer at its new site is no worse off there than at one that is off: where
    /// somebody says so of every node of an evacuated site, a verification tells and stops nothing
    /// (adr/0059).
    fn goes_on_past(&self, effect: &Effect, step: &Step) -> bool {
        let Ask::Command { verb, terms, .. } = &self.command.request.ask else { return false };
        let off =
            |node: &NodeId| terms.asserted.contains(node) || self.reading.asserted.contains(node);
        let site = abandoned(self.present.world.fabric, verb, off);
        let own = |one: &&Move| step.states.contains_key(&one.service);
        let mut moves = effect.moves.iter().filter(own);
        step.kind == StepKind::Verify && site.is_some() && moves.all(|one| leaves_only(one, site))
    }

    fn start(&self, step: &Step) -> Next {
        if let Some(left) = step.delay.checked_sub(self.seen.since_last).filter(|d| !d.is_zero()) {
            return Next::Wait(Some(left));
        }
        if step.states.keys().any(|service| self.present.intent.is_held(service)) {
            return Next::Wait(None);
        }
        match open_gates(self.present, self.task, step, self.seen.now) {
            Ok(Opened { gates, facts }) => {
                self.step(step.number, StepState::Started { gates, facts })
            }
            Err(_) => Next::Wait(None),
        }
    }

    /// Every step has been; or one has failed and nothing may follow.
    fn over(&self, effect: &Effect) -> Next {
        let reading = self.reading;
        let confirm = self.command.request.ask.confirm_within().filter(|_| reading.effects == 1);
        let failures = told(&reading.failed);
        let stops = |effect: &Effect, failed: &BTreeMap<u32, String>| {
            let failed = |step: &&Step| failed.contains_key(&step.number);
            effect.steps.iter().filter(failed).any(|step| !self.goes_on_past(effect, step))
        };
        let stopped = stops(effect, &reading.failed);
        if let Some(failed) = &reading.undone {
            let first = first_effect(self.present.fold, self.task);
            let because = match first.is_some_and(|effect| stops(effect, failed)) {
                true => told(failed),
                false => iter::once("nobody confirmed it".to_owned())
                    .chain(Some(told(failed)).filter(|text| !text.is_empty()))
                    .collect::<Vec<_>>()
                    .join("; "),
            };
            let because = iter::once(because).chain(self.stopped(effect)).collect::<Vec<_>>();
            let because = because.join("; ");
            return match failures.is_empty() {
                true => self.end(Outcome::Reverted, because),
                false => self.end(Outcome::Failed, format!("{because}; its undo: {failures}")),
            };
        }
        match confirm {
            Some(_) if stopped => self.undo(&failures),
            Some(within) => match self.wished(|kind| *kind == WishKind::Confirm) {
                Some(given) => {
                    let told = Some(failures).filter(|f| !f.is_empty());
                    let told = told.map(|f| format!("; {f}")).unwrap_or_default();
                    self.end(Outcome::Done, format!("confirmed by {}{told}", given.person.name))
                }
                None => match within.checked_sub(self.seen.since_last) {
                    Some(left) if !left.is_zero() => Next::Wait(Some(left)),
                    Some(_) | None => self.undo("nobody confirmed it"),
                },
            },
            None if failures.is_empty() => self.end(Outcome::Done, self.remarks(effect)),
            None => self.end(Outcome::Failed, failures),
        }
    }

    /// What others took over while the task ran, and which old sites are not known to be quiet.
    fn remarks(&self, effect: &Effect) -> String {
        let taken = overtaken(self.present.intent, self.task, effect);
        let line = |(service, by): (_, _)| format!("{service} was taken over by task {by}");
        let taken = taken.into_iter().map(line);
        taken.chain(drained::remarks(self.present.fold, self.task)).collect::<Vec<_>>().join("; ")
    }

    fn undo(&self, because: &str) -> Next {
        match propose_undo(self.present, self.command) {
            Some(effect) => {
                let (slot, approvals, effect) = (self.slot(), Vec::new(), Arc::new(effect));
                Next::Write(Box::new(Body::Effective(EffectiveFact { slot, approvals, effect })))
            }
            None => self.end(Outcome::Reverted, because),
        }
    }

    fn open_step(&self, effect: &Effect, step: &Step) -> Next {
        let Some(started) = start_slot(self.present.fold, self.task, step.number) else {
            return Next::Wait(None);
        };
        if step.kind == StepKind::Drained {
            return self.open_drained(step, &started);
        }
        if let Some(asked) = &step.asked {
            return self.open_external(step, asked, &started);
        }
        let (mut evidence, mut failures) = (Vec::new(), Vec::new());
        let mut missing: BTreeSet<&NodeId> = BTreeSet::new();
        for node in self.reading.required(step) {
            match (self.seen.ack)(node, &started) {
                None => drop(missing.insert(node)),
                Some(ack) if ack.ok => {
                    evidence.extend(ack.evidence.iter().map(|line| format!("{node}: {line}")));
                }
                Some(ack) => {
                    failures.push(format!("{node}: {}", first_lines(&ack.evidence)));
                }
            }
        }
        // Where it stops nothing, everybody's word is waited for, so that all of it is listed.
        if !failures.is_empty() && !self.goes_on_past(effect, step) {
            return self.step(step.number, StepState::Failed { reason: failures.join("; ") });
        }
        if let Some(next) = self.without(effect, step, &missing, &mut evidence) {
            return next;
        }
        missing.retain(|node| !self.is_excused(step, node));
        if missing.is_empty() && !failures.is_empty() {
            return self.step(step.number, StepState::Failed { reason: failures.join("; ") });
        }
        if missing.is_empty() {
            if step.kind == StepKind::Withdraw && !step.delay.is_zero() {
                evidence.push(format!("unmeasured: waited {} ms", step.delay.as_millis()));
            }
            evidence.extend(old_answers(self.present.world, effect, step));
            let owed: Vec<&str> = self.reading.owed(step).map(NodeId::as_str).collect();
            if !owed.is_empty() {
                evidence.push(format!("owed by {}, which is said to be off", owed.join(", ")));
            }
            return self.step(step.number, StepState::Done { evidence });
        }
        match step.timeout.checked_sub(self.seen.since_last) {
            Some(left) if !left.is_zero() => Next::Wait(Some(left)),
            Some(_) | None => {
                let names: Vec<&str> = missing.into_iter().map(NodeId::as_str).collect();
                let seconds = step.timeout.as_secs();
                let names = names.join(", ");
                failures.push(format!("no acknowledgement in {seconds} s from {names}"));
                self.step(step.number, StepState::Failed { reason: failures.join("; ") })
            }
        }
    }
}

/// The step that waits for somebody outside.
impl At<'_> {
    fn open_external(&self, step: &Step, asked: &Asked, started: &Slot) -> Next {
        let now = self.seen.now;
        let failed = |reason| self.step(step.number, StepState::Failed { reason });
        match Answer::to(asked, started, &self.present.sight.facts, now) {
            Some(Answer::Done(evidence)) => {
                self.step(step.number, StepState::Done { evidence: vec![evidence] })
            }
            Some(Answer::Refused(reason)) => failed(reason),
            None => match step.timeout.checked_sub(self.seen.since_last) {
                Some(left) if !left.is_zero() => Next::Wait(Some(left)),
                Some(_) | None => {
                    let (party, seconds) = (&asked.party, step.timeout.as_secs());
                    failed(format!(
                        "no acknowledgement in {seconds} s from {party} outside, which may have \
                         acted all the same"
                    ))
                }
            },
        }
    }
}

/// Steps of leased services: the lease ends without a word from whoever held it.
impl At<'_> {
    /// Whether all that the step moves is leased.
    fn is_leased(&self, step: &Step) -> bool {
        let catalog = self.present.world.catalog;
        let leased = !step.states.is_empty();
        leased && step.states.keys().all(|id| catalog.get(id).is_some_and(Service::is_leased))
    }

    /// What the undo leaves nowhere, and what is to be done about it.
    fn stopped(&self, effect: &Effect) -> Option<String> {
        const NAMED: usize = 10;
        let catalog = self.present.world.catalog;
        let leased = |one: &&Move| catalog.get(&one.service).is_some_and(Service::is_leased);
        let stops = |one: &&Move| one.to.spread == Spread::Nowhere;
        let all = effect.moves.iter().filter(leased).filter(stops);
        let names: Vec<&str> = all.map(|one| one.service.as_str()).collect();
        let more = names.len().saturating_sub(NAMED);
        let shown = names.get(..names.len().min(NAMED)).unwrap_or_default().join(", ");
        let shown = if more > 0 { format!("{shown} and {more} more") } else { shown };
        (!names.is_empty()).then(|| {
            format!(
                "stopped: {shown}; nobody serves what is leased until it is claimed again: \
                 `nettctl failover ID --to SITE`"
            )
        })
    }

    /// A withdrawal that some have not confirmed: after W whoever still had the lease has it no
    /// more. That never suffices for an exclusive service, and is not so where a task is taken
    /// back: without another claim the voters go on answering for this one.
    fn without(
        &self,
        effect: &Effect,
        step: &Step,
        missing: &BTreeSet<&NodeId>,
        evidence: &mut Vec<String>,
    ) -> Option<Next> {
        let ends = step.kind == StepKind::Withdraw && self.is_leased(step);
        if !ends || missing.is_empty() || self.seen.since_last < step.timeout {
            return None;
        }
        let names: Vec<&str> = missing.iter().map(|node| node.as_str()).collect();
        let names = names.join(", ");
        let own = |one: &&Move| step.states.contains_key(&one.service);
        if effect.moves.iter().filter(own).all(|one| one.to.spread == Spread::Nowhere) {
            let seconds = step.timeout.as_secs();
            let reason = format!(
                "no word in {seconds} s from {names}: who reaches the voters and not the log \
                 serves until it reads this"
            );
            return Some(self.step(step.number, StepState::Failed { reason }));
        }
        let catalog = self.present.world.catalog;
        let exclusive =
            |id: &&ServiceId| catalog.get(id).is_some_and(|s| s.isolation == Isolation::Exclusive);
        if let Some(service) = step.states.keys().find(exclusive) {
            let reason = format!(
                "{service} is exclusive, and {names} did not confirm. A node that runs may hold \
                 back because its site claims the service too: give the command anew. Only of a \
                 site that is off say so by --fencing asserted"
            );
            return Some(self.step(step.number, StepState::Failed { reason }));
        }
        if self.command.request.ask.is_without_quorum() {
            let reason = format!("without a majority nobody serves before {names} confirmed");
            return Some(self.step(step.number, StepState::Failed { reason }));
        }
        let waited = step.timeout.as_secs();
        let evidence = std::mem::take(evidence).into_iter();
        let line = format!("fenced after {waited} s without a word from {names}: no lease is left");
        let evidence = evidence.chain([line]).collect();
        Some(self.step(step.number, StepState::Done { evidence }))
    }

    /// A node of a silent site does not hold up what its lease does not hold up either.
    fn is_excused(&self, step: &Step, node: &NodeId) -> bool {
        let Present { world, sight, .. } = self.present;
        let site = world.fabric.node(node).map(|n| &n.site);
        step.kind == StepKind::Verify
            && self.is_leased(step)
            && site.is_some_and(|site| sight.silent.contains(site))
    }
}

/// The first lines of a node's evidence, and how many more there are: what all nodes say has to fit
/// into an entry.
fn first_lines(evidence: &[String]) -> String {
    const LINES: usize = 20;
    let more = evidence.len().saturating_sub(LINES);
    let rest = (more > 0).then(|| format!("and {more} more"));
    let shown = evidence.iter().take(LINES).cloned();
    shown.chain(rest).collect::<Vec<_>>().join("; ")
}

/// Why steps failed, a few kilobytes of each: the step itself has its reason in full.
fn told(failed: &BTreeMap<u32, String>) -> String {
    const EACH: usize = 2000;
    let cut = |(step, reason): (&u32, &String)| match reason.char_indices().nth(EACH) {
        Some((end, _)) => format!("{}... (step {step} has all)", &reason[..end]),
        None => reason.clone(),
    };
    failed.iter().map(cut).collect::<Vec<_>>().join("; ")
}

/// How long answers of before the move may live, against how long they were waited for.
fn old_answers(world: World<'_>, effect: &Effect, step: &Step) -> Option<String> {
    let ms = |time: Duration| time.as_millis();
    let lives = match step.kind {
        StepKind::Withdraw => old_answers_live(world, effect, step.number)?,
        StepKind::LowerTtl
        | StepKind::Activate
        | StepKind::Verify
        | StepKind::Shift
        | StepKind::Drained
        | StepKind::Reroute
        | StepKind::External => return None,
    };
    let most = format!("answers of before the move may be kept for {} ms", ms(lives));
    Some(match lives.checked_sub(step.delay).filter(|rest| !rest.is_zero()) {
        None => format!("{most}, which was waited for"),
        Some(rest) => format!("{most}: some may lead to the old site for {} ms more", ms(rest)),
    })
}

/// Why a running task stands still, where it is not for time or acknowledgements.
pub fn standstill(present: Present<'_>, task: &EntryId, now: WallMs) -> Vec<String> {
    let reading = read(present.fold, task);
    let Some(effect) = last_effect(present.fold, task) else { return Vec::new() };
    if reading.end.is_some() || reading.open_step().is_some() {
        return Vec::new();
    }
    let Some(step) = effect.steps.iter().find(|s| s.number > reading.started) else {
        return Vec::new();
    };
    let closed = open_gates(present, task, step, now).err().unwrap_or_default();
    let held = step.states.keys().filter(|service| present.intent.is_held(service));
    closed.into_iter().chain(held.map(|service| format!("{service} is held"))).collect()
}
