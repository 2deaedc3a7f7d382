//! The bus: how agents of all sites see each other's logs, and how commands come in.
//!
//! NATS is transport and cache; truth is on each node's own disk. So nothing in here decides
//! anything: entries are verified and handed on with their number in the site's stream, appends
//! are compare-and-set on that number, and what was lost is read again from where the reader
//! stopped. This module never drops an entry silently, never waits without a deadline, and never
//! ends the agent because a server is missing.
//!
//! Crash story: the adapter keeps nothing on disk. The caller starts it with the number of the
//! first stream entry that its journal lacks; entries delivered twice carry the same number and
//! bytes. An append whose answer was lost is repeated with the same entry: the server answers with
//! the number it gave the first time.
//!
//! ```text
//! follow (per site: log, state) ─┐
//! connection ────────────────────┤
//! commands, rpc, facts, asks ────┼─> intake ─> bounded mpsc of BusEvent ─> controller
//!                                └── Responder <─ answer
//! controller ─> Bus::append, Bus::publish_report ─> server
//! ```

pub mod compact;
pub mod intake;
pub mod keys;
pub mod nats;
pub mod provision;
pub mod render;
pub mod simulated;

pub mod subject;
pub mod wire;

use std::sync::Arc;

use futures::future::BoxFuture;
use nett_policy::id::{NodeId, SiteId};
use tokio::sync::{mpsc, oneshot};

pub use wire::{Report, Sealed};

/// The seam. One real implementation, [`nats::NatsBus`], and one simulated,
/// [`simulated::SimulatedBus`].
pub trait Bus: Send + Sync {
    /// Appends an entry to the log of the own site, if the stream's last number is still
    /// `after_stream_seq` (0: empty). Gives the entry's number. Done within 6 s.
    ///
    /// The same entry appended again gives the number it already has (for two hours).
    fn append<'a>(
        &'a self,
        sealed: &'a Sealed,
        after_stream_seq: u64,
    ) -> BoxFuture<'a, Result<u64, AppendError>>;

    /// Stores a message in the own site's log that no retry is to be told from: a checkpoint, or an
    /// entry once more. As [`Self::append`] otherwise, but the same bytes are stored again.
    fn restate(
        &self,
        subject: String,
        bytes: Arc<[u8]>,
        after_stream_seq: u64,
    ) -> BoxFuture<'_, Result<u64, AppendError>>;

    /// Replaces the own node's report. Done within 6 s.
    fn publish_report(&self, bytes: Vec<u8>) -> BoxFuture<'_, Result<(), AppendError>>;

    /// Puts a vote of the own site into its stream. Done within 6 s.
    fn publish_vote(&self, bytes: Vec<u8>) -> BoxFuture<'_, Result<(), AppendError>>;

    /// Asks somebody outside for a step of a task; nothing is stored, and nobody may be there to
    /// hear it. Done within 6 s.
    fn ask_outside(&self, party: String, bytes: Vec<u8>) -> BoxFuture<'_, Result<(), AppendError>>;

    /// Asks the voter of a site and waits for its answer, 2 s at most.
    fn ask<'a>(
        &'a self,
        site: &'a SiteId,
        voter: &'a NodeId,
        bytes: Vec<u8>,
    ) -> BoxFuture<'a, Result<Vec<u8>, AppendError>>;

    /// Has a site's log read from the first message of its stream on, where reading began further
    /// behind: [`BusEvent::Rewound`], and then all that it holds. Once for each adapter and site.
    fn rewind(&self, site: &SiteId);

    /// True when a server is there now.
    fn connected(&self) -> bool;
}

/// Why nothing was stored, or why nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Read up to the new head, fold, judge again.
    #[error("another agent of the site appended first")]
    Conflict,
    /// Nothing was sent; try again when connected.
    #[error("no connection to the site's nats-server")]
    Unreachable,
    /// The entry may or may not be stored: append it again unchanged.
    #[error("the nats-server did not answer in time; the entry may be stored")]
    Timeout,
    /// The server said no and will go on saying no until an operator acts.
    #[error("the nats-server refused: {0}")]
    Refused(String),
}

