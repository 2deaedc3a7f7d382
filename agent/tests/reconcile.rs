//! The reconciler over a simulated kernel that loses, refuses and changes things behind its back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipnet::IpNet;
use nett_agent::controller::event::{Applied, Event, News};
use nett_agent::kernel::{
    Count, Foreign, Kernel, KernelError, KernelEvent, Origin, Parts, Readback, SimulatedKernel,
};
use nett_agent::probe::bfd::packet::{Diagnostic, State};
use nett_agent::probe::bfd::{PathView, Presence, Views};
use nett_agent::reconcile::{Changes, LEFT_ALONE, OwnLink, REPAIRS, Reconciler, Wanted};
use nett_agent::rng::Rng;
use nett_agent::telemetry::Metrics;
use nett_policy::fabric::Family;
use nett_policy::id::Weight;
use nett_policy::lower::object::{
    Guard, GuardKind, Layout, Nexthop, NexthopId, NodeState, RouteKey, RouteTarget, Rule,
    RuleAction, Table,
};
use nett_policy::plan::{Classes, Object, Op};
use nett_policy::trust::Belief;
use nix::errno::Errno;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

// === the rig ===

#[derive(Clone)]
struct Shared(Arc<Mutex<SimulatedKernel>>);

impl Shared {
    fn with<T>(&self, f: impl FnOnce(&mut SimulatedKernel) -> T) -> T {
        f(&mut self.0.lock().expect("no test panics in here"))
    }

    fn now<T>(future: impl Future<Output = T>) -> T {
        futures::FutureExt::now_or_never(future).expect("nothing to wait for")
    }

    fn state(&self) -> NodeState {
        self.with(|kernel| kernel.state().clone())
    }

    /// The operations since the last call.
    fn applied(&self) -> Vec<Op> {
        self.with(SimulatedKernel::take_applied)
    }
}

impl Kernel for Shared {
    async fn read(&mut self) -> Result<Readback, KernelError> {
        self.with(|kernel| Self::now(kernel.read()))
    }

    async fn refresh(&mut self, to: &mut Readback, parts: &Parts) -> Result<(), KernelError> {
        self.with(|kernel| Self::now(kernel.refresh(to, parts)))
    }

    async fn counters(&mut self) -> Result<BTreeMap<String, Count>, KernelError> {
        self.with(|kernel| Self::now(kernel.counters()))
    }

    async fn apply(&mut self, op: &Op) -> Result<(), KernelError> {
        self.with(|kernel| Self::now(kernel.apply(op)))
    }
}

struct Told(mpsc::Receiver<KernelEvent>);

impl Changes for Told {
    async fn next(&mut self) -> Option<KernelEvent> {
        self.0.recv().await
    }

    fn writer(&self, object: &Object) -> Option<String> {
        Some(format!("a test that wrote {object}"))
    }
}

struct Rig {
    kernel: Shared,
    wanted: watch::Sender<Wanted>,
    events: mpsc::Receiver<Event>,
    news: mpsc::Sender<KernelEvent>,
    paths: watch::Sender<Views>,
    generation: u64,
    links: Vec<(Instant, Vec<Family>)>,
}

impl Rig {
    fn start(prepare: impl FnOnce(&mut SimulatedKernel)) -> Self {
        let mut kernel = SimulatedKernel::new(&["wan0", "wan1", "core"]);
        for address in [NEAR4, NEAR6] {
            kernel.add_address("wan0", net(address));
        }
        prepare(&mut kernel);
        let kernel = Shared(Arc::new(Mutex::new(kernel)));
        let (wanted, wishes) = watch::channel(None);
        let (sender, events) = mpsc::channel(1024);
        let (news, changes) = mpsc::channel(64);
        let registry = prometheus::Registry::new();
        let (paths, seen) = watch::channel(Views::default());
        let reconciler = Reconciler {
            kernel: kernel.clone(),
            changes: Told(changes),
            wanted: wishes,
            events: sender,
            links: vec![OwnLink {
                link: "osl-svg-1".parse().expect("an id"),
                peer: "svg".parse().expect("an id"),
                interface: "wan0".to_owned(),
                addresses: vec![net(NEAR4), net(NEAR6)],
            }],
            paths: seen,
            presence: watch::channel(Presence::default()).0,
            layout: Layout::default(),
            dry_run: false,
            metrics: Metrics::register(&registry).expect("new"),
            counted: BTreeMap::new(),
            rng: Rng::seeded(7),
        };
        tokio::spawn(reconciler.run());
        Self { kernel, wanted, events, news, paths, generation: 0, links: Vec::new() }
    }

