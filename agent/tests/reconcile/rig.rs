//! A reconciler over a simulated kernel, and what it is to bring about.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipnet::IpNet;
use nett_agent::controller::event::{Applied, Event, News};
use nett_agent::kernel::{
    Count, Filled, Kernel, KernelError, KernelEvent, Origin, Parts, Readback, SimulatedKernel,
};
use nett_agent::probe::bfd::{Presence, Views};
use nett_agent::reconcile::{Changes, OwnLink, Reconciler, Wanted};
use nett_agent::rng::Rng;
use nett_agent::telemetry::Metrics;
use nett_agent::watchdog::Watchdog;
use nett_policy::fabric::Family;
use nett_policy::id::Weight;
use nett_policy::lower::object::{
    Guard, GuardElement, GuardKind, Layout, Nexthop, NexthopId, NodeState, RouteKey, RouteTarget,
    Rule, RuleAction, Table,
};
use nett_policy::plan::{Classes, Object, Op};
use nix::errno::Errno;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<SimulatedKernel>>, Arc<AtomicBool>, Arc<AtomicU64>);

impl Shared {
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut SimulatedKernel) -> T) -> T {
        f(&mut self.0.lock().expect("no test panics in here"))
    }

    pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
        futures::FutureExt::now_or_never(future).expect("nothing to wait for")
    }

    pub(crate) fn state(&self) -> NodeState {
        self.with(|kernel| kernel.state().clone())
    }

    /// From now on nothing that is asked of it ever ends.
    pub(crate) fn hang(&self) {
        self.1.store(true, Ordering::Relaxed);
    }

    pub(crate) async fn answers(&self) {
        if self.1.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    }

    /// From now on it takes so long to say what was counted of what services leave.
    pub(crate) fn count_slowly(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).expect("a short time");
        self.2.store(millis, Ordering::Relaxed);
    }

    /// The operations since the last call.
    pub(crate) fn applied(&self) -> Vec<Op> {
        self.with(SimulatedKernel::take_applied)
    }
}

impl Kernel for Shared {
    async fn read(&mut self) -> Result<Readback, KernelError> {
        self.answers().await;
        self.with(|kernel| Self::now(kernel.read()))
    }

    async fn refresh(&mut self, to: &mut Readback, parts: &Parts) -> Result<(), KernelError> {
        self.answers().await;
        self.with(|kernel| Self::now(kernel.refresh(to, parts)))
    }

    async fn counters(&mut self) -> Result<BTreeMap<String, Count>, KernelError> {
        self.with(|kernel| Self::now(kernel.counters()))
    }

    async fn watched(
        &mut self,
        elements: &BTreeSet<GuardElement>,
    ) -> Result<BTreeMap<GuardElement, u64>, KernelError> {
        tokio::time::sleep(Duration::from_millis(self.2.load(Ordering::Relaxed))).await;
        self.with(|kernel| Self::now(kernel.watched(elements)))
    }

    async fn buckets(&mut self, groups: &BTreeSet<NexthopId>) -> Result<Filled, KernelError> {
        self.with(|kernel| Self::now(kernel.buckets(groups)))
    }

    async fn knows(&mut self, neighbour: IpAddr, interface: &str) -> Result<bool, KernelError> {
        self.with(|kernel| Self::now(kernel.knows(neighbour, interface)))
    }

    async fn apply(&mut self, op: &Op) -> Result<(), KernelError> {
        self.with(|kernel| Self::now(kernel.apply(op)))
    }
}

pub(crate) struct Told(mpsc::Receiver<KernelEvent>);

impl Changes for Told {
    async fn next(&mut self) -> Option<KernelEvent> {
        self.0.recv().await
    }

    fn writer(&self, object: &Object) -> Option<String> {
        Some(format!("a test that wrote {object}"))
    }
}

pub(crate) struct Rig {
    pub(crate) kernel: Shared,
    pub(crate) wanted: watch::Sender<Wanted>,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) news: mpsc::Sender<KernelEvent>,
    pub(crate) paths: watch::Sender<Views>,
    pub(crate) looks: watch::Sender<bool>,
    pub(crate) generation: u64,
    pub(crate) links: Vec<(Instant, Vec<Family>)>,
    pub(crate) watchdog: Option<Watchdog>,
}

impl Rig {
    pub(crate) fn start(prepare: impl FnOnce(&mut SimulatedKernel)) -> Self {
        let mut kernel = SimulatedKernel::new(&["wan0", "wan1", "core"]);
        for address in [NEAR4, NEAR6] {
            kernel.add_address("wan0", net(address));
        }
        prepare(&mut kernel);
        let kernel = Shared(Arc::new(Mutex::new(kernel)), Arc::default(), Arc::default());
        let (wanted, wishes) = watch::channel(None);
        let (looks, looked) = watch::channel(false);
        let (sender, events) = mpsc::channel(1024);
        let (news, changes) = mpsc::channel(64);
        let registry = prometheus::Registry::new();
        let (paths, seen) = watch::channel(Views::default());
        let mut watchdog = Watchdog::default();
        let pulse = watchdog.pulse("the reconciler");
        let reconciler = Reconciler {
            kernel: kernel.clone(),
            changes: Told(changes),
            wanted: wishes,
            looks: looked,
            events: sender,
            links: vec![OwnLink {
                link: "osl-svg-1".parse().expect("an id"),
                peer: "svg".parse().expect("an id"),
                interface: "wan0".to_owned(),
                addresses: vec![net(NEAR4), net(NEAR6)],
                gateways: FAR.map(|far| far.parse().expect("an address")).to_vec(),
            }],
            paths: seen,
            presence: watch::channel(Presence::default()).0,
            layout: Layout::default(),
            dry_run: false,
            metrics: Metrics::register(&registry).expect("new"),
            counted: BTreeMap::new(),
            rng: Rng::seeded(7),
            pulse,
        };
        tokio::spawn(reconciler.run());
        let watchdog = Some(watchdog);
        let (generation, links) = (0, Vec::new());
        Self { kernel, wanted, looks, events, news, paths, generation, links, watchdog }
    }

