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
//! good cookie. Most of that the kernel does, by the filter of [`super::sieve`], which is laid
//! anew as the rush grows and fades.
//!
//! Tables have a fixed size, hash with a secret, and belong to one thread. Nothing is kept: after a
//! restart everybody is new until the first calm seconds have passed.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::receive::Queue;
use super::sieve::{ALL, Holes, Secret};
use crate::client::Client;

/// Places of the table, 12 bytes each.
const PLACES: u64 = 1 << 16;
/// How often the load is judged; the answers of a flood that begins again are as late.
const WINDOW: Duration = Duration::from_millis(2);
/// In a rush, a question that has lain in the queue for so long is late: longer than a hundred
/// answers take.
const LATE: Duration = Duration::from_micros(600);
/// So late it is time for haste.
const VERY_LATE: Duration = Duration::from_millis(3);
/// A queue of so many questions begins a rush: more than clients amount to who wait for answers.
const LONG: u32 = 1024;
/// A rush may come again at once for so long after it: then a late question is sign enough.
const WARY: Duration = Duration::from_secs(10);
/// Taking a question that is there already is quicker than this, being woken for one is not. Nor is
/// it when the processor was somebody else's, such as an interrupt's.
const WAITED: Duration = Duration::from_micros(6);
/// The least of [`ALL`] questions of the unknown that is answered.
const LEAST: u32 = 8;
/// A network that asks for so many times its share has no way of its own through the filter.
const HEAVY: u32 = 4;
/// A filter stays at least so long, unless a tighter one is wanted: laying one takes about as long
/// as ten answers.
const STAYS: Duration = Duration::from_millis(25);
/// And at most so long, for those who became known meanwhile.
const RENEWED: Duration = Duration::from_millis(250);
/// In so many different seconds a known network was seen.
const KNOWN: u8 = 8;
/// Seconds after which a network that does not ask any more is forgotten.
const FORGOTTEN: u32 = 600;
/// Questions a second that a known network may ask in a rush.
const MOST_SHARE: u32 = 4096;
const LEAST_SHARE: u32 = 64;
/// What a window in time gives back, of [`ALL`] and of [`MOST_SHARE`]: all of it within 0.7 s.
const REGAIN: u32 = 3;
const SHARE_REGAIN: u32 = 25;
/// In calm, so many questions of [`ALL`] are remembered: learning may take its time.
const REMEMBERED: u32 = ALL / 4;

pub(super) struct Intake {
    start: Instant,
    hasher: RandomState,
    places: Vec<Place>,
    window: Window,
    /// Questions the kernel had lost by the last look.
    lost: u32,
    /// Those of them that nobody has counted yet.
    uncounted: u32,
    /// Out of [`ALL`].
    admit: u32,
    share: u32,
    wants_look: bool,
    /// When the thread was behind last.
    behind: Option<Instant>,
    draw: u32,
    secret: Secret,
    filter: Filter,
}

/// What was laid before the queue.
struct Filter {
    /// How many of the unknown come through, out of [`ALL`].
    share: u32,
    laid: Instant,
    /// A network became heavy since.
    stale: bool,
    /// A window has ended since the filter was thought of.
    due: bool,
    possible: bool,
}

struct Window {
    began: Instant,
    /// How long the thread has waited for questions since.
    waited: Duration,
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
    /// It asked for far more than its share in this second or the one before.
    heavy: bool,
}

// === impl Intake ===

