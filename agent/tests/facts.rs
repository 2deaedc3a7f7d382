//! Facts from outside reporters: gates that compare them, switches, and what a task has cost.

mod fleet;

use std::time::Duration;

use fleet::{Fleet, id};
use nett_agent::api::types::{ApiRequest, CommandReply, CostDoc, TaskDoc};
use nett_agent::bus::wire::{fact_subject, seal_fact};
use nett_policy::fabric::{Limit, OperatorRole, SafetyRule};
use nett_policy::fact::{Fact, FactKey};
use nett_policy::id::{NodeId, SiteId, WallMs};
use nett_policy::log::entry::{Object, Terms, Verb};

const API: &str = "shop/prod/api";
const PAY: &str = "shop/prod/pay";
const HOUR: Duration = Duration::from_secs(3600);

/// Odd may report, pay is moved while its data is at most 5 s behind, and has goals.
fn fleet() -> Fleet {
    Fleet::start_with(|fabric, services| {
        fabric.operators[1].roles.push(OperatorRole::Gate);
        for service in services {
            service.approvals = 0;
            if service.id.as_str() == PAY {
                service.gates.insert("failover".to_owned(), vec!["data-lag <= 5s".to_owned()]);
                service.rto = Some(Duration::from_secs(60));
                service.rpo = Some(Duration::from_secs(2));
            }
        }
    })
}

/// Reports a fact, good for 30 s, to one agent.
fn report(
    fleet: &mut Fleet,
    person: &str,
    node: &str,
    about: (&str, &str),
    value: (&str, &str),
) -> CommandReply {
    let site: SiteId = fleet.fabric.node(&id(node)).expect("a known node").site.clone();
    let now = fleet.clock().wall;
    let fact = Fact {
        id: id(&format!("{site}.{:0>26}", now.0)),
        value: value.0.parse().expect("a number"),
        unit: value.1.to_owned(),
        measured_at: now,
        expires_at: WallMs(now.0 + 30_000),
        person: person.to_owned(),
    };
    let service = (!about.0.is_empty()).then(|| id(about.0));
    let about: FactKey = (service, about.1.to_owned());
    let bytes = seal_fact(&site, &about, &fact, &fleet.keys[person]).expect("the key fits");
    let envelope = serde_json::from_slice(&bytes).expect("JSON");
    let subject = fact_subject(&site, &about);
    fleet.hand_in(node, ApiRequest::Fact { subject, envelope })
}

fn failover(service: &str) -> Verb {
    Verb::Failover { services: id(service), to: id("svg") }
}

fn accepted(reply: &CommandReply) -> String {
    assert!(reply.accepted, "{reply:?}");
    reply.task.clone().expect("a task")
}

fn cost(task: &TaskDoc) -> CostDoc {
    let [cost] = task.costs.as_slice() else { panic!("one service: {task:#?}") };
    cost.clone()
}

#[test]
fn a_gate_that_compares_opens_only_for_a_good_fact_on_the_right_side() {
    let mut fleet = fleet();
    let task = accepted(&fleet.command("mira", "osl", failover(PAY)));
    fleet.pass(Duration::from_secs(10));
    let waits = |fleet: &mut Fleet| fleet.task("osl-b1", &task).stands_still.join(" ");
    let said = waits(&mut fleet);
    assert!(said.contains("nobody reports data-lag of shop/prod/pay now"), "{said}");

    assert!(report(&mut fleet, "odd", "osl-b1", (PAY, "data-lag"), ("7000", "ms")).accepted);
    fleet.pass(Duration::from_secs(5));
    let said = waits(&mut fleet);
    assert!(said.contains("data-lag of shop/prod/pay is 7000ms"), "{said}");

    // Of another service, of another name: neither opens it.
    assert!(report(&mut fleet, "odd", "osl-b1", (API, "data-lag"), ("1", "s")).accepted);
    assert!(report(&mut fleet, "odd", "osl-b1", (PAY, "lag"), ("1", "s")).accepted);
    fleet.pass(Duration::from_secs(5));
    assert_eq!(fleet.task_state("osl-b1", &task), "running");

    assert!(report(&mut fleet, "odd", "osl-b1", (PAY, "data-lag"), ("1.5", "s")).accepted);
    fleet.pass(Duration::from_secs(20));
    assert_eq!(fleet.task_state("osl-b1", &task), "done");
}

#[test]
fn a_fact_that_expired_before_the_step_opens_nothing() {
    let mut fleet = fleet();
    assert!(report(&mut fleet, "odd", "osl-b1", (PAY, "data-lag"), ("0", "s")).accepted);
    fleet.pass(Duration::from_secs(31));
    let task = accepted(&fleet.command("mira", "osl", failover(PAY)));
    fleet.pass(HOUR);
    assert_eq!(fleet.task_state("osl-b1", &task), "running");
}

