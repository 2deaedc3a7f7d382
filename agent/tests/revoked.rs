//! A key that was revoked: nobody hears it any more, and what it had done stays.

mod fleet;

use std::time::Duration;

use fleet::{Fleet, id};
use nett_agent::api::types::CommandReply;
use nett_policy::fabric::OperatorRole;
use nett_policy::log::entry::{Terms, Verb, WishKind};

const API: &str = "shop/prod/api";
const PAY: &str = "shop/prod/pay";
const WEB: &str = "shop/prod/web";
const HOUR: Duration = Duration::from_secs(3600);

/// With a third person, who may do everything.
fn fleet() -> Fleet {
    Fleet::start_with(|fabric, _| {
        let mut kim = fabric.operators[1].clone();
        kim.name = "kim".to_owned();
        fabric.operators.push(kim);
    })
}

fn failover(service: &str, to: &str) -> Verb {
    Verb::Failover { services: id(service), to: id(to) }
}

fn revoke(person: &str) -> Verb {
    Verb::Revoke { person: person.to_owned() }
}

fn accepted(reply: &CommandReply) -> String {
    assert!(reply.accepted, "{reply:?}");
    reply.task.clone().expect("an accepted command has a task")
}

fn refused_by(reply: &CommandReply) -> &str {
    assert!(!reply.accepted, "{reply:?}");
    reply.refused_by.as_deref().expect("a refusal has a name")
}

/// Odd proposes it at a site, kim approves it there.
fn revoked_at(fleet: &mut Fleet, site: &str, person: &str) -> String {
    let opened = fleet.command("odd", site, revoke(person));
    let task = accepted(&opened);
    assert_eq!(opened.exit, 5, "it waits for an approval");
    assert!(fleet.approve("kim", site, &opened).accepted);
    fleet.pass(Duration::from_secs(2));
    assert_eq!(fleet.task_state(&format!("{site}-b1"), &task), "done");
    task
}

#[test]
fn nobody_hears_a_revoked_key_and_what_it_did_stays() {
    let mut fleet = fleet();
    let before = accepted(&fleet.command("mira", "osl", failover(API, "svg")));
    fleet.pass(HOUR);
    let waiting = accepted(&fleet.command("mira", "svg", failover(PAY, "svg")));
    assert_eq!(fleet.task_state("svg-b1", &waiting), "waiting-approval");

    let task = revoked_at(&mut fleet, "osl", "mira");
    fleet.pass(HOUR);
    for node in ["osl-b1", "svg-b1"] {
        assert_eq!(fleet.task_state(node, &before), "done", "what she did stays");
        let ended = fleet.task(node, &waiting);
        assert_eq!(ended.state.as_str(), "cancelled", "what she proposed does not wait on");
    }
    let entries = |fleet: &Fleet| fleet.log("osl").len() + fleet.log("svg").len();
    let written = entries(&fleet);
    for site in ["osl", "svg"] {
        let reply = fleet.command("mira", site, failover(WEB, "svg"));
        assert_eq!(refused_by(&reply), "revoked");
        assert!(reply.message.contains(&task), "{reply:?}");
        let wish = fleet.wish("mira", site, &before, WishKind::Cancel);
        assert_eq!(refused_by(&wish), "revoked");
    }
    assert_eq!(entries(&fleet), written, "a stolen key fills no log");

    // Whoever starts anew reads it in the log.
    fleet.restart("svg-b1");
    assert_eq!(refused_by(&fleet.command("mira", "svg", failover(WEB, "svg"))), "revoked");
    accepted(&fleet.command("odd", "svg", failover(WEB, "svg")));
}

/// A stolen key does not keep itself by ending the task that is about it.
#[test]
fn nobody_decides_about_the_own_key_but_by_giving_it_up() {
    let mut fleet = fleet();
    let opened = fleet.command("odd", "osl", revoke("mira"));
    let task = accepted(&opened);
    assert_eq!(refused_by(&fleet.approve("mira", "svg", &opened)), "own-key");
    for kind in [WishKind::Reject, WishKind::Cancel, WishKind::Pause] {
        assert_eq!(refused_by(&fleet.wish("mira", "osl", &task, kind)), "own-key");
    }
    assert_eq!(fleet.task_state("osl-b1", &task), "waiting-approval");

    let own = fleet.command("kim", "osl", revoke("kim"));
    assert_eq!((own.accepted, own.exit), (true, 0), "nobody has to agree: {own:?}");
    fleet.pass(Duration::from_secs(2));
    assert_eq!(refused_by(&fleet.command("kim", "osl", failover(WEB, "svg"))), "revoked");
    // With kim gone nobody could approve what odd asks for about mira, and mira not about odd.
    assert_eq!(refused_by(&fleet.command("odd", "svg", revoke("mira"))), "task-open");
    assert!(fleet.wish("odd", "osl", &task, WishKind::Cancel).accepted);
    fleet.pass(Duration::from_secs(2));
    assert_eq!(refused_by(&fleet.command("odd", "svg", revoke("mira"))), "nobody-approves");
    assert_eq!(refused_by(&fleet.command("mira", "svg", revoke("odd"))), "operator-services");
    accepted(&fleet.command("mira", "svg", revoke("mira")));
    fleet.pass(Duration::from_secs(2));
    assert_eq!(refused_by(&fleet.command("odd", "svg", revoke("odd"))), "last-approver");
}

