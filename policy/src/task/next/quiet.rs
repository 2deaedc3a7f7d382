//! The step that waits until what was left is measured to be quiet: old sites, or the backends of
//! drained clusters. It never fails: a move that works is not taken back because somebody still
//! comes to where it was.

use std::time::Duration;

use super::{At, Next};
use crate::id::NodeId;
use crate::log::entry::{Ask, Move, Slot, StepState};
use crate::task::drained::{self, Counting, Silence};
use crate::task::reroutes::is_of_clusters;
use crate::task::steps::{Step, is_soft};
use crate::task::view::last_effect;

impl At<'_> {
    pub(super) fn open_drained(&self, step: &Step, started: &Slot) -> Next {
        let since_start = self.seen.since_last;
        let counting = |node: &NodeId| Counting {
            node: node.clone(),
            acknowledged: (self.seen.ack)(node, started).map(|ack| ack.evidence),
            told: (self.seen.told)(node, started),
            silent: Silence::of((self.seen.heard)(node), since_start),
        };
        let nodes: Vec<Counting> = self.reading.required(step).map(counting).collect();
        let until = match &self.command.request.ask {
            Ask::Command { terms, .. } => terms.until,
            Ask::Wish { .. } => None,
        };
        let of_step = step.timeout.saturating_sub(self.seen.since_last);
        let left = until.map_or(of_step, |until| {
            of_step.min(Duration::from_millis(until.0.saturating_sub(self.seen.now.0)))
        });
        // Nobody waits for the word of nodes that say nothing at all: they are named.
        let effect = last_effect(self.present.fold, self.task);
        let soft = effect.is_some_and(|effect| {
            let own = |one: &&Move| step.states.contains_key(&one.service);
            effect.moves.iter().filter(own).any(|one| is_soft(&effect.steps, one))
        });
        // Flows that are left at a drained cluster move with the step behind this one.
        let soft = soft || is_of_clusters(step);
        let patience = if soft { drained::SOFT_SILENCE } else { drained::SILENCE };
        let open = nodes.iter().filter(|node| node.acknowledged.is_none());
        let waits = open.map(|node| match node.silent {
            Some(silence) => patience.saturating_sub(silence.time()),
            None => left,
        });
        if let Some(wait) = waits.max().map(|wait| wait.min(left)).filter(|wait| !wait.is_zero()) {
            return Next::Wait(Some(wait));
        }
        let owed: Vec<&NodeId> = self.reading.owed(step).collect();
        let evidence = drained::evidence(&nodes, &owed, self.seen.since_last);
        self.step(step.number, StepState::Done { evidence })
    }
}
