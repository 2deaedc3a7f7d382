//! The simulated world: agents, servers, links and operators in one thread, and a queue of what
//! happens next. Everything that is not decided by the agents is drawn from one seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use nett_agent::api::types::{Outcome, Payload};
use nett_agent::bus::wire::{Draft, Report, Sealed};
use nett_agent::controller::Setting;
use nett_agent::controller::effect::{Append, Effect};
use nett_agent::controller::event::{AppendFailure, Event, Now};
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
use crate::invariants::Watch;
use crate::lease::{LeaseWatch, Mail};
use crate::mutants::{Memory, Mutant};
use crate::names::Names;
use crate::operators::Desk;
use crate::said::said;
use crate::shape::{Shape, shape};
use crate::traps::Way;

/// Wall time at the start.
const EPOCH_MS: u64 = 1_795_253_400_000;

/// What happens at some time.
#[derive(Debug)]
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
    /// What is counted for drains is read.
    Counters {
        node: NodeId,
        life: u64,
    },
    /// An entry reaches its site's server.
    Store {
        node: NodeId,
        life: u64,
        sealed: Sealed,
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
    Lease(Mail),
}

pub(crate) struct Server {
    pub(crate) up: bool,
    pub(crate) log: Vec<Sealed>,
    /// How much it has of the logs of others.
    pub(crate) mirrors: BTreeMap<SiteId, usize>,
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
    pub(crate) desk: Desk,
    pub(crate) watch: Watch,
    pub(crate) lease_watch: LeaseWatch,
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
        let server = |_| Server { up: true, log: Vec::new(), mirrors: BTreeMap::new() };
        let mut world = Self {
            rng,
            later: Rng::with_seed(!seed),
            servers: fabric.sites.iter().map(|s| (s.id.clone(), server(()))).collect(),
            agents: BTreeMap::new(),
            cuts: BTreeSet::new(),
            links_down: BTreeSet::new(),
            reports: BTreeMap::new(),
            desk: Desk::default(),
            watch: Watch::new(&catalog),
            lease_watch: LeaseWatch::default(),
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
            Happening::Store { node, life, sealed, after } => {
                self.store(&node, life, sealed, after);
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
            Happening::Lease(mail) => self.deliver(mail),
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
        Now { mono: self.agents[node].lease.mono(self.now), wall: WallMs(wall) }
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
            let delay = agent.lease.until(due, self.now);
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
            Effect::Refill { .. } => self.watch.complain(format!("{node} refills a whole log")),
            Effect::ReadAgain => self.watch.complain(format!("{node} read a forked log")),
            Effect::Rewind { .. } => self.watch.complain(format!("{node} finds a gap in a log")),
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

    fn append(&mut self, node: &NodeId, append: Append) {
        let Append { body, verbatim, after, after_stream_seq } = append;
        let body = self.as_written(body);
        self.counter += 1;
        let site = self.agents[node].site().clone();
        let (boot, seq, prev_hash) = match after {
            Some(head) => (head.boot, head.seq + 1, head.hash),
            None => (format!("boot{}", self.counter), 1, String::new()),
        };
        let draft = Draft {
            id: self.next_id(&site),
            site,
            node: node.clone(),
            fabric: self.agents[node].controller.fabric_ref(),
            at: self.clock(node).wall,
            boot,
            seq,
            prev_hash,
            body,
            request_verbatim: verbatim,
        };
        let sealed = Sealed::seal(draft, &self.agents[node].key).expect("the key fits");
        let (life, delay) = (self.agents[node].life, ms(self.rng.u64(1..5)));
        let after = after_stream_seq;
        self.at(delay, Happening::Store { node: node.clone(), life, sealed, after });
    }

    pub(crate) fn next_id(&mut self, site: &SiteId) -> EntryId {
        self.counter += 1;
        format!("{site}.{:0>26}", self.counter).parse().expect("an id")
    }

    fn store(&mut self, node: &NodeId, life: u64, sealed: Sealed, after: u64) {
        let site = self.agents[node].site().clone();
        let answer = |world: &mut Self, delay: u64, event: Event| {
            let node = node.clone();
            world.at(ms(delay), Happening::Reach { node, life, event });
        };
        let server = self.servers.get_mut(&site).expect("every site has one");
        if !server.up {
            let failure = AppendFailure::Unreachable("no server".to_owned());
            return answer(self, 1, Event::AppendFailed(failure));
        }
        let length = server.log.len() as u64;
        if length != after && self.mutant != Some(Mutant::NoCompareAndSet) {
            return answer(self, 1, Event::AppendFailed(AppendFailure::Conflict));
        }
        server.log.push(sealed.clone());
        let stream_seq = length + 1;
        self.note(format!("{node} stores {site}:{stream_seq} {}", said(&sealed)));
        self.watch.stored(&sealed);
        self.check_step(&sealed);
        self.heed();
        for other in self.servers.keys().cloned().collect::<Vec<_>>() {
            if other != site {
                let delay = ms(self.rng.u64(2..100));
                self.at(delay, Happening::Mirror { reader: other, origin: site.clone() });
            }
        }
        self.tell_readers(&site, &site);
        let lost = self.rough && self.rng.u8(0..30) == 0;
        let delay = if lost { 4000 } else { self.rng.u64(1..5) };
        let event = match lost {
            true => Event::AppendFailed(AppendFailure::Unknown("no answer".to_owned())),
            false => Event::Appended { sealed, stream_seq },
        };
        answer(self, delay, event);
    }

    fn mirror(&mut self, reader: &SiteId, origin: &SiteId) {
        if !self.joined(reader, origin) {
            return;
        }
        let held = self.servers[origin].log.len();
        let server = self.servers.get_mut(reader).expect("a known site");
        server.mirrors.insert(origin.clone(), held);
        self.tell_readers(reader, origin);
    }

    /// The agents of a site read on in a log.
    pub(crate) fn tell_readers(&mut self, site: &SiteId, origin: &SiteId) {
        let of_site = self.agents.values().filter(|a| a.site() == site && a.alive);
        let nodes: Vec<_> = of_site.map(|a| (a.setting.node.id.clone(), a.life)).collect();
        for (node, life) in nodes {
            let delay = ms(self.rng.u64(1..10));
            self.at(delay, Happening::Pull { node, life, origin: origin.clone() });
        }
    }

    fn pull(&mut self, node: &NodeId, origin: &SiteId) {
        let site = self.agents[node].site().clone();
        let server = &self.servers[&site];
        if !server.up || !self.agents[node].connected {
            return;
        }
        let log = &self.servers[origin].log;
        let held = match site == *origin {
            true => log.len(),
            false => server.mirrors.get(origin).copied().unwrap_or(0),
        };
        let mut from = self.agents[node].read.get(origin).copied().unwrap_or(0);
        // Delivered again, from anywhere.
        if self.rough && self.rng.u8(0..20) == 0 {
            from = self.rng.usize(0..=from);
        }
        let entries = log.get(from..held).unwrap_or(&[]).to_vec();
        let life = self.agents[node].life;
        for (sealed, stream_seq) in entries.into_iter().zip(from as u64 + 1..) {
            let sealed = self.as_read(node, sealed);
            self.step(node, Event::Entries(vec![(sealed, stream_seq)]));
            if !self.lives(node, life) {
                return;
            }
        }
        let agent = self.agent(node);
        let read = agent.read.entry(origin.clone()).or_default();
        *read = held.max(*read);
        if agent.caught_up.insert(origin.clone()) {
            self.step(node, Event::CaughtUp { site: origin.clone() });
        }
    }
}
