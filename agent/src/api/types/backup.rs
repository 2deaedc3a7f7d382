//! A node's log and audit trail, to be kept somewhere else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The journal of the answering node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupDoc {
    pub fabric: String,
    pub generation: u64,
    pub fabric_hash: String,
    /// Its records, one a line: the number in the stream, and the entry as it was signed.
    pub log: String,
}

/// Lines of the audit trail as they stand in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPartDoc {
    pub text: String,
    /// Where the next part begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// How far a backup was taken in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredDoc {
    /// Bytes of the log that have arrived.
    pub received: u64,
    /// Entries that were not there before; absent until everything has arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<u64>,
    /// The number of the last entry of each site's log, as the node has it now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub heads: BTreeMap<String, u64>,
}
