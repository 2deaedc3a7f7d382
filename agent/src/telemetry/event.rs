//! Operational events: each is a struct that writes its log line and moves its counter, so that the
//! two cannot tell different stories. Call sites name the event, not the metric.

use std::fmt;
use std::time::Duration;

use nett_policy::id::{LinkId, NodeId, SiteId};
use nett_policy::log::entry::Body;
use nett_policy::plan::{Op, Plan};
use nett_policy::trust::flaps::Held;

use super::metrics::Metrics;
use crate::bus::wire::OpenError;
use crate::controller::event::AppendFailure;
use crate::journal::JournalError;
use crate::zone::ZoneFault;

/// Something that is logged and counted; see [`Metrics::emit`].
pub trait Emit {
    fn emit(self, metrics: &Metrics);
}

// === The kernel ===

/// What became of an operation.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    Done,
    DryRun,
    Refused(&'a str),
}

#[derive(Debug)]
pub struct KernelOp<'a> {
    pub op: &'a Op,
    pub outcome: Outcome<'a>,
}

impl Emit for KernelOp<'_> {
    fn emit(self, metrics: &Metrics) {
        let Self { op, outcome } = self;
        let brief = Brief(op);
        let result = match outcome {
            Outcome::Done => {
                tracing::info!(op = %brief, "Changed the kernel.");
                "ok"
            }
            Outcome::DryRun => {
                tracing::info!(op = %brief, "Would change the kernel.");
                "dry-run"
            }
            Outcome::Refused(error) => {
                tracing::warn!(op = %brief, %error, "The kernel refused.");
                "refused"
            }
        };
        let (object, verb) = words(op);
        metrics.kernel_ops.with_label_values(&[object, verb.as_str(), result]).inc();
    }
}

/// The first lines of an operation: one that changes the classes of all VIPs has as many.
struct Brief<'a>(&'a Op);

impl Brief<'_> {
    const LINES: usize = 20;
}

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let mut lines = text.lines();
        for (n, line) in lines.by_ref().take(Self::LINES).enumerate() {
            write!(f, "{}{line}", if n == 0 { "" } else { "\n" })?;
        }
        match lines.count() {
            0 => Ok(()),
            more => write!(f, "\n... and {more} more"),
        }
    }
}

/// Many operations of one kind in one go, of which single lines would say nothing.
#[derive(Debug)]
pub struct KernelRun<'a> {
    /// One of them.
    pub op: &'a Op,
    /// How many succeeded; those that were refused are told one by one.
    pub done: usize,
}

impl Emit for KernelRun<'_> {
    fn emit(self, metrics: &Metrics) {
        let Self { op, done } = self;
        tracing::info!(%op, done, "Changed many objects of the kernel, for instance this one.");
        let (object, verb) = words(op);
        let done = u64::try_from(done).unwrap_or(u64::MAX);
        metrics.kernel_ops.with_label_values(&[object, verb.as_str(), "ok"]).inc_by(done);
    }
}

/// A round of operations, with the readback after it.
#[derive(Debug)]
pub struct KernelRound {
    pub took: Duration,
}

impl Emit for KernelRound {
    fn emit(self, metrics: &Metrics) {
        tracing::debug!(took = ?self.took, "Carried a plan out.");
        metrics.kernel_apply.observe(self.took.as_secs_f64());
    }
}

/// A desired state that was in place is so no longer, and nothing else was wanted meanwhile.
#[derive(Debug)]
pub struct KernelDrift<'a> {
    /// What puts it right.
    pub plan: &'a Plan,
}

impl Emit for KernelDrift<'_> {
    fn emit(self, metrics: &Metrics) {
        let operations = self.plan.ops.len();
        tracing::warn!(operations, "Something else changed what was in place.");
        for op in &self.plan.ops {
            let (object, verb) = words(op);
            let cause = match verb {
                Verb::Add => "missing",
                Verb::Replace => "changed",
                Verb::Delete => "surplus",
            };
            metrics.kernel_drift.with_label_values(&[object, cause]).inc();
        }
    }
}

/// Another node of the site fell silent, or answers again.
#[derive(Debug)]
pub struct NeighbourChanged<'a> {
    pub node: &'a NodeId,
    pub silent: bool,
}

impl Emit for NeighbourChanged<'_> {
    fn emit(self, metrics: &Metrics) {
        let Self { node, silent } = self;
        if silent {
            tracing::error!(%node, "A node of the site has stopped answering.");
        } else {
            tracing::warn!(%node, "A node of the site answers again.");
        }
        metrics.neighbour_up.with_label_values(&[node.as_str()]).set(i64::from(!silent));
    }
}

/// The zone has learned how far sites are from each other.
#[derive(Debug)]
pub struct SitesOrdered<'a> {
    /// The serial then.
    pub result: Result<u32, &'a ZoneFault>,
}

impl Emit for SitesOrdered<'_> {
    fn emit(self, _metrics: &Metrics) {
        let Self { result } = self;
        match result {
            Ok(serial) => tracing::debug!(serial, "The zone knows new round-trip times."),
            Err(error) => tracing::error!(%error, "The order of sites is not served."),
        }
    }
}

