//! The inputs of the nft table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Place;
use super::failover;
use super::object::{ClassNumber, Guard, GuardElement, GuardKind, GuardMark, GuardSet, Subject};
use super::routes::Alike;
use super::transit;
use crate::fabric::Role;

/// The guard of a node whose VIPs go these ways.
pub(super) fn guard(place: Place<'_>, alike: &[Alike]) -> Guard {
    let fabric = place.world.fabric;
    let own = fabric.sites.iter().filter(|s| s.id == place.node.site);
    let remote = fabric.other_sites(&place.node.site);
    let outer: BTreeSet<String> = fabric.outer_interfaces(place.node).into_iter().collect();
    // All that `ways` knows: links and other nodes are behind these, backends behind the core.
    let mut ways = outer.clone();
    ways.insert(place.node.core.clone());
    Guard {
        kind: match place.node.role {
            Role::Border => GuardKind::Border,
            Role::Route | Role::Witness => GuardKind::Route,
        },
        mark_mask: place.layout.mark_mask,
        marks: marks(place),
        outer,
        ways,
        site: own.flat_map(|s| &s.prefixes).map(ipnet::IpNet::trunc).collect(),
        remote: remote.flat_map(|s| &s.prefixes).map(ipnet::IpNet::trunc).collect(),
        vips: fabric.vip_ranges.iter().map(ipnet::IpNet::trunc).collect(),
        classes: Arc::new(classes(alike)),
        failover: failover::marks(place),
        transit: transit::pairs(place),
        refused: refused(alike),
    }
}

fn classes(alike: &[Alike]) -> BTreeMap<IpAddr, ClassNumber> {
    let of = |some: &Alike| {
        let class = some.class?;
        Some(some.vips.iter().map(move |vip| (*vip, class)).collect::<Vec<_>>())
    };
    alike.iter().filter_map(of).flatten().collect()
}

/// What is counted, and what has no way from this node, or is served by nobody.
///
/// Of the latter the kernel answers with few ICMP errors a second (icmp(7), `icmp_ratelimit`), and
/// not at all where the way ends at a blackhole, so most connections would wait for their timeout.
/// A class counts as a whole; VIPs that are treated otherwise than their class stand apart.
fn refused(alike: &[Alike]) -> BTreeSet<GuardElement> {
    let mut refused = BTreeSet::new();
    let mut of_class: BTreeMap<ClassNumber, &BTreeSet<GuardSet>> = BTreeMap::new();
    for Alike { class, base, alone: _, refused: sets, vips: _ } in alike {
        let Some(class) = class.filter(|_| *base) else { continue };
        let subject = Subject::Class(class);
        refused.extend(sets.iter().map(|set| GuardElement { set: *set, subject }));
        of_class.insert(class, sets);
    }
    let nothing = BTreeSet::new();
    for Alike { class, base: _, alone, refused: sets, vips } in alike {
        let as_class = class.and_then(|class| of_class.get(&class).copied()).unwrap_or(&nothing);
        if sets == as_class && !alone {
            continue;
        }
        let own = || sets.iter().copied().chain([GuardSet::Apart]);
        let element = |vip: &IpAddr| {
            let subject = Subject::Vip(*vip);
            own().map(move |set| GuardElement { set, subject }).collect::<Vec<_>>()
        };
        refused.extend(vips.iter().flat_map(element));
    }
    if refused.iter().any(|element| GuardSet::COUNTED.contains(&element.set)) {
        refused.insert(GuardElement::COUNTING);
    }
    refused
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
