//! The services of a zone by name, in parts that snapshots share.
//!
//! A question needs one hash and reads memory that nobody writes. A change copies the part its name
//! lies in and the two short lists above it, so its cost does not grow with the zone as a whole; the
//! snapshots before it keep theirs. The hash has a key of its process: names come from strangers.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashTable};

use crate::entry::Entry;

/// Parts in a group, and groups in a table.
const WIDTH: usize = 32;

#[derive(Debug, Clone)]
pub(crate) struct Table {
    hasher: RandomState,
    groups: Vec<Arc<Vec<Arc<Part>>>>,
    /// Names that exist only because others lie below them, with how many do.
    empty: Arc<HashMap<Box<[u8]>, u32, RandomState>>,
    len: usize,
}

type Part = HashTable<Arc<Entry>>;

// === impl Table ===

impl Table {
    pub(crate) fn new() -> Self {
        let hasher = RandomState::default();
        // One empty part in all places: the first service of each makes its own.
        let group = Arc::new(vec![Arc::new(Part::new()); WIDTH]);
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
        let hash = self.hasher.hash_one(key);
        let (group, part) = place(hash);
        let found = self.groups[group][part].find(hash, |entry| entry.key() == key);
        found.map(|entry| &**entry)
    }

    /// True when names lie below this one that are not a service's own.
    pub(crate) fn is_above(&self, key: &[u8]) -> bool {
        self.empty.contains_key(key)
    }

    /// Puts the entry in the place of the one with its key.
    pub(crate) fn insert(&mut self, entry: Entry) {
        let hash = self.hasher.hash_one(entry.key());
        let part = Self::part(&mut self.groups, hash);
        if let Some(old) = part.find_mut(hash, |old| old.key() == entry.key()) {
            *old = Arc::new(entry);
            return;
        }
        let key = Box::from(entry.key());
        let hasher = &self.hasher;
        part.insert_unique(hash, Arc::new(entry), |e| hasher.hash_one(e.key()));
        self.len += 1;
        self.count_parents(&key, 1);
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        let hash = self.hasher.hash_one(key);
        let part = Self::part(&mut self.groups, hash);
        if let Ok(found) = part.find_entry(hash, |entry| entry.key() == key) {
            found.remove();
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

    /// Snapshots share groups and parts, so the first change to one in a new snapshot copies it.
    fn part(groups: &mut [Arc<Vec<Arc<Part>>>], hash: u64) -> &mut Part {
        let (group, part) = place(hash);
        Arc::make_mut(&mut Arc::make_mut(&mut groups[group])[part])
    }
}

/// Group and part, from bits that the tables inside the parts use least.
fn place(hash: u64) -> (usize, usize) {
    let bits = usize::try_from((hash >> 32) & 0xffff_ffff).expect("32 bits");
    ((bits >> 10) % WIDTH, (bits >> 15) % WIDTH)
}

#[cfg(test)]
impl Table {
    /// How many parts are the very same in both.
    pub(crate) fn shared_with(&self, other: &Self) -> usize {
        let parts = |table: &Self| -> Vec<Arc<Part>> {
            table.groups.iter().flat_map(|g| g.iter().cloned()).collect()
        };
        parts(self).iter().zip(parts(other)).filter(|(a, b)| Arc::ptr_eq(a, b)).count()
    }

    pub(crate) fn parts(&self) -> usize {
        WIDTH * WIDTH
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.groups.iter().flat_map(|g| g.iter()).flat_map(|p| p.iter()).map(|e| &**e)
    }

    pub(crate) fn parents(&self) -> std::collections::BTreeMap<Box<[u8]>, u32> {
        self.empty.iter().map(|(name, count)| (name.clone(), *count)).collect()
    }
}
