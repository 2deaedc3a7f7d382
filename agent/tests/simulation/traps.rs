//! Rows of faults around one takeover, each of which breaks a lease where one rule is missing and
//! nothing where all are kept: what a draw of single faults does not come upon within a few
//! hundred seeds.
//!
//! Each begins with a site that serves, and somebody gives its service to another. All of it may
//! happen: sites are cut off, agents die in the middle of a system call, disks come back from a
//! backup, answers lie in a buffer while their sender is cut off, votes come later than answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::executor::block_on;
use nett_agent::bus::wire::Sealed;
use nett_agent::journal::Saved;
use nett_agent::lease::Standing;
use nett_agent::lease::gate::{Gate, Slot};
use nett_agent::lease::store::LeaseRecord;
use nett_policy::id::{NodeId, ServiceId, SiteId};
use nett_policy::log::entry::{Ask, Terms, Verb, WishKind};

use crate::agent::Agent;
use crate::faults::Fault;
use crate::lease::Mail;
use crate::mutants::Mutant;
use crate::shape::OPERATORS;
use crate::world::{Happening, World, ms};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trap {
    /// The holder is cut off.
    CutOff,
    /// The holder's agents die.
    Dead,
    /// The holder is cut off, and its agents stand still with a slot of the gate as good as opened,
    /// do that after seconds, and die.
    Stalled,
    /// The disk of a voter that helped to take over comes back from a backup, and it hears of
    /// nobody but the old holder.
    OldDisk,
    /// Answers to the holder lie in a buffer when it is cut off, and come at last.
    Buffered,
    /// One of two votes for whoever takes over comes when all others have waited long enough, from
    /// a voter that was the holder's until then; and whoever takes over starts anew.
    LateVote,
    /// The holder is cut off, but its asks and the answers to them pass, without votes.
    Deaf,
    /// Two sites take the service at once, one of them cut off from the others.
    TwoAtOnce,
    /// The holder is cut off for two rounds, and nobody takes over: it serves on.
    Blink,
    /// A voter that is not the holder's dies for longer than a lease: the holder serves on.
    DeadVoter,
    /// The holder is cut off, and while it is waited for its lease wall clocks go wrong by minutes.
    ClockSteps,
    /// The holder is cut off, and another site's agent answers its asks in the voters' names.
    Forged,
}

/// A site's voter, and what its server had of other logs, as they were.
#[derive(Debug, Clone)]
pub(crate) struct Backup {
    node: NodeId,
    journal: Vec<(Sealed, u64)>,
    saved: Saved,
    records: Vec<LeaseRecord>,
    mirrors: BTreeMap<SiteId, usize>,
}

/// What is special about the way to one site, until some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    Plain,
    /// Answers to it come very late, also when it has been cut off meanwhile.
    Slow(SiteId, Duration),
    /// Asks and answers pass although it is cut off; votes do not.
    Narrow(SiteId, Duration),
    /// Its asks are answered by somebody else.
    Forged(SiteId, Duration),
}

/// Who has a part in a trap.
struct Roles {
    service: ServiceId,
    holder: SiteId,
    to: SiteId,
    /// The third site, whose voter decides.
    helper: SiteId,
}

/// How long a trap lasts until everything is put right: a wait, and one more.
const SHORT: Duration = Duration::from_secs(30);
/// Where a voter waits before it votes, and then those who read it.
const LONG: Duration = Duration::from_secs(42);
/// How long somebody who takes over waits for the lease to run out, with all there is to it.
const TAKES: u64 = 14_000;
/// How far wall clocks step, in milliseconds.
const MINUTES: i64 = 300_000;

// === impl Trap ===

impl Trap {
    pub(crate) const ALL: [Self; 12] = [
        Self::CutOff,
        Self::Dead,
        Self::Stalled,
        Self::OldDisk,
        Self::Buffered,
        Self::LateVote,
        Self::Deaf,
        Self::TwoAtOnce,
        Self::Blink,
        Self::DeadVoter,
        Self::ClockSteps,
        Self::Forged,
    ];

    pub(crate) fn lasts(self) -> Duration {
        if self == Self::OldDisk { LONG } else { SHORT }
    }
}

// === impl World ===

impl World {
    /// True once every node of a site serves what the trap is about.
    pub(crate) fn is_set(&mut self) -> bool {
        let Some((service, sites)) = self.serving().pop_first() else { return false };
        let stands = |agent: &Agent| agent.controller.lease()?.stands().get(&service).cloned();
        let serves = |agent: &Agent| stands(agent).is_some_and(|s| s.standing == Standing::Serving);
        self.agents.values().filter(|agent| sites.contains(agent.site())).all(serves)
    }

