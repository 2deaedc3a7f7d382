//! The intent log: entries, and the fold over any set of them.

pub mod entry;
