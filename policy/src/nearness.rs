//! How far sites are from each other by the clock: what a border tells of a link it has measured,
//! and what follows for pairs of sites.
//!
//! Measured times tremble, and clients must not be moved by that. So there are two stages, and only
//! the first remembers anything. [`Gauge`], at the end that measures, tells a time, and tells it
//! on until what it measures has left it by more than a tenth. [`between`] and [`is_nearer`] are
//! functions of what was told: every name server that has read the same reports puts the sites in
//! the same order, whatever it had before, and whenever it was started.
//!
//! It never says that a link is usable or not: silence here is no measurement, and nothing more.
//!
//! Crash story: a gauge is made anew with the process, and tells nothing before its window is full;
//! others go on with what it told last.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::fabric::Fabric;
use crate::id::{LinkId, NodeId, SiteId};

/// Round-trip times from the first site of each pair to the second, over the cheapest links.
pub type RoundTrips = BTreeMap<(SiteId, SiteId), Duration>;

/// What was told: by which node, of which of its links.
pub type Told = BTreeMap<(NodeId, LinkId), Duration>;

/// Questions whose least answer is what a gauge has measured.
pub const WINDOW: usize = 8;
/// Answers in the window without which nothing is measured.
const ENOUGH: usize = WINDOW / 2;
/// Differences below this are no distance: a switch more, an interrupt later.
pub const GRAIN: Duration = Duration::from_micros(200);
/// Longer round trips count as no answer.
pub const LONGEST: Duration = Duration::from_secs(2);
/// How long a time that was changed is told before it may be changed again.
pub const HOLD: Duration = Duration::from_secs(60);
/// After so long without a measurement nothing is told any more, and what was told is forgotten.
pub const FORGET: Duration = Duration::from_secs(600);

/// One end's measurement of one link.
///
/// The least time of a window is taken: queues come and go with the load, and if they moved
/// clients, clients would move the queues.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gauge {
    window: VecDeque<Option<Duration>>,
    told: Option<Duration>,
    /// When the last measurement was made.
    measured: Option<Duration>,
    /// When what is told was last changed to another time.
    changed: Option<Duration>,
}

// === impl Gauge ===

impl Gauge {
    /// Takes in the answer to one question, or that there was none; true when what is told changed.
    /// `now` never goes back.
    pub fn take(&mut self, answer: Option<Duration>, now: Duration) -> bool {
        self.window.push_back(answer.filter(|rtt| *rtt <= LONGEST));
        while self.window.len() > WINDOW {
            self.window.pop_front();
        }
        let before = self.told;
        match (self.least(), self.told) {
            (Some(least), None) => (self.measured, self.told) = (Some(now), Some(least)),
            (Some(least), Some(told)) => {
                self.measured = Some(now);
                let held = self.changed.is_some_and(|at| now < at + HOLD);
                if !held && is_another(told, least) {
                    (self.changed, self.told) = (Some(now), Some(least));
                }
            }
            (None, _) if self.measured.is_some_and(|at| now >= at + FORGET) => self.told = None,
            (None, _) => {}
        }
        self.told != before
    }

    /// The least time in the window; `None` while too little has come back.
    pub fn least(&self) -> Option<Duration> {
        let answers = || self.window.iter().flatten();
        let enough = self.window.len() >= WINDOW && answers().count() >= ENOUGH;
        answers().min().copied().filter(|_| enough)
    }

    /// What others are told.
    pub fn told(&self) -> Option<Duration> {
        self.told
    }
}

/// A tenth, and at least [`GRAIN`].
fn margin(rtt: Duration) -> Duration {
    (rtt / 10).max(GRAIN)
}

/// True when `measured` has left what is told.
fn is_another(told: Duration, measured: Duration) -> bool {
    told.abs_diff(measured) > margin(told)
}

/// Whether a site at `rtt` comes before one at `other` that would otherwise be first: only when it
/// is nearer by more than a tenth.
pub fn is_nearer(rtt: Duration, other: Duration) -> bool {
    rtt + margin(other) < other
}

/// What the nodes tell, as times between sites: of the cheapest links between two sites the least
/// time that the near end tells, else the far end, since a round trip has one length.
pub fn between(fabric: &Fabric, told: &Told) -> RoundTrips {
    let mut found = RoundTrips::new();
    for link in &fabric.links {
        let [a, b] = fabric.joined_by(link);
        if fabric.link_cost(a, b) != Some(link.cost) {
            continue;
        }
        let by = |node: &NodeId| told.get(&(node.clone(), link.id.clone())).copied();
        let (at_a, at_b) = (by(&link.a.node), by(&link.b.node));
        for (from, to, rtt) in [(a, b, at_a.or(at_b)), (b, a, at_b.or(at_a))] {
            let Some(rtt) = rtt else { continue };
            let least = found.entry((from.clone(), to.clone())).or_insert(rtt);
            *least = rtt.min(*least);
        }
    }
    found
}

#[cfg(test)]
mod tests;
