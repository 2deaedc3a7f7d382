//! The pure core of Nett.
//!
//! Everything here is a function of its arguments: no async, no IO, no clock, no randomness and no
//! environment. `now` is an argument and deadlines are results, so the same input gives the same
//! bytes on every node. The agent owns the shell around it; `nettctl plan` and the agent that acts
//! call the same code.
//!
//! The way through the crate, from files and log entries to kernel operations:
//!
//! ```text
//! document ─> Fabric, Catalog ─┐
//!                              ├─> place ─> Traffic ─> lower ─> NodeState ─> plan ─> Plan
//! log: Entry ─> fold ─> Intent ┘             (and task: the steps between two traffic states)
//! ```

pub mod document;
pub mod explain;
pub mod fabric;
pub mod fact;
pub mod failover;
pub mod id;
pub mod lease;
pub mod liveness;
pub mod log;
pub mod lower;
pub mod nearness;
pub mod place;
pub mod plan;
pub mod roster;
pub mod safety;
pub mod saturation;
pub mod service;
pub mod simulate;
pub mod task;
pub mod traffic;
pub mod trust;
