//! One node through simulated time: its process, which begins again when it dies, the intents that
//! its site comes to, and what happens to its kernel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;

use fastrand::Rng;
use nett_agent::controller::event::Event;
use nett_agent::kernel::{Foreign, KernelEvent, SimulatedKernel};
use nett_agent::probe::bfd::{PathId, Presence, Views};
use nett_agent::reconcile::{Reconciler, Wanted};
use nett_agent::rng::Rng as AgentRng;
use nett_agent::telemetry::Metrics;
use nett_agent::watchdog::Pulse;
use nett_policy::fabric::{Family, Node, Role};
use nett_policy::id::LinkId;
use nett_policy::lower::LinksUp;
use nett_policy::plan::Object;
use nett_policy::trust::flaps::{LOSSES, WINDOW};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::arena::{ARENAS, Arena};
use crate::fates::Packet;
use crate::faults::Happening;
use crate::mutants::Mutant;
use crate::shared::Shared;
use crate::stage::{Stage, now};

/// One for all: what is counted is no matter here.
static METRICS: LazyLock<Metrics> =
    LazyLock::new(|| Metrics::register(&prometheus::Registry::new()).expect("new"));

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a process is made of, each time that it begins.
#[derive(Clone)]
struct Make {
    arena: &'static Arena,
    node: Node,
    stage: Shared,
    step: watch::Receiver<usize>,
    paths: watch::Receiver<Views>,
}

pub(crate) struct World {
    pub(crate) arena: &'static Arena,
    pub(crate) node: Node,
    pub(crate) stage: Shared,
    pub(crate) rng: Rng,
    pub(crate) step: watch::Sender<usize>,
    pub(crate) paths: watch::Sender<Views>,
    /// Paths that are doubted.
    pub(crate) doubted: Vec<PathId>,
    /// How many strangers there were.
    pub(crate) strange: u8,
    /// When each interface was lost.
    pub(crate) losses: BTreeMap<String, Vec<Instant>>,
    queue: BTreeMap<(Instant, u64), Happening>,
    counter: u64,
}

// === impl World ===

impl World {
    /// A node of one of the fabrics, with an empty kernel.
    pub(crate) fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let arena = &ARENAS[rng.usize(0..ARENAS.len())];
        let nodes: Vec<&Node> =
            arena.ground.fabric.nodes.iter().filter(|n| n.role != Role::Witness).collect();
        let node = nodes[rng.usize(0..nodes.len())].clone();
        let interfaces = arena.interfaces(&node);
        let names: Vec<&str> = interfaces.iter().map(String::as_str).collect();
        let mut kernel = SimulatedKernel::new(&names);
        for link in arena.links(&node) {
            for address in link.addresses {
                kernel.add_address(&link.interface, address);
            }
        }
        let mut stage = Stage::new(kernel, packets(arena, &node), Rng::with_seed(!seed));
        stage.mutant = mutant;
        let name = &node.id;
        let vips = arena.ground.catalog.iter().count();
        stage.note(|| format!("{name} of {} with {vips} services", arena.ground.fabric.name));
        let step = watch::channel(rng.usize(0..arena.placements.len())).0;
        let (paths, doubted) = (watch::channel(Views::default()).0, Vec::new());
        let stage = Shared::new(stage);
        let (strange, losses, queue, counter) = (0, BTreeMap::new(), BTreeMap::new(), 0);
        Self { arena, node, stage, rng, step, paths, doubted, strange, losses, queue, counter }
    }

    /// The process, and all that come after it.
    pub(crate) fn start(&self) {
        let make = Make {
            arena: self.arena,
            node: self.node.clone(),
            stage: self.stage.clone(),
            step: self.step.subscribe(),
            paths: self.paths.subscribe(),
        };
        tokio::spawn(async move {
            for life in 0.. {
                make.stage.with(Stage::begin);
                make.stage.live(make.process(life)).await;
                let dead = make.stage.with(|stage| ms(stage.rng.u64(0..8_000)));
                sleep(dead).await;
            }
        });
    }

    pub(crate) fn at(&mut self, delay: Duration, happening: Happening) {
        self.counter += 1;
        self.queue.insert((Instant::now() + delay, self.counter), happening);
    }

    /// Lets time pass, with what happens in it.
    pub(crate) async fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= until
        {
            let ((at, _), happening) = entry.remove_entry();
            sleep_until(at).await;
            self.happen(happening);
        }
        sleep_until(until).await;
    }

    pub(crate) fn forget_queue(&mut self) {
        self.queue.clear();
    }

    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        self.stage.with(|stage| stage.note(what));
    }

    /// Something changed behind the reconciler's back; sometimes the monitor is overrun by it.
    pub(crate) fn tell(&mut self, event: KernelEvent) {
        let event = if self.rng.u8(0..12) == 0 { KernelEvent::Overrun } else { event };
        self.stage.tell(event);
    }

    pub(crate) fn foreign(&self) -> Vec<Foreign> {
        self.stage.with(|stage| stage.foreign.clone())
    }

    /// Objects of ours that are there.
    pub(crate) fn ours(&self) -> Vec<Object> {
        let of = |stage: &mut Stage| {
            let state = stage.kernel.state();
            let nexthops = state.nexthops.keys().map(|id| Object::Nexthop(*id));
            let routes = state.routes.keys().map(|key| Object::Route(*key));
            let rules = state.rules.iter().cloned().map(Object::Rule);
            let guard = state.guard.iter().map(|_| Object::Guard);
            let all: Vec<Object> = nexthops.chain(routes).chain(rules).chain(guard).collect();
            let strange =
                |object: &Object| stage.strangers.contains(object) || stage.former.contains(object);
            all.into_iter().filter(|object| !strange(object)).collect()
        };
        self.stage.with(of)
    }

    /// Links carry packets as far as interfaces and sessions say, but for those that are told to be
    /// held down.
    pub(crate) fn wanted_links(&self) -> LinksUp {
        let interfaces = self.stage.with(|stage| {
            now(nett_agent::kernel::Kernel::read(&mut stage.kernel)).expect("readable").interfaces
        });
        let held = self.held();
        let mut up = LinksUp::default();
        for link in self.arena.links(&self.node) {
            let there = interfaces.get(&link.interface).filter(|there| there.up);
            for family in Family::BOTH {
                let mut own = link.addresses.iter().filter(|a| Family::of_net(**a) == family);
                let has = there.is_some_and(|t| own.all(|a| t.addresses.contains(a)));
                match held.contains_key(&link.link) {
                    true if has => up.doubt(link.link.clone(), family),
                    false if has => up.insert(link.link.clone(), family),
                    _ => {}
                }
            }
        }
        up
    }

    /// Links that are told to be held down, and for how long still if they stay up.
    pub(crate) fn held(&self) -> BTreeMap<LinkId, Duration> {
        let held = |stage: &mut Stage| {
            let report = stage.report.as_ref();
            let held = report.into_iter().flat_map(|report| &report.held);
            held.map(|(link, held)| (link.clone(), held.left.unwrap_or(held.time))).collect()
        };
        self.stage.with(held)
    }

    /// Only who was lost so often in so short a time may be held down.
    pub(crate) fn may_hold(&self, link: &LinkId) -> bool {
        let own = self.arena.links(&self.node).into_iter().find(|own| own.link == *link);
        let losses = own.and_then(|own| self.losses.get(&own.interface));
        losses.is_some_and(|losses| {
            losses.windows(LOSSES).any(|of| of[LOSSES - 1].duration_since(of[0]) <= WINDOW)
        })
    }
}