/// What the bus tells the controller.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "entries are most of the events, so the room is used, not wasted"
)]
pub enum BusEvent {
    /// The next entry of a site's log. Numbers of one site only go up.
    Entry {
        sealed: Sealed,
        stream_seq: u64,
        site: SiteId,
    },
    /// A checkpoint in a site's log: the entries that it keeps come behind it.
    Preface {
        preface: wire::Preface,
        stream_seq: u64,
    },
    /// Something in a log that is not to be believed. It keeps its number.
    BadEntry {
        site: SiteId,
        stream_seq: u64,
        subject: String,
        bytes: Arc<[u8]>,
        error: wire::OpenError,
    },
    /// A node's last report; may come again unchanged.
    Report(Report),
    /// A report that is not to be believed.
    BadReport {
        site: SiteId,
        subject: String,
        error: wire::OpenError,
    },
    /// A signed request; see [`wire::open_request`]. Not verified yet.
    Request {
        bytes: Arc<[u8]>,
        subject: String,
        reply: Responder,
    },
    /// A question to this node.
    Rpc {
        bytes: Arc<[u8]>,
        subject: String,
        reply: Responder,
        /// Dropped when it was looked at: then comes the next one.
        turn: intake::turn::Turn,
    },
    /// What a node asks the voter that this node is; see [`wire::open_ask`].
    Beacon {
        bytes: Arc<[u8]>,
        reply: Responder,
    },
    /// What an outside reporter measured; see [`wire::open_fact`]. Not verified yet.
    Fact {
        bytes: Arc<[u8]>,
        subject: String,
    },
    /// A vote out of a site's stream, verified.
    Vote(wire::SealedVote),
    /// Messages that proved nothing were refused; at most one of these a second.
    TurnedAway(intake::ledger::Record),
    Connected,
    Disconnected,
    /// Everything that people, reporters and other sites may send is heard, or why not. Told when
    /// it changes, first when it is known.
    Hearing {
        result: Result<(), String>,
    },
    /// Everything that the site's stream (or its mirror here) holds has been delivered.
    CaughtUp {
        site: SiteId,
    },
    /// A stream cannot be read: not initialised yet, or no right to. Said once; it is tried again.
    StreamMissing {
        site: SiteId,
        stream: String,
        reason: String,
    },
    /// The stream holds less than was already read, or was made anew since: it was lost or rebuilt.
    /// What it holds is delivered again from its first entry on.
    LogReplaced {
        site: SiteId,
        read: u64,
        found: u64,
    },
    /// As [`Bus::rewind`] asked: what the stream holds is delivered from its first message on.
    Rewound {
        site: SiteId,
    },
}

/// The receiving end of the bus.
pub type BusEvents = mpsc::Receiver<BusEvent>;

/// Carries one answer back. Dropped unused, the asker runs into its own deadline.
pub struct Responder(Route);

enum Route {
    Nats(nats::Reply),
    Channel(oneshot::Sender<Vec<u8>>),
}

// === impl Responder ===

impl Responder {
    fn nats(reply: nats::Reply) -> Self {
        Self(Route::Nats(reply))
    }

    /// A responder whose answer arrives in this process.
    pub fn channel() -> (Self, oneshot::Receiver<Vec<u8>>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Route::Channel(sender)), receiver)
    }

    /// How many bytes an answer may have: for a larger one a server would end the connection, on
    /// which all others are heard, too. What is to be sent must be cut, or be an error.
    pub fn room(&self) -> usize {
        match &self.0 {
            Route::Nats(reply) => reply.room(),
            Route::Channel(_) => usize::MAX,
        }
    }

    /// Sends the answer; gives up after 2 s. An answer that cannot be sent is lost, as any
    /// message between two machines can be: the asker asks again with the same id.
    pub async fn answer(self, bytes: Vec<u8>) {
        match self.0 {
            Route::Nats(reply) => reply.send(bytes).await,
            Route::Channel(sender) => drop(sender.send(bytes)),
        }
    }
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Responder")
    }
}
