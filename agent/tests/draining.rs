//! The step that waits until what still comes is measured to be gone: who counts, what ends it, and
//! what its end says.

mod fleet;

use std::collections::BTreeMap;
use std::time::Duration;

use fleet::{Fleet, id};
use nett_agent::api::types::{
    ApiRequest, CommandReply, DrainedRow, Outcome, Payload, StepDoc, StepStateDoc, TermsDoc,
    VerbDoc,
};
use nett_agent::controller::event::Event;
use nett_policy::fabric::Family;
use nett_policy::id::{NodeId, ServiceId, WallMs};
use nett_policy::log::entry::{Object, Terms, Verb, WishKind};
use nett_policy::lower::object::{
    Guard, GuardElement, GuardSet, Layout, Nexthop, NexthopId, NodeState, RouteKey, RouteTarget,
    Subject,
};
use nett_policy::service::{Drain, Service};

const API: &str = "shop/prod/api";
const LEFT: [&str; 2] = ["osl-b1", "osl-r1"];
const SECOND: Duration = Duration::from_secs(1);

/// What the kernels of the left site have counted, each of its counters alike.
struct Kernels {
    fleet: Fleet,
    counted: BTreeMap<(String, GuardSet), u64>,
    /// What elements have counted besides, at each node.
    of_vips: BTreeMap<GuardElement, u64>,
    /// A node that neither looks nor says anything.
    dead: Option<&'static str>,
}

impl Kernels {
    /// A fleet in which the service waits for three seconds below two packets a second.
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    fn start_with(change: impl FnOnce(&mut Vec<Service>)) -> Self {
        let fleet = Fleet::start_with(|_, services| {
            change(services);
            for service in services.iter_mut().filter(|s| s.id == id::<ServiceId>(API)) {
                service.drain = Some(Drain { pps: 2, dwell: 3 * SECOND });
                service.sticky = Duration::ZERO;
            }
        });
        Self { fleet, counted: BTreeMap::new(), of_vips: BTreeMap::new(), dead: None }
    }

    fn kill(&mut self, node: &'static str) {
        self.dead = Some(node);
        self.fleet.silent.insert(id(node));
    }

    fn pass_packets(&mut self, node: &str, set: GuardSet, packets: u64) {
        *self.counted.entry((node.to_owned(), set)).or_default() += packets;
    }

    /// The elements of its nft table that count.
    fn elements(&self, node: &str) -> Vec<GuardElement> {
        let guard = self.fleet.agents[&id::<NodeId>(node)].kernel.guard.as_ref();
        guard.into_iter().flat_map(|guard| guard.counted().copied().collect::<Vec<_>>()).collect()
    }

    /// A second passes and the nodes look at what they have counted.
    fn second(&mut self) {
        self.fleet.pass(SECOND);
        for node in LEFT {
            let elements = self.elements(node);
            if elements.is_empty() || self.dead == Some(node) {
                continue;
            }
            // One family is enough.
            let mut packets: BTreeMap<GuardElement, u64> = BTreeMap::new();
            for element in elements {
                let first = !packets.keys().any(|other| other.set == element.set);
                let counted = self.counted.get(&(node.to_owned(), element.set)).copied();
                let counted = counted.filter(|_| first).unwrap_or_default();
                let own = self.of_vips.get(&element).copied().unwrap_or_default();
                packets.insert(element, counted + own);
            }
            self.fleet.step(&id(node), Event::Watched { packets });
        }
        self.fleet.run();
    }

    fn seconds(&mut self, count: u32) {
        (0..count).for_each(|_| self.second());
    }

    fn last_step(&mut self, task: &str) -> StepDoc {
        self.fleet.task("svg-r1", task).steps.pop().expect("a task has steps")
    }
}

fn accepted(reply: &CommandReply) -> String {
    assert!(reply.accepted, "{reply:?}");
    reply.task.clone().expect("a task")
}

fn failover() -> Verb {
    Verb::Failover { services: id(API), to: id("svg") }
}

