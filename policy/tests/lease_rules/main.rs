//! The rules of the quorum lease one by one, on real votes and answers, and the traps that each of
//! them closes. `policy/tests/lease_model` shows that they suffice together.

mod alone;
mod bench;
mod desk;
mod fleet;
mod generations;
mod laws;
mod node;
mod stopped;
mod voter;
