//! What operators do at three in the morning: two at once, a dead site, a task that must stop.

mod fleet;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fleet::{Fleet, id};
use nett_agent::api::types::{CommandReply, TaskDoc};
use nett_policy::fabric::{Freeze, OperatorRole};
use nett_policy::id::{NodeId, Selector, ServiceId, WallMs};
use nett_policy::log::entry::{Object, Terms, Verb, WishKind};
use nett_policy::lower::object::NodeState;
use nett_policy::traffic::Spread;

const API: &str = "shop/prod/api";
const PAY: &str = "shop/prod/pay";
const WEB: &str = "shop/prod/web";

const HOUR: Duration = Duration::from_secs(3600);

fn failover(service: &str, to: &str) -> Verb {
    Verb::Failover { services: id(service), to: id(to) }
}

fn accepted(reply: &CommandReply) -> String {
    assert!(reply.accepted, "{reply:?}");
    reply.task.clone().expect("an accepted command has a task")
}

fn spread(fleet: &Fleet, node: &str, service: &str) -> Spread {
    fleet.agents[&id::<NodeId>(node)].zone[&id::<ServiceId>(service)].standing.spread.clone()
}

fn kernels(fleet: &Fleet) -> BTreeMap<NodeId, NodeState> {
    fleet.agents.iter().map(|(node, agent)| (node.clone(), agent.kernel.clone())).collect()
}

fn nodes_of(fleet: &Fleet, site: &str) -> BTreeSet<NodeId> {
    let nodes = fleet.fabric.nodes.iter().filter(|n| n.site.as_str() == site);
    nodes.map(|n| n.id.clone()).collect()
}

fn kinds(task: &TaskDoc) -> Vec<&str> {
    task.steps.iter().map(|s| s.kind.as_str()).collect()
}

/// Both sites fail the service over to another place, and neither has read the other.
fn decide_twice(fleet: &mut Fleet) -> (String, String) {
    fleet.cut();
    let steer = Verb::Steer {
        services: id(WEB),
        to: BTreeMap::from([(id("osl"), nett_policy::id::Weight::ONE)]),
    };
    let osl = accepted(&fleet.command("mira", "osl", steer));
    let svg = accepted(&fleet.command("odd", "svg", failover(WEB, "svg")));
    fleet.pass(Duration::from_secs(5));
    (osl, svg)
}

#[test]
fn two_operators_in_a_cut_are_told_the_same_everywhere_and_one_of_them_resolves_it() {
    let mut fleet = Fleet::start();
    let (osl, svg) = decide_twice(&mut fleet);
    assert_eq!(fleet.conflicts("osl-b1"), [], "nobody knows of the other yet");
    fleet.heal();
    fleet.pass(Duration::from_secs(2));

    let nodes: Vec<String> = fleet.agents.keys().map(ToString::to_string).collect();
    let seen: Vec<_> = nodes.iter().map(|node| fleet.conflicts(node)).collect();
    assert!(seen.iter().all(|c| *c == seen[0]), "the same at every agent: {seen:#?}");
    let [conflict] = seen[0].as_slice() else { panic!("one split decision: {seen:#?}") };
    assert_eq!(conflict.subject, WEB);
    assert_eq!(
        (conflict.winner.person.as_str(), conflict.losers[0].person.as_str()),
        ("mira", "odd")
    );
    assert_eq!((&conflict.winner.task, &conflict.losers[0].task), (&osl, &svg));
    assert!(conflict.losers[0].lost_because.contains("rank"), "{conflict:?}");
    for node in &nodes {
        assert_eq!(fleet.snapshot(node).conflicts, 1, "the metric of {node}");
    }

    // The loser is not shown as plain done, and everybody follows the winner.
    fleet.pass(HOUR);
    let lost = fleet.task("osl-b1", &svg);
    assert_eq!(lost.state.as_str(), "superseded", "{lost:?}");
    assert!(lost.conflicts[0].contains(&osl), "{:?}", lost.conflicts);
    for node in &nodes {
        assert_eq!(spread(&fleet, node, WEB), Spread::one(id("osl")), "{node}");
    }

    let resolve = Verb::Resolve { subject: id(WEB), to: Some(id("svg")) };
    let resolve = accepted(&fleet.command("odd", "svg", resolve));
    fleet.pass(HOUR);
    assert_eq!(fleet.task_state("osl-b1", &resolve), "done");
    for node in &nodes {
        assert_eq!(fleet.conflicts(node), []);
        assert_eq!(fleet.snapshot(node).conflicts, 0);
        assert_eq!(spread(&fleet, node, WEB), Spread::one(id("svg")), "{node}");
    }
}

