//! Steps in which somebody outside takes part: where they stand in a task, what is asked, and what
//! counts as an answer (adr/0058).
//!
//! Pure. An answer is a fact like those that gates compare: of the name that the request gives,
//! which stands for this step of this task alone, and of the operator who was asked. What a task
//! had asked is read out of its record when it is taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::decide::Present;
use super::steps::{Manner, Outside, Step, StepKind};
use crate::fact::{Facts, Gate, Thousandths};
use crate::id::{EntryId, ServiceId, WallMs, sha256_hex};
use crate::log::entry::{Act, Asked, Effect, Move, Slot, StepState, Way};
use crate::log::fold::{Fact, Fold, Written};
use crate::service::When;
use crate::traffic::Traffic;

/// So many services fit into one request.
const SERVICES: usize = 500;
/// How the names of answers begin.
pub const PREFIX: &str = "ext-";
/// An answer of this value says that it is done.
pub const DONE: Thousandths = Thousandths(1000);
/// An answer of this value says that it cannot be done.
pub const REFUSED: Thousandths = Thousandths(0);

/// What somebody outside says of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// With the words for the record.
    Done(String),
    Refused(String),
}

/// A request that stands at a place among the steps of the moves.
struct Placed {
    /// The step before which it stands, counted from 0.
    slot: usize,
    /// Behind the step before it rather than before the one behind it.
    is_after: bool,
    timeout: Duration,
    asked: Asked,
}

/// The name of a request and of its answer: of the start of a step, and so of one task and one term
/// of it, and of who is asked what at which place. The same each time it is asked.
pub fn request_id(started: &Slot, asked: &Asked) -> String {
    let Slot { task, term, index } = started;
    let Asked { party, act, when, .. } = asked;
    let text = format!("{task} {term} {index} {party} {} {}", act.as_str(), when.as_str());
    format!("{PREFIX}{}", &sha256_hex(text.as_bytes())[..40])
}

/// The steps with those who take part in them, numbered anew.
pub(super) fn ask_outside(
    steps: Vec<Step>,
    moves: &[Move],
    present: Present<'_>,
    manner: Manner<'_>,
) -> Vec<Step> {
    let placed = match manner.outside {
        Outside::Nobody => Vec::new(),
        Outside::Named => named(&steps, moves, manner),
        Outside::AskedBy(task) => taken_back(&steps, present, task),
    };
    if placed.is_empty() {
        return steps;
    }
    let mut all: Vec<Step> = Vec::new();
    let mut states: BTreeMap<ServiceId, Traffic> =
        moves.iter().map(|one| (one.service.clone(), one.from.clone())).collect();
    let mut placed = placed.into_iter().peekable();
    let mut rest = steps.into_iter();
    for slot in 0.. {
        let next = rest.next();
        while let Some(one) = placed.next_if(|one| one.slot <= slot || next.is_none()) {
            let near = if one.is_after { all.last().or(next.as_ref()) } else { next.as_ref() };
            let wave = near.or(all.last()).map_or(0, |step| step.wave);
            let gates = next.as_ref().map(comparisons).unwrap_or_default();
            all.push(step(one, wave, gates, &states));
        }
        let Some(next) = next else { break };
        states.extend(next.states.iter().map(|(id, state)| (id.clone(), state.clone())));
        all.push(next);
    }
    for (step, number) in all.iter_mut().zip(1u32..) {
        step.number = number;
    }
    all
}

/// What a step compares before it starts must hold for who is asked right before it as well:
/// somebody may promote a database. A word may be about what they do, and is waited for behind it.
fn comparisons(next: &Step) -> BTreeSet<String> {
    let compares = |text: &&String| matches!(text.parse(), Ok(Gate::Compare { .. }));
    next.gates.iter().filter(compares).cloned().collect()
}

fn step(
    placed: Placed,
    wave: u8,
    gates: BTreeSet<String>,
    states: &BTreeMap<ServiceId, Traffic>,
) -> Step {
    let Placed { slot: _, is_after: _, timeout, asked } = placed;
    let state = |id: &ServiceId| Some((id.clone(), states.get(id)?.clone()));
    let states = asked.services.keys().filter_map(state).collect();
    Step {
        number: 0,
        wave,
        kind: StepKind::External,
        states,
        delay: Duration::ZERO,
        timeout,
        gates,
        asked: Some(asked),
        required: BTreeSet::new(),
        owed: BTreeSet::new(),
    }
}

