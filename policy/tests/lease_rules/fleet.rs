//! Voters that ask each other, and a node that asks them all, while the set of voters changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nett_policy::fabric::{Lease, VoterChange};
use nett_policy::id::{Epoch, Generation, NodeId, ServiceId, SiteId};
use nett_policy::lease::electorate::{Electorate, Electorates};
use nett_policy::lease::generation::{NotYet, Running};
use nett_policy::lease::knowledge::Knowledge;
use nett_policy::lease::placings::Placings;
use nett_policy::lease::rule::{Ground, Verdict};
use nett_policy::lease::vote::{Claim, Incarnation, Nonce, Vote};
use nett_policy::lease::voter::Voter;

use crate::bench::{asking, entry, rules, s, seal, site};
use crate::desk::{Desk, PAY, id};

/// A step from `before` to `after`, of which one has a site more or both are the same.
pub(crate) fn step(generation: u64, before: &[&str], after: &[&str]) -> Electorates {
    let sites = |names: &[&str]| -> BTreeSet<SiteId> { names.iter().map(|n| site(n)).collect() };
    let (before, voters) = (sites(before), sites(after));
    let node = |site: &SiteId| -> NodeId { format!("{site}-b1").parse().expect("a node") };
    let change = match (voters.difference(&before).next(), before.difference(&voters).next()) {
        (Some(added), _) => VoterChange::Added(node(added)),
        (_, Some(removed)) => VoterChange::Removed(node(removed)),
        (None, None) => VoterChange::Lease(Lease::default()),
    };
    let nodes = before.union(&voters).map(|site| (site.clone(), node(site))).collect();
    let present = Electorate { generation: Generation(generation), voters };
    let generation = present.generation.before();
    let former = Some(Electorate { generation, voters: before });
    Electorates { present, former, change, lease: Lease::default(), nodes }
}

/// Generation 1.
pub(crate) fn first(names: &[&str]) -> Electorates {
    Electorates { former: None, change: VoterChange::First, ..step(1, names, names) }
}

pub(crate) fn pay() -> ServiceId {
    id(PAY)
}

/// A claim for the leased service.
pub(crate) fn claim(epoch: u64, target: &str) -> Claim {
    let number = u8::try_from(epoch).expect("small");
    let services = BTreeMap::from([(pay(), Epoch(epoch))]);
    Claim { id: entry(target, number), target: site(target), services }
}

struct Seat {
    voter: Voter,
    knowledge: Knowledge,
    votes: Vec<Vote>,
    is_dead: bool,
}

pub(crate) struct Fleet {
    seats: BTreeMap<SiteId, Seat>,
    pub(crate) node: Knowledge,
    pub(crate) placings: Placings,
    drawn: u128,
    pub(crate) now: u64,
}

impl Fleet {
    /// Voters that began long ago, all of one file, and a node that has heard nothing.
    pub(crate) fn new(names: &[&str], electorates: &Electorates) -> Self {
        let mut fleet = Self {
            seats: BTreeMap::new(),
            node: Knowledge::new(electorates.clone()),
            placings: Desk::new().placings(),
            drawn: 0,
            now: 1000,
        };
        for name in names {
            fleet.drawn += 1;
            let voter = Voter::founded(site(name), Incarnation(fleet.drawn), electorates.clone());
            fleet.seat(name, voter, electorates);
        }
        fleet
    }

    fn seat(&mut self, name: &str, voter: Voter, electorates: &Electorates) {
        let knowledge = Knowledge::new(electorates.clone());
        let seat = Seat { voter, knowledge, votes: Vec::new(), is_dead: false };
        self.seats.insert(site(name), seat);
    }

    fn at(&mut self, name: &str) -> &mut Seat {
        self.seats.get_mut(&site(name)).expect("a voter")
    }

    pub(crate) fn voter(&mut self, name: &str) -> &mut Voter {
        &mut self.at(name).voter
    }

    pub(crate) fn knowledge(&mut self, name: &str) -> &Knowledge {
        &self.at(name).knowledge
    }

    pub(crate) fn running(&mut self, name: &str) -> (u64, bool) {
        let Running { generation, entered, .. } = self.voter(name).running();
        (generation.0, entered)
    }

    /// A new voter, or one that begins with an empty disk.
    pub(crate) fn begin(&mut self, name: &str, electorates: &Electorates) {
        self.drawn += 1;
        let now = s(self.now);
        let voter = Voter::lost(site(name), Incarnation(self.drawn), electorates.clone(), now);
        self.seat(name, voter, electorates);
    }

