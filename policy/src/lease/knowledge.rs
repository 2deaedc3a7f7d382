//! What one node knows of the voters: votes read, asks sent, answers received, its own fence.
//!
//! Every serving node has its own; there is no knowledge of a site, and nobody renews for another.
//! Votes of a voter are read in the order of their numbers, so a gap waits. An incarnation in which
//! two votes claim one place is never counted again.
//!
//! On disk belong: the votes read, `since` and when each incarnation was first heard of, with the
//! boot's id, and the fence, synced *before* a withdrawal is confirmed. Asks and answers die with
//! the process. A node that lost its disk does not know what it confirmed, and serves nothing until
//! somebody who knows says so ([`Knowledge::lost`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::electorate::{Electorate, Electorates};
use super::generation::{Answered, uses_former};
use super::rule::{Bid, Needed, Rules, Sight, Span, Verdict, Voters, best, counts, serves};
use super::said::Said;
use super::vote::{Answer, Ask, Asking, Bounds, Incarnation, Nonce, Vote};
use crate::id::{EntryId, Epoch, Generation, ServiceId, SiteId};

/// How many votes of an incarnation may wait for one that is missing; more are dropped and have to
/// be read again.
pub const MOST_EARLY: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Knowledge {
    electorates: Electorates,
    /// The generation before is the one that counts now.
    uses_former: bool,
    read: BTreeMap<SiteId, BTreeMap<Incarnation, Reading>>,
    asked: BTreeMap<Nonce, Asked>,
    got: BTreeMap<SiteId, Vec<Got>>,
    pub(super) said: BTreeMap<SiteId, Said>,
    fences: BTreeMap<ServiceId, Epoch>,
    /// False after the disk was lost: what was confirmed is not known.
    fences_known: bool,
}

/// One incarnation of one voter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    heard: Duration,
    /// Votes 1 to this have been read.
    pub(super) known: u64,
    /// Hash of the last of them; empty when there is none.
    head: String,
    pub(super) newest: BTreeMap<ServiceId, Newest>,
    early: BTreeMap<u64, Vote>,
    /// Two votes claim one place.
    forked: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Newest {
    pub(super) claim: EntryId,
    pub(super) epoch: Epoch,
    since: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    voter: SiteId,
    at: Duration,
}

/// An answer, without its votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Got {
    asked: Duration,
    incarnation: Incarnation,
    generation: Generation,
    stated: u64,
}

/// When something of a voter was first known here, on the own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    pub since: Duration,
    pub heard: Duration,
}

/// What became of a vote that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// It was the next, and this many votes are known now.
    Next(u64),
    /// Votes before it are missing.
    Early,
    Known,
    /// Its voter is none of this node's voters.
    Stranger,
    /// It contradicts another vote of the incarnation, which does not count here any more: an
    /// operator must look at that voter's disk.
    Forked,
}

/// Why an answer does not count. Its votes are read all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unheard {
    #[error("the answer is to no ask of this process, or to one that is too old")]
    Nonce,
    #[error("the answer is another voter's than was asked")]
    Voter,
    #[error("the answer is of a generation of voters that this node does not count")]
    Generation,
}

// === impl Knowledge ===

impl Knowledge {
    /// Of a node that never served before.
    pub fn new(electorates: Electorates) -> Self {
        Self {
            electorates,
            uses_former: false,
            read: BTreeMap::new(),
            asked: BTreeMap::new(),
            got: BTreeMap::new(),
            said: BTreeMap::new(),
            fences: BTreeMap::new(),
            fences_known: true,
        }
    }

    /// Of a node that lost its disk: it may have confirmed anything, and serves nothing until
    /// [`Self::fences_told`].
    pub fn lost(electorates: Electorates) -> Self {
        Self { fences_known: false, ..Self::new(electorates) }
    }

    /// After a restart of the agent: answers are gone. Times hold only within one boot; after
    /// another one every wait starts again now.
    pub fn restarted(mut self, same_boot: bool, now: Duration) -> Self {
        self.asked.clear();
        self.got.clear();
        self.said.clear();
        self.choose();
        if !same_boot {
            for reading in self.read.values_mut().flat_map(BTreeMap::values_mut) {
                reading.heard = now;
                reading.newest.values_mut().for_each(|n| n.since = now);
            }
        }
        self
    }