    fn want(&mut self, state: &NodeState) {
        self.generation += 1;
        self.wanted.send_replace(Some((self.generation, Arc::new(state.clone()))));
    }

    /// The next report on the present wish.
    async fn applied(&mut self) -> Applied {
        let patience = Duration::from_secs(600);
        loop {
            let event = tokio::time::timeout(patience, self.events.recv()).await;
            match event.expect("a report comes").expect("the reconciler runs") {
                Event::Applied(applied) if applied.generation == self.generation => {
                    return applied;
                }
                Event::Links { up } => {
                    let link = "osl-svg-1".parse().expect("an id");
                    let families = Family::BOTH.into_iter().filter(|f| up.carries(&link, *f));
                    self.links.push((Instant::now(), families.collect()));
                }
                _ => {}
            }
        }
    }

    /// Reports until one says that all is in place.
    async fn in_place(&mut self) -> Applied {
        loop {
            let applied = self.applied().await;
            if applied.failures.is_empty() && applied.standing.is_empty() {
                return applied;
            }
        }
    }

    async fn reach(&mut self, state: &NodeState) {
        self.want(state);
        self.in_place().await;
        assert_eq!(self.kernel.state(), *state);
        self.kernel.applied();
    }

    async fn tell(&self, event: KernelEvent) {
        self.news.send(event).await.expect("it listens");
    }

    /// Somebody else deletes a route of ours, and the kernel says so.
    async fn delete_route(&self, key: &RouteKey) {
        self.kernel
            .with(|kernel| kernel.meddle(|state| assert!(state.routes.remove(key).is_some())));
        self.tell(OTHER).await;
    }
}

const OTHER: KernelEvent = KernelEvent::Objects(Origin::Other);
const NEAR4: &str = "172.31.0.1/30";
const NEAR6: &str = "fd00:f0::1/64";

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

const ONE: NexthopId = NexthopId(0x4E65_1010);
const TWO: NexthopId = NexthopId(0x4E65_1020);
const CLASS: NexthopId = NexthopId(0x4E65_4000);
const OTHER_CLASS: NexthopId = NexthopId(0x4E65_4004);

fn single(host: u8, interface: &str) -> Nexthop {
    Nexthop::Single { gateway: [172, 31, 0, host].into(), interface: interface.to_owned() }
}

fn group(members: &[NexthopId]) -> Nexthop {
    let members = members.iter().map(|id| (*id, Weight::ONE)).collect();
    Nexthop::Group { family: Family::V4, members }
}

fn key(destination: &str, metric: u32) -> RouteKey {
    RouteKey { table: Table(7000), destination: net(destination), metric }
}

fn vip() -> RouteKey {
    key("10.99.0.1/32", Layout::METRIC_ACTIVE)
}

fn other_vip() -> RouteKey {
    key("10.99.0.2/32", Layout::METRIC_ACTIVE)
}

fn lookup() -> Rule {
    let action = RuleAction::Lookup { table: Table(7000), suppress_prefixlength: None };
    let (iif, fwmark, from, to) = (None, None, None, None);
    Rule { priority: 4430, family: Family::V4, iif, fwmark, from, to, action }
}

fn guard() -> Guard {
    Guard {
        kind: GuardKind::Border,
        mark_mask: 0x307f,
        marks: BTreeSet::new(),
        outer: BTreeSet::from(["wan0".to_owned()]),
        site: BTreeSet::new(),
        remote: BTreeSet::new(),
        vips: BTreeSet::from([net("10.99.0.0/16")]),
        classes: Classes::default(),
        refused: BTreeSet::new(),
    }
}

/// Two links, two classes with a VIP each, a floor, the rule and the table.
fn full() -> NodeState {
    NodeState {
        nexthops: BTreeMap::from([
            (ONE, single(2, "wan0")),
            (TWO, single(6, "wan1")),
            (CLASS, group(&[ONE, TWO])),
            (OTHER_CLASS, group(&[TWO])),
        ]),
        routes: BTreeMap::from([
            (vip(), RouteTarget::Nexthop(CLASS)),
            (other_vip(), RouteTarget::Nexthop(OTHER_CLASS)),
            (key("10.99.0.0/16", Layout::METRIC_FLOOR), RouteTarget::Unreachable),
        ]),
        rules: BTreeSet::from([lookup()]),
        guard: Some(guard()),
        answers: BTreeMap::new(),
    }
}

