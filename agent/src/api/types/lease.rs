//! Leases: what votes and answers say of a service, and who votes.

use std::collections::BTreeMap;

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
    /// What this node's file says of its generation of voters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<VotersDoc>,
    /// The generation of voters by which this node counts: that one, or the one before it.
    #[serde(default)]
    pub counts: u64,
    /// The generation that the voter here runs; absent where this node is no voter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<u64>,
    /// Why that is not the file's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rises: Option<String>,
    /// Why the file is not used for anything leased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// One generation of voters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VotersDoc {
    pub generation: u64,
    /// The voting node of each site.
    pub voters: BTreeMap<String, String>,
    /// The times as the file has them, whatever they were before.
    pub duration_ms: u64,
    pub wait_ms: u64,
}

/// One voter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterDoc {
    pub site: String,
    pub node: String,
    /// Since the last ask that was answered was sent; absent when none ever was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_ms: Option<u64>,
    /// The generation of voters that it ran when it was heard last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// For how long it has answered in nothing older.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steady_ms: Option<u64>,
    /// It lost its journal and reads the others before it votes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rejoining: bool,
    /// `added` or `removed` by the generation of the file; absent of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
}
