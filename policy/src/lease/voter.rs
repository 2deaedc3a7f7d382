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

use std::collections::{BTreeMap, BTreeSet};

use super::knowledge::Knowledge;
use super::rule::{Bound, NoVote, Rules, may_vote};
use super::vote::{Answer, Ask, Claim, Electorate, Incarnation, Vote};
use crate::id::{EntryId, Epoch, Generation, ServiceId, SiteId};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    site: SiteId,
    incarnation: Incarnation,
    generation: Generation,
    /// All of this incarnation, by number; on disk.
    votes: Vec<Vote>,
    newest: BTreeMap<ServiceId, (EntryId, Epoch)>,
    floor: BTreeMap<ServiceId, Epoch>,
    /// Whom it still has to read, with what that voter said after the restart.
    pending: BTreeMap<SiteId, Option<(Incarnation, u64)>>,
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
    pub fn founded(site: SiteId, incarnation: Incarnation, generation: Generation) -> Self {
        Self {
            site,
            incarnation,
            generation,
            votes: Vec::new(),
            newest: BTreeMap::new(),
            floor: BTreeMap::new(),
            pending: BTreeMap::new(),
        }
    }

    /// Transition L: torn or missing tail, older state, restored backup, empty disk or another
    /// machine. Must be on disk, with the new incarnation, before any ask is sent.
    pub fn lost(site: SiteId, incarnation: Incarnation, electorate: &Electorate) -> Self {
        let others = electorate.voters.iter().filter(|v| **v != site);
        let pending = others.map(|v| (v.clone(), None)).collect();
        Self { pending, ..Self::founded(site, incarnation, electorate.generation) }
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

    /// Generations only go up.
    pub fn elect(&mut self, generation: Generation) {
        self.generation = generation.max(self.generation);
    }

    /// Whether it may vote for one service of a claim. `others` is how many other voters' newest
    /// vote is for that claim.
    pub fn may_vote(
        &self,
        rules: &Rules,
        service: &ServiceId,
        epoch: Epoch,
        others: usize,
    ) -> Result<(), NoVote> {
        let newest = self.newest.get(service).map(|(_, e)| *e).unwrap_or_default();
        let floor = self.floor.get(service).copied().unwrap_or_default();
        let bound = Bound { rejoining: !self.pending.is_empty(), newest, floor, others };
        may_vote(rules, bound, epoch)
    }

    /// Transition V, first act: what it would vote for a claim.
    pub fn ballot(
        &self,
        rules: &Rules,
        claim: &Claim,
        others: &BTreeMap<ServiceId, usize>,
    ) -> Ballot {
        let mut services = BTreeMap::new();
        let mut left_out = BTreeMap::new();
        for (service, epoch) in &claim.services {
            let others = others.get(service).copied().unwrap_or_default();
            match self.may_vote(rules, service, *epoch, others) {
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
            voters: self.generation,
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

    /// Transition A: an answer to an ask that has arrived, or none while it has others to read.
    pub fn answer(&self, ask: &Ask) -> Option<Answer> {
        if !self.pending.is_empty() || ask.voter != self.site {
            return None;
        }
        let known = ask.known.get(&self.incarnation).copied().unwrap_or_default();
        let new = self.votes.iter().filter(|v| v.number > known).cloned().collect();
        Some(Answer {
            voter: self.site.clone(),
            nonce: ask.nonce,
            incarnation: self.incarnation,
            stated: self.count(),
            voters: self.generation,
            floor: self.floor.clone(),
            new,
        })
    }

    /// Notes what another voter said. Only for answers that [`Knowledge::take`] of this process
    /// took: those were made after the restart.
    pub fn heard(&mut self, answer: &Answer) {
        if let Some(goal) = self.pending.get_mut(&answer.voter) {
            *goal = Some((answer.incarnation, answer.stated));
            raise(&mut self.floor, &answer.floor);
        }
    }

    /// Another voter said, to an ask that this one sent after it came back, that it has lost its
    /// journal too. It has no vote to be read: nobody remembers what it promised. Its floors, as
    /// far as it has them, count. Two losses at once never let two sites serve together; that no
    /// older claim returns holds only for what a third voter still has.
    pub fn heard_lost(&mut self, voter: &SiteId, floor: &BTreeMap<ServiceId, Epoch>) -> bool {
        let struck = self.pending.remove(voter).is_some();
        if struck {
            raise(&mut self.floor, floor);
        }
        struck
    }

    /// Raises the floors: what a journal said that this voter had read before a restart.
    pub fn restore_floor(&mut self, floor: &BTreeMap<ServiceId, Epoch>) {
        raise(&mut self.floor, floor);
    }

    /// Keeps those of the pending voters that a journal says were not read before a restart.
    pub fn restore_pending(&mut self, pending: &BTreeSet<SiteId>) {
        self.pending.retain(|voter, _| pending.contains(voter));
    }

    /// Strikes off every voter whose votes have been read up to what it said, and returns them. The
    /// floor must be on disk before the next vote or answer.
    pub fn rejoin(&mut self, knowledge: &Knowledge) -> Vec<SiteId> {
        let read = |site: &SiteId, goal: &Option<(Incarnation, u64)>| {
            let (incarnation, stated) = (*goal)?;
            let known = knowledge.known(site).get(&incarnation).copied().unwrap_or_default();
            (known >= stated).then(|| site.clone())
        };
        let done: Vec<SiteId> = self.pending.iter().filter_map(|(s, g)| read(s, g)).collect();
        for site in &done {
            raise(&mut self.floor, &knowledge.epochs(site));
            self.pending.remove(site);
        }
        done
    }

    /// An operator's statement that a voter will not be read. Two sites still never serve together;
    /// that no older claim returns rests on the operator from then on.
    pub fn rejoin_without(&mut self, site: &SiteId) -> bool {
        self.pending.remove(site).is_some()
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
