//! Those outside who take part in a task: when they are asked, what counts as an answer, and what
//! becomes of a task without one.

mod fleet;

use std::collections::BTreeSet;
use std::time::Duration;

use fleet::{Fleet, id};
use nett_agent::api::types::{ApiRequest, CommandReply, Outcome, Payload, TaskDoc};
use nett_agent::bus::wire::{OutsideRequest, fact_subject, seal_fact};
use nett_agent::controller::Controller;
use nett_agent::controller::effect::Effect;
use nett_agent::controller::event::Event;
use nett_policy::fabric::{Operator, OperatorRole};
use nett_policy::fact::{Fact, FactKey};
use nett_policy::id::{NodeId, SiteId, WallMs};
use nett_policy::log::entry::{Act, Object, Terms, Verb, WishKind};
use nett_policy::lower::LinksUp;
use nett_policy::service::{Party, When};
use nett_policy::task::external::request_id;

const API: &str = "shop/prod/api";
const PAY: &str = "shop/prod/pay";
const HOUR: Duration = Duration::from_secs(3600);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn party(name: &str, when: When) -> Party {
    Party { name: name.to_owned(), when, timeout: seconds(20), undo: true }
}

/// The load balancer and the firewall have keys; the services ask as they are told here.
fn fleet(api: &[Party], pay: &[Party]) -> Fleet {
    let (api, pay) = (api.to_vec(), pay.to_vec());
    Fleet::start_with(|fabric, services| {
        for name in ["lb", "fw"] {
            fabric.operators.push(Operator {
                name: name.to_owned(),
                key: String::new(),
                roles: vec![OperatorRole::Gate],
                services: Vec::new(),
            });
        }
        for service in services {
            service.approvals = 0;
            service.gates.clear();
            service.drain = None;
            service.external = match service.id.as_str() {
                API => api.clone(),
                PAY => pay.clone(),
                _ => Vec::new(),
            };
        }
    })
}

fn failover(service: &str) -> Verb {
    Verb::Failover { services: id(service), to: id("svg") }
}

fn accepted(reply: &CommandReply) -> String {
    assert!(reply.accepted, "{reply:?}");
    reply.task.clone().expect("a task")
}

fn kinds(task: &TaskDoc) -> Vec<&str> {
    task.steps.iter().map(|s| s.kind.as_str()).collect()
}

fn name_of(request: &OutsideRequest) -> String {
    request_id(&request.slot, &request.asked)
}

/// The requests that were sent since, each once.
fn asked(fleet: &mut Fleet) -> Vec<OutsideRequest> {
    let mut seen = BTreeSet::new();
    let all = std::mem::take(&mut fleet.asked).into_iter().map(|(_, request)| request);
    all.filter(|request| seen.insert(name_of(request))).collect()
}

fn only(requests: Vec<OutsideRequest>) -> OutsideRequest {
    let [one] = <[OutsideRequest; 1]>::try_from(requests).expect("one request");
    one
}

fn fact(fleet: &Fleet, person: &str, site: &SiteId, name: &str, value: &str) -> (String, Vec<u8>) {
    let now = fleet.clock().wall;
    let fact = Fact {
        id: id(&format!("{site}.{:0>26}", now.0)),
        value: value.parse().expect("a number"),
        unit: String::new(),
        measured_at: now,
        expires_at: WallMs(now.0 + 600_000),
        person: person.to_owned(),
    };
    let about: FactKey = (None, name.to_owned());
    let bytes = seal_fact(site, &about, &fact, &fleet.keys[person]).expect("the key fits");
    (fact_subject(site, &about), bytes)
}

/// Somebody's answer, as the bus brings it to all agents of the site.
fn say(fleet: &mut Fleet, person: &str, (site, name): (&SiteId, &str), value: &str) {
    let (subject, bytes) = fact(fleet, person, site, name, value);
    let nodes = fleet.fabric.nodes.iter().filter(|node| node.site == *site);
    let nodes: Vec<NodeId> = nodes.map(|node| node.id.clone()).collect();
    for node in nodes {
        let (subject, bytes) = (subject.clone(), bytes.clone());
        fleet.step(&node, Event::Fact { subject, bytes: bytes.into() });
    }
    fleet.run();
}

