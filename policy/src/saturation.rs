//! Whether a link is full. Such a link is not down: what goes over it waits, and some of it is
//! lost, because there is more of it than the link can take.
//!
//! What a link is like for ordinary packets is asked with an ordinary packet, which waits where
//! they wait ([`Asked::InTurn`]). That it waits long or is lost has other causes too, so one of two
//! things has to come with it: the interface moves nearly what the fabric says that the link can
//! take, or a packet of the highest class, sent at the same time over the same wire, is there as
//! soon as ever ([`Asked::Ahead`]). Nothing but a queue that knows classes tells the two apart. A
//! link over which nothing at all comes back is not full but dead, whatever its interface sends.
//!
//! It says nothing about whether a link is used: sessions and interfaces do.
//!
//! Crash story: made anew with the process; what is usual is known after the first answers.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// How a question went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Behind everything that waits for the link.
    InTurn,
    /// Before it, where the queue knows classes.
    Ahead,
}

/// What is told of a link that is full, as it was when that was noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saturated {
    /// Bits a second that the interface sent and received.
    pub sent_bps: u64,
    pub received_bps: u64,
    /// What the fabric says that the link can take.
    pub capacity_bps: Option<u64>,
    /// What a packet took there and back, half of them less; none where most were lost.
    pub took: Option<Duration>,
    /// What it took before; none where it was never seen otherwise.
    pub usual: Option<Duration>,
    /// Of the packets that were sent, in percent.
    pub lost: u8,
}

/// One end's judgement of one link.
#[derive(Debug, Clone)]
pub struct Judge {
    capacity_bps: Option<u64>,
    in_turn: Answers,
    ahead: Answers,
    /// When, and the bytes sent and received by then.
    counts: VecDeque<(Duration, u64, u64)>,
    told: Option<Saturated>,
    changed: Option<Duration>,
}

/// What became of the newest questions of one kind.
#[derive(Debug, Clone, Default)]
struct Answers {
    window: VecDeque<Option<Duration>>,
    /// The least time of each of the last minutes.
    minutes: VecDeque<Duration>,
    /// When the last of those ends.
    until: Duration,
}

/// So many questions of each kind are looked at: eight seconds, where two are asked in one.
pub const WINDOW: usize = 16;
/// So many of them are lost or late when a link becomes full, and so many at most when it is full
/// no more.
const MANY: usize = 12;
const FEW: usize = 4;
/// So many at most go wrong of those that go ahead.
const ODD: usize = 1;
/// One of so many questions of either kind has to be answered: a link that dies under load has
/// many bad ones soon, and none that are good.
const RECENT: usize = 4;
/// A packet is late that takes twice as long as usual, and so much longer at least.
const LATE: Duration = Duration::from_millis(10);
/// What is usual is the least time of so many minutes.
const MINUTES: usize = 10;
const MINUTE: Duration = Duration::from_secs(60);
/// Percent of the capacity from which on, and below which no more, an interface moves nearly as
/// much as the link can take.
const NEAR: u128 = 80;
const FAR: u128 = 60;
/// Counts between which a rate is taken.
const COUNTS: usize = 8;
/// What was told stays told for so long.
const HOLD: Duration = Duration::from_secs(10);

// === impl Judge ===

impl Judge {
    pub fn new(capacity_bps: Option<u64>) -> Self {
        Self {
            capacity_bps,
            in_turn: Answers::default(),
            ahead: Answers::default(),
            counts: VecDeque::new(),
            told: None,
            changed: None,
        }
    }

    /// Takes in what became of a question: how long the answer took, or that none came.
    pub fn answered(&mut self, asked: Asked, answer: Option<Duration>, now: Duration) {
        let calm = self.told.is_none();
        let answers = match asked {
            Asked::InTurn => &mut self.in_turn,
            Asked::Ahead => &mut self.ahead,
        };
        answers.take(answer, calm, now);
    }

    /// Takes in the bytes that the interface has sent and received so far.
    pub fn counted(&mut self, sent: u64, received: u64, now: Duration) {
        // Another interface under the same name counts from the beginning.
        if self.counts.back().is_some_and(|(_, s, r)| *s > sent || *r > received) {
            self.counts.clear();
        }
        self.counts.push_back((now, sent, received));
        if self.counts.len() > COUNTS {
            self.counts.pop_front();
        }
    }

    /// Nothing can be sent: what was seen says nothing any more. True when what is told changed.
    pub fn away(&mut self) -> bool {
        let Self { capacity_bps: _, in_turn, ahead, counts, told, changed } = self;
        in_turn.window.clear();
        ahead.window.clear();
        counts.clear();
        *changed = None;
        told.take().is_some()
    }