impl Intake {
    pub(super) fn new(start: Instant) -> Self {
        let places = usize::try_from(PLACES).expect("a small number");
        let hasher = RandomState::new();
        Self {
            start,
            secret: Secret::new(hasher.hash_one("filter")),
            filter: Filter { share: ALL, laid: start, stale: false, due: false, possible: true },
            hasher,
            places: vec![Place::default(); places],
            window: Window { began: start, waited: WINDOW, taken: 0, queue: None },
            lost: 0,
            uncounted: 0,
            wants_look: false,
            admit: ALL,
            share: MOST_SHARE,
            behind: None,
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
        if waited >= WAITED {
            self.window.waited += waited;
        }
        self.window.taken = self.window.taken.saturating_add(1);
        if queue.is_some() {
            self.window.queue = queue;
            self.wants_look = false;
        }
        self.end_window(now);
    }

    /// Notes that no question came for a while.
    pub(super) fn nothing_came(&mut self, now: Instant) {
        self.window.waited = WINDOW;
        self.end_window(now);
    }

    fn end_window(&mut self, now: Instant) {
        if now.saturating_duration_since(self.window.began) >= WINDOW {
            self.judge_load(now);
        }
    }

    /// Questions that the kernel passed over or lost, and that this was not yet asked for.
    pub(super) fn take_uncounted(&mut self) -> u32 {
        std::mem::take(&mut self.uncounted)
    }

    /// By what networks become bits of a filter.
    pub(super) fn secret(&self) -> Secret {
        self.secret
    }

    /// The filter that is to be laid now, if not the one that was.
    pub(super) fn wanted_filter(&mut self, now: Instant) -> Option<Holes> {
        if !std::mem::take(&mut self.filter.due) {
            return None;
        }
        let Filter { share, laid, stale, possible, .. } = self.filter;
        if self.admit == ALL || !possible {
            return (share < ALL).then(|| Holes::new(ALL));
        }
        let wanted = (self.admit + self.admit / 4 + 2).min(ALL - 1);
        if share == ALL {
            return Some(self.holes(wanted, now));
        }
        let age = now.saturating_duration_since(laid);
        let tighter = wanted * 5 / 4 < share;
        let wrong = self.admit > share || stale || age >= RENEWED;
        (tighter || (age >= STAYS && wrong)).then(|| self.holes(wanted, now))
    }

    fn holes(&self, share: u32, now: Instant) -> Holes {
        let second = self.second(now);
        let mut holes = Holes::new(share);
        for place in self.places.iter().filter(|place| place.has_a_way(second)) {
            holes.open(Secret::bit_of_tag(place.tag));
        }
        holes
    }

    /// Notes that a filter was laid.
    pub(super) fn filtered(&mut self, holes: &Holes, now: Instant) {
        let share = holes.share();
        self.filter = Filter { share, laid: now, stale: false, due: false, possible: true };
    }

    /// Notes that there can be no filter here.
    pub(super) fn without_filter(&mut self) {
        self.filter.possible = false;
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
        // Of a heavy network only a part comes through: it stands for all.
        let stands_for = if place.heavy { ALL / self.filter.share.max(1) } else { 1 };
        place.see(tag, second, stands_for, self.share);
        let known = place.tag == tag && place.seen >= KNOWN;
        let asks = u32::from(place.questions);
        if known && !calm && !place.heavy && asks > HEAVY * self.share {
            place.heavy = true;
            self.filter.stale = true;
        }
        calm || (known && asks <= self.share) || self.drawn_of_unknown()
    }

    /// The filter has drawn already from most of those who come here.
    fn drawn_of_unknown(&mut self) -> bool {
        self.drawn(self.admit * ALL / self.filter.share.max(self.admit))
    }

    /// Makes a network known: its address is proven.
    pub(super) fn vouch(&mut self, source: IpAddr, now: Instant) {
        let (at, tag) = self.place_of(source);
        let second = self.second(now);
        let place = &mut self.places[at];
        place.see(tag, second, 1, self.share);
        if place.tag == tag {
            place.seen = place.seen.max(KNOWN);
        }
    }

    /// Lets in less of the unknown while the thread is behind, and more again when it is not.
    fn judge_load(&mut self, now: Instant) {
        let behind = self.is_behind(now);
        // Clients that were passed over may be silent meanwhile: what counts is time.
        let windows =
            now.saturating_duration_since(self.window.began).as_millis() / WINDOW.as_millis();
        let windows = u32::try_from(windows).unwrap_or(ALL).clamp(1, ALL);
        let Window { waited, queue, .. } = self.window;
        self.window = Window { began: now, waited: Duration::ZERO, taken: 0, queue: None };
        let lost = queue.map_or(self.lost, |queue| queue.lost);
        self.uncounted = self.uncounted.saturating_add(lost.wrapping_sub(self.lost));
        self.lost = lost;
        self.filter.due = true;
        // A thread that has no time to spare waits now and then, for its processor.
        self.wants_look = waited < WINDOW / 2 || self.admit < ALL;
        if behind {
            self.behind = Some(now);
        }
        let quarters = if queue.is_some_and(|q| q.age >= VERY_LATE) { 1 } else { 3 };
        if behind && self.admit > LEAST {
            self.admit = (self.admit * quarters / 4).max(LEAST);
        } else if behind {
            self.share = (self.share * 3 / 4).max(LEAST_SHARE);
        } else {
            self.admit = (self.admit + REGAIN * windows).min(ALL);
            self.share = (self.share + SHARE_REGAIN * windows).min(MOST_SHARE);
        }
    }

    fn is_behind(&self, now: Instant) -> bool {
        let Some(Queue { age, lost }) = self.window.queue else { return false };
        let wary = self.behind.is_some_and(|at| now.saturating_duration_since(at) < WARY);
        if self.admit < ALL || wary {
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
        (at, self.secret.tag(source, hash))
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
    /// Notes a question of the network that stands for some, unless the place belongs to a known
    /// one.
    fn see(&mut self, tag: u32, second: u32, stands_for: u32, share: u32) {
        let unseen = second.wrapping_sub(self.second);
        let stands_for = u16::try_from(stands_for).unwrap_or(u16::MAX);
        if self.tag != tag || unseen > FORGOTTEN {
            if self.seen < KNOWN || unseen > FORGOTTEN {
                *self = Self { tag, second, questions: 1, seen: 1, heavy: false };
            }
            return;
        }
        if unseen > 0 {
            self.second = second;
            self.heavy &= unseen == 1 && u32::from(self.questions) > HEAVY * share;
            self.questions = 0;
            self.seen = self.seen.saturating_add(1);
        }
        self.questions = self.questions.saturating_add(stands_for);
    }

    /// Whether a filter is to let the network through.
    fn has_a_way(&self, second: u32) -> bool {
        self.seen >= KNOWN && !self.heavy && second.wrapping_sub(self.second) <= FORGOTTEN
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const STEP: Duration = Duration::from_micros(10);

    fn ip(a: u8, b: u8) -> IpAddr {
        IpAddr::from([198, a, b, 1])
    }

    fn fifty(n: u32) -> IpAddr {
        ip(1, u8::try_from(n % 50).expect("cut"))
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

        /// Fifty networks have places of their own, which is chance.
        fn with_fifty() -> Self {
            loop {
                let run = Self::new();
                let places: BTreeSet<_> =
                    (0..50).map(|n| run.intake.place_of(fifty(n)).0).collect();
                if places.len() == 50 {
                    return run;
                }
            }
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

    /// Interrupts make a thread wait that is behind all the same.
    #[test]
    fn a_thread_that_waits_for_its_processor_now_and_then_is_behind() {
        let mut run = Run::new();
        let mut admitted = 0;
        for n in 0..200_000u32 {
            run.now += STEP;
            let waited = if n.is_multiple_of(50) { 2 * WAITED } else { Duration::ZERO };
            let queue = Queue { age: 5 * LATE, lost: n };
            let queue = run.intake.wants_look().then_some(queue);
            run.intake.waited(waited, queue, run.now);
            admitted += u32::from(run.intake.admits(IpAddr::from(n.to_be_bytes()), run.now));
        }
        assert!(admitted < 20_000, "{admitted}");
    }

    /// Few questions lie there and none is lost, but they are late, and a rush has just been.
    #[test]
    fn behind_a_rush_a_late_question_is_sign_enough() {
        let mut run = Run::new();
        let flood = |n: u32| IpAddr::from((n.wrapping_mul(0x9e37_79b9)).to_be_bytes());
        run.ask(10_000, false, flood);
        run.ask(100_000, true, flood);
        assert_eq!(run.intake.admit, ALL, "it is over");
        let late = |run: &mut Run| {
            for n in 0..1000 {
                run.now += STEP;
                let queue = Queue { age: 2 * LATE, lost: run.lost };
                let queue = run.intake.wants_look().then_some(queue);
                run.intake.waited(Duration::ZERO, queue, run.now);
                run.intake.admits(flood(n), run.now);
            }
            run.intake.admit < ALL
        };
        assert!(late(&mut run), "it begins again");
        run.ask(1_500_000, true, flood);
        assert!(!late(&mut run), "it was long ago");
    }

    #[test]
    fn in_a_rush_the_known_are_admitted_and_few_of_the_unknown() {
        let mut run = Run::with_fifty();
        run.ask(1_000_000, true, fifty);
        // One question in 100 is of a known network, the others are of any.
        let flood = |n: u32| IpAddr::from((n.wrapping_mul(0x9e37_79b9)).to_be_bytes());
        run.ask(100_000, false, flood);
        let (mut of_known, mut of_unknown) = (0, 0);
        for n in 0..100 {
            of_unknown += run.ask(990, false, |m| flood(1_000_000 + n * 990 + m));
            of_known += run.ask(10, false, |m| fifty(n * 10 + m));
        }
        assert_eq!(of_known, 1000, "of 1000");
        assert!(of_unknown < 99_000 / 50, "{of_unknown} of 99000");
        // And when it is over, everybody again.
        run.ask(200_000, true, fifty);
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

    /// A flood of one network that is known too, and what the filter does of it: the network has no
    /// way of its own, others have, and those who asked become many again when it ends.
    #[test]
    fn the_filter_follows_the_rush() {
        let mut run = Run::with_fifty();
        run.ask(1_000_000, true, fifty);
        assert!(run.intake.wanted_filter(run.now).is_none(), "it is calm");
        let flood = |n: u32| if n.is_multiple_of(100) { fifty(n / 100) } else { ip(1, 7) };
        for _ in 0..20 {
            run.ask(10_000, false, flood);
            if let Some(holes) = run.intake.wanted_filter(run.now) {
                run.intake.filtered(&holes, run.now);
            }
        }
        let share = run.intake.filter.share;
        assert!((LEAST..ALL / 8).contains(&share), "{share}");
        let second = run.intake.second(run.now);
        let ways = run.intake.places.iter().filter(|place| place.has_a_way(second)).count();
        assert_eq!(ways, 49);
        let (at, _) = run.intake.place_of(ip(1, 7));
        assert!(run.intake.places[at].heavy);
        // What comes through is not drawn from a second time, as far as that is known.
        let passed = run.ask(10_000, false, |n| IpAddr::from(n.wrapping_mul(7919).to_be_bytes()));
        assert!(passed > 5_000, "{passed} of 10000");
        // Nobody comes any more.
        for _ in 0..400 {
            run.now += WINDOW;
            run.intake.nothing_came(run.now);
            if let Some(holes) = run.intake.wanted_filter(run.now) {
                run.intake.filtered(&holes, run.now);
            }
        }
        assert_eq!(run.intake.filter.share, ALL);
    }

    #[test]
    fn what_the_kernel_lost_is_counted_once() {
        let mut run = Run::new();
        run.ask(100_000, false, |n| IpAddr::from(n.to_be_bytes()));
        let first = run.intake.take_uncounted();
        assert!((90_000..=100_000).contains(&first), "{first}");
        assert_eq!(run.intake.take_uncounted(), 0);
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
            place.see(7, second, 1, MOST_SHARE);
        }
        place.see(9, 10, 1, MOST_SHARE);
        assert_eq!((place.tag, place.seen), (7, KNOWN));
        place.see(9, 8 + FORGOTTEN, 1, MOST_SHARE);
        assert_eq!((place.tag, place.seen), (9, 1));
    }
}
