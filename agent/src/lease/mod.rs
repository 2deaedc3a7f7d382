//! The lease on one node: asks the voters, judges who may serve here, votes where this node is a
//! voter, and withdraws.
//!
//! Who may serve is decided by `nett_policy::lease` alone; this module brings it the times, the
//! disk and the kernel's gate in the order that makes it true: the gate is armed before the voters
//! are asked, a vote and a fence are on the disk before anybody hears of them, a confirmation
//! follows the readback of a shut gate. It never waits and does nothing by itself: like the
//! controller, it takes events and gives effects, and says when it wants to be called.
//!
//! Crash story: answers die with the process and the gate in the kernel ends by itself; what was
//! promised is in the journal `lease` ([`store`]). Whoever lost that is a new voter that reads the
//! others first, and a node that serves nothing until it has read its own confirmations in the log.

pub mod gate;
pub mod hands;
mod judge;
pub mod open;
mod rising;
mod rounds;
pub mod simulated;
pub mod store;
mod voting;
mod withdraw;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nett_policy::fabric::{Fabric, Node, Role};
use nett_policy::id::{NodeId, ServiceId, SiteId};
use nett_policy::lease::confirm::Withdrawals;
use nett_policy::lease::electorate::Electorates;
use nett_policy::lease::generation::NotYet;
use nett_policy::lease::knowledge::{Knowledge, Read};
use nett_policy::lease::placings::Placings;
use nett_policy::lease::rule::Rules;
use nett_policy::lease::vote::{Ask, Incarnation};
use nett_policy::lease::voter::Ballot;
use nett_policy::log::entry::{Body, Entry};
use nett_policy::log::fold::Fold;
use nett_policy::log::intent::World;
use nett_policy::service::Catalog;

use crate::bus::wire::{BeaconAnswer, SealedVote};
use crate::controller::event::Token;
use gate::{FoundGate, GateShape, Slot};
pub use judge::{Standing, Stands};
use rounds::Rounds;
use store::{LeaseRecord, Restored};
use voting::Voting;
use withdraw::Withdrawing;

/// What can happen to the lease.
#[derive(Debug)]
pub enum LeaseEvent {
    /// The journal of the lease was read; comes first.
    Restored(Box<Restored>),
    /// What gate there is in the kernel; `None` without one.
    GateFound(Option<FoundGate>),
    /// The records of this number are on the disk, or are not.
    Kept { number: u64, result: Result<(), String> },
    /// The ballot was sealed and is on the disk, or neither.
    Voted(Result<SealedVote, String>),
    /// The slot of this round is armed, or why not; `anew`: the gate may have been made again, with
    /// nothing open in either slot.
    Armed { round: u64, anew: bool, result: Result<(), String> },
    /// The gate has this shape, and was read back.
    Shaped { number: u64, result: Result<(), String> },
    /// A voter answered.
    Answered(Box<BeaconAnswer>),
    /// A node asks the voter that this node is.
    Asked { token: Token, ask: Ask },
    /// A vote out of a stream.
    Vote(SealedVote),
}

/// What the lease wants done, in order.
#[derive(Debug)]
pub enum LeaseEffect {
    /// Write and sync, then [`LeaseEvent::Kept`].
    Keep {
        number: u64,
        records: Vec<LeaseRecord>,
    },
    /// Seal, write and sync, then [`LeaseEvent::Voted`].
    Vote(Ballot),
    /// A vote that is on the disk, for the site's stream.
    Publish(SealedVote),
    Answer {
        token: Token,
        said: Box<BeaconAnswer>,
    },
    /// Give the gate this shape, then [`LeaseEvent::Shaped`].
    Shape(Box<GateShape>),
    /// Empty a slot and let it live for T, then [`LeaseEvent::Armed`].
    Arm {
        round: u64,
        slot: Slot,
        lease: Duration,
    },
    Ask(Vec<Ask>),
    Open {
        slot: Slot,
        groups: BTreeSet<u32>,
    },
    /// Until when the name server may answer with the own site; services not named here have no
    /// limit.
    Deadlines(BTreeMap<ServiceId, Duration>),
}

