//! Where the lease meets the controller: entries and tasks go in, and what the votes allow takes
//! the place of what the log wants.
//!
//! The controller never decides who serves. It keeps the lease told, gives its effects on, lowers
//! again when its verdicts change, and withholds acknowledgements until they are true.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nett_policy::id::{EntryId, Epoch, ServiceId, SiteId};
use nett_policy::lease::electorate::Electorate;
use nett_policy::lease::generation::NotYet;
use nett_policy::lease::placings::lease_epoch;
use nett_policy::log::entry::{Body, Effect as TaskEffect, Step, StepKind, Withdrawn};
use nett_policy::traffic::Spread;

use super::Controller;
use super::effect::Effect;
use super::event::Now;
use crate::lease::{Lease, LeaseEvent};

/// How old an answer of a voter may be that still says it is there.
const AUDIBLE: Duration = Duration::from_secs(10);

/// What an acknowledgement waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Duty {
    /// This node's confirmed withdrawals.
    withdrawn: BTreeMap<ServiceId, Epoch>,
    /// Services that this node serves under the task's claim.
    serving: BTreeSet<ServiceId>,
}

// === impl Controller ===

impl Controller {
    pub(super) fn lease_event(&mut self, event: LeaseEvent, now: Now) {
        if let Some(lease) = &mut self.lease {
            lease.handle(event, now.mono);
        }
    }

    /// Draws the lease's conclusions from whatever was just handled.
    pub(super) fn lease_turn(&mut self, now: Now) {
        if self.lease.is_none() {
            return;
        }
        self.tell_fences();
        self.renew_duties();
        let settled = self.doing.is_settled();
        let known = settled && self.doing.has_wish();
        let whole = self.trusted && self.has_returned(now.mono);
        let Some(lease) = &mut self.lease else { return };
        lease.log_is_whole(whole);
        if known {
            lease.settled();
        }
        let (changed, effects) = lease.turn(now.mono);
        self.effects.extend(effects.into_iter().map(Effect::Lease));
        if changed && self.started {
            self.want(now);
            // What is wanted now is behind the gate that was asked for before it.
            let Some(lease) = &mut self.lease else { return };
            let (_, effects) = lease.turn(now.mono);
            self.effects.extend(effects.into_iter().map(Effect::Lease));
        }
        if self.doing.is_settled() {
            self.settle_parts(Ok(0));
        }
    }

    /// False while a start waits for the first answers of the voters.
    pub(super) fn lease_is_ready(&self) -> bool {
        self.lease.as_ref().is_none_or(Lease::is_ready)
    }

    pub(super) fn lease_deadline(&self) -> Option<Duration> {
        self.lease.as_ref().and_then(Lease::deadline)
    }

    /// What keeps this node from serving or voting and is no other site's doing.
    pub(super) fn lease_trouble(&self) -> Vec<String> {
        let Some(lease) = &self.lease else { return Vec::new() };
        let gate = lease.gate_trouble().map(|why| format!("lease: gate: {why}"));
        let refused = lease.refused().map(|why| format!("lease: voters: {why}"));
        // The wait that every voter has to pass is no trouble.
        let rises = lease.rises_not().filter(|why| !matches!(why, NotYet::Told { .. }));
        let rises = rises.map(|why| format!("lease: the voter here: {why}"));
        let fences = (!lease.knows_fences())
            .then(|| "lease: what this node confirmed is not known yet".to_owned());
        let pending = lease.pending().filter(|pending| !pending.is_empty()).map(|pending| {
            let names: Vec<&str> = pending.into_iter().map(SiteId::as_str).collect();
            format!("lease: the voter here has to read {} first", names.join(", "))
        });
        gate.into_iter().chain(refused).chain(rises).chain(fences).chain(pending).collect()
    }

