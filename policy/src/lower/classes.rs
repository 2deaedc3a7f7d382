//! Steering classes: services that always move together share their nexthop groups.
//!
//! A class is made of what decides where its services can be: mode, sites in order, category and
//! backends. Its *base* state is the one that most of its services are in; they share the groups of
//! the class, so that a drain of a site is one change of a group per class and table; the group of
//! a class that has no way is a blackhole, so that not even the end of a drain touches a route, and
//! the nft table refuses the class as a whole. A service in another
//! state has *departed*: where it goes another way than its class, it uses a group that is there
//! anyway, towards a site or into its own, so that going its own way is one change of a route and
//! no group comes or goes. (FRR's zebra puts back groups that it sees deleted while it still knows
//! a route with them.) Only shares that no class has as its base make a group of their own.
//!
//! Numbers come from a hash of a name, not from a place among others: a service that is added to a
//! class, or a class that is added, renumbers nothing. Only where two names hash to the same number
//! does the later one get the next free one; a plan renumbers without sending anything the wrong
//! way, but it does take a route per service.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sha2::{Digest, Sha256};

use super::object::NexthopId;
use super::{Place, transit};
use crate::fabric::Family;
use crate::id::SiteId;
use crate::log::intent::World;
use crate::place::Placement;
use crate::service::{Catalog, Mode, Service};
use crate::traffic::{Spread, Traffic};

/// Services of one class in one state.
#[derive(Debug)]
pub(super) struct Class<'a> {
    pub(super) name: Cow<'a, str>,
    /// The state of most services of the class.
    pub(super) base: &'a Traffic,
    pub(super) traffic: &'a Traffic,
    /// Not empty.
    pub(super) services: Vec<&'a Service>,
}

/// The part of a traffic state that forwarding depends on.
type Course<'a> = (&'a Spread, &'a BTreeSet<SiteId>);

fn course(traffic: &Traffic) -> Course<'_> {
    let Traffic { spread, accept, answers: _ } = traffic;
    (spread, accept)
}

impl Class<'_> {
    /// True for a service, alone in its class, whose flows stay where they are.
    pub(super) fn keeps_flows(&self) -> bool {
        self.services.first().is_some_and(|service| service.resilient().is_some())
    }

    /// True for the services that share the groups of the class.
    pub(super) fn is_base(&self) -> bool {
        course(self.base) == course(self.traffic)
    }
}

/// Every class and state with its services, in a fixed order. Services that may not go through a
/// site that lets others through are a class apart where that tells their ways from those of
/// others. One that is alone in its class keeps its name all the same: who looks for its flows
/// finds them in the group that they had.
pub(super) fn classes<'a>(place: Place<'a>, placement: &'a Placement) -> Vec<Class<'a>> {
    let World { fabric: _, catalog } = place.world;
    let names = catalog.class_names();
    let mut by_name: BTreeMap<(usize, BTreeSet<&SiteId>), BTreeMap<Course<'a>, Class<'a>>> =
        BTreeMap::new();
    let mut placed = placement.services.iter().peekable();
    for (service, class) in catalog.classed() {
        // Both are in the order of ids.
        while placed.next_if(|(id, _)| **id < service.id).is_some() {}
        let Some((_, placed)) = placed.next_if(|(id, _)| **id == service.id) else { continue };
        let traffic = &*placed.traffic;
        let barred = match service.resilient() {
            Some(_) => BTreeSet::new(),
            None => transit::barred(place, service),
        };
        let name = named(&names[class], &barred);
        let class_of = || Class { name, base: traffic, traffic, services: Vec::new() };
        let states = by_name.entry((class, barred)).or_default();
        states.entry(course(traffic)).or_insert_with(class_of).services.push(service);
    }
    let mut all = Vec::new();
    for states in by_name.into_values() {
        let base = base(&states);
        let with_base = |class: Class<'a>| Class { base: base.unwrap_or(class.base), ..class };
        all.extend(states.into_values().map(with_base));
    }
    all
}

fn named<'a>(class: &'a str, barred: &BTreeSet<&SiteId>) -> Cow<'a, str> {
    if barred.is_empty() {
        return Cow::Borrowed(class);
    }
    let sites: Vec<&str> = barred.iter().map(|site| site.as_str()).collect();
    Cow::Owned(format!("{class} not through {}", sites.join(" ")))
}

