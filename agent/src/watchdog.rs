//! What the service manager is told: that the agent is ready, reads its files again, stops, and,
//! as long as that is so, that its decision maker and the writer of the kernel both go on.
//!
//! A process that is there proves nothing. [`Watchdog`] asks each part a question by its [`Pulse`];
//! a part answers between two pieces of work, never from a task beside it, and only when all have
//! answered the last question is the service manager told. One that hangs is not ended here: the
//! service manager does that, and the start after it. Where nobody wants to be told, nobody is
//! asked.
//!
//! Waiting for a disk is no hang ([`Pulse::during`]): a new process would wait for it too, and
//! meanwhile nobody would mend links or answer questions of DNS.
//!
//! Crash story: nothing is kept; no answer reaches the service manager from a process that is gone.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// Questions within the time after which the service manager thinks the agent hangs
/// (`WATCHDOG_USEC`): two may be answered late.
const QUESTIONS: u32 = 4;

/// How long a reload may take with nothing heard meanwhile, as a start (`TimeoutStartSec` of the
/// unit).
const RELOAD: Duration = Duration::from_secs(300);

/// The answer of a part that waits for a disk.
const EXCUSED: u64 = u64::MAX;

/// Asks the parts of the agent whether they go on.
#[derive(Debug)]
pub struct Watchdog {
    asked: watch::Sender<u64>,
    parts: Vec<(&'static str, watch::Receiver<u64>)>,
}

/// The end of a part.
#[derive(Debug)]
pub struct Pulse {
    asked: watch::Receiver<u64>,
    answered: watch::Sender<u64>,
}

/// What the service manager may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Everything is read, wanted and served.
    Ready,
    /// The files are read again.
    Reloading,
    /// The files that were read again have mistakes; those before count.
    Kept,
    Stopping,
    /// Nothing hangs.
    Alive,
}

// === impl Watchdog ===

impl Default for Watchdog {
    fn default() -> Self {
        Self { asked: watch::channel(0).0, parts: Vec::new() }
    }
}

impl Watchdog {
    /// The end for one more part that must go on, by the name that the log gets.
    pub fn pulse(&mut self, name: &'static str) -> Pulse {
        let (answered, answer) = watch::channel(0);
        self.parts.push((name, answer));
        Pulse { asked: self.asked.subscribe(), answered }
    }

    /// Asks for ever, and calls `alive` whenever all parts have answered the question before.
    /// `within` is the time in which one call is wanted.
    pub async fn run(self, within: Duration, mut alive: impl FnMut()) {
        let mut ticks = interval(within / QUESTIONS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told: Vec<&str> = Vec::new();
        loop {
            ticks.tick().await;
            let question = *self.asked.borrow();
            let is_silent = |answer: u64| answer != question && answer != EXCUSED;
            let silent = self.parts.iter().filter(|(_, answer)| is_silent(*answer.borrow()));
            let silent: Vec<&str> = silent.map(|(name, _)| *name).collect();
            if silent.is_empty() {
                alive();
                self.asked.send_replace(question + 1);
            } else if silent != told {
                tracing::error!(parts = ?silent, "A part of the agent does not answer.");
            }
            told = silent;
        }
    }
}

// === impl Pulse ===

impl Pulse {
    /// For a part that nobody asks.
    pub fn unasked() -> Self {
        Self { asked: watch::channel(0).1, answered: watch::channel(0).0 }
    }

    /// The next question. Cancel safe.
    pub async fn asked(&mut self) {
        if self.asked.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Answers the last question, asked for the first time or again.
    pub fn answer(&mut self) {
        let question = *self.asked.borrow_and_update();
        self.answered.send_replace(question);
    }

    /// As [`Pulse::during`], for work that holds its thread up: no answer is waited for meanwhile.
    pub fn excused<T>(&mut self, work: impl FnOnce() -> T) -> T {
        self.answered.send_replace(EXCUSED);
        let done = work();
        self.answer();
        done
    }

    /// Does work that only waits for a disk, and answers meanwhile.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.asked() => self.answer(),
            }
        }
    }
}

// === the service manager ===

/// The time within which the service manager wants to hear that nothing hangs; `None` where it
/// does not want to.
pub fn wanted_within() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|within| !within.is_zero())
}

