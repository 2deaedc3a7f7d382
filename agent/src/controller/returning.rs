//! Coming back: what the others know is read before anything leased is served again.
//!
//! While a site was dark, a service may have been taken over without a majority of the voters
//! (adr/0061). Two sites that return at one moment are such a majority, and would serve what their
//! own logs say until they have read of it. So an agent that finds its gate shut when it begins
//! waits until it has read every log as far as an agent of each other site had it when it was first
//! heard, or for [`AT_MOST`] once voters answer: a site that stays dark must not keep the others
//! from serving. Where the gate is still open nothing waits: what is served goes on.
//!
//! Nor does anything wait before a majority was heard: what is served then is served without one,
//! and whoever does that is no site that returns.
//!
//! Nothing of it is kept: another start begins anew.

use std::collections::BTreeMap;
use std::time::Duration;

use nett_policy::id::SiteId;
use nett_policy::lease::rule::quorum_of;

use super::Controller;
use crate::bus::wire::Report;

/// How long the others are waited for, from when a majority of the voters was first heard.
const AT_MOST: Duration = Duration::from_secs(15);

#[derive(Debug, Default)]
pub(super) struct Returning {
    /// By site: how far one of its agents had read each log when it was first heard.
    goals: BTreeMap<SiteId, BTreeMap<SiteId, u64>>,
    /// When a majority of the voters was first heard.
    heard: Option<Duration>,
    over: bool,
}

// === impl Returning ===

impl Returning {
    /// A report that was made while this process ran.
    pub(super) fn hear(&mut self, report: &Report) {
        if !self.over && !self.goals.contains_key(&report.site) {
            let heads = report.heads.iter().map(|(site, head)| (site.clone(), head.seq));
            self.goals.insert(report.site.clone(), heads.collect());
        }
    }
}

// === impl Controller ===

impl Controller {
    /// Whether what the others knew when this process began has been read, or was waited for long
    /// enough.
    pub(super) fn has_returned(&mut self, now: Duration) -> bool {
        let Some(lease) = self.lease.as_ref().filter(|_| !self.peers.returning.over) else {
            return true;
        };
        let voters = lease.voters();
        // Answers of before count for as long as the lease.
        let heard = lease.heard_within(self.setting.fabric.lease.duration, now);
        let heard = heard.intersection(voters).count() >= quorum_of(voters.len());
        let goals = &self.peers.returning.goals;
        let read = |goal: &BTreeMap<SiteId, u64>| {
            goal.iter().all(|(site, seq)| self.reading.head(site).map_or(0, |h| h.seq) >= *seq)
        };
        let is_read = |site: &SiteId| goals.get(site).is_some_and(read);
        let all_read = self.setting.fabric.other_sites(self.site()).all(|site| is_read(&site.id));
        let goes_on = !lease.begins_shut() || lease.is_serving();
        let returning = &mut self.peers.returning;
        if heard {
            returning.heard.get_or_insert(now);
        }
        let late = returning.heard.is_some_and(|heard| now >= heard + AT_MOST);
        returning.over = all_read || late || goes_on;
        if late && !all_read && !goes_on {
            tracing::warn!(
                "Some sites are not heard; leased services do not wait for them longer."
            );
        }
        returning.over || returning.heard.is_none()
    }
}
