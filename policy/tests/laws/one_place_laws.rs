//! A service that is handed over break-before-make opens at a site only by a step that everybody
//! has closed for: not when a task ends, not by a task that begins half-way, and not by winning.

use nett_policy::id::ServiceId;
use nett_policy::log::entry::{Body, StepState};
use nett_policy::log::intent::Intent;
use nett_policy::place::{Placed, Reason, place_one};
use nett_policy::task::steps::StepKind;
use nett_policy::traffic::Spread;

use super::desk::{Desk, Nodes, Order};
use super::fold_laws::fold;
use super::ground::Ground;

const PAY: usize = 1;
const OSL: usize = 0;
const SVG: usize = 1;

fn pay() -> ServiceId {
    "shop/prod/pay".parse().expect("an id")
}

fn placed(ground: &Ground, intent: &Intent) -> Placed {
    let service = ground.catalog.get(&pay()).expect("the fixture has it");
    place_one(ground.world(), intent, service)
}

fn approve_and_run(desk: &mut Desk<'_>, by: usize) {
    desk.wish(by, 0, true);
    while desk.advance(Nodes::Done).is_some() {}
}

/// One side drains the site that the other side sends the service to: whoever reads the last entry
/// of the failover must not open it where the drain would have it.
#[test]
fn the_end_of_a_task_moves_nothing() {
    let ground = Ground::two_sites();
    let [mut osl, mut svg] = [Desk::new(&ground, OSL), Desk::new(&ground, SVG)];
    svg.order(0, &Order::Failover { service: PAY, to: SVG }, true).expect("accepted");
    approve_and_run(&mut svg, 1);
    osl.order(0, &Order::DrainSite { site: SVG, on: true }, true).expect("accepted");
    approve_and_run(&mut osl, 1);

    let (last, before) = svg.log.split_last().expect("a log");
    assert!(matches!(last.body, Body::End(_)), "{last:?}");
    let running = placed(&ground, &Intent::read(&fold(osl.log.iter().chain(before))));
    let ended = placed(&ground, &Intent::read(&fold(osl.log.iter().chain(&svg.log))));
    assert_eq!(ended.traffic, running.traffic, "{}", ended.reason);
    assert_eq!(ended.traffic.spread, Spread::one(ground.site(SVG)));
    let wanted = Spread::one(ground.site(OSL));
    assert_eq!(ended.reason, Reason::Kept { wanted }, "and it is said");
}

/// The first task has begun to close and nobody has acknowledged it: the second asks everybody.
#[test]
fn a_task_that_begins_half_way_closes_first() {
    let ground = Ground::two_sites();
    let mut desk = Desk::new(&ground, OSL);
    desk.order(0, &Order::Failover { service: PAY, to: SVG }, true).expect("accepted");
    desk.wish(1, 0, true);
    let started = |desk: &mut Desk<'_>| loop {
        let Body::Step(fact) = desk.advance(Nodes::Silent).expect("a step is due").body else {
            continue;
        };
        if matches!(fact.state, StepState::Started { .. }) {
            break;
        }
    };
    started(&mut desk);
    assert_eq!(placed(&ground, &desk.intent()).traffic.spread, Spread::Nowhere);

    desk.order(0, &Order::Failover { service: PAY, to: SVG }, true).expect("accepted");
    desk.wish(1, 0, true);
    started(&mut desk);
    assert_eq!(placed(&ground, &desk.intent()).traffic.spread, Spread::Nowhere, "still closed");
    let task = desk.fold.commands().map(|(task, ..)| task.clone()).max().expect("two tasks");
    let effect = nett_policy::task::view::last_effect(&desk.fold, &task).expect("effective");
    let first = &effect.steps[0];
    assert_eq!(first.kind, StepKind::Withdraw);
    let everybody: Vec<_> = ground.fabric.nodes.iter().map(|n| n.id.clone()).collect();
    assert!(everybody.iter().all(|node| first.required.contains(node)), "{:?}", first.required);
}

/// The loser of a split decision has closed everywhere and opens elsewhere; the winner, which has
/// not begun, does not open again what it found open.
#[test]
fn winning_opens_nothing() {
    let ground = Ground::two_sites();
    let [mut osl, mut svg] = [Desk::new(&ground, OSL), Desk::new(&ground, SVG)];
    // The better rank wins; both have the same epoch. It takes effect and has not begun.
    osl.order(0, &Order::Failover { service: PAY, to: SVG }, true).expect("accepted");
    osl.wish(1, 0, true);
    let effective = osl.advance(Nodes::Silent).expect("it is approved");
    assert!(matches!(effective.body, Body::Effective(_)), "{effective:?}");
    svg.order(1, &Order::Failover { service: PAY, to: SVG }, true).expect("accepted");
    approve_and_run(&mut svg, 0);

    let alone = placed(&ground, &osl.intent());
    assert_eq!(alone.traffic.spread, Spread::one(ground.site(OSL)), "it has not begun");
    for read in 0..=svg.log.len() {
        let known = Intent::read(&fold(osl.log.iter().chain(&svg.log[..read])));
        let theirs = placed(&ground, &Intent::read(&fold(&svg.log[..read])));
        let open = placed(&ground, &known).traffic.accept.clone();
        let both = open.union(&theirs.traffic.accept).count();
        assert!(both <= 1, "after {read} entries: {open:?} and {:?}", theirs.traffic.accept);
    }
}

/// The winner is done and the split decision stands: a later task finds the service open.
#[test]
fn a_conflict_that_nobody_resolved_closes_nothing_for_later_tasks() {
    let ground = Ground::two_sites();
    let [mut osl, mut svg] = [Desk::new(&ground, OSL), Desk::new(&ground, SVG)];
    svg.order(1, &Order::DrainService { service: PAY, site: OSL, on: true }, true).expect("told");
    approve_and_run(&mut svg, 0);
    osl.order(0, &Order::Failover { service: PAY, to: SVG }, true).expect("accepted");
    approve_and_run(&mut osl, 1);
    osl.order(0, &Order::Failback { service: PAY }, true).expect("accepted");
    approve_and_run(&mut osl, 1);
    svg.log.iter().for_each(|entry| osl.read(entry));
    let settled = placed(&ground, &osl.intent()).traffic.spread.clone();
    assert_eq!(settled, Spread::one(ground.site(OSL)), "the last task put it there");

    osl.order(0, &Order::Failover { service: PAY, to: SVG }, true).expect("accepted");
    osl.wish(1, 0, true);
    let effective = osl.advance(Nodes::Silent).expect("it is approved");
    assert!(matches!(effective.body, Body::Effective(_)), "{effective:?}");
    assert_eq!(placed(&ground, &osl.intent()).traffic.spread, settled, "it has not begun");
}
