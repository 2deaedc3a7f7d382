//! Routes and groups between sites: remote prefixes in `nett-xs`, own aggregates and the links'
//! networks in `nett-guard`, returns in `nett-ret-N`, and the floors under them.

use ipnet::IpNet;

use super::Place;
use super::choice::Choice;
use super::object::{NexthopId, NodeState, RouteTarget};
use super::routes::{floor, group, routes};
use super::{transit, ways};
use crate::fabric::{Family, Role};

/// Remote-site prefixes, own aggregates, the links' networks and the way back over each link.
pub(super) fn inter_site(choice: Choice<'_>, state: &mut NodeState) {
    let place = choice.place;
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
            let members = ways::remote(choice, &site.id, family, state);
            if !members.is_empty() {
                let target = group(Some(NexthopId::site(index, family)), family, members, state);
                routes(layout.table_xs, &prefixes, target, state);
            }
            floor(layout.table_xs, &prefixes, state);
        }
    }
    for (table, prefixes, target) in transit::prefixes(choice, state) {
        routes(table, &prefixes, target, state);
    }
    link_networks(place, state);
    returns(choice, state);
}

/// What a border says to the far end of a link, an error for instance, never takes the default
/// route: not even while the link has lost its address and the main table knows no other way.
fn link_networks(place: Place<'_>, state: &mut NodeState) {
    if place.node.role == Role::Border {
        for view in place.world.fabric.links_of(&place.node.id) {
            floor(place.layout.table_guard, &view.near.addresses, state);
        }
    }
}

/// `nett-ret-N`: over link N on a border, also while it is doubted: what came over it goes back
/// over it or not at all. On a route node over the border at place N on a route node, or another
/// one while that is silent.
fn returns(choice: Choice<'_>, state: &mut NodeState) {
    let place = choice.place;
    let fabric = place.world.fabric;
    for family in Family::BOTH {
        let default = [family.default_route()];
        if place.node.role == Role::Border {
            for view in fabric.links_of(&place.node.id) {
                let table = place.layout.table_return(view.index);
                floor(table, &default, state);
                if view.gateway(family).is_some() && place.links_up.sends(&view.link.id, family) {
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
            let through = choice.instead_of(border);
            if let Some(id) = ways::neighbour(place, through, family, state) {
                routes(table, &default, RouteTarget::Nexthop(id), state);
            }
        }
    }
}
