//! What a broken log server may do: two entries at one place, a stream that is gone.

mod fleet;

use std::time::Duration;

use fleet::{Fleet, id};
use nett_agent::controller::Controller;
use nett_agent::controller::effect::Effect;
use nett_agent::controller::event::{Event, Now};
use nett_policy::id::{SiteId, WallMs};
use nett_policy::log::entry::Verb;
use nett_policy::lower::LinksUp;

fn steer_away(fleet: &mut Fleet) -> String {
    let verb = Verb::Failover { services: id("shop/prod/api"), to: id("svg") };
    let reply = fleet.command("mira", "osl", verb);
    fleet.pass(Duration::from_secs(600));
    reply.task.expect("accepted")
}

#[test]
fn of_two_branches_every_agent_keeps_the_one_with_the_lower_id() {
    for lower in [false, true] {
        let mut fleet = Fleet::start();
        let task = steer_away(&mut fleet);
        let seq = fleet.log("osl").len() - 1;
        let rival = fleet.rival("osl", seq, lower);
        let after = u64::try_from(fleet.log("osl").len()).expect("short") + 1;
        let nodes: Vec<String> = fleet.agents.keys().map(ToString::to_string).collect();
        for node in &nodes {
            fleet.deliver(node, rival.clone(), after);
        }
        fleet.pass(Duration::from_secs(5));
        let heads: Vec<_> = nodes.iter().map(|node| fleet.head(node, "osl")).collect();
        assert!(heads.iter().all(|head| *head == heads[0]), "{heads:?}");
        let kept = heads[0].1 == rival.entry.position.hash;
        assert_eq!(kept, lower, "{heads:?}");
        for node in &nodes {
            let forked = fleet.snapshot(node).conflicts > 0;
            // Who follows the rival began again from its journal, where only one branch counts.
            assert!(forked || lower, "{node} reports the fork");
            assert_eq!(fleet.task_state(node, &task) == "done", !lower, "{node}");
        }
    }
}

#[test]
fn a_lost_stream_is_filled_again_with_the_same_entries_before_anything_new_is_added() {
    for keep in [0, 1, 3] {
        let mut fleet = Fleet::start();
        let task = steer_away(&mut fleet);
        let before = fleet.log("osl").to_vec();
        assert!(before.len() > 5);
        fleet.lose_stream("osl", keep);
        fleet.pass(Duration::from_secs(30));
        assert_eq!(fleet.log("osl"), before, "kept {keep}");
        assert_eq!(fleet.snapshot("osl-b1").conflicts, 0);
        let back = fleet.command("mira", "osl", Verb::Revert { task: id(&task) });
        assert!(back.accepted, "{back:?}");
        fleet.pass(Duration::from_secs(600));
        assert_eq!(fleet.task_state("svg-b1", &back.task.expect("a task")), "done");
        assert_eq!(fleet.log("osl")[..before.len()], before);
    }
}

/// An answer about the stream before says nothing of the one that is there.
#[test]
fn a_stream_that_is_lost_again_while_it_is_filled_is_filled_once_more() {
    let mut fleet = Fleet::start();
    steer_away(&mut fleet);
    let log: Vec<_> = fleet.log("osl").iter().cloned().zip(1u64..).collect();
    let length = log.len() as u64;
    let setting = fleet.agents[&id("osl-b1")].controller.setting().clone();
    let mut controller = Controller::new(setting);
    let now = Now { mono: Duration::from_secs(1), wall: WallMs(1_000_000) };
    let site: SiteId = id("osl");
    let fills = |effects: Vec<Effect>| {
        effects.into_iter().find_map(|effect| match effect {
            Effect::Refill { from, after_stream_seq } => Some((from, after_stream_seq)),
            _ => None,
        })
    };
    controller.handle(Event::ReplayDone { trusted: true }, now);
    controller.handle(Event::BusConnected, now);
    for known in fleet.fabric.sites.iter().map(|s| s.id.clone()) {
        controller.handle(Event::CaughtUp { site: known }, now);
    }
    controller.handle(Event::Entries(log), now);
    let lose = |controller: &mut Controller, read| {
        let lost = Event::LogReplaced { site: site.clone(), read, found: 0 };
        let none = fills(controller.handle(lost, now));
        assert_eq!(none, None, "nobody has looked into the new one yet");
        fills(controller.handle(Event::CaughtUp { site: site.clone() }, now))
    };
    assert_eq!(lose(&mut controller, length), Some((1, 0)));
    assert_eq!(lose(&mut controller, 0), None, "one at a time");
    let filled = Event::Refilled { through: length, stream_seq: length, why: None };
    assert_eq!(fills(controller.handle(filled, now)), Some((1, 0)), "the second one is empty");
    let filled = Event::Refilled { through: length, stream_seq: length, why: None };
    assert_eq!(fills(controller.handle(filled, now)), None, "it holds all");
    assert_eq!(controller.snapshot(now).conflicts, 0);
}

/// What piled up during a cut is kept and done in one go, and comes to the same.
#[test]
fn entries_that_come_together_are_done_once() {
    let mut fleet = Fleet::start();
    steer_away(&mut fleet);
    let log: Vec<_> = fleet.log("osl").iter().cloned().zip(1u64..).collect();
    assert!(log.len() > 5);
    let setting = fleet.agents[&id("svg-b1")].controller.setting().clone();
    let up: LinksUp = fleet.fabric.links.iter().map(|l| l.id.clone()).collect();
    let sites: Vec<SiteId> = fleet.fabric.sites.iter().map(|s| s.id.clone()).collect();
    let now = Now { mono: Duration::from_secs(1), wall: WallMs(1_000_000) };
    let wanted_after = |batches: Vec<Vec<_>>| {
        let mut controller = Controller::new(setting.clone());
        controller.handle(Event::ReplayDone { trusted: true }, now);
        controller.handle(Event::Links { up: up.clone() }, now);
        for site in sites.clone() {
            controller.handle(Event::CaughtUp { site }, now);
        }
        let mut wanted = Vec::new();
        let mut kept = 0;
        for batch in batches {
            let effects = controller.handle(Event::Entries(batch), now);
            for effect in effects {
                match effect {
                    Effect::Journal { .. } => kept += 1,
                    Effect::Kernel { desired, .. } => wanted.push(*desired),
                    _ => {}
                }
            }
        }
        (kept, wanted)
    };
    let (kept, each) = wanted_after(log.iter().cloned().map(|entry| vec![entry]).collect());
    let (kept_together, together) = wanted_after(vec![log.clone()]);
    assert_eq!((kept, kept_together), (log.len(), log.len()));
    assert!(each.len() > 1, "one by one the steps of the task are gone through");
    assert_eq!(together.len(), 1, "together only their end is wanted");
    assert_eq!(together.last(), each.last());
}
