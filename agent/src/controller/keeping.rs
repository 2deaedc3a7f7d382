//! Entries onto the disk before anything is done about them.
//!
//! Where the disk does not take them, they are remembered and tried again every second, in order
//! and before any newer one. A crash meanwhile loses them here; the logs of the sites have them,
//! and the count beside the journal tells the next start that something is missing.

use std::time::Duration;

use tokio::time::Instant;

use super::effect::Effect;
use super::event::{Event, Now};
use crate::journal::{JournalWriter, Record};
use crate::records::Records;
use crate::telemetry::Metrics;
use crate::telemetry::event::Journalled;

pub(super) struct Keeper {
    journal: JournalWriter,
    metrics: Metrics,
    /// Acted on, and not yet on the disk: as much as the logs bring meanwhile. This agent accepts
    /// no command then.
    unsaved: Vec<Record>,
    due: Duration,
}

/// How long until the disk is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How many are tried at once: the disk may have room for some.
const SOME: usize = 64;

// === impl Keeper ===

impl Keeper {
    pub(super) fn new(journal: JournalWriter, metrics: Metrics) -> Self {
        Self { journal, metrics, unsaved: Vec::new(), due: Duration::ZERO }
    }

    /// Keeps every entry that these effects are about, with one write; returns once it is synced.
    /// What goes wrong is an event.
    pub(super) async fn keep(
        &mut self,
        effects: &[Effect],
        trail: &mut Records,
        now: Now,
    ) -> Option<Event> {
        let records: Vec<Record> = effects.iter().filter_map(record).collect();
        if records.is_empty() {
            return None;
        }
        if !self.unsaved.is_empty() {
            self.unsaved.extend(records);
            return None;
        }
        let begun = Instant::now();
        let result = self.journal.append(records.clone()).await;
        let took = begun.elapsed();
        self.metrics.emit(Journalled { took, result: result.as_ref().copied() });
        let error = result.err()?;
        self.unsaved = records;
        self.due = now.mono + RETRY;
        trail.note("degraded", &error.to_string());
        Some(Event::Journal { trouble: Some(error.to_string()) })
    }

    /// Tries again what the disk did not take.
    pub(super) async fn keep_again(&mut self, trail: &mut Records, now: Now) -> Option<Event> {
        if self.unsaved.is_empty() || now.mono < self.due {
            return None;
        }
        while !self.unsaved.is_empty() {
            let some = self.unsaved.len().min(SOME);
            if self.journal.append(self.unsaved[..some].to_vec()).await.is_err() {
                self.due = now.mono + RETRY;
                return None;
            }
            self.unsaved.drain(..some);
        }
        trail.note("durable", "the journal takes records again");
        Some(Event::Journal { trouble: None })
    }
}

fn record(effect: &Effect) -> Option<Record> {
    let Effect::Journal { sealed, stream_seq } = effect else { return None };
    Some(Record { stream_seq: *stream_seq, bytes: sealed.bytes.to_vec() })
}
