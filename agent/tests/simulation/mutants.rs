//! Rules of the world that are broken on purpose: the invariants must see each of them.
//!
//! Nothing in the agents knows of a mutant. Each is broken where an agent meets its world: in the
//! numbers it is given, in what its disk, its kernel's gate or its bus hands it, in what becomes of
//! what it writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nett_agent::bus::wire::{BeaconAnswer, Sealed};
use nett_agent::lease::store::LeaseRecord;
use nett_policy::fabric::{Fabric, Node};
use nett_policy::id::{NodeId, SiteId, WallMs};
use nett_policy::lease::vote::{Ask, Incarnation, Nonce};
use nett_policy::log::entry::{Body, Effect, Refused};

use crate::lease::LeaseHost;
use crate::traps::{Trap, Way};
use crate::world::World;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A server that stores whatever comes.
    NoCompareAndSet,
    /// A kernel that says it is done, and did nothing.
    LyingKernel,
    /// A disk that says an entry is safe, and has lost it.
    ForgetfulDisk,
    /// Whoever starts acts before it has read how far the others are.
    BlindStart,
    /// Every reader looks at its own clock whether a command came in time.
    ReadersClock,
    /// A command gets the highest epoch that is known, not one above it.
    EqualEpochs,
    /// A gate that does not end by itself.
    GateOpen,
    /// The gate's time begins when it is opened, not before the voters are asked.
    LateArm,
    /// A claim serves as soon as its votes are read.
    NoWait,
    /// The wait is as long as the lease, though clocks differ.
    NoMargin,
    /// Clocks are 48 % fast or slow.
    WildClocks,
    /// Each site is a majority by itself.
    OwnVoterOnly,
    /// A vote is heard before it is on the disk: a voter whose disk is not what it was does not
    /// know it, and goes on under its old name.
    NoFsync,
    /// A voter that lost its disk votes without having read the others.
    NoRejoin,
    /// An answer counts from when it came, for the last ask, whichever it is to.
    RenewOnArrival,
    /// An answer counts although it speaks of votes that were not read.
    Unread,
    /// Another node of a voter's site answers, from how far it has read.
    Replica,
    /// Whoever starts has known every vote for ever.
    OldTimes,
    /// What is waited for is waited for by the wall clock.
    WallTimers,
    /// Mail is believed whoever signed it.
    Credulous,
    /// Who fills a stream again leaves the last entry out.
    ShortRefill,
}

/// What broken rules need to remember.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The last ask of each node to each voter.
    asks: BTreeMap<(NodeId, SiteId), Nonce>,
    /// The last answer of each voter before votes were held back.
    copies: BTreeMap<NodeId, BeaconAnswer>,
}

// === impl Mutant ===

impl Mutant {
    /// Those that a fabric without leased services shows.
    pub(crate) const PLAIN: [Self; 7] = [
        Self::NoCompareAndSet,
        Self::LyingKernel,
        Self::ForgetfulDisk,
        Self::BlindStart,
        Self::ReadersClock,
        Self::EqualEpochs,
        Self::ShortRefill,
    ];
    /// Those that break a lease, and that draws of faults come upon.
    pub(crate) const LEASED: [Self; 3] = [Self::GateOpen, Self::NoWait, Self::OwnVoterOnly];
    /// And those that need a row of faults, each with one that shows it.
    pub(crate) const TRAPPED: [(Self, Trap); 14] = [
        (Self::GateOpen, Trap::Dead),
        (Self::LateArm, Trap::Stalled),
        (Self::NoWait, Trap::CutOff),
        (Self::NoMargin, Trap::CutOff),
        (Self::WildClocks, Trap::CutOff),
        (Self::OwnVoterOnly, Trap::TwoAtOnce),
        (Self::NoFsync, Trap::OldDisk),
        (Self::NoRejoin, Trap::OldDisk),
        (Self::RenewOnArrival, Trap::Buffered),
        (Self::Unread, Trap::Deaf),
        (Self::Replica, Trap::Deaf),
        (Self::OldTimes, Trap::LateVote),
        (Self::WallTimers, Trap::ClockSteps),
        (Self::Credulous, Trap::Forged),
    ];

    /// The fabric as a node takes it to be that has lost this rule.
    pub(crate) fn fabric_at(self, node: &Node, fabric: &Fabric) -> Fabric {
        let mut fabric = fabric.clone();
        match self {
            Self::NoWait => fabric.lease.wait = Duration::ZERO,
            Self::NoMargin => fabric.lease.wait = fabric.lease.duration,
            Self::OwnVoterOnly => fabric.nodes.iter_mut().for_each(|other| {
                other.voter &= other.site == node.site;
            }),
            _ => {}
        }
        fabric
    }

    /// How far clocks are off that differ by up to `drift`, in millionths.
    pub(crate) fn drift(self, drift: i64) -> i64 {
        if self == Self::WildClocks { 480_000 } else { drift }
    }
}

// === impl World ===

impl World {
    /// An entry's body as its author writes it.
    pub(crate) fn as_written(&self, mut body: Body) -> Body {
        if self.mutant == Some(Mutant::EqualEpochs)
            && let Some(effect) = effect_of(&mut body)
        {
            let epochs = effect.writes.iter_mut().map(|write| &mut write.epoch);
            let epochs = epochs.chain(effect.moves.iter_mut().map(|one| &mut one.epoch));
            // The first command has nothing before it.
            epochs.for_each(|epoch| epoch.0 = epoch.0.saturating_sub(1).max(1));
        }
        body
    }

