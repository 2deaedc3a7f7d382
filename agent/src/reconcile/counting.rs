//! What the kernel counts, read by its one writer and handed to the controller: the named counters
//! all the time, what is counted for drains only while anything is, the buckets of resilient groups
//! while somebody waits for those that should lead nowhere. Nothing is decided here.
//!
//! Crash story: the kernel counts; a look that failed is made up for by the next.

use std::collections::{BTreeMap, BTreeSet};

use nett_policy::lower::object::{Guard, GuardElement};

use super::{Changes, Memory, Reconciler, chain, links};
use crate::controller::ZEROS;
use crate::controller::event::Event;
use crate::kernel::{Count, Kernel};
use crate::telemetry::event::SeparationBroken;

// === impl Memory ===

impl Memory {
    /// What the present wish counts.
    fn counted(&self) -> impl Iterator<Item = &GuardElement> {
        let guard = self.wish.as_ref().and_then(|(_, wish)| wish.guard.as_ref());
        guard.into_iter().flat_map(Guard::counted)
    }
}

// === impl Reconciler ===

impl<K: Kernel, C: Changes> Reconciler<K, C> {
    pub(super) fn watches(&self, memory: &Memory) -> bool {
        self.watches_buckets(memory) || memory.counted().next().is_some()
    }

    fn watches_buckets(&self, memory: &Memory) -> bool {
        *self.looks.borrow() && !memory.left_over.is_empty()
    }

    pub(super) async fn count(&mut self) {
        match self.kernel.counters().await {
            Ok(counters) => self.take_counts(&links::by_peer(&self.links, counters)),
            Err(error) => tracing::debug!(error = %chain(&error), "Cannot read the counters."),
        }
    }

    /// Hands on what was counted of what services leave, and how many buckets lead to backends that
    /// are left.
    pub(super) async fn watch(&mut self, memory: &Memory) {
        let elements: BTreeSet<GuardElement> = memory.counted().copied().collect();
        if !elements.is_empty() {
            match self.kernel.watched(&elements).await {
                // Looked at again soon, if the controller has too much to do.
                Ok(packets) => drop(self.events.try_send(Event::Watched { packets })),
                Err(error) => {
                    tracing::debug!(error = %chain(&error), "Cannot read the counting sets.");
                }
            }
        }
        if self.watches_buckets(memory) {
            match self.kernel.buckets(&memory.left_over).await {
                Ok(filled) => drop(self.events.try_send(Event::Buckets { filled })),
                Err(error) => tracing::debug!(error = %chain(&error), "Cannot read the buckets."),
            }
        }
    }

    /// Hands on what was counted, and alarms what must not be.
    fn take_counts(&mut self, counters: &BTreeMap<String, Count>) {
        self.metrics.traffic(counters);
        let packets = counters.iter().map(|(name, count)| (name.clone(), count.packets));
        let packets: BTreeMap<String, u64> = packets.collect();
        let bytes = counters.iter().map(|(name, count)| (name.clone(), count.bytes)).collect();
        for class in ZEROS {
            let (now, before) = (packets.get(class), self.counted.get(class));
            let grown = now.zip(before).map_or(0, |(now, before)| now.saturating_sub(*before));
            if grown > 0 {
                self.metrics.emit(SeparationBroken { class, packets: grown });
            }
        }
        self.counted.clone_from(&packets);
        // Counted again soon, if the controller has too much to do.
        let _ = self.events.try_send(Event::Counted { packets, bytes });
    }
}
