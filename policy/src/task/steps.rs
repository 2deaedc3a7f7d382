//! The steps between two traffic states, and the state a service is in at each of them.
//!
//! Make-before-break: activate, verify, shift (along a ramp), withdraw. Break-before-make:
//! withdraw, activate, verify. A move that can wait begins with lower-ttl, where the service asks
//! for that and its addresses in DNS change. Where it says when a site is drained, it ends with
//! drained: the old sites count what still comes (adr/0043).
//!
//! The moves of one task that share a handover share their steps; make-before-break moves run
//! first, because nothing of theirs stops meanwhile. An evacuation goes in waves, one for each
//! category.
//!
//! This is computed once, when a command takes effect; from there on the steps are in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::fabric::Role;
use crate::id::{EntryId, Epoch, SiteId, Weight};
pub use crate::log::effect::{Effect, Step, StepKind};
use crate::log::entry::{Move, Ramp};
use crate::log::intent::{Progress, World};
use crate::service::{Category, Drain, Handover, Service};
use crate::traffic::{Deliver, Spread, Traffic, Weights};

/// How long a step of few services may wait for its acknowledgements.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// So many services give a step one second more: a node reads, writes and reads back the routes of
/// each. Six agents on two processors needed 17 s for 33,000 of them.
const SERVICES_A_SECOND: usize = 500;

/// How much longer than its dwell an old site that was closed is measured, before the task ends
/// and says what still comes.
pub const DRAIN_PATIENCE: Duration = Duration::from_secs(60);

/// The same where established connections were left alone.
pub const SOFT_PATIENCE: Duration = Duration::from_secs(60 * 60);

/// What the steps of a command depend on, beside the moves.
#[derive(Debug, Clone, Copy)]
pub struct Manner<'a> {
    pub world: World<'a>,
    /// In waves by category, C first: one wave's failure does not stop the next.
    pub in_waves: bool,
    /// A site all of whose nodes are off: what is still there is not waited for.
    pub abandoned: Option<&'a SiteId>,
    /// False where somebody passed over the gates.
    pub gated: bool,
    /// Nothing is broken: there is time until old answers have run out.
    pub unhurried: bool,
    /// By which shares, instead of those of each service.
    pub ramp: Option<&'a Ramp>,
    /// Established connections stay at the old sites until they end (adr/0048).
    pub soft: bool,
    pub outside: Outside<'a>,
}

/// Who outside takes part in the moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside<'a> {
    /// Nobody: somebody passed over it.
    Nobody,
    /// Those whom the services name.
    Named,
    /// Those whom this task had asked, to take it back.
    AskedBy(&'a EntryId),
}

/// The steps for these moves, without the nodes that acknowledge them.
pub fn steps(moves: &[Move], manner: Manner<'_>) -> Vec<Step> {
    let mut phases: BTreeMap<(u8, u8, u8), Step> = BTreeMap::new();
    let mut waits: BTreeMap<u8, Duration> = BTreeMap::new();
    let mut dwells: BTreeMap<u8, Duration> = BTreeMap::new();
    for one in moves {
        let service = manner.world.catalog.get(&one.service);
        let wave = match service.map(|s| s.category) {
            Some(category) if manner.in_waves => wave_of(category),
            Some(_) | None => 0,
        };
        let is_leased = service.is_some_and(Service::is_leased);
        let (group, mut parts) = match one.handover {
            Handover::MakeBeforeBreak => (1, make_before_break(one, manner)),
            Handover::BreakBeforeMake => (2, break_before_make(one, is_leased)),
        };
        // Its steps wait for other nodes and for longer than those of others.
        let group = if is_leased { 3 } else { group };
        // Old answers of a leased service lead to a gate that is shut, and may be all there is.
        let lowers = !is_leased && manner.unhurried && !parts.is_empty();
        if let Some(service) = service.filter(|s| lowers && waits_for_answers(s, one)) {
            add(&mut phases, (wave, 0), one, Part::now(0, StepKind::LowerTtl, one.from.clone()));
            let wait = waits.entry(wave).or_insert(Duration::ZERO);
            *wait = service.ttl.ceiling.max(*wait);
        }
        if manner.gated
            && let Some(service) = service
        {
            ask_gates(&mut parts, gates(service, one));
        }
        let moves = !parts.is_empty();
        for part in parts {
            add(&mut phases, (wave, group), one, part);
        }
        if let Some(dwell) = service.and_then(|s| measured(s, one, manner)).filter(|_| moves) {
            if !manner.soft {
                let part = Part::now(0, StepKind::Drained, one.to.clone());
                add(&mut phases, (wave, 4), one, part);
            }
            let most = dwells.entry(wave).or_insert(Duration::ZERO);
            *most = dwell.max(*most);
        }
    }
    let lease = manner.world.fabric.lease.wait;
    for ((wave, group, _), step) in &mut phases {
        let dwell = dwells.get(wave).copied().unwrap_or_default();
        let usual = timeout(step.states.len());
        step.timeout = match (*group, step.kind) {
            (_, StepKind::Drained) if manner.soft => dwell + SOFT_PATIENCE,
            (_, StepKind::Drained) => dwell + DRAIN_PATIENCE,
            (3, StepKind::Withdraw) => lease,
            (3, _) => lease + usual,
            _ => usual,
        };
    }
    for (wave, wait) in waits {
        let mut moving = phases.range_mut((wave, 1, 0)..).filter(|(at, _)| at.0 == wave);
        let (_, first) = moving.next().expect("only moves with steps lower the TTL");
        first.delay = first.delay.max(wait);
    }
    let numbered = |(number, step): (u32, Step)| Step { number, ..step };
    (1u32..).zip(phases.into_values()).map(numbered).collect()
}

