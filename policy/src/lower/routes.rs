//! Routes and groups: VIPs in `nett-svc`, `nett-in` and `nett-core`, remote prefixes in `nett-xs`,
//! own aggregates in `nett-guard`, returns in `nett-ret-N`, and the floors under all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Place;
use super::choice::Choice;
use super::classes::{self, Class};
use super::object::{
    ClassNumber, GuardSet, Layout, Nexthop, NexthopId, NodeState, RouteKey, RouteTarget, Table,
};
use super::ways::{self, Backends, Members};
use crate::fabric::{Family, Role};
use crate::id::{SiteId, Weight};
use crate::place::Placement;
use crate::service::Service;
use crate::traffic::{Deliver, Traffic};

/// VIPs of one family that go the same ways, and what is refused to them because there is none.
pub(super) struct Alike {
    /// The class that they are of, if it has a number.
    pub(super) class: Option<ClassNumber>,
    /// They are in the state of their class.
    pub(super) base: bool,
    pub(super) refused: BTreeSet<GuardSet>,
    pub(super) vips: Vec<IpAddr>,
}

/// The groups and routes of all services.
pub(super) fn services(
    choice: Choice<'_>,
    placement: &Placement,
    state: &mut NodeState,
) -> Vec<Alike> {
    let place = choice.place;
    for family in Family::BOTH {
        state.nexthops.insert(NexthopId::blackhole(family), Nexthop::Blackhole { family });
    }
    let catalog = place.world.catalog;
    let backends = classes::backend_ids(catalog, &place.node.site);
    let all = classes::classes(catalog, placement);
    let grounds = all.iter().filter_map(|class| {
        let service = class.services.first().copied()?;
        Some((class, Ground { choice, service, backends: &backends }))
    });
    let grounds: Vec<_> = grounds.collect();
    let ways = grounds.iter().flat_map(|(class, at)| {
        let own = Entry::ALL.map(|role| at.way(class, role));
        own.into_iter().filter_map(|way| match way {
            Way::Named(name) => Some(name),
            Way::OfClass | Way::Local | Way::Site(_) | Way::Nowhere => None,
        })
    });
    let names = all.iter().map(|class| class.name.clone()).collect();
    let numbers = classes::numbers(names, ways.collect());
    let mut alike = Vec::new();
    for (class, at) in grounds {
        for family in Family::BOTH {
            let vips = class.services.iter().flat_map(|service| service.vips(family));
            let vips: Vec<IpAddr> = vips.collect();
            if vips.is_empty() {
                continue;
            }
            let nets: Vec<IpNet> = vips.iter().copied().map(IpNet::from).collect();
            let refused = at.routes(class, &numbers, family, &nets, state);
            let slot = numbers.get(&class.name).copied().flatten();
            let number = slot.map(|slot| ClassNumber::new(slot, family));
            alike.push(Alike { class: number, base: class.is_base(), refused, vips });
        }
    }
    alike
}

/// The tables that hold VIPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Out,
    In,
    Core,
}

impl Entry {
    const ALL: [Self; 3] = [Self::Out, Self::In, Self::Core];

    fn table(self, layout: &Layout) -> Table {
        match self {
            Self::Out => layout.table_svc,
            Self::In => layout.table_in,
            Self::Core => layout.table_core,
        }
    }

    /// The group of a class.
    fn id(self, slot: u32, family: Family) -> NexthopId {
        match self {
            Self::Out => NexthopId::class(slot, family),
            Self::In => NexthopId::class_in(slot, family),
            Self::Core => NexthopId::class_core(slot, family),
        }
    }
}

/// Which group leads where some services go from one table.
enum Way {
    OfClass,
    /// Into the site.
    Local,
    /// The inter-site group towards the site at this place of the fabric file.
    Site(u32),
    /// Shares that no class has as its base.
    Named(String),
    Nowhere,
}

/// Where a class is lowered, with any one of its services.
#[derive(Clone, Copy)]
struct Ground<'a> {
    choice: Choice<'a>,
    service: &'a Service,
    backends: &'a Backends,
}

