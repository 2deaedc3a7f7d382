//! The messages on the bus: JSON shapes, signatures and their checks.
//!
//! Domain types never carry serde; the shapes live here and are converted by hand, field by field,
//! so that a new field stops the build instead of being lost. Nothing in here does IO, reads a
//! clock or keeps state, so there is no crash story: the same bytes always give the same answer.
//!
//! Order of the checks on everything that arrives: size, JSON in its strict form, header, the key's
//! owner in the fabric, subject, signature, and only then the meaning of the body.

mod body;
mod effect;
mod entry;
mod epochs;
mod external;
mod fact;
mod json;
mod preface;
mod report;
mod request;
mod sign;
mod vote;

use std::borrow::Cow;
use std::sync::Arc;

use nett_policy::fabric::Fabric;
use nett_policy::id::IdError;
use nett_policy::log::entry::FabricRef;
use nett_policy::roster::{Roster, Rosters};

pub use entry::{Draft, Placed, Sealed, open_entry, open_stored_entry, placed, seal_entry};
pub use external::{OutsideRequest, seal_outside};
pub use fact::{fact_subject, open_fact, seal_fact};
pub use json::{MAX_BYTES, MAX_ENTRY_BYTES};
pub(crate) use preface::OrderDoc;
pub use preface::{Preface, digest, open_preface, seal_preface};
pub use report::{Ack, Head, Report, open_report, seal_report};
pub use request::{open_request, request_subject, seal_request};
pub use vote::{BeaconAnswer, SealedVote, open_answer, open_ask, seal_answer, seal_ask};

/// The envelope version this build writes, but for what an older reader must not pass over.
pub const VERSION: u32 = 1;
/// The highest `min_reader` this build understands. 2 is a failover without a majority of the
/// voters, and the entry that has it.
pub const READER: u32 = 2;

/// Knows who may sign what, in the present fabric and in those before it.
pub trait Judge {
    /// Who requests are judged by, now.
    fn now(&self) -> Cow<'_, Roster>;

    /// Who an entry is judged by that names this generation.
    fn roster(&self, fabric: &FabricRef) -> Option<Cow<'_, Roster>>;
}

impl Judge for Rosters {
    fn now(&self) -> Cow<'_, Roster> {
        Cow::Borrowed(self.now())
    }

    fn roster(&self, fabric: &FabricRef) -> Option<Cow<'_, Roster>> {
        self.of(fabric).map(Cow::Borrowed)
    }
}

/// A fabric alone knows its own generation.
impl Judge for Fabric {
    fn now(&self) -> Cow<'_, Roster> {
        Cow::Owned(Roster::of(self))
    }

    fn roster(&self, fabric: &FabricRef) -> Option<Cow<'_, Roster>> {
        Some(Judge::now(self)).filter(|roster| roster.fabric == *fabric)
    }
}

impl<T: Judge> Judge for Arc<T> {
    fn now(&self) -> Cow<'_, Roster> {
        T::now(self)
    }

    fn roster(&self, fabric: &FabricRef) -> Option<Cow<'_, Roster>> {
        T::roster(self, fabric)
    }
}

