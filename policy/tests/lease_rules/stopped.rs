//! A task that nobody confirmed: what is leased stops, and only another claim serves it again.

use nett_policy::id::{EntryId, SiteId};
use nett_policy::lease::placings::Placings;
use nett_policy::log::entry::{Object, Outcome, Terms, Verb, WishKind};
use nett_policy::log::fold::Fold;
use nett_policy::place::Reason;
use nett_policy::service::Isolation;
use nett_policy::task::view::{TaskState, state};
use nett_policy::traffic::Spread;

use crate::bench::s;
use crate::desk::{API, Desk, HOUR, LEDGER, PAY, id};

fn to(site: &str) -> Verb {
    Verb::Failover { services: id("shop/prod/*"), to: id(site) }
}

fn within() -> Terms {
    Terms { confirm_within: Some(s(60)), ..Terms::default() }
}

fn at(desk: &Desk, service: &str) -> Option<SiteId> {
    desk.placed(service).traffic.spread.sites().into_iter().next()
}

/// All steps are over and it waits for somebody's word.
fn confirming(desk: &mut Desk) -> EntryId {
    let task = desk.command(to("svg"), within());
    let steps = desk.fold.task(&task).map_or(0, |record| {
        record.effects(&task).last().map_or(0, |(_, effect)| effect.steps.len())
    });
    let reading = desk.run(&task, |reading| reading.done.len() == steps);
    assert_eq!(reading.failed, std::collections::BTreeMap::new());
    assert_eq!(state(&desk.fold, &task), TaskState::Confirming);
    task
}

#[test]
fn what_nobody_confirms_goes_back_and_what_is_leased_stops() {
    let mut desk = Desk::new();
    let task = confirming(&mut desk);
    for service in [PAY, LEDGER] {
        let placing = desk.placing(service, &task);
        assert!(placing.open && !placing.stopped, "{service} is served while it waits");
        assert_eq!(at(&desk, service), Some(id("svg")));
    }
    desk.since_last = s(59);
    assert_eq!(desk.next(&task), None, "there is time left");
    desk.since_last = HOUR;
    let reading = desk.run(&task, |reading| reading.effects == 2);
    assert_eq!(reading.end, None, "the undo has steps of its own");
    for service in [PAY, LEDGER] {
        let placing = desk.placing(service, &task);
        assert!(!placing.open && placing.stopped, "{service}: from the first word on");
    }
    let reading = desk.run(&task, |_| false);
    assert_eq!(reading.end, Some(Outcome::Reverted), "{}", reading.end_reason);
    for part in ["nobody confirmed it", "stopped: ", PAY, LEDGER, "nettctl failover ID --to SITE"] {
        assert!(reading.end_reason.contains(part), "{part} in {}", reading.end_reason);
    }
    assert_eq!(at(&desk, API), Some(id("osl")), "it is not leased");
    for service in [PAY, LEDGER] {
        let placed = desk.placed(service);
        assert_eq!(placed.traffic.spread, Spread::Nowhere, "{service}");
        assert_eq!(placed.traffic.answers, Spread::Nowhere, "{service}");
        assert_eq!(placed.reason, Reason::LeaseStopped, "{service}");
        assert!(desk.placing(service, &task).stopped, "{service}");
        assert_eq!(
            desk.newest(service),
            std::slice::from_ref(&task),
            "no older claim returns: {service}"
        );
    }
}

/// What was taken back before it had a lease went where it came from, and is claimed there.
#[test]
fn what_gets_a_lease_later_is_claimed_where_its_undo_left_it() {
    let mut desk = Desk::new();
    desk.define(PAY, Isolation::Static);
    let task = confirming(&mut desk);
    assert_eq!(desk.run(&task, |_| false).end, Some(Outcome::Reverted));
    assert_eq!(at(&desk, PAY), Some(id("osl")));
    desk.define(PAY, Isolation::Lease);
    let placing = desk.placing(PAY, &task);
    assert!(placing.open && !placing.stopped, "{placing:?}");
    assert_eq!((placing.target, desk.newest(PAY)), (id::<SiteId>("osl"), vec![task.clone()]));
    assert!(desk.placing(LEDGER, &task).stopped, "which had one all the time");
}

#[test]
fn a_claim_that_is_confirmed_in_time_serves_on() {
    let mut desk = Desk::new();
    let task = confirming(&mut desk);
    desk.since_last = s(59);
    desk.wish(&task, WishKind::Confirm);
    assert_eq!(desk.run(&task, |_| false).end, Some(Outcome::Done));
    desk.since_last = HOUR;
    assert_eq!(desk.next(&task), None);
    for service in [PAY, LEDGER] {
        let placing = desk.placing(service, &task);
        assert!(placing.open && !placing.stopped, "{service}");
        assert_eq!(at(&desk, service), Some(id("svg")));
    }
}