/// Those whom the services name, each at its place; services that ask the same one at the same
/// place share a request.
fn named(steps: &[Step], moves: &[Move], manner: Manner<'_>) -> Vec<Placed> {
    type Key<'a> = (usize, When, &'a str, bool);
    let mut requests: BTreeMap<Key<'_>, (Duration, BTreeMap<ServiceId, Way>)> = BTreeMap::new();
    for one in moves {
        let Some(service) = manner.world.catalog.get(&one.service) else { continue };
        for party in &service.external {
            let Some(slot) = place(steps, &one.service, party.when) else { continue };
            let key = (slot, party.when, party.name.as_str(), party.undo);
            let (timeout, services) = requests.entry(key).or_default();
            *timeout = party.timeout.max(*timeout);
            let (from, to) = (one.from.spread.sites(), one.to.spread.sites());
            services.insert(one.service.clone(), Way { from, to });
        }
    }
    let mut placed = Vec::new();
    for ((slot, when, party, undo), (timeout, services)) in requests {
        let mut services = services.into_iter().peekable();
        while services.peek().is_some() {
            let asked = Asked {
                party: party.to_owned(),
                act: Act::Do,
                when,
                undo,
                services: services.by_ref().take(SERVICES).collect(),
                takes_back: None,
            };
            placed.push(Placed { slot, is_after: when.is_after(), timeout, asked });
        }
    }
    placed
}

/// The number of steps of a service before its place in a move; `None` where its move has no such
/// place.
fn place(steps: &[Step], service: &ServiceId, when: When) -> Option<usize> {
    let own = |step: &Step| step.states.contains_key(service);
    let is = |kind: StepKind| move |step: &Step| step.kind == kind && own(step);
    let serves = || {
        let accepts = steps.iter().position(is(StepKind::Activate));
        accepts.or_else(|| steps.iter().position(is(StepKind::Shift)))
    };
    match when {
        When::BeforeActivate => serves(),
        When::AfterActivate => {
            let serves = serves()?;
            let rest = steps.get(serves + 1..).unwrap_or_default();
            let verified = rest
                .iter()
                .position(own)
                .filter(|next| rest.get(*next).is_some_and(|step| step.kind == StepKind::Verify));
            Some(serves + 1 + verified.map_or(0, |next| next + 1))
        }
        When::BeforeWithdraw => steps.iter().position(is(StepKind::Withdraw)),
        When::AfterWithdraw => Some(steps.iter().rposition(is(StepKind::Withdraw))? + 1),
    }
}

/// Those whom a task has asked, the last one first, each at the mirrored place of the way back.
/// Services that another task has moved since stay as that one wants them.
fn taken_back(steps: &[Step], present: Present<'_>, task: &EntryId) -> Vec<Placed> {
    let is_own =
        |id: &ServiceId| present.intent.mover(id).is_none_or(|mover| mover.order.task == *task);
    let mut placed: Vec<Placed> = Vec::new();
    for (request, step) in outstanding(present.fold, task).into_iter().rev() {
        let Some(mut asked) = step.asked.clone().filter(|asked| asked.undo) else { continue };
        asked.services.retain(|id, _| is_own(id));
        if asked.services.is_empty() {
            continue;
        }
        // What takes back an undo is the first way again.
        let when = match asked.act {
            Act::Do => asked.when.mirrored(),
            Act::Undo => asked.when,
        };
        let places = asked.services.keys().filter_map(|id| place(steps, id, when));
        let slot = if when.is_after() { places.max() } else { places.min() };
        placed.push(Placed {
            // Where no service moves any more nothing has to be waited for.
            slot: slot.unwrap_or(steps.len()),
            is_after: when.is_after(),
            timeout: step.timeout,
            asked: Asked { act: asked.act.flipped(), takes_back: Some(request), ..asked },
        });
    }
    // Behind a step goes before whatever stands before the next one.
    placed.sort_by_key(|one| (one.slot, !one.is_after));
    placed
}

/// What a task has asked and what was not taken back since, in order: also what nobody has
/// acknowledged, who may have acted. With the names of the requests.
fn outstanding<'a>(fold: &'a Fold, task: &EntryId) -> Vec<(String, &'a Step)> {
    let Some(record) = fold.task(task) else { return Vec::new() };
    let mut asked = Vec::new();
    let mut taken_back: BTreeSet<&str> = BTreeSet::new();
    for (request, step, acknowledged) in requests(record.facts(task), task) {
        let before = step.asked.as_ref().and_then(|asked| asked.takes_back.as_deref());
        taken_back.extend(before.filter(|_| acknowledged));
        asked.push((request, step));
    }
    // What an adoption has made void was sent all the same; most of it was begun anew since.
    let same = |one: &Step, other: &Step| one.asked == other.asked;
    for facts in record.facts_at_any_time(task) {
        for (request, step, _) in requests(facts.into_iter(), task) {
            if !asked.iter().any(|(known, one)| *known == request || same(one, step)) {
                asked.push((request, step));
            }
        }
    }
    // What was to take back something of the same task is never turned around: either it has, and
    // both are settled, or the first is asked to be taken back again.
    let own: BTreeSet<String> = asked.iter().map(|(request, _)| request.clone()).collect();
    asked.retain(|(request, step)| {
        let before = step.asked.as_ref().and_then(|asked| asked.takes_back.as_ref());
        !taken_back.contains(request.as_str()) && before.is_none_or(|before| !own.contains(before))
    });
    asked
}

