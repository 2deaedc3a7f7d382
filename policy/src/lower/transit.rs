//! What a border lets through between two other sites: by which links it comes, where it goes on,
//! and what of it is a service's.
//!
//! A packet is known by the link it comes in by and by where it goes to: a prefix of the other site
//! of the pair, or a VIP that this site does not accept and the other one does. It leaves by a link
//! to that site itself, never by a way through a third one; so the order in which nodes change does
//! not matter. What two sites do that let each other's traffic through and disagree about a VIP is
//! ended by the hops that a packet has left: see [`super::object::Layout::TRANSIT_HOPS`].

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::Place;
use super::choice::Choice;
use super::object::{GuardSet, Nexthop, NexthopId, NodeState, RouteTarget, Table};
use super::ways::{self, Members};
use crate::fabric::{Fabric, Family, LinkView, Role, Transit};
use crate::failover::WayOut;
use crate::id::{SiteId, Weight};
use crate::place::{in_residency, resides};
use crate::service::Service;
use crate::traffic::{Deliver, Traffic};

/// A site that sends through this border's site.
pub(super) struct Through<'a> {
    pub(super) from: &'a SiteId,
    /// What is looked up for it.
    pub(super) table: Table,
    /// The links of this border to it.
    pub(super) links: Vec<LinkView<'a>>,
    /// The sites that it may reach, to each of which this border has a link.
    pub(super) to: Vec<&'a SiteId>,
}

/// VIPs of a class that go on to another site.
pub(super) struct Onwards {
    pub(super) table: Table,
    pub(super) over: NexthopId,
    /// The sets that they are in while there is a way.
    pub(super) carried: Vec<GuardSet>,
}

/// The sites that send through here, in the order of the fabric file.
pub(super) fn through(place: Place<'_>) -> Vec<Through<'_>> {
    let Place { world, node, layout, .. } = place;
    let fabric = world.fabric;
    let of_node = |site: &SiteId| -> Vec<LinkView<'_>> {
        let links = fabric.links_of(&node.id);
        links.filter(|view| view.far_site == site).collect()
    };
    let here = || fabric.transits.iter().filter(|t| t.via == node.site);
    if node.role != Role::Border || here().next().is_none() {
        return Vec::new();
    }
    let ends = fabric.sites.iter().filter(|s| here().any(|t| t.other_end(&s.id).is_some()));
    let one = |(number, site): (u8, &'_ crate::fabric::Site)| {
        let from = &fabric.site(&site.id)?.id;
        let to = here().filter_map(|t| t.other_end(from));
        let to: Vec<&SiteId> = to.filter(|to| !of_node(to).is_empty()).collect();
        let links = of_node(from);
        let table = layout.table_via(number);
        (!links.is_empty() && !to.is_empty()).then_some(Through { from, table, links, to })
    };
    (1..=Transit::MOST).zip(ends).filter_map(one).collect()
}

/// Interfaces by which packets may come in and then leave.
pub(super) fn pairs(place: Place<'_>) -> BTreeSet<[String; 2]> {
    let mut pairs = BTreeSet::new();
    for Through { links, to, .. } in through(place) {
        for out in place.world.fabric.links_of(&place.node.id) {
            if to.contains(&out.far_site) {
                let name = |view: &LinkView<'_>| view.near.interface.clone();
                pairs.extend(links.iter().map(|link| [name(link), name(&out)]));
            }
        }
    }
    pairs
}

/// The prefixes of the sites that others reach through here, and the groups that lead there.
pub(super) fn prefixes(
    choice: Choice<'_>,
    state: &mut NodeState,
) -> Vec<(Table, Vec<IpNet>, RouteTarget)> {
    let fabric = choice.place.world.fabric;
    let mut routes = Vec::new();
    for Through { table, to, .. } in through(choice.place) {
        for (site, family) in to.iter().flat_map(|to| Family::BOTH.map(|family| (*to, family))) {
            let (group, leads) = direct(choice, site, family, state);
            let prefixes = fabric.site(site).into_iter().flat_map(|s| &s.prefixes).copied();
            let prefixes = prefixes.filter(|prefix| Family::of_net(*prefix) == family).collect();
            // Nobody refuses these before they are looked up, as a VIP is.
            let target = match leads {
                true => RouteTarget::Nexthop(group),
                false => RouteTarget::Unreachable,
            };
            routes.push((table, prefixes, target));
        }
    }
    routes
}

