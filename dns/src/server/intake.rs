//! Which questions are looked at when more come than can be answered.
//!
//! Once the kernel's queue is full, each question waits its whole length, and whose questions are
//! lost is chance. So a thread watches whether it ever has to wait for the next question, which
//! means that the queue is empty. While it does not, it asks how the queue is doing. A rush begins
//! when questions are lost, or a great many lie there; that they lie there long is no sign of one,
//! since a thread that was without processor for a while finds them so. Then it passes over
//! questions before reading them, which is much cheaper than answering, until the queue is short.
//! Passed over are, first, networks that were not here
//! before the rush, and networks that ask for more than a share; a forged flood is the former, a
//! real one the latter. A network is known once it was seen in eight different seconds, or by a
//! good cookie.
//!
//! Tables have a fixed size, hash with a secret, and belong to one thread. Nothing is kept: after a
//! restart everybody is new until the first calm seconds have passed.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::receive::Queue;
use crate::client::Client;

/// Places of the table, 12 bytes each.
const PLACES: u64 = 1 << 16;
/// How often the load is judged.
const WINDOW: Duration = Duration::from_millis(5);
/// In a rush, a question that has lain in the queue for so long is late: longer than a hundred
/// answers take.
const LATE: Duration = Duration::from_micros(600);
/// So late it is time for haste.
const VERY_LATE: Duration = Duration::from_millis(3);
/// A queue of so many questions begins a rush: more than clients amount to who wait for answers.
const LONG: u32 = 1024;
/// Taking a question that is there already is quicker than this, being woken for one is not.
const WAITED: Duration = Duration::from_micros(6);
/// Of so many questions of the unknown, [`Intake::admit`] are looked at.
const ALL: u32 = 1024;
const LEAST: u32 = 8;
/// In so many different seconds a known network was seen.
const KNOWN: u8 = 8;
/// Seconds after which a network that does not ask any more is forgotten.
const FORGOTTEN: u32 = 600;
/// Questions a second that a known network may ask in a rush.
const MOST_SHARE: u32 = 4096;
const LEAST_SHARE: u32 = 64;
/// In calm, so many questions of [`ALL`] are remembered: learning may take its time.
const REMEMBERED: u32 = ALL / 4;

pub(super) struct Intake {
    start: Instant,
    hasher: RandomState,
    places: Vec<Place>,
    window: Window,
    /// Questions the kernel had lost by the last look.
    lost: u32,
    /// Out of [`ALL`].
    admit: u32,
    share: u32,
    wants_look: bool,
    draw: u32,
}

struct Window {
    began: Instant,
    /// Whether the queue was empty at any time since.
    emptied: bool,
    /// Questions that were taken from it since.
    taken: u32,
    /// The queue when it was looked at.
    queue: Option<Queue>,
}

#[derive(Clone, Copy, Default)]
struct Place {
    tag: u32,
    /// The second since `start` in which the network was seen last.
    second: u32,
    /// Questions in that second.
    questions: u16,
    /// Different seconds in which it was seen.
    seen: u8,
}

// === impl Intake ===

impl Intake {
    pub(super) fn new(start: Instant) -> Self {
        let places = usize::try_from(PLACES).expect("a small number");
        Self {
            start,
            hasher: RandomState::new(),
            places: vec![Place::default(); places],
            window: Window { began: start, emptied: true, taken: 0, queue: None },
            lost: 0,
            wants_look: false,
            admit: ALL,
            share: MOST_SHARE,
            draw: 1,
        }
    }

    /// Whether a look at the queue is worth its time.
    pub(super) fn wants_look(&self) -> bool {
        self.wants_look
    }

    /// Notes how long the thread waited for the question that came at `now`, and how the queue was
    /// doing, if that was asked.
    pub(super) fn waited(&mut self, waited: Duration, queue: Option<Queue>, now: Instant) {
        self.window.emptied |= waited >= WAITED;
        self.window.taken = self.window.taken.saturating_add(1);
        if queue.is_some() {
            self.window.queue = queue;
            self.wants_look = false;
        }
        if now.saturating_duration_since(self.window.began) >= WINDOW {
            self.judge_load(now);
        }
    }

