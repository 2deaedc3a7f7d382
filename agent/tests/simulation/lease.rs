//! Leased services: voters, asks and answers over the simulated bus, gates that end by themselves
//! on clocks that are up to one percent apart, disks that lose a voter's promises, and what must
//! hold whatever happens: two sites never serve one of them at an instant, no claim comes back
//! after a newer one served, and somebody serves again after the faults.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::executor::block_on;
use nett_agent::bus::wire::{BeaconAnswer, SealedVote};
use nett_agent::controller::event::{Event, Token};
use nett_agent::lease::gate::{Gate, Slot};
use nett_agent::lease::simulated::SimulatedGate;
use nett_agent::lease::store::{LeaseRecord, Restored};
use nett_agent::lease::{LeaseEffect, LeaseEvent, Standing};
use nett_policy::id::{Epoch, NodeId, ServiceId, SiteId};
use nett_policy::lease::vote::Ask;

use crate::agent::Agent;
use crate::faults::Fault;
use crate::mutants::Mutant;
use crate::world::{Happening, World, ms};

/// The lease's part of a simulated node.
#[derive(Default)]
pub(crate) struct LeaseHost {
    pub(crate) records: Vec<LeaseRecord>,
    /// The journal is not what it was.
    pub(crate) damaged: bool,
    pub(crate) gate: SimulatedGate,
    /// How much its clock is ahead, in millionths.
    pub(crate) rate: i64,
    /// Its agent stands still before it opens a slot the next time.
    pub(crate) stalls: bool,
    asked: BTreeMap<Token, NodeId>,
    /// Until when the node's name server may answer with its own site, by its own clock.
    pub(crate) deadlines: BTreeMap<ServiceId, Duration>,
    /// Leased services that the routes deliver, as of the last change of the kernel.
    pub(crate) delivers: BTreeSet<ServiceId>,
}

/// What is on its way between a node and a voter.
#[derive(Debug)]
pub(crate) enum Mail {
    Ask {
        from: NodeId,
        life: u64,
        ask: Ask,
    },
    Answer {
        to: NodeId,
        life: u64,
        from: NodeId,
        said: Box<BeaconAnswer>,
        /// It lay in a buffer, and comes although its sender is cut off.
        stuck: bool,
    },
    Vote {
        to: NodeId,
        life: u64,
        from: NodeId,
        vote: SealedVote,
    },
    /// A slot of a gate ends.
    GateEnds,
    /// The last that an agent did which is dead by now.
    LateOpen {
        node: NodeId,
        slot: Slot,
        groups: BTreeSet<u32>,
    },
}

/// Clocks that may differ by more than this do, in millionths.
const SMALL: i64 = 5000;
/// When clocks begin to differ.
const START: Duration = Duration::from_secs(100);

impl LeaseHost {
    /// The node's own clock when the world's says `now`.
    pub(crate) fn mono(&self, now: Duration) -> Duration {
        let since = i128::try_from(now.saturating_sub(START).as_micros()).expect("a short run");
        let ahead = since * i128::from(self.rate) / 1_000_000;
        let micros = u64::try_from(since + ahead).expect("clocks run forward");
        START.min(now) + Duration::from_micros(micros)
    }

    /// How long it takes the world until the node's clock says `due`: never too short.
    pub(crate) fn until(&self, due: Duration, now: Duration) -> Duration {
        let left = due.saturating_sub(self.mono(now));
        if self.rate == 0 || left.is_zero() {
            return left;
        }
        let micros = i128::try_from(left.as_micros()).expect("a short run");
        let world = micros * 1_000_000 / (1_000_000 + i128::from(self.rate)) + 2;
        Duration::from_micros(u64::try_from(world).expect("time goes on"))
    }
}

/// What was seen of leased services.
#[derive(Default)]
pub(crate) struct LeaseWatch {
    /// The newest claim that served, with its site.
    newest: BTreeMap<ServiceId, (Epoch, SiteId, String)>,
    /// How often each service began to be served, for the statistics of a run.
    pub(crate) begun: BTreeMap<(ServiceId, SiteId), usize>,
    /// Where each was delivered when that was last looked at.
    delivered: BTreeMap<ServiceId, BTreeSet<SiteId>>,
    /// What must not stop to be served there.
    pub(crate) stays: Option<(ServiceId, SiteId)>,
}