fn refused(op: &Op) -> KernelError {
    let text = Some("Nexthop has invalid gateway".to_owned());
    KernelError::Refused { object: op.to_string(), errno: Errno::EINVAL, text }
}

fn is(object: Object) -> impl Fn(&Op) -> bool + Clone + Send + 'static {
    move |op| op.object().as_ref() == Some(&object)
}

fn kinds(news: &[News]) -> Vec<&'static str> {
    news.iter().map(|n| n.kind).collect()
}

// === what a failed object holds up, and what it does not ===

#[tokio::test(start_paused = true)]
async fn a_refused_group_leaves_its_class_as_it_was_and_the_others_move() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    let mut next = full();
    next.nexthops.insert(CLASS, group(&[TWO]));
    next.nexthops.insert(OTHER_CLASS, group(&[ONE]));
    let op = Op::ReplaceNexthop { id: CLASS, from: group(&[ONE, TWO]), to: group(&[TWO]) };
    rig.kernel.with(|k| k.fail_times(3, is(Object::Nexthop(CLASS)), refused(&op)));
    rig.want(&next);
    let begun = Instant::now();
    let applied = rig.applied().await;
    let state = rig.kernel.state();
    assert_eq!(state.nexthops[&CLASS], group(&[ONE, TWO]), "the last good group");
    assert_eq!(state.nexthops[&OTHER_CLASS], group(&[ONE]), "the other class moved");
    let [failure] = &applied.failures[..] else { panic!("{:?}", applied.failures) };
    assert!(failure.contains("Nexthop has invalid gateway"), "{failure}");
    rig.in_place().await;
    assert_eq!(rig.kernel.state(), next);
    // 100, 200, 400 ms, each less by up to a quarter.
    let took = begun.elapsed();
    assert!((450..900).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_route_never_moves_to_a_group_that_is_not_ready() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    let third = NexthopId(0x4E65_4008);
    let mut next = full();
    next.nexthops.insert(third, group(&[ONE]));
    next.routes.insert(vip(), RouteTarget::Nexthop(third));
    next.nexthops.remove(&CLASS);
    let op = Op::AddNexthop(third, group(&[ONE]));
    rig.kernel.with(|k| k.fail_times(2, is(Object::Nexthop(third)), refused(&op)));
    rig.want(&next);
    let applied = rig.applied().await;
    assert!(!applied.failures.is_empty());
    let state = rig.kernel.state();
    assert_eq!(state.routes[&vip()], RouteTarget::Nexthop(CLASS));
    assert!(state.nexthops.contains_key(&CLASS), "a group in use is not deleted");
    rig.in_place().await;
    assert_eq!(rig.kernel.state(), next);
}

#[tokio::test(start_paused = true)]
async fn no_rule_looks_into_a_table_without_its_floor_or_without_the_guard() {
    for held_up in [Object::Route(key("10.99.0.0/16", Layout::METRIC_FLOOR)), Object::Guard] {
        let mut rig = Rig::start(|_| {});
        let op = Op::AddRule(lookup());
        rig.kernel.with(|k| k.fail_times(2, is(held_up.clone()), refused(&op)));
        rig.want(&full());
        rig.applied().await;
        let state = rig.kernel.state();
        assert!(state.rules.is_empty(), "{held_up}");
        assert_eq!(state.routes[&vip()], RouteTarget::Nexthop(CLASS), "{held_up}");
        rig.in_place().await;
        assert_eq!(rig.kernel.state(), full());
    }
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_operation_is_read_back_before_anything_else_is_done() {
    let mut rig = Rig::start(|_| {});
    let object = "x".to_owned();
    // It was carried out, and the answer was lost.
    rig.kernel.with(|k| {
        k.lose_answer(is(Object::Nexthop(CLASS)), KernelError::Unanswered { object });
    });
    rig.want(&full());
    rig.in_place().await;
    let adds = rig.kernel.applied();
    let class = adds.iter().filter(|op| is(Object::Nexthop(CLASS))(op)).count();
    assert_eq!(class, 1, "not asked for twice: {adds:#?}");
}

#[tokio::test(start_paused = true)]
async fn what_stood_wrong_before_does_not_fail_a_later_wish() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    let foreign = Foreign::Route { key: other_vip(), protocol: 12 };
    rig.kernel.with(|kernel| {
        kernel.meddle(|state| assert!(state.routes.remove(&other_vip()).is_some()));
        kernel.set_foreign(vec![foreign.clone()]);
    });
    rig.tell(OTHER).await;
    let applied = rig.applied().await;
    assert_eq!(applied.failures, Vec::<String>::new());
    let [standing] = &applied.standing[..] else { panic!("{applied:?}") };
    assert!(standing.contains("protocol 12 (bird)"), "{standing}");
    assert_eq!(applied.foreign, [foreign.to_string()]);
    assert!(kinds(&applied.news).contains(&"foreign"), "{:?}", applied.news);

    let mut next = full();
    next.nexthops.insert(CLASS, group(&[ONE]));
    rig.want(&next);
    let applied = rig.applied().await;
    assert_eq!(applied.failures, Vec::<String>::new(), "the wish is in place");
    assert_eq!(applied.standing.len(), 1);
    next.routes.insert(other_vip(), RouteTarget::Unreachable);
    rig.want(&next);
    assert_eq!(rig.applied().await.failures.len(), 1, "now it is asked for");

    rig.kernel.with(|kernel| kernel.set_foreign(Vec::new()));
    rig.tell(OTHER).await;
    let applied = rig.in_place().await;
    assert_eq!(rig.kernel.state(), next);
    assert!(kinds(&applied.news).contains(&"foreign-gone"), "{:?}", applied.news);
}

