//! What a step of a plan means for connections, in words: operations say what changes, and not who
//! notices it.
//!
//! Pure, and made of the same effect that the agents carry out. It never says more than the steps
//! do: where nothing is kept and nothing measured, it says nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::id::{ServiceId, SiteId};
use crate::log::effect::{Act, Asked, Effect, Move, Step, StepKind};
use crate::log::intent::World;
use crate::service::Drain;
use crate::task::reroutes::{filled_slowly, is_last, is_of_clusters, left_slowly};
use crate::task::steps::is_soft;

/// What begins before the first step, as soon as the task takes effect.
pub(super) fn on_effect(effect: &Effect) -> Vec<String> {
    let soft = effect.moves.iter().filter(|one| is_soft(&effect.steps, one));
    let soft: BTreeSet<SiteId> = soft.flat_map(Move::left).collect();
    let hard = effect.moves.iter().filter(|one| !is_soft(&effect.steps, one));
    let before: BTreeSet<SiteId> = hard.flat_map(|one| one.kept.clone()).collect();
    let mut remarks = Vec::new();
    if !soft.is_empty() {
        remarks.push(format!("established connections stay at {}", names(&soft)));
    }
    if !before.is_empty() {
        let sites = names(&before);
        remarks.push(format!("connections that a task before left at {sites} stay there for now"));
    }
    let slowly = left_slowly(effect);
    if !slowly.is_empty() {
        let clusters = names(&slowly);
        remarks.push(format!(
            "where flows stay (`shift = \"resilient\"`), those in use go on to {clusters}"
        ));
    }
    remarks
}

pub(super) fn of_step(world: World<'_>, effect: &Effect, step: &Step) -> Vec<String> {
    let moves = || effect.moves.iter().filter(|m| step.states.contains_key(&m.service));
    let soft = || moves().filter(|one| is_soft(&effect.steps, one));
    let left: BTreeSet<SiteId> = soft().flat_map(Move::left).collect();
    let to: BTreeSet<SiteId> = soft().flat_map(|one| one.to.spread.sites()).collect();
    let mut remarks = Vec::new();
    match step.kind {
        StepKind::Shift => {
            if !left.is_empty() {
                let (left, to) = (names(&left), names(&to));
                remarks
                    .push(format!("new connections go to {to}, established ones stay at {left}"));
            }
            remarks
                .extend(moves().filter(|m| ends_keeping(effect, step, m)).filter_map(before).max());
        }
        StepKind::Drained if is_of_clusters(step) => {
            let (clusters, most) = (names(&left_slowly(effect)), seconds(step.timeout));
            remarks.push(format!(
                "waits until no flow in use leads to {clusters}; after {most}, or when --until has \
                 come, it goes on all the same and says what is left"
            ));
        }
        StepKind::Drained => {
            let all: BTreeSet<SiteId> = moves().flat_map(Move::left).collect();
            let (sites, limit) = (names(&all), limit(world, step));
            let most = seconds(step.timeout);
            remarks.push(match left.is_empty() {
                true => format!(
                    "waits until what still comes to {sites} is measured to be {limit}; after \
                     {most} it says what does, and the move stays"
                ),
                false => format!(
                    "waits until what stays at {sites} is measured to be {limit}; after {most}, \
                     or when --until has come, it goes on all the same and says what is left"
                ),
            });
        }
        StepKind::Withdraw if !left.is_empty() => {
            let left = names(&left);
            remarks.push(format!("{left} is closed: who still has a connection there is reset"));
        }
        StepKind::Reroute if is_last(effect, step) => {
            let (left, filled) = (left_slowly(effect), filled_slowly(effect));
            if !left.is_empty() {
                let left = names(&left);
                remarks.push(format!("{left} is left: flows that still go there move"));
            }
            if !filled.is_empty() {
                let filled = names(&filled);
                remarks.push(format!("{filled} gets its share as flows fall idle"));
            }
        }
        StepKind::Withdraw
        | StepKind::LowerTtl
        | StepKind::Activate
        | StepKind::Verify
        | StepKind::Reroute => {}
        StepKind::External => remarks.extend(step.asked.as_ref().map(|a| asked(a, step.timeout))),
    }
    remarks
}

/// Who is asked outside, and what follows.
fn asked(asked: &Asked, timeout: Duration) -> String {
    let Asked { party, act, when, .. } = asked;
    let most = seconds(timeout);
    match act {
        Act::Do => format!(
            "asks {party} outside ({when}): without its acknowledgement in {most} the task stops"
        ),
        Act::Undo => format!(
            "asks {party} outside to take back what it was asked for ({when}): without its \
             acknowledgement in {most} the task stops"
        ),
    }
}

/// The last shift of a move, from which on nothing stays that a task before it had left.
fn ends_keeping(effect: &Effect, step: &Step, one: &Move) -> bool {
    let last = effect
        .steps
        .iter()
        .rfind(|other| other.kind == StepKind::Shift && other.states.contains_key(&one.service));
    !is_soft(&effect.steps, one) && last.is_some_and(|last| last.number == step.number)
}

fn before(one: &Move) -> Option<String> {
    let sites = Some(&one.kept).filter(|kept| !kept.is_empty())?;
    let to = one.to.spread.sites();
    Some(match sites.is_subset(&to) {
        true => format!("connections that stayed at {} go on there", names(sites)),
        false => format!("connections that stayed at {} end", names(sites)),
    })
}

/// The strictest of what the services of a step call quiet.
fn limit(world: World<'_>, step: &Step) -> String {
    let drain = |id: &ServiceId| world.catalog.get(id)?.drain;
    let drains = || step.states.keys().map(|id| drain(id).unwrap_or(Drain::USUAL));
    let pps = drains().map(|drain| drain.pps).min().unwrap_or(1);
    let dwell = drains().map(|drain| drain.dwell).max().unwrap_or_default();
    format!("below {pps}/s in both directions for {}", seconds(dwell))
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs())
}

fn names<T: std::fmt::Display>(all: &BTreeSet<T>) -> String {
    all.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}