#[test]
fn the_last_step_ends_when_every_node_has_counted_quiet() {
    let mut kernels = Kernels::start();
    assert!(LEFT.iter().all(|node| kernels.elements(node).is_empty()), "nothing is left");
    kernels.pass_packets("osl-r1", GuardSet::CountIn, 500);
    kernels.pass_packets("osl-r1", GuardSet::CountFrom, 400);
    let task = accepted(&kernels.fleet.command("mira", "osl", failover()));
    kernels.second();
    let step = kernels.last_step(&task);
    assert_eq!((step.kind.as_str(), step.state), ("drained", StepStateDoc::Started));
    let waits: Vec<&str> = step.acknowledge.iter().map(|ack| ack.node.as_str()).collect();
    assert_eq!(waits, LEFT, "those that count");
    assert!(kernels.elements("svg-b1").is_empty(), "nobody leaves svg");

    for _ in 0..20 {
        kernels.pass_packets("osl-b1", GuardSet::CountTo, 12);
        kernels.second();
    }
    let step = kernels.last_step(&task);
    assert_eq!(step.state, StepStateDoc::Started, "somebody still comes");
    let told = |step: &StepDoc, node| {
        let ack = step.acknowledge.iter().find(|ack| ack.node == node).expect("it counts");
        (ack.acked, ack.told.join(" "))
    };
    assert_eq!(told(&step, "osl-b1").1, "12/s to it, 0/s from it, quiet for 0 s of 3 s");
    assert!(told(&step, "osl-r1").0, "it was quiet all the time");

    kernels.seconds(2);
    assert_eq!(kernels.last_step(&task).state, StepStateDoc::Started, "not for long enough");
    kernels.second();
    let shown = kernels.fleet.task("svg-r1", &task);
    assert_eq!((shown.state.as_str(), shown.outcome_reason.as_str()), ("done", ""));
    let evidence = &shown.steps.last().expect("it has steps").evidence;
    assert_eq!(evidence[0], "measured: what was left is quiet");
    assert!(evidence[1].contains("osl-b1: measured: below 2/s for 3 s"), "{evidence:?}");
    assert!(shown.times.drained.is_some() && shown.times.drained == shown.ended_at);
    assert!(LEFT.iter().all(|node| kernels.elements(node).is_empty()), "nobody counts any more");
}

/// The move works: that somebody keeps coming to where it was takes nothing back.
#[test]
fn who_keeps_coming_is_told_of_and_the_move_stays() {
    let mut kernels = Kernels::start();
    let task = accepted(&kernels.fleet.command("mira", "osl", failover()));
    for _ in 0..70 {
        kernels.pass_packets("osl-b1", GuardSet::CountTo, 12);
        kernels.second();
    }
    let shown = kernels.fleet.task("svg-r1", &task);
    assert_eq!(shown.state.as_str(), "done");
    let because = &shown.outcome_reason;
    assert!(because.starts_with("not drained: osl-b1 12/s to it"), "{because}");
    assert_eq!(shown.times.drained, None);
    let zone = &kernels.fleet.agents[&id::<NodeId>("osl-b1")].zone[&id::<ServiceId>(API)];
    assert_eq!(zone.standing.spread.percent(&id("svg")), 100);
}

#[test]
fn counters_that_never_moved_are_no_proof() {
    let mut kernels = Kernels::start();
    let task = accepted(&kernels.fleet.command("mira", "osl", failover()));
    kernels.seconds(6);
    let shown = kernels.fleet.task("svg-r1", &task);
    assert_eq!(shown.state.as_str(), "done");
    let because = &shown.outcome_reason;
    assert_eq!(because, "unmeasured: no counter of what was left has ever moved");
    assert_eq!(shown.times.drained, None);
}

/// A node that does not look has no say, and holds nobody up for ever.
#[test]
fn nodes_that_do_not_count_are_named() {
    let mut kernels = Kernels::start();
    let task = accepted(&kernels.fleet.command("mira", "osl", failover()));
    kernels.fleet.pass(Duration::from_secs(70));
    let shown = kernels.fleet.task("svg-r1", &task);
    let because = &shown.outcome_reason;
    assert_eq!(because, "unmeasured: osl-b1, osl-r1 does not say what still comes");
}

#[test]
fn a_drain_waits_no_longer_than_it_is_meant_to_last() {
    let mut kernels = Kernels::start();
    let object = Object::ServiceAt(id(API), id("osl"));
    let until = WallMs(kernels.fleet.clock().wall.0 + 20_000);
    let terms = Terms { until: Some(until), ..Terms::default() };
    let drain = Verb::Drain { object };
    let opened = kernels.fleet.command_with("mira", "osl", drain, &[], terms);
    let task = accepted(&opened);
    for _ in 0..19 {
        kernels.pass_packets("osl-b1", GuardSet::CountTo, 9);
        kernels.second();
    }
    assert_eq!(kernels.last_step(&task).state, StepStateDoc::Started);
    kernels.pass_packets("osl-b1", GuardSet::CountTo, 9);
    kernels.seconds(2);
    let because = kernels.fleet.task("svg-r1", &task).outcome_reason;
    assert!(because.starts_with("not drained: osl-b1 9/s to it"), "{because}");
}

