//! The drain of a cluster whose services keep flows where they are: which steps there are, what the
//! kernels of the site are told in each of them, what ends the waiting, and the way back.

mod fleet;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fleet::{Fleet, id};
use nett_agent::api::types::{
    ApiRequest, CommandReply, Outcome, Payload, PlanDoc, StepDoc, StepStateDoc, VerbDoc,
};
use nett_agent::controller::event::Event;
use nett_agent::kernel::{Kernel, SimulatedKernel};
use nett_policy::fabric::{Cluster, Fabric, Family};
use nett_policy::id::{ClusterId, NodeId, ServiceId, SiteId, WallMs};
use nett_policy::log::entry::{Object, Terms, Verb, WishKind};
use nett_policy::lower::object::{Layout, Nexthop, NexthopId, NodeState, RouteTarget};
use nett_policy::lower::resilient::{left_over, wanted};
use nett_policy::plan::plan_kernel;
use nett_policy::service::{Backend, Resilient, Service, Shift};

const API: &str = "shop/prod/api";
/// The only node that hands to backends at osl.
const ROUTER: &str = "osl-r1";
const SECOND: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(20);

/// A fleet with a kernel at osl's route node that has buckets.
struct Scene {
    fleet: Fleet,
    kernel: SimulatedKernel,
}

/// Two clusters at osl, in each of which the service has a backend of each family.
fn two_clusters(fabric: &mut Fabric, services: &mut [Service], shift: Shift) {
    let clusters: [ClusterId; 2] = [id("osl/k1"), id("osl/k2")];
    fabric.clusters =
        clusters.iter().map(|cluster| Cluster { id: cluster.clone(), site: id("osl") }).collect();
    for service in services {
        let all = Arc::make_mut(&mut service.backends);
        if service.id != id::<ServiceId>(API) {
            all.values_mut().flatten().for_each(|backend| backend.cluster = None);
            continue;
        }
        service.shift = shift;
        let here = all.get_mut(&id::<SiteId>("osl")).expect("it is at osl");
        let others = ["10.1.20.62", "fd00:a:20::62"].map(|text| text.parse().expect("valid"));
        for (backend, address) in here.clone().into_iter().zip(others) {
            let cluster = Some(clusters[1].clone());
            here.push(Backend { address, cluster, ..backend });
        }
        here[..2].iter_mut().for_each(|backend| backend.cluster = Some(clusters[0].clone()));
    }
}

// === impl Scene ===

impl Scene {
    fn start() -> Self {
        Self::of(Shift::Resilient(Resilient { idle: IDLE, ..Resilient::USUAL }))
    }

    fn of(shift: Shift) -> Self {
        let fleet = Fleet::start_with(|fabric, services| two_clusters(fabric, services, shift));
        let node = fleet.fabric.node(&id::<NodeId>(ROUTER)).expect("a node");
        let outer = node.outer.clone().expect("a route node");
        let kernel = SimulatedKernel::new(&[node.core.as_str(), outer.as_str()]);
        let mut scene = Self { fleet, kernel };
        scene.follow();
        scene
    }

    fn wanted(&self) -> &NodeState {
        &self.fleet.agents[&id::<NodeId>(ROUTER)].kernel
    }

    /// Whether somebody waits for what buckets lead to.
    fn looks(&self) -> bool {
        self.fleet.agents[&id::<NodeId>(ROUTER)].looks
    }

    /// The kernel does what it was told.
    fn follow(&mut self) {
        for op in plan_kernel(self.wanted(), self.kernel.state()).ops {
            futures::executor::block_on(self.kernel.apply(&op)).expect("it can");
        }
    }

    /// A second passes, and the node looks at its buckets as the reconciler does.
    fn second(&mut self) {
        self.fleet.pass(SECOND);
        self.follow();
        let groups: BTreeSet<NexthopId> = left_over(self.wanted()).into_keys().collect();
        if self.looks() && !groups.is_empty() {
            let look = futures::executor::block_on(self.kernel.buckets(&groups));
            let filled = look.expect("the simulated kernel answers");
            self.fleet.step(&id(ROUTER), Event::Buckets { filled });
        }
        self.fleet.run();
        self.follow();
    }

    fn seconds(&mut self, count: u32) {
        (0..count).for_each(|_| self.second());
    }

    fn order(&mut self, verb: Verb, terms: Terms) -> CommandReply {
        self.fleet.command_with("mira", "osl", verb, &[], terms)
    }

    fn drain(&mut self, terms: Terms) -> String {
        let verb = Verb::Drain { object: Object::Cluster(id("osl/k1")) };
        accepted(&self.order(verb, terms))
    }