    /// Other files: answers of other generations than theirs count no more.
    pub fn elect(&mut self, electorates: Electorates) {
        self.electorates = electorates;
        let known = &self.electorates;
        self.got.values_mut().for_each(|got| got.retain(|g| known.get(g.generation).is_some()));
        self.choose();
    }

    pub fn electorates(&self) -> &Electorates {
        &self.electorates
    }

    /// The one of the two that counts now: the present one, unless only that before has a majority
    /// that answers.
    pub fn electorate(&self) -> &Electorate {
        let former = self.electorates.former.as_ref().filter(|_| self.uses_former);
        former.unwrap_or(&self.electorates.present)
    }

    /// Leaves the generation before only with answers to the newest asks, unless it has no majority
    /// any more: a slot of the gate opens by the answers of its own round, and what the generation
    /// before has opened would be shut until they have come.
    fn choose(&mut self) {
        let answered = |electorate: &Electorate, asked: Duration| {
            let is_of = |got: &Got| got.generation == electorate.generation && got.asked >= asked;
            let answers =
                |voter: &&SiteId| self.got.get(*voter).is_some_and(|g| g.iter().any(is_of));
            let count = electorate.voters.iter().filter(answers).count();
            Answered { count, quorum: electorate.quorum() }
        };
        let Electorates { present, former: Some(former), .. } = &self.electorates else {
            self.uses_former = false;
            return;
        };
        let newest = self.asked.values().map(|asked| asked.at).max().unwrap_or_default();
        let former = answered(former, Duration::ZERO);
        let is_early =
            self.uses_former && former.is_majority() && !answered(present, newest).is_majority();
        self.uses_former = is_early || uses_former(answered(present, Duration::ZERO), former);
    }

    /// The quorum is that of the voters that count now, whatever the caller's rules say.
    pub(super) fn rules(&self, rules: &Rules) -> Rules {
        Rules { quorum: self.electorate().quorum(), ..*rules }
    }

    /// Notes an ask that is *about to be sent*. Asks and answers older than T are forgotten.
    pub fn ask(&mut self, rules: &Rules, voter: &SiteId, nonce: Nonce, now: Duration) -> Ask {
        self.asked.retain(|_, asked| now < asked.at + rules.lease);
        for got in self.got.values_mut() {
            got.retain(|g| now < g.asked + rules.lease);
        }
        self.choose();
        self.asked.entry(nonce).or_insert(Asked { voter: voter.clone(), at: now });
        Ask { voter: voter.clone(), nonce, known: self.known(voter) }
    }

    /// How many votes of each incarnation of a voter have been read.
    pub fn known(&self, voter: &SiteId) -> BTreeMap<Incarnation, u64> {
        let readings = self.read.get(voter).into_iter().flatten();
        readings.map(|(incarnation, r)| (*incarnation, r.known)).collect()
    }

    /// The highest epoch read of a voter, over all its incarnations, for each service.
    pub fn epochs(&self, voter: &SiteId) -> BTreeMap<ServiceId, Epoch> {
        let mut highest: BTreeMap<ServiceId, Epoch> = BTreeMap::new();
        for reading in self.read.get(voter).into_iter().flat_map(BTreeMap::values) {
            for (service, newest) in &reading.newest {
                let epoch = highest.entry(service.clone()).or_default();
                *epoch = newest.epoch.max(*epoch);
            }
        }
        highest
    }

    /// Takes an answer. Its votes are read first, since votes may be read by any path. Errors: the
    /// answer counts for nothing; nobody has to act unless it goes on.
    pub fn take(&mut self, answer: &Answer, now: Duration) -> Result<(), Unheard> {
        for vote in &answer.new {
            self.read_vote(vote, now);
        }
        let asked = self.asked_at(answer)?;
        self.note(answer, false, asked, now);
        let electorate = self.electorates.get(answer.voters).ok_or(Unheard::Generation)?;
        if !electorate.voters.contains(&answer.voter) {
            return Err(Unheard::Generation);
        }
        let Answer { incarnation, voters: generation, stated, .. } = *answer;
        let new = Got { asked, incarnation, generation, stated };
        self.reading(&answer.voter, answer.incarnation, now);
        let got = self.got.entry(answer.voter.clone()).or_default();
        // Of two answers with one count only the later asked is of use.
        let key = |g: &Got| (g.incarnation, g.generation, g.stated);
        match got.iter_mut().find(|g| key(g) == key(&new)) {
            Some(old) => old.asked = old.asked.max(new.asked),
            None => got.push(new),
        }
        self.choose();
        Ok(())
    }

