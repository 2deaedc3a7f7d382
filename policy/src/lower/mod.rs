//! From a placement to what one node should have: kernel objects, guards and DNS answers.

pub mod answers;
pub mod object;