    /// True for a question from `source` that is to be answered.
    pub(super) fn admits(&mut self, source: IpAddr, now: Instant) -> bool {
        let calm = self.admit == ALL;
        if calm && !self.drawn(REMEMBERED) {
            return true;
        }
        let (at, tag) = self.place_of(source);
        let second = self.second(now);
        let place = &mut self.places[at];
        place.see(tag, second);
        let known = place.tag == tag && place.seen >= KNOWN;
        let within = u32::from(place.questions) <= self.share;
        calm || (known && within) || self.drawn(self.admit)
    }

    /// Makes a network known: its address is proven.
    pub(super) fn vouch(&mut self, source: IpAddr, now: Instant) {
        let (at, tag) = self.place_of(source);
        let second = self.second(now);
        let place = &mut self.places[at];
        place.see(tag, second);
        if place.tag == tag {
            place.seen = place.seen.max(KNOWN);
        }
    }

    /// Lets in less of the unknown while the thread is behind, and more again when it is not.
    fn judge_load(&mut self, now: Instant) {
        let behind = self.is_behind(now);
        let Window { emptied, queue, .. } = self.window;
        self.window = Window { began: now, emptied: false, taken: 0, queue: None };
        self.lost = queue.map_or(self.lost, |queue| queue.lost);
        // In a rush also after a wait, which may only have been for the processor.
        self.wants_look = !emptied || self.admit < ALL;
        let quarters = if queue.is_some_and(|q| q.age >= VERY_LATE) { 1 } else { 3 };
        if behind && self.admit > LEAST {
            self.admit = (self.admit * quarters / 4).max(LEAST);
        } else if behind {
            self.share = (self.share * 3 / 4).max(LEAST_SHARE);
        } else {
            self.admit = (self.admit + ALL / 128).min(ALL);
            self.share = (self.share + MOST_SHARE / 64).min(MOST_SHARE);
        }
    }

    fn is_behind(&self, now: Instant) -> bool {
        let Some(Queue { age, lost }) = self.window.queue else { return false };
        if self.admit < ALL {
            return age >= LATE;
        }
        // So many were taken in the time of the window; about as many a time lie in the queue.
        let window = now.saturating_duration_since(self.window.began).max(WINDOW);
        let long = age.as_secs_f64() * f64::from(self.window.taken)
            >= f64::from(LONG) * window.as_secs_f64();
        age >= LATE && (long || lost != self.lost)
    }

    fn second(&self, now: Instant) -> u32 {
        let second = now.saturating_duration_since(self.start).as_secs();
        u32::try_from(second & u64::from(u32::MAX)).expect("cut to 32 bits")
    }

    fn place_of(&self, source: IpAddr) -> (usize, u32) {
        let hash = match Client::new(source, None).block().addr() {
            IpAddr::V4(a) => self.hasher.hash_one(a.to_bits()),
            IpAddr::V6(a) => self.hasher.hash_one(a.to_bits()),
        };
        let at = usize::try_from(hash % PLACES).expect("a small number");
        // 0 is the tag of nobody.
        (at, u32::try_from(hash >> 32).expect("32 bits are left") | 1)
    }

    /// True for `part` in [`ALL`], by a shift register (Marsaglia's xorshift32).
    fn drawn(&mut self, part: u32) -> bool {
        self.draw ^= self.draw << 13;
        self.draw ^= self.draw >> 17;
        self.draw ^= self.draw << 5;
        self.draw % ALL < part
    }
}

// === impl Place ===