/// The answer of the one who was asked.
fn answer(fleet: &mut Fleet, request: &OutsideRequest, value: &str) {
    say(fleet, &request.asked.party, (&request.site, &name_of(request)), value);
}

#[test]
fn a_step_waits_for_the_acknowledgement_and_nothing_moves_before() {
    let parties = [party("lb", When::BeforeActivate), party("fw", When::AfterWithdraw)];
    let mut fleet = fleet(&parties, &[]);
    fleet.told.clear();
    let task = accepted(&fleet.command("mira", "osl", failover(API)));
    fleet.pass(seconds(15));
    let doc = fleet.task("osl-b1", &task);
    let all = ["external", "activate", "verify", "shift", "withdraw", "external"];
    assert_eq!(kinds(&doc), all);
    assert_eq!(doc.state.as_str(), "running");
    assert!(fleet.told.is_empty(), "no kernel is told anything before");
    let shown = doc.steps[0].external.clone().expect("it is an external step");
    assert_eq!((shown.party.as_str(), shown.verb.as_str()), ("lb", "do"));
    assert_eq!((shown.when.as_str(), shown.timeout_ms), ("before-activate", 20_000));

    let first = only(asked(&mut fleet));
    assert_eq!(shown.request, Some(name_of(&first)));
    assert_eq!((first.slot.task.as_str(), first.slot.term), (task.as_str(), 0));
    assert_eq!((first.step, first.asked.act), (1, Act::Do));
    let way = &first.asked.services[&id(API)];
    assert_eq!((&way.from, &way.to), (&[id("osl")].into(), &[id("svg")].into()));

    answer(&mut fleet, &first, "1");
    fleet.pass(HOUR / 2);
    // The firewall was not quick enough: the move stands, and the task says what is missing.
    let doc = fleet.task("svg-r1", &task);
    assert_eq!(doc.state.as_str(), "failed", "{doc:#?}");
    let evidence = doc.steps[0].evidence.join(" ");
    assert!(evidence.contains("acknowledged by lb"), "{evidence}");
    let why = &doc.outcome_reason;
    assert!(why.contains("no acknowledgement in 20 s from fw outside"), "{why}");
    assert_eq!(doc.steps[4].state.as_str(), "done", "the old site is closed");
}

#[test]
fn a_plan_says_who_is_asked_where_and_for_how_long() {
    let mut fleet = fleet(&[party("lb", When::AfterActivate)], &[]);
    let (verb, terms) = (failover(API), None);
    let plan = ApiRequest::Plan { verb: (&verb).into(), overrides: [].into(), terms };
    let Outcome::Ok(payload) = fleet.ask("osl-b1", plan) else { panic!("answered") };
    let Payload::Plan(plan) = *payload else { panic!("{payload:?}") };
    let step = plan.steps.iter().find(|step| step.kind == "external").expect("it is a step");
    assert_eq!(step.number, 3);
    let said = "asks lb outside (after-activate): without its acknowledgement in 20 s the task \
                stops";
    assert_eq!(step.remarks, [said]);
    assert!(step.acknowledge.is_empty() && step.nodes.is_empty(), "{step:?}");
}

