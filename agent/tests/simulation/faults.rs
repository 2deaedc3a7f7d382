//! What goes wrong, and how it is put right again. Each fault that lasts plans its own end.

use std::time::Duration;

use fastrand::Rng;
use nett_agent::controller::event::Event;
use nett_agent::journal::Saved;
use nett_policy::id::{LinkId, NodeId, SiteId};

use crate::forged::{Forgery, Kind};
use crate::traps::Backup;
use crate::world::{Happening, World, ms};

#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Dies before one of its next effects.
    Kill(NodeId),
    Restart(NodeId),
    /// As [`Self::Restart`], with an empty journal.
    RestartWithoutJournal(NodeId),
    Cut(SiteId, SiteId),
    Join(SiteId, SiteId),
    StopServer(SiteId),
    StartServer(SiteId),
    LinkDown(LinkId),
    LinkUp(LinkId),
    DiskFull(NodeId),
    DiskWorks(NodeId),
    /// Somebody deletes one of our objects.
    Meddle(NodeId),
    ClockJump(NodeId),
    /// Dies, and its disk has lost what the lease had on it.
    LoseLease(NodeId),
    /// Dies at once.
    KillNow(NodeId),
    /// Dies, and starts with a disk of long ago.
    Backup(Box<Backup>),
    /// Its wall clock is so many milliseconds ahead from now on.
    ClockStep(NodeId, i64),
    /// Somebody sends it such a message.
    Forge(NodeId, Kind, Forgery),
    /// Its server comes back without its stream.
    LoseStream(SiteId),
}

impl World {
    /// Draws faults over `time`, all of which end before it does.
    pub(crate) fn plan_faults(&mut self, time: Duration) {
        let total = u64::try_from(time.as_millis()).expect("a short run");
        for _ in 0..self.rng.usize(3..15) {
            let begin = self.rng.u64(0..total * 2 / 3);
            let end = begin + self.rng.u64(1..total / 3);
            let (first, last) = self.draw();
            self.at(ms(begin), Happening::Fault(first));
            if let Some(last) = last {
                self.at(ms(end), Happening::Fault(last));
            }
        }
    }

