//! What people may do with a task while it runs, and what the log then says about it.

use std::collections::BTreeSet;

use nett_policy::id::EntryId;
use nett_policy::log::entry::{Body, Entry, Outcome, StepState, WishKind};
use nett_policy::log::fold::Fold;
use nett_policy::log::intent::Intent;
use nett_policy::task::view::{TaskState, read, state};
use proptest::prelude::*;

use super::desk::{Desk, Nodes, Order};
use super::fold_laws::{acts, fold, history};
use super::ground::Ground;

fn begun(ground: &Ground) -> (Desk<'_>, EntryId) {
    let mut desk = Desk::new(ground, 0);
    let entry = desk.order(1, &Order::Failover { service: 0, to: 1 }, false).expect("an order");
    let Body::Command(command) = entry.body else { panic!("accepted: {entry:?}") };
    desk.wish(0, 0, true).expect("approved");
    desk.advance(Nodes::Done).expect("it takes effect");
    (desk, command.request.id)
}

#[test]
fn a_paused_task_starts_no_step_until_it_is_resumed() {
    let ground = Ground::two_sites();
    let (mut desk, task) = begun(&ground);
    desk.advance(Nodes::Silent).expect("step 1 starts");
    desk.turn(1, 0, WishKind::Pause).expect("a wish");
    desk.advance(Nodes::Silent).expect("the pause is a fact");
    assert_eq!(state(&desk.fold, &task), TaskState::Paused);
    desk.advance(Nodes::Done).expect("the open step still ends");
    assert_eq!(desk.advance(Nodes::Done), None, "and no other begins");
    desk.turn(1, 0, WishKind::Resume).expect("a wish");
    while desk.advance(Nodes::Done).is_some() {}
    assert_eq!(state(&desk.fold, &task), TaskState::Ended(Outcome::Done));
}

#[test]
fn a_cancelled_task_ends_where_it_is_and_can_be_reverted() {
    let ground = Ground::two_sites();
    let (mut desk, task) = begun(&ground);
    desk.advance(Nodes::Done).expect("step 1 starts");
    desk.turn(1, 0, WishKind::Cancel).expect("a wish");
    desk.advance(Nodes::Done).expect("the end");
    let reading = read(&desk.fold, &task);
    assert_eq!((reading.end, reading.started), (Some(Outcome::Cancelled), 1));
    assert!(reading.end_reason.contains("cancelled by"), "{}", reading.end_reason);
    let entry = desk.order(1, &Order::Revert { task: 0 }, false).expect("an order");
    assert!(matches!(entry.body, Body::Command(_)), "{entry:?}");
}

#[test]
fn who_supersedes_ends_the_task_in_the_way_at_once() {
    let ground = Ground::two_sites();
    let (mut desk, task) = begun(&ground);
    desk.advance(Nodes::Done).expect("step 1 starts");
    let refused = desk.order(1, &Order::Failback { service: 0 }, false).expect("an order");
    let Body::Refused(refused) = refused.body else { panic!("refused: {refused:?}") };
    assert_eq!(refused.refused_by, "task-open");
    assert!(refused.message.contains(task.as_str()), "{}", refused.message);
    let entry = desk.order(1, &Order::Failback { service: 0 }, true).expect("an order");
    let Body::Command(command) = entry.body else { panic!("accepted: {entry:?}") };
    assert_eq!(command.supersedes, std::slice::from_ref(&task));
    desk.advance(Nodes::Done).expect("the end of the first");
    assert_eq!(state(&desk.fold, &task), TaskState::Ended(Outcome::Superseded));
    desk.wish(0, 0, true).expect("approved");
    while desk.advance(Nodes::Done).is_some() {}
    assert_eq!(state(&desk.fold, &command.request.id), TaskState::Ended(Outcome::Done));
}

#[test]
fn an_adopter_goes_on_and_what_the_old_home_writes_then_is_void() {
    let ground = Ground::two_sites();
    let (mut old, task) = begun(&ground);
    let mut new = Desk::new(&ground, 1);
    old.log.iter().for_each(|entry| new.read(entry));
    let asserted: BTreeSet<_> = ground
        .fabric
        .nodes
        .iter()
        .filter(|n| n.site.as_str() == "osl")
        .map(|n| n.id.clone())
        .collect();
    new.turn(1, 0, WishKind::Adopt { asserted }).expect("adopted");
    assert_eq!(new.fold.home(&task).as_str(), "svg");
    // The old home did not know, and wrote on.
    let mut late: Vec<Entry> = Vec::new();
    while let Some(entry) = old.advance(Nodes::Failing) {
        late.push(entry);
    }
    assert_eq!(state(&old.fold, &task), TaskState::Ended(Outcome::Failed));
    while new.advance(Nodes::Done).is_some() {}
    assert_eq!(state(&new.fold, &task), TaskState::Ended(Outcome::Done));
    late.iter().for_each(|entry| new.read(entry));
    new.log.iter().for_each(|entry| old.read(entry));
    for desk in [&old, &new] {
        assert_eq!(state(&desk.fold, &task), TaskState::Ended(Outcome::Done));
    }
    assert_eq!(old.fold, new.fold);
}

