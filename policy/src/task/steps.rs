//! The steps between two traffic states, and the state a service is in at each of them.
//!
//! Make-before-break: activate, verify, shift, withdraw. Break-before-make: withdraw, activate,
//! verify. The moves of one task that share a handover share their steps; make-before-break moves
//! run first, because nothing of theirs stops meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::fabric::Role;
use crate::id::{Epoch, ServiceId, SiteId};
use crate::log::entry::Move;
use crate::log::intent::World;
use crate::service::Handover;
use crate::traffic::{Deliver, Spread, Traffic};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// 1 is the first.
    pub number: u32,
    pub kind: StepKind,
    /// The services concerned, with the state each is in from this step on.
    pub states: BTreeMap<ServiceId, Traffic>,
    /// How long after the step before it this one may start: the time in which the old site still
    /// accepts what is on its way. Not a measurement; the step's evidence says `unmeasured`.
    pub delay: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepKind {
    /// The new sites accept what arrives for the service.
    Activate,
    /// Real packets go through the new path before traffic does.
    Verify,
    /// Traffic and answers go to the new sites.
    Shift,
    /// The old sites stop accepting (make-before-break), or everybody does (break-before-make).
    Withdraw,
}

/// The steps for the moves of one effect.
pub fn steps(moves: &[Move], world: World<'_>) -> Vec<Step> {
    let of = |handover: Handover| moves.iter().filter(move |m| m.handover == handover);
    let mut phases: BTreeMap<(u8, u8), Step> = BTreeMap::new();
    for a_move in of(Handover::MakeBeforeBreak) {
        add(&mut phases, 0, a_move, make_before_break(a_move, world));
    }
    for a_move in of(Handover::BreakBeforeMake) {
        add(&mut phases, 1, a_move, break_before_make(a_move));
    }
    let numbered = |(number, step): (u32, Step)| Step { number, ..step };
    (1u32..).zip(phases.into_values()).map(numbered).collect()
}

/// The state of a service, and the epoch of its answers, once step `number` has started.
pub fn traffic_at(steps: &[Step], a_move: &Move, number: u32) -> (Traffic, Epoch) {
    let begun = steps.iter().take_while(|step| step.number <= number);
    let mut state = &a_move.from;
    let mut epoch = a_move.prev_epoch;
    for step in begun {
        let Some(next) = step.states.get(&a_move.service) else {
            continue;
        };
        if matches!(step.kind, StepKind::Shift) || next.answers != state.answers {
            epoch = a_move.epoch;
        }
        state = next;
    }
    (state.clone(), epoch)
}

/// One move's part of a phase.
struct Part {
    phase: u8,
    kind: StepKind,
    state: Traffic,
    delay: Duration,
}

fn add(phases: &mut BTreeMap<(u8, u8), Step>, group: u8, a_move: &Move, parts: Vec<Part>) {
    for Part { phase, kind, state, delay } in parts {
        let empty = Step { number: 0, kind, states: BTreeMap::new(), delay: Duration::ZERO };
        let step = phases.entry((group, phase)).or_insert(empty);
        step.states.insert(a_move.service.clone(), state);
        step.delay = step.delay.max(delay);
    }
}

fn make_before_break(a_move: &Move, world: World<'_>) -> Vec<Part> {
    let Move { service, from, to, .. } = a_move;
    let now = |phase, kind, state| Part { phase, kind, state, delay: Duration::ZERO };
    let mut parts = Vec::new();
    let both: BTreeSet<SiteId> = from.accept.union(&to.accept).cloned().collect();
    let mut state = from.clone();
    if must_accept_first(from, to, world) {
        state.accept = both.clone();
        parts.push(now(0, StepKind::Activate, state.clone()));
        if sent_from_elsewhere(from, to, world) {
            parts.push(now(1, StepKind::Verify, state.clone()));
        }
    }
    state = Traffic { spread: to.spread.clone(), answers: to.answers.clone(), accept: both };
    if state != *from {
        parts.push(now(2, StepKind::Shift, state.clone()));
    }
    if state != *to {
        let sticky = world.catalog.get(service).map_or(Duration::ZERO, |s| s.sticky);
        let delay = sticky;
        parts.push(Part { phase: 3, kind: StepKind::Withdraw, state: to.clone(), delay });
    }
    parts
}

/// True when after the shift somebody would send to a node that does not accept yet: another site,
/// or the border of the new site to its own route nodes. Only a site without route nodes that takes
/// up what enters at itself needs no step of its own for that.
fn must_accept_first(from: &Traffic, to: &Traffic, world: World<'_>) -> bool {
    let behind_route_nodes =
        |site: &SiteId| world.fabric.nodes_of(site, Role::Route).next().is_some();
    to.accept.difference(&from.accept).any(behind_route_nodes)
        || sent_from_elsewhere(from, to, world)
}

/// True when after the shift one site would send to another that does not accept yet.
fn sent_from_elsewhere(from: &Traffic, to: &Traffic, world: World<'_>) -> bool {
    let mut new = to.accept.difference(&from.accept);
    let sends_to = |sender: &SiteId, target: &SiteId| match to.deliver(sender, world.fabric) {
        Deliver::Remote(site) => site == *target,
        Deliver::Split(weights) => sender != target && weights.contains_key(target),
        Deliver::Local | Deliver::Drained => false,
    };
    let sites = || world.fabric.sites.iter().map(|s| &s.id);
    new.any(|target| sites().any(|sender| sends_to(sender, target)))
}

fn break_before_make(a_move: &Move) -> Vec<Part> {
    let Move { from, to, .. } = a_move;
    let now = |phase, kind, state| Part { phase, kind, state, delay: Duration::ZERO };
    let nowhere =
        Traffic { spread: Spread::Nowhere, accept: BTreeSet::new(), answers: from.answers.clone() };
    let mut parts = Vec::new();
    let ends_nowhere = to.spread == Spread::Nowhere;
    let stopped = if ends_nowhere { to.clone() } else { nowhere };
    if *from != stopped {
        parts.push(now(0, StepKind::Withdraw, stopped));
    }
    if !ends_nowhere {
        parts.push(now(1, StepKind::Activate, to.clone()));
        parts.push(now(2, StepKind::Verify, to.clone()));
    }
    parts
}

// === impl StepKind ===

impl StepKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Activate => "activate",
            Self::Verify => "verify",
            Self::Shift => "shift",
            Self::Withdraw => "withdraw",
        }
    }
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
