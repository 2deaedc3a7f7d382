//! The agent: everything that touches this host, the network, the operator or the clock.

pub mod api;
pub mod app;
pub mod bus;
pub mod clock;
pub mod config;
pub mod controller;
pub mod ctl;
pub mod daemon;
pub mod http;
pub mod journal;
pub mod kernel;
pub mod lease;
pub mod name_server;
pub mod probe;
pub mod reconcile;
pub mod records;
pub mod rescue;
pub mod rng;
pub mod rosters;
mod signals;
pub mod supervised;
pub mod telemetry;
pub mod watchdog;
pub mod zone;
mod zone_signer;
