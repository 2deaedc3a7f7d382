//! When a voter goes from one generation of voters to the next.
//!
//! Nodes count pairs: a generation, and a majority of its voters that answer in it. Majorities of
//! two neighbouring generations have a voter in common, so all that is proved for one set of voters
//! holds for both. Majorities of generations further apart need not have one. So nobody answers in
//! generation f before a majority of the voters of f-1 has answered in nothing older for W, after
//! which no answer of f-2 is of use to anybody (i); nor before it has caught up with a majority of
//! them, so that what served in f-2 is not forgotten in f (ii). The third rule is for use and not
//! for safety: a node with an older file cannot follow, so everybody gets W for the new one, and
//! the voter that f adds must work before the others go there (iii).
//!
//! [`may_rise`] is a function on plain numbers that the model check calls too. A crash leaves
//! nothing here.

use std::time::Duration;

use super::electorate::Electorate;
use super::knowledge::Knowledge;
use super::rule::{Rules, quorum_of};
use super::said::Said;
use crate::id::{EntryId, Epoch, Generation, ServiceId, SiteId};

/// What a voter runs: on disk, with the boot's id, before it first answers in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    pub generation: Generation,
    /// Own clock from when on this incarnation has answered in nothing older. Of another boot it
    /// is the start of the agent.
    pub since: Duration,
    /// False in a voter that lost its journal until it may answer in the generation at all.
    pub entered: bool,
}

/// What a voter has bound itself to for one service, as others compare it with what they have. `C`
/// names a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark<C> {
    /// 0 when there is nothing.
    pub epoch: Epoch,
    /// The claim it voted for in that epoch; `None` when the epoch is a floor.
    pub claim: Option<C>,
}

/// One voter of the generation before the one to rise to, as the voter that is to rise knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// For how long it is known to have answered in nothing older than the generation before the
    /// one to rise to; `None` when it has not said so within T.
    pub steady: Option<Duration>,
    /// The riser has read all that this voter spoke of, and has caught up with it; or the first
    /// service of which that is not so.
    pub caught_up: Result<(), Behind>,
}

/// Why a voter has not caught up with another one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Behind {
    #[error("it has not answered for a while")]
    Silent,
    #[error("it reads the others before it votes")]
    Rejoining,
    #[error("not all its votes are read")]
    Unread,
    #[error("it voted for a newer claim of {0}, or for another one of the same epoch")]
    Service(ServiceId),
}

/// What a voter knows that would rise, of the others.
#[derive(Debug, Clone, Copy)]
pub struct Riser<'a> {
    /// How many voters of the generation before are a majority.
    pub quorum_before: usize,
    /// For how long this voter itself has answered in nothing older than the generation before;
    /// `None` when it is no voter of that, or runs something older.
    pub own: Option<Duration>,
    /// All others of the generation before.
    pub peers: &'a [Peer],
    /// This voter has had its file for W, in which all others should get theirs.
    pub is_told: bool,
    /// The voter that the generation adds works; true where it adds none, or this one.
    pub added_works: bool,
    /// How many others run the generation already.
    pub there: usize,
    /// How many are a majority of it.
    pub quorum: usize,
}

/// What is missing for a voter to rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacks {
    /// (i) So many have answered in nothing older than the generation before for W.
    Steady { have: usize, need: usize },
    /// (ii) It has caught up with so many.
    CaughtUp { have: usize, need: usize },
    /// (iii) The file is new.
    Told,
    /// (iii) The voter that is added does not work yet.
    Added,
}

/// How many voters answered within T in one generation, and how many are a majority of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    pub count: usize,
    pub quorum: usize,
}

/// Whether a node counts by the generation before. Either choice is safe at any moment; this one
/// leaves no gap while voters go up one after another.
pub fn uses_former(present: Answered, former: Answered) -> bool {
    match (present.is_majority(), former.is_majority()) {
        (true, _) => false,
        (false, true) => true,
        (false, false) => former.count > present.count,
    }
}

/// Whether who has the first of these marks for a service can forget nothing that served, where
/// the other mark is known: its own vote is newer, or for the same claim, or there is a floor that
/// keeps it from voting otherwise.
pub fn covers<C: PartialEq>(own: &Mark<C>, other: &Mark<C>) -> bool {
    if own.epoch != other.epoch || other.epoch == Epoch(0) {
        return own.epoch >= other.epoch;
    }
    own.claim.is_none() || own.claim == other.claim
}

/// Condition (i): a majority of the generation before has answered in nothing older for W. It is
/// all that a voter needs that has lost its journal, beside reading the others.
pub fn may_enter(rules: &Rules, riser: Riser<'_>) -> Result<(), Lacks> {
    let need = riser.quorum_before;
    let peers = riser.peers.iter().map(|peer| peer.steady);
    let steady = |steady: &Option<Duration>| steady.is_some_and(|time| time >= rules.wait);
    match peers.chain([riser.own]).filter(steady).count() {
        have if have < need => Err(Lacks::Steady { have, need }),
        _ => Ok(()),
    }
}

