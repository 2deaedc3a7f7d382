//! The controller with a simulated world around it: whole tasks over two sites, without a clock.

mod fleet;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fleet::{Fleet, id};
use nett_agent::api::types::{
    ApiRequest, CommandReply, NodeDoc, Outcome, Payload, TaskStateDoc, VerbDoc,
};
use nett_agent::controller::event::Event;
use nett_policy::fabric::Family;
use nett_policy::id::{NodeId, ServiceId, SiteId, Weight};
use nett_policy::log::entry::{Ask, Object, Terms, Verb};
use nett_policy::lower::LinksUp;
use nett_policy::lower::object::{
    Layout, Nexthop, NexthopId, NodeState, RouteKey, RouteTarget, Table,
};
use nett_policy::traffic::Spread;

const API: &str = "shop/prod/api";
const PAY: &str = "shop/prod/pay";
const WEB: &str = "shop/prod/web";

fn failover(service: &str, to: &str) -> Verb {
    Verb::Failover { services: id(service), to: id(to) }
}

fn plan_of(verb: &VerbDoc) -> ApiRequest {
    ApiRequest::Plan { verb: verb.clone(), overrides: BTreeSet::new(), terms: None }
}

fn accepted(reply: &CommandReply) -> String {
    assert!(reply.accepted, "{reply:?}");
    reply.task.clone().expect("an accepted command has a task")
}

/// Where a node's VIP route of a table points.
fn route(state: &NodeState, table: u32, vip: &str) -> RouteTarget {
    let destination = vip.parse().expect("a prefix");
    let key = RouteKey { table: Table(table), destination, metric: Layout::METRIC_ACTIVE };
    *state.routes.get(&key).unwrap_or_else(|| panic!("{vip} has a route in {table}"))
}

/// Whether a node hands on what arrives for a VIP: its group there is no blackhole.
fn delivers(state: &NodeState, vip: &str) -> bool {
    let RouteTarget::Nexthop(group) = route(state, 7001, vip) else { return false };
    let Some(Nexthop::Group { members, .. }) = state.nexthops.get(&group) else { return false };
    let black = |id| matches!(state.nexthops.get(id), Some(Nexthop::Blackhole { .. }));
    !members.keys().any(black)
}

fn kernels(fleet: &Fleet) -> BTreeMap<NodeId, NodeState> {
    fleet.agents.iter().map(|(node, agent)| (node.clone(), agent.kernel.clone())).collect()
}

#[test]
fn make_before_break_moves_in_the_right_order_and_reverts() {
    let mut fleet = Fleet::start();
    let before = kernels(&fleet);
    fleet.told.clear();
    let reply = fleet.command("mira", "osl", failover(API, "svg"));
    let task = accepted(&reply);
    fleet.pass(Duration::from_secs(600));
    assert_eq!(fleet.task_state("svg-r1", &task), "done");

    // svg accepts before osl sends, and osl refuses only after it has stopped sending to itself.
    let position = |node: &str, is: &dyn Fn(&NodeState) -> bool| {
        let node: NodeId = id(node);
        let found = fleet.told.iter().position(|(n, state)| *n == node && is(state));
        found.expect("the node was told so")
    };
    let vip = "10.99.0.10/32";
    let local = |state: &NodeState| delivers(state, vip);
    let accepts = position("svg-b1", &local);
    let home = &before[&id::<NodeId>("osl-b1")];
    let sends = position("osl-b1", &|state| {
        let class = |state: &NodeState| match route(state, 7000, vip) {
            RouteTarget::Nexthop(group) => state.nexthops.get(&group).cloned(),
            RouteTarget::Unreachable => None,
        };
        class(state) != class(home)
    });
    let refuses = position("osl-b1", &|state| !local(state));
    assert!(accepts < sends && sends < refuses, "{accepts} {sends} {refuses}");

    let revert = fleet.command("mira", "svg", Verb::Revert { task: id(&task) });
    let revert = accepted(&revert);
    fleet.pass(Duration::from_secs(600));
    assert_eq!(fleet.task_state("osl-b1", &revert), "done");
    let strip = |states: BTreeMap<NodeId, NodeState>| -> Vec<NodeState> {
        states.into_values().map(|s| NodeState { answers: BTreeMap::new(), ..s }).collect()
    };
    assert_eq!(strip(kernels(&fleet)), strip(before), "revert puts every kernel object back");
    let epoch = fleet.agents[&id::<NodeId>("osl-b1")].zone[&id::<ServiceId>(API)].epoch;
    assert_eq!(epoch.0, 2, "the second move has a higher epoch");
}