#[test]
fn who_has_not_the_role_reports_nothing() {
    let mut fleet = fleet();
    let refused = report(&mut fleet, "mira", "osl-b1", (PAY, "data-lag"), ("0", "s"));
    assert!(!refused.accepted && refused.message.contains("role `gate`"), "{refused:?}");
    let unknown = report(&mut fleet, "odd", "osl-b1", ("shop/prod/none", "data-lag"), ("0", "s"));
    assert_eq!((unknown.refused_by.as_deref(), unknown.exit), (Some("unknown-service"), 2));
}

#[test]
fn what_a_planned_move_has_cost_is_measured_and_held_against_the_goals() {
    let mut fleet = fleet();
    let task = accepted(&fleet.command("mira", "osl", failover(PAY)));
    fleet.pass(Duration::from_secs(40));
    // It has stopped and waits: 40 s without service, and then some for the new site.
    assert!(report(&mut fleet, "odd", "osl-b1", (PAY, "data-lag"), ("0.25", "s")).accepted);
    fleet.pass(Duration::from_secs(20));
    let doc = fleet.task("svg-r1", &task);
    assert_eq!(doc.state.as_str(), "done", "{doc:#?}");
    let pay = cost(&doc);
    let rto = pay.rto_ms.expect("stopped, started and verified are on record");
    assert!((40_000..60_000).contains(&rto), "{rto}");
    assert_eq!((pay.rto_goal_ms, pay.rpo_goal_ms), (Some(60_000), Some(2_000)));
    // Measured after it had stopped: nothing came in since.
    assert_eq!(pay.rpo_ms, Some(250));
    assert!(doc.times.withdrawn < doc.times.verified, "{:?}", doc.times);
    assert_eq!(doc.times.bad, None, "nobody saw anything bad");
    let costs = fleet.snapshot("svg-r1").costs;
    assert_eq!(costs[&id(PAY)].rpo, Some(Duration::from_millis(250)));
    fleet.restart("svg-r1");
    assert_eq!(fleet.snapshot("svg-r1").costs, costs, "read again from the log");
}

#[test]
fn a_move_that_overlaps_costs_nothing_and_its_loss_is_unknown() {
    let mut fleet = fleet();
    let task = accepted(&fleet.command("mira", "osl", failover(API)));
    fleet.pass(HOUR);
    let api = cost(&fleet.task("osl-b1", &task));
    assert_eq!((api.rto_ms, api.rpo_ms), (Some(0), None), "{api:?}");
}

#[test]
fn a_dead_site_counts_from_when_it_was_heard_last() {
    let mut fleet = fleet();
    let dead: Vec<NodeId> = ["osl-b1", "osl-r1"].map(id).to_vec();
    fleet.pass(Duration::from_secs(30));
    fleet.silent = dead.iter().cloned().collect();
    fleet.pass(Duration::from_secs(60));
    let terms = Terms { asserted: dead.into_iter().collect(), ..Terms::default() };
    let verb = Verb::Evacuate { site: id("osl"), to: None };
    let task = accepted(&fleet.command_with("odd", "svg", verb, &["gate"], terms));
    let approved = fleet.task("svg-b1", &task);
    if approved.approvals_needed > 0 {
        let reply = CommandReply {
            task: Some(task.clone()),
            plan_hash: Some(approved.plan_hash),
            ..CommandReply::default()
        };
        assert!(fleet.approve("mira", "svg", &reply).accepted);
    }
    fleet.pass(HOUR);
    let doc = fleet.task("svg-b1", &task);
    assert_eq!(doc.state.as_str(), "done", "{doc:#?}");
    assert!(doc.times.bad.expect("silence was seen") < doc.opened_at);
    let pay = doc.costs.iter().find(|c| c.service == PAY).expect("it moved");
    assert!(pay.rto_ms.is_none_or(|ms| ms >= 60_000), "{pay:?}");
    assert_eq!(pay.rpo_ms, None, "the reporter died with the site");
}

#[test]
fn a_switch_is_read_at_the_site_that_decides() {
    let mut fleet = Fleet::start_with(|fabric, _| {
        fabric.operators[1].roles.push(OperatorRole::Gate);
        fabric.safety.push(SafetyRule {
            id: id("window"),
            owner: "change board".to_owned(),
            limit: Limit::Switch {
                fact: "changes-allowed".to_owned(),
                services: Vec::new(),
                except: Vec::new(),
            },
        });
    });
    let verb = Verb::Drain { object: Object::ServiceAt(id(API), id("osl")) };
    let refused = fleet.command("mira", "osl", verb.clone());
    assert_eq!((refused.refused_by.as_deref(), refused.exit), (Some("window"), 4), "{refused:?}");
    assert!(refused.message.contains("owner: change board"), "{refused:?}");
    assert!(report(&mut fleet, "odd", "osl-b1", ("", "changes-allowed"), ("1", "")).accepted);
    accepted(&fleet.command("mira", "osl", verb));
}
