//! Split decisions, as every agent that has read the same shows them.

use serde::{Deserialize, Serialize};

use super::Stamp;

/// Two or more people decided about one thing without knowing of each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictDoc {
    /// What it is about, and the name that `nettctl resolve` takes: a service id, `drained:SITE`,
    /// `drained:SERVICE@SITE` or `held:SERVICE`.
    pub subject: String,
    pub winner: ClaimDoc,
    pub losers: Vec<ClaimDoc>,
    /// The command line that ends it as the winner has it.
    pub resolve_with: String,
}

/// One of the commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimDoc {
    pub task: String,
    pub verb: String,
    pub person: String,
    /// The site at which it took effect.
    pub site: String,
    pub epoch: u64,
    pub reason: String,
    /// Sites that its author said are off, where it was made without a majority of the voters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
    /// What it wanted of the subject, in words.
    pub wanted: String,
    /// The log entry that accepted it, with the envelope its author signed.
    pub accepted: String,
    /// The log entry by which it took effect.
    pub effective: String,
    pub at: Stamp,
    /// Why it lost; empty for the winner.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub lost_because: String,
}
