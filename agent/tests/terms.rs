//! What a command takes along: the shares of a steer, and until when a drain is meant to last.

mod fleet;

use std::time::Duration;

use fleet::{Fleet, id};
use nett_agent::api::types::{ApiRequest, CommandReply, Outcome, Payload, Stamp};
use nett_agent::bus::wire::{fact_subject, seal_fact};
use nett_policy::fabric::OperatorRole;
use nett_policy::fact::{Fact, FactKey};
use nett_policy::id::{NodeId, ServiceId, WallMs, Weight};
use nett_policy::log::entry::{Object, Ramp, Terms, Verb};

const API: &str = "shop/prod/api";
const HOUR: Duration = Duration::from_secs(3600);

fn steer() -> Verb {
    let weight = |w| Weight::new(w).expect("valid");
    Verb::Steer { services: id(API), to: [(id("osl"), weight(20)), (id("svg"), weight(80))].into() }
}

fn ramp(only_while: Option<&str>) -> Terms {
    let (steps, dwell) = (vec![25, 50, 100], Duration::from_secs(60));
    let only_while = only_while.map(str::to_owned);
    Terms { ramp: Some(Ramp { steps, dwell, only_while }), ..Terms::default() }
}

fn accepted(reply: &CommandReply) -> String {
    assert!(reply.accepted, "{reply:?}");
    reply.task.clone().expect("a task")
}

fn share(fleet: &Fleet, site: &str) -> u32 {
    let answers = &fleet.agents[&id::<NodeId>("osl-b1")].zone[&id::<ServiceId>(API)];
    answers.standing.spread.percent(&id(site))
}

fn asks(fleet: &mut Fleet) -> Vec<String> {
    match fleet.ask("svg-r1", ApiRequest::Status {}) {
        Outcome::Ok(payload) => match *payload {
            Payload::Status(status) => status.asks,
            other => panic!("no status: {other:?}"),
        },
        Outcome::Error(error) => panic!("no status: {error:?}"),
    }
}

/// A quarter of 80 %, a half of it, and then all.
#[test]
fn a_steer_brings_its_own_ramp() {
    let mut fleet = Fleet::start();
    let task = accepted(&fleet.command_with("mira", "osl", steer(), &[], ramp(None)));
    fleet.pass(Duration::from_secs(20));
    assert!((19..=21).contains(&share(&fleet, "svg")), "{}", share(&fleet, "svg"));
    fleet.pass(Duration::from_secs(60));
    assert!((39..=41).contains(&share(&fleet, "svg")), "{}", share(&fleet, "svg"));
    fleet.pass(Duration::from_secs(90));
    assert!((79..=81).contains(&share(&fleet, "svg")), "{}", share(&fleet, "svg"));
    fleet.pass(HOUR);
    assert_eq!(fleet.task_state("osl-b1", &task), "done");
}

#[test]
fn a_ramp_stops_where_its_condition_does_not_hold() {
    let mut fleet = Fleet::start_with(|fabric, _| {
        fabric.operators[1].roles.push(OperatorRole::Gate);
    });
    let terms = ramp(Some("error-rate <= 1%"));
    let task = accepted(&fleet.command_with("mira", "osl", steer(), &[], terms));
    fleet.pass(HOUR);
    assert!((19..=21).contains(&share(&fleet, "svg")), "the first share needs no word");
    let waits = fleet.task("osl-b1", &task).stands_still.join(" ");
    assert!(waits.contains("nobody reports error-rate of shop/prod/api"), "{waits}");

    let about: FactKey = (Some(id(API)), "error-rate".to_owned());
    let mut report = |value: &str| {
        let now = fleet.clock().wall;
        let fact = Fact {
            id: id(&format!("osl.{:0>26}", now.0)),
            value: value.parse().expect("a number"),
            unit: "%".to_owned(),
            measured_at: now,
            expires_at: WallMs(now.0 + 600_000),
            person: "odd".to_owned(),
        };
        let bytes = seal_fact(&id("osl"), &about, &fact, &fleet.keys["odd"]).expect("signs");
        let envelope = serde_json::from_slice(&bytes).expect("JSON");
        let subject = fact_subject(&id("osl"), &about);
        assert!(fleet.hand_in("osl-b1", ApiRequest::Fact { subject, envelope }).accepted);
        fleet.pass(Duration::from_secs(100));
        share(&fleet, "svg")
    };
    assert!((19..=21).contains(&report("7.5")), "too many errors");
    assert!(report("0.2") >= 39, "and on");
    fleet.pass(HOUR);
    // The report has expired: where it is now it stays.
    assert!(share(&fleet, "svg") >= 39);
}

#[test]
fn a_drain_that_is_over_is_asked_about_and_stays() {
    let mut fleet = Fleet::start();
    let until = WallMs(fleet.clock().wall.0 + 600_000);
    let terms = || Terms { until: Some(until), ..Terms::default() };
    let drain = Verb::Drain { object: Object::Site(id("osl")) };
    let opened = fleet.command_with("odd", "osl", drain.clone(), &["gate"], terms());
    accepted(&opened);
    fleet.approve("mira", "svg", &opened);
    fleet.pass(Duration::from_secs(300));
    assert_eq!(asks(&mut fleet), Vec::<String>::new(), "there is time");
    fleet.pass(HOUR);
    let said = asks(&mut fleet).join(" ");
    let time = Stamp::from(until).to_string();
    assert!(said.contains(&format!("site osl was drained by odd until {time}")), "{said}");
    assert!(said.contains("nettctl undrain site osl"), "{said}");
    assert_eq!(share(&fleet, "osl"), 0, "nothing came back by itself");

    let late = fleet.command_with("odd", "svg", drain, &[], terms());
    assert_eq!((late.refused_by.as_deref(), late.exit), (Some("until"), 2), "{late:?}");
    let back = Verb::Undrain { object: Object::Site(id("osl")) };
    let opened = fleet.command_with("odd", "svg", back, &["gate"], Terms::default());
    assert!(opened.accepted, "{opened:?}");
    fleet.approve("mira", "osl", &opened);
    fleet.pass(HOUR);
    assert_eq!(asks(&mut fleet), Vec::<String>::new());
}

#[test]
fn terms_of_another_verb_are_no_terms() {
    let mut fleet = Fleet::start();
    let failover = || Verb::Failover { services: id(API), to: id("svg") };
    let until = WallMs(fleet.clock().wall.0 + 600_000);
    let lasting = Terms { until: Some(until), ..Terms::default() };
    for (terms, by) in [(ramp(None), "ramp"), (lasting, "until")] {
        let refused = fleet.command_with("mira", "osl", failover(), &[], terms);
        assert_eq!((refused.refused_by.as_deref(), refused.exit), (Some(by), 2), "{refused:?}");
    }
    let mut backwards = ramp(None);
    backwards.ramp.as_mut().expect("a ramp").steps = vec![50, 10, 100];
    let refused = fleet.command_with("mira", "osl", steer(), &[], backwards);
    assert_eq!(refused.refused_by.as_deref(), Some("ramp"), "{refused:?}");
    let refused = fleet.command_with("mira", "osl", steer(), &[], ramp(Some("data-ready")));
    assert_eq!(refused.refused_by.as_deref(), Some("ramp"), "a word is no comparison");
}
