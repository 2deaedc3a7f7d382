//! The TTL of answers over the life of tasks: lowered while something may change, waited out before
//! a planned move, and back at the end.

mod fleet;

use std::collections::BTreeMap;
use std::time::Duration;

use fleet::{Fleet, id};
use nett_agent::api::types::{CommandReply, TaskDoc};
use nett_policy::id::{NodeId, ServiceId};
use nett_policy::log::entry::{Object, Terms, Verb, WishKind};
use nett_policy::service::{Service, Ttl};
use nett_policy::traffic::Spread;

const API: &str = "shop/prod/api";
const PAY: &str = "shop/prod/pay";

const CEILING: Duration = Duration::from_secs(3600);
const FLOOR: Duration = Duration::from_secs(5);
/// Enough for steps that wait for nothing but nodes.
const MOMENT: Duration = Duration::from_secs(10);

/// Both services have an address per site and lower their TTL.
fn start() -> Fleet {
    Fleet::start_with(|_, services| {
        let pay = services.iter().find(|s| s.id.as_str() == PAY).expect("a service").clone();
        let lowering = |s: &&mut Service| s.id.as_str() == API || s.id.as_str() == PAY;
        for service in services.iter_mut().filter(lowering) {
            service.addresses = pay.addresses.clone();
            service.ttl = Ttl { ceiling: CEILING, floor: FLOOR };
            service.gates.clear();
        }
    })
}

fn accepted(reply: &CommandReply) -> String {
    assert!(reply.accepted, "{reply:?}");
    reply.task.clone().expect("an accepted command has a task")
}

fn steer(service: &str, to: &str) -> Verb {
    let to = BTreeMap::from([(id(to), nett_policy::id::Weight::ONE)]);
    Verb::Steer { services: id(service), to }
}