#[test]
fn break_before_make_never_has_two_sites_serving() {
    let mut fleet = Fleet::start();
    fleet.told.clear();
    let mut current = kernels(&fleet);
    let overrides = BTreeSet::from(["gate".to_owned()]);
    let verb = failover(PAY, "svg");
    let request = fleet.request(
        "mira",
        "osl",
        Ask::Command { verb, plan_hash: None, overrides, terms: Terms::default() },
    );
    let reply = fleet.send("osl-b1", &request);
    assert_eq!((reply.accepted, reply.exit), (true, 5), "it waits for an approval: {reply:?}");
    let task = accepted(&reply);
    assert!(fleet.told.is_empty(), "nothing moves before the approval");
    let own = fleet.approve("mira", "osl", &reply);
    assert_eq!(own.refused_by.as_deref(), Some("four-eyes"));
    assert!(fleet.approve("odd", "svg", &reply).accepted, "given at the other site");
    fleet.pass(Duration::from_secs(60));
    assert_eq!(fleet.task_state("osl-r1", &task), "done");

    let vip = "10.99.0.20/32";
    let mut stopped_everywhere = false;
    for (node, state) in fleet.told.clone() {
        current.insert(node, state);
        let serving: BTreeSet<SiteId> = current
            .iter()
            .filter(|(_, state)| delivers(state, vip))
            .map(|(node, _)| fleet.fabric.node(node).expect("known").site.clone())
            .collect();
        assert!(serving.len() <= 1, "two sites serve: {serving:?}");
        stopped_everywhere |= serving.is_empty();
    }
    assert!(stopped_everywhere, "there is a moment in which nobody serves");
}

#[test]
fn an_undrain_of_a_service_active_at_both_sites_waits_for_nothing() {
    let mut fleet = Fleet::start();
    let object = Object::ServiceAt(id(WEB), id("svg"));
    let drain = fleet.command("mira", "osl", Verb::Drain { object: object.clone() });
    accepted(&drain);
    fleet.pass(Duration::from_secs(600));
    let undrain = fleet.command("mira", "osl", Verb::Undrain { object });
    let task = accepted(&undrain);
    fleet.run();
    let Outcome::Ok(payload) = fleet.ask("osl-b1", ApiRequest::Task { id: task }) else {
        panic!("the task is known");
    };
    let Payload::Task(doc) = *payload else { panic!("a task was asked for") };
    assert_eq!(doc.state.as_str(), "done", "without any time passing");
    let kinds: Vec<&str> = doc.steps.iter().map(|s| s.kind.as_str()).collect();
    assert_eq!(kinds, ["activate", "shift"], "nobody sends there, so there is nothing to verify");
}

#[test]
fn a_request_repeated_or_replayed_changes_nothing() {
    let mut fleet = Fleet::start();
    let ask = |verb| Ask::Command {
        verb,
        plan_hash: None,
        overrides: BTreeSet::new(),
        terms: Terms::default(),
    };
    let first = fleet.request("mira", "osl", ask(failover(API, "svg")));
    let reply = fleet.send("osl-b1", &first);
    let task = accepted(&reply);
    fleet.pass(Duration::from_secs(600));
    let back = fleet.command("mira", "osl", Verb::Failback { services: id(API) });
    accepted(&back);
    fleet.pass(Duration::from_secs(600));
    let home = kernels(&fleet);

    let again = fleet.send("osl-r1", &first);
    assert_eq!(again.task, Some(task), "the recorded answer");
    fleet.pass(Duration::from_secs(600));
    assert_eq!(kernels(&fleet), home);
}

