//! One entry of the log, in domain types. The JSON shape and the signatures live at the agent's
//! edge; what arrives here has been verified.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{EntryId, Epoch, Generation, NodeId, Selector, ServiceId, SiteId, WallMs, Weight};
use crate::service::Handover;
use crate::traffic::Traffic;

/// A signed, immutable, self-describing record in the log of one site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub id: EntryId,
    /// The site whose log this is.
    pub site: SiteId,
    /// The agent that wrote it.
    pub node: NodeId,
    pub position: Position,
    pub fabric: FabricRef,
    pub at: WallMs,
    pub body: Body,
}

/// Where an entry stands in its log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The incarnation of the log.
    pub boot: String,
    /// 1 is the first entry of the incarnation.
    pub seq: u64,
    /// Hash of the entry before; empty for the first.
    pub prev_hash: String,
    /// SHA-256 of this entry's canonical form.
    pub hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FabricRef {
    pub generation: Generation,
    pub hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A command as accepted; opens the task that has the request's id.
    Command(Command),
    /// A request that was authentic and was refused.
    Refused(Refused),
    /// What a person wants done with a task; a fact consumes it.
    Wish(Wish),
    /// Index 0 of a task that waited for approval.
    Effective(EffectiveFact),
    Step(StepFact),
    End(EndFact),
}

/// Who asked, as proven by the signature on the request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Person {
    pub name: String,
    /// Public nkey.
    pub key: String,
}

/// What an operator signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub id: EntryId,
    /// The only site that may accept it.
    pub site: SiteId,
    pub person: Person,
    pub reason: String,
    pub issued_at: WallMs,
    pub expires_at: WallMs,
    pub ask: Ask,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Opens a task.
    Command {
        verb: Verb,
        /// The task is refused (exit 7) when its plan has another hash.
        plan_hash: Option<String>,
        /// Safety rules to pass over, by name.
        overrides: BTreeSet<String>,
    },
    /// A wish about a task.
    Wish { task: EntryId, kind: WishKind },
}

/// What a command wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    Failover { services: Selector, to: SiteId },
    Failback { services: Selector },
    Steer { services: Selector, to: BTreeMap<SiteId, Weight> },
    Drain { object: Object },
    Undrain { object: Object },
    Revert { task: EntryId },
}

/// What can be drained.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    Site(SiteId),
    ServiceAt(ServiceId, SiteId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    pub request: Request,
    pub plan_hash: String,
    /// 0 to 2. At 0 `effect` is present: the command is its own effective fact.
    pub approvals_needed: u8,
    pub effect: Option<Effect>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub request: Request,
    /// The rule or check by name, for example `last-eligible-site` or `expired`.
    pub refused_by: String,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub request: Request,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum WishKind {
    /// Bound to the hash of the plan that was approved.
    Approve {
        plan_hash: String,
    },
    Reject,
}

/// The slot of a fact in its task. Slots are walked in order and the first terminal fact ends the
/// task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    pub task: EntryId,
    /// 0 until a task is adopted by another site.
    pub term: u32,
    pub index: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveFact {
    pub slot: Slot,
    /// The approvals consumed: ids of the wishes.
    pub approvals: Vec<EntryId>,
    pub effect: Effect,
}

/// What a command does once it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The author site's rank as it was when the effect was written: readers with another fabric
    /// generation must order two effects alike.
    pub rank: u32,
    pub writes: Vec<Write>,
    pub moves: Vec<Move>,
}

/// One register gets a new value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub epoch: Epoch,
    /// The register's winner that this write follows.
    pub prev: Option<EntryId>,
    pub change: Change,
    /// What undo puts back.
    pub before: Change,
}

/// A register with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Service(ServiceId, Directive),
    Drained(Object, bool),
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
    pub from: Traffic,
    pub to: Traffic,
    pub handover: Handover,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepFact {
    pub slot: Slot,
    /// 1 is the task's first step.
    pub step: u32,
    pub state: StepState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepState {
    Started,
    Done { evidence: Vec<String> },
    Failed { reason: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndFact {
    pub slot: Slot,
    pub outcome: Outcome,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Done,
    Failed,
    Rejected,
    Expired,
    Cancelled,
    Superseded,
    Reverted,
}

// === impl Change ===

impl Change {
    /// The register, without the value.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Service(service, _) => Subject::Service(service.clone()),
            Self::Drained(object, _) => Subject::Drained(object.clone()),
        }
    }
}

/// What a register is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Service(ServiceId),
    Drained(Object),
}

// === impl Verb ===

impl Verb {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Failover { .. } => "failover",
            Self::Failback { .. } => "failback",
            Self::Steer { .. } => "steer",
            Self::Drain { .. } => "drain",
            Self::Undrain { .. } => "undrain",
            Self::Revert { .. } => "revert",
        }
    }
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Superseded => "superseded",
            Self::Reverted => "reverted",
        }
    }
}
