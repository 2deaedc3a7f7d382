//! Routes and groups: VIPs in `nett-svc`, `nett-in` and `nett-core`, remote prefixes in `nett-xs`,
//! own aggregates in `nett-guard`, returns in `nett-ret-N`, and the floors under all of them.

use ipnet::IpNet;

use super::Place;
use super::classes::Class;
use super::object::{Layout, Nexthop, NexthopId, NodeState, RouteKey, RouteTarget, Table};
use super::ways::{self, Backends, Members};
use crate::fabric::{Family, Role};
use crate::service::Service;
use crate::traffic::{Deliver, Traffic};

/// The groups and routes of the services of one class.
pub(super) fn class(
    place: Place<'_>,
    class: &Class<'_>,
    backends: &Backends,
    state: &mut NodeState,
) {
    let [service, ..] = class.services.as_slice() else { return };
    let at = Ground { place, service, backends };
    let Class { slot, traffic, services } = class;
    for family in Family::BOTH {
        let vips = services.iter().flat_map(|service| service.vips(family));
        let vips: Vec<IpNet> = vips.map(IpNet::from).collect();
        if vips.is_empty() {
            continue;
        }
        let id = |of: fn(u32, Family) -> NexthopId| slot.map(|slot| of(slot, family));
        let out = at.deliver(traffic, family, state);
        let target = group(id(NexthopId::class), family, out, state);
        routes(place.layout.table_svc, &vips, target, state);

        let accepted = if traffic.accept.contains(&place.node.site) {
            at.local(family, state)
        } else {
            Members::new()
        };
        let target = group(id(NexthopId::class_in), family, accepted, state);
        routes(place.layout.table_in, &vips, target, state);

        let decided = at.decided_by_route_nodes(traffic, family, state);
        if !decided.is_empty() {
            let target = group(id(NexthopId::class_core), family, decided, state);
            routes(place.layout.table_core, &vips, target, state);
        }
    }
}

/// Where a class is lowered, with any one of its services.
#[derive(Clone, Copy)]
struct Ground<'a> {
    place: Place<'a>,
    service: &'a Service,
    backends: &'a Backends,
}

impl Ground<'_> {
    fn local(self, family: Family, state: &mut NodeState) -> Members {
        ways::local(self.place, self.service, self.backends, family, state)
    }

    /// Where traffic of the class goes that enters at this node.
    fn deliver(self, traffic: &Traffic, family: Family, state: &mut NodeState) -> Members {
        let place = self.place;
        let own = &place.node.site;
        match traffic.deliver(own, place.world.fabric) {
            Deliver::Local => self.local(family, state),
            Deliver::Remote(site) => ways::remote(place, &site, family, state),
            Deliver::Drained => Members::new(),
            Deliver::Split(weights) => {
                let mut parts = Vec::new();
                for (site, weight) in weights {
                    let members = if site == *own {
                        self.local(family, state)
                    } else {
                        ways::remote(place, &site, family, state)
                    };
                    parts.push((weight, members));
                }
                ways::combine(&parts)
            }
        }
    }

    /// On a border behind route nodes: what comes from the core for a split class was already found
    /// to be remote by a route node. Deciding again would square the shares.
    fn decided_by_route_nodes(
        self,
        traffic: &Traffic,
        family: Family,
        state: &mut NodeState,
    ) -> Members {
        let place = self.place;
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
                let target = group(Some(NexthopId::site(index, family)), family, members, state);
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
                if view.gateway(family).is_some() && place.links_up.carries(&view.link.id, family) {
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

/// A group for the members, or `unreachable` when there are none. Without an id for a group the
/// member with the greatest weight stands for all.
fn group(
    id: Option<NexthopId>,
    family: Family,
    members: Members,
    state: &mut NodeState,
) -> RouteTarget {
    let Some((greatest, _)) = members.iter().max_by_key(|(_, weight)| weight.get()) else {
        return RouteTarget::Unreachable;
    };
    let Some(id) = id else { return RouteTarget::Nexthop(*greatest) };
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
