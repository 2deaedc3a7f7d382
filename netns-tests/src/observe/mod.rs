//! Looking at the lab with tools that are not Nett's: `ip -j`, `nft -j`, `dig`.

pub mod calls;
pub mod changes;
pub mod counters;
pub mod dig;
pub mod drops;
pub mod eyes;
pub mod http;
pub mod kernel;
pub mod monitor;
pub mod recorder;
pub mod resolver;
pub mod sampler;
