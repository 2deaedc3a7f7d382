//! Whether a link whose ends watch each other is believed to carry packets: fast to doubt, slow to
//! believe again, and never because of what the far end does not run.
//!
//! A session that was up and broke off is a reason to doubt; one that never came up is none, since
//! the far end may not watch yet. What has another explanation is no reason either: the far end
//! said that it stops, or the interface was away at that time, which is told by other means. After
//! a break the session has to stay up for a while, longer each time, so that a link that comes and
//! goes does not take traffic along.
//!
//! Interfaces that come and go have a rule of the same kind in [`flaps`].
//!
//! Crash story: made anew with the process; [`Trust::recalled`] begins with what was known.

pub mod flaps;
mod setbacks;

use std::time::Duration;

use setbacks::Setbacks;

/// Why a session went down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fall {
    /// Nothing was heard for the detection time.
    Silence,
    /// The far end hears nothing, or has begun anew.
    Signalled,
    /// One of the ends was told to stop: that says nothing about the link.
    Stopped,
}

/// How fast the session is that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The time between two packets of the far end.
    pub interval: Duration,
    /// After this much silence it counts as lost.
    pub detection: Duration,
}

/// What is believed of one family of one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    state: State,
    present: bool,
    /// The session was up since the far end stopped it last, if it did.
    was_up: bool,
    /// When the interface last came back.
    returned: Option<Duration>,
    breaks: Setbacks,
    hold: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing speaks against it. `due`: when it is doubted unless it comes up.
    Unproven {
        due: Due,
    },
    Proven,
    /// `since`: when this process has come to doubt it.
    Doubted {
        since: Option<Duration>,
        up: Option<Duration>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Never,
    /// Some time after the interface is back.
    OnReturn,
    At(Duration),
}

/// A belief in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belief {
    /// Used, and not watched: the session was not up yet, or one end has stopped it.
    Unproven,
    Proven,
    /// Not used where there is another way.
    Doubted,
    /// As doubted; the session is up again and has to stay so for a while.
    Probation,
}

/// What an absence of the interface explains, before and after it.
const GRACE: Duration = Duration::from_secs(1);
/// How long a session may take to come up where the far end is heard: some tries, a second apart.
const HEARD: Duration = Duration::from_secs(5);
/// The same where it was up before, and the interface was away.
const RETURN: Duration = Duration::from_secs(10);
/// Packets that must have come in a row, after the first break.
const RISE: u32 = 20;
/// The least time on probation.
const LEAST: Duration = Duration::from_secs(1);

// === impl Belief ===

impl Belief {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unproven => "unproven",
            Self::Proven => "proven",
            Self::Doubted => "doubted",
            Self::Probation => "probation",
        }
    }

    pub fn is_doubt(self) -> bool {
        matches!(self, Self::Doubted | Self::Probation)
    }
}

// === impl Trust ===

impl Default for Trust {
    fn default() -> Self {
        Self {
            state: State::Unproven { due: Due::Never },
            present: true,
            was_up: false,
            returned: None,
            breaks: Setbacks::default(),
            hold: LEAST,
        }
    }
}

impl Trust {
    /// Doubted by a process before this one.
    pub fn recalled(pace: Pace) -> Self {
        let hold = first_hold(pace).min(setbacks::MOST);
        Self { state: State::Doubted { since: None, up: None }, hold, ..Self::default() }
    }

    pub fn belief(&self) -> Belief {
        match self.state {
            State::Unproven { .. } => Belief::Unproven,
            State::Proven => Belief::Proven,
            State::Doubted { up: None, .. } => Belief::Doubted,
            State::Doubted { up: Some(_), .. } => Belief::Probation,
        }
    }

    /// The session came up.
    pub fn up(&mut self, now: Duration) {
        self.was_up = true;
        match &mut self.state {
            State::Unproven { .. } => self.state = State::Proven,
            State::Proven => {}
            State::Doubted { up, .. } => *up = up.or(Some(now)),
        }
    }

    /// The session went down.
    pub fn down(&mut self, fall: Fall, pace: Pace, now: Duration) {
        match (self.state, fall) {
            (State::Doubted { since, .. }, _) => self.state = State::Doubted { since, up: None },
            (_, Fall::Stopped) => {
                self.was_up = false;
                self.state = State::Unproven { due: Due::Never };
            }
            (State::Unproven { .. }, _) => {}
            (State::Proven, Fall::Silence | Fall::Signalled) => match self.explained(pace, now) {
                Some(due) => self.state = State::Unproven { due },
                None => self.doubt(pace, now),
            },
        }
    }

    /// A packet of the far end came while the session is not up. `stopped`: it said that it was
    /// told to stop.
    pub fn heard(&mut self, stopped: bool, now: Duration) {
        let State::Unproven { due } = &mut self.state else { return };
        match (stopped, *due) {
            (true, _) => *due = Due::Never,
            (false, Due::Never) if self.present => *due = Due::At(now + HEARD),
            (false, _) => {}
        }
    }

    /// The far end that was heard is silent again: it may have ended, which says nothing.
    pub fn unheard(&mut self) {
        if let State::Unproven { due: due @ Due::At(_) } = &mut self.state
            && !self.was_up
        {
            *due = Due::Never;
        }
    }

    /// Whether the interface can send, as was last said.
    pub fn is_present(&self) -> bool {
        self.present
    }

    /// The interface can send, or cannot.
    pub fn present(&mut self, present: bool, now: Duration) {
        if self.present == present {
            return;
        }
        self.present = present;
        if present {
            self.returned = Some(now);
            if let State::Unproven { due: due @ Due::OnReturn } = &mut self.state {
                *due = Due::At(now + RETURN);
            }
            return;
        }
        match &mut self.state {
            // The silence was heard of before its cause.
            State::Doubted { since: Some(since), .. } if now.saturating_sub(*since) <= GRACE => {
                self.breaks.take_back();
                self.state = State::Unproven { due: Due::OnReturn };
            }
            State::Unproven { due: due @ Due::At(_) } => *due = Due::OnReturn,
            State::Unproven { .. } | State::Proven | State::Doubted { .. } => {}
        }
    }

    /// Believes or doubts what has been waited for long enough.
    pub fn tick(&mut self, pace: Pace, now: Duration) {
        if self.deadline().is_none_or(|at| now < at) {
            return;
        }
        match self.state {
            State::Doubted { .. } => self.state = State::Proven,
            State::Unproven { .. } => self.doubt(pace, now),
            State::Proven => {}
        }
    }

    /// When [`Self::tick`] changes something.
    pub fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Unproven { due: Due::At(at) } if self.present => Some(at),
            State::Doubted { up: Some(up), .. } => Some(up + self.hold),
            State::Unproven { .. } | State::Proven | State::Doubted { up: None, .. } => None,
        }
    }

    /// A break while the interface was away, or just has been, says nothing new.
    fn explained(&self, pace: Pace, now: Duration) -> Option<Due> {
        if !self.present {
            return Some(Due::OnReturn);
        }
        let recent = |at: &Duration| now <= *at + pace.detection + GRACE;
        self.returned.filter(recent).map(|_| Due::At(now + RETURN))
    }

    fn doubt(&mut self, pace: Pace, now: Duration) {
        self.hold = self.breaks.another(first_hold(pace), now);
        self.state = State::Doubted { since: Some(now), up: None };
    }
}

/// How long it has to stay up after a break that has none before it.
fn first_hold(pace: Pace) -> Duration {
    (pace.interval * RISE).max(LEAST)
}

#[cfg(test)]
mod tests;
