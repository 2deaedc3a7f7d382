//! What one voter has promised, and how it comes back without its journal.
//!
//! A voter votes by itself: judgement was exercised when the command was accepted. It has no
//! timers. It never answers or votes while it has others to read, and it never votes twice in one
//! epoch.
//!
//! A vote is made in three acts: [`Voter::ballot`] says what it would be, the shell seals it (hash,
//! signature) and syncs it to disk, and only then [`Voter::made`] lets anybody see it. A crash
//! before the sync leaves no vote; after it the journal has it. A journal that is not provably
//! whole is a lost one: [`Voter::lost`].
//!
//! It runs one generation of voters at a time and answers in that. A file of the next one does not
//! change this by itself: [`Voter::rise`] says when it may go there, the shell writes that down,
//! and only then ([`Voter::risen`]) it answers again. It never goes down.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::electorate::Electorates;
use super::generation::{Mark, NotYet, Own, Running};
use super::knowledge::Knowledge;
use super::placings::Placings;
use super::rule::{Bound, NoVote, Rules, may_vote};
use super::vote::{Answer, Ask, Claim, Incarnation, Vote};
use crate::id::{EntryId, Epoch, Generation, ServiceId, SiteId};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    site: SiteId,
    incarnation: Incarnation,
    electorates: Electorates,
    /// Own clock when this process got the file.
    told: Duration,
    running: Running,
    /// What it will run once that is on the disk; it answers nobody until then.
    rising: Option<Running>,
    /// All of this incarnation, by number; on disk.
    votes: Vec<Vote>,
    newest: BTreeMap<ServiceId, (EntryId, Epoch)>,
    floor: BTreeMap<ServiceId, Epoch>,
    /// Whom it still has to read, with what that voter said after the restart.
    pending: BTreeMap<SiteId, Option<Goal>>,
    /// Somebody was struck off who had not answered in the generation of the file.
    lagging: bool,
}

/// What has to be read of another voter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Goal {
    incarnation: Incarnation,
    stated: u64,
    /// The generation that it answered in.
    generation: Generation,
}

/// A vote that has not been sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ballot {
    pub voter: SiteId,
    pub incarnation: Incarnation,
    pub number: u64,
    pub prev_hash: String,
    pub claim: EntryId,
    /// Empty when there is nothing to vote for.
    pub services: BTreeMap<ServiceId, Epoch>,
    pub target: SiteId,
    pub voters: Generation,
    /// The claim's services that are not voted for, by name.
    pub left_out: BTreeMap<ServiceId, NoVote>,
}

/// A vote that cannot follow the ones before: the journal and this state do not belong together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "vote {number} of voter {voter} does not follow vote {last}: the journal is not whole; start \
     this voter as one that lost its journal"
)]
pub struct OutOfPlace {
    pub voter: SiteId,
    pub number: u64,
    pub last: u64,
}

impl Voter {
    /// The voter of a fabric that never had a claim. Never for a disk that was found empty: that is
    /// [`Self::lost`].
    pub fn founded(site: SiteId, incarnation: Incarnation, electorates: Electorates) -> Self {
        let generation = electorates.present.generation;
        Self {
            site,
            incarnation,
            electorates,
            told: Duration::ZERO,
            running: Running { generation, since: Duration::ZERO, entered: true },
            rising: None,
            votes: Vec::new(),
            newest: BTreeMap::new(),
            floor: BTreeMap::new(),
            pending: BTreeMap::new(),
            lagging: false,
        }
    }

    /// Transition L: torn or missing tail, older state, restored backup, empty disk or another
    /// machine. Must be on disk, with the new incarnation and what it runs, before any ask is sent.
    /// It never runs anything older than its file's generation.
    pub fn lost(
        site: SiteId,
        incarnation: Incarnation,
        electorates: Electorates,
        now: Duration,
    ) -> Self {
        let others = electorates.all().into_iter().filter(|v| *v != site);
        let pending = others.map(|v| (v, None)).collect();
        let entered = electorates.former.is_none();
        let founded = Self::founded(site, incarnation, electorates);
        let running = Running { since: now, entered, ..founded.running };
        Self { pending, running, told: now, ..founded }
    }

    /// Made of [`Self::lost`] of this process and a replayed journal: what that says it ran last,
    /// with the time of this boot or, of another one, the start of the agent; `None` of a journal
    /// that knows no generations, which ran the first. Comes after floors and votes. Who had not
    /// come back yet, and has a newer file now, begins with reading again.
    pub fn restore(&mut self, running: Option<Running>, pending: &BTreeSet<SiteId>) {
        let first = Running { generation: Generation(1), entered: true, ..self.running };
        let running = running.unwrap_or(first);
        let is_back = running.entered && pending.is_empty();
        if !is_back && running.generation < self.electorates.present.generation {
            return;
        }
        self.running = running;
        let all = self.pending.len();
        self.pending.retain(|voter, _| pending.contains(voter));
        self.lagging = self.pending.len() < all;
    }

    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Whom it has to read before it votes or answers again.
    pub fn pending(&self) -> BTreeSet<&SiteId> {
        self.pending.keys().collect()
    }