// === reads that cannot be trusted ===

#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_because_of_a_read_that_is_not_whole() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    let mut next = full();
    next.routes.remove(&other_vip());
    rig.kernel.with(|kernel| kernel.interrupt_reads(3));
    rig.tell(KernelEvent::Overrun).await;
    let applied = rig.applied().await;
    assert!(!applied.failures.is_empty(), "{applied:?}");
    rig.want(&next);
    rig.applied().await;
    assert!(rig.kernel.state().routes.contains_key(&other_vip()), "kept while in doubt");
    let deleted = |op: &Op| op.deletes();
    assert!(!rig.kernel.applied().iter().any(deleted));
    rig.in_place().await;
    assert_eq!(rig.kernel.state(), next);
}

#[tokio::test(start_paused = true)]
async fn what_is_found_at_the_start_is_taken_over_and_cleaned_up() {
    let mut left = full();
    left.routes.insert(key("10.99.0.9/32", 100), RouteTarget::Unreachable);
    let mut rig = Rig::start(|kernel| kernel.meddle(|state| *state = left));
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(rig.kernel.applied(), [], "nothing is wanted yet, so nothing is done");
    rig.reach(&full()).await;
}

#[tokio::test(start_paused = true)]
async fn what_appears_later_with_our_marks_is_told_and_left_alone() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    let stranger = key("10.99.0.77/32", 100);
    rig.kernel.with(|kernel| {
        kernel.meddle(|state| {
            state.routes.insert(stranger, RouteTarget::Unreachable);
        });
    });
    rig.tell(OTHER).await;
    let applied = rig.applied().await;
    assert!(applied.foreign.iter().any(|f| f.contains("10.99.0.77")), "{applied:?}");
    assert_eq!(applied.failures, Vec::<String>::new());
    rig.reach_beside(&full(), stranger).await;
}