impl Ground<'_> {
    /// Puts the routes of some VIPs of a class in place; gives what is refused for want of a way.
    fn routes(
        self,
        class: &Class<'_>,
        numbers: &BTreeMap<String, Option<u32>>,
        family: Family,
        vips: &[IpNet],
        state: &mut NodeState,
    ) -> BTreeSet<GuardSet> {
        let number = |name: &str| numbers.get(name).copied().flatten();
        let slot = number(&class.name);
        let local = slot.map(|slot| NexthopId::class_local(slot, family));
        // The way into the site is always there, for services that depart to it.
        if self.service.sites().contains(&self.choice.place.node.site) {
            let members = self.local(family, state);
            group(local, family, members, state);
        }
        let mut refused = BTreeSet::new();
        if class.traffic.is_nowhere() {
            refused.insert(GuardSet::Drained);
        }
        for entry in Entry::ALL {
            let mut members = self.members(class.traffic, entry, family, state);
            if members.is_empty() {
                match entry {
                    Entry::Out => refused.insert(GuardSet::ShutOut),
                    Entry::In => refused.insert(GuardSet::ShutIn),
                    Entry::Core => continue,
                };
            }
            let id = match self.way(class, entry) {
                Way::OfClass => {
                    if members.is_empty() && slot.is_some() {
                        members.insert(NexthopId::blackhole(family), Weight::ONE);
                    }
                    slot.map(|slot| entry.id(slot, family))
                }
                Way::Local => local,
                Way::Site(index) => Some(NexthopId::site(index, family)),
                Way::Named(name) => number(&name).map(|slot| NexthopId::class(slot, family)),
                Way::Nowhere => None,
            };
            let target = group(id, family, members, state);
            routes(entry.table(self.choice.place.layout), vips, target, state);
        }
        self.advertised(class, vips, state);
        refused
    }

    /// VIPs that this border may announce: those that its own site has a share of. A neighbour that
    /// hears of them sends here; nothing is looked up in this table.
    fn advertised(self, class: &Class<'_>, vips: &[IpNet], state: &mut NodeState) {
        let Place { node, layout, .. } = self.choice.place;
        if node.role != Role::Border || !layout.advertise || !class.traffic.spread.has(&node.site) {
            return;
        }
        for destination in vips {
            let (table, destination) = (layout.table_adv, destination.trunc());
            let metric = Layout::METRIC_ADVERTISED;
            let key = RouteKey { table, destination, metric };
            state.routes.insert(key, RouteTarget::Unreachable);
        }
    }

    fn members(
        self,
        traffic: &Traffic,
        entry: Entry,
        family: Family,
        state: &mut NodeState,
    ) -> Members {
        match entry {
            Entry::Out => self.deliver(traffic, family, state),
            Entry::In if traffic.accept.contains(&self.choice.place.node.site) => {
                self.local(family, state)
            }
            Entry::In => Members::new(),
            Entry::Core => self.decided_by_route_nodes(traffic, family, state),
        }
    }

    /// Which group some services of a class use: that of their class, as long as they go the way
    /// of their class; else one that is there anyway; a group of its own for shares alone.
    fn way(self, class: &Class<'_>, entry: Entry) -> Way {
        let Place { node, world, .. } = self.choice.place;
        let own = &node.site;
        let deliver = |traffic: &Traffic| traffic.deliver(own, world.fabric);
        if entry == Entry::In {
            let accepts = class.traffic.accept.contains(own);
            return match accepts == class.base.accept.contains(own) {
                true => Way::OfClass,
                false if accepts => Way::Local,
                false => Way::Nowhere,
            };
        }
        let course = deliver(class.traffic);
        if course == deliver(class.base) {
            return Way::OfClass;
        }
        let shares = |weights: &BTreeMap<SiteId, Weight>| {
            let share = |(site, weight): (&SiteId, &Weight)| format!("{site}={weight}");
            weights.iter().map(share).collect::<Vec<_>>().join(" ")
        };
        match (entry, course) {
            (Entry::Core, Deliver::Split(weights)) => {
                Way::Named(format!("shares {} but {own}", shares(&weights)))
            }
            (_, Deliver::Split(weights)) => {
                let local = classes::backends(self.service, own);
                Way::Named(format!("shares {} with {local}", shares(&weights)))
            }
            (Entry::Out, Deliver::Local) => Way::Local,
            (Entry::Out, Deliver::Remote(site)) => {
                let index = (0u32..).zip(&world.fabric.sites).find(|(_, s)| s.id == site);
                index.map_or(Way::Nowhere, |(index, _)| Way::Site(index))
            }
            (Entry::Out, Deliver::Drained) | (Entry::In | Entry::Core, _) => Way::Nowhere,
        }
    }

    fn local(self, family: Family, state: &mut NodeState) -> Members {
        ways::local(self.choice, self.service, self.backends, family, state)
    }

    /// Where traffic of the class goes that enters at this node.
    fn deliver(self, traffic: &Traffic, family: Family, state: &mut NodeState) -> Members {
        let place = self.choice.place;
        let own = &place.node.site;
        match traffic.deliver(own, place.world.fabric) {
            Deliver::Local => self.local(family, state),
            Deliver::Remote(site) => ways::remote(self.choice, &site, family, state),
            Deliver::Drained => Members::new(),
            Deliver::Split(weights) => {
                let mut parts = Vec::new();
                for (site, weight) in weights {
                    let members = if site == *own {
                        self.local(family, state)
                    } else {
                        ways::remote(self.choice, &site, family, state)
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
        let place = self.choice.place;
        if place.node.role != Role::Border || !ways::has_route_nodes(place) {
            return Members::new();
        }
        let Deliver::Split(weights) = traffic.deliver(&place.node.site, place.world.fabric) else {
            return Members::new();
        };
        let mut parts = Vec::new();
        for (site, weight) in weights {
            if site != place.node.site {
                parts.push((weight, ways::remote(self.choice, &site, family, state)));
            }
        }
        ways::combine(&parts)
    }
}

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
