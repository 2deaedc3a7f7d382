//! How much of something may happen in a time. Pure: whoever asks says what time it is, and a crash
//! leaves nothing: after a start everything is allowed again.

use std::time::Duration;

use tokio::time::Instant;

/// An amount that fills up steadily, is spent, and may be overdrawn once.
#[derive(Debug, Clone)]
pub(in crate::bus) struct Rate {
    level: f64,
    per_second: f64,
    most: f64,
    at: Instant,
}

impl Rate {
    /// Full at the beginning.
    pub(in crate::bus) fn new(per_second: f64, most: f64, now: Instant) -> Self {
        Self { level: most, per_second, most, at: now }
    }

    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + since * self.per_second).min(self.most);
        self.at = now;
    }

    /// Takes one, if there is one.
    pub(in crate::bus) fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let there = self.level >= 1.0;
        self.level -= f64::from(u8::from(there));
        there
    }

    /// Spends what is spent already.
    pub(in crate::bus) fn spend(&mut self, amount: f64, now: Instant) {
        self.fill(now);
        self.level -= amount;
    }

    /// How long until anything is left to be spent; `None` when there is.
    pub(in crate::bus) fn wait(&mut self, now: Instant) -> Option<Duration> {
        self.fill(now);
        let lacks = -self.level;
        (lacks >= 0.0).then(|| Duration::from_secs_f64(lacks / self.per_second + 0.001))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_overdrawn_is_waited_for() {
        let start = Instant::now();
        let mut rate = Rate::new(0.25, 0.1, start);
        assert_eq!(rate.wait(start), None);
        rate.spend(0.6, start);
        let wait = rate.wait(start).expect("overdrawn");
        assert!((wait.as_secs_f64() - 2.0).abs() < 0.01, "{wait:?}");
        assert_eq!(rate.wait(start + wait), None);
    }

    #[test]
    fn a_burst_and_then_so_many_a_second() {
        let start = Instant::now();
        let mut rate = Rate::new(10.0, 5.0, start);
        let mut taken = |ms: u64| {
            let now = start + Duration::from_millis(ms);
            std::iter::repeat_with(|| rate.take(now)).take_while(|there| *there).count()
        };
        assert_eq!([taken(0), taken(0), taken(1000), taken(1100)], [5, 0, 5, 1]);
    }
}
