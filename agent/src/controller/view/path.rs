//! Ways: of a packet, and of what would be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nett_policy::explain::{self, Fate, Hop, Packet, Way};
use nett_policy::fabric::{Node, Role};
use nett_policy::id::{LinkId, NodeId, SiteId};
use nett_policy::lower::object::{NodeState, RouteTarget};
use nett_policy::lower::{Place, lower};
use nett_policy::simulate::{Lost, Outcome, Pair, ServiceLoss, simulate};

use super::super::Controller;
use super::{bad_request, not_found};
use crate::api::types::{
    ApiError, HopDoc, PairDoc, PathDoc, Payload, RepairDoc, ServiceLossDoc, SimulationDoc, WayDoc,
};

impl Controller {
    pub(super) fn path_doc(
        &self,
        from: &str,
        to: &str,
        start: Option<&str>,
    ) -> Result<Payload, ApiError> {
        let address = |text: &str| {
            let bad = || bad_request(format!("`{text}` is no IP address"));
            text.parse::<IpAddr>().map_err(|_| bad())
        };
        let (source, target) = (address(from)?, address(to)?);
        if source.is_ipv4() != target.is_ipv4() {
            return Err(bad_request("both addresses must be of one family".to_owned()));
        }
        let fabric = &self.setting.fabric;
        let node = match start {
            Some(name) => fabric.nodes.iter().find(|n| n.id.as_str() == name),
            None => explain::entry(fabric, source),
        };
        let node = node.filter(|n| n.role != Role::Witness).ok_or_else(|| {
            let name = start.unwrap_or("for this source");
            not_found(format!("there is no border or route node {name}"), "nettctl node list")
        })?;
        let within = |site: &nett_policy::fabric::Site| {
            site.id == node.site && site.prefixes.iter().any(|p| p.contains(&source))
        };
        // What comes from the site's own hosts comes in by the interface towards them.
        let interface = fabric.sites.iter().any(within).then(|| node.core.clone());
        let packet = Packet {
            from: source,
            to: target,
            interface,
            mark: 0,
            sender: None,
            went_through: false,
        };
        let hops = explain::path(fabric, &self.states(), &node.id, packet);
        let verdict = verdict(&hops) + &self.kept_note(target);
        let hops = hops.into_iter().map(|hop| self.hop_doc(hop)).collect();
        let (from, to) = (source.to_string(), target.to_string());
        Ok(Payload::Path(PathDoc { from, to, hops, verdict }))
    }

    /// Where established connections of a service stay meanwhile.
    fn kept_note(&self, vip: IpAddr) -> String {
        let of = self.setting.catalog.iter().find(|service| service.vips.contains(&vip));
        let placed = of.and_then(|service| self.placement.services.get(&service.id));
        let kept: Vec<&str> =
            placed.iter().flat_map(|placed| &placed.kept).map(SiteId::as_str).collect();
        match kept.as_slice() {
            [] => String::new(),
            sites => format!("; established connections stay at {}", sites.join(", ")),
        }
    }

    /// What every node should have, by what it last said of its links.
    fn states(&self) -> BTreeMap<NodeId, NodeState> {
        let layout = &self.setting.layout;
        let state = |node: &Node| {
            let (links_up, neighbours) = (&self.links_of(&node.id), &self.neighbours_of(node));
            let at = Place { world: self.world(), layout, node, links_up, neighbours };
            (node.id.clone(), lower(at, &self.placement))
        };
        self.setting.fabric.nodes.iter().map(state).collect()
    }

