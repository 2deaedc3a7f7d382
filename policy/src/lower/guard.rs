//! The inputs of the nft table.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Place;
use super::object::{Guard, GuardKind, GuardMark};
use crate::fabric::Role;
use crate::place::Placement;
use crate::traffic::Spread;

pub(super) fn guard(place: Place<'_>, placement: &Placement) -> Guard {
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
        drained: drained(place, placement),
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
            };
            fabric.links_of(&node.id).map(mark).collect()
        }
        Role::Route => {
            // One border per interface: with several, the border a flow came from is not known
            // from the interface alone, and the first stands for all.
            let border = fabric.nodes_of(&node.site, Role::Border).next();
            let index = border.and_then(|b| fabric.place_of(&b.id));
            let mark = index.zip(node.outer.clone());
            mark.map(|(index, interface)| GuardMark { interface, index }).into_iter().collect()
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
