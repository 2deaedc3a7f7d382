//! Leases: what votes and answers say of a service, and who votes.

use serde::{Deserialize, Serialize};

/// One leased service as the answering node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseDoc {
    /// `serving`, `shut`, `elsewhere`, `between`, `unclaimed` or `stopped`.
    pub standing: String,
    /// In words, with what it waits for.
    pub why: String,
    /// The task whose claim a majority of voters is for; absent for a definition's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// Of the log: 0 is the definition.
    pub epoch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Voters whose newest vote is for the claim.
    pub voters: u32,
    /// How many are a majority.
    pub needed: u32,
    /// How long this node may serve if nobody answers any more; only where it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
    /// Sites that are said to be off, as long as the claim that was made without their voters has
    /// no majority.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unprotected: Vec<String>,
}

/// Those who vote, as the answering node hears them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasesDoc {
    pub duration_ms: u64,
    pub wait_ms: u64,
    pub voters: Vec<VoterDoc>,
    /// False where this node lost its disk and has not read what it confirmed.
    pub fences_known: bool,
    /// The voters that this node, as a voter, still has to read before it votes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<String>,
    /// Why the kernel's gate is not as it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
}

/// One voter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterDoc {
    pub site: String,
    pub node: String,
    /// Since the last ask that was answered was sent; absent when none ever was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_ms: Option<u64>,
}