#[test]
fn each_wave_of_an_evacuation_asks_for_its_own_services() {
    let lb = party("lb", When::BeforeActivate);
    let fw = party("fw", When::AfterWithdraw);
    let mut fleet = fleet(&[lb.clone(), fw.clone()], &[lb, fw]);
    let dead: BTreeSet<NodeId> = ["osl-b1", "osl-r1"].map(id).into();
    fleet.silent = dead.clone();
    fleet.pass(seconds(20));
    let terms = Terms { asserted: dead, ..Terms::default() };
    let verb = Verb::Evacuate { site: id("osl"), to: None };
    let task = accepted(&fleet.command_with("odd", "svg", verb, &[], terms));
    let mut asked_for = Vec::new();
    for _ in 0..1000 {
        fleet.pass(seconds(2));
        for request in asked(&mut fleet) {
            asked_for.extend(request.asked.services.keys().map(ToString::to_string));
            answer(&mut fleet, &request, "1");
        }
    }
    let doc = fleet.task("svg-b1", &task);
    assert_eq!(doc.state.as_str(), "done", "{doc:#?}");
    let waves: Vec<u8> = doc.steps.iter().map(|step| step.wave).collect();
    assert!(waves.is_sorted(), "{waves:?}");
    assert_eq!(asked_for, [API, API, PAY, PAY], "category C goes first");
}

#[test]
fn who_answers_in_time_lets_the_task_end() {
    let parties = [party("lb", When::AfterActivate), party("fw", When::BeforeWithdraw)];
    let mut fleet = fleet(&parties, &[]);
    let task = accepted(&fleet.command("mira", "osl", failover(API)));
    let mut order = Vec::new();
    for _ in 0..1000 {
        fleet.pass(seconds(2));
        for request in asked(&mut fleet) {
            order.push(request.asked.party.clone());
            // Doubles do no harm.
            answer(&mut fleet, &request, "1");
            answer(&mut fleet, &request, "1");
        }
    }
    let doc = fleet.task("osl-b1", &task);
    assert_eq!(doc.state.as_str(), "done", "{doc:#?}");
    assert_eq!(kinds(&doc), ["activate", "verify", "external", "shift", "external", "withdraw"]);
    assert_eq!(order, ["lb", "fw"]);
}

#[test]
fn without_an_answer_the_task_stops_and_a_revert_takes_the_request_back() {
    let mut fleet = fleet(&[party("lb", When::BeforeActivate)], &[]);
    fleet.told.clear();
    let task = accepted(&fleet.command("mira", "osl", failover(API)));
    fleet.pass(seconds(19));
    assert_eq!(fleet.task_state("osl-b1", &task), "running");
    fleet.pass(seconds(3));
    let doc = fleet.task("osl-b1", &task);
    assert_eq!(doc.state.as_str(), "failed");
    assert!(doc.steps[0].failure.contains("may have acted"), "{doc:#?}");
    assert!(doc.revert_with[0].contains("revert"), "{doc:#?}");
    assert!(fleet.told.is_empty(), "nobody was told to move anything");
    let first = only(asked(&mut fleet));

    // Late: the task is over.
    answer(&mut fleet, &first, "1");
    fleet.pass(HOUR);
    assert_eq!(fleet.task("osl-b1", &task), doc, "nothing of it has changed");

    let revert = accepted(&fleet.command("mira", "osl", Verb::Revert { task: id(&task) }));
    fleet.pass(seconds(1));
    let undo = only(asked(&mut fleet));
    assert_eq!((undo.asked.act, undo.asked.party.as_str()), (Act::Undo, "lb"));
    assert_eq!(undo.asked.takes_back, Some(name_of(&first)));
    assert_eq!(undo.asked.services, first.asked.services, "what it was asked for");
    assert_ne!(name_of(&undo), name_of(&first));
    // The answer to the first request is none to this one.
    answer(&mut fleet, &first, "1");
    fleet.pass(seconds(1));
    assert_eq!(fleet.task_state("osl-b1", &revert), "running");
    answer(&mut fleet, &undo, "1");
    fleet.pass(seconds(1));
    assert_eq!(fleet.task_state("osl-b1", &revert), "done");
}

