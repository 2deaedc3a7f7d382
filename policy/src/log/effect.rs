//! What a command does once it counts: registers that are written, services that move, and the
//! steps in which they do.
//!
//! Everything a reader needs is written down here when the command takes effect: later changes of
//! the fabric or of a service's definition leave running and past tasks as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::request::Object;
use crate::id::{EntryId, Epoch, NodeId, ServiceId, SiteId, Weight};
use crate::service::{Handover, When};
use crate::traffic::Traffic;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The author site's rank as it was when the effect was written: readers with another fabric
    /// generation must order two effects alike.
    pub rank: u32,
    pub writes: Vec<Write>,
    pub moves: Vec<Move>,
    /// In order; numbered from 1.
    pub steps: Vec<Step>,
}

/// One register gets a new value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub epoch: Epoch,
    /// The command on this subject that this one follows.
    pub prev: Option<EntryId>,
    /// Other commands on it that this one ends: the losers of a split decision.
    pub settles: BTreeSet<EntryId>,
    pub change: Change,
    /// What undo puts back.
    pub before: Change,
}

/// A register with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Service(ServiceId, Directive),
    Drained(Object, bool),
    Held(ServiceId, bool),
    /// A public key that nobody may speak with any more.
    Revoked(String, bool),
}

/// What a register is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Service(ServiceId),
    Drained(Object),
    Held(ServiceId),
    Revoked(String),
}

/// Where an operator sent a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directive {
    /// Nothing: `primary` or `active` of the service's definition holds.
    Nominal,
    Failover(SiteId),
    Steer(BTreeMap<SiteId, Weight>),
}

/// One service's way from one traffic state to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub service: ServiceId,
    pub epoch: Epoch,
    /// The service's epoch before; its answers carry this one until they change.
    pub prev_epoch: Epoch,
    /// The command on this service that this one follows.
    pub prev: Option<EntryId>,
    pub from: Traffic,
    pub to: Traffic,
    pub handover: Handover,
    /// Sites at which a task before this one left established connections: they stay there until
    /// this one sends the service elsewhere.
    pub kept: BTreeSet<SiteId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// 1 is the first.
    pub number: u32,
    /// Steps of an evacuation that stand and fall together; 0 everywhere else.
    pub wave: u8,
    pub kind: StepKind,
    /// The services concerned, with the state each is in from this step on.
    pub states: BTreeMap<ServiceId, Traffic>,
    /// How long after the step before it this one may start: the time in which the old site still
    /// accepts what is on its way, or the dwell of a ramp. Not a measurement.
    pub delay: Duration,
    /// How long it may wait for its acknowledgements.
    pub timeout: Duration,
    /// Facts from outside without which it does not start.
    pub gates: BTreeSet<String>,
    /// Who is asked outside, and what; in steps of that kind and in no others.
    pub asked: Option<Asked>,
    /// The nodes that must acknowledge.
    pub required: BTreeSet<NodeId>,
    /// The nodes that should, and that an operator says are off.
    pub owed: BTreeSet<NodeId>,
}

/// What somebody outside is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The operator whose key acknowledges.
    pub party: String,
    pub act: Act,
    /// Where in the move that was to be made first; of an undo, where in the one it takes back.
    pub when: When,
    /// Whether it is asked to take this back when the move is taken back.
    pub undo: bool,
    /// The services, with the way of each in the move that was to be made first.
    pub services: BTreeMap<ServiceId, Way>,
    /// The request that is taken back, as [`crate::task::external::request_id`] names it.
    pub takes_back: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    Do,
    /// Take back what was asked before.
    Undo,
}

/// The sites that serve before a move and after it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    pub from: BTreeSet<SiteId>,
    pub to: BTreeSet<SiteId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepKind {
    /// Answers may be kept only for a short time. The step after it waits until those that were
    /// given before have run out.
    LowerTtl,
    /// The new sites accept what arrives for the service.
    Activate,
    /// Real packets go through the new path before traffic does.
    Verify,
    /// Traffic and answers go to the new sites, or a share of them does.
    Shift,
    /// The old sites stop accepting (make-before-break), or everybody does (break-before-make).
    Withdraw,
    /// The old sites count what still comes for the services, until it is gone.
    Drained,
    /// Nodes choose other neighbours or links; no service moves.
    Reroute,
    /// Somebody outside is asked, and acknowledges.
    External,
}

// === impl Effect ===

impl Effect {
    /// True when it is about a node, a link or a cluster, and so about whatever these carry.
    pub fn touches_ways(&self) -> bool {
        let way =
            |write: &Write| matches!(&write.change, Change::Drained(object, _) if object.is_way());
        self.writes.iter().any(way)
    }
}

// === impl Move ===

impl Move {
    /// The sites that serve the service before the move and not after it.
    pub fn left(&self) -> BTreeSet<SiteId> {
        let serve = |traffic: &Traffic| -> BTreeSet<SiteId> {
            traffic.spread.sites().union(&traffic.accept).cloned().collect()
        };
        serve(&self.from).difference(&serve(&self.to)).cloned().collect()
    }
}

// === impl Change ===

impl Change {
    /// The register, without the value.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Service(service, _) => Subject::Service(service.clone()),
            Self::Drained(object, _) => Subject::Drained(object.clone()),
            Self::Held(service, _) => Subject::Held(service.clone()),
            Self::Revoked(key, _) => Subject::Revoked(key.clone()),
        }
    }
}

// === impl Act ===

impl Act {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Do => "do",
            Self::Undo => "undo",
        }
    }

    pub fn flipped(self) -> Self {
        match self {
            Self::Do => Self::Undo,
            Self::Undo => Self::Do,
        }
    }
}

// === impl StepKind ===

impl StepKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LowerTtl => "lower-ttl",
            Self::Activate => "activate",
            Self::Verify => "verify",
            Self::Shift => "shift",
            Self::Withdraw => "withdraw",
            Self::Drained => "drained",
            Self::Reroute => "reroute",
            Self::External => "external",
        }
    }
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Directive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nominal => f.write_str("as defined"),
            Self::Failover(site) => write!(f, "to {site}"),
            Self::Steer(weights) => {
                let parts: Vec<String> = weights.iter().map(|(s, w)| format!("{s}={w}")).collect();
                f.write_str(&parts.join(","))
            }
        }
    }
}
