//! The bus without servers: several agents in one process, with faults on demand.
//!
//! It models what the real one guarantees and no more: one log per site with compare-and-set,
//! mirrors that stand still while two sites are cut apart and go on in order afterwards. Nothing
//! runs on its own: every call delivers what can be delivered, in an order that depends on the
//! seed alone. Sites can be cut, servers stopped, entries doubled and other sites' entries
//! interleaved differently.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use futures::future::BoxFuture;
use nett_policy::fabric::Fabric;
use nett_policy::id::{NodeId, SiteId};
use tokio::sync::{mpsc, oneshot};

use super::intake::turn::Turn;
use super::subject;
use super::wire::{Sealed, SealedVote, open_preface, open_report};
use super::{AppendError, Bus, BusEvent, BusEvents, Responder};

/// All servers of a fabric.
#[derive(Clone)]
pub struct SimulatedNet {
    state: Arc<Mutex<State>>,
}

/// One agent's connection.
pub struct SimulatedBus {
    net: SimulatedNet,
    place: usize,
    site: SiteId,
    node: NodeId,
}

struct State {
    fabric: Arc<Fabric>,
    /// Per site: what its stream holds, as stored.
    logs: BTreeMap<SiteId, Vec<Stored>>,
    reports: BTreeMap<String, (SiteId, Vec<u8>)>,
    /// Pairs of sites that do not reach each other, smaller id first.
    cuts: BTreeSet<(SiteId, SiteId)>,
    /// Sites whose server is stopped.
    down: BTreeSet<SiteId>,
    /// Per reading site and origin: how much its mirror holds.
    mirrors: BTreeMap<(SiteId, SiteId), usize>,
    agents: Vec<Agent>,
    duplicate: bool,
    reorder: bool,
    random: u64,
}

struct Stored {
    subject: String,
    bytes: Arc<[u8]>,
}

struct Agent {
    site: SiteId,
    node: NodeId,
    events: mpsc::Sender<BusEvent>,
    /// Per site, how many entries were handed on.
    read: BTreeMap<SiteId, usize>,
    /// Sites whose logs are read from a later entry than the first.
    later: BTreeSet<SiteId>,
    /// Sites of which this agent was told that nothing is left.
    caught_up: BTreeSet<SiteId>,
    /// Reports as last handed on.
    reports: BTreeMap<String, Vec<u8>>,
    connected: bool,
}

impl SimulatedNet {
    /// Servers for every site, all reachable; `seed` decides orders.
    pub fn new(fabric: Arc<Fabric>, seed: u64) -> Self {
        let logs = fabric.sites.iter().map(|s| (s.id.clone(), Vec::new())).collect();
        let state = State {
            fabric,
            logs,
            reports: BTreeMap::new(),
            cuts: BTreeSet::new(),
            down: BTreeSet::new(),
            mirrors: BTreeMap::new(),
            agents: Vec::new(),
            duplicate: false,
            reorder: false,
            random: seed | 1,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Connects an agent that reads each log from `start` (1 where missing). `capacity` bounds the
    /// events that wait; what does not fit is delivered by a later call.
    pub fn agent(
        &self,
        site: &SiteId,
        node: &NodeId,
        start: &BTreeMap<SiteId, u64>,
        capacity: usize,
    ) -> (SimulatedBus, BusEvents) {
        let (events, receiver) = mpsc::channel(capacity.max(1));
        let begin = |seq: &u64| usize::try_from(seq.saturating_sub(1)).unwrap_or(usize::MAX);
        let mut state = self.lock();
        state.agents.push(Agent {
            site: site.clone(),
            node: node.clone(),
            events,
            later: start.iter().filter(|(_, seq)| **seq > 1).map(|(s, _)| s.clone()).collect(),
            read: start.iter().map(|(site, seq)| (site.clone(), begin(seq))).collect(),
            caught_up: BTreeSet::new(),
            reports: BTreeMap::new(),
            connected: false,
        });
        let place = state.agents.len() - 1;
        state.deliver();
        drop(state);
        let bus = SimulatedBus { net: self.clone(), place, site: site.clone(), node: node.clone() };
        (bus, receiver)
    }

    /// Cuts two sites apart, or joins them again.
    pub fn cut(&self, a: &SiteId, b: &SiteId, cut: bool) {
        let pair = if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) };
        let mut state = self.lock();
        if cut {
            state.cuts.insert(pair);
        } else {
            state.cuts.remove(&pair);
        }
        state.deliver();
    }

