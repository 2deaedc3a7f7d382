//! Tasks: a command's way from acceptance through its steps to an end.
//!
//! A task is read from the log, never stored. [`decide`] judges a request, [`steps`] takes the
//! moves of an effect apart, [`view`] reads how far a task has come, [`acks`] says who must
//! acknowledge a step and [`next`] which fact comes next.

pub mod acks;
pub mod decide;
pub mod next;
pub mod steps;
pub mod view;
