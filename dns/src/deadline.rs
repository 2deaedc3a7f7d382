//! Until when this name server may send clients to its own site, for services that end by
//! themselves.
//!
//! Times change every few seconds and answers do not, so they are beside the zone and are looked at
//! with every question. A service that is not named here has no limit. Nothing is stored: after a
//! start there are no answers either.

use std::collections::BTreeMap;
use std::time::Instant;

use arc_swap::ArcSwap;
use nett_policy::id::ServiceId;

/// Shared by whoever knows the times and the name server.
#[derive(Debug, Default)]
pub struct Deadlines {
    until: ArcSwap<BTreeMap<ServiceId, Instant>>,
}

impl Deadlines {
    /// Puts these in the place of all others.
    pub fn set(&self, until: BTreeMap<ServiceId, Instant>) {
        self.until.store(std::sync::Arc::new(until));
    }

    /// True when the service had a limit and it has passed: nothing is answered until somebody says
    /// otherwise.
    pub fn is_over(&self, service: &ServiceId) -> bool {
        let until = self.until.load();
        !until.is_empty() && until.get(service).is_some_and(|until| Instant::now() >= *until)
    }
}
