//! When a voter goes from one generation of voters to the next.
//!
//! Nodes count pairs: a generation, and a majority of its voters that answer in it. Majorities of
//! two neighbouring generations have a voter in common, so all that is proved for one set of voters
//! holds for both. Majorities of generations further apart need not have one. So nobody answers in
//! generation f before a majority of the voters of f-1 has answered in nothing older for W, after
//! which no answer of f-2 is of use to anybody (i); nor before it has caught up with a majority of
//! them, so that what served in f-2 is not forgotten in f (ii). The third rule is for use and not
//! for safety: the voter that f adds must work before the others go there (iii).
//!
//! [`may_rise`] is a function on plain numbers that the model check calls too. A crash leaves
//! nothing here.

use std::time::Duration;

use super::rule::{Rules, quorum_of};
use crate::id::{Epoch, Generation, ServiceId, SiteId};

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
    /// It runs the generation to rise to, not rejoining, by an answer within T.
    pub is_there: bool,
}

/// Why a voter has not caught up with another one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Behind {
    #[error("it has said nothing within T")]
    Silent,
    #[error("not all its votes are read")]
    Unread,
    #[error("of {0} it has a newer vote, or one for another claim of the same epoch")]
    Service(ServiceId),
}