/// How long a step of so many services may wait for its acknowledgements.
fn timeout(services: usize) -> Duration {
    let more = u64::try_from(services / SERVICES_A_SECOND).unwrap_or(0);
    STEP_TIMEOUT + Duration::from_secs(more)
}

/// For how long a site that the move leaves must have been measured to be quiet, where somebody
/// asks. Where break comes before make the withdrawal has ended everything; of an evacuation
/// nobody asks, since its site is dead.
fn measured(service: &Service, one: &Move, manner: Manner<'_>) -> Option<Duration> {
    let overlaps = one.handover == Handover::MakeBeforeBreak;
    let asked = overlaps && !manner.in_waves && !one.left().is_empty();
    let drain = service.drain.or(manner.soft.then_some(Drain::USUAL));
    Some(drain.filter(|_| asked)?.dwell)
}

/// The sites that established connections of a service stay at, as far as these steps have come.
/// Of a soft move those that it leaves, until it closes them; it ends nobody's connection by being
/// cancelled, so this holds on when it is over. Of any other move those that a task before it has
/// left them at, until it sends the service elsewhere.
pub fn kept(steps: &[Step], one: &Move, progress: &Progress, over: bool) -> BTreeSet<SiteId> {
    let own = |s: &&Step| s.states.contains_key(&one.service);
    let last = |kind: StepKind| steps.iter().filter(own).rfind(|s| s.kind == kind);
    let begun = |kind: StepKind| progress.of(steps).filter(own).filter(|s| s.kind == kind).last();
    let is_begun = |kind: StepKind| {
        last(kind).is_some_and(|last| begun(kind).is_some_and(|step| step.number == last.number))
    };
    let closed = is_begun(StepKind::Withdraw);
    match is_soft(steps, one) {
        _ if closed => BTreeSet::new(),
        true if over && begun(StepKind::Shift).is_none() => one.kept.clone(),
        true => one.left(),
        false if is_begun(StepKind::Shift) => BTreeSet::new(),
        false => one.kept.clone(),
    }
}

/// Whether the sites that a move leaves are measured before they are closed: that is what a soft
/// one is known by.
pub fn is_soft(steps: &[Step], one: &Move) -> bool {
    let of = |kind: StepKind| {
        let is = move |s: &&Step| s.kind == kind && s.states.contains_key(&one.service);
        steps.iter().find(is).map(|step| step.number)
    };
    let (drained, withdrawn) = (of(StepKind::Drained), of(StepKind::Withdraw));
    drained.zip(withdrawn).is_some_and(|(drained, closed)| drained < closed)
}

/// Whether nothing but this site is left by the move.
pub(super) fn leaves_only(one: &Move, site: Option<&SiteId>) -> bool {
    site.is_some_and(|site| one.left().iter().all(|left| left == site))
}

/// Whether old answers are to have run out before the move begins.
fn waits_for_answers(service: &Service, one: &Move) -> bool {
    let (from, to) = (&one.from.answers, &one.to.answers);
    service.ttl.is_lowered_for_moves() && service.answers_change(from, to)
}

