//! One BFD session in asynchronous mode (RFC 5880 section 6.8), as a machine without socket, timer,
//! thread or randomness: packets, the time and a number for the jitter are arguments; packets to
//! send and the next deadline are results.
//!
//! ```text
//!              +-----------------------------+
//!              |   Down, silence             |
//!     Down  +--v---+  Down   +------+  Init, Up  +----+
//!    +----->| Down |-------->| Init |----------->| Up |---> Down, AdminDown, silence: Down
//!    stays  +------+         +------+            +----+
//!              |      Init                          ^
//!              +------------------------------------+
//! ```
//! The arrows are the state in the far end's packet. AdminDown from it leads to Down from
//! everywhere.
//!
//! A session begins by saying AdminDown once, half a second before it begins in earnest: a far end
//! that still believes in the session of a process before this one takes it down knowing that
//! nothing failed (RFC 5882 section 3.2). Demand mode is never asked for; where the far end asks
//! for it, it is given what section 6.6 says.
//!
//! Crash story: nothing is kept; see above.

use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use nett_policy::fabric::Bfd;
use nett_policy::trust::{Fall, Pace};

use super::packet::{Diagnostic, Packet, State};

/// The least time between packets while the session is not up (RFC 5880 section 6.8.3).
pub const SLOW: Duration = Duration::from_secs(1);
/// From the first packet, which says AdminDown, to the first that asks for a session.
pub const ANNOUNCED: Duration = Duration::from_millis(500);
/// What the far end can take before it has said anything (RFC 5880 section 6.8.1).
const UNKNOWN_RX: Duration = Duration::from_micros(1);

/// What the far end last said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    pub state: State,
    pub diagnostic: Diagnostic,
    discriminator: u32,
    required_rx: Duration,
    desired_tx: Duration,
    multiplier: NonZeroU8,
    demand: bool,
}

/// The session went from one state to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub from: State,
    pub to: State,
    /// Given where it went down.
    pub fall: Option<Fall>,
    /// How fast it was before.
    pub pace: Pace,
}

/// Why a packet that is well formed is none for this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("it is for another session")]
    Discriminator,
    #[error("it knows no discriminator and says that it does")]
    NoDiscriminator,
    #[error("this end is administratively down")]
    AdminDown,
}

