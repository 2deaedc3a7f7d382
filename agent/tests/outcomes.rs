//! What becomes of approvals that are late, stale or given on both sides of a cut, and of a log
//! that another release has written: the outcomes that docs/OPERATING.md promises.

mod fleet;

use std::time::Duration;

use fleet::{Fleet, id};
use nett_agent::api::types::{ApiRequest, CommandReply, Outcome, Payload};
use nett_agent::controller::event::Event;
use nett_policy::fabric::{Fabric, OperatorRole};
use nett_policy::id::{NodeId, SiteId};
use nett_policy::log::entry::{Ask, Terms, Verb, WishKind};
use nett_policy::service::Service;

const PAY: &str = "shop/prod/pay";
const WEB: &str = "shop/prod/web";
const MINUTE: Duration = Duration::from_secs(60);
const BOTH: [&str; 2] = ["osl-b1", "svg-b1"];

/// With a third person, who approves as well.
fn with_kim(fabric: &mut Fabric, _: &mut Vec<Service>) {
    let mut kim = fabric.operators[0].clone();
    kim.name = "kim".to_owned();
    kim.roles = vec![OperatorRole::Operator, OperatorRole::Approver];
    kim.services.clear();
    fabric.operators.push(kim);
}

/// Mira proposes at osl what needs an approval.
fn proposed(fleet: &mut Fleet) -> (String, CommandReply) {
    let verb = Verb::Failover { services: id(PAY), to: id("svg") };
    let opened = fleet.command_with("mira", "osl", verb, &["gate"], Terms::default());
    assert_eq!((opened.accepted, opened.exit), (true, 5), "{opened:?}");
    (opened.task.clone().expect("a task"), opened)
}

fn refused(reply: &CommandReply) -> (Option<&str>, u8) {
    assert!(!reply.accepted, "{reply:?}");
    (reply.refused_by.as_deref(), reply.exit)
}

#[test]
fn an_approval_from_both_sides_of_a_cut_takes_effect_once() {
    let mut fleet = Fleet::start_with(with_kim);
    let (task, opened) = proposed(&mut fleet);
    fleet.cut();
    assert!(fleet.approve("odd", "svg", &opened).accepted, "svg takes it for its own log");
    fleet.pass(MINUTE / 12);
    assert_eq!(fleet.task_state("osl-b1", &task), "waiting-approval", "osl has not heard of it");
    assert!(fleet.approve("kim", "osl", &opened).accepted);
    fleet.pass(MINUTE / 12);
    let before = fleet.task("osl-b1", &task);
    assert_eq!(before.state.as_str(), "running", "one approval is enough: {before:?}");
    fleet.heal();
    fleet.pass(2 * MINUTE);
    for node in BOTH {
        assert_eq!(fleet.conflicts(node), [], "{node}");
        let placed = fleet.snapshot(node);
        assert_eq!(placed.conflicts, 0);
    }
    let states = BOTH.map(|node| fleet.task_state(node, &task));
    assert_eq!(states[0], states[1], "both say the same of it");
}

#[test]
fn an_approval_that_waits_behind_a_cut_counts_when_it_is_over() {
    let mut fleet = Fleet::start();
    let (task, opened) = proposed(&mut fleet);
    fleet.cut();
    assert!(fleet.approve("odd", "svg", &opened).accepted);
    fleet.pass(5 * MINUTE);
    assert_eq!(fleet.task_state("osl-b1", &task), "waiting-approval");
    assert_eq!(fleet.task_state("svg-b1", &task), "waiting-approval", "only osl can say so");
    fleet.heal();
    fleet.pass(5 * MINUTE);
    for node in BOTH {
        assert_eq!(fleet.task_state(node, &task), "done", "{node}");
    }
}