/// How long answers of before step `number` may still be kept when it has begun: the longest of its
/// services whose addresses in DNS have changed by then. `None` when none have.
pub fn old_answers_live(world: World<'_>, effect: &Effect, number: u32) -> Option<Duration> {
    let step = effect.steps.iter().find(|s| s.number == number)?;
    let moved = effect.moves.iter().filter_map(|one| {
        let (service, state) = (world.catalog.get(&one.service)?, step.states.get(&one.service)?);
        let lowers = |s: &&Step| {
            s.kind == StepKind::LowerTtl && s.number < number && s.states.contains_key(&one.service)
        };
        let lowered = effect.steps.iter().any(|s| lowers(&s));
        let changed = service.answers_change(&one.from.answers, &state.answers);
        changed.then(|| service.ttl.now(lowered))
    });
    moved.max()
}

/// Tenants first, what others stand on last.
fn wave_of(category: Category) -> u8 {
    match category {
        Category::C => 1,
        Category::B => 2,
        Category::A => 3,
    }
}

/// The facts from outside that a service names for such a move.
pub fn gates(service: &Service, one: &Move) -> BTreeSet<String> {
    let homeward = service.primary().is_some_and(|p| one.to.spread == Spread::one(p.clone()));
    let kind = if homeward { "failback" } else { "failover" };
    service.gates.get(kind).into_iter().flatten().cloned().collect()
}

/// Gates stand before the step with which the new site begins to serve.
fn ask_gates(parts: &mut [Part], gates: BTreeSet<String>) {
    let serves = |part: &&mut Part| matches!(part.kind, StepKind::Activate | StepKind::Shift);
    if let Some(part) = parts.iter_mut().find(serves) {
        part.gates.extend(gates);
    }
}