#[test]
fn a_loser_that_was_done_before_the_heal_is_shown_as_overruled() {
    let mut fleet = Fleet::start();
    fleet.cut();
    let object = Object::ServiceAt(id(WEB), id("svg"));
    let first = accepted(&fleet.command("mira", "osl", Verb::Drain { object: object.clone() }));
    fleet.silent = nodes_of(&fleet, "svg");
    fleet.pass(Duration::from_secs(1));
    fleet.silent.clear();
    let hold = accepted(&fleet.command("odd", "svg", Verb::Hold { services: id(WEB) }));
    let drain = fleet.command("odd", "svg", Verb::Drain { object });
    assert_eq!(drain.refused_by.as_deref(), Some("hold"), "{drain:?}");
    fleet.pass(Duration::from_secs(1));
    assert_eq!(fleet.task_state("svg-b1", &hold), "done");
    fleet.heal();
    fleet.pass(HOUR);
    // A hold and a drain are about different things: no split decision.
    assert_eq!(fleet.conflicts("osl-r1"), []);
    assert_ne!(fleet.task_state("osl-r1", &first), "waiting-approval");
}

#[test]
fn a_task_is_paused_resumed_and_cancelled_from_the_other_site() {
    let mut fleet = Fleet::start();
    let task = accepted(&fleet.command("mira", "osl", failover(API, "svg")));
    // Everything but the withdrawal, which waits for the sticky time.
    fleet.pass(Duration::from_secs(10));
    assert!(fleet.wish("odd", "svg", &task, WishKind::Pause).accepted);
    fleet.pass(HOUR);
    let paused = fleet.task("osl-r1", &task);
    assert_eq!(paused.state.as_str(), "paused", "{paused:?}");
    assert_eq!(paused.continue_with, [format!("nettctl task resume {task} --reason TEXT")]);
    assert!(fleet.wish("odd", "svg", &task, WishKind::Resume).accepted);
    fleet.pass(Duration::from_secs(10));
    assert_eq!(fleet.task_state("osl-r1", &task), "running");
    let again = fleet.wish("mira", "osl", &task, WishKind::Resume);
    assert_eq!((again.refused_by.as_deref(), again.exit), (Some("not-waiting"), 7));
    assert!(fleet.wish("odd", "svg", &task, WishKind::Cancel).accepted);
    fleet.pass(Duration::from_secs(10));
    let ended = fleet.task("svg-b1", &task);
    assert_eq!(ended.state.as_str(), "cancelled");
    assert!(ended.outcome_reason.contains("odd"), "{}", ended.outcome_reason);
    accepted(&fleet.command("mira", "osl", Verb::Revert { task: id(&task) }));
    fleet.pass(HOUR);
    assert_eq!(spread(&fleet, "svg-b1", API), Spread::one(id("osl")));
}

#[test]
fn a_command_that_supersedes_ends_the_one_in_its_way() {
    let mut fleet = Fleet::start();
    let task = accepted(&fleet.command("mira", "osl", failover(API, "svg")));
    fleet.pass(Duration::from_secs(10));
    let back = Verb::Failback { services: id(API) };
    let refused = fleet.command("odd", "osl", back.clone());
    assert_eq!(refused.refused_by.as_deref(), Some("task-open"));
    assert!(refused.message.contains("--supersede"), "{refused:?}");
    let terms = Terms { supersede: true, ..Terms::default() };
    let back = accepted(&fleet.command_with("odd", "osl", back, &[], terms));
    fleet.pass(HOUR);
    assert_eq!(fleet.task_state("svg-b1", &task), "superseded");
    assert_eq!(fleet.task_state("svg-b1", &back), "done");
    assert_eq!(spread(&fleet, "svg-b1", API), Spread::one(id("osl")));
}

