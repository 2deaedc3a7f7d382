//! The snapshots before the present one, as far back as differences are given.
//!
//! Old snapshots share their unchanged parts with the present one, so what they cost is what
//! changed. The history is bounded in snapshots and in services that changed between them.

use std::sync::Arc;

use crate::serial::Serial;
use crate::zone::{Delta, Zone};

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
    /// What the snapshot after this one changed.
    delta: Arc<Delta>,
}

impl History {
    /// The history of `next`, which follows `current`; empty if it was made from another one.
    pub(crate) fn after(current: &Zone, next: &Zone) -> Self {
        if next.delta().base != Some(current.serial()) {
            return Self::default();
        }
        let mut past = (*current.history().past).clone();
        let delta = Arc::new(next.delta().clone());
        past.push(Past { zone: Arc::new(current.without_history()), delta });
        let mut sum = 0;
        let fits = |p: &&Past| {
            sum += p.delta.services.len();
            sum <= MOST_CHANGES
        };
        let kept = past.iter().rev().take(MOST_SNAPSHOTS).take_while(fits).count().max(1);
        past.drain(..past.len() - kept);
        Self { past: Arc::new(past) }
    }

    /// The snapshot with this serial, and all that changed since.
    pub(crate) fn since(&self, serial: Serial) -> Option<(&Arc<Zone>, Delta)> {
        let at = self.past.iter().position(|p| p.zone.serial() == serial)?;
        let mut all = Delta { base: Some(serial), ..Delta::default() };
        for Past { zone: _, delta } in &self.past[at..] {
            let Delta { base: _, services, links, fixed } = &**delta;
            all.services.extend(services.iter().cloned());
            all.links.extend(links.iter().cloned());
            all.fixed |= fixed;
        }
        Some((&self.past[at].zone, all))
    }

    pub(crate) fn len(&self) -> usize {
        self.past.len()
    }
}