    /// From when on it has been known for W that a voter's newest vote is for a claim, if it is.
    pub(super) fn settled_by(
        &self,
        rules: &Rules,
        voter: &SiteId,
        service: &ServiceId,
        claim: &EntryId,
    ) -> Option<Duration> {
        let newest = self.latest(voter)?.newest.get(service)?;
        (newest.claim == *claim).then(|| newest.since + rules.wait)
    }

    pub(super) fn asked_at(&self, answer: &Answer) -> Result<Duration, Unheard> {
        let asked = self.asked.get(&answer.nonce).ok_or(Unheard::Nonce)?;
        if asked.voter != answer.voter {
            return Err(Unheard::Voter);
        }
        Ok(asked.at)
    }

    /// Transition R. A vote whose predecessor is missing waits for it.
    pub fn read_vote(&mut self, vote: &Vote, now: Duration) -> Read {
        if !self.electorates.has(&vote.voter) {
            return Read::Stranger;
        }
        let reading = self.reading(&vote.voter, vote.incarnation, now);
        let outcome = reading.join(vote.clone(), now);
        while let Some(next) = reading.early.remove(&(reading.known + 1)) {
            reading.join(next, now);
        }
        match outcome {
            _ if reading.forked => Read::Forked,
            Read::Next(_) => Read::Next(reading.known),
            other => other,
        }
    }

    /// Promises to serve no claim of the service up to this epoch. Must be on disk, and the gate
    /// shut and read back, before anybody is told.
    pub fn fence(&mut self, service: &ServiceId, epoch: Epoch) {
        let fence = self.fences.entry(service.clone()).or_default();
        *fence = epoch.max(*fence);
    }

    /// Somebody who knows gave back every promise of a node that lost its disk. Fences only rise.
    pub fn fences_told(&mut self, fences: &BTreeMap<ServiceId, Epoch>) {
        fences.iter().for_each(|(service, epoch)| self.fence(service, *epoch));
        self.fences_known = true;
    }

    /// What was promised is not known after all, see [`Self::lost`].
    pub fn forget_fences(&mut self) {
        self.fences_known = false;
    }

    /// Whether this process sent an ask of that name to that voter, not long ago.
    pub fn is_asked(&self, nonce: Nonce, voter: &SiteId) -> bool {
        self.asked.get(&nonce).is_some_and(|asked| asked.voter == *voter)
    }

    /// The epoch up to which nothing is served; `None` when it is not known.
    pub fn fence_of(&self, service: &ServiceId) -> Option<Epoch> {
        self.fences_known.then(|| self.fences.get(service).copied().unwrap_or_default())
    }

    /// When a voter counts for a claim here, by its best answer.
    pub fn counts(
        &self,
        rules: &Rules,
        voter: &SiteId,
        asking: Asking<'_>,
        now: Duration,
    ) -> Option<Span> {
        let sights = self.sights_of(voter, asking.service).map(|(_, sight)| sight);
        best(sights.filter_map(|s| counts(rules, &s, &asking.claim, asking.ground)), now)
    }

    /// Transition S: whether this node serves the service under the claim, and until when.
    pub fn serves(&self, rules: &Rules, asking: Asking<'_>, now: Duration) -> Verdict {
        let (rules, electorate) = (&self.rules(rules), self.electorate());
        let by = |needed: Needed<'_>, asking: Asking<'_>| {
            let voters = electorate.voters.iter();
            let spans: Vec<_> = voters.map(|v| self.counts(rules, v, asking, now)).collect();
            serves(rules, needed, self.bid(asking), &spans, now)
        };
        let Bounds { with, alone, .. } = asking.bounds;
        let with: Vec<Voters> = with.iter().map(|s| electorate.places(s)).collect();
        let protected = by(Needed::Majority { with: &with }, asking);
        if alone.is_empty() || !alone.is_subset(&electorate.voters) {
            return protected;
        }
        let all = Needed::All(electorate.places(alone));
        by(all, Asking { ground: asking.alone, ..asking }).or(protected)
    }

    /// What a voter's newest vote for a service is for, in the incarnation that was heard of last.
    /// For choosing where to look; it permits nothing.
    pub fn named(&self, voter: &SiteId, service: &ServiceId) -> Option<(&EntryId, Epoch)> {
        let newest = self.latest(voter)?.newest.get(service)?;
        Some((&newest.claim, newest.epoch))
    }