/// Whoever does not want to wait cancels or reverts: everything is where the move brought it.
#[test]
fn the_waiting_can_be_cancelled_and_the_move_reverted() {
    let mut kernels = Kernels::start();
    let task = accepted(&kernels.fleet.command("mira", "osl", failover()));
    for _ in 0..5 {
        kernels.pass_packets("osl-b1", GuardSet::CountTo, 12);
        kernels.second();
    }
    kernels.fleet.wish("mira", "osl", &task, WishKind::Cancel);
    kernels.fleet.pass(SECOND);
    assert_eq!(kernels.fleet.task_state("svg-r1", &task), "cancelled");
    assert!(kernels.elements("osl-b1").is_empty());
    let back = accepted(&kernels.fleet.command("mira", "osl", Verb::Revert { task: id(&task) }));
    kernels.seconds(4);
    let step = kernels.last_step(&back);
    assert_eq!((step.kind.as_str(), step.acknowledge.len()), ("drained", 2), "svg is left now");
    assert!(step.acknowledge.iter().all(|ack| ack.node.starts_with("svg")), "{step:?}");
    let zone = &kernels.fleet.agents[&id::<NodeId>("svg-b1")].zone[&id::<ServiceId>(API)];
    assert_eq!(zone.standing.spread.percent(&id("osl")), 100);
}

fn softly(kernels: &mut Kernels) -> CommandReply {
    let drain = Verb::Drain { object: Object::ServiceAt(id(API), id("osl")) };
    let terms = Terms { soft: true, ..Terms::default() };
    kernels.fleet.command_with("mira", "osl", drain, &[], terms)
}

/// Whether a node keeps connections where they went, and the marks that its rules look up.
fn keeps(kernels: &Kernels, node: &str) -> (bool, Vec<u32>) {
    let kernel = &kernels.fleet.agents[&id::<NodeId>(node)].kernel;
    let marks = kernel.rules.iter().filter_map(|rule| Some(rule.fwmark?.0));
    let mut kept: Vec<u32> = marks.filter(|mark| mark & 0x3000 == 0x3000).collect();
    kept.sort_unstable();
    kept.dedup();
    (kernel.guard.as_ref().is_some_and(Guard::keeps), kept)
}

/// New connections go on at once; what is established is measured before the site is closed.
#[test]
fn a_soft_drain_measures_before_it_closes() {
    let mut kernels = Kernels::start();
    kernels.pass_packets("osl-r1", GuardSet::CountIn, 500);
    let task = accepted(&softly(&mut kernels));
    kernels.second();
    let kinds = |kernels: &mut Kernels| -> Vec<String> {
        kernels.fleet.task("svg-r1", &task).steps.into_iter().map(|step| step.kind).collect()
    };
    let all = kinds(&mut kernels);
    assert_eq!(all[all.len() - 3..], ["shift", "drained", "withdraw"], "{all:?}");
    // Each link of the border; at a route node its border and the way into the site.
    assert_eq!(keeps(&kernels, "osl-b1").1.len(), 2, "{:?}", keeps(&kernels, "osl-b1"));
    for node in ["osl-b1", "osl-r1", "svg-b1", "svg-r1"] {
        assert!(keeps(&kernels, node).0, "{node}");
    }
    assert!(keeps(&kernels, "osl-r1").1.contains(&0x3000), "{:?}", keeps(&kernels, "osl-r1"));
    let zone = |kernels: &Kernels| {
        let zone = &kernels.fleet.agents[&id::<NodeId>("osl-b1")].zone[&id::<ServiceId>(API)];
        zone.standing.spread.percent(&id("svg"))
    };
    assert_eq!(zone(&kernels), 100, "new ones are told of svg");
    for _ in 0..100 {
        kernels.pass_packets("osl-r1", GuardSet::CountTo, 5);
        kernels.second();
    }
    let drained = |kernels: &mut Kernels| {
        let steps = kernels.fleet.task("svg-r1", &task).steps;
        steps.into_iter().find(|step| step.kind == "drained").expect("it has one")
    };
    assert_eq!(drained(&mut kernels).state, StepStateDoc::Started, "a connection is left");
    kernels.seconds(5);
    let shown = kernels.fleet.task("svg-r1", &task);
    assert_eq!((shown.state.as_str(), shown.outcome_reason.as_str()), ("done", ""));
    let times = &shown.times;
    assert!(times.drained.is_some() && times.drained <= times.withdrawn, "{times:?}");
    for node in ["osl-b1", "osl-r1", "svg-b1", "svg-r1"] {
        assert_eq!(keeps(&kernels, node), (false, Vec::new()), "{node}");
    }
}

