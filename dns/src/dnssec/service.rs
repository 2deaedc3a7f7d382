//! One service, signed: every set of addresses its name may be answered with, and all else.
//!
//! A service is signed in two halves. The steered half is all that a move can ask for, so a move
//! takes the same half with another entry. The told half is what is said about the service in
//! words; it is of the entry that was last signed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::RecordType;
use nett_policy::fabric::Family;
use nett_policy::service::AllDown;

use super::chain::Types;
use super::key::Keys;
use super::set::{SignedSet, Unsigned};
use crate::entry::Details;
use crate::records::{Record, apart_from_addresses, of_family, target};
use crate::steer::Target;
use crate::topology::SiteIndex;
use crate::zone::Zone;

#[derive(Debug, Clone)]
pub(crate) struct SignedService {
    /// By which it is steered.
    entry: Details,
    /// Every address set of the service's own name.
    steered: Arc<Vec<SignedSet>>,
    /// Where the sets of each site, and last of the fallback, are in `steered`.
    places: Vec<Place>,
    /// Everything else, by name.
    told: Arc<BTreeMap<Box<[u8]>, Vec<SignedSet>>>,
}

/// The IPv4 and IPv6 addresses of one target.
type Place = [Option<usize>; 2];

const FAMILIES: [(Family, RecordType); 2] =
    [(Family::V4, RecordType::A), (Family::V6, RecordType::AAAA)];

impl SignedService {
    /// Signs what `old` does not have, or has for too short a time.
    pub(super) fn sign(
        zone: &Zone,
        key: &[u8],
        entry: &Details,
        old: Option<&Self>,
        (keys, now): (&Keys, u64),
    ) -> Self {
        let (wanted, places) = steered(key, entry);
        let was = old.map_or(&[][..], |o| &o.steered);
        let renew = |set: Unsigned, was: &[SignedSet]| {
            let same = was.iter().find(|s| *s.set() == set && !keys.is_due(s, now));
            same.cloned().unwrap_or_else(|| keys.sign(set, now))
        };
        let steered = wanted.into_iter().map(|set| renew(set, was)).collect();
        let mut told: BTreeMap<Box<[u8]>, Vec<SignedSet>> = BTreeMap::new();
        for set in Unsigned::group(apart_from_addresses(zone, key, entry)) {
            let was = old.and_then(|o| o.told.get(&set.owner)).map_or(&[][..], Vec::as_slice);
            told.entry(set.owner.clone()).or_default().push(renew(set, was));
        }
        Self { entry: entry.clone(), steered: Arc::new(steered), places, told: Arc::new(told) }
    }

    /// The service under another entry, if all its addresses are signed already: a move.
    pub(super) fn moved(&self, key: &[u8], entry: &Details) -> Option<Self> {
        let (wanted, places) = steered(key, entry);
        let have = self.steered.iter().map(SignedSet::set);
        if !wanted.iter().eq(have) {
            return None;
        }
        Some(Self { entry: entry.clone(), places, ..self.clone() })
    }

    pub(super) fn entry(&self) -> &Details {
        &self.entry
    }

    pub(super) fn all_sets(&self) -> impl Iterator<Item = &SignedSet> {
        self.steered.iter().chain(self.told.values().flatten())
    }

    /// The signed addresses of a target; `None` where it has none of this type.
    pub(super) fn addresses(&self, to: Target, kind: u16) -> Option<&SignedSet> {
        let place = match to {
            Target::Site(at) => self.places.get(at)?,
            Target::Address(_) => self.places.last()?,
            Target::Refused => return None,
        };
        let of_kind = FAMILIES.iter().position(|(_, k)| u16::from(*k) == kind)?;
        place[of_kind].map(|at| &self.steered[at])
    }

    /// What is said at a name of the service, apart from its own addresses.
    pub(super) fn told(&self, name: &[u8]) -> Option<&[SignedSet]> {
        self.told.get(name).map(Vec::as_slice)
    }

