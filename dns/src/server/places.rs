//! Who has a connection: limits in all and by source, and who must leave when there is no room.
//!
//! When the table is full, or descriptors have run out, the connection that has waited longest for
//! a question of its client ends (RFC 7766 section 6.2.3), of the source that has the most of them,
//! so that who opens many makes room himself. Connections with an answer under way are never ended
//! for others. Nothing here waits, and nothing is kept.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Limits;

/// All open connections of one thread.
#[derive(Clone, Default)]
pub(super) struct Places {
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    next: u64,
    places: HashMap<u64, Taken>,
    by_source: HashMap<IpAddr, usize>,
}

struct Taken {
    source: IpAddr,
    /// Since when nothing of its is under way.
    idle: Option<Instant>,
    leave: Arc<Notify>,
}

/// A place among the open connections, given back on drop.
pub(super) struct Place {
    activity: Activity,
    leave: Arc<Notify>,
}

/// Whether something is under way on a connection.
#[derive(Clone)]
pub(super) struct Activity {
    places: Places,
    number: u64,
}

/// What became of a connection that wanted a place.
pub(super) enum Admission {
    Taken(Place),
    /// It has one, and another connection was told to end for it.
    InPlaceOfAnother(Place),
    Refused,
}

// === impl Places ===

impl Places {
    pub(super) fn take(&self, source: IpAddr, limits: &Limits) -> Admission {
        let mut open = self.lock();
        if open.by_source.get(&source).is_some_and(|n| *n >= limits.tcp_per_source) {
            return Admission::Refused;
        }
        let full = open.places.len() >= limits.tcp_connections;
        if full && !open.end_one() {
            return Admission::Refused;
        }
        let (number, leave) = (open.next, Arc::<Notify>::default());
        open.next += 1;
        *open.by_source.entry(source).or_insert(0) += 1;
        let taken = Taken { source, idle: Some(Instant::now()), leave: Arc::clone(&leave) };
        open.places.insert(number, taken);
        let place = Place { activity: Activity { places: self.clone(), number }, leave };
        if full { Admission::InPlaceOfAnother(place) } else { Admission::Taken(place) }
    }

    /// Ends one idle connection; false when there is none.
    pub(super) fn end_one(&self) -> bool {
        self.lock().end_one()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn end_one(&mut self) -> bool {
        let idle = self.places.iter().filter_map(|(number, taken)| {
            let of_source = self.by_source.get(&taken.source).copied().unwrap_or(0);
            Some((std::cmp::Reverse(of_source), taken.idle?, *number))
        });
        let Some((_, _, number)) = idle.min() else { return false };
        if let Some(taken) = self.remove(number) {
            taken.leave.notify_one();
        }
        true
    }

    fn remove(&mut self, number: u64) -> Option<Taken> {
        let taken = self.places.remove(&number)?;
        if let Some(of_source) = self.by_source.get_mut(&taken.source) {
            *of_source -= 1;
            if *of_source == 0 {
                self.by_source.remove(&taken.source);
            }
        }
        Some(taken)
    }
}

// === impl Place ===

impl Place {
    pub(super) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Ends when the place was given to another.
    pub(super) async fn taken_away(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.activity.places.lock().remove(self.activity.number);
    }
}

// === impl Activity ===

impl Activity {
    /// Something is under way for the client.
    pub(super) fn busy(&self) {
        self.set(None);
    }

    /// It is the client's turn.
    pub(super) fn idle(&self) {
        self.set(Some(Instant::now()));
    }

    fn set(&self, idle: Option<Instant>) {
        if let Some(taken) = self.places.lock().places.get_mut(&self.number) {
            taken.idle = idle;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    fn limits() -> Limits {
        Limits { tcp_connections: 4, tcp_per_source: 3, ..Limits::default() }
    }

    fn take(places: &Places, from: u8) -> Option<(Place, bool)> {
        match places.take(ip(from), &limits()) {
            Admission::Taken(place) => Some((place, false)),
            Admission::InPlaceOfAnother(place) => Some((place, true)),
            Admission::Refused => None,
        }
    }

    fn has(places: &Places, place: &Place) -> bool {
        places.lock().places.contains_key(&place.activity.number)
    }

    #[test]
    fn the_greediest_source_makes_room_with_its_longest_idle_connection() {
        let places = Places::default();
        let (old, _) = take(&places, 1).expect("room");
        let many: Vec<Place> = (0..3).map(|_| take(&places, 2).expect("room").0).collect();
        assert!(take(&places, 2).is_none(), "a source has three at most");
        many[0].activity().idle();
        let (new, instead) = take(&places, 3).expect("somebody makes room");
        assert!(instead);
        // The second of the three has waited longest now; the oldest of all stays.
        assert_eq!([&old, &many[0], &many[2], &new].map(|p| has(&places, p)), [true; 4]);
        assert!(!has(&places, &many[1]));
        drop(many);
        assert_eq!(places.lock().by_source, HashMap::from([(ip(1), 1), (ip(3), 1)]));
    }

    #[test]
    fn nobody_who_is_being_answered_makes_room() {
        let places = Places::default();
        let all: Vec<Place> = (0..4).map(|n| take(&places, n).expect("room").0).collect();
        all.iter().for_each(|place| place.activity().busy());
        assert!(take(&places, 9).is_none());
        assert!(!places.end_one());
        all[2].activity().idle();
        assert!(take(&places, 9).is_some_and(|(_, instead)| instead));
        assert!(!has(&places, &all[2]));
    }
}