    /// The highest epoch in which any incarnation of a voter was last read to have voted for a
    /// service; 0 when in none.
    pub fn highest(&self, voter: &SiteId, service: &ServiceId) -> Epoch {
        let readings = self.read.get(voter).into_iter().flat_map(BTreeMap::values);
        readings.filter_map(|r| Some(r.newest.get(service)?.epoch)).max().unwrap_or_default()
    }

    /// From when on it has been known for W that a voter's newest vote for a service is above an
    /// epoch: no answer of before is of use to anybody any more. `None` when it is not.
    pub fn passed(
        &self,
        rules: &Rules,
        voter: &SiteId,
        service: &ServiceId,
        epoch: Epoch,
    ) -> Option<Duration> {
        let newest = self.latest(voter)?.newest.get(service)?;
        (newest.epoch > epoch).then(|| newest.since + rules.wait)
    }

    /// The voters whose newest vote is for a claim, each with when that has been known for W.
    pub fn settled<'a>(
        &'a self,
        rules: &Rules,
        service: &'a ServiceId,
        claim: &'a EntryId,
    ) -> impl Iterator<Item = (&'a SiteId, Duration)> + use<'a> {
        let rules = *rules;
        self.electorate()
            .voters
            .iter()
            .filter_map(move |voter| Some((voter, self.settled_by(&rules, voter, service, claim)?)))
    }

    /// How many voters of either generation but `me` have their newest vote for a service for a
    /// claim.
    pub fn others(&self, me: &SiteId, service: &ServiceId, claim: &EntryId) -> usize {
        self.for_it(&self.electorates.all(), me, service, claim)
    }

    /// Whether a claim has the newest votes of a majority without `me`, in both generations: what
    /// that voter may have promised before decides nothing.
    pub(super) fn is_decided(&self, me: &SiteId, service: &ServiceId, claim: &EntryId) -> bool {
        let Electorates { present, former, .. } = &self.electorates;
        std::iter::once(present)
            .chain(former)
            .all(|of| self.for_it(&of.voters, me, service, claim) >= of.quorum())
    }

    fn for_it(
        &self,
        voters: &BTreeSet<SiteId>,
        me: &SiteId,
        service: &ServiceId,
        claim: &EntryId,
    ) -> usize {
        let votes = |voter: &&SiteId| {
            *voter != me && self.named(voter, service).is_some_and(|(named, _)| named == claim)
        };
        voters.iter().filter(votes).count()
    }

    /// How many voters' newest vote for a service is for each claim.
    pub fn backers(&self, service: &ServiceId) -> BTreeMap<&EntryId, usize> {
        let mut backers = BTreeMap::new();
        for (claim, _) in self.electorate().voters.iter().filter_map(|v| self.named(v, service)) {
            *backers.entry(claim).or_default() += 1;
        }
        backers
    }

    /// When the last ask that was answered was sent to this voter.
    pub fn answered(&self, voter: &SiteId) -> Option<Duration> {
        self.got.get(voter)?.iter().map(|g| g.asked).max()
    }

    /// When a vote was first read, as [`Self::restore`] takes it, and when its incarnation was
    /// heard of.
    pub fn times(&self, vote: &Vote) -> Option<Times> {
        let reading = self.read.get(&vote.voter)?.get(&vote.incarnation)?;
        let service = vote.services.keys().next()?;
        let since = reading.newest.get(service).map_or(reading.heard, |n| n.since);
        Some(Times { since, heard: reading.heard })
    }

    /// Reads a vote out of this node's own journal, with the times of this boot.
    pub fn restore(&mut self, vote: &Vote, times: Times) -> Read {
        self.heard_of(&vote.voter, vote.incarnation, times.heard);
        self.read_vote(vote, times.since)
    }

    /// An incarnation that was first heard of then.
    pub fn heard_of(&mut self, voter: &SiteId, incarnation: Incarnation, at: Duration) {
        self.reading(voter, incarnation, at);
    }

    fn latest(&self, voter: &SiteId) -> Option<&Reading> {
        let last = self.got.get(voter).and_then(|got| got.iter().max_by_key(|g| g.asked));
        let readings = self.read.get(voter)?;
        match last.and_then(|got| readings.get(&got.incarnation)) {
            Some(reading) => Some(reading),
            None => readings.values().max_by_key(|r| r.heard),
        }
    }

    fn bid(&self, asking: Asking<'_>) -> Bid {
        let here = asking.here == asking.target;
        let (fence, above) = (self.fence_of(asking.service), asking.bounds.above);
        Bid { here, epoch: asking.epoch, fence, above }
    }

    pub(super) fn may_bid(&self, asking: Asking<'_>) -> bool {
        let Bid { here, epoch, fence, above } = self.bid(asking);
        here && fence.is_some_and(|f| epoch > f.max(above))
    }

    /// The votes that were read of every incarnation of every voter, as what they mean for a
    /// service. Without an answer none of them counts.
    pub(super) fn unanswered<'a>(
        &'a self,
        service: &'a ServiceId,
    ) -> impl Iterator<Item = (&'a SiteId, Incarnation, Sight<&'a EntryId>)> {
        let of = move |voter: &'a SiteId| {
            let readings = self.read.get(voter).into_iter().flatten();
            readings.filter(|(_, reading)| !reading.forked).map(move |(incarnation, reading)| {
                let newest = reading.newest.get(service).map(|n| (&n.claim, n.since));
                let none = Got {
                    asked: Duration::ZERO,
                    incarnation: *incarnation,
                    generation: self.electorate().generation,
                    stated: u64::MAX,
                };
                (voter, *incarnation, reading.sight(&none, newest))
            })
        };
        self.electorate().voters.iter().flat_map(of)
    }

    /// The answers of one incarnation that are of the generation that counts, whatever the service.
    pub(super) fn answers(&self, voter: &SiteId, incarnation: Incarnation) -> Vec<Sight<()>> {
        let got = self.got_of(voter).filter(|g| g.incarnation == incarnation);
        got.filter_map(|g| Some(self.whole(voter, incarnation)?.sight(g, None))).collect()
    }

    fn sights_of<'a>(
        &'a self,
        voter: &'a SiteId,
        service: &'a ServiceId,
    ) -> impl Iterator<Item = (Incarnation, Sight<&'a EntryId>)> {
        self.got_of(voter).filter_map(move |g| {
            let reading = self.whole(voter, g.incarnation)?;
            let newest = reading.newest.get(service).map(|n| (&n.claim, n.since));
            Some((g.incarnation, reading.sight(g, newest)))
        })
    }

    /// A voter's answers in the generation that counts.
    fn got_of(&self, voter: &SiteId) -> impl Iterator<Item = &Got> + use<'_> {
        let generation = self.electorate().generation;
        let got = self.got.get(voter).into_iter().flatten();
        got.filter(move |g| g.generation == generation)
    }

    pub(super) fn whole(&self, voter: &SiteId, incarnation: Incarnation) -> Option<&Reading> {
        self.read.get(voter)?.get(&incarnation).filter(|r| !r.forked)
    }

    fn reading(&mut self, voter: &SiteId, inc: Incarnation, now: Duration) -> &mut Reading {
        let readings = self.read.entry(voter.clone()).or_default();
        readings.entry(inc).or_insert_with(|| Reading {
            heard: now,
            known: 0,
            head: String::new(),
            newest: BTreeMap::new(),
            early: BTreeMap::new(),
            forked: false,
        })
    }
}

// === impl Reading ===

impl Reading {
    fn join(&mut self, vote: Vote, now: Duration) -> Read {
        if vote.number <= self.known {
            self.forked |= vote.number == self.known && vote.hash != self.head;
            return Read::Known;
        }
        if vote.number > self.known + 1 {
            let other = self.early.get(&vote.number).is_some_and(|e| e.hash != vote.hash);
            self.forked |= other;
            if self.early.len() < MOST_EARLY {
                self.early.insert(vote.number, vote);
            }
            return Read::Early;
        }
        if vote.prev_hash != self.head {
            self.forked = true;
            return Read::Forked;
        }
        self.known = vote.number;
        self.head = vote.hash;
        for (service, epoch) in vote.services {
            let newest = Newest { claim: vote.claim.clone(), epoch, since: now };
            self.newest.insert(service, newest);
        }
        Read::Next(self.known)
    }

    fn sight<C>(&self, got: &Got, newest: Option<(C, Duration)>) -> Sight<C> {
        let since = newest.as_ref().map_or(self.heard, |(_, since)| *since);
        Sight {
            asked: got.asked,
            stated: got.stated,
            read: self.known,
            newest: newest.map(|(claim, _)| claim),
            since,
            heard: self.heard,
        }
    }
}