#[test]
fn another_claim_serves_what_was_stopped() {
    for verb in [to("svg"), to("trd"), Verb::Failback { services: id("shop/prod/*") }] {
        let mut desk = Desk::new();
        let task = confirming(&mut desk);
        desk.run(&task, |_| false);
        let old = desk.placing(PAY, &task);
        let new = desk.command(verb.clone(), Terms::default());
        let placing = desk.placing(PAY, &new);
        assert!(placing.epoch > old.epoch && !placing.open, "{verb:?}");
        assert_eq!(desk.newest(PAY), std::slice::from_ref(&new), "{verb:?}");
        let reading = desk.run(&new, |_| false);
        assert_eq!(reading.end, Some(Outcome::Done), "{verb:?}: {}", reading.end_reason);
        let placing = desk.placing(PAY, &new);
        assert!(placing.open && !placing.stopped, "{verb:?}");
        assert_eq!(at(&desk, PAY), Some(placing.target), "{verb:?}");
        assert!(desk.placing(PAY, &task).stopped, "{verb:?}: the old one is over for good");
    }
}

#[test]
fn nothing_but_a_command_about_it_starts_what_was_stopped() {
    let mut desk = Desk::new();
    let task = confirming(&mut desk);
    desk.run(&task, |_| false);
    for site in ["osl", "svg"] {
        let verb = Verb::Drain { object: Object::Site(id(site)) };
        let (_, judged) = desk.judged(verb, Terms::default());
        let moves = judged.expect("accepted").effect.moves.clone();
        let moved: Vec<&str> = moves.iter().map(|one| one.service.as_str()).collect();
        assert!(!moved.contains(&PAY) && !moved.contains(&LEDGER), "{site}: {moved:?}");
    }
}

#[test]
fn a_node_that_says_nothing_is_not_taken_to_have_stopped() {
    for service in [PAY, LEDGER] {
        let mut desk = Desk::new();
        let verb = Verb::Failover { services: id(service), to: id("svg") };
        let task = desk.command(verb.clone(), within());
        let reading = desk.run(&task, |reading| reading.done.len() == 3);
        assert_eq!(reading.end, None, "{service}: {}", reading.end_reason);
        desk.silent = [id("svg-b1")].into();
        let reading = desk.run(&task, |_| false);
        let reason = &reading.end_reason;
        assert_eq!(reading.end, Some(Outcome::Failed), "{service}: {reason}");
        for part in ["nobody confirmed it", "no word in", "svg-b1", "stopped: "] {
            assert!(reason.contains(part), "{part} in {reason}");
        }
        assert!(desk.placing(service, &task).stopped, "{service}: it may read it later");
        assert_eq!(desk.placed(service).traffic.spread, Spread::Nowhere, "{service}");
        desk.silent.clear();
        let new = desk.command(verb, Terms::default());
        assert_eq!(desk.run(&new, |_| false).end, Some(Outcome::Done), "{service}");
        assert!(desk.placing(service, &new).open, "{service}");
    }
}

/// What goes back and fails on its way keeps nothing from stopping.
#[test]
fn what_is_leased_stops_although_the_rest_does_not_go_back() {
    let mut desk = Desk::new();
    let task = confirming(&mut desk);
    desk.silent = [id("svg-b1")].into();
    let reading = desk.run(&task, |_| false);
    assert_eq!(reading.end, Some(Outcome::Failed), "{}", reading.end_reason);
    assert!(reading.end_reason.contains("no acknowledgement in"), "{}", reading.end_reason);
    for service in [PAY, LEDGER] {
        assert!(desk.placing(service, &task).stopped, "{service}");
        let placed = desk.placed(service);
        assert_eq!(
            (placed.reason, &placed.traffic.spread),
            (Reason::LeaseStopped, &Spread::Nowhere)
        );
    }
}

#[test]
fn a_task_that_failed_stops_as_well() {
    let mut desk = Desk::new();
    desk.silent = [id("osl-b1")].into();
    let task = desk.command(Verb::Failover { services: id(LEDGER), to: id("svg") }, within());
    let reading = desk.run(&task, |_| false);
    assert!(reading.end_reason.contains("is exclusive"), "{}", reading.end_reason);
    assert!(desk.placing(LEDGER, &task).stopped);
    assert_eq!(desk.placed(LEDGER).traffic.spread, Spread::Nowhere);
}

/// However the log is read: in any order, twice, or in part.
#[test]
fn who_reads_the_log_otherwise_reads_the_same() {
    let mut desk = Desk::new();
    let task = confirming(&mut desk);
    desk.run(&task, |_| false);
    let read = |order: Vec<usize>| {
        let mut fold = Fold::default();
        for at in order {
            fold.join(&desk.log[at]);
        }
        Placings::of_log(desk.world(), &fold)
    };
    let count = desk.log.len();
    let whole = desk.placings();
    assert_eq!(read((0..count).rev().collect()), whole);
    assert_eq!(read((0..count).chain(0..count).collect()), whole);
    for stride in [3, 5, 7] {
        let mixed = (0..stride).flat_map(|first| (first..count).step_by(stride));
        assert_eq!(read(mixed.collect()), whole, "{stride}");
    }
    // Once it is known to be stopped, more of the log does not open it.
    let mut fold = Fold::default();
    let mut placings = Placings::new(desk.world());
    let mut stopped = false;
    for entry in &desk.log {
        fold.join(entry);
        placings.update(&fold, &task);
        let now = placings.get(&id(PAY), &task).is_some_and(|p| p.stopped);
        assert!(now || !stopped, "{:?}", entry.position.seq);
        stopped |= now;
    }
    assert!(stopped);
}