    /// Stops a site's server, or starts it again with what it held.
    pub fn stop_server(&self, site: &SiteId, stopped: bool) {
        let mut state = self.lock();
        if stopped {
            state.down.insert(site.clone());
        } else {
            state.down.remove(site);
        }
        state.deliver();
    }

    /// Hands every entry on twice.
    pub fn duplicate(&self, on: bool) {
        self.lock().duplicate = on;
    }

    /// Varies the order of agents and sites. Entries of one site stay in order, as they do on the
    /// real bus.
    pub fn reorder(&self, on: bool) {
        self.lock().reorder = on;
    }

    /// Delivers what did not fit before.
    pub fn pump(&self) {
        self.lock().deliver();
    }

    /// Stores bytes in a site's stream as they are: forged, old, damaged.
    pub fn inject(&self, site: &SiteId, subject: &str, bytes: &[u8]) {
        let mut state = self.lock();
        let stored = Stored { subject: subject.to_owned(), bytes: bytes.into() };
        state.logs.entry(site.clone()).or_default().push(stored);
        state.deliver();
    }

    /// Sends a request to one agent of `site`, as an operator there does. `None` when no agent of
    /// the site is connected or has room.
    pub fn request(
        &self,
        site: &SiteId,
        subject: &str,
        bytes: &[u8],
    ) -> Option<oneshot::Receiver<Vec<u8>>> {
        let mut state = self.lock();
        let of_site = |(_, a): &(usize, &Agent)| a.site == *site && a.connected;
        let places: Vec<usize> =
            state.agents.iter().enumerate().filter(of_site).map(|(n, _)| n).collect();
        let pick = if state.reorder { state.next_random() } else { 0 };
        let place = *places.get(pick.checked_rem(places.len())?)?;
        let (reply, answer) = Responder::channel();
        let (bytes, subject) = (bytes.into(), subject.to_owned());
        let event = BusEvent::Request { bytes, subject, reply };
        state.agents[place].events.try_send(event).ok()?;
        Some(answer)
    }

    /// Asks one node.
    pub fn rpc(
        &self,
        node: &NodeId,
        operation: &str,
        bytes: &[u8],
    ) -> Option<oneshot::Receiver<Vec<u8>>> {
        let state = self.lock();
        let agent = state.agents.iter().rev().find(|a| a.node == *node && a.connected)?;
        let (reply, answer) = Responder::channel();
        let subject = subject::rpc(&agent.site, node, operation);
        let event = BusEvent::Rpc { bytes: bytes.into(), subject, reply, turn: Turn::default() };
        agent.events.try_send(event).ok()?;
        Some(answer)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

// === impl State ===

impl State {
    fn next_random(&mut self) -> usize {
        // xorshift64 (Marsaglia 2003): enough to vary an order.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random >> 33).unwrap_or(0)
    }

    fn up(&self, site: &SiteId) -> bool {
        !self.down.contains(site)
    }

    fn joined(&self, a: &SiteId, b: &SiteId) -> bool {
        let pair = if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) };
        a == b || (self.up(a) && self.up(b) && !self.cuts.contains(&pair))
    }

    /// Everything that can be delivered now, is.
    fn deliver(&mut self) {
        self.mirror();
        let mut places: Vec<usize> = (0..self.agents.len()).collect();
        let mut sites: Vec<SiteId> = self.logs.keys().cloned().collect();
        if self.reorder {
            for n in (1..places.len()).rev() {
                let other = self.next_random() % (n + 1);
                places.swap(n, other);
            }
            for n in (1..sites.len()).rev() {
                let other = self.next_random() % (n + 1);
                sites.swap(n, other);
            }
        }
        for place in places {
            if !self.connection(place) {
                continue;
            }
            for site in &sites {
                self.entries(place, site);
            }
            self.reports(place);
        }
    }

