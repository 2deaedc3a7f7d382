//! The ways a node has: to its own backends, to its neighbours in the site, to other sites. Each
//! way is a set of weighted members of a group, and puts the single nexthops it uses into the
//! state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Place;
use super::choice::Choice;
use super::object::{Nexthop, NexthopId, NodeState};
use crate::fabric::{Family, Node, Role};
use crate::id::{ClusterId, SiteId, Weight};
use crate::place::Drained;
use crate::service::{Backend, Service};

/// Members of a group with their relative shares.
pub(super) type Members = BTreeMap<NexthopId, Weight>;

/// The ids of the own site's backends.
pub(super) type Backends = BTreeMap<IpAddr, NexthopId>;

/// How a service is delivered inside the site: a border hands it to the route nodes, or to the
/// backends where the site has no route node; a route node hands it to the backends, those of
/// drained clusters last.
pub(super) fn local(
    choice: Choice<'_>,
    service: &Service,
    ids: &Backends,
    family: Family,
    state: &mut NodeState,
) -> Members {
    let place = choice.place;
    if !hands_to_backends(place) {
        let chosen = choice.nodes(Role::Route);
        return neighbours(choice, Role::Route, &chosen, family, state);
    }
    let (chosen, _) = backends(choice, service, family);
    handed_to(choice.place, &chosen, ids, state)
}

/// Inside the site, the members that no bucket is meant for: the backends of clusters that are on
/// their way out of service or back, where this node hands to backends and flows stay.
pub(super) fn easing(
    choice: Choice<'_>,
    service: &Service,
    ids: &Backends,
    family: Family,
    state: &mut NodeState,
) -> Members {
    if !hands_to_backends(choice.place) {
        return Members::new();
    }
    let (_, easing) = backends(choice, service, family);
    handed_to(choice.place, &easing, ids, state)
}

/// The backends of a service at this site that get what is new, and those at which flows only go
/// on. As with nodes and links: what is drained is used again where nothing else is left, and
/// before that what is on its way back.
fn backends<'a>(
    choice: Choice<'_>,
    service: &'a Service,
    family: Family,
) -> (Vec<&'a Backend>, Vec<&'a Backend>) {
    let Drained { nodes: _, links: _, clusters, easing } = choice.drained;
    let is_in = |set: &BTreeSet<ClusterId>, backend: &Backend| {
        backend.cluster.as_ref().is_some_and(|cluster| set.contains(cluster))
    };
    let stays = service.resilient().is_some();
    let eases = |backend: &Backend| stays && is_in(easing, backend);
    let rank = |backend: &Backend| (is_in(clusters, backend), eases(backend));
    let all: Vec<&Backend> = service.backends(&choice.place.node.site, family).collect();
    let serves = match all.iter().map(|backend| rank(backend)).min() {
        // All are drained: none is better for having been so for longer.
        Some((true, _)) | None => return (all, Vec::new()),
        Some(best) => best,
    };
    let (chosen, others): (Vec<&Backend>, Vec<&Backend>) =
        all.into_iter().partition(|backend| rank(backend) == serves);
    (chosen, others.into_iter().filter(|backend| eases(backend)).collect())
}

fn handed_to(
    place: Place<'_>,
    backends: &[&Backend],
    ids: &Backends,
    state: &mut NodeState,
) -> Members {
    let mut members = Members::new();
    for backend in backends {
        let id = ids[&backend.address];
        let interface = place.node.core.clone();
        let single = Nexthop::Single { gateway: backend.address, interface };
        state.nexthops.insert(id, single);
        members.insert(id, backend.weight);
    }
    members
}

/// The way to another site: a border uses its best links there, a route node the borders that have
/// the best ones.
pub(super) fn remote(
    choice: Choice<'_>,
    site: &SiteId,
    family: Family,
    state: &mut NodeState,
) -> Members {
    if choice.place.node.role == Role::Route {
        let chosen = choice.borders(site, family);
        return neighbours(choice, Role::Border, &chosen, family, state);
    }
    let links = choice.links(site, family);
    links.iter().map(|view| (link(view, family, state), Weight::ONE)).collect()
}

