//! The clock seam: monotonic time for waiting, wall time for entries. Nothing else reads a clock
//! for the controller.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nett_policy::id::WallMs;
use tokio::time::Instant;

use crate::controller::event::Now;

/// Reads the machine's clocks; under tokio's paused time the monotonic one is simulated.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    /// What the machine's boot clock said then (clock_gettime(2), CLOCK_BOOTTIME): times that are
    /// kept over a restart of the agent count from the start of the machine.
    base: Duration,
}

impl Clock {
    pub fn start() -> Self {
        let boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
        Self { start: Instant::now(), base: boot.map(Duration::from).unwrap_or_default() }
    }

    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = WallMs(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX));
        Now { mono: self.base + self.start.elapsed(), wall }
    }

    /// The instant at `mono` on this clock.
    pub fn instant(&self, mono: Duration) -> Instant {
        self.start + mono.saturating_sub(self.base)
    }
}
