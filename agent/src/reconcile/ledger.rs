//! What went wrong with which object, when it is tried again, and which objects are fought over.
//!
//! An object that fails gets a time for its next try and holds nothing else up. An object that
//! somebody else changes again and again is put back a number of times and then left alone: two
//! programs that correct each other for ever are worse than one wrong object that is told.
//!
//! It never touches the kernel and reads no clock. Crash story: a restart forgets, and begins with
//! fresh budgets.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use nett_policy::lower::object::NodeState;
use nett_policy::plan::Object;
use tokio::time::Instant;

use super::value::Value;
use crate::kernel::KernelError;
use crate::rng::Rng;

/// First and longest pause before an object is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// How often an object is put back within [`WINDOW`] before it is left alone.
pub const REPAIRS: usize = 20;
pub const WINDOW: Duration = Duration::from_secs(60);
/// How long an object is left alone before it gets a new budget.
pub const LEFT_ALONE: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(super) struct Ledger {
    troubles: BTreeMap<Object, Trouble>,
    repairs: BTreeMap<Object, VecDeque<Instant>>,
    contests: BTreeMap<Object, Contest>,
}

#[derive(Debug)]
struct Trouble {
    attempts: u32,
    due: Instant,
    error: KernelError,
}

/// An object that is left as somebody else makes it.
#[derive(Debug)]
struct Contest {
    until: Instant,
    text: String,
}

// === impl Ledger ===

impl Ledger {
    /// Why the object is not touched now.
    pub(super) fn hold(&self, object: &Object, now: Instant) -> Option<&str> {
        if let Some(contest) = self.contests.get(object)
            && now < contest.until
        {
            return Some(&contest.text);
        }
        let trouble = self.troubles.get(object)?;
        (now < trouble.due).then_some("waits for its next try")
    }

    /// What the operator is told about the object, if anything is wrong with it.
    pub(super) fn why(&self, object: &Object) -> Option<String> {
        if let Some(contest) = self.contests.get(object) {
            return Some(contest.text.clone());
        }
        self.troubles.get(object).map(|trouble| super::chain(&trouble.error))
    }

    /// True when more than another look is needed for the object. What only was not as it had been
    /// read says nothing where it had not been read whole.
    pub(super) fn is_refused(&self, object: &Object) -> bool {
        let refused = |trouble: &Trouble| !matches!(trouble.error, KernelError::Stale { .. });
        self.contests.contains_key(object) || self.troubles.get(object).is_some_and(refused)
    }

    /// Notes a failure and when to try again. One lost answer is nobody's trouble: what was asked
    /// for is read back, and tried again at once if it is not there.
    pub(super) fn failed(
        &mut self,
        object: Object,
        error: KernelError,
        now: Instant,
        rng: &mut Rng,
    ) {
        let attempts = self.troubles.get(&object).map_or(0, |t| t.attempts);
        let lost = attempts == 0 && matches!(error, KernelError::Unanswered { .. });
        let due = if lost { now } else { now + pause(attempts, rng) };
        let trouble = Trouble { attempts: attempts.saturating_add(1), due, error };
        self.troubles.insert(object, trouble);
    }

    pub(super) fn done(&mut self, object: &Object) {
        self.troubles.remove(object);
    }

    /// Forgets what is no longer in question.
    pub(super) fn keep(&mut self, left: impl Fn(&Object) -> bool) {
        self.troubles.retain(|object, _| left(object));
    }

    /// Something changed that may have been in the way: what failed because of it is tried at once.
    pub(super) fn wake(&mut self, now: Instant, cured: impl Fn(&KernelError) -> bool) {
        for trouble in self.troubles.values_mut().filter(|t| cured(&t.error)) {
            trouble.due = now;
        }
    }

    /// A new desired state: everything is tried, and what is to become something else is no
    /// longer left alone.
    pub(super) fn wish(&mut self, before: Option<&NodeState>, desired: &NodeState, now: Instant) {
        self.wake(now, |_| true);
        let same = |object: &Object, before: &NodeState| {
            Value::of(object, before) == Value::of(object, desired)
        };
        self.contests.retain(|object, _| before.is_some_and(|before| same(object, before)));
    }

    /// Notes that an object has to be put back because another program changed it. Gives the text
    /// for the alarm when that was once too often.
    pub(super) fn repair(
        &mut self,
        object: &Object,
        writer: Option<String>,
        now: Instant,
    ) -> Option<&str> {
        if self.contests.get(object).is_some_and(|contest| now < contest.until) {
            return None;
        }
        self.contests.remove(object);
        let times = self.repairs.entry(object.clone()).or_default();
        while times.front().is_some_and(|first| now.duration_since(*first) > WINDOW) {
            times.pop_front();
        }
        times.push_back(now);
        if times.len() <= REPAIRS {
            return None;
        }
        self.repairs.remove(object);
        let writer = writer.unwrap_or_else(|| "another program".to_owned());
        let text = format!(
            "left alone for {} s: put back {REPAIRS} times within {} s, and changed again by \
             {writer}",
            LEFT_ALONE.as_secs(),
            WINDOW.as_secs()
        );
        let contest = Contest { until: now + LEFT_ALONE, text };
        Some(&self.contests.entry(object.clone()).or_insert(contest).text)
    }