impl Rig {
    /// As [`Rig::reach`], with a route there that is not ours.
    async fn reach_beside(&mut self, state: &NodeState, stranger: RouteKey) {
        self.want(state);
        self.in_place().await;
        let mut expected = state.clone();
        expected.routes.insert(stranger, RouteTarget::Unreachable);
        assert_eq!(self.kernel.state(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_path_that_is_doubted_makes_its_link_unusable_at_once() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    let path = ("osl-svg-1".parse().expect("an id"), Family::V4);
    let view = PathView {
        belief: Belief::Doubted,
        state: State::Down,
        diagnostic: Diagnostic::EXPIRED,
        remote: None,
        interval: Duration::from_secs(1),
        detection: Duration::from_secs(1),
        trouble: None,
    };
    let begun = Instant::now();
    rig.paths.send_replace(Arc::new(BTreeMap::from([(path, view)])));
    let applied = rig.applied().await;
    assert!(begun.elapsed() < Duration::from_millis(60), "{:?}", begun.elapsed());
    assert_eq!(rig.links.last().expect("told").1, [Family::V6]);
    assert!(applied.links[0].contains("IPv4 BFD session is down"), "{:?}", applied.links);
    rig.paths.send_replace(Views::default());
    let applied = rig.applied().await;
    assert_eq!(rig.links.last().expect("told").1, Family::BOTH);
    assert_eq!(applied.links, Vec::<String>::new());
}

// === silent deletions ===

#[tokio::test(start_paused = true)]
async fn what_a_carrier_takes_comes_back_in_order_when_it_returns() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    rig.kernel.with(|kernel| kernel.set_carrier("wan1", false));
    rig.tell(KernelEvent::Interfaces).await;
    let applied = rig.applied().await;
    assert!(!applied.standing.is_empty(), "{applied:?}");
    rig.kernel.applied();
    // Long enough for the pauses between tries to have grown.
    tokio::time::sleep(Duration::from_secs(60)).await;
    rig.kernel.with(|kernel| kernel.set_carrier("wan1", true));
    let back = Instant::now();
    rig.tell(KernelEvent::Interfaces).await;
    rig.in_place().await;
    assert!(back.elapsed() < Duration::from_millis(100), "{:?}", back.elapsed());
    assert_eq!(rig.kernel.state(), full());
    let order: Vec<u8> = rig.kernel.applied().iter().map(rank).collect();
    assert!(order.is_sorted(), "{order:?}");
}

fn rank(op: &Op) -> u8 {
    match op {
        Op::AddNexthop(_, Nexthop::Single { .. }) => 0,
        Op::AddNexthop(..) | Op::ReplaceNexthop { .. } => 1,
        Op::AddRoute(..) => 2,
        other => panic!("{other} repairs no carrier"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_is_usable_in_a_family_only_with_its_address() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    assert_eq!(rig.links.last().expect("told").1, Family::BOTH);
    rig.kernel.with(|kernel| kernel.remove_address("wan0", net(NEAR4)));
    rig.tell(KernelEvent::Interfaces).await;
    let applied = rig.applied().await;
    assert_eq!(rig.links.last().expect("told").1, [Family::V6]);
    assert_eq!(applied.links, ["link osl-svg-1: address 172.31.0.1/30 is missing on wan0"]);
    rig.kernel.with(|kernel| {
        kernel.add_address("wan0", net(NEAR4));
        kernel.set_tentative("wan0", net(NEAR6), true);
    });
    rig.tell(KernelEvent::Interfaces).await;
    rig.applied().await;
    assert_eq!(rig.links.last().expect("told").1, [Family::V4], "until the detection ends");
    rig.kernel.with(|kernel| kernel.set_tentative("wan0", net(NEAR6), false));
    rig.tell(KernelEvent::Interfaces).await;
    let applied = rig.applied().await;
    assert_eq!(rig.links.last().expect("told").1, Family::BOTH);
    assert_eq!(applied.links, Vec::<String>::new());
}

// === other writers ===

#[tokio::test(start_paused = true)]
async fn what_others_delete_is_put_back_until_the_budget_is_spent() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    for n in 0..REPAIRS {
        rig.delete_route(&vip()).await;
        let applied = rig.in_place().await;
        assert_eq!(kinds(&applied.news), ["repair"], "{n}");
        assert!(applied.news[0].text.contains("a test that wrote"), "{:?}", applied.news);
        assert_eq!(rig.kernel.state(), full());
    }
    rig.delete_route(&vip()).await;
    let applied = rig.applied().await;
    assert_eq!(kinds(&applied.news), ["contested", "repair"]);
    assert_eq!(applied.failures, Vec::<String>::new());
    let [standing] = &applied.standing[..] else { panic!("{applied:?}") };
    assert!(standing.contains("left alone") && standing.contains("a test"), "{standing}");
    assert!(!rig.kernel.state().routes.contains_key(&vip()));

    // Other objects are still kept in place.
    rig.delete_route(&other_vip()).await;
    rig.applied().await;
    assert!(rig.kernel.state().routes.contains_key(&other_vip()));
    // Later it gets a new budget.
    tokio::time::sleep(LEFT_ALONE).await;
    rig.in_place().await;
    assert_eq!(rig.kernel.state(), full());
}

#[tokio::test(start_paused = true)]
async fn an_operator_who_wants_something_else_of_a_contested_object_is_obeyed() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    for _ in 0..=REPAIRS {
        rig.delete_route(&vip()).await;
        rig.applied().await;
    }
    let mut next = full();
    next.routes.insert(vip(), RouteTarget::Unreachable);
    rig.reach(&next).await;
}

#[tokio::test(start_paused = true)]
async fn a_flapping_carrier_spends_no_budget() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    for _ in 0..4 * REPAIRS {
        for up in [false, true] {
            rig.kernel.with(|kernel| kernel.set_carrier("wan1", up));
            rig.tell(KernelEvent::Objects(Origin::Kernel)).await;
            rig.tell(KernelEvent::Interfaces).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }
    rig.want(&full());
    rig.in_place().await;
    assert_eq!(rig.kernel.state(), full());
}