impl World {
    /// Clocks that differ, and disks that lose what a voter or a node promised: one at a time.
    pub(crate) fn plan_lease_faults(&mut self, time: Duration) {
        let total = u64::try_from(time.as_millis()).expect("a short run");
        if self.rng.u8(0..3) == 0 {
            let nodes: Vec<NodeId> = self.agents.keys().cloned().collect();
            let node = nodes[self.rng.usize(0..nodes.len())].clone();
            let at = ms(self.rng.u64(0..total / 2));
            self.at(at, Happening::Fault(Fault::LoseLease(node)));
        }
    }

    /// Times at which the site that serves is lost, and somebody takes its service over.
    pub(crate) fn plan_sieges(&mut self, time: Duration) {
        let total = u64::try_from(time.as_millis()).expect("a short run");
        for _ in 0..self.rng.usize(0..4) {
            let at = ms(self.rng.u64(0..total * 2 / 3));
            self.at(at, Happening::Siege);
        }
    }

    /// The site is cut off from all, or its agents die, or neither; then the service is taken over.
    pub(crate) fn besiege(&mut self) {
        let serving: Vec<_> = self.serving().into_iter().collect();
        let Some(at) = self.rng.usize(0..1000).checked_rem(serving.len()) else { return };
        let (service, sites) = serving[at].clone();
        let holder = sites.into_iter().next().expect("somebody serves it");
        let holders = self.catalog.get(&service).map(|s| s.sites()).unwrap_or_default();
        let others: Vec<SiteId> = self.servers.keys().filter(|s| **s != holder).cloned().collect();
        let may: Vec<SiteId> = others.iter().filter(|s| holders.contains(s)).cloned().collect();
        let Some(at) = self.rng.usize(0..1000).checked_rem(may.len()) else { return };
        let to = may[at].clone();
        self.note(format!("siege of {holder}, which serves {service}"));
        let over = ms(self.rng.u64(5000..20_000));
        match self.rng.u8(0..3) {
            0 => {
                for other in others {
                    self.strike(Fault::Cut(holder.clone(), other.clone()));
                    self.at(over, Happening::Fault(Fault::Join(holder.clone(), other)));
                }
            }
            1 => {
                let of_site = self.agents.values().filter(|a| *a.site() == holder);
                let nodes: Vec<NodeId> = of_site.map(|a| a.setting.node.id.clone()).collect();
                for node in nodes {
                    self.strike(Fault::Kill(node.clone()));
                    self.at(over, Happening::Fault(Fault::Restart(node)));
                }
            }
            _ => {}
        }
        let soon = ms(self.rng.u64(100..3000));
        self.at(soon, Happening::Takeover(service, to));
    }

    /// At which sites kernels deliver each leased service now, also where the agent is dead.
    pub(crate) fn serving(&mut self) -> BTreeMap<ServiceId, BTreeSet<SiteId>> {
        self.pass_gates();
        let mut serving: BTreeMap<ServiceId, BTreeSet<SiteId>> = BTreeMap::new();
        for agent in self.agents.values() {
            for service in &agent.lease.delivers {
                let Some(service) = self.catalog.get(service) else { continue };
                if service.vips.iter().any(|vip| agent.lease.gate.passes(*vip)) {
                    let sites = serving.entry(service.id.clone()).or_default();
                    sites.insert(agent.site().clone());
                }
            }
        }
        serving
    }

    /// Clocks run at rates that are off by up to `drift`, where that matters.
    pub(crate) fn draw_rate(&mut self, agent: &mut Agent, drift: i64) {
        if agent.controller.lease().is_some() {
            let most = self.mutant.map_or(drift, |mutant| mutant.drift(drift));
            agent.lease.rate = match most > SMALL {
                true if self.rng.bool() => most,
                true => -most,
                false => self.rng.i64(-most..=most),
            };
        }
    }