/// What every name server says now: to whom, and for how long. All must say the same.
fn answers(fleet: &Fleet, service: &str) -> (Spread, Duration) {
    let of = |node: &NodeId| {
        let answers = &fleet.agents[node].zone[&id::<ServiceId>(service)];
        (answers.standing.spread.clone(), answers.fixed.ttl.now(answers.standing.lowered))
    };
    let mut all: Vec<_> = fleet.agents.keys().map(of).collect();
    all.dedup();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn at(site: &str, ttl: Duration) -> (Spread, Duration) {
    (Spread::one(id(site)), ttl)
}

fn kinds(task: &TaskDoc) -> Vec<&str> {
    task.steps.iter().map(|s| s.kind.as_str()).collect()
}

#[test]
fn a_planned_move_waits_until_old_answers_have_run_out() {
    let mut fleet = start();
    assert_eq!(answers(&fleet, API), at("osl", CEILING));
    let task = accepted(&fleet.command("mira", "osl", steer(API, "svg")));
    fleet.pass(MOMENT);
    let doc = fleet.task("osl-b1", &task);
    assert_eq!(kinds(&doc), ["lower-ttl", "activate", "verify", "shift", "withdraw"]);
    let acknowledged = doc.steps[0].acknowledge.len();
    assert_eq!(acknowledged, fleet.agents.len(), "every name server says that it has: {doc:?}");
    // Nothing else has happened, for as long as anybody may have the old answer.
    fleet.pass(CEILING - 2 * MOMENT);
    assert_eq!(answers(&fleet, API), at("osl", FLOOR));
    assert_eq!(fleet.task("osl-b1", &task).steps[1].state.as_str(), "waiting");
    fleet.pass(2 * MOMENT);
    assert_eq!(answers(&fleet, API), at("svg", FLOOR), "the new answer is short as well");
    fleet.pass(CEILING);
    assert_eq!(fleet.task_state("osl-b1", &task), "done");
    assert_eq!(answers(&fleet, API), at("svg", CEILING), "as before the move");
    let evidence = fleet.task("osl-b1", &task).steps[4].evidence.join("\n");
    assert!(evidence.contains("may be kept for 5000 ms, which was waited for"), "{evidence}");
}

#[test]
fn a_task_that_waits_for_approval_shortens_the_ttl_until_it_is_over() {
    let mut fleet = start();
    let object = Object::ServiceAt(id(PAY), id("osl"));
    let drain = Verb::Drain { object };
    let task = accepted(&fleet.command("mira", "osl", drain.clone()));
    fleet.pass(MOMENT);
    assert_eq!(fleet.task_state("osl-b1", &task), "waiting-approval");
    assert_eq!(answers(&fleet, PAY), at("osl", FLOOR));
    assert_eq!(answers(&fleet, API), at("osl", CEILING), "this one is not asked for");
    assert!(fleet.wish("odd", "osl", &task, WishKind::Reject).accepted);
    fleet.pass(MOMENT);
    assert_eq!(answers(&fleet, PAY), at("osl", CEILING));

    // And an approval fits, although the answers are not the ones of the plan any more.
    let task = accepted(&fleet.command("mira", "osl", drain));
    fleet.pass(MOMENT);
    let plan_hash = fleet.task("osl-b1", &task).plan_hash;
    assert!(fleet.wish("odd", "osl", &task, WishKind::Approve { plan_hash }).accepted);
    fleet.pass(MOMENT);
    let doc = fleet.task("osl-b1", &task);
    assert_eq!(kinds(&doc), ["lower-ttl", "withdraw", "activate", "verify"]);
    assert_eq!(answers(&fleet, PAY), at("osl", FLOOR));
    fleet.pass(CEILING + MOMENT);
    assert_eq!(fleet.task_state("osl-b1", &task), "done");
    assert_eq!(answers(&fleet, PAY), at("svg", CEILING));
}

#[test]
fn a_failover_does_not_wait_and_its_answers_are_short_meanwhile() {
    let mut fleet = start();
    let verb = Verb::Failover { services: id(API), to: id("svg") };
    let task = accepted(&fleet.command("mira", "osl", verb));
    fleet.pass(MOMENT);
    let doc = fleet.task("osl-b1", &task);
    assert_eq!(kinds(&doc), ["activate", "verify", "shift", "withdraw"]);
    assert_eq!(answers(&fleet, API), at("svg", FLOOR));
    // The old site serves on for as long as the old answer may be kept, which nobody lowered.
    fleet.pass(CEILING - 2 * MOMENT);
    assert_eq!(fleet.task_state("osl-b1", &task), "running");
    fleet.pass(2 * MOMENT);
    assert_eq!(fleet.task_state("osl-b1", &task), "done");
    assert_eq!(answers(&fleet, API), at("svg", CEILING));
}

#[test]
fn a_cancelled_wait_changes_nothing_and_restores_the_ttl() {
    let mut fleet = start();
    let task = accepted(&fleet.command("mira", "osl", steer(API, "svg")));
    fleet.pass(MOMENT);
    assert_eq!(answers(&fleet, API), at("osl", FLOOR));
    assert!(fleet.wish("mira", "osl", &task, WishKind::Cancel).accepted);
    fleet.pass(MOMENT);
    assert_eq!(fleet.task_state("osl-b1", &task), "cancelled");
    assert_eq!(answers(&fleet, API), at("osl", CEILING));
}

#[test]
fn a_move_that_stopped_half_way_keeps_answers_short() {
    let mut fleet = start();
    let verb = Verb::Failover { services: id(API), to: id("svg") };
    let task = accepted(&fleet.command("mira", "osl", verb));
    fleet.pass(MOMENT);
    // Shifted, and the old site not withdrawn: somebody will have to decide.
    assert!(fleet.wish("mira", "osl", &task, WishKind::Cancel).accepted);
    fleet.pass(MOMENT);
    assert_eq!(answers(&fleet, API), at("svg", FLOOR));
    let revert = accepted(&fleet.command("mira", "osl", Verb::Revert { task: id(&task) }));
    fleet.pass(2 * CEILING);
    assert_eq!(fleet.task_state("osl-b1", &revert), "done");
    assert_eq!(answers(&fleet, API), at("osl", CEILING));
}

#[test]
fn an_unconfirmed_move_stays_short_until_it_is_confirmed() {
    let mut fleet = start();
    let terms = Terms { confirm_within: Some(CEILING), ..Terms::default() };
    let verb = steer(API, "svg");
    let task = accepted(&fleet.command_with("mira", "osl", verb, &[], terms));
    fleet.pass(CEILING + MOMENT + Duration::from_secs(300) + MOMENT);
    assert_eq!(fleet.task_state("osl-b1", &task), "confirming");
    assert_eq!(answers(&fleet, API), at("svg", FLOOR));
    assert!(fleet.wish("mira", "osl", &task, WishKind::Confirm).accepted);
    fleet.pass(MOMENT);
    assert_eq!(answers(&fleet, API), at("svg", CEILING));
}

#[test]
fn services_whose_addresses_do_not_change_wait_for_nothing() {
    let mut fleet = Fleet::start_with(|_, services| {
        let api = services.iter_mut().find(|s| s.id.as_str() == API).expect("a service");
        api.ttl = Ttl { ceiling: CEILING, floor: FLOOR };
    });
    let task = accepted(&fleet.command("mira", "osl", steer(API, "svg")));
    fleet.pass(MOMENT);
    let doc = fleet.task("osl-b1", &task);
    assert_eq!(kinds(&doc), ["activate", "verify", "shift", "withdraw"]);
    fleet.pass(CEILING);
    let told = fleet.task("osl-b1", &task);
    let told = told.steps.iter().flat_map(|s| &s.evidence).any(|line| line.contains("answers"));
    assert!(!told, "no answer leads anywhere else");
}
