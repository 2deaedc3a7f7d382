//! Nett's authoritative steering zone: immutable snapshots of answers, served over UDP and TCP.
//!
//! The crate knows names, packets and sockets. It never decides where traffic goes: the agent hands
//! it the finished answers of every service, and each hand-over is a new numbered [`Zone`] that
//! replaces the old one in a single step. Nothing is kept on disk; after a crash the agent builds
//! the zone again from its own journal, with a higher serial.
//!
//! ```text
//! ServiceAnswers ─> Zone::build / Zone::with ─> publish ─> ArcSwap<Zone>
//!                                                              │ load, never a lock
//!              UDP threads, TCP thread ─> answer(zone, bytes) ─┘─> bytes
//! ```
//!
//! Messages are read and written by this crate's own code on borrowed bytes, because a general
//! decoder allocates by counts a stranger wrote; `hickory-proto` gives the vocabulary (record
//! types, response codes) and, in tests, the second opinion on every packet.

pub mod answer;
mod changes;
pub mod client;
mod clock;
pub mod cookie;
mod deadline;
pub mod dnssec;
mod edns;
mod entry;
pub mod explain;
mod fast;
mod message;
mod name;
mod own_runtime;
mod packed;
mod ports;
mod profile;
mod records;
pub mod serial;
pub mod server;
pub mod stats;
mod steer;
mod table;
pub mod topology;
pub mod transfer;
pub mod tsig;
mod write;
pub mod zone;

#[cfg(test)]
#[path = "../tests/sample/mod.rs"]
mod sample;

pub use answer::{Ask, DropReason, Outcome, Transport, answer, answer_in_full};
pub use changes::Changes;
pub use cookie::{Cookies, Secret, Sender};
pub use deadline::Deadlines;
pub use edns::LONGEST_NSID;
pub use explain::Explanation;
pub use fast::answer_from_prepared;
pub use name::NameError;
pub use profile::Profile;
pub use serial::Serial;
pub use server::{
    Certificate, CertificateError, Encrypted, Limits, Server, ServerError, ServerHandle, Setup,
};
pub use stats::{AnswerSeconds, Limited, Stats};
pub use transfer::{Transfers, answer_any, copy_messages};
pub use tsig::{Keyring, TsigKey};
pub use zone::{StaleSerial, Zone, ZoneError, ZoneSource, publish};
