//! The services of a zone by name, in parts that snapshots share.
//!
//! A question costs one hash and two places in memory: a slot, and the bytes of the service. Memory
//! decides here, not instructions: the names asked for are more than any cache holds, so slots are
//! small and the bytes of a part lie side by side. A change makes anew the parts its names lie in,
//! and the short list above each; the rest is shared, so its cost does not grow with the zone as a
//! whole. A service that only moves keeps its bytes: which column of them everybody gets is in the
//! slot. The hash has a key of its process: names come from strangers.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use nett_policy::lower::answers::ServiceAnswers;
use nett_policy::service::FixedAnswers;

use crate::entry::{Bearing, DEPENDS, Entry, Steerings};
use crate::packed::{Packed, pack};
use crate::topology::Topology;

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
    /// By slot, and shared with the part before as the bytes are.
    fixed: Arc<[Option<Arc<FixedAnswers>>]>,
    /// By slot. A move writes these and the slots, and nothing else.
    bearings: Arc<[Option<Bearing>]>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The low half of the hash.
    low: u32,
    /// Where the service is in the bytes of the part, in 24 bits, and in the last 8 bits the column
    /// that all clients get; `FREE` when there is no service.
    place: u32,
}

const FREE: Slot = Slot { low: 0, place: u32::MAX };

/// What becomes of one name.
#[derive(Debug)]
pub(crate) struct Change {
    hash: Hash,
    what: What,
}

#[derive(Debug)]
enum What {
    /// The service in this slot is where the bearing says; its bytes stay.
    Move { slot: usize, bearing: Option<Bearing> },
    /// The bytes of all changes hold those of the service here.
    Put { at: usize, fixed: Arc<FixedAnswers>, bearing: Bearing },
    /// The bytes of all changes hold the key here, behind its length.
    Remove { at: usize },
}

