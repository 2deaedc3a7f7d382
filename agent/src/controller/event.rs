//! What can happen to an agent, as one closed type. Everything asynchronous ends up here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nett_policy::id::{LinkId, NodeId, SiteId, WallMs};
use nett_policy::log::entry::Slot;
use nett_policy::lower::LinksUp;
use nett_policy::lower::object::{GuardElement, Mac};
use nett_policy::saturation::Saturated;

use crate::api::types::ApiRequest;
use crate::bus::AppendError;
use crate::bus::intake::ledger::Record;
use crate::bus::wire::{Preface, Report, Sealed};
use crate::journal::Saved;
use crate::kernel::Filled;
use crate::lease::LeaseEvent;
use crate::probe::bfd::Views;

/// The two clocks, read once per event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since an arbitrary start; never goes back. All waiting uses this one.
    pub mono: Duration,
    /// What is written into entries, and what expiry is compared with.
    pub wall: WallMs,
}

/// Names whoever waits for an answer. Given by the driver, returned in an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

#[derive(Debug)]
pub enum Event {
    /// The checkpoint that this node's journal begins with, at start and before its entries.
    Checkpoint(Saved),
    /// The journal was written anew and has so many records now; `None` where it could not be.
    Compacted {
        records: Option<usize>,
    },
    /// A command that this node has taken for itself is on its disk, or the end of one; before
    /// [`Event::ReplayDone`]: was found there.
    LocalKept(Result<Box<Sealed>, String>),
    /// The journal was written anew with what a backup had.
    Restored,
    /// An entry out of this node's journal, at start.
    Replayed {
        sealed: Sealed,
        stream_seq: u64,
    },
    /// The journal is read to its end. Not `trusted`: entries may be missing, and the kernel has
    /// the state of a former run, which then stays until the logs were read from the bus.
    ReplayDone {
        trusted: bool,
    },
    /// Entries of sites' logs with their numbers in the stream, as the bus delivered them. Many at
    /// once after a cut: they are kept with one write, and what they come to is done once.
    Entries(Vec<(Sealed, u64)>),
    /// A checkpoint in a site's stream.
    Preface {
        preface: Box<Preface>,
        stream_seq: u64,
    },
    /// The own site's stream has a checkpoint, with all that belongs to it, or is not to be given
    /// one now; otherwise it is tried again.
    Condensed {
        stored: bool,
    },
    /// A checkpoint of a site's log is in the journal, or could not be put there.
    TakenIn {
        site: SiteId,
        error: Option<String>,
    },
    /// Something in a site's log that nobody who may write there has signed.
    /// With `blocks` it may well be good, and this agent lacks what it takes to read it: the log
    /// stands still here, under that name.
    BadEntry {
        site: SiteId,
        stream_seq: u64,
        error: String,
        blocks: Option<&'static str>,
    },
    /// Everything that was in a site's log when reading began has been delivered.
    CaughtUp {
        site: SiteId,
    },
    /// A site's stream is read from its first message on, as [`super::effect::Effect::Rewind`]
    /// asked.
    Rewound {
        site: SiteId,
    },
    /// A site's stream ends before what was read of it, or was made anew, and is read from its
    /// beginning.
    LogReplaced {
        site: SiteId,
        read: u64,
        found: u64,
    },
    /// The own site's stream holds its entries up to `through` again, and ends at this number.
    /// With `why` this node has no more to fill it with.
    Refilled {
        through: u64,
        stream_seq: u64,
        why: Option<String>,
    },
    Report(Report),
    BusConnected,
    BusDisconnected,
    /// People, reporters and other sites are heard over the bus, or why they are not.
    Hearing {
        result: Result<(), String>,
    },
    /// A signed request, still unopened.
    Request {
        token: Token,
        subject: String,
        bytes: Vec<u8>,
    },
    /// Messages that proved nothing were refused before they came here.
    TurnedAway(Record),
    /// A question about the present.
    Api {
        token: Token,
        request: ApiRequest,
    },
    /// The append that was in flight was stored.
    Appended {
        sealed: Sealed,
        stream_seq: u64,
    },
    AppendFailed(AppendFailure),
    /// A signed fact from an outside reporter; not verified yet.
    Fact {
        subject: String,
        bytes: Arc<[u8]>,
    },
    /// The interfaces of this node's links were looked at.
    Links {
        up: LinksUp,
    },
    /// The BFD sessions of this node's links are so now, and this happened to them.
    Paths {
        views: Views,
        news: Vec<News>,
    },
    /// What this node tells of the round-trip times over its links changed.
    RoundTrips {
        told: BTreeMap<LinkId, Duration>,
    },
    /// These links of this node are full now; no others.
    Saturation {
        links: BTreeMap<LinkId, Saturated>,
    },
    /// The zone was asked to know the last [`super::effect::Effect::Near`]; its serial.
    Ordered {
        result: Result<u32, String>,
    },
    /// Other nodes of the site were asked whether they are there.
    Neighbours {
        pulses: BTreeMap<NodeId, Pulse>,
    },
    /// The packets and bytes that the nft table has counted, by `CLASS` or `CLASS.SITE`.
    Counted {
        packets: BTreeMap<String, u64>,
        bytes: BTreeMap<String, u64>,
    },
    /// What the counting sets of the nft table hold: packets since each element is there.
    Watched {
        packets: BTreeMap<GuardElement, u64>,
    },
    /// How many buckets of resilient groups lead to which member, of the groups with backends that
    /// none is meant for.
    Buckets {
        filled: Filled,
    },
    /// The kernel was brought to a desired state, or could not be.
    Applied(Applied),
    /// The zone answers with the last [`super::effect::Effect::Zone`] under this serial, or still
    /// with what was before.
    Served {
        result: Result<u32, String>,
    },
    /// The name server listens again, or why it does not.
    NameServer {
        trouble: Option<String>,
    },
    /// The journal takes records again, or why it does not.
    Journal {
        trouble: Option<String>,
    },
    /// The probes of a `verify` step are finished.
    Probed {
        slot: Slot,
        ok: bool,
        evidence: Vec<String>,
    },
    /// Something about the lease.
    Lease(LeaseEvent),
    /// A deadline that [`super::Controller::deadline`] asked for has passed.
    Timer,
}

