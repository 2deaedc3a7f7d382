//! A line of the log that others can cause, at most so often a second. It counts what it does not
//! say; a process that starts says the first one again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Seldom {
    said: Mutex<Said>,
    /// Lines a second.
    most: u32,
}

#[derive(Debug, Default)]
struct Said {
    /// When the present second began.
    since: Option<Instant>,
    lines: u32,
    unsaid: u64,
}

const INTERVAL: Duration = Duration::from_secs(1);

impl Default for Seldom {
    fn default() -> Self {
        Self::of(1)
    }
}

impl Seldom {
    /// So many lines a second.
    pub(crate) fn of(most: u32) -> Self {
        Self { said: Mutex::default(), most }
    }

    /// How many were not said since the last line, when it is time for another.
    pub(crate) fn due(&self) -> Option<u64> {
        let now = Instant::now();
        let mut guard = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let Said { since, lines, unsaid } = &mut *guard;
        if since.is_none_or(|at| now >= at + INTERVAL) {
            (*since, *lines) = (Some(now), 0);
        }
        if *lines == self.most {
            *unsaid += 1;
            return None;
        }
        *lines += 1;
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
        let lines = Seldom::of(2);
        assert_eq!((lines.due(), lines.due(), lines.due()), (Some(0), Some(0), None));
        tokio::time::advance(INTERVAL).await;
        assert_eq!((lines.due(), lines.due(), lines.due()), (Some(1), Some(0), None));
    }
}