/// Tells the service manager, where there is one.
pub fn tell(state: State) {
    let told = match state {
        State::Ready => ready(""),
        State::Reloading => NotifyState::monotonic_usec_now().and_then(|now| {
            let patience = wanted_within().map(|_| within(RELOAD));
            let states = [NotifyState::Reloading, now, NotifyState::Watchdog];
            sd_notify::notify(&Vec::from_iter(states.into_iter().chain(patience)))
        }),
        State::Kept => ready("the files have mistakes, which the log names; those before count"),
        State::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
        State::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
    };
    if let Err(error) = told {
        tracing::debug!(%error, ?state, "The service manager was not told.");
    }
}

/// Ready, with the patience of the unit again.
fn ready(status: &str) -> std::io::Result<()> {
    let states = [NotifyState::Ready, NotifyState::Status(status)];
    let patience = wanted_within().map(within);
    sd_notify::notify(&Vec::from_iter(states.into_iter().chain(patience)))
}

/// The time within which something has to be heard from now on.
fn within(time: Duration) -> NotifyState<'static> {
    NotifyState::WatchdogUsec(u32::try_from(time.as_micros()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Notify;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(30);

    struct Watched {
        calls: Arc<AtomicU32>,
        watchdog: tokio::task::JoinHandle<()>,
    }

    impl Watched {
        fn by(watchdog: Watchdog) -> Self {
            let calls = Arc::new(AtomicU32::new(0));
            let counted = calls.clone();
            let alive = move || {
                counted.fetch_add(1, Ordering::Relaxed);
            };
            Self { calls, watchdog: tokio::spawn(watchdog.run(WITHIN, alive)) }
        }

        /// Calls within so many times of [`WITHIN`].
        async fn calls_in(&self, times: u32) -> u32 {
            let before = self.calls.load(Ordering::Relaxed);
            tokio::time::sleep(WITHIN * times).await;
            self.calls.load(Ordering::Relaxed) - before
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            self.watchdog.abort();
        }
    }

    /// A part that answers until it is given work that does not end.
    async fn part(mut pulse: Pulse, hang: Arc<Notify>) {
        loop {
            tokio::select! {
                () = pulse.asked() => pulse.answer(),
                () = hang.notified() => std::future::pending().await,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_part_that_hangs_ends_the_calls_whatever_the_other_does() {
        for hung in [0, 1] {
            let mut watchdog = Watchdog::default();
            let hang = [Arc::new(Notify::new()), Arc::new(Notify::new())];
            for (name, hang) in ["first", "second"].into_iter().zip(&hang) {
                tokio::spawn(part(watchdog.pulse(name), hang.clone()));
            }
            let watched = Watched::by(watchdog);
            let calls = watched.calls_in(10).await;
            assert!((39..=41).contains(&calls), "{calls} calls");
            hang[hung].notify_one();
            let calls = watched.calls_in(10).await;
            assert!(calls <= 2, "{calls} calls after part {hung} hung");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_is_late_is_called_alive_again() {
        let mut watchdog = Watchdog::default();
        let mut pulse = watchdog.pulse("late");
        let watched = Watched::by(watchdog);
        let calls = watched.calls_in(3).await;
        assert_eq!(calls, 1, "the first, for which nothing was asked");
        pulse.answer();
        assert!(watched.calls_in(1).await >= 1);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_disk_is_no_hang() {
        let mut watchdog = Watchdog::default();
        let mut pulse = watchdog.pulse("writer");
        let watched = Watched::by(watchdog);
        let done = pulse.during(watched.calls_in(10)).await;
        assert!(done >= 39, "{done}");
        // Also where the thread itself waits.
        let (begun, wait) = std::sync::mpsc::channel::<()>();
        let seen = watched.calls.load(Ordering::Relaxed);
        pulse.answered.send_replace(EXCUSED);
        let calls = watched.calls_in(10).await;
        assert!(calls >= 39, "{calls} calls, {seen} before");
        drop(begun);
        pulse.excused(|| wait.recv().expect_err("nobody sends"));
        assert_ne!(*pulse.answered.borrow(), EXCUSED);
        // Nobody is asked, and nothing is waited for either.
        assert_eq!(Pulse::unasked().during(std::future::ready(7)).await, 7);
    }
}