    fn hop_doc(&self, hop: Hop) -> HopDoc {
        let Hop { node, packet, rule, route, ways, guard, failover, fate } = hop;
        let site = self.setting.fabric.node(&node).map(|n| n.site.to_string());
        let nexthop = route.and_then(|(_, target)| match target {
            RouteTarget::Nexthop(id) => Some(id.0),
            RouteTarget::Unreachable => None,
        });
        let way = |way: Way| WayDoc {
            nexthop: way.id.0,
            gateway: way.gateway.to_string(),
            interface: way.interface,
            weight: way.weight,
        };
        let (fate, next) = match fate {
            Fate::Node(next) => ("node", Some(next.to_string())),
            Fate::Delivered => ("delivered", None),
            Fate::Main => ("main", None),
            Fate::Unreachable => ("unreachable", None),
            Fate::Stopped => ("stopped", None),
        };
        HopDoc {
            node: node.to_string(),
            site: site.unwrap_or_default(),
            interface: packet.interface,
            mark: packet.mark,
            rule: rule.map(|rule| rule.to_string()),
            table: route.map(|(key, _)| key.table.0),
            destination: route.map(|(key, _)| key.destination.to_string()),
            nexthop,
            ways: ways.into_iter().map(way).collect(),
            guard: guard.counter.to_owned(),
            passes: guard.passes,
            failover: failover.map(|mark| mark.to_string()),
            fate: fate.to_owned(),
            next,
            kernel: None,
        }
    }

    pub(super) fn simulation_doc(&self, lose: &str) -> Result<Payload, ApiError> {
        let lost: Lost = lose
            .parse()
            .map_err(|e: nett_policy::simulate::NotALoss| bad_request(e.to_string()))?;
        let down = self.links_down();
        let up = self.setting.fabric.links.iter().map(|l| l.id.clone());
        let up: BTreeSet<LinkId> = up.filter(|l| !down.contains(l)).collect();
        let layout = &self.setting.layout;
        let outcome = simulate(self.world(), &self.intent, &up, layout, &lost);
        let outcome = outcome.map_err(|e| {
            not_found(e.to_string(), "nettctl site list`, `node list` and `link list -o wide")
        })?;
        Ok(Payload::Simulation(simulation_doc(lose, outcome)))
    }
}

fn verdict(hops: &[Hop]) -> String {
    let Some(last) = hops.last() else { return "no node takes it".to_owned() };
    let node = &last.node;
    let gateways = || {
        let gateways: Vec<String> = last.ways.iter().map(|w| w.gateway.to_string()).collect();
        gateways.join(" or ")
    };
    match &last.fate {
        Fate::Delivered if last.ways.is_empty() => {
            format!("delivered by {node}: the site's own routing has the host")
        }
        Fate::Delivered => format!("delivered by {node} to {}", gateways()),
        Fate::Main => format!("leaves by the main table of {node}, which is not Nett's"),
        Fate::Unreachable => format!("{node} answers with an error"),
        Fate::Stopped => format!("the guard of {node} stops it, counted as {}", last.guard.counter),
        Fate::Node(next) => format!("it goes on to {next}, and no further than can be followed"),
    }
}

fn texts<T: ToString>(all: impl IntoIterator<Item = T>) -> Vec<String> {
    all.into_iter().map(|one| one.to_string()).collect()
}

fn simulation_doc(lose: &str, outcome: Outcome) -> SimulationDoc {
    let Outcome { nodes_lost, links_lost, pairs, services, repairs, findings } = outcome;
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let pair = |pair: Pair| {
        let Pair { sites: [a, b], before, after } = pair;
        PairDoc {
            a: a.to_string(),
            b: b.to_string(),
            links_before: number(before.links),
            links_after: number(after.links),
            bps_before: before.bps,
            bps_after: after.bps,
        }
    };
    let service = |loss: ServiceLoss| {
        let ServiceLoss { service, stops_at, stays_at, next, cut_off } = loss;
        ServiceLossDoc {
            service: service.to_string(),
            stops_at: texts(stops_at),
            stays_at: texts(stays_at),
            next: next.as_ref().map(SiteId::to_string),
            cut_off: texts(cut_off),
        }
    };
    let repair = |(node, operations): (NodeId, usize)| RepairDoc {
        node: node.to_string(),
        operations: number(operations),
    };
    SimulationDoc {
        lose: lose.to_owned(),
        nodes_lost: texts(nodes_lost),
        links_lost: texts(links_lost),
        pairs: pairs.into_iter().map(pair).collect(),
        services: services.into_iter().map(service).collect(),
        repairs: repairs.into_iter().map(repair).collect(),
        findings,
    }
}
