//! The controller's view in numbers, for the page of metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nett_policy::id::{Epoch, LinkId, ServiceId, SiteId};
use nett_policy::task::times::Cost;
use nett_policy::task::view::state;

use super::super::event::Now;
use super::super::{Controller, SILENCE};
use super::task::state_doc;
use crate::api::types::TaskStateDoc;

/// What the controller believes now, as numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    pub bus_connected: bool,
    /// Whether others are heard on the bus's second connection; `None` until that is known.
    pub bus_heard: Option<bool>,
    /// Other sites that were heard within the time a site may be silent.
    pub sites_connected: u32,
    /// Time since the newest report of each other site that has ever reported.
    pub peer_lag: BTreeMap<SiteId, Duration>,
    /// Links of this node; empty until the interfaces were looked at.
    pub links: BTreeMap<LinkId, bool>,
    /// Of the same: those that are held down because their interfaces come and go.
    pub held: BTreeMap<LinkId, bool>,
    /// Of the same: those that are full.
    pub saturated: BTreeMap<LinkId, bool>,
    /// Round-trip times over links of this node, as it tells them.
    pub rtts: BTreeMap<LinkId, Duration>,
    /// Every state, also those that no task is in.
    pub tasks: BTreeMap<TaskStateDoc, u32>,
    /// Empty when there are more than [`SERVICE_SERIES`].
    pub services: BTreeMap<ServiceId, ServiceSnapshot>,
    pub dns_serial: Option<u32>,
    /// Whether the name server listens; none where it has no address, and nobody but the driver
    /// knows.
    pub dns_listening: Option<bool>,
    /// Split decisions, and sites whose log says two things.
    pub conflicts: u32,
    /// How long this node may go on serving, where it does.
    pub leases: BTreeMap<ServiceId, Duration>,
    /// Services whose lease was taken without a majority of the voters, and has none yet; at most
    /// [`SERVICE_SERIES`].
    pub unprotected: BTreeSet<ServiceId>,
    /// Generations of voters: of the `file`, by which this node `counts`, which its voter `runs`.
    pub voters: BTreeMap<&'static str, u32>,
    /// What is reported and good, by service (empty for none), site and name.
    pub facts: BTreeMap<[String; 3], f64>,
    /// What the last task has cost each service that it moved; at most [`SERVICE_SERIES`].
    pub costs: BTreeMap<ServiceId, Cost>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSnapshot {
    pub epoch: Epoch,
    /// Share of traffic of every site that has the service, 0 to 100.
    pub percent: BTreeMap<SiteId, u32>,
}

/// With more services than this none is shown: too many series for a metrics store, and the same
/// is in `/v1/services`.
pub const SERVICE_SERIES: usize = 1000;

const STATES: [TaskStateDoc; 12] = [
    TaskStateDoc::WaitingApproval,
    TaskStateDoc::Running,
    TaskStateDoc::Paused,
    TaskStateDoc::Confirming,
    TaskStateDoc::Local,
    TaskStateDoc::Done,
    TaskStateDoc::Failed,
    TaskStateDoc::Rejected,
    TaskStateDoc::Expired,
    TaskStateDoc::Cancelled,
    TaskStateDoc::Superseded,
    TaskStateDoc::Reverted,
];

// === impl Controller ===

impl Controller {
    pub fn snapshot(&self, now: Now) -> Snapshot {
        let peer_lag = self.peer_lag(now);
        let heard = peer_lag.values().filter(|lag| **lag <= SILENCE).count();
        let mut tasks: BTreeMap<TaskStateDoc, u32> = STATES.map(|state| (state, 0)).into();
        for (id, _, _) in self.fold.commands() {
            *tasks.entry(state_doc(state(&self.fold, id))).or_default() += 1;
        }
        Snapshot {
            bus_connected: self.peers.bus_connected,
            bus_heard: self.peers.hearing.as_ref().map(Result::is_ok),
            sites_connected: small(heard),
            peer_lag,
            links: self.own_links(|link| self.doing.links_up().contains(link)),
            held: self.own_links(|link| self.doing.held(link, now).is_some()),
            saturated: self.own_links(|link| self.saturated.contains_key(link)),
            rtts: self.near.own_told().clone(),
            tasks,
            services: self.service_snapshots(),
            dns_serial: self.doing.serial(),
            dns_listening: None,
            leases: self.leases_left(now).into_iter().collect(),
            unprotected: self.unprotected_services(SERVICE_SERIES),
            voters: self.voter_generations(),
            conflicts: small(self.reading.conflicts() + self.conflicts.len()),
            facts: self.fact_values(now),
            costs: self.costs.clone(),
        }
    }

    fn peer_lag(&self, now: Now) -> BTreeMap<SiteId, Duration> {
        let mut lag: BTreeMap<SiteId, Duration> = BTreeMap::new();
        for heard in self.peers.reports.values().filter(|h| h.report.site != *self.site()) {
            let age = now.mono.saturating_sub(heard.at);
            let newest = lag.entry(heard.report.site.clone()).or_insert(age);
            *newest = age.min(*newest);
        }
        lag
    }

    fn own_links(&self, is: impl Fn(&LinkId) -> bool) -> BTreeMap<LinkId, bool> {
        if !self.doing.links_seen() {
            return BTreeMap::new();
        }
        let links = self.setting.fabric.links_of(&self.setting.node.id);
        links.map(|view| (view.link.id.clone(), is(&view.link.id))).collect()
    }

    fn service_snapshots(&self) -> BTreeMap<ServiceId, ServiceSnapshot> {
        if self.setting.catalog.len() > SERVICE_SERIES {
            return BTreeMap::new();
        }
        let placed = self.setting.catalog.iter().filter_map(|service| {
            let placed = self.placement.services.get(&service.id)?;
            let spread = &placed.traffic.spread;
            let sites = service.sites().into_iter();
            let percent = sites.map(|site| (site.clone(), spread.percent(&site))).collect();
            Some((service.id.clone(), ServiceSnapshot { epoch: placed.epoch, percent }))
        });
        placed.collect()
    }
}

fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
