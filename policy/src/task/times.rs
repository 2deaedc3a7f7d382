//! What a task has cost: when things happened, and the two numbers that come of it.
//!
//! Pure, and read from the log alone: every reader of the same entries says the same. What nobody
//! has recorded is unknown, never guessed. Times are those that the writers of the entries put into
//! them, so that clocks which differ show in the numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use super::drained;
use super::steps::{Step, StepKind};
use crate::fact::{DATA_LAG, Measured};
use crate::id::{EntryId, ServiceId, WallMs};
use crate::log::entry::{Ask, Command, Effect, Move, StepState};
use crate::log::fold::{Fact, Fold, TaskRecord};
use crate::service::{Handover, Service};
use crate::traffic::Spread;

/// When a task came to what; `None` is unknown, or not yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// A site that services left was heard the last time.
    pub bad: Option<WallMs>,
    /// The command was accepted.
    pub asked: Option<WallMs>,
    /// The last approval it needed was given.
    pub approved: Option<WallMs>,
    pub effective: Option<WallMs>,
    /// The last old site stopped delivering.
    pub withdrawn: Option<WallMs>,
    /// Packets came back from the new site for the first time.
    pub verified: Option<WallMs>,
    /// The old sites were measured to carry nothing any more.
    pub drained: Option<WallMs>,
}

/// What a task has cost one service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// How long it was without service.
    pub rto: Option<Duration>,
    /// How much of its newest data is lost at most.
    pub rpo: Option<Duration>,
}

/// The first effect of a task with what is known of its steps.
struct Course<'a> {
    command: &'a Command,
    effect: &'a Effect,
    began: BTreeMap<u32, WallMs>,
    ended: BTreeMap<u32, (WallMs, &'a [String])>,
    facts: Vec<&'a Measured>,
    times: Times,
}

pub fn times(fold: &Fold, task: &EntryId) -> Times {
    let Some((written, command)) = fold.command(task) else { return Times::default() };
    let known = Times { bad: command.bad_since, asked: Some(written.at), ..Times::default() };
    course(fold, task).map_or(known, |course| course.times)
}

/// What the task has cost a service that it moved; nothing before its last step is done.
pub fn cost(fold: &Fold, task: &EntryId, service: &ServiceId) -> Cost {
    let Some(course) = course(fold, task) else { return Cost::default() };
    let one = course.effect.moves.iter().find(|one| one.service == *service);
    one.map_or_else(Cost::default, |one| course.cost(one))
}

/// What the task has cost each of the services that it moved.
pub fn costs(fold: &Fold, task: &EntryId) -> BTreeMap<ServiceId, Cost> {
    let Some(course) = course(fold, task) else { return BTreeMap::new() };
    let moves = course.effect.moves.iter();
    moves.map(|one| (one.service.clone(), course.cost(one))).collect()
}

fn course<'a>(fold: &'a Fold, task: &EntryId) -> Option<Course<'a>> {
    let (written, command) = fold.command(task)?;
    let record = fold.task(task)?;
    let mut found: Option<Course<'a>> = None;
    for (_, _, fact) in record.facts(task) {
        match (&fact.what, &mut found) {
            (Fact::Effective { approvals, effect }, None) => {
                let times = Times {
                    bad: command.bad_since,
                    asked: Some(written.at),
                    approved: last_given(record, approvals),
                    effective: Some(fact.at),
                    ..Times::default()
                };
                let (began, ended, facts) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
                found = Some(Course { command, effect, began, ended, facts, times });
            }
            // What follows takes it back.
            (Fact::Effective { .. }, Some(_)) => break,
            (Fact::Step(step), Some(course)) => course.take(fact.at, step.step, &step.state),
            (Fact::Step(_) | Fact::Turn(_) | Fact::End(_), _) => {}
        }
    }
    found
}

fn last_given(record: &TaskRecord, approvals: &[EntryId]) -> Option<WallMs> {
    let given = record.wishes().filter(|wish| approvals.contains(&wish.what.id));
    given.map(|wish| wish.at).max()
}

