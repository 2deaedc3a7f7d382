//! The NSEC chain: every name that has records points to the next one (RFC 4034 section 4).
//!
//! The chain is a persistent map, so that a new snapshot shares all links that did not change. A
//! service whose sites differ in address families has types that depend on where it is; its link
//! holds one NSEC record for each such set of types, all with the same next name.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use hickory_proto::rr::RecordType;
use rpds::RedBlackTreeMapSync;

use super::key::Keys;
use super::names::order;
use super::set::{SignedSet, Unsigned};
use super::view::in_parallel;
use crate::zone::MINIMUM;

/// The types at one name, sorted; NSEC and RRSIG go without saying.
pub(super) type Types = Vec<u16>;

#[derive(Debug, Clone, Default)]
pub(super) struct Chain {
    links: RedBlackTreeMapSync<Box<[u8]>, Arc<Link>>,
}

#[derive(Debug)]
pub(super) struct Link {
    owner: Box<[u8]>,
    types: Vec<Types>,
    /// One for each element of `types`; empty until signed.
    sets: Vec<SignedSet>,
}

/// Where a name would be in the chain.
pub(super) enum Spot<'a> {
    /// It has records.
    Here,
    /// It has none, but names below it have: the link over it.
    Between(&'a Link),
    /// Nothing is there or below: the link over it.
    Nowhere(&'a Link),
}

impl Link {
    /// The NSEC record for these types, or any: they all deny the same names.
    pub(super) fn set(&self, types: Option<&[u16]>) -> &SignedSet {
        let at = types.and_then(|types| self.types.iter().position(|t| t == types));
        &self.sets[at.unwrap_or(0)]
    }

    pub(super) fn owner(&self) -> &[u8] {
        &self.owner
    }

    pub(super) fn sets(&self) -> &[SignedSet] {
        &self.sets
    }
}

impl Chain {
    pub(super) fn find(&self, name: &[u8]) -> Option<&Arc<Link>> {
        self.links.get(&order(name))
    }

    pub(super) fn by_key(&self, key: &[u8]) -> Option<&Arc<Link>> {
        self.links.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Box<[u8]>, &Arc<Link>)> {
        self.links.iter()
    }

    /// Where `name` is, below the apex. The apex itself is always the first link.
    pub(super) fn spot(&self, name: &[u8]) -> Spot<'_> {
        let key = order(name);
        let up_to = (Bound::Unbounded, Bound::Included(&*key));
        let (at, link) = self.links.range::<[u8], _>(up_to).next_back().expect("the apex is first");
        if **at == *key {
            return Spot::Here;
        }
        let behind = (Bound::Excluded(&*key), Bound::Unbounded);
        match self.links.range::<[u8], _>(behind).next() {
            Some((next, _)) if next.starts_with(&key) => Spot::Between(link),
            _ => Spot::Nowhere(link),
        }
    }

    /// Takes names out, puts names in or changes their types, and signs the links concerned, and
    /// those of `due`. Gives the keys of all links that changed.
    pub(super) fn change(
        &mut self,
        gone: &BTreeSet<Box<[u8]>>,
        new: BTreeMap<Box<[u8]>, Vec<Types>>,
        due: &BTreeSet<Box<[u8]>>,
        (keys, now): (&Keys, u64),
    ) -> BTreeSet<Box<[u8]>> {
        let mut moved = Vec::new();
        let mut touched = due.clone();
        for name in gone.iter().filter(|name| !new.contains_key(*name)) {
            let key = order(name);
            if self.links.remove_mut(&key) {
                moved.push(key);
            }
        }
        for (owner, types) in new {
            let key = order(&owner);
            let sets = match self.links.get(&key) {
                Some(link) if link.types == types => continue,
                Some(link) => link.sets.clone(),
                None => {
                    moved.push(key.clone());
                    Vec::new()
                }
            };
            touched.insert(key.clone());
            self.links.insert_mut(key, Arc::new(Link { owner, types, sets }));
        }
        // Whoever comes before a name that came or went points to another one now.
        for key in &moved {
            let before = (Bound::Unbounded, Bound::Excluded(&**key));
            touched.extend(self.links.range::<[u8], _>(before).next_back().map(|(k, _)| k.clone()));
        }
        touched.retain(|key| self.links.contains_key(key));
        let work: Vec<&Box<[u8]>> = touched.iter().collect();
        let links = in_parallel(&work, |key| self.linked(key, (keys, now)));
        for (key, link) in touched.iter().zip(links) {
            self.links.insert_mut(key.clone(), Arc::new(link));
        }
        touched.extend(moved);
        touched
    }

    /// The link with NSEC records that fit the present chain.
    fn linked(&self, key: &[u8], (keys, now): (&Keys, u64)) -> Link {
        let link = self.links.get(key).expect("only links of the chain are touched");
        let behind = (Bound::Excluded(key), Bound::Unbounded);
        // The last name points to the apex.
        let next = self.links.range::<[u8], _>(behind).next().map_or(&[][..], |(_, l)| &l.owner);
        let Link { owner, types, sets: _ } = &**link;
        let set = |types: &Types| {
            let data = [next, keys.zone().wire(), &bitmap(types)].concat().into_boxed_slice();
            let set = Unsigned::new(owner, RecordType::NSEC, MINIMUM, [data]);
            let old = link.sets.iter().find(|s| *s.set() == set && !keys.is_due(s, now));
            old.cloned().unwrap_or_else(|| keys.sign(set, now))
        };
        Link { owner: owner.clone(), types: types.clone(), sets: types.iter().map(set).collect() }
    }
}

/// The types and those that every link has (RFC 4034 section 4.1.2).
fn bitmap(types: &[u16]) -> Vec<u8> {
    let always = [RecordType::RRSIG, RecordType::NSEC].map(u16::from);
    let mut windows: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    for kind in types.iter().chain(&always) {
        let [window, bit] = kind.to_be_bytes();
        let bits = windows.entry(window).or_default();
        let byte = usize::from(bit / 8);
        bits.resize(bits.len().max(byte + 1), 0);
        bits[byte] |= 0x80 >> (bit % 8);
    }
    let mut bytes = Vec::new();
    for (window, bits) in windows {
        bytes.extend_from_slice(&[window, u8::try_from(bits.len()).expect("32 at most")]);
        bytes.extend_from_slice(&bits);
    }
    bytes
}