impl Place {
    /// Notes a question of the network, unless the place belongs to a known one.
    fn see(&mut self, tag: u32, second: u32) {
        let unseen = second.wrapping_sub(self.second);
        if self.tag != tag || unseen > FORGOTTEN {
            if self.seen < KNOWN || unseen > FORGOTTEN {
                *self = Self { tag, second, questions: 1, seen: 1 };
            }
            return;
        }
        if unseen > 0 {
            self.second = second;
            self.questions = 0;
            self.seen = self.seen.saturating_add(1);
        }
        self.questions = self.questions.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_micros(10);

    fn ip(a: u8, b: u8) -> IpAddr {
        IpAddr::from([198, a, b, 1])
    }

    struct Run {
        intake: Intake,
        now: Instant,
        lost: u32,
    }

    impl Run {
        fn new() -> Self {
            let now = Instant::now();
            Self { intake: Intake::new(now), now, lost: 0 }
        }

        /// One question a step, from `source(n)`; counts those admitted. In calm the thread waits
        /// all of the time, behind it never does and questions are lost.
        fn ask(&mut self, steps: u32, calm: bool, source: impl Fn(u32) -> IpAddr) -> u32 {
            let mut admitted = 0;
            for n in 0..steps {
                self.now += STEP;
                self.lost += u32::from(!calm);
                let queue = Queue { age: 5 * LATE, lost: self.lost };
                let (waited, queue) = match calm {
                    true => (STEP, None),
                    false => (Duration::ZERO, self.intake.wants_look().then_some(queue)),
                };
                self.intake.waited(waited, queue, self.now);
                admitted += u32::from(self.intake.admits(source(n), self.now));
            }
            admitted
        }
    }

    #[test]
    fn in_calm_everybody_is_admitted() {
        let mut run = Run::new();
        let everybody = |n: u32| ip(u8::try_from(n % 256).expect("cut"), 0);
        assert_eq!(run.ask(500_000, true, everybody), 500_000);
    }

    /// How many of many questions are admitted while the thread never waits, and the queue is so.
    fn admitted_with(queue: impl Fn(u32) -> Queue) -> usize {
        let mut run = Run::new();
        let mut one = |n: u32| {
            run.now += STEP;
            let looked = run.intake.wants_look().then(|| queue(n));
            run.intake.waited(Duration::ZERO, looked, run.now);
            run.intake.admits(IpAddr::from(n.to_be_bytes()), run.now)
        };
        (0..500_000).filter(|n| one(*n)).count()
    }

    #[test]
    fn a_thread_that_is_busy_and_not_late_admits_everybody() {
        assert_eq!(admitted_with(|_| Queue { age: LATE / 2, lost: 0 }), 500_000);
    }

    /// The processor was somebody else's: a few questions are old, and none is lost.
    #[test]
    fn a_short_queue_of_old_questions_is_no_rush() {
        let clients = STEP * 500;
        assert_eq!(admitted_with(|_| Queue { age: clients, lost: 0 }), 500_000);
        let rush = admitted_with(|n| Queue { age: clients, lost: n });
        assert!(rush < 100_000, "{rush}");
        let long = admitted_with(|_| Queue { age: STEP * 2048, lost: 0 });
        assert!(long < 100_000, "{long}");
    }

    #[test]
    fn in_a_rush_the_known_are_admitted_and_few_of_the_unknown() {
        let mut run = Run::new();
        let known = |n: u32| ip(1, u8::try_from(n % 50).expect("cut"));
        run.ask(1_000_000, true, known);
        // One question in 100 is of a known network, the others are of any.
        let flood = |n: u32| IpAddr::from((n.wrapping_mul(0x9e37_79b9)).to_be_bytes());
        run.ask(100_000, false, flood);
        let (mut of_known, mut of_unknown) = (0, 0);
        for n in 0..100 {
            of_unknown += run.ask(990, false, |m| flood(1_000_000 + n * 990 + m));
            of_known += run.ask(10, false, |m| known(n * 10 + m));
        }
        assert_eq!(of_known, 1000, "of 1000");
        assert!(of_unknown < 99_000 / 50, "{of_unknown} of 99000");
        // And when it is over, everybody again.
        run.ask(200_000, true, known);
        assert_eq!(run.ask(1000, true, flood), 1000);
    }

    #[test]
    fn one_network_has_a_share_however_well_known() {
        let mut run = Run::new();
        let one = |_| ip(1, 1);
        run.ask(1_000_000, true, one);
        run.ask(100_000, false, one);
        // 10 seconds of 100000 questions each.
        let admitted = run.ask(1_000_000, false, one);
        assert!(admitted < 10 * MOST_SHARE, "{admitted}");
        assert!(admitted >= 10 * LEAST_SHARE, "{admitted}");
    }

    #[test]
    fn a_proven_address_is_known_at_once() {
        let mut run = Run::new();
        run.ask(100_000, false, |n| ip(2, u8::try_from(n % 200).expect("cut")));
        run.intake.vouch(ip(3, 3), run.now);
        assert_eq!(run.ask(50, false, |_| ip(3, 3)), 50);
    }

    #[test]
    fn a_known_network_keeps_its_place_until_it_is_forgotten() {
        let mut place = Place::default();
        for second in 0..8 {
            place.see(7, second);
        }
        place.see(9, 10);
        assert_eq!((place.tag, place.seen), (7, KNOWN));
        place.see(9, 8 + FORGOTTEN);
        assert_eq!((place.tag, place.seen), (9, 1));
    }
}