    /// Somebody takes the service to another site, and wants it undone unless that is confirmed
    /// within this time.
    pub(crate) fn move_unless_undone(&mut self, within: Duration) -> (ServiceId, SiteId) {
        let Roles { service, to, .. } = self.roles();
        self.claim(&service, &to, Some(within));
        (service, to)
    }

    /// Somebody at a site takes the service there.
    pub(crate) fn claim(
        &mut self,
        service: &ServiceId,
        to: &SiteId,
        confirm_within: Option<Duration>,
    ) {
        let services = service.to_string().parse().expect("an id is a selector");
        let verb = Verb::Failover { services, to: to.clone() };
        let terms = Terms { supersede: true, confirm_within, ..Terms::default() };
        let ask = Ask::Command { verb, plan_hash: None, overrides: BTreeSet::new(), terms };
        self.ask(OPERATORS[0], to, ask);
    }

    /// The agents of the site that serves die, and those of another; gives the service, the site
    /// that is left, and the two.
    pub(crate) fn two_go_dark(&mut self) -> (ServiceId, SiteId, [SiteId; 2]) {
        let Roles { service, holder, to, helper } = self.roles();
        let nodes = self.nodes_of(&holder).into_iter().chain(self.nodes_of(&helper));
        for node in nodes.collect::<Vec<_>>() {
            self.strike(Fault::KillNow(node));
        }
        (service, to, [holder, helper])
    }

    /// Somebody says that these sites are off, and takes the service to the one that is left.
    pub(crate) fn claim_alone(&mut self, service: &ServiceId, to: &SiteId, off: &[SiteId]) {
        let services = service.to_string().parse().expect("an id is a selector");
        let verb = Verb::Failover { services, to: to.clone() };
        let without = off.iter().cloned().collect();
        let terms = Terms { supersede: true, without, ..Terms::default() };
        let ask = Ask::Command { verb, plan_hash: None, overrides: BTreeSet::new(), terms };
        self.ask(OPERATORS[0], to, ask);
    }

    /// Somebody else approves whatever waits for that at a site; false while nothing does.
    pub(crate) fn approve_at(&mut self, at: &SiteId) -> bool {
        let mut newest = self.desk.replies.values().rev();
        let waiting = newest.find(|r| r.state.as_deref() == Some("waiting-approval"));
        let Some((task, plan_hash)) = waiting.and_then(|r| r.task.clone().zip(r.plan_hash.clone()))
        else {
            return false;
        };
        let task = task.parse().expect("an id");
        self.ask(OPERATORS[1], at, Ask::Wish { task, kind: WishKind::Approve { plan_hash } });
        true
    }

    /// Agents of these sites start, each at a time of its own.
    pub(crate) fn come_back(&mut self, sites: &[SiteId], within: Duration) {
        let most = u64::try_from(within.as_millis()).expect("a short time");
        for node in sites.iter().flat_map(|site| self.nodes_of(site)).collect::<Vec<_>>() {
            let delay = ms(self.rng.u64(1..most));
            self.at(delay, Happening::Fault(Fault::Restart(node)));
        }
    }

    /// A site is cut off from all others for a while.
    pub(crate) fn cut_off_for(&mut self, site: &SiteId, time: Duration) {
        let most = u64::try_from(time.as_millis()).expect("a short time");
        self.cut_off(site, (0, most));
    }

    /// How every agent that lives stands to the service.
    pub(crate) fn standings(&self, service: &ServiceId) -> BTreeSet<Standing> {
        let lives = self.agents.values().filter(|agent| agent.alive);
        let stands = lives.filter_map(|agent| agent.controller.lease()?.stands().get(service));
        stands.map(|stands| stands.standing).collect()
    }

    /// All agents die at once, and start again.
    pub(crate) fn restart_all(&mut self) {
        for node in self.agents.keys().cloned().collect::<Vec<_>>() {
            self.strike(Fault::KillNow(node.clone()));
            self.at(ms(500), Happening::Fault(Fault::Restart(node)));
        }
    }

