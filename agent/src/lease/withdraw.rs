//! Confirmed withdrawals: the gate is shut and read back, the fence is on the disk, and then the
//! log is told.
//!
//! A confirmation lets another site start at once instead of after W, so it is given only for what
//! a task asks for, and for an exclusive service, which could else never start: for its definition,
//! and for what the votes have decided. What is written and not told costs the wait; what is told
//! and not written cannot be.

use std::collections::{BTreeMap, BTreeSet};

use nett_policy::id::{EntryId, Epoch, ServiceId};
use nett_policy::lease::placings::{Placing, definition};
use nett_policy::service::Isolation;

use super::Lease;
use super::store::LeaseRecord;

#[derive(Debug, Default)]
pub(super) struct Withdrawing {
    /// Asked for and not yet on the disk, with the number of the record.
    writing: BTreeMap<ServiceId, (Epoch, u64)>,
    /// On the disk.
    fenced: BTreeMap<ServiceId, Epoch>,
    /// In the log.
    published: BTreeMap<ServiceId, Epoch>,
}

// === impl Withdrawing ===

impl Withdrawing {
    pub(super) fn restore(&mut self, services: &BTreeMap<ServiceId, Epoch>) {
        for (service, epoch) in services {
            raise(&mut self.fenced, service, *epoch);
        }
    }

    pub(super) fn published(&mut self, service: &ServiceId, epoch: Epoch) {
        raise(&mut self.published, service, epoch);
    }

    pub(super) fn kept(&mut self, number: u64) {
        for (service, (epoch, record)) in &self.writing {
            if *record == number {
                raise(&mut self.fenced, service, *epoch);
            }
        }
        self.writing.retain(|_, (_, record)| *record != number);
    }
}

fn raise(map: &mut BTreeMap<ServiceId, Epoch>, service: &ServiceId, epoch: Epoch) {
    let held = map.entry(service.clone()).or_default();
    *held = epoch.max(*held);
}

// === impl Lease ===

impl Lease {
    /// A task asks this node to withdraw from what is below these lease epochs, and itself.
    pub fn withdraw(&mut self, services: &BTreeMap<ServiceId, Epoch>) {
        if !self.knows_fences() {
            // What was promised before is not known: nothing new is promised, nothing is served.
            return;
        }
        let new = |(service, epoch): &(&ServiceId, &Epoch)| {
            if self.has_claim_in(service, **epoch) {
                return false;
            }
            let held = self.withdrawing.fenced.get(*service);
            let asked = self.withdrawing.writing.get(*service).map(|(epoch, _)| epoch);
            held.max(asked).is_none_or(|held| held < *epoch)
        };
        let new: BTreeMap<ServiceId, Epoch> =
            services.iter().filter(new).map(|(s, e)| (s.clone(), *e)).collect();
        if new.is_empty() {
            return;
        }
        self.news = true;
        // From here on it is not served, whether or not the disk takes it.
        new.iter().for_each(|(service, epoch)| self.knowledge.fence(service, *epoch));
        let number = self.keep(vec![LeaseRecord::Fence(new.clone())]);
        let writing = new.into_iter().map(|(service, epoch)| (service, (epoch, number)));
        self.withdrawing.writing.extend(writing);
    }

    /// Two sites took the service at once, this one is among them, and the votes have not decided
    /// for another. A promise for that epoch would shut the own claim out for good, which may be
    /// the one that wins; without it the other claim waits, and loses nothing if it is the one.
    /// What was promised before the own claim was read stays promised. A claim that was stopped
    /// wins nothing.
    fn has_claim_in(&self, service: &ServiceId, epoch: Epoch) -> bool {
        let own = |(_, placing): &(&EntryId, &Placing)| {
            placing.target == self.me.site && placing.epoch == epoch && !placing.stopped
        };
        if !self.placings.of(service).any(|placed| own(&placed)) {
            return false;
        }
        let backers = self.knowledge.backers(service);
        let quorum = self.knowledge.electorate().quorum();
        let mut chosen = backers.into_iter().filter(|(_, count)| *count >= quorum);
        let decided = |claim: &EntryId| {
            let placing = self.placings.get(service, claim);
            placing.is_some_and(|p| p.target != self.me.site && p.epoch >= epoch)
        };
        !chosen.any(|(claim, _)| decided(claim))
    }

    /// Where the definition is the only claim, the others say that they do not serve it: nobody
    /// could ask them.
    pub(super) fn withdraw_from_definitions(&mut self) {
        if !self.is_serving_node() || !self.knows_fences() {
            return;
        }
        let mut services = BTreeMap::new();
        for service in self.catalog.leased().filter(|s| s.isolation == Isolation::Exclusive) {
            let mut claims = self.placings.of(&service.id);
            let (Some((id, placing)), None) = (claims.next(), claims.next()) else { continue };
            let defined = definition(service).is_some_and(|(defined, _)| defined == *id);
            let here = service.sites().contains(&self.me.site);
            if defined && here && placing.target != self.me.site {
                services.insert(service.id.clone(), placing.epoch);
            }
        }
        self.withdraw(&services);
    }

    /// Where the votes have decided for another site's claim, an exclusive service waits for the
    /// word of every other candidate's nodes, and the step that asks them may be over: a node that
    /// was away then, or whose site had a claim of its own, gives it once it has read the votes. It
    /// loses nothing, since nobody votes twice in an epoch or lower.
    pub(super) fn withdraw_from_decided(&mut self) {
        if !self.is_serving_node() || !self.knows_fences() {
            return;
        }
        let mut services = BTreeMap::new();
        for service in self.catalog.leased().filter(|s| s.isolation == Isolation::Exclusive) {
            if !service.sites().contains(&self.me.site) {
                continue;
            }
            let chosen = self.knowledge.chosen(&self.placings, &service.id);
            let placing = chosen.and_then(|(claim, _)| self.placings.get(&service.id, claim));
            if let Some(placing) = placing.filter(|placing| placing.target != self.me.site) {
                services.insert(service.id.clone(), placing.epoch);
            }
        }
        self.withdraw(&services);
    }

    /// What may be told and was not: fenced on the disk, and behind a gate that was read back.
    pub fn unpublished(&self) -> BTreeMap<ServiceId, Epoch> {
        let due = |(service, epoch): &(&ServiceId, &Epoch)| {
            self.withdrawing.published.get(*service).is_none_or(|told| told < *epoch)
                && self.is_shut(service)
        };
        let all = self.withdrawing.fenced.iter().filter(due);
        all.map(|(service, epoch)| (service.clone(), *epoch)).collect()
    }

    /// Whether the log has this node's confirmation for every one of these.
    pub fn has_withdrawn(&self, services: &BTreeMap<ServiceId, Epoch>) -> bool {
        services.iter().all(|(service, epoch)| {
            self.withdrawing.published.get(service).is_some_and(|told| told >= epoch)
        })
    }

    /// What was read back of the gate has no way for the service's packets.
    fn is_shut(&self, service: &ServiceId) -> bool {
        let vips: Option<BTreeSet<_>> =
            self.catalog.get(service).map(|s| s.vips.iter().copied().collect());
        self.judged.is_shut(&vips.unwrap_or_default())
    }
}
