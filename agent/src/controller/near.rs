//! How far sites are from each other, for the zone: what the borders tell in their reports, and
//! what the own node tells itself.
//!
//! Nothing of it is an entry of the log. What a node told stays after a report that lacks it, since
//! a border that starts has not measured yet, and is forgotten when it is old. A site that is cut
//! off forgets nothing meanwhile. The zone hears of it only when something changed, and makes a new
//! snapshot only where that changes somebody's order.
//!
//! Crash story: gone with the process; the bus delivers the last report of every node again. A site
//! that is cut off and started anew goes by rank until it has measured or heard.

use std::collections::BTreeMap;
use std::time::Duration;

use nett_policy::id::{LinkId, NodeId};
use nett_policy::nearness::{FORGET, RoundTrips, Told, between};

use super::Controller;
use super::effect::Effect;
use super::event::Now;
use crate::bus::wire::Report;

#[derive(Debug, Default)]
pub(super) struct Near {
    own: BTreeMap<LinkId, Duration>,
    /// What other nodes told, and when they said so last.
    heard: BTreeMap<(NodeId, LinkId), (Duration, Duration)>,
    /// True when something was told that `wanted` does not have.
    changed: bool,
    /// The zone is to know these.
    wanted: RoundTrips,
    /// It could not take them.
    failed: bool,
    /// When it is asked whether something is old, or the zone asked again.
    look: Duration,
}

/// The time between two looks for what is old.
const LOOK: Duration = Duration::from_secs(10);

// === impl Near ===

impl Near {
    /// What this node tells.
    pub(super) fn own(&mut self, told: BTreeMap<LinkId, Duration>) {
        self.changed |= self.own != told;
        self.own = told;
    }

    pub(super) fn own_told(&self) -> &BTreeMap<LinkId, Duration> {
        &self.own
    }

    /// What another node told, `age` ago at the time `at`.
    pub(super) fn take(&mut self, report: &Report, age: Duration, at: Duration) {
        if age >= FORGET {
            return;
        }
        for (link, rtt) in &report.rtts {
            let known = self.heard.insert((report.node.clone(), link.clone()), (*rtt, at));
            self.changed |= known.is_none_or(|(known, _)| known != *rtt);
        }
    }

    /// Forgets what was not said for too long; while cut off that time stands still.
    fn forget(&mut self, cut_off: bool, now: Duration) {
        let before = self.heard.len();
        for (_, at) in self.heard.values_mut().filter(|_| cut_off) {
            *at = now;
        }
        self.heard.retain(|_, (_, at)| now < *at + FORGET);
        self.changed |= self.heard.len() != before;
    }
}

// === impl Controller ===

impl Controller {
    pub(super) fn near(&mut self, now: Now) {
        if now.mono >= self.near.look {
            self.near.look = now.mono + LOOK;
            let cut_off = self.isolated_since(now).is_some();
            self.near.forget(cut_off, now.mono);
            self.near.changed |= self.near.failed;
        }
        if !std::mem::take(&mut self.near.changed) {
            return;
        }
        let fabric = &self.setting.fabric;
        let own = self.near.own.iter();
        let own = own.map(|(link, rtt)| ((self.setting.node.id.clone(), link.clone()), *rtt));
        // Of links that do not end there nobody knows anything.
        let ends = |(node, link): &(NodeId, LinkId)| {
            fabric.links_of(node).any(|view| view.link.id == *link)
        };
        let heard = self.near.heard.iter().filter(|(of, _)| ends(of));
        let told: Told = own.chain(heard.map(|(of, (rtt, _))| (of.clone(), *rtt))).collect();
        let wanted = between(fabric, &told);
        if wanted != self.near.wanted || std::mem::take(&mut self.near.failed) {
            self.near.wanted = wanted.clone();
            self.effects.push(Effect::Near(wanted));
        }
    }

    pub(super) fn ordered(&mut self, result: Result<u32, String>) {
        match result {
            Ok(serial) => self.doing.renumbered(serial),
            // Asked again with the next look; the driver has logged why.
            Err(_) => self.near.failed = true,
        }
    }
}