/// Who does not end is told of, and loses the connection with the site.
#[test]
fn a_soft_drain_becomes_hard_when_its_time_is_over() {
    let mut kernels = Kernels::start();
    let task = accepted(&softly(&mut kernels));
    for _ in 0..3610 {
        kernels.pass_packets("osl-r1", GuardSet::CountTo, 5);
        kernels.second();
    }
    let shown = kernels.fleet.task("svg-r1", &task);
    assert_eq!(shown.state.as_str(), "done");
    let because = &shown.outcome_reason;
    assert!(because.starts_with("not drained: osl-r1 5/s to it"), "{because}");
    assert!(!keeps(&kernels, "osl-r1").0);
}

/// The states of a node's kernel from now on in which its clients are sent elsewhere, and whether
/// each of them keeps what is established.
fn away_and_kept(kernels: &Kernels, node: &str) -> Vec<bool> {
    let own = kernels.fleet.told.iter().filter(|(of, _)| *of == id(node)).map(|(_, state)| state);
    let vip = "10.99.0.10/32".parse().expect("a prefix");
    let layout = Layout::default();
    let key = RouteKey { table: layout.table_svc, destination: vip, metric: Layout::METRIC_ACTIVE };
    let home = NexthopId::node(0, Family::V4);
    let away = |state: &&NodeState| {
        let Some(RouteTarget::Nexthop(id)) = state.routes.get(&key) else { return false };
        match &state.nexthops[id] {
            // The way out of a route node is its border, the first node of the fabric.
            Nexthop::Group { members, .. } => members.contains_key(&home),
            Nexthop::Single { .. } | Nexthop::Blackhole { .. } => *id == home,
        }
    };
    own.filter(away).map(|state| state.guard.as_ref().is_some_and(Guard::keeps)).collect()
}

/// Who goes back while connections are kept resets none of them: they stay until the first step
/// has moved the service home, and go on there.
#[test]
fn undrain_leaves_kept_connections_where_they_are() {
    let mut kernels = Kernels::start();
    let task = accepted(&softly(&mut kernels));
    for _ in 0..5 {
        kernels.pass_packets("osl-r1", GuardSet::CountTo, 5);
        kernels.second();
    }
    kernels.fleet.told.clear();
    let object = Object::ServiceAt(id(API), id("osl"));
    let terms = Terms { supersede: true, ..Terms::default() };
    let undrain = Verb::Undrain { object };
    let back = accepted(&kernels.fleet.command_with("mira", "osl", undrain, &[], terms));
    kernels.seconds(1);
    assert_eq!(kernels.fleet.task_state("svg-r1", &task), "superseded");
    let kept = away_and_kept(&kernels, "osl-r1");
    assert!(kept.iter().all(|kept| *kept), "a state on the way back keeps nothing: {kept:?}");
    kernels.seconds(3);
    let step = kernels.last_step(&back);
    assert_eq!((step.kind.as_str(), step.state), ("drained", StepStateDoc::Started));
    assert!(!keeps(&kernels, "osl-r1").0 && !keeps(&kernels, "svg-b1").0);
}

