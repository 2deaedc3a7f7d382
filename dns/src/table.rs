//! The services of a zone by name, in parts that snapshots share.
//!
//! A question costs one hash and two places in memory: a slot, and the bytes of the service. Memory
//! decides here, not instructions: the names asked for are more than any cache holds, so slots are
//! small and the bytes of a part lie side by side. A change makes anew the parts its names lie in,
//! and the short list above each; the rest is shared, so its cost does not grow with the zone as a
//! whole. The hash has a key of its process: names come from strangers.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::entry::{Details, Entry};
use crate::packed::Packed;

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
    slots: Arc<[Slot]>,
    /// The bytes of all services of the part.
    bytes: Arc<[u8]>,
    /// By slot.
    details: Arc<[Option<Arc<Details>>]>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The low half of the hash.
    low: u32,
    /// Where the service is in the bytes of the part; `FREE` when there is none.
    at: u32,
}

const FREE: Slot = Slot { low: 0, at: u32::MAX };

/// What becomes of one name.
#[derive(Debug)]
pub(crate) struct Change {
    hash: Hash,
    /// Where the key begins in the bytes of all changes, behind its length.
    at: usize,
    /// Without, the name goes.
    details: Option<Arc<Details>>,
}

/// A hash, cut into what each level looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Hash {
    group: usize,
    part: usize,
    low: u32,
}

// === impl Table ===

impl Table {
    pub(crate) fn new() -> Self {
        let hasher = RandomState::default();
        let group: Group = vec![Part::of(&[], &[]); WIDTH].into();
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

    fn hash(&self, key: &[u8]) -> Hash {
        let hash = self.hasher.hash_one(key);
        let high = usize::try_from(hash >> 32).expect("usize has 32 bits or more");
        let low = u32::try_from(hash & u64::from(u32::MAX)).expect("masked");
        Hash { group: high % WIDTH, part: high / WIDTH % WIDTH, low }
    }

    /// The service with this key, its labels in wire form without a root label.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Entry<'_>> {
        let hash = self.hash(key);
        let part = &self.groups[hash.group][hash.part];
        let slot = find(&part.slots, &part.bytes, hash.low, key);
        let at = part.slots[slot].at()?;
        Some(Entry::new(Packed::at(&part.bytes[at..]), &part.details[slot]))
    }

    /// The services of one part, of [`Table::parts`]; `None` behind the last one.
    pub(crate) fn entries_of(&self, part: usize) -> Option<impl Iterator<Item = Entry<'_>>> {
        let part = self.groups.get(part / WIDTH)?.get(part % WIDTH)?;
        let rows = part.slots.iter().zip(part.details.iter());
        Some(rows.filter_map(|(slot, details)| {
            Some(Entry::new(Packed::at(&part.bytes[slot.at()?..]), details))
        }))
    }

    /// All services, in no order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        (0..).map_while(|part| self.entries_of(part)).flatten()
    }

    /// True when names lie below this one that are not a service's own.
    pub(crate) fn is_above(&self, key: &[u8]) -> bool {
        self.empty.contains_key(key)
    }

    /// What is to become of the name at the start of `bytes[at..]`, given as [`Packed`] begins.
    pub(crate) fn change(&self, bytes: &[u8], at: usize, details: Option<Arc<Details>>) -> Change {
        Change { hash: self.hash(Packed::at(&bytes[at..]).key()), at, details }
    }

    /// Makes `changes`, whose bytes are in `bytes`. At most one may be of a name.
    pub(crate) fn apply(&mut self, mut changes: Vec<Change>, bytes: &[u8]) {
        changes.sort_unstable_by_key(|c| c.hash);
        let same_part =
            |a: &Change, b: &Change| (a.hash.group, a.hash.part) == (b.hash.group, b.hash.part);
        for of_part in changes.chunk_by(same_part) {
            let Hash { group, part, low: _ } = of_part[0].hash;
            let before = &self.groups[group][part];
            let mut parents = Vec::new();
            for change in of_part {
                let key = Packed::at(&bytes[change.at..]).key();
                let slot = find(&before.slots, &before.bytes, change.hash.low, key);
                match (before.slots[slot].at(), &change.details) {
                    (None, Some(_)) => parents.push((key, 1)),
                    (Some(_), None) => parents.push((key, -1)),
                    (Some(_), Some(_)) | (None, None) => {}
                }
            }
            let next = before.with(of_part, bytes);
            // Snapshots share groups, so the first change to one in a new snapshot copies it.
            Arc::make_mut(&mut self.groups[group])[part] = next;
            for (key, change) in parents {
                self.len = self.len.checked_add_signed(change as isize).expect("counted before");
                self.count_parents(key, change);
            }
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
}

// === impl Part ===

/// A service on its way into a part.
#[derive(Clone, Copy)]
struct Moving<'a> {
    low: u32,
    bytes: &'a [u8],
    details: &'a Arc<Details>,
}