    pub(crate) fn spring(&mut self, trap: Trap) {
        let roles = self.roles();
        let Roles { service, holder, to, .. } = &roles;
        self.note(format!("{trap:?}: {service} from {holder} to {to}"));
        match trap {
            Trap::CutOff => {
                self.cut_off(holder, (0, TAKES));
                self.taken_over(&roles, 100);
            }
            Trap::Dead => {
                self.taken_over(&roles, 100);
                for node in self.nodes_of(holder) {
                    self.strike(Fault::KillNow(node.clone()));
                    self.at(ms(TAKES), Happening::Fault(Fault::Restart(node)));
                }
            }
            Trap::Stalled => self.stalls(&roles),
            Trap::OldDisk => self.an_old_disk(&roles),
            Trap::Buffered => self.answers_in_a_buffer(&roles),
            Trap::LateVote => {
                self.cut_between(holder, to, (0, 29_000));
                self.cut_between(&roles.helper, to, (0, TAKES));
                self.cut_between(&roles.helper, holder, (TAKES, 29_000));
                self.taken_over(&roles, 20);
                for node in self.nodes_of(to) {
                    self.at(ms(TAKES + 1200), Happening::Fault(Fault::Restart(node)));
                }
            }
            Trap::Deaf => {
                self.way = Way::Narrow(holder.clone(), self.now + ms(TAKES));
                self.cut_off(holder, (0, TAKES));
                self.taken_over(&roles, 100);
            }
            Trap::TwoAtOnce => {
                let Roles { service, helper, .. } = &roles;
                self.cut_off(helper, (0, TAKES));
                self.taken_over(&roles, 50);
                self.at(ms(60), Happening::Takeover(service.clone(), helper.clone()));
            }
            Trap::ClockSteps => {
                self.cut_off(holder, (0, TAKES));
                self.taken_over(&roles, 100);
                for node in self.nodes_of(holder) {
                    self.at(ms(500), Happening::Fault(Fault::ClockStep(node, -MINUTES)));
                }
                let (to, helper) = (self.nodes_of(to), self.nodes_of(&roles.helper));
                for node in to.into_iter().chain(helper) {
                    self.at(ms(1500), Happening::Fault(Fault::ClockStep(node, MINUTES)));
                }
            }
            Trap::Forged => {
                self.way = Way::Forged(holder.clone(), self.now + ms(TAKES));
                self.cut_off(holder, (0, TAKES));
                self.taken_over(&roles, 100);
            }
            Trap::Blink => {
                self.stays(&roles);
                self.cut_off(holder, (1500, 3000));
            }
            Trap::DeadVoter => {
                self.stays(&roles);
                for node in self.nodes_of(&roles.helper) {
                    self.at(ms(1500), Happening::Fault(Fault::KillNow(node.clone())));
                    self.at(ms(TAKES), Happening::Fault(Fault::Restart(node)));
                }
            }
        }
    }

    /// From now on a gap in the service is wrong, and messages are not lost any more: a few lost
    /// ones in a row may cost a lease.
    fn stays(&mut self, roles: &Roles) {
        self.rough = false;
        self.lease_watch.stays = Some((roles.service.clone(), roles.holder.clone()));
    }

    fn roles(&mut self) -> Roles {
        let (service, sites) = self.serving().pop_first().expect("the trap is set");
        let holder = sites.into_iter().next().expect("somebody serves it");
        let mut others: Vec<SiteId> =
            self.servers.keys().filter(|site| **site != holder).cloned().collect();
        self.rng.shuffle(&mut others);
        let [to, helper] = others.try_into().expect("three sites");
        Roles { service, holder, to, helper }
    }

    pub(crate) fn nodes_of(&self, site: &SiteId) -> Vec<NodeId> {
        let of_site = self.agents.values().filter(|agent| agent.site() == site);
        of_site.map(|agent| agent.setting.node.id.clone()).collect()
    }

    /// Cuts a site off from all others at some time, and joins it again.
    fn cut_off(&mut self, site: &SiteId, span: (u64, u64)) {
        let others = self.servers.keys().filter(|other| *other != site).cloned();
        for other in others.collect::<Vec<_>>() {
            self.cut_between(site, &other, span);
        }
    }

    fn cut_between(&mut self, a: &SiteId, b: &SiteId, (from, to): (u64, u64)) {
        let (a, b) = (a.clone(), b.clone());
        self.at(ms(from), Happening::Fault(Fault::Cut(a.clone(), b.clone())));
        self.at(ms(to), Happening::Fault(Fault::Join(a, b)));
    }