/// Conditions (i) to (iii): whether a voter may stop answering in what it runs, and answer in the
/// generation of its file.
pub fn may_rise(rules: &Rules, riser: Riser<'_>) -> Result<(), Lacks> {
    may_enter(rules, riser)?;
    let need = riser.quorum_before;
    let others = riser.peers.iter().filter(|peer| peer.caught_up.is_ok()).count();
    let have = others + usize::from(riser.own.is_some());
    if have < need {
        return Err(Lacks::CaughtUp { have, need });
    }
    // With a majority of the new generation there is nothing left to be kept.
    match riser {
        Riser { there, quorum, .. } if there + 1 >= quorum => Ok(()),
        Riser { is_told: false, .. } => Err(Lacks::Told),
        Riser { added_works: false, .. } => Err(Lacks::Added),
        _ => Ok(()),
    }
}

/// Why a voter does not go on to the generation of its file, in words for the status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    #[error(
        "it runs generation {runs} of the voters, and its file is of generation {file}: it answers \
         nobody; give it a file of generation {runs}"
    )]
    FileOlder { runs: Generation, file: Generation },
    #[error("the voter of {voter} runs generation {generation} of the voters: this file is old")]
    Newer { voter: SiteId, generation: Generation },
    #[error(
        "{have} of {need} voters that it takes have run generation {before}, or the one after it, \
         for the wait of the lease"
    )]
    Steady { have: usize, need: usize, before: Generation },
    #[error(
        "its votes agree with those of {have} of {need} voters that it takes of generation \
         {before}: {}",
        told(.left)
    )]
    CaughtUp { have: usize, need: usize, before: Generation, left: Vec<(SiteId, Behind)> },
    #[error(
        "this file is new: give it to all nodes within {} s, nodes without it will not follow",
        .left.as_secs()
    )]
    Told { left: Duration },
    #[error("the voter of {voter}, which this generation adds, does not work yet: {why}")]
    Added { voter: SiteId, why: Lacking },
    #[error(
        "{0} was taken without a majority, and that may still bind: give a command for it that has \
         one, and wait for the wait of the lease"
    )]
    Unprotected(ServiceId),
}

/// Why the voter that a generation adds does not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lacking {
    #[error("it does not answer")]
    Silent,
    #[error("it answers, and runs generation {0}")]
    Elsewhere(Generation),
    #[error("it reads the others before it votes")]
    Rejoining,
    #[error("it has not answered for the wait of the lease")]
    Young,
    #[error(
        "its vote for {0} is missing or another one, or is not known for the wait of the lease"
    )]
    Vote(ServiceId),
}

fn told(left: &[(SiteId, Behind)]) -> String {
    let left = left.iter().map(|(voter, behind)| format!("{voter}: {behind}"));
    left.collect::<Vec<_>>().join("; ")
}

/// What the voter that would rise has of its own.
pub(super) struct Own<'a> {
    pub(super) site: &'a SiteId,
    /// For how long in nothing older than the generation before.
    pub(super) steady: Duration,
    /// For how long it has had its file.
    pub(super) told: Duration,
    pub(super) mark: &'a dyn Fn(&ServiceId) -> Mark<&'a EntryId>,
    /// What is leased, and may thus be forgotten.
    pub(super) services: Vec<&'a ServiceId>,
}

// === impl Knowledge ===

impl Knowledge {
    /// Condition (i) alone.
    pub(super) fn may_enter(
        &self,
        rules: &Rules,
        own: &Own<'_>,
        now: Duration,
    ) -> Result<(), NotYet> {
        self.meets(may_enter, rules, own, now)
    }

    /// Conditions (i) to (iii).
    pub(super) fn may_rise(
        &self,
        rules: &Rules,
        own: &Own<'_>,
        now: Duration,
    ) -> Result<(), NotYet> {
        self.meets(may_rise, rules, own, now)
    }

