//! Claims that were made without a majority, and what they mean for every other claim.
//!
//! An operator says, with somebody's approval, that sites are off: their voters answer nobody, and
//! nobody there serves or votes before the log was read. The claim names these sites. It is served
//! by *all* voters that are left instead of a majority, after the wait, when every other candidate
//! node that is not said to be off has confirmed (adr/0061). Three things keep other claims apart
//! from it as long as that word is true:
//!
//! * whoever has read it serves no other claim of its epoch or an older one;
//! * a newer claim needs, beside its majority, one of the voters that it had left: that one votes
//!   never lower again, so the older claim cannot have all of them any more;
//! * it is nobody's without a majority once the log has a newer claim.
//!
//! And one for the case that it is not: who hears of a vote for a claim that it has not read in the
//! log serves nothing older, since that claim may be such a one.
//!
//! All of it only takes away, apart from [`Bounds::alone`]. Nothing is kept here.

use std::collections::BTreeSet;
use std::time::Duration;

use super::knowledge::Knowledge;
use super::placings::{Placing, Placings};
use super::rule::{Needed, Rules, Voters, suffices};
use super::vote::Bounds;
use crate::id::{EntryId, Epoch, ServiceId, SiteId};

/// Whether a claim that was made without a majority still has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unprotected {
    pub is: bool,
    /// When that may end although nothing is heard.
    pub next: Option<Duration>,
}

impl Knowledge {
    /// What all that is known of a service leaves of one of its claims.
    pub fn bounds(
        &self,
        rules: &Rules,
        placings: &Placings,
        (service, claim, placing): (&ServiceId, &EntryId, &Placing),
        now: Duration,
    ) -> Bounds {
        let mut bounds = Bounds { above: self.unread(placings, service), ..Bounds::default() };
        for (_, other) in placings.alone(service).filter(|(id, _)| *id != claim) {
            bounds.above = bounds.above.max(other.epoch);
            if other.epoch < placing.epoch {
                self.counts_on(rules, service, other, now).add_to(&mut bounds);
            }
        }
        let newest = placings.of(service).map(|(_, p)| p.epoch).max();
        if !placing.without.is_empty() && newest == Some(placing.epoch) {
            let left = self.left(placing);
            if left.iter().all(|voter| self.highest(voter, service) <= placing.epoch) {
                bounds.alone = left;
            }
        }
        bounds
    }

    /// The sets of voters of each of which one has to vote for whatever comes next for a service.
    pub fn bound_to(
        &self,
        rules: &Rules,
        placings: &Placings,
        service: &ServiceId,
        now: Duration,
    ) -> Vec<BTreeSet<SiteId>> {
        let mut bounds = Bounds::default();
        for (_, older) in placings.alone(service) {
            self.counts_on(rules, service, older, now).add_to(&mut bounds);
        }
        bounds.with
    }

    /// The claim to follow, with how many voters' newest vote is for it: the one of a majority, or
    /// the newest of the log where that was made without one and has all voters that it had left.
    pub fn chosen<'a>(
        &'a self,
        placings: &'a Placings,
        service: &ServiceId,
    ) -> Option<(&'a EntryId, usize)> {
        let backers = self.backers(service);
        let quorum = self.electorate().quorum();
        let majority = backers.iter().find(|(_, count)| **count >= quorum);
        let majority = majority.map(|(claim, count)| (*claim, *count));
        let named = || self.electorate().voters.iter().filter_map(|v| self.named(v, service));
        let above = majority.and_then(|(claim, _)| {
            named().filter(|(named, _)| *named == claim).map(|(_, epoch)| epoch).max()
        });
        let newest = placings.of(service).map(|(_, p)| p.epoch).max();
        let has_all = |(id, placing): &(&EntryId, &Placing)| {
            let left = self.left(placing);
            let votes = |voter| self.named(voter, service).is_some_and(|(claim, _)| claim == *id);
            !left.is_empty() && left.iter().all(votes)
        };
        let mut alone = placings.alone(service).filter(|(_, p)| Some(p.epoch) == newest);
        match alone.find(has_all) {
            Some((id, placing)) if above.is_none_or(|above| above <= placing.epoch) => {
                Some((id, backers.get(id).copied().unwrap_or_default()))
            }
            Some(_) | None => majority,
        }
    }

    /// Whether a claim has no majority yet whose votes have been known for W: until then an older
    /// one may be served where somebody said that nobody is.
    pub fn unprotected(
        &self,
        rules: &Rules,
        (service, claim, placing): (&ServiceId, &EntryId, &Placing),
        bounds: &Bounds,
        now: Duration,
    ) -> Unprotected {
        if placing.without.is_empty() {
            return Unprotected::default();
        }
        let settled = || self.settled(rules, service, claim);
        let over = settled().filter(|(_, at)| *at <= now).map(|(voter, _)| voter.clone());
        let with: Vec<Voters> = bounds.with.iter().map(|s| self.electorate().places(s)).collect();
        let over = self.electorate().places(&over.collect());
        let is = !suffices(&self.rules(rules), Needed::Majority { with: &with }, over);
        let next = settled().map(|(_, at)| at).filter(|at| *at > now).min();
        Unprotected { is, next: next.filter(|_| is) }
    }

    /// The voters that a claim without a majority has left: all of either generation.
    fn left(&self, placing: &Placing) -> BTreeSet<SiteId> {
        self.electorates().all().difference(&placing.without).cloned().collect()
    }

    /// The epoch below which votes for claims that were not read in the log leave nothing.
    fn unread(&self, placings: &Placings, service: &ServiceId) -> Epoch {
        let all = self.electorates().all();
        let named = all.iter().filter_map(|v| self.named(v, service));
        let unread = named.filter(|(claim, _)| placings.get(service, claim).is_none());
        let highest = unread.map(|(_, epoch)| epoch.0).max();
        Epoch(highest.unwrap_or_default().saturating_sub(1))
    }

    /// What a claim that was made without a majority asks of every newer one.
    fn counts_on(
        &self,
        rules: &Rules,
        service: &ServiceId,
        older: &Placing,
        now: Duration,
    ) -> CountsOn {
        let all_left = self.left(older);
        // Of each of the two generations: whoever goes by the other one needs all of these as well.
        let left: BTreeSet<SiteId> =
            self.electorates().both().difference(&older.without).cloned().collect();
        let passed = all_left.iter().filter_map(|v| self.passed(rules, v, service, older.epoch));
        match passed.min() {
            // It had nobody, or no answer for it is of use any more.
            _ if all_left.is_empty() => CountsOn { voters: None, next: None },
            Some(at) if at <= now => CountsOn { voters: None, next: None },
            next => CountsOn { voters: Some(left), next },
        }
    }
}

/// The voters of which one has to count, and until when at least that is so.
struct CountsOn {
    voters: Option<BTreeSet<SiteId>>,
    next: Option<Duration>,
}

impl CountsOn {
    fn add_to(self, bounds: &mut Bounds) {
        bounds.with.extend(self.voters.filter(|voters| !bounds.with.contains(voters)));
        bounds.next = [bounds.next, self.next].into_iter().flatten().min();
    }
}