#[test]
fn forged_expired_and_misplaced_requests_are_refused_and_audited() {
    let mut fleet = Fleet::start();
    let still = kernels(&fleet);
    let ask = || Ask::Command {
        verb: failover(API, "svg"),
        plan_hash: None,
        overrides: BTreeSet::new(),
        terms: Terms::default(),
    };
    let audited = |fleet: &Fleet| fleet.agents[&id::<NodeId>("osl-b1")].audit;
    let request = fleet.request("mira", "osl", ask());

    // Properly signed, and then changed on the way.
    let before = audited(&fleet);
    let (subject, mut bytes) = fleet.seal(&request);
    let at = bytes.windows(3).position(|w| w == b"svg").expect("the target is in the body");
    bytes[at..at + 3].copy_from_slice(b"osl");
    let reply = fleet.send_bytes("osl-b1", subject, bytes);
    assert!(!reply.accepted && reply.refused_by.is_some(), "{reply:?}");
    assert!(audited(&fleet) > before);

    let mut late = fleet.request("mira", "osl", ask());
    late.expires_at.0 -= 120_000;
    late.issued_at.0 -= 180_000;
    let reply = fleet.send("osl-b1", &late);
    assert_eq!((reply.refused_by.as_deref(), reply.exit), (Some("expired"), 4));

    let viewer = fleet.command("mira", "osl", failover("shop/prod/nothing", "svg"));
    assert_eq!((viewer.refused_by.as_deref(), viewer.exit), (Some("unknown-service"), 2));
    let elsewhere = fleet.command("mira", "osl", failover(API, "ber"));
    assert_eq!((elsewhere.refused_by.as_deref(), elsewhere.exit), (Some("unknown-site"), 2));
    assert_eq!(kernels(&fleet), still);
}

#[test]
fn the_last_eligible_site_is_never_drained() {
    let mut fleet = Fleet::start();
    let site = |s: &str| Object::Site(id(s));
    accepted(&fleet.command(
        "mira",
        "osl",
        Verb::Drain { object: Object::ServiceAt(id(API), id("svg")) },
    ));
    fleet.pass(Duration::from_secs(600));
    let reply = fleet.command("mira", "osl", Verb::Drain { object: site("osl") });
    assert_eq!(reply.refused_by.as_deref(), Some("last-eligible-site"), "{reply:?}");
    assert!(reply.message.contains("--override last-eligible-site"), "{reply:?}");
}

#[test]
fn a_task_goes_on_when_the_agent_that_accepted_it_dies() {
    let mut fleet = Fleet::start();
    let node: NodeId = id("osl-r1");
    let ask = Ask::Command {
        verb: failover(API, "svg"),
        plan_hash: None,
        overrides: BTreeSet::new(),
        terms: Terms::default(),
    };
    let request = fleet.request("mira", "osl", ask);
    let reply = fleet.send("osl-r1", &request);
    let task = accepted(&reply);
    // The withdraw step waits for `sticky`; the agent that wrote every fact so far is gone then.
    fleet.silent.insert(node.clone());
    fleet.pass(Duration::from_secs(301));
    assert_eq!(fleet.task_state("osl-b1", &task), "running", "a silent node is waited for");
    fleet.silent.remove(&node);
    fleet.restart("osl-r1");
    fleet.pass(Duration::from_secs(20));
    assert_eq!(fleet.task_state("osl-b1", &task), "done");
}

#[test]
fn a_step_without_its_acknowledgement_fails_by_name_and_can_be_reverted() {
    let mut fleet = Fleet::start();
    fleet.silent.insert(id("svg-b1"));
    let reply = fleet.command("mira", "osl", failover(API, "svg"));
    let task = accepted(&reply);
    fleet.pass(Duration::from_secs(60));
    let Outcome::Ok(payload) = fleet.ask("osl-b1", ApiRequest::Task { id: task.clone() }) else {
        panic!("the task is known");
    };
    let Payload::Task(doc) = *payload else { panic!("a task was asked for") };
    assert_eq!(doc.state.as_str(), "failed");
    assert!(doc.outcome_reason.contains("svg-b1"), "{}", doc.outcome_reason);
    assert_eq!(doc.revert_with, [format!("nettctl revert {task} --reason TEXT")]);

    fleet.silent.clear();
    fleet.restart("svg-b1");
    accepted(&fleet.command("mira", "osl", Verb::Revert { task: id(&task) }));
    fleet.pass(Duration::from_secs(600));
    let zone = &fleet.agents[&id::<NodeId>("svg-b1")].zone[&id::<ServiceId>(API)];
    assert_eq!(zone.standing.spread, Spread::one(id("osl")));
}