#[derive(Debug, Clone)]
pub struct Session {
    discriminator: NonZeroU32,
    settings: Bfd,
    state: State,
    diagnostic: Diagnostic,
    remote: Option<Remote>,
    /// When the last packet came that was not refused; none once it is too long ago.
    heard: Option<Duration>,
    /// What packets say, and what holds until the far end has confirmed it.
    told: Timers,
    held: Timers,
    poll: bool,
    /// The far end's poll is not answered yet.
    owes_answer: bool,
    /// A packet would say something that the last one did not.
    news: bool,
    sent: Option<Duration>,
    /// The next packet leaves with those of other sessions.
    joins: bool,
    /// Drawn with the last packet, for the time until the next.
    jitter: u8,
    /// When the session begins in earnest, once its first packet is sent.
    begins: Option<Duration>,
    stopped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Timers {
    tx: Duration,
    rx: Duration,
}

// === impl Session ===

impl Session {
    pub fn new(discriminator: NonZeroU32, settings: Bfd) -> Self {
        let timers = Timers { tx: settings.tx.max(SLOW), rx: settings.rx };
        Self {
            discriminator,
            settings,
            state: State::AdminDown,
            diagnostic: Diagnostic::ADMIN_DOWN,
            remote: None,
            heard: None,
            told: timers,
            held: timers,
            poll: false,
            owes_answer: false,
            news: true,
            sent: None,
            joins: false,
            jitter: 0,
            begins: None,
            stopped: false,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    /// What is known of the far end; none before it was heard, or after its silence.
    pub fn remote(&self) -> Option<&Remote> {
        self.remote.as_ref()
    }

    /// The time between two packets of this end, before jitter (RFC 5880 section 6.8.2).
    pub fn interval(&self) -> Duration {
        let remote = self.remote.map_or(UNKNOWN_RX, |remote| remote.required_rx);
        self.held.tx.max(remote)
    }

    /// How fast the far end's packets come, and after which silence it counts as lost: by *its*
    /// multiplier (RFC 5880 section 6.8.4).
    pub fn pace(&self) -> Pace {
        let (tx, times) = self.remote.map_or((SLOW, 1), |r| (r.desired_tx, r.multiplier.get()));
        let interval = self.held.rx.max(tx);
        Pace { interval, detection: interval * u32::from(times) }
    }

    /// Ends the session: the far end is told that nothing failed. For good.
    pub fn stop(&mut self) -> Option<Change> {
        (self.stopped, self.begins) = (true, None);
        self.enter(State::AdminDown, Diagnostic::ADMIN_DOWN, Some(Fall::Stopped))
    }

    /// Takes other timers on, with a poll sequence where the session is up.
    pub fn set(&mut self, settings: Bfd) {
        if self.settings == settings {
            return;
        }
        self.settings = settings;
        self.news = true;
        self.tell(match self.state {
            State::Up => Timers { tx: settings.tx, rx: settings.rx },
            _ => Timers { tx: settings.tx.max(SLOW), rx: settings.rx },
        });
    }

    /// Takes in a packet of the far end.
    ///
    /// # Errors
    /// When it is none for this session; then nothing has changed.
    pub fn receive(&mut self, packet: &Packet, now: Duration) -> Result<Option<Change>, Refused> {
        match packet.your_discriminator {
            0 if packet.state >= State::Init => return Err(Refused::NoDiscriminator),
            0 => {}
            yours if yours != self.discriminator.get() => return Err(Refused::Discriminator),
            _ => {}
        }
        if self.state == State::AdminDown {
            return Err(Refused::AdminDown);
        }
        let pace = self.pace();
        self.remote = Some(Remote {
            state: packet.state,
            diagnostic: packet.diagnostic,
            discriminator: packet.my_discriminator.get(),
            required_rx: packet.required_rx,
            desired_tx: packet.desired_tx,
            multiplier: packet.multiplier,
            demand: packet.demand,
        });
        self.heard = Some(now);
        if packet.answer && self.poll {
            self.poll = false;
            self.held = self.told;
        }
        self.owes_answer |= packet.poll;
        let change = match (self.state, packet.state) {
            (State::AdminDown | State::Down, State::AdminDown) => None,
            (State::Init | State::Up, State::AdminDown) => {
                self.enter(State::Down, Diagnostic::SIGNALLED, Some(Fall::Stopped))
            }
            (State::Down, State::Down) => self.enter(State::Init, self.diagnostic, None),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.enter(State::Up, Diagnostic::NONE, None)
            }
            (State::Up, State::Down) => {
                self.enter(State::Down, Diagnostic::SIGNALLED, Some(Fall::Signalled))
            }
            (State::AdminDown, State::Down | State::Init | State::Up)
            | (State::Down, State::Up)
            | (State::Init, State::Down)
            | (State::Up, State::Init | State::Up) => None,
        };
        Ok(change.map(|change| Change { pace, ..change }))
    }

    /// What the time alone changes: the far end was silent for too long, or the session begins.
    pub fn check(&mut self, now: Duration) -> Option<Change> {
        if self.begins.is_some_and(|at| now >= at) {
            self.begins = None;
            return self.enter(State::Down, Diagnostic::NONE, None);
        }
        if self.expires().is_none_or(|at| now < at) {
            return None;
        }
        let pace = self.pace();
        // RFC 5880 section 6.8.1: who is silent for so long may be somebody else afterwards.
        (self.heard, self.remote, self.owes_answer) = (None, None, false);
        let change = match self.state {
            State::Init | State::Up => {
                self.enter(State::Down, Diagnostic::EXPIRED, Some(Fall::Silence))
            }
            State::AdminDown | State::Down => None,
        };
        change.map(|change| Change { pace, ..change })
    }

    /// This end was not there for so long: what was not taken in meanwhile is no silence of the far
    /// end.
    pub fn excuse(&mut self, away: Duration, now: Duration) {
        self.heard = self.heard.map(|heard| (heard + away).min(now));
    }

    /// Whether the time for the next of the packets has come that are sent again and again.
    pub fn is_due(&self, now: Duration) -> bool {
        self.repeats(self.jitter).is_some_and(|at| now >= at)
    }

    /// Packets of other sessions leave now. The next one of this session joins them if it may leave
    /// already: many that leave at once wake both ends once.
    pub fn join(&mut self, now: Duration) {
        self.joins = self.repeats(0).is_some_and(|at| now >= at);
    }

    /// Whether silence would now count against the far end.
    pub fn is_expired(&self, now: Duration) -> bool {
        self.expires().is_some_and(|at| now >= at)
    }

    /// The packet that is due, if one is; `jitter` is any number.
    pub fn packet(&mut self, now: Duration, jitter: u8) -> Option<Packet> {
        // What has come since may say that none is wanted.
        let joins = std::mem::take(&mut self.joins) && self.repeats(0).is_some_and(|at| now >= at);
        if !joins && self.transmits().is_none_or(|at| now < at) {
            return None;
        }
        if self.sent.is_none() && !self.stopped {
            self.begins = Some(now + ANNOUNCED);
        }
        let answer = std::mem::take(&mut self.owes_answer);
        self.news = false;
        (self.sent, self.jitter) = (Some(now), jitter);
        Some(Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            // Never both (RFC 5880 section 6.8.7).
            poll: self.poll && !answer,
            answer,
            independent: false,
            demand: false,
            multiplier: NonZeroU8::new(self.settings.multiplier).unwrap_or(NonZeroU8::MIN),
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.map_or(0, |remote| remote.discriminator),
            desired_tx: self.told.tx,
            required_rx: self.told.rx,
            required_echo_rx: Duration::ZERO,
        })
    }

