//! A signed zone (RFC 4033 to 4035), in which no question is ever waited for by a signature.
//!
//! What a service may answer is known before it does: the addresses of each of its sites. All of
//! these are signed when the service is defined, so a move swaps one signed answer for another and
//! signs nothing. What a move changes in words, the TXT records, is signed behind it and comes
//! with the snapshot after it. Names that do not exist are denied by a chain of NSEC records over
//! the names that do, prepared as everything else.
//!
//! ```text
//! Zone::with ── swaps what is signed, notes what is not ──> published
//! Zone::caught_up ── signs what was noted or grows old ───> published, under the next serial
//! ```
//!
//! Signed answers come from a view of their own, in which everything fits together: a question with
//! the DO bit is answered from it alone. It may be one snapshot behind, never half ahead.
//!
//! Signatures are nowhere but in memory. After a crash the zone is signed again while it is served:
//! who does not ask for signatures gets every answer at once, who does gets those that are signed,
//! and SERVFAIL for the others and for all that would have to be denied.

mod chain;
mod key;
mod names;
mod service;
mod set;
mod stats;
mod tell;
#[cfg(test)]
mod tests;
mod view;

pub use key::{Keys, ZoneKey, ZoneKeyMistake};
pub(crate) use set::SignedSet;
pub use stats::SigningStats;
pub(crate) use tell::{CHILD_LEN, Wanted, is_in_child, signed_addresses, tell};
pub(crate) use view::Signed;