    /// Faults of which each seed has none or several, drawn by themselves: the others of a seed
    /// stay what they are. They end before `time` does.
    pub(crate) fn plan_rare_faults(&mut self, seed: u64, time: Duration) {
        let mut rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed);
        let total = u64::try_from(time.as_millis()).expect("a short run");
        let nodes: Vec<NodeId> = self.agents.keys().cloned().collect();
        let sites: Vec<SiteId> = self.servers.keys().cloned().collect();
        let mut plan = Vec::new();
        if rng.u8(0..3) == 0 {
            for _ in 0..rng.usize(10..60) {
                let (kind, forgery) = (rng.choice(Kind::ALL), rng.choice(Forgery::ALL));
                let fault = Fault::Forge(
                    nodes[rng.usize(0..nodes.len())].clone(),
                    kind.expect("there are some"),
                    forgery.expect("there are some"),
                );
                plan.push((rng.u64(0..total), fault));
            }
        }
        let (steps, loses) = (rng.u8(0..3) == 0, rng.u8(0..3) == 0);
        // A journal that is made smaller has what is younger than its clock may be wrong, and a
        // checkpoint in the place of the rest.
        if steps && !self.forgets() {
            for _ in 0..rng.usize(1..4) {
                let node = nodes[rng.usize(0..nodes.len())].clone();
                let far = rng.i64(30_000..600_000) * if rng.bool() { 1 } else { -1 };
                let begin = rng.u64(0..total * 2 / 3);
                plan.push((begin, Fault::ClockStep(node.clone(), far)));
                let back = rng.i64(-1000..1000);
                plan.push((begin + rng.u64(1..total / 3), Fault::ClockStep(node, back)));
            }
        }
        if loses && !self.forgets() {
            for _ in 0..rng.usize(1..4) {
                let site = sites[rng.usize(0..sites.len())].clone();
                plan.push((rng.u64(total / 6..total), Fault::LoseStream(site)));
            }
        }
        for (at, fault) in plan {
            self.at(ms(at), Happening::Fault(fault));
        }
    }

    /// Journals are made smaller in this run.
    fn forgets(&self) -> bool {
        self.agents.values().any(|agent| agent.pace.is_some())
    }

    fn draw(&mut self) -> (Fault, Option<Fault>) {
        let nodes: Vec<NodeId> = self.agents.keys().cloned().collect();
        let node = nodes[self.rng.usize(0..nodes.len())].clone();
        let mut sites: Vec<SiteId> = self.servers.keys().cloned().collect();
        self.rng.shuffle(&mut sites);
        let (a, b) = (sites[0].clone(), sites[1].clone());
        let links = &self.fabric.links;
        let link = links[self.rng.usize(0..links.len())].id.clone();
        match self.rng.u8(0..16) {
            0..4 => {
                let restart = match self.rng.u8(0..8) {
                    0 => Fault::RestartWithoutJournal(node.clone()),
                    _ => Fault::Restart(node.clone()),
                };
                (Fault::Kill(node), Some(restart))
            }
            4..8 => (Fault::Cut(a.clone(), b.clone()), Some(Fault::Join(a, b))),
            8..10 => (Fault::StopServer(a.clone()), Some(Fault::StartServer(a))),
            10..12 => (Fault::LinkDown(link.clone()), Some(Fault::LinkUp(link))),
            12 => (Fault::DiskFull(node.clone()), Some(Fault::DiskWorks(node))),
            13 => (Fault::ClockJump(node), None),
            _ => (Fault::Meddle(node), None),
        }
    }

    pub(crate) fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Backup(_) => {}
            _ => self.note(format!("{fault:?}")),
        }
        match fault {
            Fault::Kill(node) => {
                let effects = self.rng.usize(0..20);
                self.agent(&node).dies_in = Some(effects);
            }
            Fault::Restart(node) => self.restart(&node, true),
            // What a lost stream held is nowhere else for the moment.
            Fault::RestartWithoutJournal(node) if !self.has_streams() => {
                self.restart(&node, true);
            }
            Fault::RestartWithoutJournal(node) => {
                let agent = self.agent(&node);
                agent.journal.clear();
                agent.saved = Saved::default();
                self.restart(&node, false);
            }
            Fault::Cut(a, b) => {
                self.cuts.insert(pair(a, b));
            }
            Fault::Join(a, b) => {
                self.cuts.remove(&pair(a.clone(), b.clone()));
                self.rejoin(&a, &b);
                self.rejoin(&b, &a);
            }
            Fault::StopServer(site) => self.server(&site, false),
            Fault::StartServer(site) => self.server(&site, true),
            Fault::LinkDown(link) => self.link(&link, false),
            Fault::LinkUp(link) => self.link(&link, true),
            Fault::DiskFull(node) => self.agent(&node).disk_works = false,
            Fault::DiskWorks(node) => self.mend_disk(&node),
            Fault::Meddle(node) => self.meddle(&node),
            Fault::LoseLease(node) => {
                if self.agents[&node].alive {
                    self.kill(&node);
                }
                self.lose_lease(&node);
                self.restart(&node, true);
            }
            Fault::KillNow(node) => {
                if self.agents[&node].alive {
                    self.kill(&node);
                }
            }
            Fault::Backup(backup) => self.restore(*backup),
            Fault::ClockStep(node, skew) => self.agent(&node).skew = skew,
            Fault::Forge(node, kind, forgery) => self.forge(&node, kind, forgery),
            Fault::LoseStream(site) => self.lose_stream(&site),
            Fault::ClockJump(node) => {
                let skew = self.rng.i64(-5000..=5000);
                self.agent(&node).skew = skew;
            }
        }
    }

    /// Everything that is still wrong is put right.
    pub(crate) fn calm(&mut self) {
        self.rough = false;
        for (a, b) in std::mem::take(&mut self.cuts) {
            self.rejoin(&a, &b);
            self.rejoin(&b, &a);
        }
        for site in self.servers.keys().cloned().collect::<Vec<_>>() {
            if !self.servers[&site].up {
                self.server(&site, true);
            }
        }
        for link in self.links_down.clone() {
            self.link(&link, true);
        }
        for node in self.agents.keys().cloned().collect::<Vec<_>>() {
            self.agent(&node).dies_in = None;
            self.mend_disk(&node);
            if !self.agents[&node].alive {
                self.restart(&node, true);
            }
        }
    }

    /// An agent that was to die and has not yet, dies now.
    fn restart(&mut self, node: &NodeId, whole: bool) {
        if self.agents[node].alive {
            self.kill(node);
        }
        self.note(format!("{node} starts"));
        self.start(node, whole);
    }

    fn server(&mut self, site: &SiteId, up: bool) {
        self.servers.get_mut(site).expect("a known site").up = up;
        let of_site = self.agents.values().filter(|a| a.site() == site && a.alive);
        for node in of_site.map(|a| a.setting.node.id.clone()).collect::<Vec<_>>() {
            if up && !self.agents[&node].connected {
                self.connect(&node);
            } else if !up {
                self.agent(&node).connected = false;
                self.step(&node, Event::BusDisconnected);
            }
        }
        if up {
            for other in self.servers.keys().cloned().collect::<Vec<_>>() {
                self.rejoin(site, &other);
                self.rejoin(&other, site);
            }
        }
    }

    /// What `reader` missed of `origin` is on its way.
    fn rejoin(&mut self, reader: &SiteId, origin: &SiteId) {
        if reader == origin || !self.joined(reader, origin) {
            return;
        }
        let delay = ms(self.rng.u64(10..1000));
        let (reader, origin) = (reader.clone(), origin.clone());
        let there: Vec<NodeId> = self
            .agents
            .values()
            .filter(|a| *a.site() == origin)
            .map(|a| a.setting.node.id.clone())
            .collect();
        let here: Vec<_> = self
            .agents
            .values()
            .filter(|a| *a.site() == reader && a.alive)
            .map(|a| (a.setting.node.id.clone(), a.life))
            .collect();
        for from in
            there.iter().filter(|n| self.reports.contains_key(*n)).cloned().collect::<Vec<_>>()
        {
            for (node, life) in here.clone() {
                self.at(delay, Happening::Hear { node, life, from: from.clone() });
            }
        }
        self.at(delay, Happening::Mirror { reader, origin });
    }

    fn link(&mut self, link: &LinkId, up: bool) {
        match up {
            true => self.links_down.remove(link),
            false => self.links_down.insert(link.clone()),
        };
        let fabric = self.fabric.clone();
        let found = fabric.links.iter().find(|l| l.id == *link).expect("a known link");
        for end in [&found.a, &found.b] {
            let agent = self.agent(&end.node);
            agent.kernel.set_carrier(&end.interface, up);
            let (alive, life) = (agent.alive, agent.life);
            if alive {
                let delay = ms(self.rng.u64(1..10));
                self.at(delay, Happening::Links { node: end.node.clone(), life });
            }
        }
    }

    fn mend_disk(&mut self, node: &NodeId) {
        let agent = self.agent(node);
        if std::mem::replace(&mut agent.disk_works, true) {
            return;
        }
        let unsaved = std::mem::take(&mut agent.unsaved);
        agent.journal.extend(unsaved);
        if agent.alive {
            self.step(node, Event::Journal { trouble: None });
        }
    }

    fn meddle(&mut self, node: &NodeId) {
        let at = self.rng.usize(0..1000);
        let agent = self.agent(node);
        agent.kernel.meddle(|state| {
            let keys: Vec<_> = state.routes.keys().copied().collect();
            if let Some(key) = at.checked_rem(keys.len()).map(|n| keys[n]) {
                state.routes.remove(&key);
            }
        });
        if agent.alive {
            self.look_at_kernel(node, ms(50));
        }
    }
}

fn pair(a: SiteId, b: SiteId) -> (SiteId, SiteId) {
    if a < b { (a, b) } else { (b, a) }
}