#[test]
fn who_was_not_asked_answers_nothing() {
    let mut fleet = fleet(&[party("lb", When::BeforeActivate)], &[]);
    let task = accepted(&fleet.command("mira", "osl", failover(API)));
    fleet.pass(seconds(1));
    let request = only(asked(&mut fleet));
    let name = name_of(&request);
    let site: SiteId = id("osl");
    // Another key with the role, an operator without it, and another site.
    say(&mut fleet, "fw", (&site, &name), "1");
    say(&mut fleet, "lb", (&id("svg"), &name), "1");
    let (subject, bytes) = fact(&fleet, "fw", &site, &name, "1");
    let envelope = serde_json::from_slice(&bytes).expect("JSON");
    let refused = fleet.hand_in("osl-b1", ApiRequest::Fact { subject, envelope });
    assert_eq!(refused.refused_by.as_deref(), Some("not-asked"), "{refused:?}");
    let (subject, bytes) = fact(&fleet, "mira", &site, &name, "1");
    let envelope = serde_json::from_slice(&bytes).expect("JSON");
    let refused = fleet.hand_in("osl-b1", ApiRequest::Fact { subject, envelope });
    assert!(refused.message.contains("role `gate`"), "{refused:?}");
    // Neither yes nor no, and an answer to something else.
    answer(&mut fleet, &request, "2");
    say(&mut fleet, "lb", (&site, "ext-0000"), "1");
    fleet.pass(seconds(10));
    assert_eq!(fleet.task_state("osl-b1", &task), "running");
    answer(&mut fleet, &request, "1");
    fleet.pass(HOUR);
    assert_eq!(fleet.task_state("osl-b1", &task), "done");
}

#[test]
fn an_answer_for_one_task_is_none_for_the_next() {
    let mut fleet = fleet(&[party("lb", When::BeforeActivate)], &[]);
    let first = accepted(&fleet.command("mira", "osl", failover(API)));
    fleet.pass(seconds(1));
    let request = only(asked(&mut fleet));
    answer(&mut fleet, &request, "0");
    let doc = fleet.task("osl-b1", &first);
    assert_eq!(doc.state.as_str(), "failed", "at once");
    assert!(doc.outcome_reason.contains("lb outside says that it cannot"), "{doc:#?}");
    let terms = Terms { supersede: true, ..Terms::default() };
    let second = fleet.command_with("mira", "osl", failover(API), &[], terms);
    let second = accepted(&second);
    answer(&mut fleet, &request, "1");
    fleet.pass(seconds(5));
    assert_eq!(fleet.task_state("osl-b1", &second), "running");
    let next = only(asked(&mut fleet));
    assert_eq!((next.slot.task.as_str(), next.asked.act), (second.as_str(), Act::Do));
    answer(&mut fleet, &next, "1");
    fleet.pass(HOUR);
    assert_eq!(fleet.task_state("osl-b1", &second), "done");
}

#[test]
fn an_agent_that_is_started_again_asks_again_for_the_same() {
    let mut fleet = fleet(&[party("lb", When::BeforeActivate)], &[]);
    let task = accepted(&fleet.command("mira", "osl", failover(API)));
    fleet.pass(seconds(1));
    let first = only(asked(&mut fleet));
    fleet.restart("osl-b1");
    fleet.restart("osl-r1");
    fleet.pass(seconds(6));
    let again = only(asked(&mut fleet));
    assert_eq!(name_of(&again), name_of(&first));
    assert_eq!(fleet.task_state("osl-b1", &task), "running");
    answer(&mut fleet, &again, "1");
    fleet.pass(seconds(2));
    // An answer that was heard counts although whoever heard it has forgotten it since.
    fleet.restart("osl-b1");
    fleet.restart("osl-r1");
    fleet.pass(HOUR);
    assert_eq!(fleet.task_state("osl-b1", &task), "done");
}

/// Where another task has moved a service since, that one's requests count.
#[test]
fn a_revert_takes_nothing_back_of_what_another_task_has_moved() {
    let mut fleet = fleet(&[party("lb", When::BeforeActivate)], &[]);
    let done = |fleet: &mut Fleet, verb: Verb| {
        let task = accepted(&fleet.command("mira", "osl", verb));
        fleet.pass(seconds(1));
        let requests = asked(fleet);
        for request in &requests {
            answer(fleet, request, "1");
        }
        fleet.pass(HOUR);
        assert_eq!(fleet.task_state("osl-b1", &task), "done");
        (task, requests.len())
    };
    let (first, of_first) = done(&mut fleet, failover(API));
    let drain = Verb::Drain { object: Object::ServiceAt(id(API), id("svg")) };
    let (_, of_drain) = done(&mut fleet, drain);
    assert_eq!((of_first, of_drain), (1, 1));
    let (_, of_revert) = done(&mut fleet, Verb::Revert { task: id(&first) });
    assert_eq!(of_revert, 0, "it is at osl, as lb was told by the drain");
}