/// What is seen of another node of the site.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulse {
    /// It answered once, and does not any more.
    pub silent: bool,
    /// Its Ethernet address, as last seen.
    pub mac: Option<Mac>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendFailure {
    /// Somebody else wrote first; the entry is on its way here.
    Conflict,
    /// Nothing was sent.
    Unreachable(String),
    /// It was sent and no answer came: it may yet be stored.
    Unknown(String),
    /// The server or the key refused it for good.
    Refused(String),
}

impl From<&AppendError> for AppendFailure {
    fn from(error: &AppendError) -> Self {
        match error {
            AppendError::Conflict => Self::Conflict,
            AppendError::Unreachable => Self::Unreachable(error.to_string()),
            AppendError::Timeout => Self::Unknown(error.to_string()),
            AppendError::Refused(why) => Self::Refused(why.clone()),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The generation of the desired state.
    pub generation: u64,
    /// How many operations it took.
    pub operations: usize,
    /// What this generation asked for and is not there, one line each.
    pub failures: Vec<String>,
    /// The kernel was not read, or not whole: what is not seen may be there. A failure then says
    /// nothing about what was asked for.
    pub unread: bool,
    /// What is wrong with objects that an earlier generation asked for and this one leaves as they
    /// should be, one line each.
    pub standing: Vec<String>,
    /// Objects of others in our place, one line each.
    pub foreign: Vec<String>,
    /// Why links are not usable, one line each.
    pub links: Vec<String>,
    /// Those of them whose interfaces come and go.
    pub held: BTreeMap<LinkId, HeldDown>,
    /// What happened to the kernel, for the audit trail.
    pub news: Vec<News>,
}

/// A link that has come and gone too often, and is used only where there is no other way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldDown {
    /// How often its interface was lost.
    pub losses: u32,
    /// How long it has to stay up.
    pub time: Duration,
    /// What is left of that; none while it is away.
    pub left: Option<Duration>,
}

/// Something about this node that goes on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// One word: `repair`, `contested`, `foreign`, `foreign-gone`, `bfd`, `flaps`,
    /// `saturation`, `dns`.
    pub kind: &'static str,
    pub text: String,
}