/// The state of a service, and the epoch of its answers, once these steps have started.
pub fn traffic_at(steps: &[Step], a_move: &Move, progress: &Progress) -> (Traffic, Epoch) {
    let mut state = &a_move.from;
    let mut epoch = a_move.prev_epoch;
    // Whoever is asked outside changes no state.
    for step in progress.of(steps).filter(|step| step.kind != StepKind::External) {
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
    gates: BTreeSet<String>,
}

impl Part {
    fn now(phase: u8, kind: StepKind, state: Traffic) -> Self {
        Self { phase, kind, state, delay: Duration::ZERO, gates: BTreeSet::new() }
    }
}

fn add(phases: &mut BTreeMap<(u8, u8, u8), Step>, at: (u8, u8), one: &Move, part: Part) {
    let Part { phase, kind, state, delay, gates } = part;
    let (wave, group) = at;
    let step = phases.entry((wave, group, phase)).or_insert_with(|| Step {
        number: 0,
        wave,
        kind,
        states: BTreeMap::new(),
        delay: Duration::ZERO,
        timeout: STEP_TIMEOUT,
        gates: BTreeSet::new(),
        asked: None,
        required: BTreeSet::new(),
        owed: BTreeSet::new(),
    });
    step.states.insert(one.service.clone(), state);
    step.delay = step.delay.max(delay);
    step.gates.extend(gates);
}

/// Phases of a make-before-break: 0 activate, 1 verify, then shift and verify for each step of the
/// ramp, and last of all withdraw.
fn make_before_break(one: &Move, manner: Manner<'_>) -> Vec<Part> {
    let (Move { service, from, to, .. }, world) = (one, manner.world);
    let service = world.catalog.get(service);
    let mut parts = Vec::new();
    let both: BTreeSet<SiteId> = from.accept.union(&to.accept).cloned().collect();
    let mut state = from.clone();
    let mut probed = false;
    if must_accept_first(from, to, world) {
        state.accept = both.clone();
        parts.push(Part::now(0, StepKind::Activate, state.clone()));
        probed = sent_from_elsewhere(from, to, world);
        if probed {
            parts.push(Part::now(1, StepKind::Verify, state.clone()));
        }
    }
    let mut phase = 2;
    // A group notes which of its flows are in use from when the new site is a member of it.
    let idle = service.and_then(Service::resilient).map_or(Duration::ZERO, |r| r.idle);
    let mut dwell = match parts.is_empty() || !manner.unhurried {
        true => Duration::ZERO,
        false => idle,
    };
    let shifted = |spread: &Spread, answers: &Spread| Traffic {
        spread: spread.clone(),
        answers: answers.clone(),
        accept: both.clone(),
    };
    let own = service.map(|s| (s.ramp.as_slice(), s.ramp_dwell)).unwrap_or_default();
    let (shares, hold) = manner.ramp.map_or(own, |ramp| (ramp.steps.as_slice(), ramp.dwell));
    let goes_on = manner.ramp.and_then(|ramp| ramp.only_while.clone());
    let mut gates = BTreeSet::new();
    for percent in shares {
        let Some(spread) = between(&from.spread, &to.spread, *percent) else { continue };
        state = shifted(&spread, &spread);
        let shift = Part::now(phase, StepKind::Shift, state.clone());
        parts.push(Part { delay: dwell, gates: gates.clone(), ..shift });
        gates.extend(goes_on.clone());
        dwell = hold;
        // What a ramp is for: it stops while the new site has only a share.
        if probed {
            let verify = Part::now(phase + 1, StepKind::Verify, state.clone());
            parts.push(Part { delay: std::mem::take(&mut dwell), ..verify });
        }
        phase += 2;
    }
    state = shifted(&to.spread, &to.answers);
    if state != *from {
        let shift = Part::now(LAST_SHIFT, StepKind::Shift, state.clone());
        parts.push(Part { delay: dwell, gates, ..shift });
    }
    if state != *to {
        // Who asks to wait for old answers before a move asks for it behind one too.
        let old =
            service.filter(|s| waits_for_answers(s, one)).map(|s| s.ttl.now(manner.unhurried));
        let sticky = service.map_or(Duration::ZERO, |s| s.sticky).max(idle);
        let mut delay = match leaves_only(one, manner.abandoned) {
            true => Duration::ZERO,
            false => sticky.max(old.unwrap_or_default()),
        };
        if manner.soft {
            parts.push(Part::now(LAST_SHIFT + 1, StepKind::Drained, state));
            // What was on its way has been waited for, and longer.
            delay = old.unwrap_or_default();
        }
        let withdraw = Part::now(LAST_SHIFT + 2, StepKind::Withdraw, to.clone());
        parts.push(Part { delay, ..withdraw });
    }
    parts
}

/// Behind every step of a ramp: ramps of services that move together need not be equally long.
const LAST_SHIFT: u8 = 250;

/// A share of the way between two spreads by weight; nothing between spreads of another kind, and
/// nothing at the ends.
fn between(from: &Spread, to: &Spread, percent: u8) -> Option<Spread> {
    let (Spread::Weighted(old), Spread::Weighted(new)) = (from, to) else { return None };
    if percent == 0 || percent >= 100 || old == new {
        return None;
    }
    let share = |weights: &Weights, site: &SiteId, part: u64| {
        weights.share(site) * part * 2 / weights.total().max(1)
    };
    let mut mixed = BTreeMap::new();
    for site in old.sites().chain(new.sites()) {
        let rest = share(old, site, 100 - u64::from(percent));
        let come = share(new, site, u64::from(percent));
        let weight = u32::try_from(rest + come).ok().and_then(|w| Weight::new(w).ok());
        if let Some(weight) = weight {
            mixed.insert(site.clone(), weight);
        }
    }
    (mixed.len() > 1).then(|| Spread::Weighted(mixed.into()))
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
        Deliver::Split(weights) => sender != target && weights.has(target),
        Deliver::Local | Deliver::Drained => false,
    };
    let sites = || world.fabric.sites.iter().map(|s| &s.id);
    new.any(|target| sites().any(|sender| sends_to(sender, target)))
}

/// Of a leased service the others confirm that they do not serve, also where nobody should.
fn break_before_make(one: &Move, is_leased: bool) -> Vec<Part> {
    let Move { from, to, .. } = one;
    let nowhere =
        Traffic { spread: Spread::Nowhere, accept: BTreeSet::new(), answers: from.answers.clone() };
    let mut parts = Vec::new();
    let ends_nowhere = to.spread == Spread::Nowhere;
    let stopped = if ends_nowhere { to.clone() } else { nowhere };
    // Also where it is nowhere: perhaps only by the word of a task that nobody has acknowledged.
    if *from != *to || is_leased {
        parts.push(Part::now(0, StepKind::Withdraw, stopped));
    }
    if !ends_nowhere {
        parts.push(Part::now(1, StepKind::Activate, to.clone()));
        parts.push(Part::now(2, StepKind::Verify, to.clone()));
    }
    parts
}