/// The lease of one node.
#[derive(Debug)]
pub struct Lease {
    fabric: Arc<Fabric>,
    catalog: Arc<Catalog>,
    me: Node,
    rules: Rules,
    placings: Placings,
    /// What the file says of the voters.
    electorates: Electorates,
    /// Why nothing is done by that file.
    refused: Option<String>,
    /// The record of the terms, while it is on its way to the disk: until then nobody is asked.
    terms_open: Option<u64>,
    /// Why the own voter does not run the generation of the file.
    rises_not: Option<NotYet>,
    knowledge: Knowledge,
    withdrawals: Withdrawals,
    voting: Option<Voting>,
    withdrawing: Withdrawing,
    rounds: Rounds,
    judged: judge::Judged,
    /// Incarnations whose first hearing is on the disk.
    heard: BTreeSet<(SiteId, Incarnation)>,
    /// Votes that wait for one before them.
    early: BTreeMap<(SiteId, Incarnation, u64), SealedVote>,
    boot: String,
    seed: u128,
    drawn: u128,
    keeping: Keeping,
    restored: bool,
    /// The log was read as far as this node had read it before it started.
    log_whole: bool,
    /// The gate was shut when this process began, or its state is not known.
    begins_shut: bool,
    /// A start has had its answers, or its time for them.
    heard_all: bool,
    /// And its gate has its first shape.
    ready: bool,
    /// Something was taken in, or followed from the last turn, that the next one may answer to.
    news: bool,
    effects: Vec<LeaseEffect>,
}

/// Records on their way to the disk.
#[derive(Debug, Default)]
struct Keeping {
    last: u64,
    /// Sent and not yet confirmed, oldest first.
    open: VecDeque<(u64, Vec<LeaseRecord>)>,
    retry: Option<Duration>,
}

/// How long until a disk that took nothing is tried again.
const KEEP_RETRY: Duration = Duration::from_secs(1);

// === impl Lease ===

impl Lease {
    /// `None` where nothing is leased.
    pub fn new(fabric: Arc<Fabric>, catalog: Arc<Catalog>, me: Node) -> Option<Self> {
        if catalog.leased().len() == 0 {
            return None;
        }
        let electorates = fabric.electorates();
        let quorum = electorates.present.quorum();
        let rules = Rules { lease: fabric.lease.duration, wait: fabric.lease.wait, quorum };
        let placings = Placings::new(World { fabric: &fabric, catalog: &catalog });
        Some(Self {
            rules,
            placings,
            knowledge: Knowledge::lost(electorates.clone()),
            electorates,
            refused: None,
            terms_open: None,
            rises_not: None,
            withdrawals: Withdrawals::default(),
            voting: None,
            withdrawing: Withdrawing::default(),
            rounds: Rounds::default(),
            judged: judge::Judged::default(),
            heard: BTreeSet::new(),
            early: BTreeMap::new(),
            boot: String::new(),
            seed: 0,
            drawn: 0,
            keeping: Keeping::default(),
            restored: false,
            log_whole: false,
            begins_shut: true,
            heard_all: false,
            ready: false,
            news: true,
            effects: Vec::new(),
            fabric,
            catalog,
            me,
        })
    }

    /// Takes one event in. What follows from it comes with [`Self::turn`].
    pub fn handle(&mut self, event: LeaseEvent, now: Duration) {
        // What it tells others is no news to itself, nor is a vote that it knows.
        self.news |= !matches!(event, LeaseEvent::Asked { .. } | LeaseEvent::Vote(_));
        match event {
            LeaseEvent::Restored(found) => self.restore(*found, now),
            LeaseEvent::GateFound(found) => {
                self.begins_shut = !found.as_ref().is_some_and(|found| found.open);
                self.judged.found(self.vips_here(), found.map(|found| found.guarded));
            }
            LeaseEvent::Kept { number, result } => self.kept(number, result, now),
            LeaseEvent::Voted(result) => self.voted(result, now),
            LeaseEvent::Armed { round, anew, result } => {
                if anew {
                    self.rounds.emptied();
                }
                self.armed(round, result, now);
            }
            LeaseEvent::Shaped { number, result } => {
                if result.is_err() {
                    self.rounds.emptied();
                }
                self.judged.shaped(number, result, now);
            }
            LeaseEvent::Answered(said) => self.answered(&said, now),
            LeaseEvent::Asked { token, ask } => self.asked(token, &ask, now),
            LeaseEvent::Vote(vote) => self.read_vote(&vote, now),
        }
    }

    /// Draws the conclusions, and gives everything that is to be done because of them. True when
    /// what this node makes of a service has changed.
    pub fn turn(&mut self, now: Duration) -> (bool, Vec<LeaseEffect>) {
        if !self.restored || !self.is_due(now) {
            return (false, std::mem::take(&mut self.effects));
        }
        self.news = false;
        let asked = self.effects.len();
        self.keep_again(now);
        self.consider_rise(now);
        self.begin_round(now);
        self.consider_votes(now);
        self.heard_all |= self.has_heard(now);
        let mut changed = self.judge(now);
        if !self.ready && self.may_begin(now) {
            self.ready = true;
            changed = true;
        }
        // What was asked of the gate is looked at by the next.
        self.news |= changed || self.effects.len() > asked;
        (changed, std::mem::take(&mut self.effects))
    }