    /// It starts again in this boot, with another file and a whole journal.
    pub(crate) fn file(&mut self, name: &str, electorates: &Electorates) {
        let now = s(self.now);
        let seat = self.at(name);
        let incarnation = seat.voter.incarnation();
        let mut voter = Voter::lost(site(name), incarnation, electorates.clone(), now);
        seat.votes.iter().for_each(|vote| voter.made(vote.clone()).expect("it follows"));
        voter.restore_floor(seat.voter.floor());
        let pending = seat.voter.pending().into_iter().cloned().collect();
        voter.restore(Some(seat.voter.running()), &pending);
        seat.voter = voter;
        seat.knowledge = seat.knowledge.clone().restarted(true, now);
        seat.knowledge.elect(electorates.clone());
    }

    pub(crate) fn die(&mut self, name: &str) {
        self.at(name).is_dead = true;
    }

    pub(crate) fn revive(&mut self, name: &str) {
        self.at(name).is_dead = false;
    }

    /// It votes for the claim, if it may.
    pub(crate) fn vote(&mut self, name: &str, claim: &Claim) -> bool {
        let now = s(self.now);
        let seat = self.at(name);
        let ballot = seat.voter.ballot(&seat.knowledge, claim);
        if ballot.services.is_empty() {
            return false;
        }
        let vote = seal(&ballot);
        seat.voter.made(vote.clone()).expect("it follows");
        seat.knowledge.read_vote(&vote, now);
        seat.votes.push(vote);
        true
    }

    /// Everybody asks everybody, at one instant; who has lost its journal may come back.
    pub(crate) fn round(&mut self) {
        let alive = |(name, seat): (&SiteId, &Seat)| (!seat.is_dead).then(|| name.clone());
        let askers: Vec<SiteId> = self.seats.iter().filter_map(alive).collect();
        for asker in askers {
            let mut seat = self.seats.remove(&asker).expect("a voter");
            for voter in seat.knowledge.electorates().all() {
                if self.seats.get(&voter).is_some_and(|other| !other.is_dead) {
                    let said = self.ask(&mut seat.knowledge, &voter);
                    match said {
                        Said::Counts(answer) => seat.voter.heard(&answer),
                        Said::Rejoining(answer) => drop(seat.voter.heard_lost(&answer)),
                        Said::Nothing => {}
                    }
                }
            }
            seat.voter.rejoin(&seat.knowledge);
            self.seats.insert(asker, seat);
        }
        let mut node = self.node.clone();
        for voter in node.electorates().all() {
            if self.seats.get(&voter).is_some_and(|other| !other.is_dead) {
                self.ask(&mut node, &voter);
            }
        }
        self.node = node;
    }

    fn ask(&mut self, asker: &mut Knowledge, voter: &SiteId) -> Said {
        self.drawn += 1;
        let now = s(self.now);
        let ask = asker.ask(&rules(), voter, Nonce(self.drawn), now);
        let other = &self.seats[voter].voter;
        if let Some(answer) = other.answer(&ask, now) {
            return match asker.take(&answer, now) {
                Ok(()) => Said::Counts(Box::new(answer)),
                Err(_) => Said::Nothing,
            };
        }
        let answer = other.rejoining(&ask, now);
        match other.is_rejoining() && asker.hear_rejoining(&answer, now) {
            true => Said::Rejoining(Box::new(answer)),
            false => Said::Nothing,
        }
    }

    /// Rounds until that many seconds have passed.
    pub(crate) fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds / 10 {
            self.now += 10;
            self.round();
        }
    }

    /// What it would do, without doing it.
    pub(crate) fn try_rise(&mut self, name: &str) -> Result<Option<Running>, NotYet> {
        let (placings, now) = (self.placings.clone(), s(self.now));
        let seat = self.at(name);
        seat.voter.clone().rise(&rules(), &seat.knowledge, &placings, now)
    }

    /// It goes on to its file's generation, or enters it.
    pub(crate) fn rise(&mut self, name: &str) -> Result<Option<Running>, NotYet> {
        let (placings, now) = (self.placings.clone(), s(self.now));
        let seat = self.at(name);
        let risen = seat.voter.rise(&rules(), &seat.knowledge, &placings, now)?;
        seat.voter.risen();
        Ok(risen)
    }

    pub(crate) fn verdict(&self, claim: &Claim) -> Verdict {
        let service = pay();
        self.node.serves(&rules(), asking(claim, &service, Ground::Wait), self.time())
    }

    #[track_caller]
    pub(crate) fn assert_serves(&self, claim: &Claim) {
        let verdict = self.verdict(claim);
        assert!(verdict.is_serving(), "at {} s: {verdict:?}", self.now);
    }

    pub(crate) fn time(&self) -> Duration {
        s(self.now)
    }
}

enum Said {
    Counts(Box<nett_policy::lease::vote::Answer>),
    Rejoining(Box<nett_policy::lease::vote::Answer>),
    Nothing,
}
