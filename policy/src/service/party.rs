//! Somebody outside of Nett who takes part in the moves of a service: a load balancer, a firewall,
//! an orchestrator.

use std::fmt;
use std::time::Duration;

/// As a service names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// The operator of the fabric who acknowledges, and a word of a subject.
    pub name: String,
    pub when: When,
    /// How long its acknowledgement is waited for. 1 s to 1 h.
    pub timeout: Duration,
    /// Whether it is to take back what it did when the move is taken back.
    pub undo: bool,
}

/// Where in a move somebody outside is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// Behind the last step with which old sites stop.
    AfterWithdraw,
    /// Behind the step with which new sites begin to serve, and its verification.
    AfterActivate,
    /// Before the step with which new sites begin to serve.
    BeforeActivate,
    /// Before the first step with which old sites stop.
    BeforeWithdraw,
}

impl Party {
    /// How long it has where nobody says otherwise.
    pub const TIMEOUT: Duration = Duration::from_secs(30);
    /// The longest time that it may be given.
    pub const LONGEST: Duration = Duration::from_secs(3600);
}

// === impl When ===

impl When {
    pub const ALL: [Self; 4] =
        [Self::BeforeActivate, Self::AfterActivate, Self::BeforeWithdraw, Self::AfterWithdraw];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::BeforeActivate => "before-activate",
            Self::AfterActivate => "after-activate",
            Self::BeforeWithdraw => "before-withdraw",
            Self::AfterWithdraw => "after-withdraw",
        }
    }

    /// The place of the same in the way back, where what was done last is taken back first.
    pub fn mirrored(self) -> Self {
        match self {
            Self::BeforeActivate => Self::AfterWithdraw,
            Self::AfterActivate => Self::BeforeWithdraw,
            Self::BeforeWithdraw => Self::AfterActivate,
            Self::AfterWithdraw => Self::BeforeActivate,
        }
    }

    /// Whether it stands behind a step of Nett's, and not before one.
    pub fn is_after(self) -> bool {
        matches!(self, Self::AfterActivate | Self::AfterWithdraw)
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