#[test]
fn nobody_waits_for_a_node_that_is_said_to_be_off_and_its_part_is_shown_as_owed() {
    let mut fleet = Fleet::start();
    let off: NodeId = id("svg-r1");
    fleet.silent.insert(off.clone());
    let before = fleet.agents[&off].kernel.clone();
    let asserted = BTreeSet::from([off.clone()]);
    let terms = Terms { asserted, ..Terms::default() };
    let task = accepted(&fleet.command_with("mira", "osl", failover(API, "svg"), &[], terms));
    fleet.pass(HOUR);
    let doc = fleet.task("osl-b1", &task);
    assert_eq!(doc.state.as_str(), "done", "{doc:#?}");
    let owed = |doc: &TaskDoc| -> Vec<(String, bool)> {
        let owed = doc.steps.iter().flat_map(|s| &s.owed);
        owed.map(|ack| (ack.node.clone(), ack.acked)).collect()
    };
    assert!(owed(&doc).contains(&("svg-r1".to_owned(), false)), "{doc:#?}");
    assert_eq!(fleet.agents[&off].kernel, before);

    // It carries its part out when it has read the log.
    fleet.silent.clear();
    fleet.restart("svg-r1");
    fleet.pass(Duration::from_secs(10));
    assert_ne!(fleet.agents[&off].kernel, before);
    let doc = fleet.task("osl-b1", &task);
    assert!(owed(&doc).iter().all(|(_, read)| *read), "{doc:#?}");
}

#[test]
fn another_site_adopts_the_task_of_a_dead_one() {
    let mut fleet = Fleet::start();
    let task = accepted(&fleet.command("mira", "osl", failover(API, "svg")));
    fleet.pass(Duration::from_secs(5));
    assert_eq!(spread(&fleet, "svg-b1", API), Spread::one(id("svg")), "it waits to withdraw");
    let early = fleet.wish("odd", "svg", &task, WishKind::Adopt { asserted: BTreeSet::new() });
    assert_eq!(early.refused_by.as_deref(), Some("home-alive"), "{early:?}");
    let dead = nodes_of(&fleet, "osl");
    fleet.silent.extend(dead.clone());
    fleet.pass(Duration::from_secs(400));
    assert_eq!(fleet.task_state("svg-b1", &task), "running", "nobody else writes its facts");
    let adopt = WishKind::Adopt { asserted: dead };
    let reply = fleet.wish("odd", "svg", &task, adopt);
    assert!(reply.accepted, "{reply:?}");
    fleet.pass(HOUR);
    let doc = fleet.task("svg-r1", &task);
    assert_eq!((doc.state.as_str(), doc.home.as_str(), doc.term), ("done", "svg", 1), "{doc:#?}");
}

#[test]
fn a_dead_site_is_evacuated_in_waves_and_one_waves_failure_stops_no_other() {
    let mut fleet = Fleet::start();
    let dead = nodes_of(&fleet, "osl");
    let verb = Verb::Evacuate { site: id("osl"), to: None };
    let refused = fleet.command("odd", "svg", verb.clone());
    assert_eq!(refused.refused_by.as_deref(), Some("fencing"), "{refused:?}");
    fleet.silent.extend(dead.clone());
    fleet.pass(Duration::from_secs(20));
    let terms = Terms { asserted: dead, ..Terms::default() };
    let reply = fleet.command_with("odd", "svg", verb, &["gate"], terms);
    let task = accepted(&reply);
    assert_eq!(reply.exit, 5, "one approval for all: {reply:?}");
    assert!(fleet.approve("mira", "svg", &reply).accepted);
    fleet.pass(HOUR);
    let doc = fleet.task("svg-b1", &task);
    assert_eq!(doc.state.as_str(), "done", "{doc:#?}");
    let waves: Vec<u8> = doc.steps.iter().map(|s| s.wave).collect();
    assert!(waves.is_sorted() && waves.contains(&1) && waves.contains(&2), "{waves:?}");
    let first: Vec<&str> = doc.steps[0].services.iter().map(String::as_str).collect();
    assert!(first.contains(&API) && !first.contains(&PAY), "category C goes first: {first:?}");
    for service in [API, PAY] {
        assert_eq!(spread(&fleet, "svg-b1", service), Spread::one(id("svg")), "{service}");
    }
}