    /// The types of the service's own name when it is answered by this target.
    pub(super) fn types_at(&self, key: &[u8], to: Target) -> Types {
        let place = match to {
            Target::Site(at) => self.places.get(at),
            Target::Address(_) => self.places.last(),
            Target::Refused => None,
        };
        self.types_of_place(key, place.copied().unwrap_or_default())
    }

    fn types_of_place(&self, key: &[u8], place: Place) -> Types {
        let of_kind =
            |((_, kind), at): (&(Family, RecordType), Option<usize>)| at.map(|_| u16::from(*kind));
        let mut types: Types = FAMILIES.iter().zip(place).filter_map(of_kind).collect();
        types.extend(self.told(key).into_iter().flatten().map(SignedSet::kind));
        types.sort_unstable();
        types
    }

    /// The names of the service with the types each may have.
    pub(super) fn names(&self, key: &[u8]) -> BTreeMap<Box<[u8]>, Vec<Types>> {
        let types = |sets: &Vec<SignedSet>| {
            let mut types: Types = sets.iter().map(SignedSet::kind).collect();
            types.sort_unstable();
            vec![types]
        };
        let mut names: BTreeMap<_, _> =
            self.told.iter().map(|(name, sets)| (name.clone(), types(sets))).collect();
        // Whose time is over is at no target, whatever else it would be answered with.
        let places = self.places.iter().copied().chain([Place::default()]);
        let mut own: Vec<Types> = places.map(|place| self.types_of_place(key, place)).collect();
        own.sort();
        own.dedup();
        own.retain(|types| !types.is_empty());
        if !own.is_empty() {
            names.insert(key.into(), own);
        }
        names
    }

    /// What a secondary copies: the addresses for clients of `site`, and everything else.
    pub(super) fn records(&self, zone: &Zone, site: Option<SiteIndex>, into: &mut Vec<Record>) {
        let to = target(self.entry.plan(), zone.topology(), site);
        for (_, kind) in FAMILIES {
            if let Some(set) = self.addresses(to, kind.into()) {
                set.records(into);
            }
        }
        self.told.values().flatten().for_each(|set| set.records(into));
    }

    /// The types that a copy has at the service's own name.
    pub(super) fn copied_types(&self, zone: &Zone, key: &[u8], site: Option<SiteIndex>) -> Types {
        self.types_at(key, target(self.entry.plan(), zone.topology(), site))
    }
}

/// All address sets of the service's own name, each once, and which of them each target has.
fn steered(key: &[u8], entry: &Details) -> (Vec<Unsigned>, Vec<Place>) {
    let mut sets: Vec<Unsigned> = Vec::new();
    let ttls = entry.ttls();
    // Those of the other TTL are signed as well: lowering it is to sign nothing either.
    for ttl in [ttls.lasting, ttls.told] {
        places_at(ttl, key, entry, &mut sets);
    }
    let places = places_at(ttls.steered, key, entry, &mut sets);
    (sets, places)
}

/// Where the addresses of each target are with this TTL; those that are missing are put there.
fn places_at(ttl: u32, key: &[u8], entry: &Details, sets: &mut Vec<Unsigned>) -> Vec<Place> {
    let mut place = |addresses: &[IpAddr]| {
        FAMILIES.map(|(family, kind)| {
            let octets = |a: IpAddr| match a {
                IpAddr::V4(a) => a.octets().into(),
                IpAddr::V6(a) => a.octets().into(),
            };
            let data: Vec<Box<[u8]>> =
                of_family(addresses, family).into_iter().map(octets).collect();
            if data.is_empty() {
                return None;
            }
            let set = Unsigned::new(key, kind, ttl, data);
            Some(sets.iter().position(|s| *s == set).unwrap_or_else(|| {
                sets.push(set);
                sets.len() - 1
            }))
        })
    };
    let sites = entry.fixed().sites.iter().map(|s| s.addresses.as_slice());
    let mut places: Vec<Place> = sites.map(&mut place).collect();
    places.push(match entry.fixed().all_down {
        AllDown::Fallback(address) => place(&[address]),
        _ => [None; 2],
    });
    places
}
