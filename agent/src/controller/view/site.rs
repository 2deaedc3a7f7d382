//! Sites, nodes and links, as their agents report them.

use std::time::Duration;

use nett_policy::fabric::{Family, Link, LinkEnd, Node, Role, Site};
use nett_policy::id::SiteId;
use nett_policy::log::entry::{Ask, Object};
use nett_policy::saturation::Saturated;

use super::super::event::{HeldDown, Now};
use super::super::{Controller, SILENCE};
use super::ms;
use crate::api::types::{
    ApiError, BfdDoc, HeadDoc, HeldDoc, LinkDoc, LinkEndDoc, LinkState, NodeDoc, Payload,
    SaturatedDoc, SiteDoc, Stamp, StatusDoc,
};
use crate::bus::wire::Report;
use crate::probe::bfd::PathView;

// === impl Controller ===

impl Controller {
    pub(super) fn status_doc(&self, now: Now) -> StatusDoc {
        StatusDoc {
            fabric: self.setting.fabric.name.clone(),
            generation: self.setting.fabric.generation.0,
            fabric_hash: self.setting.fabric.hash.clone(),
            sites: self.site_docs(now),
            services: u64::try_from(self.setting.catalog.len()).unwrap_or(u64::MAX),
            open_tasks: self.open.iter().map(|id| self.task_line(id)).collect(),
            conflicts: self.conflict_docs(),
            asks: {
                let asks = self.overdue(now).into_iter().chain(self.stopped());
                asks.chain(self.unprotected_lines()).collect()
            },
            refused: self.deciding.refused,
            // The driver knows these.
            rate_limited: Vec::new(),
            floods: Vec::new(),
            revoked: self.revoked_docs(),
            leases: self.leases_doc(now),
            local: self.local_docs(),
        }
    }

    /// Drains that were meant to be over by now. Nothing ends by itself: what was drained may not
    /// be ready to serve.
    fn overdue(&self, now: Now) -> Vec<String> {
        let mut lines = Vec::new();
        for (object, task) in self.intent.drains() {
            let Some((_, command)) = self.fold.command(task) else { continue };
            let Ask::Command { terms, .. } = &command.request.ask else { continue };
            let Some(until) = terms.until.filter(|until| *until <= now.wall) else { continue };
            let what = match object {
                Object::Site(site) => format!("site {site}"),
                Object::Node(node) => format!("node {node}"),
                Object::Link(link) => format!("link {link}"),
                Object::Cluster(cluster) => format!("cluster {cluster}"),
                Object::ServiceAt(service, site) => format!("service {service} --at {site}"),
            };
            let (person, until) = (&command.request.person.name, Stamp::from(until));
            lines.push(format!(
                "{what} was drained by {person} until {until}: nettctl undrain {what} --reason TEXT"
            ));
        }
        lines
    }

    pub(super) fn site_docs(&self, now: Now) -> Vec<SiteDoc> {
        self.setting.fabric.sites.iter().map(|site| self.one_site(site, now)).collect()
    }

    pub(super) fn site_doc(&self, id: &str, now: Now) -> Result<Payload, ApiError> {
        let id = self.known_site(id)?;
        let site = self.setting.fabric.site(&id).expect("just looked up");
        Ok(Payload::Site(self.one_site(site, now)))
    }

    fn one_site(&self, site: &Site, now: Now) -> SiteDoc {
        let of_site = self.setting.fabric.nodes.iter().filter(|n| n.site == site.id);
        let nodes: Vec<NodeDoc> = of_site.map(|node| self.node_doc(node, now)).collect();
        let mut degraded: Vec<String> = nodes.iter().flat_map(|n| n.degraded.clone()).collect();
        degraded.sort();
        degraded.dedup();
        let mismatch = nodes.iter().filter(|n| n.age_ms.is_some() && !n.fabric_matches).count();
        SiteDoc {
            id: site.id.to_string(),
            region: site.region.clone(),
            rank: site.rank,
            isolated: self.is_isolated(&site.id, now),
            drained: self.intent.is_drained(&Object::Site(site.id.clone())),
            links_up: nodes.iter().map(|n| n.links_up).sum(),
            links_down: nodes.iter().map(|n| n.links_down).sum(),
            drift: nodes.iter().map(|n| n.drift).sum(),
            dns_serial: nodes.iter().filter_map(|n| n.dns_serial).min(),
            fabric_mismatch: u32::try_from(mismatch).unwrap_or(u32::MAX),
            degraded,
            nodes,
        }
    }

    /// The own site: no other site heard for too long. Another site: none of its nodes heard.
    fn is_isolated(&self, site: &SiteId, now: Now) -> bool {
        if site == self.site() {
            return self.isolated_since(now).is_some();
        }
        let mut heard = self.peers.reports.values().filter(|h| h.report.site == *site);
        !heard.any(|h| now.mono.saturating_sub(h.at) <= SILENCE)
    }

    pub(super) fn node_docs(&self, now: Now) -> Vec<NodeDoc> {
        self.setting.fabric.nodes.iter().map(|node| self.node_doc(node, now)).collect()
    }

