//! The name servers of the simulated nodes: each agent's answers go to a real zone keeper, and what
//! that says to clients of all kinds is held against a computation of its own from the entries that
//! the agent has read (`dns/tests/naive`).
//!
//! Whenever a node serves something new, and for every node when a step of a task is done.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nett_agent::bus::wire::Sealed;
use nett_agent::zone::ZoneKeeper;
use nett_dns::{Deadlines, Zone};
use nett_policy::fabric::Fabric;
use nett_policy::id::{NodeId, ServiceId, SiteId, WallMs};
use nett_policy::log::entry::{Body, StepState};
use nett_policy::log::fold::Fold;
use nett_policy::log::intent::Intent;
use nett_policy::place::{Placed, Placement, place};
use nett_policy::service::Service;
use nett_policy::task::steps::StepKind;
use nett_policy::task::view::last_effect;
use nett_policy::traffic::Spread;
use tempfile::TempDir;

use crate::naive::{Question, State, Told, ask};
use crate::world::World;

/// Clients of every site, of prefixes within prefixes, and of nobody.
const CLIENTS: [&str; 11] = [
    "10.1.0.9",
    "10.2.3.4",
    "10.3.255.255",
    "198.51.100.7",
    "198.51.100.200",
    "203.0.113.129",
    "203.0.112.1",
    "8.8.8.8",
    "fd00:1::9",
    "2001:db8:77:8000::1",
    "2400:cb00::1",
];

/// All name servers of a world.
pub(crate) struct Names {
    directory: TempDir,
    servers: BTreeMap<NodeId, NameServer>,
    /// How many nodes were looked at when a step of this kind was done.
    pub(crate) steps: BTreeMap<StepKind, usize>,
    /// Answers that were compared.
    pub(crate) compared: usize,
}

struct NameServer {
    keeper: ZoneKeeper,
    deadlines: Arc<Deadlines>,
    /// What each service's placement was when all questions about it were last asked.
    seen: BTreeMap<ServiceId, Placed>,
    /// What the core made of the entries that the agent had read, by how many they were.
    read: (usize, Placement),
    /// Where the next single question about the others is taken from.
    turn: usize,
    serial: u32,
}

// === impl NameServer ===

impl NameServer {
    fn open(fabric: &Fabric, home: &SiteId, directory: &Path) -> Self {
        std::fs::create_dir_all(directory).expect("a directory");
        let deadlines = Arc::<Deadlines>::default();
        let keeper = ZoneKeeper::open(fabric, home, directory, WallMs(1_795_253_400_000));
        let keeper = keeper.expect("valid names").limited_by(deadlines.clone());
        let serial = keeper.serial();
        Self {
            keeper,
            deadlines,
            seen: BTreeMap::new(),
            read: (0, Placement::default()),
            turn: 0,
            serial,
        }
    }
}

// === impl World ===

impl World {
    /// From now on every node has a name server.
    pub(crate) fn open_name_servers(&mut self) {
        // Serials are synced to disk; one of memory will do.
        let memory = Path::new("/dev/shm");
        let directory = match memory.is_dir() {
            true => TempDir::new_in(memory),
            false => TempDir::new(),
        };
        self.names = Some(Names {
            directory: directory.expect("a directory"),
            servers: BTreeMap::new(),
            steps: BTreeMap::new(),
            compared: 0,
        });
        for node in self.agents.keys().cloned().collect::<Vec<_>>() {
            self.start_name_server(&node);
            self.serve_names(&node);
        }
    }

    /// A name server begins anew with its agent.
    pub(crate) fn start_name_server(&mut self, node: &NodeId) {
        let site = self.agents[node].site().clone();
        let Some(names) = &mut self.names else { return };
        let directory = names.directory.path().join(node.as_str());
        let server = NameServer::open(&self.fabric, &site, &directory);
        names.servers.insert(node.clone(), server);
    }

