//! A command for very many services costs in proportion to them: time, memory, and what is in the
//! log. `NETT_MANY=100000` runs it with that many and says what it took.
#![allow(clippy::print_stderr, reason = "a test says what it measured")]
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "time is measured, and the number of services may be given"
)]

mod dead_site;
mod ground;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use allocation_counter::measure;
use ground::{Ground, evacuation, id};
use nett_policy::log::conflict::Claims;
use nett_policy::log::entry::{Body, Object, Outcome, Verb};
use nett_policy::log::fold::Fold;
use nett_policy::log::intent::Intent;
use nett_policy::place::place;
use nett_policy::task::view::{TaskState, read, state};

/// What one part of the work took.
#[derive(Debug, Clone, Copy)]
struct Took {
    time: Duration,
    allocations: u64,
    /// The most bytes at a time.
    bytes: u64,
}

fn took(what: impl FnOnce()) -> Took {
    let mut time = Duration::ZERO;
    let info = measure(|| {
        let begin = Instant::now();
        what();
        time = begin.elapsed();
    });
    Took { time, allocations: info.count_total, bytes: info.bytes_max }
}

/// An evacuation from plan to end, part by part.
fn evacuate(services: usize) -> Vec<(&'static str, Took)> {
    let ground = Ground::with(services);
    let mut desk = ground.desk();
    let mut all = Vec::new();
    let mut proposal = None;
    all.push(("plan", took(|| proposal = Some(desk.propose(&evacuation())))));
    let proposal = proposal.expect("planned");
    assert_eq!(proposal.services.len(), services, "every service moves");
    let waves: BTreeSet<u8> = proposal.effect.steps.iter().map(|step| step.wave).collect();
    assert_eq!(waves, BTreeSet::from([1, 2, 3]), "C, B and A");
    for step in &proposal.effect.steps {
        assert_eq!(step.delay, Duration::ZERO, "nobody waits for what is still at a dead site");
        let more = u64::try_from(step.states.len() / 500).expect("few");
        assert_eq!(step.timeout, Duration::from_secs(30 + more));
    }
    all.push(("accept", took(|| desk.accept(&evacuation(), &proposal))));
    assert_eq!(proposal.approvals_needed, 1, "one approval is good for all");
    desk.approve();
    let mut steps = 0;
    all.push((
        "drive",
        took(|| {
            while desk.advance() {
                steps += 1;
            }
        }),
    ));
    assert!(steps > 10, "{steps} facts");
    let task = desk.task.clone().expect("accepted");
    assert_eq!(state(&desk.fold, &task), TaskState::Ended(Outcome::Done));
    assert!(read(&desk.fold, &task).failed.is_empty());
    let log = desk.log.clone();
    let mut fold = Fold::default();
    let join = |entry| {
        fold.join(entry);
    };
    all.push(("fold", took(|| log.iter().for_each(join))));
    let mut intent = Intent::default();
    all.push(("read", took(|| intent = Intent::read(&fold))));
    all.push(("claims", took(|| drop(Claims::of(&fold)))));
    all.push(("place", took(|| drop(place(ground.world(), &intent)))));
    let ends = log.iter().filter(|entry| matches!(entry.body, Body::End(_))).count();
    assert_eq!(ends, 1);
    all
}

/// Four times the services may take four times as much, and a little. A scan of all services for
/// each of them would take sixteen times.
#[test]
fn an_evacuation_costs_in_proportion_to_its_services() {
    let (few, many) = match std::env::var("NETT_MANY").ok().and_then(|n| n.parse().ok()) {
        Some(many) => (many / 4, many),
        None => (2_500usize, 10_000usize),
    };
    let (small, large) = (evacuate(few), evacuate(many));
    for ((name, small), (_, large)) in small.iter().zip(&large) {
        eprintln!(
            "{name}: {few} services {:?}, {many} services {:?}, {} allocations, {} KiB at most",
            small.time,
            large.time,
            large.allocations,
            large.bytes / 1024
        );
        let room = |small: u64| small * 5 + 10_000;
        assert!(large.allocations <= room(small.allocations), "{name}: {small:?} {large:?}");
        assert!(large.bytes <= room(small.bytes) + (1 << 20), "{name}: {small:?} {large:?}");
        let most = small.time * 10 + Duration::from_millis(200);
        assert!(large.time <= most, "{name}: {small:?} {large:?}");
    }
}

/// What the nodes of a step are found from is a few of the services, and means all.
#[test]
fn one_service_of_each_kind_stands_for_all() {
    let ground = Ground::with(60);
    let mut desk = ground.desk();
    desk.holds_in_full(&evacuation());
    let proposal = desk.propose(&evacuation());
    desk.accept(&evacuation(), &proposal);
    desk.approve();
    while desk.advance() {}
    desk.holds_in_full(&Verb::Undrain { object: Object::Site(id("osl")) });
    let to = Verb::Drain { object: Object::ServiceAt(id("shop/prod/s000004"), id("svg")) };
    desk.holds_in_full(&to);
}