/// Cancelling says stop, and not reset: what was kept is kept until the next task.
#[test]
fn a_cancelled_soft_drain_keeps_what_it_kept_and_can_be_reverted() {
    let mut kernels = Kernels::start();
    let task = accepted(&softly(&mut kernels));
    for _ in 0..5 {
        kernels.pass_packets("osl-r1", GuardSet::CountTo, 5);
        kernels.second();
    }
    kernels.fleet.told.clear();
    kernels.fleet.wish("mira", "osl", &task, WishKind::Cancel);
    kernels.fleet.pass(SECOND);
    assert_eq!(kernels.fleet.task_state("svg-r1", &task), "cancelled");
    assert!(keeps(&kernels, "osl-r1").0 && keeps(&kernels, "svg-b1").0);
    assert!(LEFT.iter().all(|node| kernels.elements(node).is_empty()), "nobody counts any more");
    let row = kept_row(&mut kernels);
    assert_eq!((row.state.as_str(), row.pps), ("unmeasured", 0), "{row:?}");
    let back = accepted(&kernels.fleet.command("mira", "osl", Verb::Revert { task: id(&task) }));
    let kept = away_and_kept(&kernels, "osl-r1");
    assert!(kept.iter().all(|kept| *kept), "a state on the way back keeps nothing: {kept:?}");
    kernels.seconds(4);
    assert!(!keeps(&kernels, "osl-r1").0 && !keeps(&kernels, "svg-b1").0);
    let zone = &kernels.fleet.agents[&id::<NodeId>("svg-b1")].zone[&id::<ServiceId>(API)];
    assert_eq!(
        zone.standing.spread.percent(&id("osl")),
        100,
        "{}",
        kernels.fleet.task_state("osl-b1", &back)
    );
}

fn kept_row(kernels: &mut Kernels) -> DrainedRow {
    let Outcome::Ok(payload) = kernels.fleet.ask("svg-r1", ApiRequest::Drained {}) else {
        panic!("answered");
    };
    let Payload::Drained(doc) = *payload else { panic!("{payload:?}") };
    let kept = doc.rows.into_iter().find(|row| row.object.starts_with("connections of"));
    kept.expect("connections are kept")
}

/// Each waits for its own services, although they are of one class.
#[test]
fn two_soft_drains_of_one_class_are_measured_apart() {
    const CART: &str = "shop/prod/cart";
    let vip = |text: &str| Subject::Vip(text.parse().expect("an address"));
    let mut kernels = Kernels::start_with(|services| {
        let mut cart = services.iter().find(|s| s.id == id(API)).expect("it is there").clone();
        cart.id = id(CART);
        cart.vips = ["10.99.0.11", "fd00:99::11"].map(|vip| vip.parse().expect("valid")).into();
        services.push(cart);
    });
    let first = accepted(&softly(&mut kernels));
    let drain = Verb::Drain { object: Object::ServiceAt(id(CART), id("osl")) };
    let terms = Terms { soft: true, ..Terms::default() };
    let second = accepted(&kernels.fleet.command_with("mira", "osl", drain, &[], terms));
    for _ in 0..20 {
        // A class, if they should be counted as one, has the packets of both.
        for element in kernels.elements("osl-r1") {
            let of_class = matches!(element.subject, Subject::Class(_));
            if element.subject == vip("10.99.0.11") || of_class {
                *kernels.of_vips.entry(element).or_default() += 5;
            }
        }
        kernels.second();
    }
    assert_eq!(kernels.fleet.task_state("svg-r1", &first), "done", "its service is quiet");
    let open = kernels.last_step(&second);
    assert_eq!(kernels.fleet.task_state("svg-r1", &second), "running", "{open:?}");
    // It has the usual dwell of ten seconds.
    kernels.seconds(15);
    assert_eq!(kernels.fleet.task_state("svg-r1", &second), "done");
}

/// Whose agent is dead is named at once, and holds nobody up until the limit of the step.
#[test]
fn a_dead_node_is_named_and_what_it_told_before_is_no_verdict() {
    let mut kernels = Kernels::start();
    let task = accepted(&kernels.fleet.command("mira", "osl", failover()));
    for _ in 0..5 {
        kernels.pass_packets("osl-b1", GuardSet::CountTo, 12);
        kernels.second();
    }
    kernels.kill("osl-b1");
    kernels.pass_packets("osl-r1", GuardSet::CountTo, 12);
    kernels.seconds(15);
    let step = kernels.last_step(&task);
    let ack = step.acknowledge.iter().find(|ack| ack.node == "osl-b1").expect("it is asked");
    assert!(ack.told[0].starts_with("has not reported for 1"), "{:?}", ack.told);
    assert!(ack.told[0].ends_with("no verdict"), "{:?}", ack.told);
    kernels.seconds(20);
    let shown = kernels.fleet.task("svg-r1", &task);
    let because = &shown.outcome_reason;
    assert!(because.starts_with("unmeasured: osl-b1 has not reported for 3"), "{because}");
    let waited = shown.ended_at.expect("over").ms() - shown.effective_at.expect("begun").ms();
    assert!(waited < 45_000, "{waited} ms");
    assert_eq!(shown.times.drained, None);
}

