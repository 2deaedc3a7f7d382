//! An evacuation of a site that is off goes on past what does not answer; no other move does.

use std::time::Duration;

use nett_policy::log::entry::{Body, Outcome, StepState, Verb};
use nett_policy::task::steps::StepKind;
use nett_policy::task::view::{TaskState, read, state};

use super::ground::{Desk, Ground, evacuation, id};

/// The kinds of the steps that were started, and how the task ended, with its reason.
fn driven(desk: &mut Desk<'_>, verb: &Verb) -> (Vec<StepKind>, Outcome, String) {
    let proposal = desk.propose(verb);
    desk.accept(verb, &proposal);
    desk.approve();
    while desk.advance() {}
    let task = desk.task.clone().expect("accepted");
    let started = desk.log.iter().filter_map(|entry| match &entry.body {
        Body::Step(fact) => match fact.state {
            StepState::Started { .. } => Some(fact.step),
            StepState::Done { .. } | StepState::Failed { .. } => None,
        },
        _ => None,
    });
    let steps = &proposal.effect.steps;
    let kind = |number: u32| steps.iter().find(|s| s.number == number).map(|s| s.kind);
    let kinds = started.filter_map(kind).collect();
    let TaskState::Ended(outcome) = state(&desk.fold, &task) else { panic!("it goes on") };
    (kinds, outcome, read(&desk.fold, &task).end_reason)
}

#[test]
fn what_does_not_answer_goes_all_the_same_and_is_listed() {
    // Makes before it breaks, and breaks before it makes: all steps of all three waves.
    let ground = Ground::with(3).with_third_site();
    let mut desk = ground.desk();
    let answered = driven(&mut desk, &evacuation());
    assert_eq!((answered.1, answered.2.as_str()), (Outcome::Done, ""));
    let mut desk = ground.desk();
    desk.unanswered = true;
    let (kinds, outcome, reason) = driven(&mut desk, &evacuation());
    assert_eq!((kinds, outcome), (answered.0, Outcome::Failed));
    assert!(reason.contains("no echo reply; and 30 more"), "{reason}");
}

#[test]
fn a_move_that_is_no_evacuation_stops_at_what_does_not_answer() {
    let ground = Ground::with(3).with_third_site();
    let mut desk = ground.desk();
    desk.unanswered = true;
    let failover = Verb::Failover { services: id("shop/prod/s000002"), to: id("svg") };
    let (kinds, outcome, reason) = driven(&mut desk, &failover);
    assert_eq!((outcome, reason.contains("no echo reply")), (Outcome::Failed, true), "{reason}");
    assert_eq!(kinds, [StepKind::Activate, StepKind::Verify]);
}

#[test]
fn nobody_confirmed_is_said_before_what_did_not_answer() {
    let ground = Ground::with(3).with_third_site();
    let mut desk = ground.desk();
    (desk.unanswered, desk.confirm_within) = (true, Some(Duration::from_secs(600)));
    let (_, outcome, reason) = driven(&mut desk, &evacuation());
    // And the way back is verified like any other.
    assert_eq!(outcome, Outcome::Failed, "{reason}");
    assert!(reason.starts_with("nobody confirmed it; trd-b1: no echo reply"), "{reason}");
    assert!(reason.contains("its undo: "), "{reason}");
}