    pub(crate) fn start_lease(&mut self, node: &NodeId) {
        let seed = (u128::from(self.rng.u64(..)) << 64) | u128::from(self.rng.u64(..));
        if self.agents[node].controller.lease().is_none() {
            return;
        }
        self.pass_gates();
        let mutant = self.mutant;
        let host = &mut self.agent(node).lease;
        host.asked.clear();
        host.deadlines.clear();
        let (records, whole) = host.found(mutant, seed);
        host.records.clone_from(&records);
        host.damaged = false;
        let found = Restored { records, whole, boot: "boot".to_owned(), seed };
        self.step(node, Event::Lease(LeaseEvent::Restored(Box::new(found))));
        let gate = &mut self.agent(node).lease.gate;
        let vips = block_on(gate.found()).expect("a simulated gate");
        self.step(node, Event::Lease(LeaseEvent::GateFound(vips)));
    }

    /// A node's disk loses what the lease had on it.
    pub(crate) fn lose_lease(&mut self, node: &NodeId) {
        let keep = self.rng.bool();
        let host = &mut self.agent(node).lease;
        match keep {
            // A torn tail, or a backup.
            true => host.records.truncate(host.records.len() / 2),
            false => host.records.clear(),
        }
        host.damaged = true;
    }

    pub(crate) fn pass_gates(&mut self) {
        let now = self.now;
        for agent in self.agents.values_mut() {
            agent.lease.gate.now = agent.lease.mono(now);
        }
    }

    pub(crate) fn carry_lease(&mut self, node: &NodeId, effect: LeaseEffect) -> Option<Event> {
        self.pass_gates();
        let event = match effect {
            LeaseEffect::Keep { number, records } => {
                let agent = self.agent(node);
                let result = agent.disk_works.then_some(()).ok_or("no space left".to_owned());
                if result.is_ok() {
                    agent.lease.records.extend(records);
                }
                LeaseEvent::Kept { number, result }
            }
            LeaseEffect::Vote(ballot) => {
                let agent = self.agent(node);
                let fabric = agent.controller.fabric_ref();
                let vote = SealedVote::seal(&ballot, node, &fabric, &agent.key);
                let vote = vote.expect("the key fits");
                let result = match agent.disk_works {
                    true => {
                        agent.lease.records.push(LeaseRecord::Made(vote.clone()));
                        self.note(format!("{node} votes {:?}", vote.vote.services));
                        Ok(vote)
                    }
                    false => Err("no space left".to_owned()),
                };
                LeaseEvent::Voted(result)
            }
            LeaseEffect::Publish(vote) => {
                self.publish(node, &vote);
                return None;
            }
            LeaseEffect::Answer { token, said } => {
                let to = self.agent(node).lease.asked.remove(&token)?;
                self.post_answer(node, &to, said);
                return None;
            }
            LeaseEffect::Ask(asks) => {
                asks.into_iter().for_each(|ask| self.post_ask(node, ask));
                return None;
            }
            LeaseEffect::Deadlines(deadlines) => {
                self.agent(node).lease.deadlines = deadlines;
                return None;
            }
            gate => return self.work_gate(node, gate),
        };
        Some(Event::Lease(event))
    }

    fn work_gate(&mut self, node: &NodeId, effect: LeaseEffect) -> Option<Event> {
        let late = self.rng.u64(0..3);
        let late = if self.rough && self.rng.u8(0..200) == 0 { 900 } else { late };
        let open = self.mutant == Some(Mutant::GateOpen);
        let event = match effect {
            LeaseEffect::Shape(shape) => {
                let gate = &mut self.agent(node).lease.gate;
                let result = block_on(gate.shape(&shape)).map_err(|e| e.to_string());
                LeaseEvent::Shaped { number: shape.number, result }
            }
            LeaseEffect::Arm { round, slot, lease } => {
                let lease = if open { Duration::from_secs(3600) } else { lease };
                let gate = &mut self.agent(node).lease.gate;
                let result = block_on(gate.arm(slot, lease)).map_err(|e| e.to_string());
                let ends = self.agents[node].lease.gate.next_end();
                if let Some(end) = ends {
                    let delay = self.agents[node].lease.until(end, self.now);
                    self.at(delay, Happening::Lease(Mail::GateEnds));
                }
                LeaseEvent::Armed { round, anew: false, result }
            }
            LeaseEffect::Open { slot, groups } if self.agents[node].lease.stalls => {
                self.stall(node, slot, groups);
                return None;
            }
            LeaseEffect::Open { slot, groups } => {
                let gate = &mut self.agent(node).lease.gate;
                block_on(gate.open(slot, &groups)).expect("a simulated gate");
                self.watch_leases();
                return None;
            }
            other => unreachable!("{other:?} is not the gate's"),
        };
        self.watch_leases();
        self.reach(node, ms(late), Event::Lease(event));
        None
    }