/// The adopter may have read any part of what was done; everybody else has read all of it. What
/// they did stays until the adopter has something of its own to put in its place, and the epoch of
/// their answers never goes back.
#[test]
fn an_adoption_takes_no_step_back_before_it_starts_one() {
    let ground = Ground::two_sites();
    for service in 0..2 {
        let mut old = Desk::new(&ground, 0);
        let order = Order::Failover { service, to: 1 };
        old.order(1, &order, false).expect("an order");
        old.wish(0, 0, true).expect("approved");
        // From the approval on, which alone lets the adopter go on.
        let before = old.log.len();
        while old.advance(Nodes::Done).is_some() {}
        let id = &ground.catalog.iter().nth(service).expect("a service").id;
        for read in before..old.log.len() {
            let new = adopted_after(&ground, &old.log[..read]);
            let known = |own: usize| Intent::read(&fold(old.log.iter().chain(&new[..own])));
            let traffic = |intent: &Intent| {
                let service = ground.catalog.get(id).expect("known");
                nett_policy::place::place_one(ground.world(), intent, service).traffic
            };
            let starts = |entry: &Entry| match &entry.body {
                Body::Step(fact) => matches!(fact.state, StepState::Started { .. }),
                Body::End(_) => true,
                _ => false,
            };
            let first = new.iter().position(starts).expect("it goes on");
            for own in 0..first {
                assert_eq!(traffic(&known(own)), traffic(&known(0)), "{id}, {read} read, {own}");
            }
            let epochs: Vec<_> = (0..=new.len()).map(|own| known(own).answered_epoch(id)).collect();
            assert!(epochs.is_sorted(), "{id}, {read} read: {epochs:?}");
            assert_eq!(traffic(&known(new.len())), traffic(&known(0)), "{id}, {read} read");
            // Who reads entry by entry comes to the same.
            let (mut fold, mut intent) = (Fold::default(), Intent::default());
            for (own, entry) in old.log.iter().chain(&new).enumerate() {
                let Some(task) = entry.about() else { continue };
                match fold.join(entry) {
                    true => intent.update(&fold, task),
                    false => intent = Intent::read(&fold),
                }
                assert_eq!(intent, Intent::read(&fold), "{id}, {read} read, {own}");
            }
        }
    }
}

/// The adopter has read only the approval when it adopts, and before it goes on, what the other
/// site had begun: that is in force, and it is the adopter's own task.
#[test]
fn an_adopter_is_not_stopped_by_what_it_has_made_void() {
    let ground = Ground::two_sites();
    let mut old = Desk::new(&ground, 0);
    old.order(1, &Order::Failover { service: 0, to: 1 }, false).expect("an order");
    old.wish(0, 0, true).expect("approved");
    let before = old.log.len();
    while old.advance(Nodes::Done).is_some() {}
    let mut new = Desk::new(&ground, 1);
    old.log[..before].iter().for_each(|entry| new.read(entry));
    new.turn(1, 0, WishKind::Adopt { asserted: BTreeSet::new() }).expect("adopted");
    old.log[before..].iter().for_each(|entry| new.read(entry));
    while new.advance(Nodes::Done).is_some() {}
    let task = new.fold.commands().next().expect("one").0.clone();
    assert_eq!(state(&new.fold, &task), TaskState::Ended(Outcome::Done));
}

/// What svg writes that adopts the first task, having read so much.
fn adopted_after(ground: &Ground, read: &[Entry]) -> Vec<Entry> {
    let mut desk = Desk::new(ground, 1);
    read.iter().for_each(|entry| desk.read(entry));
    desk.turn(1, 0, WishKind::Adopt { asserted: BTreeSet::new() }).expect("adopted");
    while desk.advance(Nodes::Done).is_some() {}
    desk.log
}

#[test]
fn a_held_service_is_touched_by_nothing() {
    let ground = Ground::two_sites();
    let mut desk = Desk::new(&ground, 0);
    let held = desk.order(1, &Order::Hold { service: 0, on: true }, false).expect("an order");
    assert!(matches!(held.body, Body::Command(_)), "{held:?}");
    desk.wish(0, 0, true);
    while desk.advance(Nodes::Done).is_some() {}
    let refused = desk.order(1, &Order::DrainSite { site: 0, on: true }, false).expect("an order");
    let Body::Refused(refused) = refused.body else { panic!("refused: {refused:?}") };
    assert_eq!(refused.refused_by, "hold");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// What a task does is in the log: another fabric and other definitions read it the same.
    #[test]
    fn a_later_fabric_changes_no_task(acts in prop::collection::vec(acts(), 1..40)) {
        let ground = Ground::two_sites();
        let fold = fold(&history(&ground, &acts));
        // Nothing but the log goes into a reading; were a fabric needed, it would be named here.
        let intent = Intent::read(&fold);
        for (task, _, command) in fold.commands() {
            for (_, effect) in fold.effects(task) {
                let numbers: Vec<u32> = effect.steps.iter().map(|s| s.number).collect();
                let expected: Vec<u32> = (1..).take(effect.steps.len()).collect();
                prop_assert_eq!(numbers, expected);
                prop_assert!(effect.steps.iter().all(|s| s.required.is_disjoint(&s.owed)));
                for one in &effect.moves {
                    prop_assert!(intent.mover(&one.service).is_some(), "{}", command.plan_hash);
                    let last = effect.steps.iter().rev().find_map(|s| s.states.get(&one.service));
                    prop_assert_eq!(last, Some(&one.to), "the last step is the end of the way");
                }
            }
        }
    }

    /// A task has one end, and after it nothing is written about it at its home.
    #[test]
    fn a_task_ends_once(acts in prop::collection::vec(acts(), 1..60)) {
        let ground = Ground::two_sites();
        let entries = history(&ground, &acts);
        let fold = fold(&entries);
        for (task, ..) in fold.commands() {
            let record = fold.task(task);
            let facts = record.into_iter().flat_map(|r| r.facts(task));
            let ends: Vec<u32> = facts
                .filter(|(_, _, f)| matches!(f.what, nett_policy::log::fold::Fact::End(_)))
                .map(|(_, index, _)| index)
                .collect();
            prop_assert!(ends.len() <= 1, "{task} ended at {ends:?}");
            if let Some(end) = ends.first() {
                prop_assert_eq!(read(&fold, task).next_index, end + 1);
            }
        }
    }
}
