//! Tasks: what a command becomes, step by step.

pub mod acks;
pub mod admit;
pub mod aim;
pub mod decide;
pub mod drained;
pub mod external;
mod gates;
mod hash;
pub mod next;
pub mod reroutes;
mod sample;
pub mod steps;
pub mod times;
pub mod view;