/// A BFD session went from one state to another.
#[derive(Debug)]
pub struct SessionChanged<'a> {
    /// How many before it were counted only; `None`: it is one of those.
    pub unsaid: Option<u64>,
    pub link: &'a LinkId,
    pub family: &'static str,
    pub from: &'static str,
    pub to: &'static str,
    pub reason: &'static str,
    /// The far end's own reason.
    pub remote: &'static str,
}

impl Emit for SessionChanged<'_> {
    fn emit(self, metrics: &Metrics) {
        let Self { unsaid, link, family, from, to, reason, remote } = self;
        if let Some(unsaid) = unsaid {
            tracing::info!(
                %link, family, from, to, reason, remote, unsaid, "A BFD session changed."
            );
        }
        metrics.bfd_transitions.with_label_values(&[link.as_str(), to]).inc();
    }
}

/// What a BFD session says of a family of a link.
#[derive(Debug)]
pub struct LinkDoubted<'a> {
    pub link: &'a LinkId,
    pub family: &'static str,
    pub doubted: bool,
}

impl Emit for LinkDoubted<'_> {
    fn emit(self, _metrics: &Metrics) {
        let Self { link, family, doubted } = self;
        if doubted {
            tracing::error!(%link, family, "Packets over a link seem to be lost.");
        } else {
            tracing::warn!(%link, family, "Packets over a link arrive again.");
        }
    }
}

/// The interface of a link was lost: no carrier, deleted, or another under the same name.
#[derive(Debug)]
pub struct LinkLost<'a> {
    pub link: &'a LinkId,
}

impl Emit for LinkLost<'_> {
    fn emit(self, metrics: &Metrics) {
        let Self { link } = self;
        tracing::warn!(%link, "The interface of a link is lost.");
        metrics.link_losses.with_label_values(&[link.as_str()]).inc();
    }
}

/// A link that comes and goes is held down, or no more.
#[derive(Debug)]
pub struct LinkHeld<'a> {
    pub link: &'a LinkId,
    pub held: Option<Held>,
}

impl Emit for LinkHeld<'_> {
    fn emit(self, _metrics: &Metrics) {
        let Self { link, held } = self;
        match held {
            Some(Held { losses, time, until: _ }) => tracing::error!(
                %link, losses, ?time, "A link comes and goes, and is held down for a while."
            ),
            None => tracing::warn!(%link, "A link that came and went is used again."),
        }
    }
}

/// The guard stopped packets on a way that none may take.
#[derive(Debug)]
pub struct SeparationBroken<'a> {
    /// `hairpin`, `leak` or `stray`.
    pub class: &'a str,
    /// Since the last look.
    pub packets: u64,
}

impl Emit for SeparationBroken<'_> {
    fn emit(self, metrics: &Metrics) {
        let Self { class, packets } = self;
        tracing::error!(class, packets, "Packets were stopped on a way that none may take.");
        metrics.separation_alarms.with_label_values(&[class]).inc();
    }
}

/// Why the kernel is read as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resync {
    Start,
    /// Somebody else, or the kernel itself, changed one of our objects.
    Changed,
    /// An interface or address changed.
    Interfaces,
    /// Notifications were lost.
    Overrun,
    /// An operation failed and is tried again.
    Retry,
    /// The last read failed.
    Unreadable,
    /// Nothing happened for a while.
    Backstop,
}

impl Emit for Resync {
    fn emit(self, metrics: &Metrics) {
        let reason = match self {
            Self::Start => "start",
            Self::Changed => "changed",
            Self::Interfaces => "interfaces",
            Self::Overrun => "overrun",
            Self::Retry => "retry",
            Self::Unreadable => "unreadable",
            Self::Backstop => "backstop",
        };
        tracing::debug!(reason, "Reading the kernel.");
        metrics.kernel_resync.with_label_values(&[reason]).inc();
        if self == Self::Overrun {
            metrics.netlink_overruns.inc();
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Verb {
    Add,
    Replace,
    Delete,
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Replace => "replace",
            Self::Delete => "delete",
        }
    }
}

fn words(op: &Op) -> (&'static str, Verb) {
    match op {
        Op::AddNexthop(..) => ("nexthop", Verb::Add),
        Op::ReplaceNexthop { .. } => ("nexthop", Verb::Replace),
        Op::DeleteNexthop(..) => ("nexthop", Verb::Delete),
        Op::AddRoute(..) => ("route", Verb::Add),
        Op::ReplaceRoute { .. } => ("route", Verb::Replace),
        Op::DeleteRoute(..) => ("route", Verb::Delete),
        Op::AddRule(_) => ("rule", Verb::Add),
        Op::DeleteRule(_) => ("rule", Verb::Delete),
        Op::LoadGuard { from: None, to: _ } => ("guard", Verb::Add),
        Op::LoadGuard { from: Some(_), to: _ } => ("guard", Verb::Replace),
        Op::DeleteGuard(_) => ("guard", Verb::Delete),
        Op::Elements { .. } | Op::Classes { .. } => ("element", Verb::Replace),
        Op::Answers { .. } => ("answers", Verb::Replace),
    }
}

// === The log and the journal ===

/// An entry taken in for the first time, or at start out of the journal.
#[derive(Debug)]
pub struct EntryTaken<'a> {
    pub body: &'a Body,
    pub replayed: bool,
}

