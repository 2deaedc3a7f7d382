//! The set of voters, and how it may change.
//!
//! Two majorities of one set share a voter, and so do a majority of a set and one of the set that
//! has one voter more or less. Further apart they need not: {a, b} of three and {c, d, e} of five
//! have nobody in common, and nodes of two sites could serve at once. So the set changes by one
//! voter in each *generation*, a voter says in every answer which one it runs and never goes back,
//! a node counts answers of one generation only, and no voter begins the next generation before a
//! majority of the present one has run it for W. Whatever was counted under the generation before
//! has ended by then, since W is longer than T on any clock: at no time are two generations in use
//! that are more than one apart.
//!
//! No older claim returns either: a voter begins the next generation only when its own newest votes
//! contradict no vote of a majority of the present one, see [`agrees`].
//!
//! What a voter runs is on its disk before it says so. The model check calls [`has_settled`],
//! [`may_rise`] and [`agrees`].

use std::collections::BTreeMap;
use std::time::Duration;

use super::rule::quorum_of;
use super::vote::Electorate;
use crate::fabric::Fabric;
use crate::id::{Epoch, Generation, NodeId, SiteId};

/// The voters of one generation: the sites, each with the node that votes for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voters {
    pub generation: Generation,
    pub nodes: BTreeMap<SiteId, NodeId>,
}

/// A fabric file whose voters cannot follow those that this node runs. For the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadVoters {
    #[error(
        "the fabric file has voters_gen = {file}, and this node has run generation {running} of \
         the voters, which only goes up: bring it the fabric file that the others have"
    )]
    Lower { running: Generation, file: Generation },
    #[error(
        "the fabric file has other voters ({change}) in the generation {generation} that this node \
         runs: write voters_gen = {next} into [fabric] when the set of voters changes"
    )]
    Changed { generation: Generation, next: Generation, change: String },
    #[error(
        "from generation {running} of the voters to {file} more than one changes ({change}): add \
         or remove one voter in each generation; another node of the same site is one removed, \
         and one added in the generation after"
    )]
    TwoAtOnce { running: Generation, file: Generation, change: String },
}

/// Why a voter does not begin the next generation yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRise {
    #[error("a majority of its voters has not run generation {0} for the wait yet")]
    Unsettled(Generation),
    #[error(
        "generations were left out after {0}, and no majority of the file's voters is known to \
         run theirs"
    )]
    Skipped(Generation),
}

/// A voter's newest vote for a service, or the same in any other form. `C` names a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newest<C> {
    pub claim: C,
    pub epoch: Epoch,
}

/// Whether a majority of a generation's voters has run it, or a later one, for W. One element for
/// each of them: since when, on the own clock, it is known to.
pub fn has_settled(wait: Duration, voters: &[Option<Duration>], now: Duration) -> bool {
    let ran = |since: &&Option<Duration>| since.is_some_and(|since| now >= since + wait);
    voters.iter().filter(ran).count() >= quorum_of(voters.len())
}

/// Whether a voter may go from the generation that it runs to `next`, a later one. `settled` is
/// [`has_settled`] of the one that it runs, which once true stays so. `ahead`: a majority of the
/// next generation's voters answer from it, or from a later one. One alone may be new, or have lost
/// its journal, and have looked at nothing.
pub fn may_rise(
    running: Generation,
    next: Generation,
    settled: bool,
    ahead: bool,
) -> Result<(), NoRise> {
    match (next.0.saturating_sub(running.0), settled) {
        _ if ahead => Ok(()),
        (0 | 1, true) => Ok(()),
        (0 | 1, false) => Err(NoRise::Unsettled(running)),
        (_, _) => Err(NoRise::Skipped(running)),
    }
}

/// Whether a voter's newest vote for a service contradicts no vote of another one: it is newer, or
/// for the same claim. Without a vote of its own it has to raise its floor instead.
pub fn agrees<C: PartialEq>(own: Option<&Newest<C>>, other: &Newest<C>) -> bool {
    own.is_none_or(|own| {
        own.epoch > other.epoch || (own.epoch == other.epoch && own.claim == other.claim)
    })
}

// === impl Voters ===

impl Voters {
    pub fn of(fabric: &Fabric) -> Self {
        let nodes = fabric.voters().map(|n| (n.site.clone(), n.id.clone())).collect();
        Self { generation: fabric.voters_gen, nodes }
    }

    pub fn electorate(&self) -> Electorate {
        Electorate { generation: self.generation, voters: self.nodes.keys().cloned().collect() }
    }

    pub fn quorum(&self) -> usize {
        quorum_of(self.nodes.len())
    }

    /// Whether this node votes.
    pub fn has(&self, site: &SiteId, node: &NodeId) -> bool {
        self.nodes.get(site) == Some(node)
    }

    /// Whether a fabric file with the voters `next` may follow one with these.
    ///
    /// # Errors
    /// It has a lower generation, other voters in the same one, or more than one change in the
    /// next. Where generations were left out nothing can be compared; [`may_rise`] sees to those.
    pub fn check(&self, next: &Self) -> Result<(), BadVoters> {
        let (running, file) = (self.generation, next.generation);
        let changes = self.changes(next);
        let change = || changes.join(", ");
        match file.0.checked_sub(running.0) {
            None => Err(BadVoters::Lower { running, file }),
            Some(0) if !changes.is_empty() => Err(BadVoters::Changed {
                generation: running,
                next: Generation(running.0 + 1),
                change: change(),
            }),
            Some(1) if changes.len() > 1 => {
                Err(BadVoters::TwoAtOnce { running, file, change: change() })
            }
            Some(_) => Ok(()),
        }
    }

    /// What is added (`+`) and removed (`-`), by node.
    fn changes(&self, next: &Self) -> Vec<String> {
        let gone = self.nodes.iter().filter(|(site, node)| !next.has(site, node));
        let new = next.nodes.iter().filter(|(site, node)| !self.has(site, node));
        let gone = gone.map(|(_, node)| format!("-{node}"));
        gone.chain(new.map(|(_, node)| format!("+{node}"))).collect()
    }
}
