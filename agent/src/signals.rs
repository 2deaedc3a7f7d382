//! What is asked of a running agent from outside, by signals, and what becomes of the files then:
//! SIGTERM and SIGINT stop it, SIGHUP reads them again. Files with mistakes never end an agent that
//! runs.
//!
//! Crash story: nothing is kept; a process that is gone hears no signal.

use std::path::Path;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{ConfigError, Loaded, load};

/// What people and the service manager ask for. They are heard from one start to the next: a signal
/// in the middle of a reload is not lost.
pub(crate) struct Signals {
    pub(crate) terminate: Signal,
    pub(crate) interrupt: Signal,
    pub(crate) hangup: Signal,
}

// === impl Signals ===

impl Signals {
    pub(crate) fn open() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }
}

/// The files as they are now, or those of before where they have mistakes: who reads the journal
/// again was not asked to by anybody.
pub(crate) fn again(path: &Path, before: impl FnOnce() -> Loaded) -> Loaded {
    tracing::warn!("What was read does not count any more: reading the journal again.");
    load(path).unwrap_or_else(|refused| {
        tell_mistakes(&refused);
        before()
    })
}

pub(crate) fn tell_mistakes(refused: &ConfigError) {
    for diagnostic in &refused.diagnostics {
        tracing::error!("{diagnostic}");
    }
    tracing::error!("The files have mistakes; the agent keeps what it has.");
}
