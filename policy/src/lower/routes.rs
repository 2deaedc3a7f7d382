//! Routes and groups of VIPs, in `nett-svc`, `nett-in` and `nett-core`, and the floors under them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Place;
use super::choice::Choice;
use super::classes::{self, Class};
use super::failover;
use super::object::{
    ClassNumber, GuardSet, Layout, Nexthop, NexthopId, NodeState, RouteKey, RouteTarget, Table,
};
use super::resilient::{self, Buckets};
use super::transit;
use super::ways::{self, Backends, Members};
use crate::fabric::{Family, Role};
use crate::id::{EntryId, SiteId, Weight};
use crate::place::{Placed, Placement};
use crate::service::{self, Service};
use crate::traffic::{Deliver, Traffic, Weights};

/// VIPs of one family that go the same ways, and what is refused to them because there is none.
pub(super) struct Alike {
    /// The class that they are of, if it has a number.
    pub(super) class: Option<ClassNumber>,
    /// They are in the state of their class.
    pub(super) base: bool,
    /// They have elements of their own also where they are treated as their class is: somebody
    /// else waits for what is counted of it.
    pub(super) alone: bool,
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
    let all = classes::classes(place, placement);
    let grounds = all.iter().filter_map(|class| {
        let service = class.services.first().copied()?;
        let choice = Choice { residency: &service.residency, ..choice };
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
    let names = all.iter().map(|class| class.name.clone().into_owned()).collect();
    let keeping = all.iter().filter(|class| class.keeps_flows()).map(|class| &*class.name);
    let slots = classes::slots(keeping.clone().map(str::as_bytes), NexthopId::MOST_RESILIENT);
    let keeping = keeping.zip(slots).filter_map(|(name, slot)| Some((name, slot?)));
    let keeping: BTreeMap<&str, u32> = keeping.collect();
    let numbers = Numbers { all: classes::numbers(names, ways.collect()), keeping };
    let mut alike = Vec::new();
    let mut built = Vec::new();
    let leaves = |placed: &Placed| !placed.left.is_empty() || !placed.kept.is_empty();
    let leaving = placement.services.values().any(leaves);
    for (class, at) in grounds {
        for family in Family::BOTH {
            let vips = class.services.iter().flat_map(|service| service.vips(family));
            let vips: Vec<IpAddr> = vips.collect();
            if vips.is_empty() {
                continue;
            }
            let nets: Vec<IpNet> = vips.iter().copied().map(IpNet::from).collect();
            let refused = at.routes(class, &numbers, family, &nets, (state, &mut built));
            let slot = numbers.of(&class.name);
            let number = slot.map(|slot| ClassNumber::new(slot, family));
            let base = class.is_base();
            let all = Alike { class: number, base, alone: false, refused, vips };
            match leaving {
                true => alike.extend(at.told_apart(class, placement, family, all)),
                false => alike.push(all),
            }
        }
    }
    state.routes.append(&mut built.into_iter().collect());
    alike
}

/// Routes on their way into a state: there are a few for every VIP, and a tree is built fastest of
/// all of them together.
type Built = Vec<(RouteKey, RouteTarget)>;

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

/// The numbers of groups: of classes and ways by name, and of services whose flows stay by their
/// class.
struct Numbers<'a> {
    all: BTreeMap<String, Option<u32>>,
    keeping: BTreeMap<&'a str, u32>,
}

impl Numbers<'_> {
    fn of(&self, name: &str) -> Option<u32> {
        self.all.get(name).copied().flatten()
    }
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
        numbers: &Numbers<'_>,
        family: Family,
        vips: &[IpNet],
        (state, built): (&mut NodeState, &mut Built),
    ) -> BTreeSet<GuardSet> {
        let slot = numbers.of(&class.name);
        let local = slot.map(|slot| NexthopId::class_local(slot, family));
        // The way into the site is always there, for services that depart to it.
        if self.service.sites().contains(&self.choice.place.node.site) {
            let members = self.local(family, state);
            group(local, family, members, state);
        }
        let mut refused = failover::sets(self.choice.place, self.service, class.traffic);
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
                Way::Named(name) => numbers.of(&name).map(|slot| NexthopId::class(slot, family)),
                Way::Nowhere => None,
            };
            let target = match self.keeping(numbers, class, entry, family) {
                Some((id, buckets)) if !refuses(&members, family) => {
                    state.nexthops.insert(id, Nexthop::Group { family, members, buckets });
                    RouteTarget::Nexthop(id)
                }
                Some(_) | None => group(id, family, members, state),
            };
            let table = entry.table(self.choice.place.layout);
            built.extend(active(table, vips, target));
        }
        self.advertised(class, vips, built);
        for on in transit::onwards(self.choice, self.service, class.traffic, family) {
            refused.extend(on.carried);
            built.extend(active(on.table, vips, RouteTarget::Nexthop(on.over)));
        }
        refused
    }

    /// The same VIPs, told apart where some are counted or kept here and others are not, or are
    /// counted for another task. Where all are treated alike that is said of the class, however
    /// many they are; else of those that nothing is wanted of, or of the most.
    fn told_apart(
        self,
        class: &Class<'_>,
        placement: &Placement,
        family: Family,
        all: Alike,
    ) -> Vec<Alike> {
        let mut kinds: BTreeMap<(BTreeSet<GuardSet>, Option<&EntryId>), Vec<IpAddr>> =
            BTreeMap::new();
        for service in &class.services {
            let more = self.more_sets(class, placement, service);
            let placed = placement.services.get(&service.id);
            let task = placed.and_then(|placed| placed.counted_for.as_ref());
            let counts = more.iter().any(|set| GuardSet::COUNTED.contains(set));
            kinds.entry((more, task.filter(|_| counts))).or_default().extend(service.vips(family));
        }
        let Alike { class, base, alone: _, refused, vips: _ } = all;
        let nothing = (BTreeSet::new(), None);
        let common = match kinds.contains_key(&nothing) {
            true => Some(nothing),
            false => kinds.iter().max_by_key(|(_, vips)| vips.len()).map(|(kind, _)| kind.clone()),
        };
        let of_kind = |(kind, vips): ((BTreeSet<GuardSet>, Option<&EntryId>), Vec<IpAddr>)| {
            let is_common = common.as_ref() == Some(&kind);
            let (more, task) = kind;
            Alike {
                class,
                base: base && is_common,
                alone: !is_common && task.is_some(),
                refused: refused.union(&more).copied().collect(),
                vips,
            }
        };
        kinds.into_iter().map(of_kind).collect()
    }

    /// The sets that a service is in for what its task leaves behind.
    fn more_sets(
        self,
        class: &Class<'_>,
        placement: &Placement,
        service: &Service,
    ) -> BTreeSet<GuardSet> {
        let Place { node, world, .. } = self.choice.place;
        let mut sets = BTreeSet::new();
        let Some(placed) = placement.services.get(&service.id) else { return sets };
        if !placed.kept.is_empty() {
            let accepts = class.traffic.accept.contains(&node.site);
            sets.insert(GuardSet::Keep);
            sets.extend(accepts.then_some(GuardSet::KeepHere));
        }
        if placed.left.contains(&node.site) {
            sets.extend([GuardSet::CountTo, GuardSet::CountFrom]);
            // What is sent on to another site is that site's.
            let stays = match class.traffic.deliver(&node.site, world.fabric) {
                Deliver::Local | Deliver::Drained => true,
                Deliver::Remote(_) => false,
                Deliver::Split(weights) => weights.has(&node.site),
            };
            sets.extend(stays.then_some(GuardSet::CountIn));
        }
        sets
    }

    /// VIPs that this border may announce: those that its own site has a share of. A neighbour that
    /// hears of them sends here; nothing is looked up in this table.
    fn advertised(self, class: &Class<'_>, vips: &[IpNet], built: &mut Built) {
        let Place { node, layout, .. } = self.choice.place;
        if node.role != Role::Border || !layout.advertise || !class.traffic.spread.has(&node.site) {
            return;
        }
        for destination in vips {
            let (table, destination) = (layout.table_adv, destination.trunc());
            let metric = Layout::METRIC_ADVERTISED;
            let key = RouteKey { table, destination, metric };
            built.push((key, RouteTarget::Unreachable));
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
            Entry::Out => {
                let main = self.deliver(traffic, family, state);
                self.with_rest(traffic, entry, family, (main, state))
            }
            Entry::In if traffic.accept.contains(&self.choice.place.node.site) => {
                let main = self.local(family, state);
                match self.inside(family) {
                    Some(buckets) => {
                        let rest = self.easing(family, state);
                        resilient::with_rest(main, rest, buckets.count)
                    }
                    None => main,
                }
            }
            Entry::In => Members::new(),
            Entry::Core => {
                let main = self.decided_by_route_nodes(traffic, family, state);
                self.with_rest(traffic, entry, family, (main, state))
            }
        }
    }

    /// The resilient group of a service whose flows stay where they are.
    fn keeping(
        self,
        numbers: &Numbers<'_>,
        class: &Class<'_>,
        entry: Entry,
        family: Family,
    ) -> Option<(NexthopId, Option<Buckets>)> {
        let settings = self.service.resilient()?;
        let slot = *numbers.keeping.get(&*class.name)?;
        if entry == Entry::In {
            return Some((NexthopId::resilient_in(slot, family), Some(self.inside(family)?)));
        }
        let id = NexthopId::resilient(slot, entry == Entry::Core, family);
        let buckets = Buckets::of(self.choice, self.service, family, settings);
        Some((id, Some(buckets)))
    }

    /// Of a service whose flows stay, what is used where all goes to backends of the own site;
    /// `None` where none of them is ever left.
    fn inside(self, family: Family) -> Option<Buckets> {
        Buckets::inside(self.choice.place, self.service, family, self.service.resilient()?)
    }

    /// With the sites that accept and get nothing new, and the own backends of which that is so,
    /// for a service whose flows stay where they are.
    fn with_rest(
        self,
        traffic: &Traffic,
        entry: Entry,
        family: Family,
        (main, state): (Members, &mut NodeState),
    ) -> Members {
        let Place { node, .. } = self.choice.place;
        let Some(settings) = self.service.resilient() else { return main };
        // What a route node decided about goes on to another site.
        let from_core = entry == Entry::Core;
        if from_core && !self.is_behind_route_nodes() || main.is_empty() && !from_core {
            return main;
        }
        let with_share = traffic.spread.sites();
        let mut rest = Members::new();
        for site in traffic.accept.difference(&with_share) {
            if *site != node.site {
                rest.extend(ways::remote(self.choice, site, family, state));
            } else if !from_core {
                rest.extend(self.local(family, state));
            }
        }
        if !from_core && traffic.accept.union(&with_share).any(|site| *site == node.site) {
            rest.extend(self.easing(family, state));
        }
        if main.is_empty() {
            return rest;
        }
        let buckets = Buckets::of(self.choice, self.service, family, settings);
        resilient::with_rest(main, rest, buckets.count)
    }

    fn is_behind_route_nodes(self) -> bool {
        let place = self.choice.place;
        place.node.role == Role::Border && ways::has_route_nodes(place)
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
        let shares = |weights: &Weights| {
            let share = |(site, weight): (&SiteId, Weight)| format!("{site}={weight}");
            weights.iter().map(share).collect::<Vec<_>>().join(" ")
        };
        // Empty without such sites.
        let directly = |weights: &Weights| {
            let barred = weights.iter().filter(|(site, _)| transit::is_barred(self.choice, site));
            barred.map(|(site, _)| format!(", directly to {site}")).collect::<String>()
        };
        match (entry, course) {
            (Entry::Core, Deliver::Split(weights)) => {
                let (shares, directly) = (shares(&weights), directly(&weights));
                Way::Named(format!("shares {shares} but {own}{directly}"))
            }
            (_, Deliver::Split(weights)) => {
                let local = service::backends(self.service, own);
                let (shares, directly) = (shares(&weights), directly(&weights));
                Way::Named(format!("shares {shares} with {local}{directly}"))
            }
            (Entry::Out, Deliver::Local) => Way::Local,
            (Entry::Out, Deliver::Remote(site)) if transit::is_barred(self.choice, &site) => {
                Way::Named(format!("directly to {site}"))
            }
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

    fn easing(self, family: Family, state: &mut NodeState) -> Members {
        ways::easing(self.choice, self.service, self.backends, family, state)
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
                for (site, weight) in weights.iter() {
                    let members = if site == own {
                        self.local(family, state)
                    } else {
                        ways::remote(self.choice, site, family, state)
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
        if !self.is_behind_route_nodes() {
            return Members::new();
        }
        let weights = match traffic.deliver(&place.node.site, place.world.fabric) {
            Deliver::Split(weights) => weights,
            // Flows that are to stay are never looked up in another group.
            Deliver::Remote(site) if self.service.resilient().is_some() => {
                return ways::remote(self.choice, &site, family, state);
            }
            Deliver::Local | Deliver::Remote(_) | Deliver::Drained => return Members::new(),
        };
        let mut parts = Vec::new();
        for (site, weight) in weights.iter() {
            if *site != place.node.site {
                parts.push((weight, ways::remote(self.choice, site, family, state)));
            }
        }
        ways::combine(&parts)
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
pub(super) fn group(
    id: Option<NexthopId>,
    family: Family,
    members: Members,
    state: &mut NodeState,
) -> RouteTarget {
    let Some((greatest, _)) = members.iter().max_by_key(|(_, weight)| weight.get()) else {
        return RouteTarget::Unreachable;
    };
    let Some(id) = id else { return RouteTarget::Nexthop(*greatest) };
    state.nexthops.insert(id, Nexthop::Group { family, members, buckets: None });
    RouteTarget::Nexthop(id)
}

/// Whether a group has no way at all.
fn refuses(members: &Members, family: Family) -> bool {
    members.is_empty() || members.contains_key(&NexthopId::blackhole(family))
}

pub(super) fn routes(table: Table, to: &[IpNet], target: RouteTarget, state: &mut NodeState) {
    state.routes.extend(active(table, to, target));
}

fn active(
    table: Table,
    to: &[IpNet],
    target: RouteTarget,
) -> impl Iterator<Item = (RouteKey, RouteTarget)> {
    to.iter().map(move |destination| {
        let destination = destination.trunc();
        (RouteKey { table, destination, metric: Layout::METRIC_ACTIVE }, target)
    })
}

pub(super) fn floor(table: Table, to: &[IpNet], state: &mut NodeState) {
    for destination in to {
        let destination = destination.trunc();
        let key = RouteKey { table, destination, metric: Layout::METRIC_FLOOR };
        state.routes.insert(key, RouteTarget::Unreachable);
    }
}