/// A site that has not heard takes commands; they stand, and it hears of the revocation with the
/// rest.
#[test]
fn a_site_that_has_not_heard_goes_on_until_it_has() {
    let mut fleet = fleet();
    fleet.cut();
    revoked_at(&mut fleet, "osl", "mira");
    assert_eq!(refused_by(&fleet.command("mira", "osl", failover(WEB, "svg"))), "revoked");
    let meanwhile = accepted(&fleet.command("mira", "svg", failover(WEB, "svg")));
    fleet.pass(Duration::from_secs(5));
    fleet.heal();
    fleet.pass(HOUR);
    for node in ["osl-b1", "svg-b1", "svg-r1"] {
        let shown = fleet.task(node, &meanwhile);
        assert_ne!(shown.state.as_str(), "waiting-approval", "{shown:?}");
    }
    assert_eq!(
        fleet.task_state("osl-b1", &meanwhile),
        fleet.task_state("svg-b1", &meanwhile),
        "all read the same"
    );
    assert_eq!(refused_by(&fleet.command("mira", "svg", failover(WEB, "osl"))), "revoked");
}

#[test]
fn two_sites_that_revoke_the_same_key_agree() {
    let mut fleet = fleet();
    fleet.cut();
    revoked_at(&mut fleet, "osl", "mira");
    revoked_at(&mut fleet, "svg", "mira");
    fleet.heal();
    fleet.pass(HOUR);
    for site in ["osl", "svg"] {
        assert_eq!(fleet.conflicts(&format!("{site}-b1")), []);
        assert_eq!(refused_by(&fleet.command("mira", site, failover(WEB, "svg"))), "revoked");
    }
}

#[test]
fn what_was_revoked_stays_so() {
    let mut fleet = fleet();
    let task = revoked_at(&mut fleet, "osl", "mira");
    let revert = Verb::Revert { task: id(&task) };
    assert_eq!(refused_by(&fleet.command("odd", "osl", revert)), "revoked");
    assert_eq!(refused_by(&fleet.command("odd", "osl", revoke("mira"))), "unknown-operator");
    assert_eq!(refused_by(&fleet.command("odd", "osl", revoke("nobody"))), "unknown-operator");
}

/// A thief who gives up the stolen key only for a second would have it back.
#[test]
fn a_revocation_waits_for_no_confirmation() {
    let mut fleet = fleet();
    let terms = Terms { confirm_within: Some(Duration::from_secs(1)), ..Terms::default() };
    let told = fleet.command_with("mira", "osl", revoke("mira"), &[], terms);
    assert_eq!(refused_by(&told), "confirm-within");
}

/// An approval of a key that was revoked before it was counted is none.
#[test]
fn an_approval_does_not_outlive_its_key() {
    let mut fleet = Fleet::start_with(|fabric, services| {
        let mut kim = fabric.operators[1].clone();
        kim.name = "kim".to_owned();
        kim.roles = vec![OperatorRole::Operator, OperatorRole::Approver];
        fabric.operators.push(kim);
        let pay = services.iter_mut().find(|s| s.id.as_str() == PAY).expect("the fixture has it");
        pay.approvals = 2;
    });
    let ask = failover(PAY, "svg");
    let opened = fleet.command_with("odd", "osl", ask, &[], Terms::default());
    let task = accepted(&opened);
    assert!(fleet.approve("mira", "osl", &opened).accepted);
    fleet.pass(Duration::from_secs(2));
    revoked_at(&mut fleet, "svg", "mira");
    assert!(fleet.approve("kim", "osl", &opened).accepted);
    fleet.pass(Duration::from_secs(60));
    assert_eq!(fleet.task_state("osl-b1", &task), "waiting-approval", "one counts of two");
}