    fn meets(
        &self,
        conditions: fn(&Rules, Riser<'_>) -> Result<(), Lacks>,
        rules: &Rules,
        own: &Own<'_>,
        now: Duration,
    ) -> Result<(), NotYet> {
        let Some(before) = &self.electorates().former else { return Ok(()) };
        let peers = self.peers(rules, before, own, now);
        let peers: Vec<Peer> = peers.into_iter().map(|(_, peer)| peer).collect();
        conditions(rules, self.riser(rules, before, own, &peers, now))
            .map_err(|lacks| self.said_why(rules, lacks, before, own, now))
    }

    fn riser<'a>(
        &self,
        rules: &Rules,
        before: &Electorate,
        own: &Own<'_>,
        peers: &'a [Peer],
        now: Duration,
    ) -> Riser<'a> {
        let present = &self.electorates().present;
        let others = present.voters.iter().filter(|voter| *voter != own.site);
        let there = others.filter(|voter| {
            let said = self.fresh(rules, voter, now).filter(|said| !said.rejoining);
            said.is_some_and(|said| said.generation == present.generation)
        });
        let added = self.electorates().added().filter(|added| *added != own.site);
        Riser {
            quorum_before: before.quorum(),
            own: before.voters.contains(own.site).then_some(own.steady),
            peers,
            is_told: own.told >= rules.wait,
            added_works: added.is_none_or(|voter| self.works(rules, voter, own, now).is_ok()),
            there: there.count(),
            quorum: present.quorum(),
        }
    }

    fn peers<'a>(
        &self,
        rules: &Rules,
        before: &'a Electorate,
        own: &Own<'_>,
        now: Duration,
    ) -> Vec<(&'a SiteId, Peer)> {
        let others = before.voters.iter().filter(|voter| *voter != own.site);
        others.map(|voter| (voter, self.peer(rules, before.generation, voter, own, now))).collect()
    }

    fn peer(
        &self,
        rules: &Rules,
        before: Generation,
        voter: &SiteId,
        own: &Own<'_>,
        now: Duration,
    ) -> Peer {
        // A newer one is none of this file's generations.
        let is_near = |said: &&Said| self.electorates().get(said.generation).is_some();
        let Some(said) = self.fresh(rules, voter, now).filter(is_near) else {
            return Peer { steady: None, caught_up: Err(Behind::Silent) };
        };
        let steady = said.since_none_older(before).map(|since| now.saturating_sub(since));
        let covers = |service: &&ServiceId| match self.mark(voter, said, service) {
            None => Some(Behind::Unread),
            Some(mark) if covers(&(own.mark)(service), &mark) => None,
            Some(_) => Some(Behind::Service((*service).clone())),
        };
        let caught_up = match said.rejoining {
            true => Err(Behind::Rejoining),
            false => own.services.iter().find_map(covers).map_or(Ok(()), Err),
        };
        Peer { steady, caught_up }
    }

    /// Whether the voter that is added works: it votes as this one does.
    fn works(
        &self,
        rules: &Rules,
        voter: &SiteId,
        own: &Own<'_>,
        now: Duration,
    ) -> Result<(), Lacking> {
        let present = self.electorates().present.generation;
        let said = self.fresh(rules, voter, now).ok_or(Lacking::Silent)?;
        match said {
            said if said.generation != present => Err(Lacking::Elsewhere(said.generation)),
            said if said.rejoining => Err(Lacking::Rejoining),
            said if said.steady_at(now) < rules.wait => Err(Lacking::Young),
            _ => {
                let differs = |service: &&&ServiceId| {
                    let Some(claim) = (own.mark)(service).claim else { return false };
                    let at = self.settled_by(rules, voter, service, claim);
                    at.is_none_or(|at| at > now)
                };
                let service = own.services.iter().find(differs);
                service.map_or(Ok(()), |service| Err(Lacking::Vote((*service).clone())))
            }
        }
    }

    fn fresh(&self, rules: &Rules, voter: &SiteId, now: Duration) -> Option<&Said> {
        self.said(voter).filter(|said| now < said.asked + rules.lease)
    }

    fn said_why(
        &self,
        rules: &Rules,
        lacks: Lacks,
        before: &Electorate,
        own: &Own<'_>,
        now: Duration,
    ) -> NotYet {
        match lacks {
            Lacks::Steady { have, need } => {
                NotYet::Steady { have, need, before: before.generation }
            }
            Lacks::Told => NotYet::Told { left: rules.wait.saturating_sub(own.told) },
            Lacks::Added => {
                let voter = self.electorates().added().expect("only who is added can be missed");
                let why = self.works(rules, voter, own, now).err().unwrap_or(Lacking::Silent);
                NotYet::Added { voter: voter.clone(), why }
            }
            Lacks::CaughtUp { have, need } => {
                let peers = self.peers(rules, before, own, now).into_iter();
                let left = peers.filter_map(|(voter, p)| Some((voter.clone(), p.caught_up.err()?)));
                NotYet::CaughtUp { have, need, before: before.generation, left: left.collect() }
            }
        }
    }
}

// === impl Mark ===

impl<C> Mark<C> {
    /// From the newest vote and the floor.
    pub fn of(newest: Option<(C, Epoch)>, floor: Epoch) -> Self {
        match newest {
            Some((claim, epoch)) if epoch >= floor => Self { epoch, claim: Some(claim) },
            _ => Self { epoch: floor, claim: None },
        }
    }
}

// === impl Answered ===

impl Answered {
    pub fn of(count: usize, voters: usize) -> Self {
        Self { count, quorum: quorum_of(voters) }
    }

    pub(super) fn is_majority(self) -> bool {
        self.count >= self.quorum
    }
}