    fn undrain(&mut self, terms: Terms) -> String {
        let verb = Verb::Undrain { object: Object::Cluster(id("osl/k1")) };
        accepted(&self.order(verb, terms))
    }

    fn steps(&mut self, task: &str) -> Vec<StepDoc> {
        self.fleet.task("svg-r1", task).steps
    }

    fn kinds(&mut self, task: &str) -> Vec<String> {
        self.steps(task).into_iter().map(|step| step.kind).collect()
    }

    /// The state of a step by its place.
    fn step(&mut self, task: &str, place: usize) -> StepDoc {
        self.steps(task).swap_remove(place)
    }

    /// How many buckets are meant for each cluster in the service's groups that hand to backends.
    fn meant(&self) -> BTreeSet<[Option<bool>; 2]> {
        let state = self.wanted();
        let layout = Layout::default();
        let vips = ["10.99.0.10/32", "fd00:99::10/128"].map(|text| text.parse().expect("valid"));
        let mut all = BTreeSet::new();
        for (key, target) in &state.routes {
            let delivers = [layout.table_svc, layout.table_in].contains(&key.table);
            if !delivers || !vips.contains(&key.destination) {
                continue;
            }
            let RouteTarget::Nexthop(group) = target else { panic!("{key} is delivered") };
            let Nexthop::Group { members, buckets, .. } = &state.nexthops[group] else {
                panic!("{key} has a group")
            };
            let meant = match buckets {
                Some(buckets) => wanted(members, buckets.count),
                None => members.keys().map(|id| (*id, 1)).collect(),
            };
            let clusters = [["10.1.20.2", "fd00:a:20::2"], ["10.1.20.62", "fd00:a:20::62"]];
            all.insert(clusters.map(|cluster| share(state, &meant, &cluster)));
        }
        all
    }

    /// Whether flows use what leads to the first cluster now.
    fn use_first(&mut self, used: bool) {
        let state = self.wanted();
        let first = ["10.1.20.2", "fd00:a:20::2"];
        let of_first = state.nexthops.iter().filter(|(_, nexthop)| match nexthop {
            Nexthop::Single { gateway, .. } => first.contains(&gateway.to_string().as_str()),
            Nexthop::Group { .. } | Nexthop::Blackhole { .. } => false,
        });
        let ids: Vec<NexthopId> = of_first.map(|(id, _)| *id).collect();
        assert!(!ids.is_empty());
        ids.into_iter().for_each(|id| self.kernel.use_buckets(id, used));
    }
}

/// Whether any bucket is meant for the backends at these addresses; `None` where they are no
/// members.
fn share(
    state: &NodeState,
    meant: &BTreeMap<NexthopId, u32>,
    addresses: &[&str; 2],
) -> Option<bool> {
    let own = meant.iter().find(|(id, _)| match &state.nexthops[*id] {
        Nexthop::Single { gateway, .. } => addresses.contains(&gateway.to_string().as_str()),
        Nexthop::Group { .. } | Nexthop::Blackhole { .. } => false,
    });
    own.map(|(_, count)| *count > 0)
}

fn accepted(reply: &CommandReply) -> String {
    assert!(reply.accepted, "{reply:?}");
    reply.task.clone().expect("a task")
}

fn all(clusters: [Option<bool>; 2]) -> BTreeSet<[Option<bool>; 2]> {
    BTreeSet::from([clusters])
}

/// Both clusters are served, the first keeps what it has, the first is left.
const BOTH: [Option<bool>; 2] = [Some(true), Some(true)];
const EASING: [Option<bool>; 2] = [Some(false), Some(true)];
const LEFT: [Option<bool>; 2] = [None, Some(true)];

#[test]
fn flows_in_use_hold_the_cluster_and_it_is_left_after_them() {
    let mut scene = Scene::start();
    assert_eq!(scene.meant(), all(BOTH));
    scene.use_first(true);
    let task = scene.drain(Terms::default());
    scene.seconds(30);
    assert_eq!(scene.kinds(&task), ["reroute", "drained", "reroute"]);
    assert_eq!(scene.meant(), all(EASING));
    let step = scene.step(&task, 1);
    assert_eq!(step.state, StepStateDoc::Started);
    let [ack] = &step.acknowledge[..] else { panic!("{:?}", step.acknowledge) };
    assert_eq!(ack.node, ROUTER, "borders do not hand to backends");
    let told = ack.told.join("; ");
    assert!(told.contains(" buckets lead to osl/k1, "), "{told}");

    scene.use_first(false);
    scene.seconds(3);
    let shown = scene.fleet.task("svg-r1", &task);
    assert_eq!((shown.state.as_str(), shown.outcome_reason.as_str()), ("done", ""));
    let evidence = &shown.steps[1].evidence;
    assert_eq!(evidence[0], "measured: what was left is quiet");
    assert!(evidence[1].contains("osl-r1: measured: no bucket leads to osl/k1"), "{evidence:?}");
    assert!(shown.times.drained.is_some());
    assert_eq!(scene.meant(), all(LEFT));
}

