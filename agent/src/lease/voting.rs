//! The voter that this node is, if it is one: promises on disk first, then answers from them.
//!
//! It votes by itself for what it reads: judgement was exercised when the command was accepted. It
//! never votes while a ballot is on its way to the disk, and neither votes nor answers while it has
//! others to read. A voter that hears of votes of its own that it does not have has lost them, and
//! becomes a new incarnation.

use std::collections::BTreeSet;
use std::time::Duration;

use nett_policy::id::SiteId;
use nett_policy::lease::vote::{Answer, Ask, Claim, Incarnation};
use nett_policy::lease::voter::Voter;

use super::store::LeaseRecord;
use super::{Lease, LeaseEffect};
use crate::bus::wire::{BeaconAnswer, SealedVote};
use crate::controller::event::Token;

#[derive(Debug)]
pub(super) struct Voting {
    pub(super) voter: Voter,
    /// Those of this incarnation, by number.
    votes: Vec<SealedVote>,
    /// A ballot is on its way to the disk.
    sealing: bool,
    /// Since when it could have voted, where it has not yet.
    office: Option<Duration>,
    pub(super) retry: Option<Duration>,
    /// The record without which this incarnation does not exist.
    begun: Option<u64>,
    /// The record of a floor without which nothing is voted or answered.
    floor: Option<u64>,
    /// The record of the generation that it rises to, without which nothing is answered.
    pub(super) rising: Option<u64>,
}

/// How long until a vote is tried again that the disk did not take.
const VOTE_RETRY: Duration = Duration::from_secs(1);

// === impl Voting ===

impl Voting {
    fn new(voter: Voter) -> Self {
        Self {
            voter,
            votes: Vec::new(),
            sealing: false,
            office: None,
            retry: None,
            begun: None,
            floor: None,
            rising: None,
        }
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.is_none()
    }

    /// Nothing that it has to remember is on its way to the disk.
    pub(super) fn is_written(&self) -> bool {
        self.has_begun() && self.floor.is_none() && self.rising.is_none()
    }

    /// No other voter has to be read either.
    fn is_in_office(&self) -> bool {
        self.is_written() && !self.voter.is_rejoining()
    }

    pub(super) fn kept(&mut self, number: u64) {
        self.begun = self.begun.filter(|open| *open != number);
        self.floor = self.floor.filter(|open| *open != number);
        if self.rising.take_if(|open| *open == number).is_some() {
            self.voter.risen();
        }
    }
}

// === impl Lease ===

impl Lease {
    /// Whether the file has this node as a voter: who was one until then answers nobody.
    fn is_voter(&self) -> bool {
        let is_present = self.electorates.present.voters.contains(&self.me.site);
        is_present && self.voter_of(&self.me.site) == Some(&self.me.id)
    }

    /// The voter as its journal has it; with anything missing, a new one.
    pub(super) fn restore_voter(&mut self, records: &[LeaseRecord], whole: bool, now: Duration) {
        if !self.is_voter() {
            return;
        }
        let is_begun = |r: &LeaseRecord| matches!(r, LeaseRecord::Begun { .. });
        let start = records.iter().rposition(is_begun).filter(|_| whole);
        let Some(voting) = start.and_then(|start| self.replayed(&records[start..], now)) else {
            return self.begin_anew(now);
        };
        // Within another boot it counts from now on, as the next start has to know.
        let runs = self.runs_record(voting.voter.running());
        if !records.contains(&runs) {
            self.keep(vec![runs]);
        }
        self.voting = Some(voting);
    }

    /// `None` when the records contradict each other: the journal is not whole then.
    fn replayed(&self, records: &[LeaseRecord], now: Duration) -> Option<Voting> {
        let Some(LeaseRecord::Begun { incarnation, pending }) = records.first() else {
            return None;
        };
        let (here, electorates) = (self.me.site.clone(), self.electorates.clone());
        let mut pending = pending;
        let mut voting = Voting::new(Voter::lost(here, *incarnation, electorates, now));
        for record in records {
            match record {
                LeaseRecord::Floor { floor, pending: left } => {
                    voting.voter.restore_floor(floor);
                    pending = left;
                }
                LeaseRecord::Made(vote) => {
                    voting.voter.made(vote.vote.clone()).ok()?;
                    voting.votes.push(vote.clone());
                }
                _ => {}
            }
        }
        voting.voter.restore(self.ran(records, now), pending);
        Some(voting)
    }

    fn begin_anew(&mut self, now: Duration) {
        self.news = true;
        // What the one before ran must not come to the disk behind this.
        for (_, records) in &mut self.keeping.open {
            records.retain(|record| !matches!(record, LeaseRecord::Runs { .. }));
        }
        let incarnation = Incarnation(self.draw());
        let (here, electorates) = (self.me.site.clone(), self.electorates.clone());
        let voter = Voter::lost(here, incarnation, electorates, now);
        let pending: BTreeSet<SiteId> = voter.pending().into_iter().cloned().collect();
        tracing::warn!("This voter has no whole journal; it reads the others before it votes.");
        let runs = self.runs_record(voter.running());
        let mut voting = Voting::new(voter);
        let begun = LeaseRecord::Begun { incarnation, pending };
        voting.begun = Some(self.keep(vec![begun, runs]));
        self.voting = Some(voting);
    }