#[test]
fn a_task_expires_after_15_minutes_and_a_late_approval_moves_nothing() {
    let mut fleet = Fleet::start();
    let (task, opened) = proposed(&mut fleet);
    fleet.told.clear();
    fleet.cut();
    fleet.pass(14 * MINUTE);
    assert!(fleet.approve("odd", "svg", &opened).accepted, "in time, and nobody hears it");
    fleet.pass(2 * MINUTE);
    assert_eq!(fleet.task_state("osl-b1", &task), "expired");
    let late = fleet.approve("odd", "osl", &opened);
    assert_eq!(refused(&late), (Some("not-waiting"), 7), "{late:?}");
    assert!(late.message.contains("it is expired"), "{late:?}");
    fleet.heal();
    fleet.pass(2 * MINUTE);
    for node in BOTH {
        assert_eq!(fleet.task_state(node, &task), "expired", "{node}");
    }
    assert!(fleet.told.is_empty(), "no kernel was told anything: {:?}", fleet.told);
}

#[test]
fn an_approval_of_another_plan_is_none() {
    let mut fleet = Fleet::start();
    let (task, _) = proposed(&mut fleet);
    let plan_hash = "0".repeat(64);
    let wish = fleet.wish("odd", "osl", &task, WishKind::Approve { plan_hash });
    assert_eq!(refused(&wish), (Some("plan-hash"), 7));
    assert_eq!(fleet.task_state("osl-b1", &task), "waiting-approval");
}

/// An entry that only a later release can read stands in a site's log.
fn from_a_later_release(fleet: &mut Fleet, node: &str, site: &str, stream_seq: u64) {
    let event = Event::BadEntry {
        site: id::<SiteId>(site),
        stream_seq,
        error: "it needs a reader of version 2".to_owned(),
        blocks: Some("needs-upgrade"),
    };
    fleet.step(&id::<NodeId>(node), event);
    fleet.run();
}

fn troubles(fleet: &mut Fleet, node: &str) -> String {
    match fleet.ask(node, ApiRequest::Status {}) {
        Outcome::Ok(payload) => match *payload {
            Payload::Status(status) => format!("{status:?}"),
            other => panic!("no status: {other:?}"),
        },
        Outcome::Error(error) => panic!("no status: {error:?}"),
    }
}

#[test]
fn a_log_of_a_later_release_stands_still_and_the_others_go_on() {
    let mut fleet = Fleet::start();
    // svg runs the later release: this node cannot read what comes next of its log.
    from_a_later_release(&mut fleet, "osl-b1", "svg", 1);
    let said = troubles(&mut fleet, "osl-b1");
    assert!(said.contains("needs-upgrade"), "{said}");
    let before = fleet.agents[&id::<NodeId>("osl-b1")].kernel.clone();
    fleet.pass(MINUTE);
    assert_eq!(fleet.agents[&id::<NodeId>("osl-b1")].kernel, before, "forwarding stays");

    // The own log is taken orders for.
    let verb = Verb::Failover { services: id(WEB), to: id("svg") };
    let moved = fleet.command("mira", "osl", verb);
    assert!(moved.accepted, "{moved:?}");
    fleet.pass(10 * MINUTE);
    let task = moved.task.expect("a task");
    assert_eq!(fleet.task_state("svg-b1", &task), "done");
}

#[test]
fn nothing_is_added_to_an_own_log_that_needs_a_later_release() {
    let mut fleet = Fleet::start();
    let length = u64::try_from(fleet.log("osl").len()).expect("short");
    from_a_later_release(&mut fleet, "osl-b1", "osl", length + 1);
    let verb = Verb::Failover { services: id(WEB), to: id("svg") };
    let reply = fleet.command("mira", "osl", verb);
    assert!(!reply.accepted, "{reply:?}");
    assert_eq!(reply.exit, 3, "{reply:?}");
    assert!(reply.message.contains("needs-upgrade"), "{reply:?}");
    // Whoever can read it goes on.
    let verb = Verb::Hold { services: id(WEB) };
    let ask = Ask::Command {
        verb,
        plan_hash: None,
        overrides: std::collections::BTreeSet::new(),
        terms: Terms::default(),
    };
    let request = fleet.request("mira", "osl", ask);
    assert!(fleet.send("osl-r1", &request).accepted);
}