    /// The agent's answers are served from now on.
    pub(crate) fn serve_names(&mut self, node: &NodeId) {
        let answers = self.agents[node].zone.clone();
        let Some(names) = &mut self.names else { return };
        if answers.is_empty() {
            return;
        }
        let server = names.servers.get_mut(node).expect("every node has one");
        server.keeper.serve(answers).expect("served");
        let serial = server.keeper.serial();
        // RFC 1982 matters after two thousand million snapshots.
        if std::mem::replace(&mut server.serial, serial) > serial {
            self.watch.complain(format!("{node}: its serial went back to {serial}"));
        }
    }

    /// What a node answers is what the entries that it has read say.
    pub(crate) fn check_names(&mut self, node: &NodeId) {
        if self.names.is_none() {
            return;
        }
        let placement = self.placement_of_read(node);
        if let Err(wrong) = self.compare(node, &placement, |_| true) {
            self.watch.complain(wrong);
        }
    }

    /// The same, when it has had so long to follow.
    pub(crate) fn check_names_soon(&mut self, node: &NodeId, time: Duration) -> Result<(), String> {
        let until = self.now + time;
        loop {
            if !self.agents[node].alive {
                return Ok(());
            }
            let placement = self.placement_of_read(node);
            match self.compare(node, &placement, |_| true) {
                Err(_) if self.now < until => self.pass(Duration::from_millis(10)),
                result => return result,
            }
        }
    }

    /// What a node's name server tells now.
    pub(crate) fn ask_name_server(
        &mut self,
        node: &NodeId,
        service: &ServiceId,
        question: &Question,
    ) -> BTreeSet<IpAddr> {
        let names = self.names.as_ref().expect("whoever asks has opened them");
        let zone = names.servers[node].keeper.zone().load_full();
        ask(&zone, &self.fabric, service, question).addresses
    }

    /// A step was done, as the home site of its task says: everybody who had to do something for it
    /// answers so. Leases are asked for by nobody's step; and while everything goes wrong there are
    /// other tasks that it may not have heard of.
    pub(crate) fn check_step(&mut self, done: &Sealed) {
        let Body::Step(fact) = &done.entry.body else { return };
        let is_done = matches!(fact.state, StepState::Done { .. });
        if self.names.is_none() || self.rough || !is_done {
            return;
        }
        let before = |sealed: &&Sealed| sealed.entry.id != done.entry.id;
        let entries: Vec<Sealed> =
            self.servers.values().flat_map(|s| s.log.iter().filter(before).cloned()).collect();
        let mut fold = Fold::default();
        for sealed in &entries {
            fold.join(&sealed.entry);
        }
        let effect = last_effect(&fold, &fact.slot.task).expect("it had an effect").clone();
        let step = effect.steps.iter().find(|s| s.number == fact.step).expect("one of its steps");
        let placement = place(self.policy(), &Intent::read(&fold));
        for node in step.required.clone() {
            // It may have died since.
            if !self.agents[&node].alive {
                continue;
            }
            let placement = self.overlaid(&node, placement.clone());
            let told = self.compare(&node, &placement, |service| !service.is_leased());
            if let Err(wrong) = told.and_then(|()| self.both_planes(&node, &placement)) {
                let (kind, number) = (step.kind, step.number);
                self.watch.complain(format!("after step {number} ({kind:?}): {wrong}"));
            }
        }
        let names = self.names.as_mut().expect("looked at above");
        *names.steps.entry(step.kind).or_default() += step.required.len();
    }

    /// What the core makes of the entries that a node has read, and of the votes that it knows.
    fn placement_of_read(&mut self, node: &NodeId) -> Placement {
        let agent = &self.agents[node];
        let unsaved = agent.unsaved.iter().map(|(sealed, _)| sealed);
        let read: Vec<&Sealed> =
            agent.journal.iter().map(|(sealed, _)| sealed).chain(unsaved).collect();
        let names = self.names.as_ref().expect("whoever compares has opened them");
        let (count, known) = &names.servers[node].read;
        let placement = match *count == read.len() + 1 {
            true => known.clone(),
            false => {
                let mut fold = Fold::default();
                for sealed in &read {
                    fold.join(&sealed.entry);
                }
                place(self.policy(), &Intent::read(&fold))
            }
        };
        let read = (read.len() + 1, placement.clone());
        let names = self.names.as_mut().expect("looked at above");
        names.servers.get_mut(node).expect("every node has one").read = read;
        self.overlaid(node, placement)
    }