#[test]
fn a_verify_that_hears_nothing_stops_the_task_before_traffic_moves() {
    let mut fleet = Fleet::start();
    fleet.probes_answer = false;
    let reply = fleet.command("mira", "osl", failover(API, "svg"));
    let task = accepted(&reply);
    fleet.pass(Duration::from_secs(60));
    assert_eq!(fleet.task_state("osl-b1", &task), "failed");
    let zone = &fleet.agents[&id::<NodeId>("osl-b1")].zone[&id::<ServiceId>(API)];
    assert_eq!(zone.standing.spread, Spread::one(id("osl")), "answers stay where traffic is");
}

#[test]
fn a_kernel_that_is_read_in_part_fails_no_step() {
    let mut fleet = Fleet::start();
    fleet.torn = 5;
    let task = accepted(&fleet.command("mira", "osl", failover(API, "svg")));
    fleet.pass(Duration::from_secs(600));
    assert_eq!(fleet.task_state("osl-b1", &task), "done");
}

#[test]
fn a_plan_is_what_the_command_then_does() {
    let mut fleet = Fleet::start();
    let weights = BTreeMap::from([("osl".to_owned(), 70), ("svg".to_owned(), 30)]);
    for verb in [
        VerbDoc::Failover { services: API.to_owned(), to: "svg".to_owned() },
        VerbDoc::Steer { services: WEB.to_owned(), to: weights },
    ] {
        let Outcome::Ok(payload) = fleet.ask("svg-r1", plan_of(&verb)) else {
            panic!("the plan is given");
        };
        let Payload::Plan(plan) = *payload else { panic!("a plan was asked for") };
        let mut planned: Vec<String> = plan
            .steps
            .iter()
            .flat_map(|s| &s.nodes)
            .flat_map(|n| n.ops.iter().map(|op| format!("{} {}", n.node, op.text)))
            .collect();
        let mut current = kernels(&fleet);
        fleet.told.clear();
        let verb = Verb::try_from(&verb).expect("a valid verb");
        let hash = Some(plan.plan_hash.clone());
        let ask = Ask::Command {
            verb,
            plan_hash: hash,
            overrides: BTreeSet::new(),
            terms: Terms::default(),
        };
        let request = fleet.request("mira", "osl", ask);
        accepted(&fleet.send("osl-b1", &request));
        fleet.pass(Duration::from_secs(600));
        let mut performed = Vec::new();
        for (node, state) in fleet.told.clone() {
            let plan = nett_policy::plan::plan(&state, &current[&node]);
            let lines = plan.to_string();
            performed.extend(lines.lines().map(|line| format!("{node} {line}")));
            current.insert(node, state);
        }
        planned.sort();
        performed.sort();
        assert_eq!(planned, performed);
    }
}

#[test]
fn another_state_than_the_plans_is_refused_with_exit_7() {
    let mut fleet = Fleet::start();
    let hash = Some("0".repeat(64));
    let ask = Ask::Command {
        verb: failover(API, "svg"),
        plan_hash: hash,
        overrides: BTreeSet::new(),
        terms: Terms::default(),
    };
    let request = fleet.request("mira", "osl", ask);
    let reply = fleet.send("osl-b1", &request);
    assert_eq!((reply.refused_by.as_deref(), reply.exit), (Some("plan-hash"), 7));
}

#[test]
fn one_task_at_a_time_per_service() {
    let mut fleet = Fleet::start();
    let overrides = BTreeSet::from(["gate".to_owned()]);
    let ask = |verb| Ask::Command {
        verb,
        plan_hash: None,
        overrides: overrides.clone(),
        terms: Terms::default(),
    };
    let request = fleet.request("mira", "osl", ask(failover(PAY, "svg")));
    let waiting = accepted(&fleet.send("osl-b1", &request));
    let request = fleet.request("odd", "osl", ask(failover(PAY, "svg")));
    let second = fleet.send("osl-b1", &request);
    assert_eq!(second.refused_by.as_deref(), Some("task-open"), "{second:?}");
    assert!(second.message.contains(&waiting), "the refusal names the task: {second:?}");
}