    fn publish(&mut self, node: &NodeId, vote: &SealedVote) {
        let others: Vec<_> = self.agents.iter().map(|(id, a)| (id.clone(), a.life)).collect();
        for (to, life) in others.into_iter().filter(|(to, _)| to != node) {
            if self.rng.bool() {
                let delay = ms(self.rng.u64(1..2000));
                let mail = Mail::Vote { to, life, from: node.clone(), vote: vote.clone() };
                self.at(delay, Happening::Lease(mail));
            }
        }
    }

    /// Mostly soon; sometimes so late that it is worth nothing, sometimes not at all, or twice.
    fn post(&mut self, mail: impl Fn() -> Mail) {
        if self.rough && self.rng.u8(0..15) == 0 {
            return;
        }
        let times = if self.rough && self.rng.u8(0..15) == 0 { 2 } else { 1 };
        for _ in 0..times {
            let slow = self.rough && self.rng.u8(0..20) == 0;
            let delay = if slow { self.rng.u64(1000..9000) } else { self.rng.u64(1..80) };
            self.at(ms(delay), Happening::Lease(mail()));
        }
    }

    fn post_ask(&mut self, node: &NodeId, ask: Ask) {
        let life = self.agents[node].life;
        let from = node.clone();
        self.remember_ask(node, &ask);
        self.answer_falsely(node, &ask);
        self.post(|| Mail::Ask { from: from.clone(), life, ask: ask.clone() });
    }

    fn post_answer(&mut self, node: &NodeId, to: &NodeId, mut said: Box<BeaconAnswer>) {
        self.as_said(node, to, &mut said);
        let late = self.lateness(node, to);
        let (life, stuck) = (self.agents[to].life, late.is_some());
        let (from, to) = (node.clone(), to.clone());
        let mail =
            || Mail::Answer { to: to.clone(), life, from: from.clone(), said: said.clone(), stuck };
        match late {
            Some(late) => self.at(late, Happening::Lease(mail())),
            None => self.post(mail),
        }
    }

    /// Whether votes pass.
    fn reached(&self, a: &NodeId, b: &NodeId) -> bool {
        let (here, there) = (self.agents[a].site(), self.agents[b].site());
        self.agents[a].connected && self.agents[b].connected && self.joined(here, there)
    }

    /// Whether asks and answers pass.
    fn beacons(&self, a: &NodeId, b: &NodeId) -> bool {
        let either = self.held_back(a, b) || self.held_back(b, a);
        self.reached(a, b) || (either && self.agents[a].connected && self.agents[b].connected)
    }

    pub(crate) fn deliver(&mut self, mail: Mail) {
        match mail {
            Mail::Ask { from, life, ask } => {
                let Some(voter) = self.voter_of(&ask.voter) else { return };
                let alive = self.agents[&voter].alive && self.agents[&from].life == life;
                if !alive || !self.beacons(&from, &voter) {
                    return;
                }
                self.counter += 1;
                let token = Token(self.counter);
                self.agent(&voter).lease.asked.insert(token, from);
                self.step(&voter, Event::Lease(LeaseEvent::Asked { token, ask }));
            }
            Mail::Answer { to, life, from, mut said, stuck } => {
                if self.lives(&to, life) && (stuck || self.beacons(&from, &to)) {
                    self.as_heard(&to, &mut said);
                    self.step(&to, Event::Lease(LeaseEvent::Answered(said)));
                }
            }
            Mail::Vote { to, life, from, vote } => {
                if self.lives(&to, life) && self.reached(&from, &to) {
                    self.step(&to, Event::Lease(LeaseEvent::Vote(vote)));
                }
            }
            Mail::GateEnds => {}
            Mail::LateOpen { node, slot, groups } => self.open_late(&node, slot, &groups),
        }
        self.watch_leases();
    }