    pub fn floor(&self) -> &BTreeMap<ServiceId, Epoch> {
        &self.floor
    }

    /// What it runs: a record of its journal, at its beginning and whenever it rises.
    pub fn running(&self) -> Running {
        self.running
    }

    /// For how long it has answered in nothing older than what it runs.
    pub fn steady(&self, now: Duration) -> Duration {
        now.saturating_sub(self.running.since)
    }

    /// Goes on to the generation of its file, or enters it after it lost its journal: what is
    /// returned must be on disk, and until [`Self::risen`] this voter answers nobody. `Ok(None)`
    /// where there is nothing to do. Errors: why it goes on with what it runs; ask again after the
    /// next answers.
    pub fn rise(
        &mut self,
        rules: &Rules,
        knowledge: &Knowledge,
        placings: &Placings,
        now: Duration,
    ) -> Result<Option<Running>, NotYet> {
        let (runs, file) = (self.running.generation, self.electorates.present.generation);
        if runs > file {
            return Err(NotYet::FileOlder { runs, file });
        }
        if let Some((voter, generation)) = knowledge.newer() {
            return Err(NotYet::Newer { voter: voter.clone(), generation });
        }
        let is_there = runs == file && self.running.entered;
        if is_there || self.rising.is_some() || !self.pending.is_empty() {
            return Ok(None);
        }
        let is_near = runs >= file.before();
        let told = now.saturating_sub(self.told);
        let own = Own {
            site: &self.site,
            // Who ran something older answers nobody by this file.
            steady: if is_near { self.steady(now) } else { told },
            told,
            mark: &|service| self.mark(service),
            services: placings.services().collect(),
        };
        let running = match runs == file {
            true => {
                knowledge.may_enter(rules, &own, now)?;
                Running { entered: true, ..self.running }
            }
            false => {
                let is_bound = |service: &&ServiceId| {
                    !knowledge.bound_to(rules, placings, service, now).is_empty()
                };
                if let Some(service) = placings.with_alone().find(is_bound) {
                    return Err(NotYet::Unprotected(service.clone()));
                }
                knowledge.may_rise(rules, &own, now)?;
                Running { generation: file, since: now, entered: true }
            }
        };
        self.rising = Some(running);
        Ok(Some(running))
    }

    /// What [`Self::rise`] gave is on the disk.
    pub fn risen(&mut self) {
        self.running = self.rising.take().unwrap_or(self.running);
    }

    fn mark(&self, service: &ServiceId) -> Mark<&EntryId> {
        let newest = self.newest.get(service).map(|(claim, epoch)| (claim, *epoch));
        Mark::of(newest, self.floor.get(service).copied().unwrap_or_default())
    }

    /// True when it answers in the generation that it runs, and votes.
    fn is_back(&self) -> bool {
        self.pending.is_empty() && self.running.entered
    }

    /// True when the file has what it runs: the present generation, or the one before as one of
    /// its voters.
    fn is_in_file(&self) -> bool {
        let electorate = self.electorates.get(self.running.generation);
        electorate.is_some_and(|electorate| electorate.voters.contains(&self.site))
    }

    /// Whether it may vote for one service of a claim.
    pub fn may_vote(
        &self,
        knowledge: &Knowledge,
        claim: &EntryId,
        service: &ServiceId,
        epoch: Epoch,
    ) -> Result<(), NoVote> {
        let newest = self.newest.get(service).map(|(_, e)| *e).unwrap_or_default();
        let floor = self.floor.get(service).copied().unwrap_or_default();
        // Elsewhere nobody asks, and every service comes by here at every turn.
        let decided = epoch == floor && knowledge.is_decided(&self.site, service, claim);
        may_vote(Bound { rejoining: !self.is_back(), newest, floor, decided }, epoch)
    }

    /// Transition V, first act: what it would vote for a claim.
    pub fn ballot(&self, knowledge: &Knowledge, claim: &Claim) -> Ballot {
        let mut services = BTreeMap::new();
        let mut left_out = BTreeMap::new();
        for (service, epoch) in &claim.services {
            match self.may_vote(knowledge, &claim.id, service, *epoch) {
                Ok(()) => drop(services.insert(service.clone(), *epoch)),
                Err(why) => drop(left_out.insert(service.clone(), why)),
            }
        }
        Ballot {
            voter: self.site.clone(),
            incarnation: self.incarnation,
            number: self.count() + 1,
            prev_hash: self.votes.last().map(|v| v.hash.clone()).unwrap_or_default(),
            claim: claim.id.clone(),
            services,
            target: claim.target.clone(),
            voters: self.running.generation,
            left_out,
        }
    }

    /// Transition V, last act, and the replay of a journal: the vote is on disk. Errors: it does
    /// not follow the ones before.
    pub fn made(&mut self, vote: Vote) -> Result<(), OutOfPlace> {
        let head = self.votes.last().map(|v| v.hash.as_str()).unwrap_or_default();
        let follows = vote.number == self.count() + 1
            && vote.prev_hash == head
            && vote.incarnation == self.incarnation
            && vote.voter == self.site;
        if !follows {
            let (number, last) = (vote.number, self.count());
            return Err(OutOfPlace { voter: self.site.clone(), number, last });
        }
        for (service, epoch) in &vote.services {
            self.newest.insert(service.clone(), (vote.claim.clone(), *epoch));
        }
        self.votes.push(vote);
        Ok(())
    }

