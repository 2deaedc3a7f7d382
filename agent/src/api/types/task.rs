//! A task: who asked for what, how far it is, and what continues or reverts it.

use nett_policy::log::entry::Outcome;
use serde::{Deserialize, Serialize};

use super::Stamp;

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskLine {
    pub id: String,
    pub verb: String,
    /// What it is about, in words: `shop/prod/api -> svg`.
    pub subject: String,
    pub person: String,
    pub state: TaskStateDoc,
    /// `2/5`; empty before it takes effect.
    pub progress: String,
    pub opened_at: Stamp,
}

/// Everything about one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskDoc {
    pub id: String,
    /// Goes up with every change of what is shown here; where a long poll goes on from.
    pub revision: u64,
    pub verb: String,
    pub subject: String,
    pub person: String,
    pub reason: String,
    /// The site whose log drives it.
    pub home: String,
    /// How often another site has adopted it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub term: u32,
    pub state: TaskStateDoc,
    pub plan_hash: String,
    /// The first of them, in order.
    pub services: Vec<String>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_services: u64,
    pub approvals_needed: u8,
    pub approvals: Vec<ApprovalDoc>,
    /// What else people want of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wishes: Vec<WishDoc>,
    pub opened_at: Stamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_at: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Stamp>,
    /// When it came to what; what nobody recorded is absent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub times: TimesDoc,
    /// What it has cost the services that have a goal, and the others where there are few; empty
    /// before it took effect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<CostDoc>,
    pub steps: Vec<StepDoc>,
    /// Sites that were said to be off with their voters, where it was made without a majority.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
    /// How many services still have no majority of voters since.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unprotected: u64,
    /// Why it ended; empty before.
    pub outcome_reason: String,
    /// What it waits for beside time and acknowledgements: closed gates, held services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stands_still: Vec<String>,
    /// Tasks that ended because of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supersedes: Vec<String>,
    /// Split decisions that it is a part of, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
    /// Command lines that take it further, or undo it.
    pub continue_with: Vec<String>,
    pub revert_with: Vec<String>,
}

/// What a task's recovery times are reckoned from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimesDoc {
    /// A site that services leave was heard the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bad: Option<Stamp>,
    /// The last approval it needed was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approved: Option<Stamp>,
    /// The last old site stopped delivering.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<Stamp>,
    /// Packets came back from the new site for the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<Stamp>,
    /// The old sites were measured to carry nothing any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drained: Option<Stamp>,
}

/// What a task has cost one service; what is not known is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CostDoc {
    pub service: String,
    /// Milliseconds without service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto_ms: Option<u64>,
    /// The service's `rto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto_goal_ms: Option<u64>,
    /// Milliseconds of the newest data that may be lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_ms: Option<u64>,
    /// The service's `rpo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_goal_ms: Option<u64>,
}

/// Cancel, pause, resume, gate or confirm, as given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WishDoc {
    /// `cancel`, `pause`, `resume`, `confirm`, `gate NAME`.
    pub wish: String,
    pub person: String,
    pub at: Stamp,
    pub reason: String,
    /// True once a fact of the task has taken it up.
    pub consumed: bool,
}

pub(super) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A wish to approve or reject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalDoc {
    pub person: String,
    pub at: Stamp,
    pub reason: String,
    /// False for a rejection.
    pub approve: bool,
    /// False when it does not count: four-eyes, another plan hash, too late.
    pub counts: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDoc {
    /// 1 is the first.
    pub number: u32,
    /// Of an evacuation, the wave it belongs to; 0 everywhere else.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wave: u8,
    /// `lower-ttl`, `activate`, `verify`, `shift`, `withdraw` ...
    pub kind: String,
    /// The first of them, in order.
    pub services: Vec<String>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_services: u64,
    pub state: StepStateDoc,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_at: Option<Stamp>,
    /// The nodes that must acknowledge.
    pub acknowledge: Vec<AckDoc>,
    /// The nodes that are said to be off and have a part in it; acknowledged once they have read
    /// it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owed: Vec<AckDoc>,
    /// Facts from outside without which it does not start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<String>,
    /// Who is asked outside, in a step of that kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalDoc>,
    pub evidence: Vec<String>,
    /// Why it failed; empty otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failure: String,
}

/// What somebody outside is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalDoc {
    /// The operator who acknowledges.
    pub party: String,
    /// `do` or `undo`.
    pub verb: String,
    /// `before-activate` and the like; of an undo, where in the move that it takes back.
    pub when: String,
    pub timeout_ms: u64,
    /// The id of the request and the name of its answer, once the step has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckDoc {
    pub node: String,
    /// False while it is owed.
    pub acked: bool,
    /// Milliseconds since the node's last report; absent when none was ever seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// What it measures while the step waits for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub told: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepStateDoc {
    Waiting,
    Started,
    Done,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskStateDoc {
    WaitingApproval,
    Running,
    Paused,
    Confirming,
    /// One node has taken it for itself, while NATS is away.
    Local,
    Done,
    Failed,
    Rejected,
    Expired,
    Cancelled,
    Superseded,
    Reverted,
}

// === impl TaskStateDoc ===

impl TaskStateDoc {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WaitingApproval => "waiting-approval",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Confirming => "confirming",
            Self::Local => "local",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Superseded => "superseded",
            Self::Reverted => "reverted",
        }
    }

    /// True when nothing more happens to the task.
    pub fn is_terminal(self) -> bool {
        !matches!(
            self,
            Self::WaitingApproval | Self::Running | Self::Paused | Self::Confirming | Self::Local
        )
    }
}

impl From<Outcome> for TaskStateDoc {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::Done,
            Outcome::Failed => Self::Failed,
            Outcome::Rejected => Self::Rejected,
            Outcome::Expired => Self::Expired,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Superseded => Self::Superseded,
            Outcome::Reverted => Self::Reverted,
        }
    }
}

// === impl StepStateDoc ===

impl StepStateDoc {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Started => "started",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}