/// The state that most services are in; of equal ones that at home, else the least.
fn base<'a>(states: &BTreeMap<Course<'a>, Class<'a>>) -> Option<&'a Traffic> {
    let mut best: Option<(&'a Traffic, (usize, bool))> = None;
    for class in states.values() {
        let size = (class.services.len(), is_home(class));
        if best.is_none_or(|(_, greatest)| size > greatest) {
            best = Some((class.traffic, size));
        }
    }
    best.map(|(traffic, _)| traffic)
}

fn is_home(class: &Class<'_>) -> bool {
    class.services.first().is_some_and(|service| match &service.mode {
        Mode::ActivePassive { primary, standby: _ } => {
            class.traffic.spread == Spread::one(primary.clone())
        }
        Mode::ActiveActive { active, readmit: _ } => {
            class.traffic.spread == Spread::Nearest(active.iter().cloned().collect())
        }
    })
}

/// The number of every name: those of classes first, so that no way takes one from a class.
pub(super) fn numbers(
    classes: BTreeSet<String>,
    ways: BTreeSet<String>,
) -> BTreeMap<String, Option<u32>> {
    let names: Vec<String> = classes.into_iter().chain(ways).collect();
    let slots = slots(names.iter().map(String::as_bytes), NexthopId::MOST_CLASSES);
    names.into_iter().zip(slots).collect()
}

/// A number below `count` for each name: its hash, or the next free number after it. `None` for
/// those that find none.
pub(super) fn slots<'a>(names: impl Iterator<Item = &'a [u8]>, count: usize) -> Vec<Option<u32>> {
    let count = u32::try_from(count).expect("ids are numbers of 32 bits");
    let mut taken: BTreeSet<u32> = BTreeSet::new();
    let place = |name: &[u8]| {
        let digest = Sha256::digest(name);
        let [a, b, c, d, ..] = digest.as_slice() else { unreachable!("SHA-256 has 32 bytes") };
        let hash = u32::from_be_bytes([*a, *b, *c, *d]) % count;
        let slot = (hash..count).chain(0..hash).find(|slot| !taken.contains(slot));
        taken.extend(slot);
        slot
    };
    names.map(place).collect()
}

/// Ids of a site's backends, each from a hash of its address: adding one renumbers no other, but
/// for the rare case of two with one hash.
pub(super) fn backend_ids(catalog: &Catalog, site: &SiteId) -> BTreeMap<IpAddr, NexthopId> {
    let at_site = catalog.backends().filter_map(|backends| backends.get(site));
    let addresses: BTreeSet<IpAddr> = at_site.flatten().map(|b| b.address).collect();
    let names: Vec<Vec<u8>> = addresses
        .iter()
        .map(|address| match Family::of(*address) {
            Family::V4 => format!("4 {address}").into_bytes(),
            Family::V6 => format!("6 {address}").into_bytes(),
        })
        .collect();
    let slots = slots(names.iter().map(Vec::as_slice), NexthopId::BACKEND_SLOTS);
    let numbered = addresses.into_iter().zip(slots);
    numbered.filter_map(|(address, slot)| Some((address, NexthopId::backend(slot?)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_do_not_move_when_others_come() {
        let names: Vec<String> = (0..200).map(|n| format!("class {n}")).collect();
        let of = |names: &[String]| slots(names.iter().map(String::as_bytes), 4096);
        let few = of(&names[..100]);
        let many = of(&names);
        let same = few.iter().zip(&many).filter(|(a, b)| a == b).count();
        assert_eq!(same, 100, "those that come later take what is left");
        let unique: BTreeSet<u32> = many.iter().map(|s| s.expect("room")).collect();
        assert_eq!(unique.len(), 200);
    }

    #[test]
    fn without_room_there_is_no_number() {
        let names = ["a", "b", "c"].map(str::as_bytes);
        let mut slots = slots(names.into_iter(), 2);
        slots.sort_unstable();
        assert_eq!(slots, [None, Some(0), Some(1)]);
    }
}
