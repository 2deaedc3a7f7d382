//! What this agent has put into the kernel, or found there and taken over: without it nothing is
//! deleted.
//!
//! An object with our protocol number in our table can still be somebody else's: a second program
//! configured alike, a hand at a keyboard. Deleting therefore needs three to agree: the object's
//! marks, the desired state that lacks it, and this receipt that has it. What is found at the first
//! whole readback counts as ours, since a restart must be able to clean up.
//!
//! Crash story: kept in memory only; the next start takes over what it finds.

use std::sync::Arc;

use nett_policy::lower::object::NodeState;
use nett_policy::plan::Object;

use super::value::Value;

/// States of which every object was put there by this agent, or found at its start.
#[derive(Debug, Default)]
pub(super) struct Receipt(Vec<Arc<NodeState>>);

// === impl Receipt ===

impl Receipt {
    /// Everything of ours that is there at the start.
    pub(super) fn adopt(&mut self, found: &NodeState) {
        if *found != NodeState::default() {
            self.0.push(Arc::new(found.clone()));
        }
    }

    /// Noted before the first operation, so that an operation with unknown outcome is covered.
    pub(super) fn want(&mut self, desired: &Arc<NodeState>) {
        if self.0.last().is_none_or(|last| !Arc::ptr_eq(last, desired)) {
            self.0.push(desired.clone());
        }
    }

    /// The kernel was read back equal to `desired`: nothing older is left.
    pub(super) fn settle(&mut self, desired: &Arc<NodeState>) {
        self.0 = vec![desired.clone()];
    }

    pub(super) fn covers(&self, object: &Object) -> bool {
        self.0.iter().any(|state| Value::of(object, state).is_there())
    }
}