#[test]
fn a_split_service_has_its_remote_share_alone_behind_the_route_nodes() {
    let mut fleet = Fleet::start();
    let weight = |w| Weight::new(w).expect("in range");
    let to = BTreeMap::from([(id("osl"), weight(70)), (id("svg"), weight(30))]);
    accepted(&fleet.command("mira", "osl", Verb::Steer { services: id(WEB), to }));
    fleet.pass(Duration::from_secs(600));
    let border = &fleet.agents[&id::<NodeId>("osl-b1")].kernel;
    let RouteTarget::Nexthop(group) = route(border, 7004, "10.99.0.30/32") else {
        panic!("the split has a route for what the route nodes decided");
    };
    let members = match &border.nexthops[&group] {
        Nexthop::Group { members, .. } => members.keys().copied(),
        single => panic!("not a group: {single:?}"),
    };
    let links: Vec<NexthopId> = members.collect();
    let family = nett_policy::fabric::Family::V4;
    assert_eq!(links, [NexthopId::link(1, family)], "the cheaper link, and not the route node");
}

/// Others send packets over a link as soon as they hear of it.
#[test]
fn a_link_is_told_when_the_kernel_uses_it_and_its_loss_at_once() {
    let mut fleet = Fleet::start();
    let border: NodeId = id("osl-b1");
    let link = fleet.fabric.links_of(&border).map(|view| view.link.id.clone()).next();
    let link = link.expect("the border has a link");
    let all: LinksUp = fleet.fabric.links.iter().map(|l| l.id.clone()).collect();
    let told = |fleet: &Fleet| fleet.reports[&border].links[&link];
    assert!(told(&fleet), "what was so at the start is told without waiting");
    let others = fleet.fabric.links.iter().map(|l| l.id.clone()).filter(|id| *id != link);
    let without: LinksUp = others.collect();
    fleet.step(&border, Event::Links { up: without });
    assert!(!told(&fleet), "before the kernel was changed");
    fleet.run();
    fleet.torn = 1;
    fleet.step(&border, Event::Links { up: all });
    assert!(!told(&fleet), "before the kernel was changed");
    fleet.run();
    assert!(told(&fleet));
}

/// Route nodes choose between borders for both families at once: of one whose link lacks a family
/// they hear that the others are better.
#[test]
fn a_link_that_lacks_a_family_is_told_as_doubted() {
    let mut fleet = Fleet::start();
    let border: NodeId = id("osl-b1");
    let mut up: LinksUp = fleet.fabric.links.iter().map(|l| l.id.clone()).collect();
    let link = fleet.fabric.links_of(&border).map(|view| view.link.id.clone()).next();
    let link = link.expect("the border has a link");
    assert_eq!(fleet.reports[&border].doubted, BTreeSet::new());
    up.doubt(link.clone(), Family::V6);
    fleet.step(&border, Event::Links { up: up.clone() });
    fleet.run();
    let report = &fleet.reports[&border];
    assert!(report.links[&link], "it carries IPv4");
    assert_eq!(report.doubted, BTreeSet::from([link.clone()]));
    up.insert(link, Family::V6);
    fleet.step(&border, Event::Links { up });
    fleet.run();
    assert_eq!(fleet.reports[&border].doubted, BTreeSet::new());
}

#[test]
fn the_view_in_numbers_follows_what_happens() {
    let mut fleet = Fleet::start();
    let before = fleet.snapshot("osl-b1");
    assert!(before.bus_connected && before.links.values().all(|up| *up), "{before:?}");
    assert_eq!((before.sites_connected, before.conflicts), (1, 0));
    let share = |fleet: &Fleet, site: &str| {
        let seen = fleet.snapshot("osl-b1");
        let service = &seen.services[&id::<ServiceId>(API)];
        (service.epoch.0, service.percent[&id::<SiteId>(site)])
    };
    assert_eq!((share(&fleet, "osl"), share(&fleet, "svg")), ((0, 100), (0, 0)));
    let count = |fleet: &Fleet, state| fleet.snapshot("osl-b1").tasks[&state];
    assert_eq!(count(&fleet, TaskStateDoc::Done), 0, "every state is shown from the start");
    accepted(&fleet.command("mira", "osl", failover(API, "svg")));
    assert_eq!(count(&fleet, TaskStateDoc::Running), 1);
    fleet.pass(Duration::from_secs(600));
    assert_eq!(count(&fleet, TaskStateDoc::Running), 0);
    assert_eq!(count(&fleet, TaskStateDoc::Done), 1);
    assert_eq!((share(&fleet, "osl"), share(&fleet, "svg")), ((1, 0), (1, 100)));

    let svg = fleet.fabric.nodes.iter().filter(|n| n.site.as_str() == "svg");
    let svg: Vec<NodeId> = svg.map(|n| n.id.clone()).collect();
    fleet.silent.extend(svg);
    fleet.pass(Duration::from_secs(11));
    let cut_off = fleet.snapshot("osl-b1");
    assert_eq!(cut_off.sites_connected, 0);
    let lag = cut_off.peer_lag[&id::<SiteId>("svg")];
    assert!(lag >= Duration::from_secs(10) && lag <= Duration::from_secs(13), "{lag:?}");
}