    /// No leased service is delivered at two sites at this moment.
    pub(crate) fn watch_leases(&mut self) {
        let serving = self.serving();
        if serving != self.lease_watch.delivered {
            self.note(format!("delivered: {serving:?}"));
            self.lease_watch.delivered.clone_from(&serving);
        }
        if let Some((service, site)) = self.lease_watch.stays.clone()
            && !serving.get(&service).is_some_and(|sites| sites.contains(&site))
        {
            self.watch.complain(format!("{service} is not served at {site} any more"));
        }
        for (service, sites) in &serving {
            if sites.len() > 1 {
                self.watch.complain(format!("{service} is served at {sites:?}"));
            }
        }
        self.watch_claims(&serving);
    }

    /// No claim serves after a newer one of another site has, and no two of one epoch do.
    fn watch_claims(&mut self, serving: &BTreeMap<ServiceId, BTreeSet<SiteId>>) {
        let (mut wrong, mut begun) = (Vec::new(), Vec::new());
        for agent in self.agents.values().filter(|a| a.alive) {
            let Some(lease) = agent.controller.lease() else { continue };
            for (service, stands) in lease.stands() {
                let here = serving.get(service).is_some_and(|sites| sites.contains(agent.site()));
                if stands.standing != Standing::Serving || !here {
                    continue;
                }
                let claim = stands.claim.as_ref().map(ToString::to_string).unwrap_or_default();
                let now = (stands.epoch, agent.site().clone(), claim);
                let seen = &mut self.lease_watch.newest;
                let old = seen.entry(service.clone()).or_insert_with(|| now.clone());
                if now.0 < old.0 && now.1 != old.1 {
                    wrong.push(format!("{service}: {now:?} serves after {old:?}"));
                }
                if now.0 == old.0 && now.2 != old.2 {
                    wrong.push(format!("{service}: both {now:?} and {old:?} served"));
                }
                if now.0 > old.0 {
                    begun.push(format!("{} serves {service} under {}", now.1, now.2));
                    *old = now;
                    let key = (service.clone(), agent.site().clone());
                    *self.lease_watch.begun.entry(key).or_default() += 1;
                }
            }
        }
        begun.into_iter().for_each(|begun| self.note(begun));
        wrong.into_iter().for_each(|wrong| self.watch.complain(wrong));
    }

    /// Long after the faults: every leased service is served by one site, or the log says why not.
    pub(crate) fn check_leases(&mut self) -> Result<(), String> {
        self.pass_gates();
        for service in self.catalog.clone().iter().filter(|s| s.is_leased()) {
            let mut standing: BTreeMap<NodeId, Standing> = BTreeMap::new();
            let mut claims = BTreeSet::new();
            let mut targets = BTreeSet::new();
            for (node, agent) in &self.agents {
                let Some(stands) =
                    agent.controller.lease().and_then(|l| l.stands().get(&service.id))
                else {
                    return Err(format!("{node} knows nothing of {}", service.id));
                };
                claims.insert(stands.claim.clone());
                targets.extend(stands.target.clone());
                standing.insert(node.clone(), stands.standing);
            }
            if claims.len() > 1 {
                return Err(format!("{}: claims {claims:?}", service.id));
            }
            let shut = [Standing::Between, Standing::Stopped];
            let open = standing.values().all(|s| !shut.contains(s));
            for (node, stand) in &standing {
                let at_target = targets.contains(self.agents[node].site());
                if open && at_target && *stand != Standing::Serving {
                    let why = self.agents[node]
                        .controller
                        .lease()
                        .map(|l| l.stands()[&service.id].clone());
                    return Err(format!("{node} does not serve {}: {why:?}", service.id));
                }
            }
        }
        Ok(())
    }
}
