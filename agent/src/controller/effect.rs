//! What the controller wants done. The driver carries effects out in order.

use std::time::Duration;

use nett_policy::id::SiteId;
use nett_policy::log::entry::{Body, Slot};
use nett_policy::log::fold::Fold;
use nett_policy::lower::answers::Answers;
use nett_policy::lower::object::NodeState;
use nett_policy::nearness::RoundTrips;
use nett_policy::task::acks::ProbeTarget;

use super::event::Token;
pub use super::view::plan::Planning;
use crate::api::types::ApiResponse;
use crate::bus::wire::{Head, OutsideRequest, Report, Sealed};
use crate::journal::{Saved, Stored};
use crate::lease::LeaseEffect;

#[derive(Debug)]
pub enum Effect {
    /// Written and synced before any effect after it is carried out.
    Journal {
        sealed: Sealed,
        stream_seq: u64,
    },
    Append(Box<Append>),
    /// Bring the kernel to this state; an older one that is still waiting is dropped.
    Kernel {
        generation: u64,
        desired: Box<NodeState>,
    },
    /// Look every second where buckets of resilient groups lead, or no more.
    Buckets {
        looks: bool,
    },
    /// Answer with these from now on.
    Zone(Answers),
    /// The sites are so far from each other: clients are sent to the nearest by that.
    Near(RoundTrips),
    Probe {
        slot: Slot,
        targets: Vec<ProbeTarget>,
        timeout: Duration,
    },
    Report(Box<Report>),
    /// Ask somebody outside for a step of a task.
    AskOutside(Box<OutsideRequest>),
    /// Store the own site's entries again that its stream lost, from this number on, behind this
    /// number of the stream.
    Refill {
        from: u64,
        after_stream_seq: u64,
    },
    /// Seal this into the node's own log, and say when it is synced.
    Local(Box<LocalEntry>),
    /// Write the journal anew with what this keeps.
    Compact(Box<Compact>),
    /// Put a checkpoint into the own site's stream, and behind it what it keeps.
    Condense(Box<Condense>),
    /// Take over what a checkpoint of a stream says, in the journal.
    TakeIn(Box<TakeIn>),
    /// A branch of a log that was read does not count: begin again from the journal.
    ReadAgain,
    /// Read a site's log from the first message of its stream on, where that was not done.
    Rewind {
        site: SiteId,
    },
    Reply {
        token: Token,
        response: Box<ApiResponse>,
    },
    /// As [`Effect::Reply`], once the steps of the plan are worked out, which takes its time.
    Plan {
        token: Token,
        response: Box<ApiResponse>,
        planning: Box<Planning>,
    },
    Audit(AuditEvent),
    Lease(LeaseEffect),
}

/// Something for the log of this node alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalEntry {
    pub body: Body,
    /// The operator's request as signed, where the body carries one.
    pub verbatim: Option<Vec<u8>>,
}

/// What a journal is to be made smaller with.
#[derive(Debug)]
pub struct Compact {
    pub saved: Saved,
    /// Knows what is kept.
    pub fold: Fold,
}

/// A checkpoint to be written into a stream, of what the journal holds.
#[derive(Debug)]
pub struct Condense {
    pub site: SiteId,
    pub saved: Saved,
    /// The number of the log's last entry.
    pub through: u64,
    /// The stream's last sequence number as this agent has read it.
    pub after_stream_seq: u64,
}

/// A checkpoint of a site's log with the entries that it keeps.
#[derive(Debug)]
pub struct TakeIn {
    pub site: SiteId,
    pub saved: Saved,
    pub kept: Vec<Stored>,
}

/// An entry to be signed and stored behind `after`, and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    pub body: Body,
    /// The operator's request as signed, where the body carries one.
    pub verbatim: Option<Vec<u8>>,
    /// `None` begins a new incarnation of the log.
    pub after: Option<Head>,
    /// The stream's last sequence number as this agent has read it.
    pub after_stream_seq: u64,
}

/// What goes to the audit file beside the entries themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "entries are most of them")]
pub enum AuditEvent {
    /// An entry was read for the first time.
    Entry(Sealed),
    /// A request was refused before its author was known.
    Unauthentic { reason: &'static str, message: String, count: u64 },
    /// Something happened to this node's kernel objects; `kind` is one word.
    Kernel { kind: &'static str, text: String },
    /// A log has another incarnation, a gap or a fork.
    LogTrouble { site: String, trouble: String },
    /// What a task has cost a service that has a goal.
    Cost { service: Option<String>, text: String },
    /// A split decision was found, or is resolved.
    Conflict { service: Option<String>, text: String },
}
