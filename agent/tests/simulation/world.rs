//! The simulated world: agents, servers, links and operators in one thread, and a queue of what
//! happens next. Everything that is not decided by the agents is drawn from one seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use nett_agent::api::types::{Outcome, Payload};
use nett_agent::bus::wire::Report;
use nett_agent::controller::Setting;
use nett_agent::controller::effect::Effect;
use nett_agent::controller::event::{Event, Now};
use nett_agent::controller::prefix;
use nett_agent::journal::sort;
use nett_policy::fabric::Fabric;
use nett_policy::id::{EntryId, LinkId, NodeId, ServiceId, SiteId, WallMs};
use nett_policy::lower::object::Layout;
use nett_policy::service::Catalog;
use nkeys::KeyPair;

use crate::agent::Agent;
use crate::disk::FORGETFUL;
use crate::faults::Fault;
use crate::forged::Forged;
use crate::invariants::Watch;
use crate::lease::{LeaseWatch, Mail};
use crate::mutants::{Memory, Mutant};
use crate::names::Names;
use crate::operators::Desk;
use crate::shape::{Shape, shape};
use crate::streams::{Letter, Reader, Server};
use crate::traps::Way;

/// Wall time at the start.
const EPOCH_MS: u64 = 1_795_253_400_000;

/// What happens at some time.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the queue has each in a box")]
pub(crate) enum Happening {
    /// Something reaches an agent in this life of it.
    Reach {
        node: NodeId,
        life: u64,
        event: Event,
    },
    Timer {
        node: NodeId,
        at: Duration,
    },
    /// An agent looks at its links.
    Links {
        node: NodeId,
        life: u64,
    },
    /// The kernel is worked on.
    Kernel {
        node: NodeId,
        life: u64,
    },
    /// A node gets the file with the next generation of voters but `at`.
    File {
        node: NodeId,
        at: usize,
    },
    /// What is counted for drains is read.
    Counters {
        node: NodeId,
        life: u64,
    },
    /// An entry reaches its site's server.
    Store(Box<Letter>),
    /// An agent fills its site's stream again, from an entry on, behind a message.
    Refill {
        node: NodeId,
        life: u64,
        from: u64,
        after: u64,
    },
    /// The server of `reader` reads on in the log of `origin`.
    Mirror {
        reader: SiteId,
        origin: SiteId,
    },
    /// An agent reads on in what its server has of a log.
    Pull {
        node: NodeId,
        life: u64,
        origin: SiteId,
    },
    /// A report reaches another agent.
    Hear {
        node: NodeId,
        life: u64,
        from: NodeId,
    },
    Operator,
    /// The site that serves a leased service is lost to the others.
    Siege,
    /// Somebody at a site takes a service there.
    Takeover(ServiceId, SiteId),
    Fault(Fault),
    /// A message that nobody has sent who may.
    Forged(Box<Forged>),
    Lease(Mail),
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    /// For what came later: seeds of the past give the same runs.
    pub(crate) later: Rng,
    pub(crate) fabric: Arc<Fabric>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) keys: BTreeMap<String, KeyPair>,
    pub(crate) agents: BTreeMap<NodeId, Agent>,
    pub(crate) servers: BTreeMap<SiteId, Server>,
    /// Pairs of sites that do not reach each other, smaller id first.
    pub(crate) cuts: BTreeSet<(SiteId, SiteId)>,
    pub(crate) links_down: BTreeSet<LinkId>,
    pub(crate) reports: BTreeMap<NodeId, Report>,
    /// The first that each node ever said.
    pub(crate) first_reports: BTreeMap<NodeId, Report>,
    pub(crate) desk: Desk,
    pub(crate) watch: Watch,
    pub(crate) lease_watch: LeaseWatch,
    /// Files that nodes get one after another, each with another generation of voters.
    pub(crate) generations: Vec<Arc<Fabric>>,
    /// Where name servers are looked at.
    pub(crate) names: Option<Names>,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) memory: Memory,
    pub(crate) way: Way,
    /// False once the faults are over: nothing is lost or doubled any more.
    pub(crate) rough: bool,
    /// How long requests are good for, in milliseconds.
    pub(crate) expiry: u64,
    pub(crate) told: bool,
    pub(crate) now: Duration,
    pub(crate) counter: u64,
    queue: BTreeMap<(Duration, u64), Box<Happening>>,
    /// The last things that happened, for a report about a failing seed.
    pub(crate) trace: VecDeque<String>,
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl World {
    pub(crate) fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        Self::with_shape(seed, mutant, shape)
    }

    pub(crate) fn with_shape(
        seed: u64,
        mutant: Option<Mutant>,
        shape: fn(&mut Rng) -> Shape,
    ) -> Self {
        let mut rng = Rng::with_seed(seed);
        let Shape { fabric, catalog, keys, drift } = shape(&mut rng);
        let (fabric, catalog) = (Arc::new(fabric), Arc::new(catalog));
        let server = |()| Server::up();
        let mut world = Self {
            rng,
            later: Rng::with_seed(!seed),
            servers: fabric.sites.iter().map(|s| (s.id.clone(), server(()))).collect(),
            agents: BTreeMap::new(),
            cuts: BTreeSet::new(),
            links_down: BTreeSet::new(),
            reports: BTreeMap::new(),
            first_reports: BTreeMap::new(),
            desk: Desk::default(),
            watch: Watch::new(&catalog),
            lease_watch: LeaseWatch::default(),
            generations: Vec::new(),
            names: None,
            mutant,
            memory: Memory::default(),
            way: Way::Plain,
            rough: true,
            expiry: if seed.is_multiple_of(3) { 5_000 } else { 60_000 },
            told: false,
            now: Duration::from_secs(100),
            counter: 0,
            queue: BTreeMap::new(),
            trace: VecDeque::new(),
            keys,
            fabric: fabric.clone(),
            catalog: catalog.clone(),
        };
        for node in &fabric.nodes {
            let (fabric, catalog, node) = (fabric.clone(), catalog.clone(), node.clone());
            let key = world.key(node.id.as_str());
            let fabric = match mutant {
                Some(mutant) => Arc::new(mutant.fabric_at(&node, &fabric)),
                None => fabric,
            };
            let setting = Setting { fabric, catalog, layout: Layout::default(), node };
            let mut agent = Agent::new(setting, key);
            // One in four has a clock that is wrong by up to a second.
            if world.rng.u8(0..4) == 0 {
                agent.skew = world.rng.i64(-1000..=1000);
            }
            world.draw_rate(&mut agent, drift);
            agent.pace = (seed.is_multiple_of(3)).then_some(FORGETFUL);
            world.agents.insert(agent.setting.node.id.clone(), agent);
        }
        for node in fabric.nodes.iter().map(|n| n.id.clone()) {
            world.start(&node, true);
        }
        world
    }

    pub(crate) fn key(&self, name: &str) -> KeyPair {
        KeyPair::from_seed(&self.keys[name].seed().expect("it has one")).expect("a seed")
    }

    pub(crate) fn at(&mut self, delay: Duration, happening: Happening) {
        self.counter += 1;
        self.queue.insert((self.now + delay, self.counter), Box::new(happening));
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(((at, _), happening)) = self.queue.pop_first() {
            if at > until {
                self.counter += 1;
                self.queue.insert((at, self.counter), happening);
                break;
            }
            self.now = self.now.max(at);
            self.happen(*happening);
        }
        self.now = until;
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Reach { node, life, event } => {
                if self.lives(&node, life) {
                    self.step(&node, event);
                }
            }
            Happening::Timer { node, at } => {
                let agent = &self.agents[&node];
                if agent.alive && agent.timer == Some(at) {
                    self.agent(&node).timer = None;
                    self.step(&node, Event::Timer);
                }
            }
            Happening::Links { node, life } => {
                if self.lives(&node, life) {
                    let up = self.agents[&node].links_up(&self.links_down);
                    self.step(&node, Event::Links { up });
                    self.look_at_kernel(&node, ms(5));
                }
            }
            Happening::Kernel { node, life } => self.work_kernel(&node, life),
            Happening::Counters { node, life } => self.read_counters(&node, life),
            Happening::Store(letter) => self.store(*letter),
            Happening::Refill { node, life, from, after } => {
                self.refill(&node, life, from, after);
            }
            Happening::Mirror { reader, origin } => self.mirror(&reader, &origin),
            Happening::Pull { node, life, origin } => {
                if self.lives(&node, life) {
                    self.pull(&node, &origin);
                }
            }
            Happening::Hear { node, life, from } => self.hear(&node, life, &from),
            Happening::Operator => self.operate(),
            Happening::Siege => self.besiege(),
            Happening::Takeover(service, to) => self.take_over(&service, &to),
            Happening::Fault(fault) => self.strike(fault),
            Happening::Forged(forged) => self.read_forged(*forged),
            Happening::Lease(mail) => self.deliver(mail),
            Happening::File { node, at } => self.give_file(&node, at),
        }
    }

    pub(crate) fn note(&mut self, what: String) {
        if self.trace.len() == 400 {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:>9.3} {what}", self.now.as_secs_f64()));
    }

    pub(crate) fn agent(&mut self, node: &NodeId) -> &mut Agent {
        self.agents.get_mut(node).expect("a known node")
    }

    pub(crate) fn lives(&self, node: &NodeId, life: u64) -> bool {
        let agent = &self.agents[node];
        agent.alive && agent.life == life
    }

    // --- an agent's life

    /// Starts an agent from its journal; not `whole` when that is known to lack something.
    pub(crate) fn start(&mut self, node: &NodeId, whole: bool) {
        let down = self.links_down.clone();
        let agent = self.agent(node);
        let whole = whole && !std::mem::take(&mut agent.lacks);
        agent.alive = true;
        agent.life += 1;
        agent.controller = nett_agent::controller::Controller::new(agent.setting.clone());
        agent.wanted = None;
        agent.applying = false;
        agent.watching = false;
        agent.caught_up.clear();
        agent.reader = Reader::default();
        agent.connected = false;
        agent.timer = None;
        if let Some(pace) = agent.pace {
            agent.controller.set_pace(pace);
        }
        let saved = agent.saved.clone();
        let journal = sort(&saved, agent.journal.clone());
        let before = prefix(&saved, &journal);
        let number = |seq: u64| usize::try_from(seq - 1).expect("a short log");
        agent.read = before.start.iter().map(|(s, seq)| (s.clone(), number(*seq))).collect();
        let up = agent.links_up(&down);
        self.start_lease(node);
        self.start_name_server(node);
        self.step(node, Event::Checkpoint(saved));
        for sealed in self.agents[node].own_log.clone() {
            self.step(node, Event::LocalKept(Ok(Box::new(sealed))));
        }
        for (sealed, stream_seq) in journal {
            self.step(node, Event::Replayed { sealed, stream_seq });
        }
        let blind = self.mutant == Some(Mutant::BlindStart);
        self.step(node, Event::ReplayDone { trusted: blind || (whole && before.whole) });
        self.step(node, Event::Links { up });
        let pulses = self.agents[node].pulses();
        self.step(node, Event::Neighbours { pulses });
        if self.servers[self.agents[node].site()].up {
            self.connect(node);
        }
    }

    pub(crate) fn kill(&mut self, node: &NodeId) {
        self.note(format!("{node} dies"));
        let agent = self.agent(node);
        agent.alive = false;
        agent.lacks |= !agent.unsaved.is_empty() || !agent.controller.is_trusted();
        agent.unsaved.clear();
        agent.dies_in = None;
    }

    pub(crate) fn connect(&mut self, node: &NodeId) {
        let agent = self.agent(node);
        agent.connected = true;
        agent.caught_up.clear();
        let life = agent.life;
        self.step(node, Event::BusConnected);
        for origin in self.servers.keys().cloned().collect::<Vec<_>>() {
            let delay = ms(self.rng.u64(1..10));
            self.at(delay, Happening::Pull { node: node.clone(), life, origin });
        }
        for from in self.reports.keys().cloned().collect::<Vec<_>>() {
            let delay = ms(self.rng.u64(1..10));
            self.at(delay, Happening::Hear { node: node.clone(), life, from });
        }
    }

    pub(crate) fn clock(&self, node: &NodeId) -> Now {
        let ms = u64::try_from(self.now.as_millis()).expect("a short run");
        let wall = (EPOCH_MS + ms).saturating_add_signed(self.agents[node].skew);
        let mono = self.as_waited(node, self.agents[node].lease.mono(self.now));
        Now { mono, wall: WallMs(wall) }
    }

    /// The controller handles an event, and its effects are carried out in order: what an effect
    /// leads to at once is handled before anything else, as the driver does it.
    pub(crate) fn step(&mut self, node: &NodeId, event: Event) {
        let (mut events, mut served) = (VecDeque::from([event]), false);
        while let Some(event) = events.pop_front() {
            let now = self.clock(node);
            for effect in self.agent(node).controller.handle(event, now) {
                if self.agents[node].dies_in == Some(0) {
                    return self.kill(node);
                }
                let agent = self.agent(node);
                agent.dies_in = agent.dies_in.map(|n| n - 1);
                served |= matches!(effect, Effect::Zone(_));
                events.extend(self.carry_out(node, effect));
            }
        }
        if served {
            self.check_names(node);
        }
        let agent = &self.agents[node];
        if let Some(due) = agent.controller.deadline()
            && agent.timer.is_none_or(|at| at > due)
        {
            let delay = agent.lease.until(self.as_due(node, due), self.now);
            self.agent(node).timer = Some(due);
            self.at(delay, Happening::Timer { node: node.clone(), at: due });
        }
    }

    fn carry_out(&mut self, node: &NodeId, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Journal { sealed, stream_seq } => {
                return self.journal(node, sealed, stream_seq);
            }
            Effect::Append(append) => self.append(node, *append),
            Effect::Kernel { generation, desired } => {
                self.agent(node).wanted = Some((generation, *desired));
                self.look_at_kernel(node, ms(1));
            }
            Effect::Zone(answers) => {
                self.watch.served(node, &answers);
                self.heed();
                let agent = self.agent(node);
                agent.zone = answers;
                agent.serial += 1;
                let result = Ok(agent.serial);
                self.serve_names(node);
                return Some(Event::Served { result });
            }
            Effect::Near(_) => {
                let serial = self.agent(node).serial;
                return Some(Event::Ordered { result: Ok(serial) });
            }
            Effect::Probe { slot, .. } => {
                let (delay, ok) = (ms(self.rng.u64(1..200)), !self.rough || self.rng.u8(0..20) > 0);
                let event = Event::Probed { slot, ok, evidence: vec!["simulated".to_owned()] };
                self.reach(node, delay, event);
            }
            Effect::Report(report) => self.spread(node, *report),
            // No service of these fabrics names anybody outside.
            Effect::AskOutside(_) => {}
            Effect::Plan { .. } => {}
            Effect::Reply { token, response } => {
                if let Outcome::Ok(payload) = response.outcome
                    && let Payload::Command(reply) = *payload
                {
                    self.desk.replies.insert(token.0, reply);
                }
            }
            Effect::Local(entry) => return Some(self.keep_local(node, *entry)),
            Effect::Compact(compact) => {
                let records = self.compact(node, &compact);
                return Some(Event::Compacted { records });
            }
            // Streams of the simulator begin with their first entry.
            Effect::Condense(_) => return Some(Event::Condensed { stored: false }),
            Effect::TakeIn(_) => self.watch.complain(format!("{node} takes in a checkpoint")),
            Effect::Refill { from, after_stream_seq: after } => {
                let (node, life) = (node.clone(), self.agents[node].life);
                let delay = ms(self.rng.u64(1..50));
                self.at(delay, Happening::Refill { node, life, from, after });
            }
            Effect::ReadAgain => self.watch.complain(format!("{node} read a forked log")),
            Effect::Rewind { site } => return self.rewind(node, site),
            Effect::Audit(_) => {}
            Effect::Lease(effect) => return self.carry_lease(node, effect),
        }
        None
    }

    pub(crate) fn reach(&mut self, node: &NodeId, delay: Duration, event: Event) {
        let life = self.agents[node].life;
        self.at(delay, Happening::Reach { node: node.clone(), life, event });
    }

    // --- the kernel

    // --- the bus

    pub(crate) fn joined(&self, a: &SiteId, b: &SiteId) -> bool {
        let pair = if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) };
        a == b || (self.servers[a].up && self.servers[b].up && !self.cuts.contains(&pair))
    }

    pub(crate) fn next_id(&mut self, site: &SiteId) -> EntryId {
        self.counter += 1;
        format!("{site}.{:0>26}", self.counter).parse().expect("an id")
    }
}
