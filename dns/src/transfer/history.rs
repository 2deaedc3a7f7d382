//! The snapshots before the present one, as far back as differences are given.
//!
//! Old snapshots share their unchanged parts with the present one, so what they cost is what
//! changed. The history is bounded in snapshots and in services that changed between them.

use std::sync::Arc;

use crate::serial::Serial;
use crate::zone::Zone;

/// Snapshots that are kept.
const MOST_SNAPSHOTS: usize = 64;
/// Changed services of all kept snapshots together; the newest snapshot is kept in any case.
const MOST_CHANGES: usize = 200_000;

/// Oldest first. Kept snapshots have no history of their own.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    past: Arc<Vec<Past>>,
}

#[derive(Debug, Clone)]
struct Past {
    zone: Arc<Zone>,
    /// Services that the snapshot after this one changed.
    changes: usize,
}

impl History {
    /// The history of `next`, which follows `current`.
    pub(crate) fn after(current: &Zone, next: &Zone) -> Self {
        let changes = next.changed_entries(current).len();
        let mut past = (*current.history().past).clone();
        past.push(Past { zone: Arc::new(current.without_history()), changes });
        let mut sum = 0;
        let fits = |p: &&Past| {
            sum += p.changes;
            sum <= MOST_CHANGES
        };
        let kept = past.iter().rev().take(MOST_SNAPSHOTS).take_while(fits).count().max(1);
        past.drain(..past.len() - kept);
        Self { past: Arc::new(past) }
    }

    /// The snapshot with this serial.
    pub(crate) fn find(&self, serial: Serial) -> Option<&Arc<Zone>> {
        self.past.iter().map(|p| &p.zone).find(|zone| zone.serial() == serial)
    }

    pub(crate) fn len(&self) -> usize {
        self.past.len()
    }
}
