//! What travels: claims, votes, asks and answers, in domain types.
//!
//! Signatures and JSON live at the agent's edge; what arrives here has been verified. All of it may
//! arrive late, twice, or in any order, and nothing here is ever changed after it was made.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::rule::Ground;
use crate::id::{EntryId, Epoch, Generation, ServiceId, SiteId};

/// A voter's life with one journal: random, kept over a restart only if the journal is provably
/// whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u128);

/// Names one ask: random, and never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(pub u128);

/// An effective command that gives services to a site. The right to serve belongs to the claim's
/// id, never to the site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The task whose effect it is.
    pub id: EntryId,
    pub target: SiteId,
    /// At least one.
    pub services: BTreeMap<ServiceId, Epoch>,
}

/// A voter's promise for one claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vote {
    pub voter: SiteId,
    pub incarnation: Incarnation,
    /// 1 is the incarnation's first.
    pub number: u64,
    /// Hash of the vote before; empty for the first.
    pub prev_hash: String,
    /// SHA-256 of this vote's canonical form.
    pub hash: String,
    pub claim: EntryId,
    /// Those of the claim's services that this voter could still vote for.
    pub services: BTreeMap<ServiceId, Epoch>,
    pub target: SiteId,
    /// The generation of the voters when it was made.
    pub voters: Generation,
}

/// A node's question to one voter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub voter: SiteId,
    pub nonce: Nonce,
    /// How many votes of each of the voter's incarnations the node has read.
    pub known: BTreeMap<Incarnation, u64>,
}

/// What a voter said after it had received an ask, from what it has on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub voter: SiteId,
    pub nonce: Nonce,
    pub incarnation: Incarnation,
    /// How many votes the voter has made in this incarnation.
    pub stated: u64,
    /// The generation of voters that it runs.
    pub voters: Generation,
    /// For how long it has answered in nothing older, on its own clock; in whole seconds on the
    /// wire, rounded down.
    pub steady: Duration,
    /// Below or at which epochs the voter may have voted in an earlier incarnation. Another voter
    /// that comes back without its journal must learn them too.
    pub floor: BTreeMap<ServiceId, Epoch>,
    /// The votes after what the ask said is known.
    pub new: Vec<Vote>,
}

/// The question whether a node serves one service under one claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asking<'a> {
    pub claim: &'a EntryId,
    pub service: &'a ServiceId,
    pub epoch: Epoch,
    pub target: &'a SiteId,
    /// What condition (4) may rest on, see [`super::confirm::Withdrawals::ground`].
    pub ground: Ground,
    /// The site of the node that asks itself.
    pub here: &'a SiteId,
    /// What older and newer claims leave of it.
    pub bounds: &'a Bounds,
    /// What condition (4) may rest on where the claim has no majority.
    pub alone: Ground,
}

/// What this node's reading of all claims and votes of a service means for one claim, see
/// [`super::alone`]. The default is that of a service that never had a claim without a majority.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    /// No claim up to this epoch is served, unless it is the one that says so.
    pub above: Epoch,
    /// Beside the majority one voter of each of these has to count.
    pub with: Vec<BTreeSet<SiteId>>,
    /// Without a majority all of these have to count; empty for a claim that needs one.
    pub alone: BTreeSet<SiteId>,
    /// When one of `with` may be gone although nothing is heard.
    pub next: Option<Duration>,
}