    fn node_doc(&self, node: &Node, now: Now) -> NodeDoc {
        let own = node.id == self.setting.node.id;
        let heard = self.peers.reports.get(&node.id);
        let report = if own { self.own_report() } else { heard.map(|h| &h.report) };
        let age = if own { Some(0) } else { heard.map(|h| ms(now.mono.saturating_sub(h.at))) };
        let fresh = age.is_some_and(|age| age <= ms(SILENCE));
        let count = |up: bool| {
            let links = report.map(|r| r.links.values().filter(|v| **v == up).count());
            links.and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
        };
        let drift = report.map_or(0, |r| r.drift.len());
        NodeDoc {
            id: node.id.to_string(),
            site: node.site.to_string(),
            role: match node.role {
                Role::Border => "border",
                Role::Route => "route",
                Role::Witness => "witness",
            }
            .to_owned(),
            age_ms: age,
            bus_connected: if own { self.peers.bus_connected } else { fresh },
            unheard: self.peers.hearing.clone().filter(|_| own).and_then(Result::err),
            heads: report.map(heads).unwrap_or_default(),
            generation: report.map(|r| r.fabric.generation.0),
            fabric_hash: report.map(|r| r.fabric.hash.clone()),
            fabric_matches: report.is_some_and(|r| r.fabric == self.fabric_ref()),
            links_up: count(true),
            links_down: count(false),
            drift: u64::try_from(drift).unwrap_or(u64::MAX),
            dns_serial: report.and_then(|r| r.dns_serial),
            degraded: report.map(|r| r.degraded.clone()).unwrap_or_default(),
            drained: self.intent.is_drained(&Object::Node(node.id.clone())),
            version: own.then(|| env!("CARGO_PKG_VERSION").to_owned()),
        }
    }

    pub(super) fn link_docs(&self, now: Now) -> Vec<LinkDoc> {
        let doc = |link: &Link| LinkDoc {
            id: link.id.to_string(),
            cost: link.cost,
            capacity_bps: link.capacity_bps,
            risk: link.risk.clone(),
            drained: self.intent.is_drained(&Object::Link(link.id.clone())),
            a: self.link_end(link, &link.a, now),
            b: self.link_end(link, &link.b, now),
        };
        self.setting.fabric.links.iter().map(doc).collect()
    }

    fn link_end(&self, link: &Link, end: &LinkEnd, now: Now) -> LinkEndDoc {
        let own = end.node == self.setting.node.id;
        let heard = self.peers.reports.get(&end.node);
        let report = if own { self.own_report() } else { heard.map(|h| &h.report) };
        let site = self.setting.fabric.node(&end.node).map(|n| n.site.to_string());
        LinkEndDoc {
            site: site.unwrap_or_default(),
            node: end.node.to_string(),
            interface: end.interface.clone(),
            state: match report.and_then(|r| r.links.get(&link.id)) {
                Some(true) => LinkState::Up,
                Some(false) => LinkState::Down,
                None => LinkState::Unknown,
            },
            age_ms: if own { Some(0) } else { heard.map(|h| ms(now.mono.saturating_sub(h.at))) },
            rtt_us: report.and_then(|r| r.rtts.get(&link.id)).map(micros),
            held: self.doing.held(&link.id, now).filter(|_| own).map(held_doc),
            saturated: self.saturated.get(&link.id).filter(|_| own).map(saturated_doc),
            bfd: if own { self.bfd_docs(link) } else { Vec::new() },
        }
    }

    fn bfd_docs(&self, link: &Link) -> Vec<BfdDoc> {
        let paths = self.doing.paths().iter().filter(|((of, _), _)| *of == link.id);
        paths.map(|((_, family), view)| bfd_doc(*family, view)).collect()
    }
}

fn held_doc(held: HeldDown) -> HeldDoc {
    let HeldDown { losses, time, left } = held;
    HeldDoc { losses, time_ms: ms(time), left_ms: left.map(ms) }
}

fn saturated_doc(saturated: &Saturated) -> SaturatedDoc {
    let Saturated { sent_bps, received_bps, capacity_bps: _, took, usual, lost } = saturated;
    SaturatedDoc {
        sent_bps: *sent_bps,
        received_bps: *received_bps,
        took_us: took.as_ref().map(micros),
        usual_us: usual.as_ref().map(micros),
        lost_percent: *lost,
    }
}

fn bfd_doc(family: Family, view: &PathView) -> BfdDoc {
    let PathView { belief, state, diagnostic, remote, interval, detection, trouble } = view;
    BfdDoc {
        family: family.name().to_owned(),
        state: state.as_str().to_owned(),
        belief: belief.as_str().to_owned(),
        diagnostic: diagnostic.text().to_owned(),
        remote_state: remote.map(|(state, _)| state.as_str().to_owned()),
        remote_diagnostic: remote.map(|(_, diagnostic)| diagnostic.text().to_owned()),
        interval_us: micros(interval),
        detection_us: micros(detection),
        trouble: trouble.clone(),
    }
}

fn micros(time: &Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn heads(report: &Report) -> Vec<HeadDoc> {
    let head = |(site, head): (&SiteId, &crate::bus::wire::Head)| HeadDoc {
        site: site.to_string(),
        seq: head.seq,
        hash: head.hash.clone(),
    };
    report.heads.iter().map(head).collect()
}