    /// Transition A: an answer to an ask that has arrived. None while it has others to read, while
    /// it rises, and where its file does not have what it runs.
    pub fn answer(&self, ask: &Ask, now: Duration) -> Option<Answer> {
        if !self.is_back() || self.rising.is_some() || !self.is_in_file() || ask.voter != self.site
        {
            return None;
        }
        let known = ask.known.get(&self.incarnation).copied().unwrap_or_default();
        let new = self.votes.iter().filter(|v| v.number > known).cloned().collect();
        Some(Answer { stated: self.count(), new, ..self.rejoining(ask, now) })
    }

    /// What it says while it has others to read or must not yet answer in its generation: nothing
    /// that counts for a claim, and what it runs.
    pub fn rejoining(&self, ask: &Ask, now: Duration) -> Answer {
        Answer {
            voter: self.site.clone(),
            nonce: ask.nonce,
            incarnation: self.incarnation,
            stated: 0,
            voters: self.running.generation,
            steady: self.steady(now),
            floor: self.floor.clone(),
            new: Vec::new(),
        }
    }

    /// True while it has lost its journal and has not come back: then it says [`Self::rejoining`].
    /// Where this is false and there is no answer, it says nothing.
    pub fn is_rejoining(&self) -> bool {
        !self.is_back()
    }

    /// Notes what another voter said. Only for answers that [`Knowledge::take`] of this process
    /// took: those were made after the restart, in one of the file's generations.
    pub fn heard(&mut self, answer: &Answer) {
        let Answer { incarnation, stated, voters: generation, .. } = *answer;
        if let Some(goal) = self.pending.get_mut(&answer.voter) {
            *goal = Some(Goal { incarnation, stated, generation });
            raise(&mut self.floor, &answer.floor);
        }
    }

    /// Another voter said, to an ask that this one sent after it came back, that it has lost its
    /// journal too ([`Knowledge::hear_rejoining`]). It has no vote to be read: nobody remembers
    /// what it promised. Its floors, as far as it has them, count. Two losses at once never let two
    /// sites serve together; that no older claim returns holds only for what a third voter has.
    pub fn heard_lost(&mut self, answer: &Answer) -> bool {
        // Of a newer generation it tells that this file is old.
        let is_near = self.electorates.get(answer.voters).is_some();
        let struck = is_near && self.pending.remove(&answer.voter).is_some();
        if struck {
            self.lagging = true;
            raise(&mut self.floor, &answer.floor);
            self.strike_removed();
        }
        struck
    }

    /// Raises the floors: what a journal said that this voter had read before a restart.
    pub fn restore_floor(&mut self, floor: &BTreeMap<ServiceId, Epoch>) {
        raise(&mut self.floor, floor);
    }

    /// Strikes off every voter whose votes have been read up to what it said, and returns them. The
    /// floor must be on disk before the next vote or answer.
    pub fn rejoin(&mut self, knowledge: &Knowledge) -> Vec<SiteId> {
        let read = |site: &SiteId, goal: &Option<Goal>| {
            let Goal { incarnation, stated, generation } = (*goal)?;
            let known = knowledge.known(site).get(&incarnation).copied().unwrap_or_default();
            (known >= stated).then(|| (site.clone(), generation))
        };
        let done: Vec<_> = self.pending.iter().filter_map(|(s, g)| read(s, g)).collect();
        for (site, generation) in &done {
            raise(&mut self.floor, &knowledge.epochs(site));
            self.pending.remove(site);
            self.lagging |= *generation != self.electorates.present.generation;
        }
        let removed = self.strike_removed();
        done.into_iter().map(|(site, _)| site).chain(removed).collect()
    }

    /// Where all that vote now were read in the present generation, they know what the one that was
    /// removed does: it may be gone for good.
    fn strike_removed(&mut self) -> Option<SiteId> {
        let removed = self.electorates.removed()?;
        let is_last = self.pending.keys().eq([removed]) && !self.lagging;
        let removed = removed.clone();
        is_last.then(|| self.pending.remove(&removed).map(|_| removed)).flatten()
    }

    /// An operator's statement that a voter will not be read. Two sites still never serve together;
    /// that no older claim returns rests on the operator from then on.
    pub fn rejoin_without(&mut self, site: &SiteId) -> bool {
        let struck = self.pending.remove(site).is_some();
        self.lagging |= struck;
        struck
    }

    fn count(&self) -> u64 {
        u64::try_from(self.votes.len()).expect("a length fits 64 bits")
    }
}

fn raise(floor: &mut BTreeMap<ServiceId, Epoch>, by: &BTreeMap<ServiceId, Epoch>) {
    for (service, epoch) in by {
        let held = floor.entry(service.clone()).or_default();
        *held = epoch.max(held).to_owned();
    }
}