#[test]
fn a_task_that_nobody_confirms_undoes_itself() {
    for confirm in [false, true] {
        let mut fleet = Fleet::start();
        let before = kernels(&fleet);
        let terms = Terms { confirm_within: Some(HOUR), ..Terms::default() };
        let task = accepted(&fleet.command_with("mira", "osl", failover(API, "svg"), &[], terms));
        fleet.pass(Duration::from_secs(1800));
        let doc = fleet.task("svg-b1", &task);
        assert_eq!(doc.state.as_str(), "confirming");
        assert_eq!(doc.continue_with, [format!("nettctl task confirm {task} --reason TEXT")]);
        if confirm {
            assert!(fleet.wish("odd", "svg", &task, WishKind::Confirm).accepted);
        }
        fleet.pass(3 * HOUR);
        let doc = fleet.task("svg-b1", &task);
        if confirm {
            assert_eq!(doc.state.as_str(), "done");
            assert_eq!(spread(&fleet, "osl-b1", API), Spread::one(id("svg")));
            continue;
        }
        assert_eq!(doc.state.as_str(), "reverted", "{doc:#?}");
        assert_eq!(doc.outcome_reason, "nobody confirmed it");
        let strip = |states: BTreeMap<NodeId, NodeState>| -> Vec<NodeState> {
            states.into_values().map(|s| NodeState { answers: BTreeMap::new(), ..s }).collect()
        };
        assert_eq!(strip(kernels(&fleet)), strip(before));
    }
}

#[test]
fn a_step_that_fails_before_the_confirmation_is_taken_back_as_well() {
    let mut fleet = Fleet::start();
    fleet.silent.insert(id("svg-b1"));
    let terms = Terms { confirm_within: Some(HOUR), ..Terms::default() };
    let task = accepted(&fleet.command_with("mira", "osl", failover(API, "svg"), &[], terms));
    fleet.pass(Duration::from_secs(35));
    fleet.silent.clear();
    fleet.restart("svg-b1");
    fleet.pass(HOUR);
    let doc = fleet.task("osl-b1", &task);
    assert_eq!(doc.state.as_str(), "reverted", "{doc:#?}");
    assert!(doc.outcome_reason.contains("svg-b1"), "{}", doc.outcome_reason);
}

#[test]
fn a_gated_move_waits_for_the_fact_and_the_fact_grows_old() {
    let mut fleet = Fleet::start_with(|fabric, services| {
        fabric.operators[1].roles.push(OperatorRole::Gate);
        services.iter_mut().for_each(|s| s.approvals = 0);
    });
    let task = accepted(&fleet.command("mira", "osl", failover(PAY, "svg")));
    fleet.pass(HOUR);
    let doc = fleet.task("osl-r1", &task);
    assert_eq!(doc.state.as_str(), "running");
    assert_eq!(doc.stands_still, ["gate data-ready is closed"], "{doc:#?}");
    assert_eq!(kinds(&doc), ["withdraw", "activate", "verify"]);
    assert_eq!(doc.steps[0].state.as_str(), "done", "the old site has stopped");

    let gate = |name: &str| WishKind::Gate { name: name.to_owned() };
    let refused = fleet.wish("mira", "osl", &task, gate("data-ready"));
    assert_eq!(refused.refused_by.as_deref(), Some("role"), "not everybody's word: {refused:?}");
    assert!(fleet.wish("odd", "svg", &task, gate("something-else")).accepted);
    fleet.pass(Duration::from_secs(10));
    assert_eq!(fleet.task_state("osl-r1", &task), "running");
    assert!(fleet.wish("odd", "svg", &task, gate("data-ready")).accepted);
    fleet.pass(Duration::from_secs(60));
    assert_eq!(fleet.task_state("osl-r1", &task), "done");
    assert_eq!(spread(&fleet, "osl-b1", PAY), Spread::one(id("svg")));

    // The way back names another fact; one that is old when the step comes opens nothing.
    let back = accepted(&fleet.command("mira", "osl", Verb::Failback { services: id(PAY) }));
    assert!(fleet.wish("mira", "osl", &back, WishKind::Pause).accepted);
    assert!(fleet.wish("odd", "svg", &back, gate("reverse-replicated")).accepted);
    fleet.pass(HOUR);
    assert!(fleet.wish("mira", "osl", &back, WishKind::Resume).accepted);
    fleet.pass(HOUR);
    let doc = fleet.task("osl-r1", &back);
    assert_eq!(doc.stands_still, ["gate reverse-replicated is closed"], "{doc:#?}");
}

