//! The inputs of the nft table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Place;
use super::object::{Guard, GuardKind, GuardMark, Layout, RouteKey, RouteTarget};
use crate::fabric::Role;
use crate::place::Placement;
use crate::traffic::Spread;

/// The guard of a node whose `routes` are final.
pub(super) fn guard(
    place: Place<'_>,
    placement: &Placement,
    routes: &BTreeMap<RouteKey, RouteTarget>,
) -> Guard {
    let drained = drained(place, placement);
    let fabric = place.world.fabric;
    let own = fabric.sites.iter().filter(|s| s.id == place.node.site);
    let remote = fabric.other_sites(&place.node.site);
    Guard {
        kind: match place.node.role {
            Role::Border => GuardKind::Border,
            Role::Route | Role::Witness => GuardKind::Route,
        },
        mark_mask: place.layout.mark_mask,
        marks: marks(place),
        outer: fabric.outer_interfaces(place.node).into_iter().collect(),
        site: own.flat_map(|s| &s.prefixes).map(ipnet::IpNet::trunc).collect(),
        remote: remote.flat_map(|s| &s.prefixes).map(ipnet::IpNet::trunc).collect(),
        vips: fabric.vip_ranges.iter().map(ipnet::IpNet::trunc).collect(),
        unreachable: unreachable(place, routes).filter(|a| !drained.contains(a)).collect(),
        drained,
    }
}

/// Which index flows from an outer interface are marked with, so that replies go back there.
fn marks(place: Place<'_>) -> BTreeSet<GuardMark> {
    let fabric = place.world.fabric;
    let node = place.node;
    match node.role {
        Role::Border => {
            let mark = |view: crate::fabric::LinkView<'_>| GuardMark {
                interface: view.near.interface.clone(),
                index: view.index,
                source: None,
            };
            fabric.links_of(&node.id).map(mark).collect()
        }
        Role::Route => {
            // A single border is known by the interface, one of several by its Ethernet address:
            // replies go back to the border that delivered the flow.
            let borders: Vec<_> = fabric.nodes_of(&node.site, Role::Border).collect();
            let several = borders.len() > 1;
            let mark = |border: &&crate::fabric::Node| {
                let source = place.neighbours.mac(&border.id);
                let (interface, index) = (node.outer.clone()?, fabric.place_of(&border.id)?);
                let known = !several || source.is_some();
                let source = source.filter(|_| several);
                known.then_some(GuardMark { interface, index, source })
            };
            borders.iter().filter_map(mark).collect()
        }
        Role::Witness => BTreeSet::new(),
    }
}

/// VIPs of services that nobody serves: their TCP connections are reset at once.
fn drained(place: Place<'_>, placement: &Placement) -> BTreeSet<IpAddr> {
    let nobody = |service: &&crate::service::Service| {
        let placed = placement.services.get(&service.id);
        placed.is_some_and(|p| p.traffic.spread == Spread::Nowhere && p.traffic.accept.is_empty())
    };
    place.world.catalog.iter().filter(nobody).flat_map(|s| s.vips.iter().copied()).collect()
}

/// VIPs without a way from this node, for clients of the site and for outside ones: the kernel
/// answers with few ICMP errors a second (icmp(7), `icmp_ratelimit`), so of many connections most
/// would wait for their timeout.
fn unreachable(
    place: Place<'_>,
    routes: &BTreeMap<RouteKey, RouteTarget>,
) -> impl Iterator<Item = IpAddr> {
    let tables = [place.layout.table_svc, place.layout.table_in];
    let no_way = move |vip: &IpAddr| {
        tables.iter().all(|table| {
            let key = RouteKey {
                table: *table,
                destination: (*vip).into(),
                metric: Layout::METRIC_ACTIVE,
            };
            routes.get(&key) == Some(&RouteTarget::Unreachable)
        })
    };
    place.world.catalog.iter().flat_map(|s| s.vips.iter().copied()).filter(no_way)
}