    fn taken_over(&mut self, roles: &Roles, after: u64) {
        let (service, to) = (roles.service.clone(), roles.to.clone());
        self.at(ms(after), Happening::Takeover(service, to));
    }

    fn an_old_disk(&mut self, roles: &Roles) {
        let Roles { holder, to, helper, .. } = roles;
        let voter = self.fabric.voters().find(|node| node.site == *helper);
        let voter = voter.expect("every site has one").id.clone();
        let agent = &self.agents[&voter];
        let backup = Backup {
            journal: agent.journal.clone(),
            saved: agent.saved.clone(),
            records: agent.lease.records.clone(),
            mirrors: self.servers[helper].mirrors.clone(),
            node: voter,
        };
        self.cut_between(holder, to, (0, 41_000));
        self.cut_between(holder, helper, (0, TAKES));
        self.cut_between(helper, to, (TAKES - 100, 41_000));
        self.taken_over(roles, 100);
        self.at(ms(TAKES - 50), Happening::Fault(Fault::Backup(Box::new(backup))));
    }

    pub(crate) fn restore(&mut self, backup: Backup) {
        let Backup { node, journal, saved, records, mirrors } = backup;
        if self.agents[&node].alive {
            self.kill(&node);
        }
        let site = self.agents[&node].site().clone();
        for origin in self.servers.keys().cloned().collect::<Vec<_>>() {
            let held = mirrors.get(&origin).copied().unwrap_or(0);
            if !self.joined(&site, &origin) {
                let server = self.servers.get_mut(&site).expect("a known site");
                server.mirrors.insert(origin, held);
            }
        }
        let agent = self.agent(&node);
        (agent.journal, agent.saved) = (journal, saved);
        agent.lease.records = records;
        agent.lease.damaged = true;
        self.note(format!("{node} has an old disk"));
        self.watch.forget(&node);
        self.start(&node, false);
    }

    fn answers_in_a_buffer(&mut self, roles: &Roles) {
        let apart = 2000;
        self.way = Way::Slow(roles.holder.clone(), self.now + ms(apart));
        self.cut_off(&roles.holder, (apart, apart + TAKES));
        self.taken_over(roles, apart + 20);
    }

    fn stalls(&mut self, roles: &Roles) {
        // A round of asks goes through before.
        self.cut_off(&roles.holder, (1200, TAKES));
        self.taken_over(roles, 1250);
        for node in self.nodes_of(&roles.holder) {
            self.agent(&node).lease.stalls = true;
            self.at(ms(TAKES), Happening::Fault(Fault::Restart(node)));
        }
    }

    /// An agent stands still before it opens a slot, does that much later, and dies.
    pub(crate) fn stall(&mut self, node: &NodeId, slot: Slot, groups: BTreeSet<u32>) {
        self.note(format!("{node} stands still"));
        let agent = self.agent(node);
        agent.lease.stalls = false;
        // Before it does anything else.
        agent.dies_in = Some(0);
        let delay = ms(self.rng.u64(3000..7000));
        self.at(delay, Happening::Lease(Mail::LateOpen { node: node.clone(), slot, groups }));
    }

    pub(crate) fn open_late(&mut self, node: &NodeId, slot: Slot, groups: &BTreeSet<u32>) {
        let (late, lease) = (self.mutant == Some(Mutant::LateArm), self.fabric.lease.duration);
        self.note(format!("{node} opens its gate, late"));
        self.pass_gates();
        let gate = &mut self.agent(node).lease.gate;
        if late {
            block_on(gate.arm(slot, lease)).expect("a simulated gate");
        }
        block_on(gate.open(slot, groups)).expect("a simulated gate");
    }

    /// How late an answer comes that is given now, where that is special.
    pub(crate) fn lateness(&mut self, voter: &NodeId, to: &NodeId) -> Option<Duration> {
        match &self.way {
            Way::Slow(site, until) if self.leads_to(site, voter, to) && self.now < *until => {
                Some(ms(self.rng.u64(3000..4600)))
            }
            _ => None,
        }
    }

    /// Votes of `voter` do not come to `to`.
    pub(crate) fn held_back(&self, voter: &NodeId, to: &NodeId) -> bool {
        match &self.way {
            Way::Narrow(site, until) => self.leads_to(site, voter, to) && self.now < *until,
            _ => false,
        }
    }

    fn leads_to(&self, site: &SiteId, from: &NodeId, to: &NodeId) -> bool {
        self.agents[to].site() == site && self.agents[from].site() != site
    }
}
