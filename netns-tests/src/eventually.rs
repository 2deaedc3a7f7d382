//! Waiting for something to become true, with a patience instead of a sleep.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Five seconds, or `NETT_PATIENCE` seconds: for conditions that normally hold at once.
pub fn patience() -> Duration {
    let seconds = std::env::var("NETT_PATIENCE").ok();
    Duration::from_secs(seconds.and_then(|s| s.parse().ok()).unwrap_or(5))
}

/// Looks until `look` succeeds and returns its value with the time it took; after `patience` fails
/// with the last reason `look` gave.
pub fn eventually<T>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T>,
) -> Result<(T, Duration)> {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(value) => return Ok((value, begun.elapsed())),
            Err(reason) if begun.elapsed() >= patience => {
                bail!("{what}: not within {patience:?}: {reason:#}")
            }
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// As [`eventually`] for a plain condition.
pub fn eventually_true(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    eventually(patience, what, || if look()? { Ok(()) } else { bail!("still false") })
        .map(|((), took)| took)
}
