//! A queue in which nobody stands behind somebody else's crowd.
//!
//! Everybody who may send has a turn, and within that everybody's connections have. When there is
//! no room, whoever takes up most of it loses the newest of theirs. It is bounded in bytes and in
//! messages, and a crash loses what is in it: the senders have no answer and ask again.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// Connections of one sender.
const LANES: usize = 64;

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// Messages of one connection.
    pub(super) per_lane: usize,
    /// Bytes of all.
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct Lanes<W, T> {
    crowds: BTreeMap<W, Crowd<T>>,
    /// Who had the last turn.
    last: Option<W>,
    bytes: usize,
    room: Room,
}

#[derive(Debug)]
struct Crowd<T> {
    lanes: BTreeMap<u64, VecDeque<(usize, T)>>,
    last: Option<u64>,
    bytes: usize,
}

impl<W: Ord + Clone, T> Lanes<W, T> {
    pub(super) fn new(room: Room) -> Self {
        Self { crowds: BTreeMap::new(), last: None, bytes: 0, room }
    }

    /// Whether there is a place in this lane.
    pub(super) fn has_room(&self, who: &W, lane: u64) -> bool {
        let Some(crowd) = self.crowds.get(who) else { return true };
        let known = crowd.lanes.get(&lane).map(VecDeque::len);
        known.map_or(crowd.lanes.len() < LANES, |waiting| waiting < self.room.per_lane)
    }

    /// Whether anything of theirs waits.
    pub(super) fn waits(&self, who: &W) -> bool {
        self.crowds.contains_key(who)
    }

    /// Lets a message wait; gives those that had to make room for it, which may be itself.
    pub(super) fn push(&mut self, who: W, lane: u64, size: usize, item: T) -> Vec<(W, T)> {
        if !self.has_room(&who, lane) {
            return vec![(who, item)];
        }
        let crowd = self.crowds.entry(who).or_insert_with(Crowd::new);
        crowd.lanes.entry(lane).or_default().push_back((size, item));
        crowd.bytes += size;
        self.bytes += size;
        let mut lost = Vec::new();
        while self.bytes > self.room.bytes
            && let Some(largest) = self.lose()
        {
            lost.push(largest);
        }
        lost
    }

    /// The newest of whoever takes up most.
    fn lose(&mut self) -> Option<(W, T)> {
        let (largest, crowd) = self.crowds.iter_mut().max_by_key(|(_, crowd)| crowd.bytes)?;
        let largest = largest.clone();
        let (size, item) = crowd.lose()?;
        self.bytes -= size;
        self.drop_empty(&largest);
        Some((largest, item))
    }

    /// The next one whose turn it is, of those that may have one.
    pub(super) fn pop(&mut self, may: impl Fn(&W) -> bool) -> Option<(W, T)> {
        let who = around(&self.crowds, self.last.as_ref()).find(|who| may(who))?.clone();
        let (size, item) = self.crowds.get_mut(&who)?.pop()?;
        self.bytes -= size;
        self.drop_empty(&who);
        self.last = Some(who.clone());
        Some((who, item))
    }

    fn drop_empty(&mut self, who: &W) {
        if self.crowds.get(who).is_some_and(|crowd| crowd.lanes.is_empty()) {
            self.crowds.remove(who);
        }
    }
}

impl<T> Crowd<T> {
    fn new() -> Self {
        Self { lanes: BTreeMap::new(), last: None, bytes: 0 }
    }

    fn pop(&mut self) -> Option<(usize, T)> {
        let lane = *around(&self.lanes, self.last.as_ref()).next()?;
        let taken = self.lanes.get_mut(&lane)?.pop_front();
        self.last = Some(lane);
        self.taken(lane, taken)
    }

    /// The newest of the lane that takes up most.
    fn lose(&mut self) -> Option<(usize, T)> {
        let sum = |waiting: &VecDeque<(usize, T)>| waiting.iter().map(|(size, _)| *size).sum();
        let lane = *self.lanes.iter().max_by_key(|(_, waiting)| -> usize { sum(waiting) })?.0;
        let taken = self.lanes.get_mut(&lane)?.pop_back();
        self.taken(lane, taken)
    }

