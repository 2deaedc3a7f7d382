//! What tasks have cost the services that they moved: RTO and RPO, against what was promised.
//!
//! The numbers are those of the log ([`nett_policy::task::times`]); here they are only told. Crash
//! story: what is kept for the metrics is read again from the journal.

use std::time::Duration;

use nett_policy::id::{EntryId, ServiceId};
use nett_policy::log::entry::{Body, Entry};
use nett_policy::service::Service;
use nett_policy::task::times::{Cost, costs, times};

use super::Controller;
use super::effect::{AuditEvent, Effect};
use super::view::snapshot::SERVICE_SERIES;
use crate::api::types::{CostDoc, Stamp, TimesDoc};

/// How many services are told one by one: in the trail, and without a goal in a task.
const SHOWN: usize = 20;
/// How many services with a goal a task shows: it has to fit into a message.
const MOST_SHOWN: usize = 100;

impl Controller {
    /// A task has ended: what it has cost goes on record.
    pub(super) fn note_costs(&mut self, entry: &Entry) {
        let Body::End(end) = &entry.body else { return };
        let task = end.slot.task.clone();
        let known = costs(&self.fold, &task);
        let told = known.iter().filter(|(_, cost)| **cost != Cost::default());
        for (service, cost) in told {
            let room = self.costs.len() < SERVICE_SERIES || self.costs.contains_key(service);
            if room {
                self.costs.insert(service.clone(), *cost);
            }
        }
        if !self.started {
            return;
        }
        let catalog = &self.setting.catalog;
        let with_goal = |(id, cost): (ServiceId, Cost)| {
            let service = catalog.get(&id)?;
            (service.rto.is_some() || service.rpo.is_some()).then_some((service, cost))
        };
        let goals: Vec<(&Service, Cost)> = known.into_iter().filter_map(with_goal).collect();
        let mut notes = Vec::new();
        for (service, cost) in goals.iter().take(SHOWN) {
            let text = format!("task {task}: {}", said(service, *cost));
            notes.push(AuditEvent::Cost { service: Some(service.id.to_string()), text });
        }
        if goals.len() > SHOWN {
            let missed = |(service, cost): &&(&Service, Cost)| {
                let (rto, rpo) = cost.within(service);
                rto == Some(false) || rpo == Some(false)
            };
            let (all, missed) = (goals.len(), goals.iter().filter(missed).count());
            let text = format!("task {task}: {missed} of {all} services missed a goal");
            notes.push(AuditEvent::Cost { service: None, text });
        }
        self.effects.extend(notes.into_iter().map(Effect::Audit));
    }

    pub(super) fn times_doc(&self, task: &EntryId) -> TimesDoc {
        let times = times(&self.fold, task);
        TimesDoc {
            bad: times.bad.map(Stamp::from),
            approved: times.approved.map(Stamp::from),
            withdrawn: times.withdrawn.map(Stamp::from),
            verified: times.verified.map(Stamp::from),
            drained: times.drained.map(Stamp::from),
        }
    }

    pub(super) fn cost_docs(&self, task: &EntryId) -> Vec<CostDoc> {
        let all = costs(&self.fold, task);
        let few = all.len() <= SHOWN;
        let doc = |(id, cost): (ServiceId, Cost)| {
            let service = self.setting.catalog.get(&id);
            let (rto, rpo) = service.map_or((None, None), |s| (s.rto, s.rpo));
            (few || rto.is_some() || rpo.is_some()).then(|| CostDoc {
                service: id.to_string(),
                rto_ms: cost.rto.map(super::view::ms),
                rto_goal_ms: rto.map(super::view::ms),
                rpo_ms: cost.rpo.map(super::view::ms),
                rpo_goal_ms: rpo.map(super::view::ms),
            })
        };
        all.into_iter().filter_map(doc).take(MOST_SHOWN).collect()
    }
}

/// What it has cost, against the goals.
fn said(service: &Service, cost: Cost) -> String {
    let (rto, rpo) = cost.within(service);
    let one = |name: &str, is: Option<Duration>, goal: Option<Duration>, met: Option<bool>| {
        let is = is.map_or_else(|| "unknown".to_owned(), |t| format!("{} ms", t.as_millis()));
        let goal = goal.map(|g| format!(", goal {} ms", g.as_millis())).unwrap_or_default();
        let met = match met {
            Some(true) => ": met",
            Some(false) => ": MISSED",
            None => "",
        };
        format!("{name} {is}{goal}{met}")
    };
    let rto = one("rto", cost.rto, service.rto, rto);
    format!("{}: {rto}; {}", service.id, one("rpo", cost.rpo, service.rpo, rpo))
}