/// The single nexthop over a link. Every link that is up has one, so that a flip needs no
/// resolution.
pub(super) fn link(
    view: &crate::fabric::LinkView<'_>,
    family: Family,
    state: &mut NodeState,
) -> NexthopId {
    let id = NexthopId::link(view.index, family);
    let gateway = view.gateway(family).expect("the caller asked for links with this family");
    let interface = view.near.interface.clone();
    state.nexthops.insert(id, Nexthop::Single { gateway, interface });
    id
}

/// Those chosen of the other nodes of the site with a role, by their addresses of one family. The
/// others have their single nexthops too, for the next choice.
fn neighbours(
    choice: Choice<'_>,
    role: Role,
    chosen: &[&Node],
    family: Family,
    state: &mut NodeState,
) -> Members {
    let mut members = Members::new();
    for other in choice.all(role) {
        let id = neighbour(choice.place, other, family, state);
        if let Some(id) = id.filter(|_| chosen.iter().any(|n| n.id == other.id)) {
            members.insert(id, Weight::ONE);
        }
    }
    members
}

/// The single nexthop to one other node of the site.
pub(super) fn neighbour(
    place: Place<'_>,
    other: &Node,
    family: Family,
    state: &mut NodeState,
) -> Option<NexthopId> {
    let gateway = other.addresses.iter().copied().find(|a| Family::of(*a) == family)?;
    let index = place.world.fabric.place_of(&other.id)?;
    let id = NexthopId::node(index, family);
    let interface = match place.node.role {
        Role::Route => place.node.outer.clone()?,
        Role::Border | Role::Witness => place.node.core.clone(),
    };
    state.nexthops.insert(id, Nexthop::Single { gateway, interface });
    Some(id)
}

/// Whether this node hands packets to backends: a border leaves that to route nodes.
pub(super) fn hands_to_backends(place: Place<'_>) -> bool {
    place.node.role == Role::Route || !has_route_nodes(place)
}

pub(super) fn has_route_nodes(place: Place<'_>) -> bool {
    place.world.fabric.nodes_of(&place.node.site, Role::Route).next().is_some()
}

/// Weighted members of several parts in one group: a part's weight is shared by its members.
///
/// Kernel weights are 1 to 256, so shares are scaled to that range and rounded; no part that has
/// members gets less than 1.
pub(super) fn combine(parts: &[(Weight, Members)]) -> Members {
    let filled: Vec<&(Weight, Members)> = parts.iter().filter(|(_, m)| !m.is_empty()).collect();
    if let [(_, members)] = filled.as_slice() {
        return members.clone();
    }
    let mut shares: BTreeMap<NexthopId, f64> = BTreeMap::new();
    for (weight, members) in filled {
        let total: f64 = members.values().map(|w| f64::from(w.get())).sum();
        for (id, member) in members {
            let share = f64::from(weight.get()) * f64::from(member.get()) / total;
            *shares.entry(*id).or_default() += share;
        }
    }
    scale(&shares)
}

/// The smallest whole weights up to 256 that come within half a percent of the shares; else the
/// closest with 256 as the greatest.
fn scale(shares: &BTreeMap<NexthopId, f64>) -> Members {
    let greatest = shares.values().copied().fold(0.0, f64::max);
    let total: f64 = shares.values().sum();
    let rounded = |top: u32| -> BTreeMap<NexthopId, u32> {
        let factor = f64::from(top) / greatest;
        shares.iter().map(|(id, s)| (*id, ((s * factor).round() as u32).clamp(1, 256))).collect()
    };
    let close = |weights: &BTreeMap<NexthopId, u32>| {
        let sum: u32 = weights.values().sum();
        shares.iter().all(|(id, share)| {
            (f64::from(weights[id]) / f64::from(sum) - share / total).abs() < 0.005
        })
    };
    let best = (1..=256).map(rounded).find(close).unwrap_or_else(|| rounded(256));
    let weight = |w: u32| Weight::new(w).expect("clamped to the range");
    best.into_iter().map(|(id, w)| (id, weight(w))).collect()
}
