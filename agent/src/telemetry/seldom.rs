//! A line of the log that others can cause, at most once a second. It counts what it does not say;
//! a process that starts says the first one again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug, Default)]
pub(crate) struct Seldom {
    said: Mutex<(Option<Instant>, u64)>,
}

const INTERVAL: Duration = Duration::from_secs(1);

impl Seldom {
    /// How many were not said since the last line, when it is time for another.
    pub(crate) fn due(&self) -> Option<u64> {
        let now = Instant::now();
        let mut guard = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let (said, unsaid) = &mut *guard;
        if said.is_some_and(|at| now < at + INTERVAL) {
            *unsaid += 1;
            return None;
        }
        *said = Some(now);
        Some(std::mem::take(unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_a_second_and_the_number_of_the_others() {
        let line = Seldom::default();
        assert_eq!((line.due(), line.due(), line.due()), (Some(0), None, None));
        tokio::time::advance(INTERVAL).await;
        assert_eq!((line.due(), line.due()), (Some(2), None));
    }
}
