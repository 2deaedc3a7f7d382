//! The services of a zone by name, in parts that snapshots share.
//!
//! A question costs one hash and two places in memory: a slot, and the bytes of the service. Memory
//! decides here, not instructions: the names asked for are more than any cache holds. A change
//! copies the part its name lies in and the two short lists above it, so its cost does not grow with
//! the zone as a whole. The hash has a key of its process: names come from strangers.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::entry::Entry;

/// Parts in a group, and groups in a table.
const WIDTH: usize = 32;
/// The fewest slots of a part; always a power of two, and at most 3/4 taken.
const FEWEST: usize = 8;

#[derive(Debug, Clone)]
pub(crate) struct Table {
    hasher: RandomState,
    groups: Vec<Group>,
    /// Names that exist only because others lie below them, with how many do.
    empty: Arc<HashMap<Box<[u8]>, u32, RandomState>>,
    len: usize,
}

type Group = Arc<[Part]>;

/// Open addressing with linear probing: a name is in the run of taken slots from its place on.
#[derive(Debug, Clone)]
struct Part {
    taken: usize,
    slots: Arc<[Slot]>,
}

/// The low half of the hash, and what is there.
type Slot = Option<(u32, Entry)>;

// === impl Table ===

impl Table {
    pub(crate) fn new() -> Self {
        let hasher = RandomState::default();
        // One empty part in all places: the first service of each makes its own.
        let group: Group = vec![Part::with_room(0); WIDTH].into();
        Self {
            hasher: hasher.clone(),
            groups: vec![group; WIDTH],
            empty: Arc::new(HashMap::with_hasher(hasher)),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The service with this key, its labels in wire form without a root label.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Entry> {
        let hash = Hash::new(self.hasher.hash_one(key));
        let slots = &self.groups[hash.group][hash.part].slots;
        let (_, entry) = slots[find(slots, hash.low, key)].as_ref()?;
        Some(entry)
    }

    /// True when names lie below this one that are not a service's own.
    pub(crate) fn is_above(&self, key: &[u8]) -> bool {
        self.empty.contains_key(key)
    }

    /// Puts the entry in the place of the one with its key.
    pub(crate) fn insert(&mut self, entry: Entry) {
        let hash = Hash::new(self.hasher.hash_one(entry.key()));
        let key = Box::<[u8]>::from(entry.key());
        if Self::part(&mut self.groups, hash).put(hash.low, entry) {
            self.len += 1;
            self.count_parents(&key, 1);
        }
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        let hash = Hash::new(self.hasher.hash_one(key));
        if Self::part(&mut self.groups, hash).take(hash.low, key) {
            self.len -= 1;
            self.count_parents(key, -1);
        }
    }

    /// Counts one name more or less below each parent of `key`, short of the apex.
    pub(crate) fn count_parents(&mut self, key: &[u8], change: i32) {
        let empty = Arc::make_mut(&mut self.empty);
        let mut rest = key;
        while let Some((length, tail)) = rest.split_first() {
            rest = &tail[usize::from(*length)..];
            if rest.is_empty() {
                return;
            }
            if !empty.contains_key(rest) {
                empty.insert(rest.into(), 0);
            }
            let count = empty.get_mut(rest).expect("just entered");
            *count = count.checked_add_signed(change).expect("no name leaves that did not come");
            if *count == 0 {
                empty.remove(rest);
            }
        }
    }

    /// Snapshots share groups, so the first change to one in a new snapshot copies it.
    fn part(groups: &mut [Group], hash: Hash) -> &mut Part {
        &mut Arc::make_mut(&mut groups[hash.group])[hash.part]
    }
}

/// A hash, cut into what each level looks at.
#[derive(Debug, Clone, Copy)]
struct Hash {
    group: usize,
    part: usize,
    low: u32,
}

impl Hash {
    fn new(hash: u64) -> Self {
        let high = usize::try_from(hash >> 32).expect("usize has 32 bits or more");
        let low = u32::try_from(hash & u64::from(u32::MAX)).expect("masked");
        Self { group: high % WIDTH, part: high / WIDTH % WIDTH, low }
    }
}

// === impl Part ===

impl Part {
    /// An empty part in which `entries` find room.
    fn with_room(entries: usize) -> Self {
        let slots = (entries * 4 / 3 + 1).next_power_of_two().max(FEWEST);
        Self { taken: 0, slots: vec![None; slots].into() }
    }

    /// True when nothing was in the place of the entry.
    fn put(&mut self, low: u32, entry: Entry) -> bool {
        let at = find(&self.slots, low, entry.key());
        if self.slots[at].is_some() {
            Arc::make_mut(&mut self.slots)[at] = Some((low, entry));
            return false;
        }
        if (self.taken + 1) * 4 > self.slots.len() * 3 {
            let mut larger = Self::with_room(self.taken + 1);
            for (low, entry) in self.slots.iter().flatten() {
                larger.put(*low, entry.clone());
            }
            *self = larger;
        }
        let at = find(&self.slots, low, entry.key());
        Arc::make_mut(&mut self.slots)[at] = Some((low, entry));
        self.taken += 1;
        true
    }

    /// True when the entry was there. The part is made anew: those behind it may have come to lie
    /// where they are because of it.
    fn take(&mut self, low: u32, key: &[u8]) -> bool {
        let gone = find(&self.slots, low, key);
        if self.slots[gone].is_none() {
            return false;
        }
        let mut smaller = Self::with_room(self.taken - 1);
        for (at, slot) in self.slots.iter().enumerate() {
            if let Some((low, entry)) = slot
                && at != gone
            {
                smaller.put(*low, entry.clone());
            }
        }
        *self = smaller;
        true
    }
}

/// The slot of the name, or the free one where it would be put. There always is a free one.
fn find(slots: &[Slot], low: u32, key: &[u8]) -> usize {
    let mut at = usize::try_from(low).expect("usize has 32 bits or more");
    loop {
        at &= slots.len() - 1;
        match &slots[at] {
            Some((hash, entry)) if *hash != low || entry.key() != key => at += 1,
            Some(_) | None => return at,
        }
    }
}

#[cfg(test)]
impl Table {
    /// How many parts are the very same in both.
    pub(crate) fn shared_with(&self, other: &Self) -> usize {
        let parts = |table: &Self| -> Vec<Part> {
            table.groups.iter().flat_map(|g| g.iter().cloned()).collect()
        };
        parts(self).iter().zip(parts(other)).filter(|(a, b)| Arc::ptr_eq(&a.slots, &b.slots)).count()
    }

    pub(crate) fn parts(&self) -> usize {
        WIDTH * WIDTH
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        let slots = self.groups.iter().flat_map(|g| g.iter()).flat_map(|p| p.slots.iter());
        slots.flatten().map(|(_, entry)| entry)
    }

    pub(crate) fn parents(&self) -> std::collections::BTreeMap<Box<[u8]>, u32> {
        self.empty.iter().map(|(name, count)| (name.clone(), *count)).collect()
    }
}

#[cfg(test)]
mod tests;