/// Why a message could not be made. All of them are for whoever called: a wrong key file, or a bug.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("the key is {actual}, the message is to be signed by {expected}: use that key's file")]
    WrongKey { expected: String, actual: String },
    #[error("cannot sign: is this the seed (S...), not the public key?")]
    Key(#[source] nkeys::error::Error),
    #[error("the message would have {size} bytes; at most {limit} fit: name fewer services")]
    TooLarge { size: usize, limit: usize },
    #[error("`{field}`: {ms} ms after 1970 is outside the calendar")]
    Time { field: &'static str, ms: u64 },
    #[error("the request given verbatim is not the one in the entry's body")]
    Verbatim,
    #[error("the request given verbatim cannot be read")]
    VerbatimForm(#[source] Box<OpenError>),
    #[error("cannot write the message as JSON")]
    Encode(#[source] serde_json::Error),
}

/// Why a message is not believed, grouped by who must act: see [`OpenError::blame`].
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the message has {size} bytes; at most {limit} are accepted")]
    TooLarge { size: usize, limit: usize },
    #[error("the message is not JSON of the expected shape")]
    Json(#[source] serde_json::Error),
    #[error("the message is not in the canonical form of RFC 8785")]
    NotCanonical,
    #[error("`{field}` is no valid id")]
    Id {
        field: &'static str,
        #[source]
        source: IdError,
    },
    #[error("`{field}` is `{value}`; expected {expected}")]
    Value { field: &'static str, value: String, expected: &'static str },
    #[error("`sig` must be a list with one signature of the right signer: by, key, value")]
    SignatureForm,

    #[error("it is signed for subject {signed} and came on {arrived}: replayed or misrouted")]
    Subject { signed: String, arrived: String },
    #[error("site {actual} is named where {expected} must be")]
    Site { expected: String, actual: String },
    #[error("no operator in the fabric has the key {key}")]
    UnknownOperator { key: String },
    #[error("the key {key} is another operator's, not {name}'s")]
    OperatorName { name: String, key: String },
    #[error("no node {node} in the fabric")]
    UnknownNode { node: String },
    #[error("the key {key} does not belong to node {node}")]
    NodeKey { node: String, key: String },
    #[error("the signature does not fit the message and the key {key}")]
    Signature { key: String },

    #[error(
        "{subject} needs a reader of version {min_reader}, this one is {READER}: upgrade this node"
    )]
    NeedsUpgrade { min_reader: u32, subject: String },

    #[error(
        "it was written under fabric generation {generation} ({hash}), which this node does not \
         have: bring the node to it"
    )]
    UnknownFabric { generation: u64, hash: String },
}

/// Who must act on an [`OpenError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The sender's program writes messages of the wrong form.
    Sender,
    /// Somebody speaks in another's name, or a fabric is out of date.
    Forged,
    /// This node is too old.
    Upgrade,
    /// This node lacks a fabric generation.
    Fabric,
}

// === impl OpenError ===

impl OpenError {
    pub fn blame(&self) -> Blame {
        match self {
            Self::TooLarge { .. }
            | Self::Json(_)
            | Self::NotCanonical
            | Self::Id { .. }
            | Self::Value { .. }
            | Self::SignatureForm => Blame::Sender,
            Self::Subject { .. }
            | Self::Site { .. }
            | Self::UnknownOperator { .. }
            | Self::OperatorName { .. }
            | Self::UnknownNode { .. }
            | Self::NodeKey { .. }
            | Self::Signature { .. } => Blame::Forged,
            Self::NeedsUpgrade { .. } => Blame::Upgrade,
            Self::UnknownFabric { .. } => Blame::Fabric,
        }
    }

    /// One word for counters and for `refused_by`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too-large",
            Self::Json(_) | Self::NotCanonical | Self::Id { .. } | Self::Value { .. } => "form",
            Self::Subject { .. } => "subject",
            Self::Site { .. } => "site",
            Self::UnknownOperator { .. } | Self::OperatorName { .. } => "unknown-operator",
            Self::UnknownNode { .. } | Self::NodeKey { .. } => "unknown-node",
            Self::SignatureForm | Self::Signature { .. } => "signature",
            Self::NeedsUpgrade { .. } => "needs-upgrade",
            Self::UnknownFabric { .. } => "unknown-fabric",
        }
    }

    /// The error with everything beneath it, in one line.
    pub fn message(&self) -> String {
        match self {
            Self::Json(source) => format!("{self}: {source}"),
            Self::Id { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}

/// Parses the id in `field`.
fn id<T: std::str::FromStr<Err = IdError>>(
    field: &'static str,
    text: &str,
) -> Result<T, OpenError> {
    text.parse().map_err(|source| OpenError::Id { field, source })
}

/// Refuses what only a newer reader understands. Called once the signature is known to be good.
fn check_versions(v: u32, min_reader: u32, subject: &str) -> Result<(), OpenError> {
    if min_reader > READER {
        let subject = subject.to_owned();
        return Err(OpenError::NeedsUpgrade { min_reader, subject });
    }
    if v < min_reader || min_reader == 0 {
        return Err(OpenError::Value {
            field: "min_reader",
            value: min_reader.to_string(),
            expected: "1 up to the value of `v`",
        });
    }
    Ok(())
}
