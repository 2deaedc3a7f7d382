//! Which questions are looked at when more come than can be answered.
//!
//! Once the kernel's queue is full, each question waits its whole length, and whose questions are
//! lost is chance. So a thread watches how long it waits for questions: one that hardly does asks
//! how the queue is doing. A rush begins when questions are lost; that they lie there long is no
//! sign of one, since a thread that was without processor for a while finds them so. Then it passes
//! over questions before reading them, which is much cheaper than answering, until the queue is
//! short. Passed over are, first, networks that were not here before the rush, and networks that
//! ask for more than a share; a forged flood is the former, a
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
/// So long after questions were lost a late one is sign enough: a rush may come again at once. A
/// kernel that refused a filter is asked again as late.
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
    /// The queue in the window before, if it was looked at.
    before: Option<Queue>,
    /// When questions were lost last.
    behind: Option<Instant>,
    draw: u32,
    secret: Secret,
    filter: Filter,
}

/// What was laid before the queue.
struct Filter {
    holes: Holes,
    laid: Instant,
    /// A network became heavy since.
    stale: bool,
    /// A window has ended since the filter was thought of.
    due: bool,
    /// When the kernel refused one last.
    refused: Option<Instant>,
}

struct Window {
    began: Instant,
    /// How long the thread has waited for questions since.
    waited: Duration,
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
            filter: Filter {
                holes: Holes::new(ALL),
                laid: start,
                stale: false,
                due: false,
                refused: None,
            },
            hasher,
            places: vec![Place::default(); places],
            window: Window { began: start, waited: WINDOW, queue: None },
            lost: 0,
            uncounted: 0,
            wants_look: false,
            before: None,
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
        let Filter { laid, stale, refused, .. } = self.filter;
        let share = self.filter.holes.share();
        let since = |at: Instant| now.saturating_duration_since(at);
        if self.admit == ALL || refused.is_some_and(|at| since(at) < WARY) {
            return (share < ALL).then(|| Holes::new(ALL));
        }
        let wanted = (self.admit + self.admit / 4 + 2).min(ALL - 1);
        if share == ALL {
            return Some(self.holes(wanted, now));
        }
        let age = since(laid);
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
    pub(super) fn filtered(&mut self, holes: Holes, now: Instant) {
        let refused = self.filter.refused;
        self.filter = Filter { holes, laid: now, stale: false, due: false, refused };
    }

    /// Notes that the kernel takes no filter now; true for the first time.
    pub(super) fn without_filter(&mut self, now: Instant) -> bool {
        self.filter.refused.replace(now).is_none()
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
        let stands_for = if place.heavy { ALL / self.filter.holes.share().max(1) } else { 1 };
        place.see(tag, second, stands_for, self.share);
        let known = place.tag == tag && place.seen >= KNOWN;
        let asks = u32::from(place.questions);
        if known && !calm && !place.heavy && asks > HEAVY * self.share {
            place.heavy = true;
            self.filter.stale = true;
        }
        calm || (known && asks <= self.share) || self.drawn_of_unknown(tag)
    }

    /// The filter has drawn already, but not from those who share a bit with a known network.
    fn drawn_of_unknown(&mut self, tag: u32) -> bool {
        let holes = &self.filter.holes;
        let before = match holes.is_open(Secret::bit_of_tag(tag)) {
            true => ALL,
            false => holes.share().max(self.admit),
        };
        self.drawn(self.admit * ALL / before)
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
        let overrun = self.is_overrun();
        let behind = self.is_behind(overrun, now);
        if behind && overrun {
            self.behind = Some(now);
        }
        // Clients that were passed over may be silent meanwhile: what counts is time.
        let windows =
            now.saturating_duration_since(self.window.began).as_millis() / WINDOW.as_millis();
        let windows = u32::try_from(windows).unwrap_or(ALL).clamp(1, ALL);
        let Window { waited, queue, .. } = self.window;
        self.window = Window { began: now, waited: Duration::ZERO, queue: None };
        let lost = queue.map_or(self.lost, |queue| queue.lost);
        self.uncounted = self.uncounted.saturating_add(lost.wrapping_sub(self.lost));
        self.lost = lost;
        self.before = queue;
        self.filter.due = true;
        // A thread that has no time to spare waits now and then, for its processor.
        self.wants_look = waited < WINDOW / 2 || self.admit < ALL;
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

    fn is_behind(&self, overrun: bool, now: Instant) -> bool {
        let wary = self.behind.is_some_and(|at| now.saturating_duration_since(at) < WARY);
        let late = |queue: Option<Queue>| queue.is_some_and(|queue| queue.age >= LATE);
        // Behind a pause of its processor a thread has old questions for one window at most.
        let lasts = late(self.before);
        late(self.window.queue) && (self.admit < ALL || lasts && (overrun || wary))
    }

    /// Whether questions were lost because the queue was full.
    fn is_overrun(&self) -> bool {
        // What a filter passes over counts as lost, and so does what was lost long ago.
        let filtered = self.filter.holes.share() < ALL;
        let lost = self.window.queue.is_some_and(|queue| queue.lost != self.lost);
        lost && self.before.is_some() && !filtered
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
mod tests;
