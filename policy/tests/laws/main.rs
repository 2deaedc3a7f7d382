//! The laws of the core, over random histories and states of the fabrics with two and three sites.
//!
//! Histories are made by the functions the agents call (`judge`, `judge_wish`, `next`), so only
//! what could be in a log is in them. What the laws are held against is written here a second time
//! and simply: a node that carries out operations ([`machine`]), a packet that follows rules and
//! routes ([`walk`]).

mod checkpoint_laws;
mod conflict_laws;
mod desk;
mod fold_laws;
mod ground;
mod loop_freedom;
mod machine;
mod mixtures;
mod one_place_laws;
mod plan_laws;
mod task_laws;
mod through_laws;
mod walk;