/// A hash, cut into what each level looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hash {
    group: u8,
    part: u8,
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

    pub(crate) fn hash(&self, key: &[u8]) -> Hash {
        let hash = self.hasher.hash_one(key);
        let [.., part, group] = (hash >> 32).to_be_bytes();
        let within = |byte: u8| byte % u8::try_from(WIDTH).expect("32");
        let low = u32::try_from(hash & u64::from(u32::MAX)).expect("masked");
        Hash { group: within(group), part: within(part), low }
    }

    fn part(&self, hash: Hash) -> &Part {
        &self.groups[usize::from(hash.group)][usize::from(hash.part)]
    }

    /// The service with this key, its labels in wire form without a root label.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Entry<'_>> {
        let hash = self.hash(key);
        let part = self.part(hash);
        part.entry(find(&part.slots, &part.bytes, hash.low, key))
    }

    /// Reads what [`Table::put`] will read first of a name with this hash, and does nothing else.
    pub(crate) fn peek(&self, hash: Hash) -> (u32, bool, bool) {
        let part = self.part(hash);
        let slot = start(hash.low, part.slots.len());
        (part.slots[slot].low, part.fixed[slot].is_some(), part.bearings[slot].is_some())
    }

    /// The services of one part, of [`Table::parts`]; `None` behind the last one.
    pub(crate) fn entries_of(&self, part: usize) -> Option<impl Iterator<Item = Entry<'_>>> {
        let part = self.groups.get(part / WIDTH)?.get(part % WIDTH)?;
        Some((0..part.slots.len()).filter_map(|slot| part.entry(slot)))
    }

    /// All services, in no order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        (0..).map_while(|part| self.entries_of(part)).flatten()
    }

    /// True when names lie below this one that are not a service's own.
    pub(crate) fn is_above(&self, key: &[u8]) -> bool {
        self.empty.contains_key(key)
    }

    /// The service with this key is to have these answers; appends what it needs to `bytes`, which
    /// those of all changes are in. The services of the table are of the same fabric. Of a service
    /// that only moves, what its answers are made of is not looked at.
    pub(crate) fn put(
        &self,
        (hash, key): (Hash, &[u8]),
        answers: &ServiceAnswers,
        (steerings, topology): (&mut Steerings, &Topology),
        bytes: &mut Vec<u8>,
    ) -> Change {
        let (epoch, fixed) = (answers.epoch, &answers.fixed);
        if let Some((slot, before)) = self.part(hash).find_same(hash.low, fixed) {
            let steering = steerings.after(&before.steering, answers, topology);
            if steering.ttls() == before.steering.ttls() {
                let bearing = Some(Bearing { epoch, steering: Arc::clone(steering) });
                return Change { hash, what: What::Move { slot, bearing } };
            }
        }
        let (at, steering) = (bytes.len(), steerings.of(answers, topology));
        pack(bytes, key, (fixed, steering.ttls().steered), topology);
        let (fixed, bearing) = (Arc::clone(fixed), Bearing { epoch, steering });
        Change { hash, what: What::Put { at, fixed, bearing } }
    }

    /// The name with this key is to go.
    pub(crate) fn remove(&self, (hash, key): (Hash, &[u8]), bytes: &mut Vec<u8>) -> Change {
        let at = bytes.len();
        bytes.push(u8::try_from(key.len()).expect("a name has at most 255 bytes"));
        bytes.extend_from_slice(key);
        Change { hash, what: What::Remove { at } }
    }

    /// Makes `changes`, whose bytes are in `bytes` and which were made for the table as it is. At
    /// most one may be of a name.
    pub(crate) fn apply(&mut self, changes: Vec<Change>, bytes: &[u8]) {
        // Sorted by part, by counting: places are written, and each change is moved once.
        let mut ends = [0; WIDTH * WIDTH];
        for change in &changes {
            ends[change.hash.part_of_all()] += 1;
        }
        let mut begin = 0;
        for end in &mut ends {
            begin += std::mem::replace(end, begin);
        }
        let mut order = vec![0; changes.len()];
        for (at, change) in changes.iter().enumerate() {
            let end = &mut ends[change.hash.part_of_all()];
            order[*end] = at;
            *end += 1;
        }
        let mut changes: Vec<Option<Change>> = changes.into_iter().map(Some).collect();
        let (mut moves, mut others, mut parents) = (Vec::new(), Vec::new(), Vec::new());
        let mut begin = 0;
        for (group, ends) in self.groups.iter_mut().zip(ends.chunks(WIDTH)) {
            if ends.last() == Some(&begin) {
                continue;
            }
            // Snapshots share groups, so one that anything changes in is made anew.
            let mut parts = Vec::with_capacity(WIDTH);
            for (part, end) in group.iter().zip(ends) {
                for change in order[begin..*end].iter().filter_map(|at| changes[*at].take()) {
                    let list = if change.is_move() { &mut moves } else { &mut others };
                    list.push(change);
                }
                begin = *end;
                parts.push(part.after(&mut moves, &others, bytes, &mut parents));
                moves.clear();
                others.clear();
            }
            *group = parts.into();
        }
        for (key, change) in parents {
            self.len = self.len.checked_add_signed(change as isize).expect("counted before");
            self.count_parents(key, change);
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
    only: u8,
    bytes: &'a [u8],
    fixed: &'a Arc<FixedAnswers>,
    bearing: &'a Bearing,
}

impl Part {
    /// The service in this slot.
    fn entry(&self, slot: usize) -> Option<Entry<'_>> {
        let taken = self.slots[slot];
        let packed = Packed::at(&self.bytes[taken.at()?..]);
        Some(Entry::new(packed, taken.only(), &self.fixed[slot], &self.bearings[slot]))
    }

    /// The services of `kept`, and behind them those of `new`; no name is in both or twice.
    fn of(kept: &[Moving<'_>], new: &[Moving<'_>]) -> Self {
        let taken = kept.len() + new.len();
        let size = (taken * 4 / 3 + 1).next_power_of_two().max(FEWEST);
        let mut slots = vec![FREE; size];
        let (mut fixed, mut bearings) = (vec![None; size], vec![None; size]);
        let mut bytes = Vec::with_capacity(kept.iter().chain(new).map(|m| m.bytes.len()).sum());
        for moving in kept.iter().chain(new) {
            let mut slot = start(moving.low, size);
            while slots[slot].at().is_some() {
                slot = (slot + 1) & (size - 1);
            }
            let at = bytes.len();
            slots[slot] = Slot::new(moving.low, at, moving.only);
            fixed[slot] = Some(Arc::clone(moving.fixed));
            bearings[slot] = Some(moving.bearing.clone());
            bytes.extend_from_slice(moving.bytes);
        }
        let (fixed, bearings) = (fixed.into(), bearings.into());
        Self { slots: slots.into(), bytes: bytes.into(), fixed, bearings }
    }

    /// The slot and bearing of the service that is known by the very same fixed answers. Looks at
    /// no name.
    fn find_same(&self, low: u32, fixed: &Arc<FixedAnswers>) -> Option<(usize, &Bearing)> {
        let mut slot = start(low, self.slots.len());
        while self.slots[slot].at().is_some() {
            let same = |there: &Arc<FixedAnswers>| Arc::ptr_eq(there, fixed);
            if self.slots[slot].low == low && self.fixed[slot].as_ref().is_some_and(same) {
                return Some((slot, self.bearings[slot].as_ref()?));
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        None
    }

    /// The part after these changes, and which names come and go; bearings of `moves` are taken.
    fn after<'a>(
        &self,
        moves: &mut [Change],
        others: &[Change],
        bytes: &'a [u8],
        parents: &mut Vec<(&'a [u8], i32)>,
    ) -> Self {
        let part = if moves.is_empty() { self.clone() } else { self.moved(moves) };
        if others.is_empty() {
            return part;
        }
        for change in others {
            let key = change.key(bytes);
            let slot = find(&part.slots, &part.bytes, change.hash.low, key);
            match (part.slots[slot].at(), &change.what) {
                (None, What::Put { .. }) => parents.push((key, 1)),
                (Some(_), What::Remove { .. }) => parents.push((key, -1)),
                _ => {}
            }
        }
        part.with(others, bytes)
    }

    /// The part after `moves`, whose bearings are taken.
    fn moved(&self, moves: &mut [Change]) -> Self {
        let mut slots: Arc<[Slot]> = Arc::from(&*self.slots);
        let mut bearings: Arc<[Option<Bearing>]> = std::iter::repeat_n(None, slots.len()).collect();
        let own = Arc::get_mut(&mut slots).zip(Arc::get_mut(&mut bearings));
        let (own, new) = own.expect("nobody else has them yet");
        for change in moves {
            if let What::Move { slot, bearing } = &mut change.what {
                let only = bearing.as_ref().map_or(DEPENDS, |b| b.steering.only());
                own[*slot] = own[*slot].with_only(only);
                new[*slot] = bearing.take();
            }
        }
        for (new, before) in new.iter_mut().zip(&*self.bearings) {
            if new.is_none() {
                new.clone_from(before);
            }
        }
        let (bytes, fixed) = (Arc::clone(&self.bytes), Arc::clone(&self.fixed));
        Self { slots, bytes, fixed, bearings }
    }

    fn with(&self, changes: &[Change], bytes: &[u8]) -> Self {
        let gone = |slot: &Slot, packed: Packed<'_>| {
            let same = |c: &&Change| c.hash.low == slot.low;
            let mut candidates = changes.iter().filter(same);
            candidates.any(|c| c.key(bytes) == packed.key())
        };
        let mut kept = Vec::with_capacity(self.slots.len());
        let services = self.fixed.iter().zip(&*self.bearings);
        for (slot, service) in self.slots.iter().zip(services) {
            let (Some(at), (Some(fixed), Some(bearing))) = (slot.at(), service) else { continue };
            let packed = Packed::at(&self.bytes[at..]);
            if !gone(slot, packed) {
                let (low, only) = (slot.low, slot.only());
                kept.push(Moving { low, only, bytes: packed.bytes(), fixed, bearing });
            }
        }
        let new: Vec<Moving<'_>> = changes
            .iter()
            .filter_map(|change| {
                let What::Put { at, fixed, bearing } = &change.what else { return None };
                let bytes = Packed::at(&bytes[*at..]).bytes();
                let (low, only) = (change.hash.low, bearing.steering.only());
                Some(Moving { low, only, bytes, fixed, bearing })
            })
            .collect();
        Self::of(&kept, &new)
    }
}

impl Change {
    fn is_move(&self) -> bool {
        matches!(self.what, What::Move { .. })
    }

    /// The key of a service that is put or removed.
    fn key<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        match self.what {
            What::Put { at, .. } | What::Remove { at } => Packed::at(&bytes[at..]).key(),
            What::Move { .. } => &[],
        }
    }
}

impl Hash {
    /// The place of its part among those of all groups.
    fn part_of_all(self) -> usize {
        usize::from(self.group) * WIDTH + usize::from(self.part)
    }
}

impl Slot {
    fn new(low: u32, at: usize, only: u8) -> Self {
        let at = u32::try_from(at).ok().filter(|at| *at < FREE.place >> 8);
        let at = at.expect("a part, of which there are a thousand, has less than 16 MiB");
        Self { low, place: at << 8 | u32::from(only) }
    }

    fn at(self) -> Option<usize> {
        let at = || usize::try_from(self.place >> 8).expect("usize has 32 bits or more");
        (self.place != FREE.place).then(at)
    }

    /// The column that all clients get, or [`DEPENDS`].
    fn only(self) -> u8 {
        self.place.to_be_bytes()[3]
    }

    fn with_only(self, only: u8) -> Self {
        Self { place: self.place & !0xff | u32::from(only), ..self }
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
