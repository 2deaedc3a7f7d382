//! The node's own copy of the log: what it may act on, and what it starts from.
//!
//! Truth is here, not on the bus. An entry is in this file and synced before the agent acts on it,
//! so a node that is started with no bus wants exactly what it wanted before. One record is one
//! line, so that `cat` shows it in an outage:
//!
//! ```text
//! nett-journal 2 5f2c94d0
//! 8b6a03f1 17 {"v":1,"id":"osl.01jd..", ...}
//! ```
//!
//! The first word is the CRC-32C of the rest of the line (without the line break), the second the
//! position in the stream of the site's log. After a crash the last line may be torn: it is cut
//! off, since nothing was done about it. A damaged line before the last is passed over and
//! reported; the hash chain of the log then tells what is missing, and the bus delivers it again. A
//! damaged first line costs nothing but itself: the file is put aside as `journal.damaged`, and
//! what is whole of it is kept. How many records there were stands in `journal.count`, so that a
//! journal that was cut between two lines, or comes from a backup, is noticed. Only a journal of
//! another release is refused, with its name and untouched.
//!
//! So that it stays small it is written anew from time to time, as the next generation: a
//! checkpoint ([`Saved`]), the entries that it keeps, and those behind it. The generation before
//! stays as `journal.previous`. Where the journal cannot be read as it was written, both are taken
//! together: a checkpoint with entries that it covers, or has twice, is as good as without. A crash
//! while it is written anew leaves the old one in its place, or the new one.

pub mod audit;
mod count;
mod disk;
mod file;
mod line;
mod saved;
mod simulated;
mod simulated_disk;
#[cfg(test)]
mod tests;
pub mod trail;
mod writer;

pub use disk::{Directory, Disk};
pub use file::{FileJournal, JournalError};
pub use saved::{Saved, SavedHead, Stored, sort, survivors};
pub use simulated::SimulatedJournal;
pub use simulated_disk::SimulatedDisk;
pub use writer::JournalWriter;

/// One entry with its place in the stream of its site's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub stream_seq: u64,
    pub bytes: Vec<u8>,
}

/// What was found when the journal was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    pub records: Vec<Record>,
    /// Numbers of damaged lines that were passed over; the header is line 1.
    pub damaged: Vec<u64>,
    /// Bytes cut off at the end.
    pub torn: u64,
    /// Records that were synced once and are not there any more.
    pub missing: u64,
    /// There was no journal: either the node is new, or it was lost.
    pub fresh: bool,
    /// It could not be read as it was written, and the generation before was taken in too.
    pub previous: bool,
}

impl Loaded {
    /// True when nothing that was once recorded can be missing.
    pub fn is_whole(&self) -> bool {
        !self.fresh && self.missing == 0 && self.damaged.is_empty() && !self.previous
    }
}

/// Where records are kept.
pub trait Journal: Send {
    /// Reads everything; called once, before the first append.
    fn load(&mut self) -> Result<Loaded, JournalError>;

    /// Returns when all of them would survive a power loss; after an error none is there.
    fn append(&mut self, records: &[Record]) -> Result<(), JournalError>;

    /// Everything that is in it now, without changing anything.
    fn records(&mut self) -> Result<Vec<Record>, JournalError>;

    /// Puts these in the place of all records; returns when that would survive a power loss. After
    /// an error the old ones are there, or the new ones.
    fn rewrite(&mut self, records: &[Record]) -> Result<(), JournalError>;

    /// There may have been more than there is: until another record was taken, the journal does not
    /// count as whole.
    fn doubt(&mut self);
}
