//! What voters said of themselves: which generation they run, and for how long.
//!
//! It counts for no claim; whether a voter may go on to another generation is seen from it
//! ([`super::generation`]). It dies with the process, as answers do.

use std::collections::BTreeMap;
use std::time::Duration;

use super::generation::Mark;
use super::knowledge::Knowledge;
use super::vote::{Answer, Incarnation};
use crate::id::{EntryId, Epoch, Generation, ServiceId, SiteId};

/// What a voter said last, whether it counts or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Own clock when the ask was sent.
    pub asked: Duration,
    /// The generation that it runs.
    pub generation: Generation,
    /// It has lost its journal, and does not vote yet.
    pub rejoining: bool,
    incarnation: Incarnation,
    stated: u64,
    floor: BTreeMap<ServiceId, Epoch>,
    /// Own clock from when on at the latest it has answered in nothing older than each of these.
    since: BTreeMap<Generation, Duration>,
}

// === impl Knowledge ===

impl Knowledge {
    /// Takes what a voter said that has lost its journal: nothing of it counts for a claim. True
    /// when it is to an ask of this process, which is not too old.
    pub fn hear_rejoining(&mut self, answer: &Answer, now: Duration) -> bool {
        let Ok(asked) = self.asked_at(answer) else { return false };
        self.note(answer, true, asked, now);
        true
    }

    /// What a voter said last, to an ask of this process.
    pub fn said(&self, voter: &SiteId) -> Option<&Said> {
        self.said.get(voter)
    }

    /// A voter that runs a newer generation than the file of this node has, and which: the file is
    /// old.
    pub fn newer(&self) -> Option<(&SiteId, Generation)> {
        let newer = |(site, said): (_, &Said)| {
            (said.generation > self.electorates().present.generation)
                .then_some((site, said.generation))
        };
        self.said.iter().find_map(newer)
    }

    /// What a voter has bound itself to for a service, by what it said last and the votes read of
    /// it; `None` while these are not all that it spoke of.
    pub(super) fn mark<'a>(
        &'a self,
        voter: &SiteId,
        said: &Said,
        service: &ServiceId,
    ) -> Option<Mark<&'a EntryId>> {
        let reading = self.whole(voter, said.incarnation).filter(|r| r.known >= said.stated)?;
        let newest = reading.newest.get(service).map(|n| (&n.claim, n.epoch));
        Some(Mark::of(newest, said.floor.get(service).copied().unwrap_or_default()))
    }

    /// The answer was made before now, so `steady` before now at the latest it had begun.
    pub(super) fn note(
        &mut self,
        answer: &Answer,
        rejoining: bool,
        asked: Duration,
        now: Duration,
    ) {
        let Answer { incarnation, voters: generation, stated, steady, .. } = *answer;
        let old = self.said.get(&answer.voter);
        if old.is_some_and(|old| old.asked > asked) {
            return;
        }
        let goes_on = |old: &&Said| old.incarnation == incarnation && old.generation <= generation;
        let mut since = old.filter(goes_on).map(|old| old.since.clone()).unwrap_or_default();
        let began = now.saturating_sub(steady);
        let at = since.entry(generation).or_insert(began);
        *at = began.min(*at);
        let floor = answer.floor.clone();
        let said = Said { asked, generation, rejoining, incarnation, stated, floor, since };
        self.said.insert(answer.voter.clone(), said);
    }
}

// === impl Said ===

impl Said {
    /// For how long, by what is known at a time of the own clock, the voter has run what it runs.
    pub fn steady_at(&self, now: Duration) -> Duration {
        let since = self.since.get(&self.generation);
        since.map_or(Duration::ZERO, |since| now.saturating_sub(*since))
    }

    /// From when on at the latest the voter has answered in nothing older than a generation.
    pub(super) fn since_none_older(&self, generation: Generation) -> Option<Duration> {
        self.since.range(generation..).map(|(_, since)| *since).min()
    }
}