    fn mirror(&mut self) {
        let sites: Vec<SiteId> = self.logs.keys().cloned().collect();
        for reader in &sites {
            for origin in &sites {
                if self.joined(reader, origin) {
                    let held = self.logs[origin].len();
                    self.mirrors.insert((reader.clone(), origin.clone()), held);
                }
            }
        }
    }

    /// Tells a change of the connection; true when the agent is connected.
    fn connection(&mut self, place: usize) -> bool {
        let up = self.up(&self.agents[place].site);
        let agent = &mut self.agents[place];
        if agent.connected != up {
            let event = if up { BusEvent::Connected } else { BusEvent::Disconnected };
            if agent.events.try_send(event).is_err() {
                return false;
            }
            agent.connected = up;
            agent.caught_up.clear();
            agent.reports.clear();
        }
        up
    }

    fn entries(&mut self, place: usize, site: &SiteId) {
        let agent = &mut self.agents[place];
        let held = self.mirrors.get(&(agent.site.clone(), site.clone())).copied().unwrap_or(0);
        let log = &self.logs[site];
        let read = agent.read.entry(site.clone()).or_default();
        while *read < held {
            let stream_seq = *read as u64 + 1;
            let copies = if self.duplicate { 2 } else { 1 };
            for copy in 0..copies {
                let event = event(&log[*read], site, stream_seq, &self.fabric);
                if agent.events.try_send(event).is_err() {
                    // The second copy is a fault of ours, not a promise.
                    *read += copy;
                    return;
                }
            }
            *read += 1;
        }
        if agent.caught_up.insert(site.clone()) {
            let event = BusEvent::CaughtUp { site: site.clone() };
            if agent.events.try_send(event).is_err() {
                agent.caught_up.remove(site);
            }
        }
    }

    /// Hands a vote to everybody who is reached now; who is not hears of it in an answer.
    fn vote(&mut self, site: &SiteId, bytes: &[u8]) {
        let Ok(vote) = SealedVote::open(bytes, &self.fabric) else { return };
        for place in 0..self.agents.len() {
            let at = self.agents[place].site.clone();
            if self.joined(&at, site) && self.agents[place].connected {
                let _ = self.agents[place].events.try_send(BusEvent::Vote(vote.clone()));
            }
        }
    }

    fn ask(
        &mut self,
        from: &SiteId,
        site: &SiteId,
        voter: &NodeId,
        bytes: &[u8],
    ) -> Option<oneshot::Receiver<Vec<u8>>> {
        let joined = self.joined(from, site) && self.up(site);
        let found = |a: &&Agent| a.site == *site && a.node == *voter && a.connected;
        let agent = self.agents.iter().rev().find(found).filter(|_| joined)?;
        let (reply, answer) = Responder::channel();
        agent.events.try_send(BusEvent::Beacon { bytes: bytes.into(), reply }).ok()?;
        Some(answer)
    }

    fn reports(&mut self, place: usize) {
        let at = self.agents[place].site.clone();
        for (subject, (site, bytes)) in &self.reports {
            let reachable = self.joined(&at, site);
            let agent = &mut self.agents[place];
            if !reachable || agent.reports.get(subject) == Some(bytes) {
                continue;
            }
            let event = match open_report(bytes, subject, &self.fabric) {
                Ok(report) => BusEvent::Report(report),
                Err(error) => {
                    let (site, subject) = (site.clone(), subject.clone());
                    BusEvent::BadReport { site, subject, error }
                }
            };
            if agent.events.try_send(event).is_ok() {
                agent.reports.insert(subject.clone(), bytes.clone());
            }
        }
    }
}

fn event(stored: &Stored, site: &SiteId, stream_seq: u64, fabric: &Fabric) -> BusEvent {
    let site = site.clone();
    if subject::is_preface(&stored.subject)
        && let Ok(preface) = open_preface(&stored.bytes, &stored.subject, fabric)
    {
        return BusEvent::Preface { preface, stream_seq };
    }
    match Sealed::open(&stored.bytes, &stored.subject, fabric) {
        Ok(sealed) => BusEvent::Entry { sealed, stream_seq, site },
        Err(error) => {
            let (subject, bytes) = (stored.subject.clone(), Arc::clone(&stored.bytes));
            BusEvent::BadEntry { site, stream_seq, subject, bytes, error }
        }
    }
}