/// The requests of such a row of facts, in order, and whether each was acknowledged.
fn requests<'a>(
    facts: impl Iterator<Item = (u32, u32, &'a Written<Fact>)>,
    task: &EntryId,
) -> Vec<(String, &'a Step, bool)> {
    let mut effect: Option<&Effect> = None;
    let mut requests: Vec<(String, &Step, bool)> = Vec::new();
    for (term, index, fact) in facts {
        let fact = match &fact.what {
            Fact::Effective { effect: next, .. } => {
                effect = Some(next);
                continue;
            }
            Fact::Step(fact) => fact,
            Fact::Turn(_) | Fact::End(_) => continue,
        };
        let steps = effect.map(|effect| effect.steps.as_slice()).unwrap_or_default();
        let Some(step) = steps.iter().find(|step| step.number == fact.step) else { continue };
        let Some(asked) = &step.asked else { continue };
        match &fact.state {
            StepState::Started { .. } => {
                let slot = Slot { task: task.clone(), term, index };
                requests.push((request_id(&slot, asked), step, false));
            }
            StepState::Done { .. } => {
                if let Some((_, _, acknowledged)) = requests.last_mut() {
                    *acknowledged = true;
                }
            }
            StepState::Failed { .. } => {}
        }
    }
    requests
}

// === impl Answer ===

impl Answer {
    /// What the one who was asked says now; nobody else's word counts.
    pub fn to(asked: &Asked, started: &Slot, facts: &Facts, now: WallMs) -> Option<Self> {
        let fact = facts.good(&(None, request_id(started, asked)), now)?;
        let (party, id) = (&asked.party, &fact.id);
        if fact.person != *party {
            return None;
        }
        match fact.value {
            DONE => Some(Self::Done(format!("acknowledged by {party} outside, {id}"))),
            REFUSED => Some(Self::Refused(format!("{party} outside says that it cannot, {id}"))),
            Thousandths(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fact::Fact as Reported;

    fn asked(act: Act) -> Asked {
        Asked {
            party: "lb".to_owned(),
            act,
            when: When::BeforeActivate,
            undo: true,
            services: BTreeMap::new(),
            takes_back: None,
        }
    }

    fn slot(task: &str, term: u32, index: u32) -> Slot {
        Slot { task: format!("osl.{task:0>26}").parse().expect("valid"), term, index }
    }

    fn said(name: String, person: &str, value: i64) -> Facts {
        let fact = Reported {
            id: "osl.01jd3m5w7r8v3qyb2s9t4k6e1h".parse().expect("valid"),
            value: Thousandths(value),
            unit: String::new(),
            measured_at: WallMs(10),
            expires_at: WallMs(20),
            person: person.to_owned(),
        };
        let mut facts = Facts::default();
        assert!(facts.take((None, name), fact));
        facts
    }

    #[test]
    fn an_answer_is_of_one_task_term_start_party_and_verb() {
        let (own, act) = (slot("1", 0, 3), asked(Act::Do));
        let other = Asked { party: "fw".to_owned(), ..asked(Act::Do) };
        let names = [
            request_id(&own, &act),
            request_id(&slot("2", 0, 3), &act),
            request_id(&slot("1", 1, 3), &act),
            request_id(&slot("1", 0, 4), &act),
            request_id(&own, &asked(Act::Undo)),
            request_id(&own, &other),
            request_id(&own, &Asked { when: When::AfterWithdraw, ..asked(Act::Do) }),
        ];
        for (place, name) in names.iter().enumerate() {
            let answer = Answer::to(&act, &own, &said(name.clone(), "lb", 1000), WallMs(15));
            assert_eq!(matches!(answer, Some(Answer::Done(_))), place == 0, "{place}: {answer:?}");
            assert!(name.parse::<crate::id::SiteId>().is_ok(), "a word of a subject: {name}");
        }
    }

    #[test]
    fn only_the_one_who_was_asked_answers_by_yes_or_no_while_it_is_good() {
        let (own, act) = (slot("1", 0, 3), asked(Act::Do));
        let to = |person, value, now| {
            Answer::to(&act, &own, &said(request_id(&own, &act), person, value), WallMs(now))
        };
        assert!(matches!(to("lb", 1000, 19), Some(Answer::Done(_))));
        assert!(matches!(to("lb", 0, 19), Some(Answer::Refused(_))));
        assert_eq!(to("lb", 1000, 20), None, "it is not good any more");
        assert_eq!(to("fw", 1000, 19), None, "somebody else");
        assert_eq!((to("lb", 2000, 19), to("lb", 1, 19), to("lb", -1000, 19)), (None, None, None));
    }
}