    /// The voters that this node hears.
    pub(super) fn voters_heard(&self, now: Duration) -> BTreeSet<SiteId> {
        let heard = self.lease.as_ref().map(|lease| lease.heard_within(AUDIBLE, now));
        heard.unwrap_or_default()
    }

    /// Services that were taken without a majority, and whose voters count for what comes next.
    pub(super) fn bound(&self, now: Duration) -> BTreeMap<ServiceId, Vec<BTreeSet<SiteId>>> {
        self.lease.as_ref().map(|lease| lease.bound(now)).unwrap_or_default()
    }

    /// A node that lost its disk has read what it confirmed once its site's log was read as far as
    /// a majority of sites has it.
    fn tell_fences(&mut self) {
        let Some(lease) = self.lease.as_ref().filter(|lease| !lease.knows_fences()) else { return };
        let own = &self.setting.node.site;
        let caught_up = self.setting.fabric.sites.iter().all(|s| self.reading.is_caught_up(&s.id));
        if !caught_up || self.reading.cannot_follow(own).is_some() {
            return;
        }
        let read = self.reading.head(own).map_or(0, |head| head.seq);
        let mut agree: BTreeSet<&SiteId> = BTreeSet::from([own]);
        for heard in self.peers.reports.values() {
            let theirs = heard.report.heads.get(own).map_or(0, |head| head.seq);
            if theirs > read {
                return;
            }
            if self.last_now.saturating_sub(heard.at) <= AUDIBLE {
                agree.insert(&heard.report.site);
            }
        }
        let electorates = lease.electorates();
        let mut both = std::iter::once(&electorates.present).chain(&electorates.former);
        let most = |one: &Electorate| {
            one.voters.iter().filter(|voter| agree.contains(voter)).count() >= one.quorum()
        };
        if both.all(most)
            && let Some(lease) = &mut self.lease
        {
            lease.fences_told();
        }
    }

    /// What a step of a task asks of this node beside its kernel.
    pub(super) fn duty(&mut self, effect: &TaskEffect, step: &Step) -> Duty {
        let here = &self.setting.node.site;
        let mut duty = Duty::default();
        for one in effect.moves.iter().filter(|m| step.states.contains_key(&m.service)) {
            let service = self.setting.catalog.get(&one.service).filter(|s| s.is_leased());
            let Some(service) = service else { continue };
            let target = one.to.spread.has(here);
            match step.kind {
                StepKind::Withdraw if !target && service.sites().contains(here) => {
                    // Of what is stopped the claim itself is withdrawn from, and none after it.
                    let epoch = match one.to.spread {
                        Spread::Nowhere => one.epoch,
                        Spread::Weighted(_) | Spread::Nearest(_) => lease_epoch(one.epoch),
                    };
                    duty.withdrawn.insert(one.service.clone(), epoch);
                }
                StepKind::Activate | StepKind::Shift if target => {
                    duty.serving.insert(one.service.clone());
                }
                _ => {}
            }
        }
        if let Some(lease) = &mut self.lease {
            lease.withdraw(&duty.withdrawn);
        }
        duty
    }

    /// A promise that could not be made when it was asked for is made as soon as it can.
    fn renew_duties(&mut self) {
        let Some(lease) = &mut self.lease else { return };
        for part in self.doing.duties() {
            lease.withdraw(&part.withdrawn);
        }
    }

    /// Whether a duty is done, as part of a task.
    pub(super) fn is_done(lease: Option<&Lease>, duty: &Duty, task: &EntryId) -> bool {
        let Some(lease) = lease else { return true };
        lease.has_withdrawn(&duty.withdrawn)
            && duty.serving.iter().all(|service| lease.serves_under(service, task))
    }

    /// The confirmation that is to be written to the log next, if there is one.
    pub(super) fn due_withdrawal(&self) -> Option<Body> {
        let services = self.lease.as_ref()?.unpublished();
        (!services.is_empty()).then_some(Body::Withdrawn(Withdrawn { services }))
    }
}