/// Where closing ends connections, an agent gets the time to be replaced.
#[test]
fn a_soft_drain_waits_longer_for_a_dead_node() {
    let mut kernels = Kernels::start();
    let task = accepted(&softly(&mut kernels));
    kernels.second();
    kernels.kill("osl-b1");
    let drained = |kernels: &mut Kernels| {
        let steps = kernels.fleet.task("svg-r1", &task).steps;
        steps.into_iter().find(|step| step.kind == "drained").expect("it has one")
    };
    kernels.seconds(200);
    assert_eq!(drained(&mut kernels).state, StepStateDoc::Started);
    kernels.seconds(120);
    let step = drained(&mut kernels);
    assert_eq!(step.state, StepStateDoc::Done);
    let verdict = &step.evidence[0];
    assert!(verdict.starts_with("unmeasured: osl-b1 has not reported for 3"), "{verdict}");
}

#[test]
fn plan_and_proof_say_that_connections_stay_and_what_ends_them() {
    let mut kernels = Kernels::start();
    let drain = Verb::Drain { object: Object::ServiceAt(id(API), id("osl")) };
    let terms = Terms { soft: true, ..Terms::default() };
    let verb = VerbDoc::from(&drain);
    let terms = Some(TermsDoc::from(&terms));
    let plan = ApiRequest::Plan { verb, overrides: [].into(), terms };
    let Outcome::Ok(payload) = kernels.fleet.ask("osl-r1", plan) else { panic!("answered") };
    let Payload::Plan(plan) = *payload else { panic!("{payload:?}") };
    let said: Vec<String> = plan
        .steps
        .iter()
        .flat_map(|step| step.remarks.iter().map(|line| format!("{}: {line}", step.number)))
        .collect();
    let last = plan.steps.last().expect("it has steps").number;
    let expected = [
        "0: established connections stay at osl".to_owned(),
        format!("{}: new connections go to svg, established ones stay at osl", last - 2),
        format!(
            "{}: waits until what stays at osl is measured to be below 2/s in both directions for \
             3 s; after 3603 s, or when --until has come, it goes on all the same and says what is \
             left",
            last - 1
        ),
        format!("{last}: osl is closed: who still has a connection there is reset"),
    ];
    assert_eq!(said, expected);

    kernels.pass_packets("osl-r1", GuardSet::CountIn, 500);
    accepted(&softly(&mut kernels));
    for _ in 0..5 {
        kernels.pass_packets("osl-r1", GuardSet::CountTo, 5);
        kernels.second();
    }
    let row = kept_row(&mut kernels);
    assert_eq!(row.object, "connections of shop/prod/api at osl");
    assert_eq!((row.state.as_str(), row.pps), ("keeping", 5));
    assert!(row.measured.contains("osl-r1: 5/s to it, 0/s from it"), "{row:?}");
}

#[test]
fn what_cannot_be_soft_is_refused_by_name() {
    let mut kernels = Kernels::start();
    let soft = || Terms { soft: true, ..Terms::default() };
    let mut refused = |object: Object| {
        let drain = Verb::Drain { object };
        let reply = kernels.fleet.command_with("odd", "osl", drain, &["gate"], soft());
        assert_eq!(reply.refused_by.as_deref(), Some("soft"), "{reply:?}");
        reply.message
    };
    let node = refused(Object::Node(id("osl-b1")));
    assert!(node.contains("only the drain of a site"), "{node}");
    let site = refused(Object::Site(id("osl")));
    assert!(site.contains("shop/prod/pay is handed over break-before-make"), "{site}");
}

#[test]
fn without_the_setting_there_is_no_such_step() {
    let mut fleet = Fleet::start_with(|_, services| {
        services.iter_mut().for_each(|service| service.sticky = Duration::ZERO);
    });
    let task = accepted(&fleet.command("mira", "osl", failover()));
    fleet.pass(SECOND);
    let shown = fleet.task("svg-r1", &task);
    assert_eq!(shown.state.as_str(), "done");
    assert!(shown.steps.iter().all(|step| step.kind != "drained"), "{:?}", shown.steps);
}