#[test]
fn a_ramp_goes_in_shares_and_stops_where_the_new_way_stops_answering() {
    let mut fleet = Fleet::start_with(|_, services| {
        let api = services.iter_mut().find(|s| s.id.as_str() == API).expect("there");
        api.ramp = vec![10, 50, 100];
        api.ramp_dwell = Duration::from_secs(30);
    });
    let task = accepted(&fleet.command("mira", "osl", failover(API, "svg")));
    fleet.pass(Duration::from_secs(5));
    let share = |fleet: &Fleet| spread(fleet, "osl-b1", API).percent(&id("svg"));
    assert_eq!(share(&fleet), 10);
    fleet.pass(Duration::from_secs(30));
    assert_eq!(share(&fleet), 50);
    fleet.probes_answer = false;
    fleet.pass(Duration::from_secs(60));
    assert_eq!(share(&fleet), 50, "it stops with half of the traffic");
    let doc = fleet.task("svg-b1", &task);
    assert_eq!(doc.state.as_str(), "failed");
    let expected =
        ["activate", "verify", "shift", "verify", "shift", "verify", "shift", "withdraw"];
    assert_eq!(kinds(&doc), expected);
}

#[test]
fn a_held_service_is_left_alone_and_its_ramp_stands_still() {
    let mut fleet = Fleet::start_with(|_, services| {
        let api = services.iter_mut().find(|s| s.id.as_str() == API).expect("there");
        api.ramp = vec![50, 100];
        api.ramp_dwell = Duration::from_secs(30);
    });
    let task = accepted(&fleet.command("mira", "osl", failover(API, "svg")));
    fleet.pass(Duration::from_secs(5));
    let all: Selector = id("shop/*");
    let held = accepted(&fleet.command("odd", "svg", Verb::Hold { services: all.clone() }));
    fleet.pass(HOUR);
    let hold = fleet.task("osl-b1", &held);
    assert_eq!(hold.state.as_str(), "done", "{hold:#?}");
    let doc = fleet.task("osl-b1", &task);
    assert_eq!(doc.stands_still, [format!("{API} is held")], "{doc:#?}");
    assert_eq!(spread(&fleet, "osl-b1", API).percent(&id("svg")), 50);
    let drain = fleet.command("mira", "osl", Verb::Drain { object: Object::Site(id("osl")) });
    assert!(matches!(drain.refused_by.as_deref(), Some("hold" | "task-open")), "{drain:?}");
    accepted(&fleet.command("mira", "osl", Verb::Release { services: all }));
    fleet.pass(HOUR);
    assert_eq!(fleet.task_state("svg-b1", &task), "done");
}

#[test]
fn a_freeze_refuses_by_name_and_an_override_needs_an_approval() {
    let mut fleet = Fleet::start_with(|fabric, _| {
        fabric.freezes.push(Freeze {
            from: WallMs(0),
            to: WallMs(u64::MAX / 2),
            services: vec![id("shop/*")],
            except: vec!["failback".to_owned()],
            owner: None,
        });
    });
    let refused = fleet.command("mira", "osl", failover(API, "svg"));
    assert_eq!((refused.refused_by.as_deref(), refused.exit), (Some("freeze"), 4), "{refused:?}");
    assert!(refused.message.contains("--override freeze"), "{refused:?}");
    let passed =
        fleet.command_with("mira", "osl", failover(API, "svg"), &["freeze"], Terms::default());
    assert_eq!((passed.accepted, passed.exit), (true, 5), "{passed:?}");
}

#[test]
fn nothing_is_planned_for_nodes_of_another_fabric() {
    let mut fleet = Fleet::start();
    fleet.pass(Duration::from_secs(3));
    fleet.report_another_fabric("svg-r1");
    let refused = fleet.command("mira", "osl", failover(API, "svg"));
    assert_eq!(refused.refused_by.as_deref(), Some("fabric-mismatch"), "{refused:?}");
    assert!(refused.message.contains("svg-r1"), "{refused:?}");
}
