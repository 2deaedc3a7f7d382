//! What must hold before a step starts: somebody's word, and facts on the right side.
//!
//! Pure. Both are looked at when the step starts, not when the task was accepted: a word is good
//! until its request expires, a fact until it says so itself. What let the step start, and how far
//! the data was behind then, goes into the log with the start.

use std::collections::BTreeSet;

use super::decide::Present;
use super::steps::{Step, StepKind};
use super::view::wishes;
use crate::fabric::OperatorRole;
use crate::fact::{DATA_LAG, Gate, Measured};
use crate::id::{EntryId, ServiceId, WallMs};
use crate::log::entry::WishKind;

/// What let a step start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) gates: Vec<EntryId>,
    pub(super) facts: Vec<Measured>,
}

/// How many facts a start carries at most: what gates compare goes before what is only noted.
const NOTED: usize = 64;

/// # Errors
/// A line for each gate that is closed.
pub(super) fn open_gates(
    present: Present<'_>,
    task: &EntryId,
    step: &Step,
    now: WallMs,
) -> Result<Opened, Vec<String>> {
    let (mut opened, mut closed) = (Opened::default(), Vec::new());
    for text in &step.gates {
        match text.parse::<Gate>() {
            Ok(gate @ Gate::Compare { .. }) => {
                compare(present, step, (text, &gate), now, (&mut opened, &mut closed));
            }
            // A text of an earlier release that is no gate is a word all the same.
            Ok(Gate::Word(_)) | Err(_) => match said(present, task, text, now) {
                Some(wish) => opened.gates.push(wish),
                None => closed.push(format!("gate {text} is closed")),
            },
        }
    }
    if !closed.is_empty() {
        return Err(closed);
    }
    note_lag(present, step, now, &mut opened);
    Ok(opened)
}

/// The services of a step that name a gate; all of them when none does any more.
fn naming<'a>(present: Present<'a>, step: &'a Step, text: &str) -> Vec<&'a ServiceId> {
    let names = |id: &&ServiceId| {
        let service = present.world.catalog.get(id);
        service.is_some_and(|s| s.gates.values().flatten().any(|gate| gate == text))
    };
    match step.states.keys().filter(names).collect::<Vec<_>>() {
        none if none.is_empty() => step.states.keys().collect(),
        some => some,
    }
}

fn compare(
    present: Present<'_>,
    step: &Step,
    (text, gate): (&str, &Gate),
    now: WallMs,
    (opened, closed): (&mut Opened, &mut Vec<String>),
) {
    let Gate::Compare { fact, .. } = gate else { return };
    for service in naming(present, step, text) {
        match present.sight.facts.measured(service, fact, now) {
            Some(measured) if gate.holds(&measured) => opened.facts.push(measured),
            Some(Measured { value, unit, .. }) => {
                let line = format!("gate {text} is closed: {fact} of {service} is {value}{unit}");
                closed.push(line);
            }
            None => {
                let line = format!("gate {text} is closed: nobody reports {fact} of {service} now");
                closed.push(line);
            }
        }
    }
}

/// How far the data is behind when a service stops or starts somewhere.
fn note_lag(present: Present<'_>, step: &Step, now: WallMs, opened: &mut Opened) {
    let moves = [StepKind::Activate, StepKind::Shift, StepKind::Withdraw];
    if !moves.contains(&step.kind) {
        return;
    }
    let known: BTreeSet<EntryId> = opened.facts.iter().map(|fact| fact.id.clone()).collect();
    let services = step.states.keys().filter(|_| !present.sight.facts.is_empty());
    let lags = services.filter_map(|s| present.sight.facts.measured(s, DATA_LAG, now));
    opened.facts.extend(lags.filter(|lag| !known.contains(&lag.id)).take(NOTED));
}

/// The newest wish that says that a gate holds now.
fn said(present: Present<'_>, task: &EntryId, name: &str, now: WallMs) -> Option<EntryId> {
    let opens = |given: &super::view::Given| {
        let operator = present.world.fabric.operator_by_key(&given.person.key);
        matches!(&given.kind, WishKind::Gate { name: named } if named == name)
            && given.expires_at >= now
            && operator.is_some_and(|o| o.roles.contains(&OperatorRole::Gate))
    };
    wishes(present.fold, task).into_iter().rev().find(opens).map(|given| given.id)
}