    /// Votes for the newest claims, one ballot at a time.
    pub(super) fn consider_votes(&mut self, now: Duration) {
        let ready = self.voting.as_ref().is_some_and(|voting| {
            voting.is_in_office() && !voting.sealing && voting.retry.is_none_or(|at| now >= at)
        });
        if !ready || self.founds_alone(now) {
            return;
        }
        let mut claims: Vec<(usize, Claim)> = Vec::new();
        for claim in self.placings.newest() {
            let (here, id) = (&self.me.site, &claim.id);
            let others = claim.services.keys().map(|one| self.knowledge.others(here, one, id));
            claims.push((others.max().unwrap_or(0), claim));
        }
        // Of two claims of one epoch the one that others voted for comes further.
        claims.sort_by_key(|(most, _)| usize::MAX - most);
        for (_, claim) in claims {
            let Some(voting) = &mut self.voting else { return };
            let ballot = voting.voter.ballot(&self.knowledge, &claim);
            if !ballot.services.is_empty() {
                (voting.sealing, voting.retry) = (true, None);
                self.effects.push(LeaseEffect::Vote(ballot));
                return;
            }
        }
    }

    /// True while a voter that knows of no vote at all is ahead of others that still read: a vote
    /// of its would be the floor of theirs, and no claim of that epoch could get a majority.
    fn founds_alone(&mut self, now: Duration) -> bool {
        let wait = self.rules.wait;
        if !self.is_founding() {
            return false;
        }
        let Some(voting) = &mut self.voting else { return false };
        let since = *voting.office.get_or_insert(now);
        let mut others = self.voters().iter().filter(|voter| **voter != self.me.site);
        now < since + wait && others.any(|voter| self.knowledge.answered(voter).is_none())
    }

    /// True in a voter that knows of no vote at all: it waits for a time that is no deadline.
    pub(super) fn is_founding(&self) -> bool {
        let voting = self.voting.as_ref();
        voting.is_some_and(|own| own.votes.is_empty() && own.voter.floor().is_empty())
    }

    pub(super) fn voted(&mut self, result: Result<SealedVote, String>, now: Duration) {
        let Some(voting) = &mut self.voting else { return };
        voting.sealing = false;
        match result {
            Ok(vote) => match voting.voter.made(vote.vote.clone()) {
                Ok(()) => {
                    voting.votes.push(vote.clone());
                    self.effects.push(LeaseEffect::Publish(vote.clone()));
                    self.read_vote(&vote, now);
                }
                Err(error) => {
                    tracing::error!(%error, "A vote on the disk does not fit; begins anew.");
                    self.begin_anew(now);
                }
            },
            Err(error) => {
                tracing::error!(error, "The disk does not take a vote.");
                voting.retry = Some(now + VOTE_RETRY);
            }
        }
    }

    pub(super) fn asked(&mut self, token: Token, ask: &Ask, now: Duration) {
        let Some(voting) = &self.voting else { return };
        let mine = voting.voter.incarnation();
        let made = u64::try_from(voting.votes.len()).unwrap_or(u64::MAX);
        let claimed = ask.known.get(&mine).copied().unwrap_or(0);
        if claimed > made && !voting.sealing {
            tracing::error!(claimed, made, "Votes of this voter are known that it does not have.");
            self.begin_anew(now);
        }
        if let Some(said) = self.say(ask, now) {
            self.effects.push(LeaseEffect::Answer { token, said: Box::new(said) });
        }
    }

    /// The answer to an ask, from what is on the disk.
    pub(super) fn say(&self, ask: &Ask, now: Duration) -> Option<BeaconAnswer> {
        let voting = self.voting.as_ref().filter(|voting| voting.has_begun())?;
        if ask.voter != self.me.site || self.terms_open.is_some() {
            return None;
        }
        let node = self.me.id.clone();
        let voter = &voting.voter;
        if voter.is_rejoining() || voting.floor.is_some() {
            let answer = voter.rejoining(ask, now);
            return Some(BeaconAnswer { answer, node, rejoining: true, votes: Vec::new() });
        }
        let answer = voter.answer(ask, now).filter(|_| voting.is_in_office())?;
        let known = ask.known.get(&answer.incarnation).copied().unwrap_or(0);
        let votes = voting.votes.iter().filter(|v| v.vote.number > known).cloned().collect();
        Some(BeaconAnswer { answer, node, rejoining: false, votes })
    }

    /// Another voter answered: this one may have read all of it now.
    pub(super) fn heard_answer(&mut self, answer: &Answer) {
        let Some(voting) = &mut self.voting else { return };
        if voting.voter.pending().is_empty() {
            return;
        }
        voting.voter.heard(answer);
        if !voting.voter.rejoin(&self.knowledge).is_empty() {
            self.keep_floor();
        }
    }

    /// Another voter has lost its journal too.
    pub(super) fn heard_rejoining(&mut self, answer: &Answer, now: Duration) {
        if !self.knowledge.hear_rejoining(answer, now) {
            return;
        }
        let Some(voting) = &mut self.voting else { return };
        if voting.voter.heard_lost(answer) {
            self.keep_floor();
        }
    }

    /// An operator's statement that a voter will not be read. True when it was waited for.
    pub fn rejoin_without(&mut self, site: &SiteId) -> bool {
        let Some(voting) = &mut self.voting else { return false };
        let struck = voting.voter.rejoin_without(site);
        if struck {
            self.news = true;
            tracing::warn!(%site, "An operator says that a voter will not be read.");
            self.keep_floor();
        }
        struck
    }

    fn keep_floor(&mut self) {
        let Some(voting) = &self.voting else { return };
        let floor = voting.voter.floor().clone();
        let pending = voting.voter.pending().into_iter().cloned().collect();
        let number = self.keep(vec![LeaseRecord::Floor { floor, pending }]);
        if let Some(voting) = &mut self.voting {
            voting.floor = Some(number);
        }
    }

    /// The voters that this one still has to read; `None` where this node is no voter.
    pub fn pending(&self) -> Option<BTreeSet<&SiteId>> {
        self.voting.as_ref().map(|voting| voting.voter.pending())
    }
}
