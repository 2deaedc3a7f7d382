//! How long something has to stay well after it has failed: longer each time that it fails again
//! soon. What a BFD session and what a carrier does has the same rule.

use std::time::Duration;

/// Failures in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Setbacks {
    count: u32,
    last: Option<Duration>,
}

/// The longest time that anything has to stay well.
pub(super) const MOST: Duration = Duration::from_secs(120);
/// Failures further apart than this are not in a row.
pub(super) const CALM: Duration = Duration::from_secs(300);

// === impl Setbacks ===

impl Setbacks {
    /// One more; gives how long it has to stay well now: `first`, and twice as long for each one
    /// before it in the row, up to [`MOST`].
    pub(super) fn another(&mut self, first: Duration, now: Duration) -> Duration {
        let in_a_row = self.last.is_some_and(|last| now.saturating_sub(last) <= CALM);
        self.count = if in_a_row { self.count.saturating_add(1) } else { 1 };
        self.last = Some(now);
        first.saturating_mul(1_u32 << self.count.saturating_sub(1).min(16)).min(MOST)
    }

    /// The last one was none.
    pub(super) fn take_back(&mut self) {
        self.count = self.count.saturating_sub(1);
    }
}