/// What is open in a journal may be over: the others may have gone on, and nobody takes back what
/// was asked for a task that has ended.
#[test]
fn who_has_not_read_all_of_the_log_asks_nobody() {
    let mut fleet = fleet(&[party("lb", When::BeforeActivate)], &[]);
    accepted(&fleet.command("mira", "osl", failover(API)));
    fleet.pass(seconds(1));
    let agent = &fleet.agents[&id::<NodeId>("osl-b1")];
    let mut controller = Controller::new(agent.controller.setting().clone());
    let up: LinksUp = fleet.fabric.links.iter().map(|l| l.id.clone()).collect();
    let journal = agent.journal.iter().cloned();
    let mut begin: Vec<Event> =
        journal.map(|(sealed, stream_seq)| Event::Replayed { sealed, stream_seq }).collect();
    begin.extend([Event::ReplayDone { trusted: true }, Event::Links { up }, Event::BusConnected]);
    let mut asks = |event: Event| {
        let effects = controller.handle(event, fleet.clock());
        effects.iter().filter(|effect| matches!(effect, Effect::AskOutside(_))).count()
    };
    assert_eq!(begin.into_iter().map(&mut asks).sum::<usize>(), 0);
    assert_eq!(asks(Event::CaughtUp { site: id("osl") }), 1, "it wrote the start of the step");
}

/// A word is waited for behind it, since it may be about what the party does.
#[test]
fn what_gates_compare_holds_before_anybody_is_asked() {
    let mut fleet = Fleet::start_with(|fabric, services| {
        fabric.operators.push(Operator {
            name: "lb".to_owned(),
            key: String::new(),
            roles: vec![OperatorRole::Gate],
            services: Vec::new(),
        });
        for service in services {
            service.approvals = 0;
            service.gates = [("failover".to_owned(), vec!["data-lag <= 5s".to_owned()])].into();
            service.external = vec![party("lb", When::BeforeActivate)];
        }
    });
    let task = accepted(&fleet.command("mira", "osl", failover(API)));
    fleet.pass(seconds(60));
    assert_eq!(fleet.asked.len(), 0);
    assert_eq!(fleet.task_state("osl-b1", &task), "running");
}

#[test]
fn another_agent_of_the_site_asks_and_goes_on_when_the_first_is_gone() {
    let mut fleet = fleet(&[party("lb", When::BeforeActivate)], &[]);
    let task = accepted(&fleet.command("mira", "osl", failover(API)));
    let (_, request) = fleet.asked.first().expect("asked at once").clone();
    assert_eq!(request.node, id::<NodeId>("osl-b1"));
    // It hears the answer and writes nothing any more.
    fleet.silent.insert(request.node.clone());
    fleet.asked.clear();
    fleet.pass(seconds(3));
    let other = only(asked(&mut fleet));
    assert_eq!((other.node.as_str(), name_of(&other)), ("osl-r1", name_of(&request)));
    answer(&mut fleet, &other, "1");
    fleet.pass(seconds(2));
    let doc = fleet.task("osl-r1", &task);
    assert_eq!(doc.steps[0].state.as_str(), "done", "{doc:#?}");
    assert_ne!(doc.steps[1].state.as_str(), "waiting", "and it goes on");
}