impl Part {
    /// The services of `kept`, and behind them those of `new`; no name is in both or twice.
    fn of(kept: &[Moving<'_>], new: &[Moving<'_>]) -> Self {
        let taken = kept.len() + new.len();
        let size = (taken * 4 / 3 + 1).next_power_of_two().max(FEWEST);
        let mut slots = vec![FREE; size];
        let mut details = vec![None; size];
        let mut bytes = Vec::with_capacity(kept.iter().chain(new).map(|m| m.bytes.len()).sum());
        for moving in kept.iter().chain(new) {
            let mut slot = start(moving.low, size);
            while slots[slot].at().is_some() {
                slot = (slot + 1) & (size - 1);
            }
            let at = u32::try_from(bytes.len()).expect("a part has less than 4 GiB");
            slots[slot] = Slot { low: moving.low, at };
            details[slot] = Some(Arc::clone(moving.details));
            bytes.extend_from_slice(moving.bytes);
        }
        Self { slots: slots.into(), bytes: bytes.into(), details: details.into() }
    }

    fn with(&self, changes: &[Change], bytes: &[u8]) -> Self {
        let gone = |slot: &Slot, packed: Packed<'_>| {
            let same = |c: &&Change| c.hash.low == slot.low;
            let mut candidates = changes.iter().filter(same);
            candidates.any(|c| Packed::at(&bytes[c.at..]).key() == packed.key())
        };
        let mut kept = Vec::with_capacity(self.slots.len());
        for (slot, details) in self.slots.iter().zip(self.details.iter()) {
            let (Some(at), Some(details)) = (slot.at(), details) else { continue };
            let packed = Packed::at(&self.bytes[at..]);
            if !gone(slot, packed) {
                kept.push(Moving { low: slot.low, bytes: packed.bytes(), details });
            }
        }
        let new: Vec<Moving<'_>> = changes
            .iter()
            .filter_map(|change| {
                let details = change.details.as_ref()?;
                let bytes = Packed::at(&bytes[change.at..]).bytes();
                Some(Moving { low: change.hash.low, bytes, details })
            })
            .collect();
        Self::of(&kept, &new)
    }
}

impl Slot {
    fn at(self) -> Option<usize> {
        (self.at != FREE.at).then(|| usize::try_from(self.at).expect("usize has 32 bits or more"))
    }
}

/// The slot of the name, or the free one where it would be put. There always is a free one.
fn find(slots: &[Slot], bytes: &[u8], low: u32, key: &[u8]) -> usize {
    let mut slot = start(low, slots.len());
    while let Some(at) = slots[slot].at() {
        if slots[slot].low == low && Packed::at(&bytes[at..]).key() == key {
            break;
        }
        slot = (slot + 1) & (slots.len() - 1);
    }
    slot
}

/// Where the run of a name begins.
fn start(low: u32, slots: usize) -> usize {
    usize::try_from(low).expect("usize has 32 bits or more") & (slots - 1)
}

#[cfg(test)]
impl Table {
    /// How many parts are the very same in both.
    pub(crate) fn shared_with(&self, other: &Self) -> usize {
        let parts = |table: &Self| -> Vec<Part> {
            table.groups.iter().flat_map(|g| g.iter().cloned()).collect()
        };
        parts(self)
            .iter()
            .zip(parts(other))
            .filter(|(a, b)| Arc::ptr_eq(&a.slots, &b.slots))
            .count()
    }

    pub(crate) fn parts(&self) -> usize {
        WIDTH * WIDTH
    }

    pub(crate) fn parents(&self) -> std::collections::BTreeMap<Box<[u8]>, u32> {
        self.empty.iter().map(|(name, count)| (name.clone(), *count)).collect()
    }
}

#[cfg(test)]
mod tests;
