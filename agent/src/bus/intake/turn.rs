//! One question at a time is with the controller, however many wait.
//!
//! What a question costs is known only when it was answered: a short word may ask for much. So
//! the next one waits until the controller is done with the one before it, and what that took is
//! paid from the door's share of work. Nothing is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Whose turn it is, and what the last ones have cost.
#[derive(Debug)]
pub(super) struct Turns {
    one: Arc<Semaphore>,
    /// Microseconds of work that were not paid for yet.
    owed: Arc<AtomicU64>,
}

/// Lets the next one in when it is dropped.
#[derive(Debug, Default)]
pub struct Turn(Option<Held>);

#[derive(Debug)]
struct Held {
    begun: Option<Instant>,
    owed: Arc<AtomicU64>,
    _permit: OwnedSemaphorePermit,
}

// === impl Turns ===

impl Turns {
    pub(super) fn new() -> Self {
        Self { one: Arc::new(Semaphore::new(1)), owed: Arc::default() }
    }

    /// Waits until nobody has it.
    pub(super) async fn next(&self) -> Turn {
        let permit = self.one.clone().acquire_owned().await;
        let permit = permit.expect("nobody closes it");
        Turn(Some(Held { begun: None, owed: self.owed.clone(), _permit: permit }))
    }

    /// What was done in turns since the last time.
    pub(super) fn owed(&self) -> Duration {
        Duration::from_micros(self.owed.swap(0, Ordering::Relaxed))
    }
}

// === impl Turn ===

impl Turn {
    /// From now on it costs: until then it has waited.
    pub(crate) fn begin(&mut self) {
        if let Some(held) = &mut self.0 {
            held.begun = Some(Instant::now());
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(begun) = self.begun {
            let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.owed.fetch_add(took, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_next_waits_and_the_time_between_is_owed() {
        let turns = Turns::new();
        let mut turn = turns.next().await;
        let in_vain = tokio::time::timeout(Duration::from_secs(9), turns.next()).await;
        assert!(in_vain.is_err(), "two at once");
        turn.begin();
        tokio::time::advance(Duration::from_millis(3)).await;
        drop(turn);
        assert_eq!(turns.owed(), Duration::from_millis(3), "without the time that it waited");
        drop(turns.next().await);
        assert_eq!(turns.owed(), Duration::ZERO);
    }
}