    /// Most of what an agent handles has nothing to do with its lease: a turn is a function of what
    /// was taken in, and of a time only from the deadline on.
    fn is_due(&self, now: Duration) -> bool {
        self.news || self.is_founding() || self.deadline().is_some_and(|at| now >= at)
    }

    /// When [`Self::turn`] is wanted at the latest.
    pub fn deadline(&self) -> Option<Duration> {
        let voting = self.voting.as_ref().and_then(|v| v.retry);
        let ready = self.ready_at().filter(|_| !self.ready);
        let judged = self.judged.deadline();
        let all = [self.rounds.deadline(), judged, voting, self.keeping.retry, ready];
        all.into_iter().flatten().min().filter(|_| self.restored)
    }

    /// Takes in an entry of a log.
    pub fn read_entry(&mut self, entry: &Entry) {
        if let Body::Withdrawn(withdrawn) = &entry.body {
            self.news = true;
            for (service, epoch) in &withdrawn.services {
                self.withdrawals.join(entry.node.clone(), service.clone(), *epoch);
                if entry.node == self.me.id {
                    self.withdrawing.published(service, *epoch);
                }
            }
        }
    }

    /// False while entries that this node has read before may be missing: one of them may say that
    /// a claim is served without a majority, beside which no other is (adr/0061).
    pub fn log_is_whole(&mut self, whole: bool) {
        self.news |= self.log_whole != whole;
        self.log_whole = whole;
    }

    /// True where nothing that is served would end if this start took its time.
    pub fn begins_shut(&self) -> bool {
        self.begins_shut
    }

    /// Whether this node serves anything leased now.
    pub fn is_serving(&self) -> bool {
        self.judged.is_serving()
    }

    /// Takes in how far a task has come.
    pub fn read_task(&mut self, fold: &Fold, task: &nett_policy::id::EntryId) {
        self.news |= self.placings.update(fold, task);
    }

    /// Reads all tasks, where some of them became void.
    pub fn read_all(&mut self, fold: &Fold) {
        let world = World { fabric: &self.fabric, catalog: &self.catalog };
        self.placings = Placings::of_log(world, fold);
        self.news = true;
    }

    /// The sites that vote, in the generation by which this node counts now.
    pub fn voters(&self) -> &BTreeSet<SiteId> {
        &self.knowledge.electorate().voters
    }

    /// The node that votes for a site, by the file or by the generation before it.
    pub fn voter_of(&self, site: &SiteId) -> Option<&NodeId> {
        self.electorates.node_of(site)
    }

    /// What this node's file says of the voters.
    pub fn electorates(&self) -> &Electorates {
        &self.electorates
    }

    /// Why nothing is leased by this node's file: what it says of the voters contradicts what the
    /// node has used.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// When the last ask that a voter answered was sent.
    pub fn last_answered(&self, voter: &SiteId) -> Option<Duration> {
        self.knowledge.answered(voter)
    }

    /// The voters that answered an ask sent within this time.
    pub fn heard_within(&self, time: Duration, now: Duration) -> BTreeSet<SiteId> {
        let fresh = |voter: &SiteId| {
            self.knowledge.answered(voter).is_some_and(|asked| now <= asked + time)
        };
        self.electorates.all().into_iter().filter(fresh).collect()
    }

    /// False where what this node once confirmed is not known; see [`Self::fences_told`].
    pub fn knows_fences(&self) -> bool {
        let mut services = self.placings.services();
        services.next().is_none_or(|service| self.knowledge.fence_of(service).is_some())
    }

    /// The own site's log was read as far as a majority of sites has it: every confirmation that
    /// this node ever published was in it.
    pub fn fences_told(&mut self) {
        if self.restored && !self.knows_fences() {
            let fences = self.withdrawals.of(&self.me.id);
            self.knowledge.fences_told(&fences);
            self.news = true;
            self.keep(vec![LeaseRecord::Fence(fences), LeaseRecord::Told]);
        }
    }

    fn is_serving_node(&self) -> bool {
        self.me.role != Role::Witness
    }

