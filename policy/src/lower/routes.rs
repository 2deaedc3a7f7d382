//! Routes and groups: VIPs in `nett-svc`, `nett-in` and `nett-core`, remote prefixes in `nett-xs`,
//! own aggregates in `nett-guard`, returns in `nett-ret-N`, and the floors under all of them.

use ipnet::IpNet;

use super::Place;
use super::object::{Layout, Nexthop, NexthopId, NodeState, RouteKey, RouteTarget, Table};
use super::ways::{self, Members};
use crate::fabric::{Family, Role};
use crate::service::Service;
use crate::traffic::{Deliver, Traffic};

/// The routes of one service. Its class number gives its group ids.
pub(super) fn service(
    place: Place<'_>,
    class: u32,
    service: &Service,
    traffic: &Traffic,
    state: &mut NodeState,
) {
    for family in Family::BOTH {
        let vips: Vec<IpNet> = service.vips(family).map(IpNet::from).collect();
        if vips.is_empty() {
            continue;
        }
        let out = deliver(place, service, traffic, family, state);
        let target = group(NexthopId::class(class, family), family, out, state);
        routes(place.layout.table_svc, &vips, target, state);

        let accepted = if traffic.accept.contains(&place.node.site) {
            ways::local(place, service, family, state)
        } else {
            Members::new()
        };
        let target = group(NexthopId::class_in(class, family), family, accepted, state);
        routes(place.layout.table_in, &vips, target, state);

        let decided = decided_by_route_nodes(place, traffic, family, state);
        if !decided.is_empty() {
            let id = NexthopId::class_core(class, family);
            let target = group(id, family, decided, state);
            routes(place.layout.table_core, &vips, target, state);
        }
    }
}

/// Where traffic of the service goes that enters at this node.
fn deliver(
    place: Place<'_>,
    service: &Service,
    traffic: &Traffic,
    family: Family,
    state: &mut NodeState,
) -> Members {
    let own = &place.node.site;
    match traffic.deliver(own, place.world.fabric) {
        Deliver::Local => ways::local(place, service, family, state),
        Deliver::Remote(site) => ways::remote(place, &site, family, state),
        Deliver::Drained => Members::new(),
        Deliver::Split(weights) => {
            let mut parts = Vec::new();
            for (site, weight) in weights {
                let members = if site == *own {
                    ways::local(place, service, family, state)
                } else {
                    ways::remote(place, &site, family, state)
                };
                parts.push((weight, members));
            }
            ways::combine(&parts)
        }
    }
}

/// On a border behind route nodes: what comes from the core for a split service was already found
/// to be remote by a route node. Deciding again would square the shares.
fn decided_by_route_nodes(
    place: Place<'_>,
    traffic: &Traffic,
    family: Family,
    state: &mut NodeState,
) -> Members {
    if place.node.role != Role::Border || !ways::has_route_nodes(place) {
        return Members::new();
    }
    let Deliver::Split(weights) = traffic.deliver(&place.node.site, place.world.fabric) else {
        return Members::new();
    };
    let mut parts = Vec::new();
    for (site, weight) in weights {
        if site != place.node.site {
            parts.push((weight, ways::remote(place, &site, family, state)));
        }
    }
    ways::combine(&parts)
}

/// Remote-site prefixes, own aggregates and the way back over each link.
pub(super) fn inter_site(place: Place<'_>, state: &mut NodeState) {
    let fabric = place.world.fabric;
    let layout = place.layout;
    for (index, site) in (0u32..).zip(&fabric.sites) {
        for family in Family::BOTH {
            let prefixes: Vec<IpNet> =
                site.prefixes.iter().copied().filter(|p| Family::of_net(*p) == family).collect();
            if prefixes.is_empty() {
                continue;
            }
            if site.id == place.node.site {
                floor(layout.table_guard, &prefixes, state);
                continue;
            }
            let members = ways::remote(place, &site.id, family, state);
            if !members.is_empty() {
                let target = group(NexthopId::site(index, family), family, members, state);
                routes(layout.table_xs, &prefixes, target, state);
            }
            floor(layout.table_xs, &prefixes, state);
        }
    }
    returns(place, state);
}

/// `nett-ret-N`: over link N on a border, over the border at place N on a route node.
fn returns(place: Place<'_>, state: &mut NodeState) {
    let fabric = place.world.fabric;
    for family in Family::BOTH {
        let default = [family.default_route()];
        if place.node.role == Role::Border {
            for view in fabric.links_of(&place.node.id) {
                let table = place.layout.table_return(view.index);
                floor(table, &default, state);
                if view.gateway(family).is_some() && place.links_up.contains(&view.link.id) {
                    let id = ways::link(&view, family, state);
                    routes(table, &default, RouteTarget::Nexthop(id), state);
                }
            }
            continue;
        }
        for border in fabric.nodes_of(&place.node.site, Role::Border) {
            let index = fabric.place_of(&border.id).expect("a node of the fabric has a place");
            let table = place.layout.table_return(index);
            floor(table, &default, state);
            if let Some(id) = ways::neighbour(place, border, family, state) {
                routes(table, &default, RouteTarget::Nexthop(id), state);
            }
        }
    }
}

/// One `unreachable` per VIP range under the tables that hold VIPs.
pub(super) fn floors(place: Place<'_>, state: &mut NodeState) {
    let ranges = &place.world.fabric.vip_ranges;
    floor(place.layout.table_svc, ranges, state);
    floor(place.layout.table_in, ranges, state);
}

/// A group for the members, or `unreachable` when there are none.
fn group(id: NexthopId, family: Family, members: Members, state: &mut NodeState) -> RouteTarget {
    if members.is_empty() {
        return RouteTarget::Unreachable;
    }
    state.nexthops.insert(id, Nexthop::Group { family, members });
    RouteTarget::Nexthop(id)
}

fn routes(table: Table, to: &[IpNet], target: RouteTarget, state: &mut NodeState) {
    for destination in to {
        let destination = destination.trunc();
        let key = RouteKey { table, destination, metric: Layout::METRIC_ACTIVE };
        state.routes.insert(key, target);
    }
}

fn floor(table: Table, to: &[IpNet], state: &mut NodeState) {
    for destination in to {
        let destination = destination.trunc();
        let key = RouteKey { table, destination, metric: Layout::METRIC_FLOOR };
        state.routes.insert(key, RouteTarget::Unreachable);
    }
}
