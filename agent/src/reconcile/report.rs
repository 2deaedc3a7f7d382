//! What the controller, and through it the operator, is told about the kernel.
//!
//! Two kinds of trouble are kept apart: what the present wish asked for and is not there, which
//! fails the step that asked; and what stood wrong before and is not touched by the wish, which
//! must not keep every later step from ending.
//!
//! Crash story: a report is made anew from what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nett_policy::id::LinkId;
use nett_policy::lower::object::NodeState;
use nett_policy::plan::{Object, Op};

use super::value::Value;
use super::{Changes, LINES, Memory, Reconciler};
use crate::controller::event::{Applied, Event, HeldDown, News};
use crate::kernel::{Kernel, Readback};
use crate::telemetry::Duty;

impl<K: Kernel, C: Changes> Reconciler<K, C> {
    pub(super) async fn report(
        &mut self,
        memory: &mut Memory,
        generation: u64,
        operations: usize,
        desired: &Arc<NodeState>,
    ) {
        let Some(actual) = &memory.actual else {
            return self.report_unread(memory, generation, operations).await;
        };
        let left = super::plan(desired, actual, &memory.receipt).ops;
        let objects: BTreeSet<Object> = left.iter().filter_map(Op::object).collect();
        memory.ledger.keep(|object| objects.contains(object));
        let (mut failures, mut standing) = (Vec::new(), Vec::new());
        let mut refused = false;
        for op in &left {
            let Some(object) = op.object() else { continue };
            let why = memory.ledger.why(&object);
            let is_refused = memory.ledger.is_refused(&object);
            let line = format!("{op}: {}", why.unwrap_or_else(|| "not in place".to_owned()));
            let before = memory.before.as_deref();
            let old = before.is_some_and(|b| Value::of(&object, b) == Value::of(&object, desired));
            refused |= is_refused && !old;
            if old { standing.push(line) } else { failures.push(line) }
        }
        if self.dry_run {
            failures.clear();
            standing.clear();
        }
        if !actual.complete {
            // First, since only so many lines are told.
            failures.insert(0, "the kernel could not be read whole".to_owned());
        }
        let unclaimed = unclaimed(desired, actual, memory);
        let foreign: BTreeSet<String> =
            actual.foreign.iter().map(ToString::to_string).chain(unclaimed).collect();
        note_foreign(&mut memory.news, &memory.foreign, &foreign);
        self.metrics.kernel_trouble(foreign.len(), memory.ledger.contested());
        if left.is_empty() && actual.complete {
            memory.receipt.settle(desired);
            self.metrics.fulfil(Duty::Kernel);
        }
        if failures.is_empty() && !self.dry_run {
            memory.before = Some(desired.clone());
        }
        memory.left = Some(objects);
        memory.foreign.clone_from(&foreign);
        let applied = Applied {
            generation,
            operations,
            failures: bounded(failures),
            // What the kernel refused is known, whatever else was not seen.
            unread: !actual.complete && !refused,
            standing: bounded(standing),
            foreign: bounded(foreign.into_iter().collect()),
            links: link_troubles(memory),
            held: held(memory),
            news: std::mem::take(&mut memory.news),
        };
        // The controller is gone when the agent stops; the next wait sees that.
        let _ = self.pulse.during(self.events.send(Event::Applied(applied))).await;
    }

    /// That a look gave nothing, for the operator: the wish stands as it did.
    pub(super) async fn tell_unread(&mut self, memory: &Memory) {
        let generation = self.wanted.borrow().as_ref().map(|(generation, _)| *generation);
        if let Some(generation) = generation {
            self.report_unread(memory, generation, 0).await;
        }
    }

    async fn report_unread(&mut self, memory: &Memory, generation: u64, operations: usize) {
        let why = memory.unread.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        let applied = Applied {
            generation,
            operations,
            failures: vec![format!("the kernel could not be read{why}")],
            unread: true,
            // As they were when it was read last.
            foreign: bounded(memory.foreign.iter().cloned().collect()),
            links: link_troubles(memory),
            held: held(memory),
            ..Applied::default()
        };
        // The controller may wait for a disk, and takes nothing meanwhile.
        let _ = self.pulse.during(self.events.send(Event::Applied(applied))).await;
    }
}

fn link_troubles(memory: &Memory) -> Vec<String> {
    memory.seen.iter().flat_map(|seen| seen.troubles.iter().cloned()).collect()
}

fn held(memory: &Memory) -> BTreeMap<LinkId, HeldDown> {
    let told = |held| memory.returns.flaps.told(held);
    let held = memory.seen.iter().flat_map(|seen| &seen.held);
    held.map(|(link, held)| (link.clone(), told(*held))).collect()
}

/// Objects with all our marks that this agent never put there: left alone and told.
fn unclaimed(desired: &NodeState, actual: &Readback, memory: &Memory) -> Vec<String> {
    if !actual.complete {
        return Vec::new();
    }
    let surplus = nett_policy::plan::plan_kernel(desired, &actual.state).ops;
    let unknown = |op: &Op| {
        let object = op.object().filter(|o| op.deletes() && !memory.receipt.covers(o))?;
        Some(format!("{object} with our protocol, which this agent did not put there"))
    };
    surplus.iter().filter_map(unknown).collect()
}

fn note_foreign(news: &mut Vec<News>, before: &BTreeSet<String>, now: &BTreeSet<String>) {
    let lines = |kind, lines: Vec<String>| {
        let text = bounded(lines).join("; ");
        (!text.is_empty()).then_some(News { kind, text })
    };
    news.extend(lines("foreign", now.difference(before).cloned().collect()));
    news.extend(lines("foreign-gone", before.difference(now).cloned().collect()));
}

/// The first lines, and how many more there are.
pub(super) fn bounded(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(LINES);
    lines.truncate(LINES);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}