    fn overlaid(&self, node: &NodeId, mut placement: Placement) -> Placement {
        if let Some(lease) = self.agents[node].controller.lease() {
            lease.overlay(&mut placement);
        }
        placement
    }

    /// Asks a node everything about what has changed since it was last asked, and something about
    /// the rest.
    fn compare(
        &mut self,
        node: &NodeId,
        placement: &Placement,
        about: impl Fn(&Service) -> bool,
    ) -> Result<(), String> {
        let agent = &self.agents[node];
        let (catalog, fabric) = (self.catalog.clone(), self.fabric.clone());
        let (home, now) = (agent.site().clone(), agent.lease.mono(self.now));
        let ends = agent.lease.deadlines.clone();
        let names = self.names.as_mut().expect("whoever compares has opened them");
        let server = names.servers.get_mut(node).expect("every node has one");
        let over: BTreeSet<&ServiceId> =
            ends.iter().filter(|(_, until)| **until <= now).map(|(id, _)| id).collect();
        let instant = |id: &ServiceId| match over.contains(id) {
            true => Instant::now(),
            false => Instant::now() + Duration::from_secs(3600),
        };
        server.deadlines.set(ends.keys().map(|id| (id.clone(), instant(id))).collect());
        let zone = server.keeper.zone().load_full();
        for service in catalog.iter().filter(|service| about(service)) {
            let placed = &placement.services[&service.id];
            let all = server.seen.insert(service.id.clone(), placed.clone());
            let (service, over) = (service, over.contains(&service.id));
            let (spread, lowered) = (&placed.traffic.answers, placed.lowered);
            let (fabric, home) = (&*fabric, Some(&home));
            let state = State { fabric, home, service, spread, lowered, over };
            let questions: Vec<Question> = match all.as_ref() == Some(placed) {
                false => questions().collect(),
                true => {
                    server.turn += 7;
                    questions().cycle().skip(server.turn % ALL).take(1).collect()
                }
            };
            names.compared += questions.len();
            for question in questions {
                one(&zone, &state, &question).map_err(|wrong| format!("{node}: {wrong}"))?;
            }
        }
        Ok(())
    }

    /// Every site that clients are sent to has a kernel that hands their
    /// packets on; between break and make nobody has.
    fn both_planes(&self, node: &NodeId, placement: &Placement) -> Result<(), String> {
        let mut taking: BTreeMap<ServiceId, BTreeSet<SiteId>> = BTreeMap::new();
        for agent in self.agents.values() {
            for service in agent.delivers(&self.catalog) {
                taking.entry(service).or_default().insert(agent.site().clone());
            }
        }
        for service in self.catalog.iter().filter(|service| !service.is_leased()) {
            let traffic = &placement.services[&service.id].traffic;
            let taking = taking.remove(&service.id).unwrap_or_default();
            let refusing = traffic.answers.sites().into_iter().find(|site| !taking.contains(site));
            if let Some(site) = refusing.filter(|_| traffic.spread != Spread::Nowhere) {
                let id = &service.id;
                return Err(format!("{node}: {id} is answered with {site}, which refuses it"));
            }
        }
        Ok(())
    }
}

/// How many there are.
const ALL: usize = CLIENTS.len() * 8;

fn questions() -> impl Iterator<Item = Question> + Clone {
    let client = |text: &str| text.parse::<IpAddr>().expect("an address");
    let all: Vec<Question> = CLIENTS.iter().flat_map(|c| Question::all_of(client(c))).collect();
    assert_eq!(all.len(), ALL);
    all.into_iter()
}

fn one(zone: &Zone, state: &State<'_>, question: &Question) -> Result<(), String> {
    let told: Told = ask(zone, state.fabric, &state.service.id, question);
    let due = state.told(question);
    match told == due {
        true => Ok(()),
        false => Err(format!(
            "{} is {}; {question:?} is told {told:?} and not {due:?}",
            state.service.id, state.spread
        )),
    }
}
