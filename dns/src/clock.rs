//! The time of day, which signatures of both kinds are about.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970. A clock before that makes every signature too late, which is true.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