    /// A number that no other process and no other call has drawn.
    fn draw(&mut self) -> u128 {
        self.drawn += 1;
        // Odd multiplier: different counts give different numbers.
        self.seed.wrapping_add(self.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
    }

    /// VIPs of leased services that this node's site may serve.
    fn vips_here(&self) -> BTreeSet<IpAddr> {
        let here = |id: &ServiceId| {
            let service = self.catalog.get(id)?;
            service.sites().contains(&self.me.site).then_some(&service.vips)
        };
        self.placings.services().filter_map(here).flatten().copied().collect()
    }

    // === the disk ===

    /// Sends records to the disk; gives the number under which they will be confirmed.
    fn keep(&mut self, records: Vec<LeaseRecord>) -> u64 {
        self.keeping.last += 1;
        let number = self.keeping.last;
        self.keeping.open.push_back((number, records.clone()));
        self.effects.push(LeaseEffect::Keep { number, records });
        number
    }

    fn kept(&mut self, number: u64, result: Result<(), String>, now: Duration) {
        match result {
            Ok(()) => {
                self.keeping.open.retain(|(open, _)| *open != number);
                self.withdrawing.kept(number);
                self.terms_open = self.terms_open.filter(|open| *open != number);
                if let Some(voting) = &mut self.voting {
                    voting.kept(number);
                }
            }
            Err(error) => {
                tracing::error!(error, "The disk does not take what the lease has to remember.");
                self.keeping.retry = Some(now + KEEP_RETRY);
            }
        }
    }

    fn keep_again(&mut self, now: Duration) {
        if self.keeping.retry.is_some_and(|at| now >= at) {
            self.keeping.retry = None;
            for (number, records) in self.keeping.open.clone() {
                self.effects.push(LeaseEffect::Keep { number, records });
            }
        }
    }

    fn restore(&mut self, found: Restored, now: Duration) {
        let Restored { records, whole, boot, seed } = found;
        (self.seed, self.boot) = (seed, boot);
        let electorates = self.electorates.clone();
        let mut known = match whole {
            true => Knowledge::new(electorates),
            false => Knowledge::lost(electorates),
        };
        let here = |boot: &str, at: Duration| match boot == self.boot && !boot.is_empty() {
            true => at.min(now),
            false => now,
        };
        for record in &records {
            match record {
                LeaseRecord::Read { vote, times, boot } => {
                    let mut times = *times;
                    times.since = here(boot, times.since);
                    times.heard = here(boot, times.heard);
                    known.restore(&vote.vote, times);
                    self.heard.insert((vote.vote.voter.clone(), vote.vote.incarnation));
                }
                LeaseRecord::Heard { voter, incarnation, at, boot } => {
                    known.heard_of(voter, *incarnation, here(boot, *at));
                    self.heard.insert((voter.clone(), *incarnation));
                }
                LeaseRecord::Fence(services) => {
                    services.iter().for_each(|(service, epoch)| known.fence(service, *epoch));
                    self.withdrawing.restore(services);
                }
                LeaseRecord::Told if whole => known.fences_told(&BTreeMap::new()),
                LeaseRecord::Told
                | LeaseRecord::Begun { .. }
                | LeaseRecord::Made(_)
                | LeaseRecord::Floor { .. }
                | LeaseRecord::Terms(_)
                | LeaseRecord::Runs { .. } => {}
            }
        }
        // A journal that never heard whether it was the node's first knows no fences either.
        if !records.contains(&LeaseRecord::Told) {
            known.forget_fences();
        }
        self.knowledge = known;
        self.restored = true;
        self.rounds.since = Some(now);
        self.restore_terms(&records);
        if self.refused.is_none() {
            self.restore_voter(&records, whole, now);
        }
    }

    // === votes of others ===

    fn read_vote(&mut self, vote: &SealedVote, now: Duration) {
        if self.voter_of(&vote.vote.voter) != Some(&vote.node) {
            tracing::warn!(node = %vote.node, "A node votes that is not its site's voter.");
            return;
        }
        let key = |v: &SealedVote| (v.vote.voter.clone(), v.vote.incarnation, v.vote.number);
        match self.knowledge.read_vote(&vote.vote, now) {
            Read::Next(known) => {
                let (voter, incarnation, _) = key(vote);
                let of_it = |k: &(SiteId, Incarnation, u64)| {
                    k.0 == voter && k.1 == incarnation && k.2 <= known
                };
                let early = self.early.iter().filter(|(k, _)| of_it(k)).map(|(_, v)| v.clone());
                let all: Vec<SealedVote> = std::iter::once(vote.clone()).chain(early).collect();
                self.early.retain(|k, _| !of_it(k));
                let (knowledge, boot) = (&self.knowledge, &self.boot);
                let record = |vote: SealedVote| {
                    let times = knowledge.times(&vote.vote)?;
                    Some(LeaseRecord::Read { vote, times, boot: boot.clone() })
                };
                let records: Vec<LeaseRecord> = all.into_iter().filter_map(record).collect();
                self.heard.insert((voter, incarnation));
                self.keep(records);
                self.news = true;
            }
            Read::Early => {
                self.news = true;
                self.early.insert(key(vote), vote.clone());
            }
            Read::Known | Read::Stranger => {}
            Read::Forked => {
                // That voter counts no more, from now on.
                self.news = true;
                let voter = &vote.vote.voter;
                tracing::error!(%voter, "Two votes claim one place: look at that voter's disk.");
            }
        }
    }
}