#[test]
fn a_site_that_adopts_the_task_hears_the_answer_there() {
    let mut fleet = fleet(&[party("lb", When::BeforeActivate)], &[]);
    let task = accepted(&fleet.command("mira", "osl", failover(API)));
    let (_, request) = fleet.asked.first().expect("asked at once").clone();
    let dead: BTreeSet<NodeId> = ["osl-b1", "osl-r1"].map(id).into();
    fleet.silent = dead.clone();
    fleet.pass(seconds(15));
    let adopt = WishKind::Adopt { asserted: dead };
    assert!(fleet.wish("odd", "svg", &task, adopt).accepted);
    fleet.asked.clear();
    fleet.pass(seconds(2));
    let there = only(asked(&mut fleet));
    assert_eq!((there.site.as_str(), name_of(&there)), ("svg", name_of(&request)));
    // At the old site nobody listens any more, and what is said there is not heard.
    answer(&mut fleet, &request, "1");
    fleet.pass(seconds(1));
    assert_eq!(fleet.task("svg-b1", &task).steps[0].state.as_str(), "started");
    answer(&mut fleet, &there, "1");
    fleet.pass(HOUR);
    let doc = fleet.task("svg-b1", &task);
    assert_eq!((doc.state.as_str(), doc.term), ("done", 1), "{doc:#?}");
}

#[test]
fn what_is_cancelled_while_somebody_is_asked_is_taken_back_by_a_revert() {
    let parties = [party("lb", When::BeforeActivate), party("fw", When::AfterActivate)];
    let mut fleet = fleet(&parties, &[]);
    let task = accepted(&fleet.command("mira", "osl", failover(API)));
    fleet.pass(seconds(1));
    let lb = only(asked(&mut fleet));
    answer(&mut fleet, &lb, "1");
    fleet.pass(seconds(2));
    let fw = only(asked(&mut fleet));
    assert!(fleet.wish("mira", "osl", &task, WishKind::Cancel).accepted);
    fleet.asked.clear();
    answer(&mut fleet, &fw, "1");
    fleet.pass(HOUR);
    assert_eq!(fleet.task_state("osl-b1", &task), "cancelled");
    assert!(fleet.asked.is_empty(), "nobody is asked for a task that is over");

    // The last one first, and each behind what of Nett's it stood before.
    let revert = accepted(&fleet.command("mira", "osl", Verb::Revert { task: id(&task) }));
    let mut undone = Vec::new();
    for _ in 0..1000 {
        fleet.pass(seconds(2));
        for request in asked(&mut fleet) {
            assert_eq!(request.asked.act, Act::Undo);
            undone.push((request.asked.party.clone(), request.asked.takes_back.clone()));
            answer(&mut fleet, &request, "1");
        }
    }
    let doc = fleet.task("osl-b1", &revert);
    assert_eq!(doc.state.as_str(), "done", "{doc:#?}");
    let of = |party: &str, request| (party.to_owned(), Some(name_of(request)));
    assert_eq!(undone, [of("fw", &fw), of("lb", &lb)]);
    assert_eq!(kinds(&doc).last(), Some(&"external"), "{:?}", kinds(&doc));
}

#[test]
fn a_task_that_undoes_itself_asks_those_it_had_asked() {
    let asks_no_undo = Party { undo: false, ..party("fw", When::BeforeActivate) };
    let mut fleet = fleet(&[party("lb", When::BeforeActivate), asks_no_undo], &[]);
    let terms = Terms { confirm_within: Some(HOUR), ..Terms::default() };
    let task = fleet.command_with("mira", "osl", failover(API), &[], terms);
    let task = accepted(&task);
    let mut acts = Vec::new();
    for _ in 0..4000 {
        fleet.pass(seconds(2));
        for request in asked(&mut fleet) {
            acts.push((request.asked.party.clone(), request.asked.act));
            answer(&mut fleet, &request, "1");
        }
    }
    let doc = fleet.task("osl-b1", &task);
    assert_eq!(doc.state.as_str(), "reverted", "{doc:#?}");
    let of = |party: &str, act| (party.to_owned(), act);
    assert_eq!(acts, [of("fw", Act::Do), of("lb", Act::Do), of("lb", Act::Undo)]);
    // Nothing is left to take back.
    let again = fleet.command("mira", "osl", Verb::Revert { task: id(&task) });
    assert_eq!(again.refused_by.as_deref(), Some("no-change"), "{again:?}");
}