impl Bus for SimulatedBus {
    fn append<'a>(
        &'a self,
        sealed: &'a Sealed,
        after_stream_seq: u64,
    ) -> BoxFuture<'a, Result<u64, AppendError>> {
        let mut state = self.net.lock();
        let result = if state.up(&self.site) {
            let log = state.logs.entry(self.site.clone()).or_default();
            let stored = log.iter().position(|s| s.bytes == sealed.bytes);
            match stored {
                Some(place) => Ok(place as u64 + 1),
                None if log.len() as u64 != after_stream_seq => Err(AppendError::Conflict),
                None => {
                    let (subject, bytes) = (sealed.subject(), Arc::clone(&sealed.bytes));
                    log.push(Stored { subject, bytes });
                    Ok(log.len() as u64)
                }
            }
        } else {
            Err(AppendError::Unreachable)
        };
        state.deliver();
        Box::pin(std::future::ready(result))
    }

    fn restate(
        &self,
        subject: String,
        bytes: Arc<[u8]>,
        after_stream_seq: u64,
    ) -> BoxFuture<'_, Result<u64, AppendError>> {
        let mut state = self.net.lock();
        let result = if state.up(&self.site) {
            let log = state.logs.entry(self.site.clone()).or_default();
            match log.len() as u64 == after_stream_seq {
                true => {
                    log.push(Stored { subject, bytes });
                    Ok(log.len() as u64)
                }
                false => Err(AppendError::Conflict),
            }
        } else {
            Err(AppendError::Unreachable)
        };
        state.deliver();
        Box::pin(std::future::ready(result))
    }

    fn publish_report(&self, bytes: Vec<u8>) -> BoxFuture<'_, Result<(), AppendError>> {
        let mut state = self.net.lock();
        let result = if state.up(&self.site) {
            let subject = subject::report(&self.site, &self.node);
            state.reports.insert(subject, (self.site.clone(), bytes));
            Ok(())
        } else {
            Err(AppendError::Unreachable)
        };
        state.deliver();
        Box::pin(std::future::ready(result))
    }

    fn publish_vote(&self, bytes: Vec<u8>) -> BoxFuture<'_, Result<(), AppendError>> {
        let mut state = self.net.lock();
        let result = if state.up(&self.site) {
            state.vote(&self.site, &bytes);
            Ok(())
        } else {
            Err(AppendError::Unreachable)
        };
        Box::pin(std::future::ready(result))
    }

    /// Nobody is outside here.
    fn ask_outside(
        &self,
        _party: String,
        _bytes: Vec<u8>,
    ) -> BoxFuture<'_, Result<(), AppendError>> {
        let up = self.net.lock().up(&self.site);
        let result = if up { Ok(()) } else { Err(AppendError::Unreachable) };
        Box::pin(std::future::ready(result))
    }

    fn ask<'a>(
        &'a self,
        site: &'a SiteId,
        voter: &'a NodeId,
        bytes: Vec<u8>,
    ) -> BoxFuture<'a, Result<Vec<u8>, AppendError>> {
        let answer = self.net.lock().ask(&self.site, site, voter, &bytes);
        Box::pin(async move {
            let answer = answer.ok_or(AppendError::Timeout)?;
            answer.await.map_err(|_| AppendError::Timeout)
        })
    }

    fn rewind(&self, site: &SiteId) {
        let mut state = self.net.lock();
        let agent = &mut state.agents[self.place];
        let event = BusEvent::Rewound { site: site.clone() };
        if agent.later.contains(site) && agent.events.try_send(event).is_ok() {
            agent.later.remove(site);
            agent.caught_up.remove(site);
            agent.read.insert(site.clone(), 0);
            state.deliver();
        }
    }

    fn connected(&self) -> bool {
        self.net.lock().agents[self.place].connected
    }
}

impl Drop for SimulatedBus {
    /// The agent is gone: its place stays, and nothing reaches it any more.
    fn drop(&mut self) {
        let mut state = self.net.lock();
        let agent = &mut state.agents[self.place];
        agent.connected = false;
        agent.events = mpsc::channel(1).0;
    }
}
