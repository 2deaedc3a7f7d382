//! Services: what they are and where their traffic is.

use std::collections::BTreeMap;

use nett_policy::id::{EntryId, ServiceId};
use nett_policy::service::{Category, Service};
use nett_policy::task::view::last_effect;

use super::super::Controller;
use super::super::event::Now;
use super::ms;
use crate::api::types::{
    ApiError, DefinitionDoc, Payload, ServiceDoc, ServiceLine, ServiceSite, SpreadDoc,
};

// === impl Controller ===

impl Controller {
    pub(super) fn service_lines(
        &self,
        selector: Option<&str>,
        now: Now,
    ) -> Result<Payload, ApiError> {
        let selector = self.selector(selector)?;
        let chosen = self.setting.catalog.iter().filter(|s| selector.matches(&s.id));
        let services = chosen.filter_map(|s| self.service_line(s, now)).collect();
        Ok(Payload::Services { services })
    }

    fn service_line(&self, service: &Service, now: Now) -> Option<ServiceLine> {
        let placed = self.placement.services.get(&service.id)?;
        let health: BTreeMap<String, String> =
            service.sites().iter().map(|s| (s.to_string(), "unknown".to_owned())).collect();
        Some(ServiceLine {
            id: service.id.to_string(),
            category: category(service.category).to_owned(),
            mode: DefinitionDoc::from(service).mode,
            primary: service.primary().map(ToString::to_string),
            spread: placed.traffic.spread.to_string(),
            unprotected: self.is_unprotected(&service.id),
            epoch: placed.epoch.0,
            health,
            task: self.open_task(&service.id).map(|t| t.to_string()),
            age_ms: self.view_age(now),
        })
    }

    pub(super) fn service_doc(&self, id: &str, now: Now) -> Result<Payload, ApiError> {
        let id = self.known_service(id)?;
        let service = self.setting.catalog.get(&id).expect("just looked up");
        let placed = self.placement.services.get(&id).cloned();
        let placed = placed
            .unwrap_or_else(|| nett_policy::place::place_one(self.world(), &self.intent, service));
        let traffic = &placed.traffic;
        let active = traffic.spread.sites();
        let site = |site: nett_policy::id::SiteId| ServiceSite {
            state: match (active.contains(&site), placed.drained.contains(&site)) {
                (true, _) => "active",
                (false, true) => "drained",
                (false, false) => "standby",
            }
            .to_owned(),
            weight: traffic.spread.percent(&site),
            health: "unknown".to_owned(),
            backends_up: 0,
            backends: u32::try_from(service.backends.get(&site).map_or(0, Vec::len))
                .unwrap_or(u32::MAX),
            age_ms: None,
            site: site.to_string(),
        };
        Ok(Payload::Service(ServiceDoc {
            id: id.to_string(),
            definition: DefinitionDoc::from(service),
            spread: SpreadDoc::from(&traffic.spread),
            accept: traffic.accept.iter().map(ToString::to_string).collect(),
            answers: SpreadDoc::from(&traffic.answers),
            epoch: placed.epoch.0,
            last_task: self.intent.mover(&id).map(|m| m.order.task.to_string()),
            open_task: self.open_task(&id).map(|t| t.to_string()),
            sites: service.sites().into_iter().map(site).collect(),
            lease: self.lease_doc(&id, now).map(Box::new),
        }))
    }

    /// The task that has not ended and moves the service, if there is one.
    fn open_task(&self, service: &ServiceId) -> Option<EntryId> {
        let touches = |task: &&EntryId| {
            let effect = last_effect(&self.fold, task);
            effect.is_some_and(|e| e.moves.iter().any(|m| m.service == *service))
        };
        self.open.iter().find(touches).cloned()
    }

    /// The age of the oldest report that this agent's view rests on.
    pub(super) fn view_age(&self, now: Now) -> u64 {
        let ages = self.peers.reports.values().map(|h| now.mono.saturating_sub(h.at));
        ages.max().map_or(0, ms)
    }
}

fn category(category: Category) -> &'static str {
    match category {
        Category::A => "A",
        Category::B => "B",
        Category::C => "C",
    }
}