impl<'a> Course<'a> {
    fn take(&mut self, at: WallMs, number: u32, state: &'a StepState) {
        let kind = self.effect.steps.iter().find(|s| s.number == number).map(|s| s.kind);
        match state {
            StepState::Started { gates: _, facts } => {
                self.began.insert(number, at);
                self.facts.extend(facts);
            }
            StepState::Done { evidence } => {
                self.ended.insert(number, (at, evidence));
                match kind {
                    Some(StepKind::Withdraw) => self.times.withdrawn = Some(at),
                    Some(StepKind::Drained) => {
                        let first = evidence.first();
                        let is = first.is_some_and(|line| line.starts_with(drained::MEASURED));
                        self.times.drained = is.then_some(at);
                    }
                    Some(StepKind::Verify) => drop(self.times.verified.get_or_insert(at)),
                    Some(
                        StepKind::LowerTtl
                        | StepKind::Activate
                        | StepKind::Shift
                        | StepKind::Reroute
                        | StepKind::External,
                    )
                    | None => {}
                }
            }
            StepState::Failed { .. } => {}
        }
    }

    fn cost(&self, one: &Move) -> Cost {
        let out = self.out(one);
        let rto = self.serving(one).and_then(|serving| match out {
            Out::Never => Some(Duration::ZERO),
            Out::At(at) => Some(Duration::from_millis(serving.0.saturating_sub(at.0))),
            Out::Unknown => None,
        });
        let lags = self.facts.iter().filter(|f| f.service == one.service && f.name == DATA_LAG);
        let rpo = lags.max_by_key(|lag| lag.measured_at).and_then(|lag| {
            let behind = lag.milliseconds()?;
            // What came in since it was measured may be lost as well.
            let since = match out {
                Out::At(at) => at.0.saturating_sub(lag.measured_at.0),
                Out::Never => 0,
                Out::Unknown => return None,
            };
            Some(Duration::from_millis(behind.saturating_add(since)))
        });
        Cost { rto, rpo: rpo.filter(|_| rto.is_some()) }
    }

    fn steps(&self, service: &ServiceId) -> impl Iterator<Item = &'a Step> + use<'a> {
        let service = service.clone();
        self.effect.steps.iter().filter(move |step| step.states.contains_key(&service))
    }

    /// Since when nobody serves.
    fn out(&self, one: &Move) -> Out {
        if let Some(bad) = self.times.bad {
            return Out::At(bad);
        }
        let asserted = match &self.command.request.ask {
            Ask::Command { terms, .. } => !terms.asserted.is_empty() || !terms.without.is_empty(),
            Ask::Wish { .. } => false,
        };
        // Somebody is off, and nobody knows since when.
        if asserted || one.from.spread == Spread::Nowhere {
            return Out::Unknown;
        }
        match one.handover {
            Handover::MakeBeforeBreak => Out::Never,
            Handover::BreakBeforeMake => {
                let mut steps = self.steps(&one.service);
                let stop = steps.find(|step| step.kind == StepKind::Withdraw);
                let at = stop.and_then(|step| self.began.get(&step.number));
                at.map_or(Out::Unknown, |at| Out::At(*at))
            }
        }
    }

    /// When all of the new sites served, and packets had come back from one that is new.
    fn serving(&self, one: &Move) -> Option<WallMs> {
        let done = |step: &Step| self.ended.get(&step.number).map(|(at, _)| *at);
        let mut verified = None;
        let mut served = None;
        for step in self.steps(&one.service) {
            match step.kind {
                StepKind::Verify => verified = Some(done(step)?),
                StepKind::Activate | StepKind::Shift => served = Some(done(step)?),
                StepKind::LowerTtl
                | StepKind::Withdraw
                | StepKind::Drained
                | StepKind::Reroute
                | StepKind::External => {}
            }
        }
        Some(verified?.max(served?))
    }
}

enum Out {
    At(WallMs),
    /// The new site served before the old one stopped.
    Never,
    Unknown,
}

// === impl Cost ===

impl Cost {
    /// Whether each is within the service's goal; `None` where either is not known.
    pub fn within(&self, service: &Service) -> (Option<bool>, Option<bool>) {
        let within = |is: Option<Duration>, goal: Option<Duration>| Some(is? <= goal?);
        (within(self.rto, service.rto), within(self.rpo, service.rpo))
    }
}