    /// Drops budgets that nothing was taken from for a while, and contests that are over.
    pub(super) fn tidy(&mut self, now: Instant) {
        let recent = |times: &VecDeque<Instant>| {
            times.back().is_some_and(|last| now.duration_since(*last) <= WINDOW)
        };
        self.repairs.retain(|_, times| recent(times));
        self.contests.retain(|_, contest| now < contest.until);
    }

    /// When something is to be tried again, if anything.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let troubles = self.troubles.values().map(|t| t.due);
        troubles.chain(self.contests.values().map(|c| c.until)).min()
    }

    pub(super) fn contested(&self) -> usize {
        self.contests.len()
    }
}

/// Doubles with each attempt up to the longest, and differs by up to a quarter, so that what failed
/// together is not tried together for ever.
pub(super) fn pause(attempts: u32, rng: &mut Rng) -> Duration {
    let (first, longest) = RETRY;
    let doubled = first.saturating_mul(1u32.checked_shl(attempts).unwrap_or(u32::MAX));
    let pause = doubled.min(longest);
    pause.mul_f64(0.75 + 0.25 * rng.share())
}

#[cfg(test)]
mod tests {
    use nett_policy::lower::object::NexthopId;

    use super::*;

    const OBJECT: Object = Object::Nexthop(NexthopId(1));

    fn error() -> KernelError {
        KernelError::Stale { object: "x".to_owned(), reason: "a test".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_a_bound_and_are_forgotten_after_success() {
        let (mut ledger, mut rng) = (Ledger::default(), Rng::seeded(1));
        let now = Instant::now();
        let mut last = Duration::ZERO;
        for attempt in 0..40 {
            ledger.failed(OBJECT, error(), now, &mut rng);
            let due = ledger.next_due().expect("failed") - now;
            assert!(due <= RETRY.1 && due >= last.mul_f64(0.75), "{attempt}: {due:?}");
            assert!(ledger.hold(&OBJECT, now).is_some());
            assert!(ledger.hold(&OBJECT, now + RETRY.1).is_none());
            last = due;
        }
        assert!(last > RETRY.1.mul_f64(0.7));
        ledger.done(&OBJECT);
        assert_eq!(ledger.next_due(), None);
        ledger.failed(OBJECT, error(), now, &mut rng);
        assert!(ledger.next_due().expect("failed") - now <= RETRY.0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_as_it_had_been_read_is_told_and_not_refused() {
        let (mut ledger, mut rng) = (Ledger::default(), Rng::seeded(1));
        ledger.failed(OBJECT, error(), Instant::now(), &mut rng);
        assert!(ledger.why(&OBJECT).is_some() && !ledger.is_refused(&OBJECT));
        let (object, errno) = ("x".to_owned(), nix::errno::Errno::EINVAL);
        let refused = KernelError::Refused { object, errno, text: None };
        ledger.failed(OBJECT, refused, Instant::now(), &mut rng);
        assert!(ledger.is_refused(&OBJECT));
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_first_lost_answer_it_is_tried_at_once_and_later_after_a_pause() {
        let (mut ledger, mut rng) = (Ledger::default(), Rng::seeded(1));
        let now = Instant::now();
        let lost = || KernelError::Unanswered { object: "x".to_owned() };
        ledger.failed(OBJECT, lost(), now, &mut rng);
        assert_eq!(ledger.hold(&OBJECT, now), None);
        ledger.failed(OBJECT, lost(), now, &mut rng);
        assert!(ledger.hold(&OBJECT, now).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_is_put_back_so_often_and_then_left_alone_for_a_while() {
        let mut ledger = Ledger::default();
        let start = Instant::now();
        let at = |n: u64| start + Duration::from_secs(n);
        for n in 0..REPAIRS {
            assert_eq!(ledger.repair(&OBJECT, None, at(n as u64)), None, "{n}");
        }
        let text = ledger.repair(&OBJECT, Some("bird (pid 7)".to_owned()), at(20));
        assert!(text.is_some_and(|t| t.contains("bird (pid 7)")), "{text:?}");
        assert!(ledger.hold(&OBJECT, at(21)).is_some());
        let over = at(20) + LEFT_ALONE;
        assert!(ledger.hold(&OBJECT, over).is_none());
        assert_eq!(ledger.repair(&OBJECT, None, over), None, "a fresh budget");
        assert_eq!(ledger.contested(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_far_apart_are_repaired_for_ever() {
        let mut ledger = Ledger::default();
        let start = Instant::now();
        for n in 0..100 {
            let now = start + WINDOW.mul_f64(0.052 * f64::from(n));
            assert_eq!(ledger.repair(&OBJECT, None, now), None, "{n}");
        }
    }
}