    pub(crate) fn want(&mut self, state: &NodeState) {
        self.generation += 1;
        self.wanted.send_replace(Some((self.generation, Arc::new(state.clone()))));
    }

    /// The next report on the present wish.
    pub(crate) async fn applied(&mut self) -> Applied {
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
    pub(crate) async fn in_place(&mut self) -> Applied {
        loop {
            let applied = self.applied().await;
            if applied.failures.is_empty() && applied.standing.is_empty() {
                return applied;
            }
        }
    }

    /// Reports until the link is told to carry just these families.
    pub(crate) async fn settled(&mut self, families: &[Family]) -> Applied {
        loop {
            let applied = self.applied().await;
            if self.links.last().is_some_and(|(_, told)| told == families) {
                return applied;
            }
        }
    }

    pub(crate) async fn reach(&mut self, state: &NodeState) {
        self.want(state);
        self.in_place().await;
        assert_eq!(self.kernel.state(), *state);
        self.kernel.applied();
    }

    pub(crate) async fn tell(&self, event: KernelEvent) {
        self.news.send(event).await.expect("it listens");
    }

    /// Somebody else deletes a route of ours, and the kernel says so.
    pub(crate) async fn delete_route(&self, key: &RouteKey) {
        self.kernel
            .with(|kernel| kernel.meddle(|state| assert!(state.routes.remove(key).is_some())));
        self.tell(OTHER).await;
    }
}

pub(crate) const OTHER: KernelEvent = KernelEvent::Objects(Origin::Other);
pub(crate) const NEAR4: &str = "172.31.0.1/30";
pub(crate) const NEAR6: &str = "fd00:f0::1/64";
pub(crate) const FAR: [&str; 2] = ["172.31.0.2", "fd00:f0::2"];

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

pub(crate) const ONE: NexthopId = NexthopId(0x4E65_1010);
pub(crate) const TWO: NexthopId = NexthopId(0x4E65_1020);
pub(crate) const CLASS: NexthopId = NexthopId(0x4E65_4000);
pub(crate) const OTHER_CLASS: NexthopId = NexthopId(0x4E65_4004);

pub(crate) fn single(host: u8, interface: &str) -> Nexthop {
    Nexthop::Single { gateway: [172, 31, 0, host].into(), interface: interface.to_owned() }
}

pub(crate) fn group(members: &[NexthopId]) -> Nexthop {
    let members = members.iter().map(|id| (*id, Weight::ONE)).collect();
    Nexthop::Group { family: Family::V4, members, buckets: None }
}

pub(crate) fn key(destination: &str, metric: u32) -> RouteKey {
    RouteKey { table: Table(7000), destination: net(destination), metric }
}

pub(crate) fn vip() -> RouteKey {
    key("10.99.0.1/32", Layout::METRIC_ACTIVE)
}

pub(crate) fn other_vip() -> RouteKey {
    key("10.99.0.2/32", Layout::METRIC_ACTIVE)
}

pub(crate) fn lookup() -> Rule {
    let action = RuleAction::Lookup { table: Table(7000), suppress_prefixlength: None };
    let (iif, fwmark, from, to) = (None, None, None, None);
    Rule { priority: 4430, family: Family::V4, iif, fwmark, from, to, action }
}

pub(crate) fn guard() -> Guard {
    Guard {
        kind: GuardKind::Border,
        mark_mask: 0x307f,
        marks: BTreeSet::new(),
        outer: BTreeSet::from(["wan0".to_owned()]),
        ways: BTreeSet::from(["core".to_owned(), "wan0".to_owned()]),
        site: BTreeSet::new(),
        remote: BTreeSet::new(),
        vips: BTreeSet::from([net("10.99.0.0/16")]),
        classes: Classes::default(),
        failover: BTreeMap::new(),
        transit: BTreeSet::new(),
        refused: BTreeSet::new(),
    }
}

/// Two links, two classes with a VIP each, a floor, the rule and the table.
pub(crate) fn full() -> NodeState {
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

pub(crate) fn refused(op: &Op) -> KernelError {
    let text = Some("Nexthop has invalid gateway".to_owned());
    KernelError::Refused { object: op.to_string(), errno: Errno::EINVAL, text }
}

pub(crate) fn is(object: Object) -> impl Fn(&Op) -> bool + Clone + Send + 'static {
    move |op| op.object().as_ref() == Some(&object)
}

pub(crate) fn kinds(news: &[News]) -> Vec<&'static str> {
    news.iter().map(|n| n.kind).collect()
}
