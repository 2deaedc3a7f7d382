//! Whether a link is used again as soon as its interface is back, or held down: an interface that
//! comes and goes takes traffic along each time, and what it gives in between is not worth that.
//!
//! The first losses of a quiet time cost nothing but their own time. From the third within a
//! minute on, the link is held down until it has stayed up for a while, longer each time that this
//! happens again soon. Held down is doubted and no more: where there is no other way it is used.
//!
//! Crash story: made anew with the process, which then believes two returns more.

use std::collections::VecDeque;
use std::time::Duration;

use super::setbacks::Setbacks;

/// What the interface of one link has done. Times are since any fixed start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flaps {
    /// When it was last lost, the newest of them at the end; at most [`LOSSES`].
    losses: VecDeque<Duration>,
    setbacks: Setbacks,
    held: Option<Held>,
    away: bool,
}

/// A link that is held down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// How often it was lost, with those for which it was held down.
    pub losses: u32,
    /// How long it has to stay up.
    pub time: Duration,
    /// When it ends, if it stays up; none while it is away.
    pub until: Option<Duration>,
}

/// So many losses within [`WINDOW`] hold a link down.
pub const LOSSES: usize = 3;
/// Losses that are older have no part in it.
pub const WINDOW: Duration = Duration::from_secs(60);
/// How long a link has to stay up after the first time.
pub const FIRST: Duration = Duration::from_secs(5);

// === impl Flaps ===

impl Flaps {
    /// The interface was lost, and nobody had asked for that.
    pub fn lost(&mut self, now: Duration) {
        self.away();
        self.losses.push_back(now);
        if self.losses.len() > LOSSES {
            self.losses.pop_front();
        }
        if let Some(held) = &mut self.held {
            held.losses = held.losses.saturating_add(1);
            return;
        }
        let first = self.losses.front().filter(|_| self.losses.len() == LOSSES);
        if first.is_some_and(|first| now.saturating_sub(*first) <= WINDOW) {
            let time = self.setbacks.another(FIRST, now);
            let losses = u32::try_from(LOSSES).expect("a few");
            self.held = Some(Held { losses, time, until: None });
        }
    }

    /// The interface was set down, which says nothing about it.
    pub fn away(&mut self) {
        self.away = true;
        if let Some(held) = &mut self.held {
            held.until = None;
        }
    }

    /// The interface is back.
    pub fn back(&mut self, now: Duration) {
        self.away = false;
        if let Some(held) = &mut self.held {
            held.until = Some(now + held.time);
        }
    }

    /// Lets go of what has stayed up long enough.
    pub fn tick(&mut self, now: Duration) {
        if self.deadline().is_some_and(|at| now >= at) {
            self.held = None;
        }
    }

    /// When [`Self::tick`] changes something.
    pub fn deadline(&self) -> Option<Duration> {
        self.held?.until
    }

    /// Whether, and since what, it is held down.
    pub fn held(&self) -> Option<Held> {
        self.held
    }

    /// False when it was lost, or set down, and has not come back.
    pub fn is_there(&self) -> bool {
        !self.away
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Lost at each of these seconds, and back 100 ms later.
    fn flapped(flaps: &mut Flaps, seconds: impl IntoIterator<Item = u64>) {
        for second in seconds {
            flaps.tick(s(second));
            flaps.lost(s(second));
            flaps.back(s(second) + ms(100));
        }
    }

    #[test]
    fn which_losses_hold_a_link_down() {
        // When it is lost, and whether the last of them holds it down.
        let rows: [(&[u64], bool); 8] = [
            (&[1], false),
            (&[1, 2], false),
            (&[1, 2, 3], true),
            (&[1, 30, 61], true),
            (&[1, 30, 62], false),
            (&[1, 2, 62, 63], false),
            (&[1, 50, 100, 109], true),
            (&[1, 62, 123, 184, 245, 306], false),
        ];
        for (losses, held) in rows {
            let mut flaps = Flaps::default();
            flapped(&mut flaps, losses.iter().copied());
            assert_eq!(flaps.held().is_some(), held, "{losses:?}");
            assert_eq!(flaps.deadline().is_some(), held, "{losses:?}");
        }
    }

    #[test]
    fn it_is_let_go_when_it_has_stayed_up_and_not_before() {
        let mut flaps = Flaps::default();
        flapped(&mut flaps, 1..=3);
        let until = s(3) + ms(100) + FIRST;
        assert_eq!(flaps.held(), Some(Held { losses: 3, time: FIRST, until: Some(until) }));
        flaps.tick(until - ms(1));
        assert!(flaps.held().is_some());
        flaps.tick(until);
        assert_eq!((flaps.held(), flaps.deadline()), (None, None));
    }

    /// A burst is one reason: its length makes nothing worse.
    #[test]
    fn a_loss_while_it_is_held_down_begins_the_time_anew_and_makes_it_no_longer() {
        let mut flaps = Flaps::default();
        flapped(&mut flaps, 1..=20);
        let until = Some(s(20) + ms(100) + FIRST);
        assert_eq!(flaps.held(), Some(Held { losses: 20, time: FIRST, until }));
        flaps.lost(s(22));
        assert_eq!(flaps.held(), Some(Held { losses: 21, time: FIRST, until: None }));
        flaps.tick(s(1000));
        assert!(flaps.held().is_some(), "what is away is not let go");
        flaps.back(s(1000));
        assert_eq!(flaps.deadline(), Some(s(1000) + FIRST));
    }

    #[test]
    fn each_time_soon_after_the_last_is_twice_as_long() {
        let mut flaps = Flaps::default();
        let (mut now, mut times) = (s(0), Vec::new());
        for _ in 0..7 {
            while flaps.held().is_none() {
                now += s(1);
                flaps.lost(now);
                flaps.back(now);
            }
            times.push(flaps.held().expect("held down").time.as_secs());
            now = flaps.deadline().expect("it is there");
            flaps.tick(now);
        }
        assert_eq!(times, [5, 10, 20, 40, 80, 120, 120]);
        now += s(301);
        for _ in 0..3 {
            flaps.lost(now);
            flaps.back(now);
        }
        assert_eq!(flaps.held().expect("held down").time, FIRST, "long after the others");
    }

    /// The times in between are too short to be worth anything.
    #[test]
    fn a_link_that_is_lost_soon_after_it_was_let_go_is_held_down_at_once() {
        let mut flaps = Flaps::default();
        flapped(&mut flaps, 1..=3);
        flaps.tick(s(10));
        assert_eq!(flaps.held(), None);
        flapped(&mut flaps, [11]);
        assert_eq!(flaps.held().expect("held down").time, FIRST * 2);
    }

    #[test]
    fn what_somebody_sets_down_has_not_flapped() {
        let mut flaps = Flaps::default();
        for second in 1..10 {
            flaps.away();
            assert!(!flaps.is_there());
            flaps.back(s(second));
        }
        assert_eq!((flaps.held(), flaps.is_there()), (None, true));
        flapped(&mut flaps, 10..=12);
        flaps.away();
        assert_eq!(flaps.deadline(), None, "it has to stay up");
        assert!(flaps.held().is_some());
    }
}
