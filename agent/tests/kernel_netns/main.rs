//! The kernel adapter against a real kernel, in network namespaces of its own.
//!
//! What was done is checked with `ip -j` and `nft -j`, never with Nett's own readback alone. A run
//! without the privilege to make namespaces fails and says so.

mod bare;
mod classes;
mod counting;
mod forks;
mod gate;
mod guarding;
mod known;
mod lookup;
mod lost;
mod many;
mod marked;
mod netns;
mod nft;
mod printed;
mod reconcile;
mod resilient;
mod rival;
mod state;
mod through;
mod torn;
mod twins;