impl Make {
    /// The reconciler with a controller that wants what the core makes of the present step.
    async fn process(&self, life: u64) {
        let (wanted, wishes) = watch::channel(None);
        let (sender, events) = mpsc::channel(1024);
        let reconciler = Reconciler {
            kernel: self.stage.clone(),
            changes: self.stage.clone(),
            wanted: wishes,
            looks: watch::channel(false).1,
            events: sender,
            links: self.arena.links(&self.node),
            paths: self.paths.clone(),
            presence: watch::channel(Presence::default()).0,
            layout: self.arena.ground.layout.clone(),
            dry_run: false,
            metrics: METRICS.clone(),
            counted: BTreeMap::new(),
            rng: AgentRng::seeded(life),
            pulse: Pulse::unasked(),
        };
        futures::future::join(reconciler.run(), self.control(wanted, events)).await;
    }

    async fn control(&self, wanted: watch::Sender<Wanted>, mut events: mpsc::Receiver<Event>) {
        let mut step = self.step.clone();
        let (mut up, mut generation): (Option<LinksUp>, u64) = (None, 0);
        // The journal is read at once; where it is gone, the log has to be heard first.
        let draw = |stage: &mut Stage| match stage.rng.u8(0..4) {
            0 => stage.rng.u64(0..5_000),
            _ => stage.rng.u64(0..50),
        };
        let mut wait = ms(self.stage.with(draw));
        let begun = Instant::now();
        let mut last = None;
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(Event::Links { up: seen }) => up = Some(seen),
                    Some(Event::Applied(applied)) => {
                        self.stage.with(|stage| stage.reported(applied));
                        continue;
                    }
                    Some(_) => continue,
                    None => return,
                },
                changed = step.changed() => if changed.is_err() { return },
                () = sleep_until(begun + wait), if !wait.is_zero() => wait = Duration::ZERO,
            }
            let Some(up) = up.as_ref().filter(|_| wait.is_zero()) else { continue };
            let at = *step.borrow_and_update();
            let state = Arc::new(self.arena.state(&self.node, at, up));
            if last.as_ref() == Some(&state) {
                continue;
            }
            last = Some(state.clone());
            generation += 1;
            self.stage.with(|stage| stage.wished(generation, state.clone()));
            wanted.send_replace(Some((generation, state)));
        }
    }
}

/// A packet by each interface to each VIP.
fn packets(arena: &Arena, node: &Node) -> Vec<Packet> {
    let outer = arena.ground.fabric.outer_interfaces(node);
    let mut packets = Vec::new();
    for iif in arena.interfaces(node) {
        for vip in arena.ground.catalog.iter().flat_map(|service| &service.vips) {
            let outside = outer.contains(&iif);
            packets.push(Packet { iif: iif.clone(), vip: *vip, outside });
        }
    }
    packets
}
