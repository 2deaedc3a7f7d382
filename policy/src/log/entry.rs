//! One entry of the log, in domain types. The JSON shape and the signatures live at the agent's
//! edge; what arrives here has been verified.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::fact::Measured;
use crate::id::{EntryId, Epoch, Generation, NodeId, ServiceId, SiteId, WallMs};

pub use super::effect::{
    Act, Asked, Change, Directive, Effect, Move, Step, StepKind, Subject, Way, Write,
};
pub use super::request::{Ask, Object, Person, Ramp, Request, Terms, Verb, WishKind};

/// A signed, immutable, self-describing record in the log of one site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub id: EntryId,
    /// The site whose log this is.
    pub site: SiteId,
    /// The agent that wrote it.
    pub node: NodeId,
    pub position: Position,
    /// The fabric it was written under, and is judged by.
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
    /// What a task does from now on: index 0 of a task that waited for approval, and later the undo
    /// of one that nobody confirmed.
    Effective(EffectiveFact),
    Step(StepFact),
    /// The task stands still, or goes on.
    Turn(TurnFact),
    End(EndFact),
    /// Another site goes on with a task: it is the home of the next term.
    Adopt(AdoptFact),
    /// The node that wrote this serves nothing of these services any more under a claim of that
    /// lease epoch or a lower one: its gate is shut and its promise on its disk.
    Withdrawn(Withdrawn),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    pub request: Request,
    pub plan_hash: String,
    /// 0 to 2. At 0 `effect` is present: the command is its own effective fact.
    pub approvals_needed: u8,
    /// Open tasks that end because of this command.
    pub supersedes: Vec<EntryId>,
    /// Since when a site that services leave has not been heard; the first bad observation.
    pub bad_since: Option<WallMs>,
    pub effect: Option<Arc<Effect>>,
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
    pub effect: Arc<Effect>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepFact {
    pub slot: Slot,
    /// 1 is the first step of the task's last effect.
    pub step: u32,
    pub state: StepState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepState {
    /// With the gates that let it start, ids of the wishes, and what was measured then.
    Started {
        gates: Vec<EntryId>,
        facts: Vec<Measured>,
    },
    Done {
        evidence: Vec<String>,
    },
    Failed {
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnFact {
    pub slot: Slot,
    pub turn: Turn,
    /// The wish it consumes.
    pub wish: EntryId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    Paused,
    Resumed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndFact {
    pub slot: Slot,
    pub outcome: Outcome,
    pub reason: String,
}

/// The request to adopt, and where the new term begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptFact {
    pub request: Request,
    /// The term that begins, and the index of its first fact: what the old home wrote from there on
    /// is void.
    pub slot: Slot,
    /// The author site's rank as it was then: of two adoptions of one term the lower stays.
    pub rank: u32,
}

/// Not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawn {
    pub services: BTreeMap<ServiceId, Epoch>,
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

// === impl Entry ===

impl Entry {
    /// The task that the entry says something about.
    pub fn about(&self) -> Option<&EntryId> {
        match &self.body {
            Body::Command(command) => Some(&command.request.id),
            Body::Effective(fact) => Some(&fact.slot.task),
            Body::Step(fact) => Some(&fact.slot.task),
            Body::Turn(fact) => Some(&fact.slot.task),
            Body::End(fact) => Some(&fact.slot.task),
            Body::Adopt(fact) => Some(&fact.slot.task),
            Body::Wish(wish) => match &wish.request.ask {
                Ask::Wish { task, .. } => Some(task),
                Ask::Command { .. } => None,
            },
            Body::Refused(_) | Body::Withdrawn(_) => None,
        }
    }
}

// === impl Outcome ===

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