    /// True when what is told changed. `now` never goes back.
    pub fn judge(&mut self, now: Duration) -> bool {
        if self.changed.is_some_and(|at| now < at + HOLD) {
            return false;
        }
        let is_full = self.is_full();
        if is_full == self.told.is_some() {
            return false;
        }
        self.changed = Some(now);
        self.told = is_full.then(|| {
            let [sent_bps, received_bps] = self.rates().unwrap_or_default();
            Saturated {
                sent_bps,
                received_bps,
                capacity_bps: self.capacity_bps,
                took: self.in_turn.median(),
                usual: self.in_turn.usual(),
                lost: self.in_turn.lost(),
            }
        });
        true
    }

    pub fn told(&self) -> Option<&Saturated> {
        self.told.as_ref()
    }

    fn is_full(&self) -> bool {
        let (bad, share, odd, recent) = match self.told {
            None => (MANY, NEAR, ODD, RECENT),
            Some(_) => (FEW + 1, FAR, FEW, WINDOW),
        };
        let is_heard = [&self.in_turn, &self.ahead].iter().any(|answers| answers.has_come(recent));
        if !self.in_turn.is_whole() || !is_heard {
            return false;
        }
        let passed = self.ahead.is_whole() && self.ahead.bad() <= odd;
        self.in_turn.bad() >= bad && (passed || self.moves(share))
    }

    /// Whether so many percent of the capacity are moved in one direction.
    fn moves(&self, percent: u128) -> bool {
        let Some(capacity) = self.capacity_bps.map(u128::from) else { return false };
        let rates = self.rates().unwrap_or_default().map(u128::from);
        rates.into_iter().any(|rate| rate * 100 >= capacity * percent)
    }

    /// Bits a second, sent and received; none before two counts.
    fn rates(&self) -> Option<[u64; 2]> {
        let (begun, sent, received) = self.counts.front()?;
        let (ended, sent_then, received_then) = self.counts.back()?;
        let micros = ended.saturating_sub(*begun).as_micros();
        let rate = |bytes: u64| {
            let bits = u128::from(bytes) * 8 * 1_000_000;
            u64::try_from(bits.checked_div(micros)?).ok()
        };
        Some([rate(sent_then - sent)?, rate(received_then - received)?])
    }
}

// === impl Answers ===

impl Answers {
    /// `calm`: what is usual may be learnt from it.
    fn take(&mut self, answer: Option<Duration>, calm: bool, now: Duration) {
        self.window.push_back(answer);
        if self.window.len() > WINDOW {
            self.window.pop_front();
        }
        let Some(answer) = answer.filter(|_| calm) else { return };
        match self.minutes.back_mut().filter(|_| now < self.until) {
            Some(least) => *least = answer.min(*least),
            None => {
                self.minutes.push_back(answer);
                self.until = now + MINUTE;
                if self.minutes.len() > MINUTES {
                    self.minutes.pop_front();
                }
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.window.len() == WINDOW
    }

    /// One of the newest questions was answered.
    fn has_come(&self, newest: usize) -> bool {
        self.window.iter().rev().take(newest).any(Option::is_some)
    }

    fn usual(&self) -> Option<Duration> {
        self.minutes.iter().min().copied()
    }

    /// How many were lost or late.
    fn bad(&self) -> usize {
        let late = self.usual().map(|usual| usual + usual.max(LATE));
        let is_bad = |answer: &&Option<Duration>| match (answer, late) {
            (None, _) => true,
            (Some(took), Some(late)) => *took > late,
            (Some(_), None) => false,
        };
        self.window.iter().filter(is_bad).count()
    }

    fn median(&self) -> Option<Duration> {
        let mut all: Vec<Duration> =
            self.window.iter().map(|answer| answer.unwrap_or(Duration::MAX)).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().filter(|median| *median < Duration::MAX)
    }

    /// In percent.
    fn lost(&self) -> u8 {
        let lost = self.window.iter().filter(|answer| answer.is_none()).count();
        u8::try_from(lost * 100 / self.window.len().max(1)).expect("at most a hundred")
    }
}

// === impl Saturated ===

impl fmt::Display for Saturated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent_bps, received_bps, capacity_bps, took, usual, lost } = self;
        let [sent, received] = [sent_bps, received_bps].map(|bps| mbits(*bps));
        write!(f, "saturated: sends {sent} and receives {received} Mbit/s")?;
        if let Some(capacity) = capacity_bps {
            write!(f, " of {}", mbits(*capacity))?;
        }
        match took {
            Some(took) => write!(f, ", packets take {}", millis(*took))?,
            None => write!(f, ", most packets are lost")?,
        }
        if let (Some(usual), Some(_)) = (usual, took) {
            write!(f, " instead of {}", millis(*usual))?;
        }
        write!(f, ", {lost} % get lost")
    }
}

fn mbits(bps: u64) -> String {
    let tenths = bps.saturating_add(50_000) / 100_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn millis(time: Duration) -> String {
    let tenths = time.as_micros().saturating_add(50) / 100;
    format!("{}.{} ms", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests;