    /// An entry as a node takes it in.
    pub(crate) fn as_read(&self, node: &NodeId, mut sealed: Sealed) -> Sealed {
        let late = |at: WallMs| at < self.clock(node).wall;
        if self.mutant == Some(Mutant::ReadersClock)
            && let Body::Command(command) = &sealed.entry.body
            && late(command.request.expires_at)
        {
            let request = command.request.clone();
            let (refused_by, message) = ("expired".to_owned(), "it came late".to_owned());
            sealed.entry.body = Body::Refused(Refused { request, refused_by, message });
        }
        sealed
    }

    /// What a node's clock for waiting shows, and what it says when that is due.
    pub(crate) fn as_waited(&self, node: &NodeId, mono: Duration) -> Duration {
        let skew = Duration::from_millis(self.agents[node].skew.unsigned_abs());
        match self.mutant {
            Some(Mutant::WallTimers) if self.agents[node].skew > 0 => mono + skew,
            Some(Mutant::WallTimers) => mono.saturating_sub(skew),
            _ => mono,
        }
    }

    pub(crate) fn as_due(&self, node: &NodeId, due: Duration) -> Duration {
        let skew = Duration::from_millis(self.agents[node].skew.unsigned_abs());
        match self.mutant {
            Some(Mutant::WallTimers) if self.agents[node].skew > 0 => due.saturating_sub(skew),
            Some(Mutant::WallTimers) => due + skew,
            _ => due,
        }
    }

    /// What a voter said last, before anything was special about the way to it.
    pub(crate) fn last_said(&self, voter: &NodeId) -> Option<BeaconAnswer> {
        self.memory.copies.get(voter).cloned()
    }

    pub(crate) fn last_asked(&self, node: &NodeId, voter: &SiteId) -> Option<Nonce> {
        self.memory.asks.get(&(node.clone(), voter.clone())).copied()
    }

    pub(crate) fn remember_ask(&mut self, node: &NodeId, ask: &Ask) {
        self.memory.asks.insert((node.clone(), ask.voter.clone()), ask.nonce);
    }

    /// An answer as it is given.
    pub(crate) fn as_said(&mut self, voter: &NodeId, to: &NodeId, said: &mut BeaconAnswer) {
        if self.way == Way::Plain {
            self.memory.copies.insert(voter.clone(), said.clone());
        }
        if !self.held_back(voter, to) {
            return;
        }
        match (self.mutant, self.memory.copies.get(voter)) {
            (Some(Mutant::Replica), Some(copy)) => {
                let nonce = said.answer.nonce;
                *said = copy.clone();
                said.answer.nonce = nonce;
            }
            (Some(Mutant::Unread), _) => said.answer.stated = 0,
            _ => {}
        }
        said.votes.clear();
        said.answer.new.clear();
    }

    /// An answer as it is heard.
    pub(crate) fn as_heard(&self, node: &NodeId, said: &mut BeaconAnswer) {
        let last = self.memory.asks.get(&(node.clone(), said.answer.voter.clone()));
        if let (Some(Mutant::RenewOnArrival), Some(nonce)) = (self.mutant, last) {
            said.answer.nonce = *nonce;
        }
    }
}

fn effect_of(body: &mut Body) -> Option<&mut Effect> {
    match body {
        Body::Command(command) => command.effect.as_mut().map(Arc::make_mut),
        Body::Effective(fact) => Some(Arc::make_mut(&mut fact.effect)),
        _ => None,
    }
}

// === impl LeaseHost ===

impl LeaseHost {
    /// What a start finds: the records, and whether they are whole.
    pub(crate) fn found(&self, mutant: Option<Mutant>, seed: u128) -> (Vec<LeaseRecord>, bool) {
        let records = self.records.clone();
        let whole = !records.is_empty() && !self.damaged;
        match mutant {
            // What was lost was never known to be there.
            Some(Mutant::NoFsync) => (records, !self.records.is_empty()),
            Some(Mutant::NoRejoin) if self.damaged => (as_new(&records, Incarnation(seed)), true),
            Some(Mutant::OldTimes) => (records.into_iter().map(of_old).collect(), whole),
            _ => (records, whole),
        }
    }
}

/// A voter without votes that has nobody to read; what it read of others stays.
fn as_new(records: &[LeaseRecord], incarnation: Incarnation) -> Vec<LeaseRecord> {
    let own = |record: &&LeaseRecord| match record {
        LeaseRecord::Begun { .. }
        | LeaseRecord::Made(_)
        | LeaseRecord::Floor { .. }
        | LeaseRecord::Runs { .. } => true,
        LeaseRecord::Read { .. }
        | LeaseRecord::Heard { .. }
        | LeaseRecord::Fence(_)
        | LeaseRecord::Told
        | LeaseRecord::Terms(_) => false,
    };
    let begun = LeaseRecord::Begun { incarnation, pending: BTreeSet::new() };
    let of_others = records.iter().filter(|record| !own(record)).cloned();
    std::iter::once(begun).chain(of_others).collect()
}

fn of_old(record: LeaseRecord) -> LeaseRecord {
    match record {
        LeaseRecord::Read { vote, mut times, boot } => {
            (times.since, times.heard) = (Duration::ZERO, Duration::ZERO);
            LeaseRecord::Read { vote, times, boot }
        }
        LeaseRecord::Heard { voter, incarnation, at: _, boot } => {
            LeaseRecord::Heard { voter, incarnation, at: Duration::ZERO, boot }
        }
        other => other,
    }
}