#[test]
fn a_revert_of_a_revert_asks_for_the_first_again() {
    let mut fleet = fleet(&[party("lb", When::BeforeActivate)], &[]);
    let mut task = accepted(&fleet.command("mira", "osl", failover(API)));
    let mut acts = Vec::new();
    for is_last in [false, true, false] {
        for _ in 0..400 {
            fleet.pass(seconds(2));
            for request in asked(&mut fleet) {
                acts.push(request.asked.act);
                answer(&mut fleet, &request, "1");
            }
        }
        let doc = fleet.task("osl-b1", &task);
        assert_eq!(doc.state.as_str(), "done", "{doc:#?}");
        let mut own = vec!["activate", "verify", "shift", "withdraw"];
        own.insert(if is_last { own.len() } else { 0 }, "external");
        assert_eq!(kinds(&doc), own, "what was done first is undone last");
        let revert = fleet.command("mira", "osl", Verb::Revert { task: id(&task) });
        task = accepted(&revert);
    }
    assert_eq!(acts, [Act::Do, Act::Undo, Act::Do]);
}

#[test]
fn somebody_asked_between_break_and_make_lets_nobody_open_early() {
    let mut without = fleet(&[], &[]);
    let plain = accepted(&without.command("mira", "osl", failover(PAY)));
    let plain = without.task("osl-b1", &plain);
    let mut with = fleet(&[], &[party("lb", When::AfterWithdraw)]);
    let task = accepted(&with.command("mira", "osl", failover(PAY)));
    let doc = with.task("osl-b1", &task);
    assert_eq!(kinds(&doc), ["withdraw", "external", "activate", "verify"]);
    let nodes = |task: &TaskDoc, step: usize| -> Vec<String> {
        task.steps[step].acknowledge.iter().map(|ack| ack.node.clone()).collect()
    };
    assert_eq!(nodes(&doc, 0), nodes(&plain, 0), "who opens next has closed before");
    assert!(nodes(&doc, 1).is_empty());
    assert_eq!(nodes(&doc, 2), nodes(&plain, 1));
    assert_ne!(doc.plan_hash, plain.plan_hash);
}

#[test]
fn an_override_by_name_leaves_everybody_outside_out() {
    let mut fleet = fleet(&[party("lb", When::BeforeActivate)], &[]);
    let reply = fleet.command_with("mira", "osl", failover(API), &["external"], Terms::default());
    assert_eq!(reply.exit, 5, "an override needs an approval: {reply:?}");
    assert!(fleet.approve("odd", "osl", &reply).accepted);
    fleet.pass(HOUR);
    let doc = fleet.task("osl-b1", &accepted(&reply));
    assert_eq!(doc.state.as_str(), "done", "{doc:#?}");
    assert!(!kinds(&doc).contains(&"external"));
    assert!(fleet.asked.is_empty());
}

#[test]
fn it_is_asked_every_five_seconds_until_it_answers_and_not_more() {
    let mut fleet = fleet(&[party("lb", When::BeforeActivate)], &[]);
    accepted(&fleet.command("mira", "osl", failover(API)));
    fleet.pass(seconds(19));
    let of = |fleet: &Fleet, node: &str| {
        fleet.asked.iter().filter(|(_, request)| request.node.as_str() == node).count()
    };
    assert_eq!((of(&fleet, "osl-b1"), of(&fleet, "svg-b1")), (4, 0));
    assert!(of(&fleet, "osl-r1") <= 4);
    let last = fleet.asked.last().expect("asked").1.clone();
    assert!(last.expires_at > last.at && last.expires_at.0 - last.at.0 <= 20_000, "{last:?}");
    fleet.asked.clear();
    answer(&mut fleet, &last, "1");
    fleet.pass(seconds(30));
    assert!(fleet.asked.is_empty());
}