    fn taken(&mut self, lane: u64, taken: Option<(usize, T)>) -> Option<(usize, T)> {
        if self.lanes.get(&lane).is_some_and(VecDeque::is_empty) {
            self.lanes.remove(&lane);
        }
        self.bytes -= taken.as_ref().map_or(0, |(size, _)| *size);
        taken
    }
}

/// All keys, around the circle from behind this one.
fn around<'a, K: Ord, V>(
    map: &'a BTreeMap<K, V>,
    last: Option<&K>,
) -> impl Iterator<Item = &'a K> + use<'a, K, V> {
    let behind = last.map_or(Bound::Unbounded, Bound::Excluded);
    let behind = map.range((behind, Bound::Unbounded));
    behind.chain(map.iter()).map(|(key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PER_LANE: usize = 64;
    const BYTES: usize = 8 * 1024 * 1024;
    const ROOM: Room = Room { per_lane: PER_LANE, bytes: BYTES };

    #[test]
    fn one_message_passes_a_crowd() {
        let mut lanes = Lanes::new(ROOM);
        let mut lost = 0;
        for number in 0..10_000 {
            lost += usize::from(!lanes.push("crowd", 1, 100, number).is_empty());
        }
        assert_eq!(lost, 10_000 - PER_LANE);
        assert!(lanes.push("honest", 1, 100, -1).is_empty());
        // In its own name from another connection, too.
        assert!(lanes.push("crowd", 2, 100, -2).is_empty());
        let order: Vec<_> =
            std::iter::from_fn(|| lanes.pop(|_| true)).map(|(_, number)| number).collect();
        let place = |number: i32| order.iter().position(|n| *n == number).expect("it is there");
        assert!(place(-1) < 2 && place(-2) < 4, "{:?}", &order[..6]);
        assert_eq!(order.len(), PER_LANE + 2);
        assert!(lanes.crowds.is_empty() && lanes.bytes == 0);
    }

    #[test]
    fn who_may_not_have_a_turn_is_passed_over() {
        let mut lanes = Lanes::new(ROOM);
        for who in ["a", "b", "c"] {
            assert!(lanes.push(who, 1, 1, who).is_empty());
            assert!(lanes.push(who, 1, 1, who).is_empty());
        }
        let mut order = Vec::new();
        order.extend(std::iter::from_fn(|| lanes.pop(|who| *who != "b")).map(|(who, _)| who));
        assert_eq!(order, ["a", "c", "a", "c"]);
        order.extend(std::iter::from_fn(|| lanes.pop(|_| true)).map(|(who, _)| who));
        assert_eq!(order[4..], ["b", "b"]);
    }

    #[test]
    fn whoever_takes_up_most_makes_room() {
        let mut lanes = Lanes::new(ROOM);
        let big = BYTES / 40;
        for lane in 0..39 {
            assert!(lanes.push("big", lane, big, lane).is_empty());
        }
        assert!(lanes.push("small", 1, 1000, 100).is_empty());
        let lost = lanes.push("small", 1, big, 101);
        assert!(matches!(lost[..], [("big", _)]), "{lost:?}");
        // Small ones make room, too, as many as it takes.
        let mut lanes = Lanes::new(Room { per_lane: BYTES, bytes: BYTES });
        for number in 0..BYTES / 1000 {
            assert!(lanes.push("small", 1, 1000, number).is_empty());
        }
        assert!(lanes.push("other", 1, big, 0).len() > 100);
        assert!(lanes.bytes <= BYTES);
    }

    #[test]
    fn connections_of_one_sender_are_bounded() {
        let mut lanes = Lanes::new(ROOM);
        let lost = (0..1000u64).flat_map(|lane| lanes.push("many", lane, 1, lane)).count();
        assert_eq!(lost, 1000 - LANES);
    }
}