/// A group with one member has not noted what is in use: the backends come back as members first.
#[test]
fn what_comes_back_is_a_member_for_one_idle_time_before_it_gets_buckets() {
    let mut scene = Scene::start();
    let before = scene.wanted().nexthops.clone();
    scene.drain(Terms::default());
    scene.seconds(3);
    assert_eq!(scene.meant(), all(LEFT));
    let back = scene.undrain(Terms::default());
    scene.seconds(u32::try_from(IDLE.as_secs()).expect("short") - 2);
    assert_eq!(scene.kinds(&back), ["reroute", "reroute"]);
    assert_eq!(scene.meant(), all(EASING));
    scene.seconds(4);
    assert_eq!(scene.fleet.task_state("svg-r1", &back), "done");
    assert_eq!(scene.wanted().nexthops, before);
}

/// Who goes back before the end finds everything noted, and waits for nothing.
#[test]
fn going_back_while_flows_are_left_moves_none_and_takes_one_step() {
    let mut scene = Scene::start();
    scene.use_first(true);
    let task = scene.drain(Terms::default());
    scene.seconds(5);
    scene.fleet.told.clear();
    let back = scene.undrain(Terms { supersede: true, ..Terms::default() });
    scene.seconds(2);
    assert_eq!(scene.fleet.task_state("svg-r1", &task), "superseded");
    assert_eq!(scene.kinds(&back), ["reroute"]);
    assert_eq!(scene.fleet.task_state("svg-r1", &back), "done");
    assert_eq!(scene.meant(), all(BOTH));
    let first = NexthopId::backend(0)..NexthopId::site(0, Family::V4);
    let own = scene.fleet.told.iter().filter(|(node, _)| *node == id(ROUTER));
    for (_, state) in own {
        let mut groups = state.nexthops.values().filter_map(|nexthop| match nexthop {
            Nexthop::Group { members, buckets: Some(_), .. } => Some(members),
            _ => None,
        });
        let two = |m: &BTreeMap<_, _>| m.keys().filter(|id| first.contains(*id)).count() == 2;
        assert!(groups.all(two), "a member that goes takes its flows along: {state:?}");
    }
}

/// Cancelling moves nobody; to be rid of what is left, one drains again.
#[test]
fn a_cancelled_drain_leaves_flows_where_they_are_and_can_be_given_again() {
    let mut scene = Scene::start();
    scene.use_first(true);
    let task = scene.drain(Terms::default());
    scene.seconds(5);
    assert!(scene.looks());
    scene.fleet.wish("mira", "osl", &task, WishKind::Cancel);
    scene.seconds(2);
    assert_eq!(scene.fleet.task_state("svg-r1", &task), "cancelled");
    assert_eq!(scene.meant(), all(EASING));
    assert!(!scene.looks(), "nobody waits for it any more");
    let again = scene.drain(Terms::default());
    scene.seconds(2);
    scene.use_first(false);
    scene.seconds(3);
    assert_eq!(scene.fleet.task_state("svg-r1", &again), "done");
    assert_eq!(scene.meant(), all(LEFT));
    assert!(!scene.looks());
    let verb = Verb::Drain { object: Object::Cluster(id("osl/k1")) };
    let third = scene.order(verb, Terms::default());
    assert_eq!(third.refused_by.as_deref(), Some("no-change"), "{third:?}");
}

/// The end of a drain is one, also where it is cut short.
#[test]
fn a_cancelled_undrain_has_its_share_at_once() {
    let mut scene = Scene::start();
    scene.drain(Terms::default());
    scene.seconds(3);
    let back = scene.undrain(Terms::default());
    scene.seconds(3);
    assert_eq!(scene.meant(), all(EASING));
    scene.fleet.wish("mira", "osl", &back, WishKind::Cancel);
    scene.seconds(2);
    assert_eq!(scene.fleet.task_state("svg-r1", &back), "cancelled");
    assert_eq!(scene.meant(), all(BOTH));
}

