//! What a server answers.

use serde::{Deserialize, Serialize};

use super::{
    AuditPartDoc, BackupDoc, ConflictDoc, DrainedDoc, LinkDoc, NodeDoc, PathDoc, PlanDoc,
    RestoredDoc, RevokedDoc, SeparationDoc, ServiceDoc, ServiceLine, SimulationDoc, SiteDoc, Stamp,
    StatusDoc, TaskDoc, TaskLine, VERSION,
};

/// One answer as it travels: who says it, how old what it says is, and what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApiResponse {
    pub v: u32,
    /// The answering agent's site.
    pub site: String,
    /// The answering agent's node.
    pub node: String,
    /// When the view behind the answer was taken, by the agent's clock.
    pub as_of: Stamp,
    /// How old the oldest part of that view is, in milliseconds.
    pub age_ms: u64,
    /// Since when the site has no contact with any other; absent while it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolated_since: Option<Stamp>,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// `"ok": payload` or `"error": {code, message, hint}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Ok(Box<Payload>),
    Error(ApiError),
}

/// The answer to one kind of question. The tag is `kind`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Payload {
    Identity(IdentityDoc),
    Status(StatusDoc),
    Services { services: Vec<ServiceLine> },
    Service(ServiceDoc),
    Sites { sites: Vec<SiteDoc> },
    Site(SiteDoc),
    Nodes { nodes: Vec<NodeDoc> },
    Links { links: Vec<LinkDoc> },
    Tasks { tasks: Vec<TaskLine> },
    Task(TaskDoc),
    Conflicts { conflicts: Vec<ConflictDoc> },
    Plan(PlanDoc),
    Explain(ExplainDoc),
    Path(PathDoc),
    Simulation(SimulationDoc),
    Separation(SeparationDoc),
    Drained(DrainedDoc),
    Facts { facts: Vec<FactDoc> },
    Audit(AuditDoc),
    AuditVerdict(AuditVerdictDoc),
    Command(CommandReply),
    Rejoin(RejoinDoc),
    Backup(BackupDoc),
    AuditPart(AuditPartDoc),
    Restored(RestoredDoc),
}

/// What an outside reporter says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactDoc {
    /// Absent where it is about no service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    pub name: String,
    /// A number with up to three decimals.
    pub value: String,
    pub unit: String,
    pub person: String,
    pub measured_at: Stamp,
    /// The first moment in which it is not good any more.
    pub expires_at: Stamp,
}

/// What became of an operator's word that a voter will not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejoinDoc {
    pub without: String,
    /// Those that still have to be read.
    pub pending: Vec<String>,
}

/// Why there is no payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    pub code: ErrorCode,
    /// What, and where.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Who must act on an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// Not JSON, an unknown `op` or field, or a value that does not parse.
    BadRequest,
    /// Another version of the API.
    Version,
    /// A request above the size limit, or an answer too large for the transport.
    TooLarge,
    /// No such service, site, node, link or task.
    NotFound,
    /// Too many connections, or a queue is full; try again.
    Busy,
    /// The agent has started and is not yet ready to answer this.
    NotReady,
    /// The agent could not answer in time.
    Timeout,
    /// Not in this release.
    Unsupported,
    /// A fault of the agent.
    Internal,
}

/// Who answers, and whose key was shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityDoc {
    pub site: String,
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// The operator with the key that was asked about; absent when the fabric has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// The operator's roles.
    #[serde(default)]
    pub roles: Vec<String>,
    /// The key that was asked about counts no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<RevokedDoc>,
}

/// The answer to a signed command, over every transport.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandReply {
    pub accepted: bool,
    /// The task the command opened or was about.
    #[serde(default)]
    pub task: Option<String>,
    /// The task's state now, one of [`super::TaskStateDoc`]; absent when refused.
    #[serde(default)]
    pub state: Option<String>,
    /// The rule or check that refused.
    #[serde(default)]
    pub refused_by: Option<String>,
    #[serde(default)]
    pub message: String,
    /// The exit status `nettctl` should end with when it does not wait; 4 and 7 tell refusals
    /// apart.
    #[serde(default)]
    pub exit: u8,
    /// The hash of the plan the task is bound to.
    #[serde(default)]
    pub plan_hash: Option<String>,
}

/// Why a name has the answer it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainDoc {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The address the question was judged by, after the subnet option.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The site the client belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_site: Option<String>,
    /// The site that is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_site: Option<String>,
    pub answers: Vec<String>,
    /// Seconds.
    pub ttl_s: u64,
    /// Number of the zone snapshot.
    pub serial: u32,
    /// One sentence per decision, in the order in which they were taken.
    pub why: Vec<String>,
}

/// A part of a node's audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditDoc {
    pub entries: Vec<AuditLine>,
    /// True when older entries that match were left out because of the limit.
    pub truncated: bool,
}

/// What a look at a node's whole audit trail found. Lists are numbers of lines, from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditVerdictDoc {
    /// True when nothing was changed or taken out, as far as the file itself can tell.
    pub whole: bool,
    pub lines: u64,
    /// No record: torn by a crash, or damaged.
    pub damaged: Vec<u64>,
    /// Does not follow the line before.
    pub breaks: Vec<u64>,
    /// Has a log entry that its signer did not sign so.
    pub unbelieved: Vec<u64>,
    /// Has a log entry of a fabric generation that is not known here.
    pub unknown: Vec<u64>,
    /// The hash of the last line. Kept elsewhere, it shows when the end is taken away.
    pub last: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    pub at: Stamp,
    /// Whose log, and at which number there; absent for events of this node alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    pub node: String,
    /// `command`, `refused`, `approve`, `reject`, `effective`, `step`, `end`, or a local event.
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// One line that says what happened.
    pub text: String,
}

// === impl ApiResponse ===

impl ApiResponse {
    /// An answer that holds now, from an agent with contact to its peers.
    pub fn new(site: &str, node: &str, as_of: Stamp, outcome: Outcome) -> Self {
        Self {
            v: VERSION,
            site: site.to_owned(),
            node: node.to_owned(),
            as_of,
            age_ms: 0,
            isolated_since: None,
            outcome,
        }
    }

    /// An error from before any agent state was looked at.
    pub fn transport_error(error: ApiError) -> Self {
        Self::new("", "", Stamp::from_ms(0), Outcome::Error(error))
    }
}

// === impl ApiError ===

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<String>, hint: &str) -> Self {
        Self { code, message: message.into(), hint: (!hint.is_empty()).then(|| hint.to_owned()) }
    }
}

// === impl Outcome ===

impl From<Payload> for Outcome {
    fn from(payload: Payload) -> Self {
        Self::Ok(Box::new(payload))
    }
}

impl From<ApiError> for Outcome {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}
