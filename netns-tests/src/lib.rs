//! The lab: two sites in network namespaces, and the tools to watch what happens in them.
//!
//! Nett is judged from outside here. This crate links none of Nett's product crates: it starts the
//! built programs as processes, sends real packets with its own code, and reads the kernel with
//! `ip -j`, `nft -j` and `dig`. What it must never do is ask Nett whether Nett is right.
//!
//! Crash story: everything a lab creates outside its directory (namespaces, processes) is written
//! to the directory's state file *before* it is created, so that [`state::down`] finds it after
//! any kind of death.

pub mod bus;
pub mod clusters;
pub mod demo;
pub mod eventually;
pub mod faulty;
pub mod files;
pub mod keys;
pub mod lab;
pub mod map;
pub mod netns;
pub mod observe;
pub mod process;
pub mod routing;
pub mod services;
pub mod signed;
pub mod state;
pub mod story;
pub mod topology;
pub mod traffic;
pub mod tripwire;
mod wiring;