/// What a node says of another one, or of itself.
fn node_doc(fleet: &mut Fleet, asked: &str, node: &str) -> NodeDoc {
    let Outcome::Ok(payload) = fleet.ask(asked, ApiRequest::Nodes {}) else { panic!("no nodes") };
    let Payload::Nodes { nodes } = *payload else { panic!("no nodes") };
    nodes.into_iter().find(|n| n.id == node).expect("known")
}

/// The logs go on, and nobody who sends a command is heard.
#[test]
fn a_node_that_hears_nobody_says_so() {
    let mut fleet = Fleet::start();
    assert_eq!(fleet.snapshot("osl-b1").bus_heard, None);
    for result in [Err("the nats-server refuses nett.l.cmd.osl.>".to_owned()), Ok(())] {
        let (now, deaf) = (fleet.clock(), result.is_err());
        let controller = &mut fleet.agents.get_mut(&id("osl-b1")).expect("known").controller;
        controller.handle(Event::Hearing { result }, now);
        fleet.pass(Duration::from_secs(5));
        assert_eq!(fleet.snapshot("osl-b1").bus_heard, Some(!deaf));
        for asked in ["osl-b1", "svg-b1"] {
            let node = node_doc(&mut fleet, asked, "osl-b1");
            assert!(node.bus_connected, "{node:?}");
            assert_eq!(node.unheard.is_some(), deaf && asked == "osl-b1", "{node:?}");
            let says = |line: &String| line.starts_with("bus: ") && line.contains("nett.l.cmd");
            assert_eq!(node.degraded.iter().any(says), deaf, "{asked}: {node:?}");
        }
    }
}

#[test]
fn an_agent_that_lost_its_journal_wants_nothing_before_it_has_read_the_logs() {
    let mut fleet = Fleet::start();
    accepted(&fleet.command("mira", "osl", failover(API, "svg")));
    fleet.pass(Duration::from_secs(600));
    let moved = kernels(&fleet);
    let (before, after) = fleet.restart_without_journal("osl-b1");
    assert_eq!(before, 0, "what is in the kernel stays as it is");
    assert_eq!(after, 1, "one wish, which is what the kernel has");
    assert_eq!(kernels(&fleet), moved);
}

/// An entry that has another site's request in it is believed by nobody, and nothing behind it fits
/// any more: one command that was handed to the wrong node would end a site's log.
#[test]
fn a_request_for_another_site_leaves_nothing_in_the_log() {
    let mut fleet = Fleet::start();
    let ask = Ask::Command {
        verb: failover(API, "svg"),
        plan_hash: None,
        overrides: BTreeSet::new(),
        terms: Terms::default(),
    };
    let mut request = fleet.request("mira", "osl", ask);
    let told = fleet.send("svg-b1", &request);
    assert_eq!((told.accepted, told.refused_by.as_deref()), (false, Some("other-site")));
    assert_eq!(told.exit, 2, "{told:?}");
    assert_eq!(fleet.log("svg").len(), 0, "{:?}", fleet.log("svg"));
    // The site that it names decides about it all the same.
    accepted(&fleet.send("osl-b1", &request));
    // One that is late besides is refused for the same reason.
    request.id = id(&format!("osl.{:0>26}", 777));
    (request.issued_at.0, request.expires_at.0) = (1, 2);
    assert_eq!(fleet.send("svg-b1", &request).refused_by.as_deref(), Some("other-site"));
    assert_eq!(fleet.log("svg").len(), 0, "{:?}", fleet.log("svg"));
}