    /// When [`Self::check`] or [`Self::packet`] has something to do next. A time that has passed
    /// means now.
    pub fn deadline(&self) -> Option<Duration> {
        [self.begins, self.expires(), self.transmits()].into_iter().flatten().min()
    }

    fn expires(&self) -> Option<Duration> {
        let silent = self.state == State::AdminDown;
        self.heard.filter(|_| !silent).map(|heard| heard + self.pace().detection)
    }

    fn transmits(&self) -> Option<Duration> {
        if self.sent.is_none() || self.news || self.owes_answer {
            return Some(Duration::ZERO);
        }
        self.repeats(self.jitter)
    }

    /// When the last packet is followed by the next; never before the first or when the far end
    /// wants none.
    fn repeats(&self, jitter: u8) -> Option<Duration> {
        let wanted = self.remote.is_none_or(|remote| {
            let asleep = remote.demand && self.state == State::Up && remote.state == State::Up;
            !remote.required_rx.is_zero() && (!asleep || self.poll)
        });
        self.sent.filter(|_| wanted).map(|sent| sent + self.jittered(jitter))
    }

    /// Three quarters to the whole of the interval; with a multiplier of 1 at most 90 %, so that
    /// the next packet comes before the detection time ends (RFC 5880 section 6.8.7).
    fn jittered(&self, jitter: u8) -> Duration {
        let most = if self.settings.multiplier == 1 { 900 } else { 1000 };
        let thousandths = 750 + u32::from(jitter) * (most - 750) / 255;
        self.interval() * thousandths / 1000
    }

    fn enter(&mut self, to: State, diagnostic: Diagnostic, fall: Option<Fall>) -> Option<Change> {
        let from = self.state;
        if from == to {
            return None;
        }
        let pace = self.pace();
        (self.state, self.diagnostic, self.news) = (to, diagnostic, true);
        let Bfd { tx, rx, .. } = self.settings;
        if to == State::Up {
            self.tell(Timers { tx, rx });
            // Also where nothing changed: the far end may have read another session's values.
            self.poll = true;
        } else {
            self.poll = false;
            self.told = Timers { tx: tx.max(SLOW), rx };
            self.held = self.told;
        }
        Some(Change { from, to, fall, pace })
    }

    /// RFC 5880 section 6.8.3: while the session is up, packets get rarer, and are missed sooner,
    /// only when the far end has confirmed that it knows.
    fn tell(&mut self, timers: Timers) {
        self.told = timers;
        if self.state == State::Up {
            self.poll = true;
            self.held.tx = self.held.tx.min(timers.tx);
            self.held.rx = self.held.rx.max(timers.rx);
        } else {
            self.held = timers;
        }
    }
}

#[cfg(test)]
mod tests;