/// Where a service in this state goes on to, of what other sites send through here.
pub(super) fn onwards(
    choice: Choice<'_>,
    service: &Service,
    traffic: &Traffic,
    family: Family,
) -> Vec<Onwards> {
    let Place { world, node, .. } = choice.place;
    // What comes for a service that is accepted here is delivered here.
    if traffic.accept.contains(&node.site) || !resides(world, service, &node.site) {
        return Vec::new();
    }
    let onwards = |Through { from, table, links, to }: Through<'_>| {
        let mut accepting: Vec<&SiteId> =
            to.into_iter().filter(|site| traffic.accept.contains(site)).collect();
        let meant = meant_by(traffic.deliver(from, world.fabric));
        let rank = |site: &SiteId| meant.iter().position(|m| m == site).unwrap_or(usize::MAX);
        accepting.sort_by_key(|site| rank(site));
        let leads = |site: &SiteId| !choice.direct(site, family).is_empty();
        let best = accepting.iter().find(|site| leads(site));
        let site = *best.or(accepting.first())?;
        let by = |view: &LinkView<'_>| GuardSet::Carried(WayOut::new(&view.near.interface));
        let carried = links.iter().filter(|_| leads(site)).map(by).collect();
        Some(Onwards { table, over: id(world.fabric, site, family), carried })
    };
    through(choice.place).into_iter().filter_map(onwards).collect()
}

/// The sites that somebody sends a service to, those with the greatest shares first.
fn meant_by(deliver: Deliver) -> Vec<SiteId> {
    match deliver {
        Deliver::Remote(site) => vec![site],
        Deliver::Split(weights) => {
            let mut all: Vec<(SiteId, Weight)> =
                weights.iter().map(|(site, weight)| (site.clone(), weight)).collect();
            all.sort_by_key(|(_, weight)| std::cmp::Reverse(weight.get()));
            all.into_iter().map(|(site, _)| site).collect()
        }
        Deliver::Local | Deliver::Drained => Vec::new(),
    }
}

/// Puts the group of the links to a site into the state; says whether there are any.
fn direct(
    choice: Choice<'_>,
    site: &SiteId,
    family: Family,
    state: &mut NodeState,
) -> (NexthopId, bool) {
    let links = choice.direct(site, family);
    let mut members: Members =
        links.iter().map(|view| (ways::link(view, family, state), Weight::ONE)).collect();
    let leads = !members.is_empty();
    if !leads {
        members.insert(NexthopId::blackhole(family), Weight::ONE);
    }
    let id = id(choice.place.world.fabric, site, family);
    state.nexthops.insert(id, Nexthop::Group { family, members, buckets: None });
    (id, leads)
}

fn id(fabric: &Fabric, site: &SiteId, family: Family) -> NexthopId {
    let index = (0u32..).zip(&fabric.sites).find(|(_, s)| s.id == *site).map(|(index, _)| index);
    NexthopId::direct(index.expect("checked: a transit is between sites of the fabric"), family)
}

/// Whether the traffic has to go to a site directly that other traffic may reach through a third
/// one.
pub(super) fn is_barred(choice: Choice<'_>, site: &SiteId) -> bool {
    let Place { world, node, .. } = choice.place;
    let transit = world.fabric.transit_between(&node.site, site);
    transit.is_some_and(|t| !in_residency(world, choice.residency, &t.via))
}

/// The sites that a service may not go through although others do, where that makes a difference to
/// the ways of this node: it is at one end and the service at the other, or it is the one that lets
/// through.
pub(super) fn barred<'a>(place: Place<'a>, service: &Service) -> BTreeSet<&'a SiteId> {
    let Place { world, node, .. } = place;
    let sites = service.sites();
    let is_served = |site: &SiteId| sites.contains(site);
    let concerns = |transit: &&Transit| match transit.via == node.site {
        true => node.role == Role::Border && transit.between.iter().any(is_served),
        false => transit.other_end(&node.site).is_some_and(is_served),
    };
    let transits = world.fabric.transits.iter().filter(concerns);
    transits.map(|t| &t.via).filter(|via| !resides(world, service, via)).collect()
}

/// From where to where packets go that `own` sends over its links to `far`: the two sites, and what
/// goes through either.
pub(super) fn ends_over<'a>(
    fabric: &'a Fabric,
    own: &'a SiteId,
    far: &'a SiteId,
) -> Vec<[&'a SiteId; 2]> {
    let beyond = fabric.transits.iter().filter_map(|t| match &t.via {
        via if via == far => Some([own, t.other_end(own)?]),
        via if via == own => Some([t.other_end(far)?, far]),
        _ => None,
    });
    [[own, far]].into_iter().chain(beyond).collect()
}

// === impl Through ===

impl Through<'_> {
    /// True for the interface of one of its links.
    pub(super) fn has(&self, interface: &str) -> bool {
        self.links.iter().any(|view| view.near.interface == interface)
    }
}