#[test]
fn who_does_not_end_is_told_of_and_moved_when_the_time_is_over() {
    let mut scene = Scene::start();
    scene.use_first(true);
    let until = WallMs(scene.fleet.clock().wall.0 + 20_000);
    let task = scene.drain(Terms { until: Some(until), ..Terms::default() });
    scene.seconds(18);
    assert_eq!(scene.meant(), all(EASING));
    scene.seconds(5);
    let shown = scene.fleet.task("svg-r1", &task);
    assert_eq!(shown.state.as_str(), "done");
    let because = &shown.outcome_reason;
    assert!(because.starts_with("not drained: osl-r1 "), "{because}");
    assert!(because.contains("buckets lead to osl/k1"), "{because}");
    assert_eq!(shown.times.drained, None);
    assert_eq!(scene.meant(), all(LEFT));
}

/// Taking a command back is for when something is wrong: nobody waits then.
#[test]
fn a_revert_moves_flows_at_once() {
    let mut scene = Scene::start();
    let task = scene.drain(Terms::default());
    scene.seconds(3);
    let back = accepted(&scene.order(Verb::Revert { task: id(&task) }, Terms::default()));
    scene.seconds(2);
    assert_eq!(scene.kinds(&back), ["reroute"]);
    assert_eq!(scene.meant(), all(BOTH));
    scene.use_first(true);
    let again = accepted(&scene.order(Verb::Revert { task: id(&back) }, Terms::default()));
    scene.seconds(2);
    assert_eq!((scene.kinds(&again), scene.meant()), (vec!["reroute".to_owned()], all(LEFT)));
}

/// A node that does not look has no say; its silence ends after five minutes, since leaving moves
/// flows.
#[test]
fn a_node_that_says_nothing_is_named() {
    let mut scene = Scene::start();
    scene.use_first(true);
    let task = scene.drain(Terms::default());
    scene.seconds(3);
    scene.fleet.silent.insert(id(ROUTER));
    scene.fleet.pass(Duration::from_secs(200));
    assert_eq!(scene.step(&task, 1).state, StepStateDoc::Started);
    scene.fleet.pass(Duration::from_secs(150));
    let step = scene.step(&task, 1);
    let verdict = &step.evidence[0];
    assert!(verdict.starts_with("unmeasured: osl-r1 has not reported for 3"), "{verdict}");
}

#[test]
fn without_such_a_service_it_is_one_step() {
    let mut scene = Scene::of(Shift::Plain);
    let task = scene.drain(Terms::default());
    scene.seconds(2);
    assert_eq!((scene.kinds(&task), scene.meant()), (vec!["reroute".to_owned()], all(LEFT)));
    let back = scene.undrain(Terms::default());
    scene.seconds(2);
    assert_eq!((scene.kinds(&back), scene.meant()), (vec!["reroute".to_owned()], all(BOTH)));
}

fn planned(scene: &mut Scene, verb: &Verb) -> PlanDoc {
    let verb = VerbDoc::from(verb);
    let plan = ApiRequest::Plan { verb, overrides: [].into(), terms: None };
    let Outcome::Ok(payload) = scene.fleet.ask("osl-r1", plan) else { panic!("answered") };
    let Payload::Plan(plan) = *payload else { panic!("{payload:?}") };
    plan
}

#[test]
fn the_plan_says_what_stays_and_what_ends_it() {
    let mut scene = Scene::start();
    let said = |plan: &PlanDoc| -> Vec<String> {
        let lines = plan.steps.iter().map(|step| (step.number, &step.remarks));
        lines.flat_map(|(n, all)| all.iter().map(move |line| format!("{n}: {line}"))).collect()
    };
    let cluster = Object::Cluster(id("osl/k1"));
    let plan = planned(&mut scene, &Verb::Drain { object: cluster.clone() });
    let expected = [
        "0: where flows stay (`shift = \"resilient\"`), those in use go on to osl/k1",
        "2: waits until no flow in use leads to osl/k1; after 3620 s, or when --until has come, it \
         goes on all the same and says what is left",
        "3: osl/k1 is left: flows that still go there move",
    ];
    assert_eq!(said(&plan), expected);
    let changes = |plan: &PlanDoc, n: u32| {
        let step = plan.steps.iter().find(|step| step.number == n).expect("a step");
        step.nodes.iter().map(|node| node.node.clone()).collect::<Vec<_>>()
    };
    assert_eq!(changes(&plan, 0), [ROUTER], "buckets are meant for others");
    assert_eq!(changes(&plan, 3), [ROUTER], "the members leave");
    let task = scene.drain(Terms::default());
    scene.seconds(3);
    assert_eq!(scene.fleet.task("svg-r1", &task).plan_hash, plan.plan_hash);
    let plan = planned(&mut scene, &Verb::Undrain { object: cluster });
    assert_eq!(said(&plan), ["2: osl/k1 gets its share as flows fall idle"]);
}
