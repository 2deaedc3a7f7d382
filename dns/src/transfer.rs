//! Copies of the zone for secondaries: AXFR (RFC 5936), IXFR (RFC 1995) and NOTIFY (RFC 1996).
//!
//! A copy is made from one snapshot, which the stream holds to its end: what is published meanwhile
//! is for the next one. Differences are computed when they are asked for, from a bounded number of
//! old snapshots that share with the present one whatever did not change.
//!
//! Everything here is refused by default. A copy never holds up a question for longer than one
//! message takes to write, and never the publishing of a snapshot.
//!
//! Nothing is stored: after a crash the history is empty, and a secondary that asks for a
//! difference gets the whole zone.

mod access;
mod differ;
mod history;
mod notify;
mod stats;
mod stream;

pub(crate) use access::{Begun, Permit, begin};
pub use access::{Transfers, answer_any, copy_messages};
pub(crate) use history::History;
pub(crate) use notify::Notifier;
pub use stats::TransferStats;
pub(crate) use stream::Stream;