impl Emit for EntryTaken<'_> {
    fn emit(self, metrics: &Metrics) {
        let kind = crate::records::kind(self.body);
        let result = if self.replayed { "replayed" } else { "read" };
        tracing::debug!(kind, result, "Took an entry in.");
        metrics.entries.with_label_values(&[kind, result]).inc();
    }
}

/// An own entry that was, or was not, stored behind the head it was decided on.
#[derive(Debug)]
pub struct EntryAppended<'a> {
    pub kind: &'static str,
    pub result: Result<(), &'a AppendFailure>,
}

impl Emit for EntryAppended<'_> {
    fn emit(self, metrics: &Metrics) {
        let Self { kind, result } = self;
        let result = match result {
            Ok(()) => "appended",
            Err(AppendFailure::Conflict) => "conflict",
            Err(AppendFailure::Unreachable(_)) => "unreachable",
            Err(AppendFailure::Unknown(_)) => "unknown",
            Err(AppendFailure::Refused(error)) => {
                tracing::error!(kind, error, "The bus refused an entry.");
                "refused"
            }
        };
        tracing::debug!(kind, result, "Appended to the site's log.");
        metrics.entries.with_label_values(&[kind, result]).inc();
    }
}

/// An entry on the bus that is not to be believed.
#[derive(Debug)]
pub struct EntryRefused<'a> {
    pub site: &'a SiteId,
    pub stream_seq: u64,
    pub error: &'a OpenError,
}

impl Emit for EntryRefused<'_> {
    fn emit(self, metrics: &Metrics) {
        let Self { site, stream_seq, error } = self;
        let reason = error.reason();
        metrics.entries_refused.with_label_values(&[reason]).inc();
        if let Some(unsaid) = metrics.seldom.entry.due() {
            let error = error.message();
            tracing::warn!(%site, stream_seq, error, unsaid, "An entry is not believed.");
        }
    }
}

/// A node's report that is not to be believed.
#[derive(Debug)]
pub struct ReportRefused<'a> {
    pub site: &'a SiteId,
    pub subject: String,
    pub error: &'a OpenError,
}

impl Emit for ReportRefused<'_> {
    fn emit(self, metrics: &Metrics) {
        let Self { site, subject, error } = self;
        if let Some(unsaid) = metrics.seldom.report.due() {
            let error = error.message();
            tracing::warn!(%site, subject, error, unsaid, "A report is not believed.");
        }
    }
}

/// An entry in the journal that is not to be believed.
#[derive(Debug)]
pub struct StoredEntryRefused<'a> {
    pub stream_seq: u64,
    pub error: &'a OpenError,
}

impl Emit for StoredEntryRefused<'_> {
    fn emit(self, metrics: &Metrics) {
        let Self { stream_seq, error } = self;
        let reason = error.reason();
        let error = error.message();
        tracing::error!(stream_seq, error, "An entry of the journal is not believed.");
        metrics.entries_refused.with_label_values(&[reason]).inc();
    }
}

/// An entry was, or was not, brought to disk.
#[derive(Debug)]
pub struct Journalled<'a> {
    pub took: Duration,
    pub result: Result<(), &'a JournalError>,
}

impl Emit for Journalled<'_> {
    fn emit(self, metrics: &Metrics) {
        match self.result {
            Ok(()) => metrics.journal_fsync.observe(self.took.as_secs_f64()),
            Err(error) => tracing::error!(%error, "The journal is not durable."),
        }
        metrics.journal_degraded.set(i64::from(self.result.is_err()));
    }
}

// === The zone ===

/// An attempt to serve new answers.
#[derive(Debug)]
pub struct ZoneServed<'a> {
    /// The serial that is served now.
    pub result: Result<u32, &'a ZoneFault>,
}

impl Emit for ZoneServed<'_> {
    fn emit(self, _metrics: &Metrics) {
        match self.result {
            Ok(serial) => tracing::info!(serial, "Serving a new snapshot of the zone."),
            Err(error) => tracing::error!(%error, "The zone stays as it was."),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use nett_policy::lower::object::{GuardElement, GuardSet, Subject};

    use super::*;

    #[test]
    fn a_line_of_the_log_is_bounded_whatever_changed() {
        let element = |n: u8| GuardElement {
            set: GuardSet::Drained,
            subject: Subject::Vip([10, 99, 0, n].into()),
        };
        let of = |count: u8| {
            let add: BTreeSet<GuardElement> = (0..count).map(element).collect();
            Brief(&Op::Elements { add, delete: BTreeSet::new() }).to_string()
        };
        assert_eq!(of(20).lines().count(), 20);
        assert_eq!(of(200).lines().count(), 21);
        assert!(of(200).ends_with("... and 180 more"));
    }
}
