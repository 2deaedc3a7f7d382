//! The intent log: entries, and the fold over any set of them.

pub mod chain;
pub mod checkpoint;
pub mod conflict;
pub mod effect;
pub mod entry;
pub mod fold;
pub mod intent;
pub mod lineage;
pub mod request;
