//! From one generation of the voters to the next, in which there is one more or one less.
//!
//! The fabric file says which voters there are to be. A voter begins with them when
//! `nett_policy::lease::voters` allows it, and has that on its disk before it says so in an answer;
//! until then it goes on with those before. A node counts the old ones until a majority of the new
//! ones answers from the new generation, so that what it serves is served all the while.
//!
//! Crash story: `voters` in the journal of the lease is what a start goes on with. Where that is
//! not whole the voter is a new incarnation, begins with what the file says, and reads the others
//! first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nett_policy::id::{Epoch, Generation, NodeId, ServiceId, SiteId};
use nett_policy::lease::knowledge::Promises;
use nett_policy::lease::voters::{NoRise, Voters, has_settled, may_rise};

use super::Lease;
use super::store::LeaseRecord;

/// The voters before and after.
#[derive(Debug)]
pub(super) struct Electing {
    /// What the own voter runs, or what this node counts where it has none; on the
    /// disk, but for the first generation of a release that knew of none.
    pub(super) running: Voters,
    /// What the fabric file says.
    pub(super) file: Voters,
    /// A majority of those that run has run them for W.
    settled: bool,
    /// The record of the next generation, on its way to the disk.
    rising: Option<u64>,
    /// Why the own voter does not begin the next generation yet.
    waits: Option<String>,
}

/// A change of the voters that is under way, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextVoters {
    pub generation: Generation,
    /// What the own voter waits for, where it waits.
    pub waits: Option<String>,
}

// === impl Electing ===

impl Electing {
    pub(super) fn new(file: Voters) -> Self {
        Self { running: file.clone(), file, settled: false, rising: None, waits: None }
    }

    /// The node that votes for a site, now or next.
    pub(super) fn node(&self, site: &SiteId) -> Option<&NodeId> {
        self.running.nodes.get(site).or_else(|| self.file.nodes.get(site))
    }
}

/// The voters that a journal says were run last.
pub fn kept(records: &[LeaseRecord]) -> Option<&Voters> {
    records.iter().rev().find_map(|record| match record {
        LeaseRecord::Voters(voters) => Some(voters),
        _ => None,
    })
}

// === impl Lease ===

impl Lease {
    /// Takes up what the journal says; without it, what the file says.
    pub(super) fn restore_voters(&mut self, records: &[LeaseRecord], whole: bool) {
        let known = kept(records).filter(|_| whole).cloned();
        let begun = records.iter().any(|r| matches!(r, LeaseRecord::Begun { .. }));
        let file = self.electing.file.clone();
        match known {
            Some(voters) => {
                let settled = LeaseRecord::Settled(voters.generation);
                self.electing.settled = records.contains(&settled);
                self.count(&voters);
                self.electing.running = voters;
            }
            // A release that knew of no generations ran the first, with whichever voters.
            None if whole && begun && file.generation > Generation(1) => {
                self.electing.running =
                    Voters { generation: Generation(1), nodes: BTreeMap::new() };
            }
            None => {
                self.electing.running = file.clone();
                self.keep(vec![LeaseRecord::Voters(file)]);
            }
        }
    }

    /// The voters of the file, whose votes are read before they count.
    pub(super) fn awaited(&self) -> BTreeSet<SiteId> {
        self.electing.file.nodes.keys().cloned().collect()
    }

    /// Goes on with what the file says, as after a lost journal. Gives the record of that, which
    /// is to be on the disk before anybody hears of it.
    pub(super) fn begin_with_file(&mut self) -> LeaseRecord {
        (self.electing.settled, self.electing.rising) = (false, None);
        self.electing.running = self.electing.file.clone();
        LeaseRecord::Voters(self.electing.running.clone())
    }

    /// Every site that votes now or next.
    pub fn all_voters(&self) -> BTreeSet<SiteId> {
        let Electing { running, file, .. } = &self.electing;
        let named = running.nodes.keys().chain(file.nodes.keys());
        named.chain(self.voters()).cloned().collect()
    }

    /// Whether this node votes, now or next.
    pub(super) fn is_voter(&self) -> bool {
        let Electing { running, file, .. } = &self.electing;
        [running, file].iter().any(|voters| voters.has(&self.me.site, &self.me.id))
    }

    pub(super) fn consider_voters(&mut self, now: Duration) {
        self.settle(now);
        self.rise(now);
        self.follow();
    }

    /// Once so, for ever: voters only go up.
    fn settle(&mut self, now: Duration) {
        let running = &self.electing.running;
        let since = |voter| self.knowledge.runs_since(voter, running.generation);
        let since: Vec<Option<Duration>> = running.nodes.keys().map(since).collect();
        if !self.electing.settled && has_settled(self.rules.wait, &since, now) {
            let generation = running.generation;
            self.electing.settled = true;
            self.keep(vec![LeaseRecord::Settled(generation)]);
        }
    }

    /// Begins the next generation in the own voter, when that may be.
    fn rise(&mut self, now: Duration) {
        let Electing { running, file, rising, .. } = &self.electing;
        let mine = file.has(&self.me.site, &self.me.id);
        let next = mine && file.generation > running.generation;
        let Some(voting) = self.voting.as_ref().filter(|_| next && rising.is_none()) else {
            return;
        };
        if !voting.is_in_office() {
            return;
        }
        match self.may_rise(now) {
            Ok(floor) => {
                self.electing.waits = None;
                let Some(voting) = &mut self.voting else { return };
                voting.voter.restore_floor(&floor);
                let floor = voting.voter.floor().clone();
                let floor = LeaseRecord::Floor { floor, pending: BTreeSet::new() };
                let voters = LeaseRecord::Voters(self.electing.file.clone());
                self.electing.rising = Some(self.keep(vec![floor, voters]));
            }
            Err(why) if self.electing.waits.as_ref() != Some(&why) => {
                tracing::info!(why, "This voter does not begin the next generation yet.");
                self.electing.waits = Some(why);
            }
            Err(_) => {}
        }
    }

    /// The floor to begin the next generation with, or why not.
    fn may_rise(&self, now: Duration) -> Result<BTreeMap<ServiceId, Epoch>, String> {
        let Electing { running, file, settled, .. } = &self.electing;
        let runs = |voter: &SiteId, generation| self.knowledge.runs(voter) >= Some(generation);
        let of = |voters: &Voters| -> Vec<SiteId> {
            voters.nodes.keys().filter(|v| runs(v, voters.generation)).cloned().collect()
        };
        // Whom it follows: a majority of those that have gone before it, or else of those before.
        let ahead = of(file);
        let is_ahead = ahead.len() >= file.quorum();
        may_rise(running.generation, file.generation, *settled, is_ahead).map_err(
            |why| match why {
                NoRise::Unsettled(_) => format!("{why}{}", self.left(now)),
                NoRise::Skipped(_) => why.to_string(),
            },
        )?;
        let (others, needed) = match is_ahead {
            true => (ahead, file.quorum()),
            false => (of(running), running.quorum()),
        };
        let Some(voting) = &self.voting else { return Err("this node does not vote".to_owned()) };
        let promises = others.iter().filter_map(|voter| self.knowledge.promises(voter));
        let promises: Vec<_> = promises.collect();
        if promises.len() < needed {
            return Err(format!(
                "all votes of {needed} voters are to be read first, and those of {} have been: \
                 the others have to answer",
                promises.len()
            ));
        }
        let agree = |all: &Promises<'_>| voting.voter.agrees(all);
        let agreeing: Vec<_> = promises.into_iter().filter(agree).collect();
        if agreeing.len() < needed {
            return Err(format!(
                "{needed} voters are needed whose votes this one does not contradict, and there \
                 are {}: it has to vote for a newer claim first",
                agreeing.len()
            ));
        }
        let mut floor: BTreeMap<ServiceId, Epoch> = BTreeMap::new();
        for promises in agreeing {
            let newest = promises.newest.iter().map(|(service, newest)| (service, newest.epoch));
            let before = promises.floor.iter().map(|(service, epoch)| (service, *epoch));
            for (service, epoch) in newest.chain(before) {
                let held = floor.entry(service.clone()).or_default();
                *held = epoch.max(*held);
            }
        }
        Ok(floor)
    }

    /// How long the wait still is, as far as is known.
    fn left(&self, now: Duration) -> String {
        let running = &self.electing.running;
        let since = |voter| self.knowledge.runs_since(voter, running.generation);
        let mut since: Vec<Duration> = running.nodes.keys().filter_map(since).collect();
        since.sort_unstable();
        let last = running.quorum().checked_sub(1).and_then(|at| since.get(at));
        last.map_or_else(String::new, |since| {
            format!(": {} s are left", (*since + self.rules.wait).saturating_sub(now).as_secs())
        })
    }

    /// Counts the voters of the file once a majority of them answers as such.
    fn follow(&mut self) {
        let file = &self.electing.file;
        let here = self.knowledge.electorate().generation;
        let answers = |voter: &&SiteId| self.knowledge.answers_in(voter, file.generation);
        let answering = file.nodes.keys().filter(answers).count();
        if here == file.generation || answering < file.quorum() {
            return;
        }
        let file = file.clone();
        tracing::info!(generation = %file.generation, "The next voters count.");
        self.count(&file);
        self.news = true;
        if file.has(&self.me.site, &self.me.id) {
            return;
        }
        // Nobody waits for a voter that is none any more.
        self.voting = None;
        let record = self.begin_with_file();
        self.keep(vec![record]);
    }

    fn count(&mut self, voters: &Voters) {
        self.rules.quorum = voters.quorum();
        self.knowledge.elect(voters.electorate());
    }

    /// A record is on the disk.
    pub(super) fn voters_kept(&mut self, number: u64) {
        if self.electing.rising != Some(number) {
            return;
        }
        // The record is the one that has just been kept.
        let _ = self.begin_with_file();
        let generation = self.electing.running.generation;
        if let Some(voting) = &mut self.voting {
            voting.voter.elect(generation);
        }
        tracing::info!(%generation, "This voter has begun the next generation of voters.");
        self.news = true;
    }

    /// Whether a fabric file with these voters may follow the one that this node has.
    ///
    /// # Errors
    /// Why not, and what to do, for the operator.
    pub fn voters_follow(&self, next: &Voters) -> Result<(), String> {
        let Electing { running, file, settled, .. } = &self.electing;
        file.check(next).map_err(|error| error.to_string())?;
        let runs = |v: &&SiteId| self.knowledge.runs(v) >= Some(next.generation);
        let ahead = next.nodes.keys().filter(runs).count() >= next.quorum();
        if next.generation == file.generation || ahead {
            return Ok(());
        }
        let settled = *settled && running.generation == file.generation;
        may_rise(file.generation, next.generation, settled, false).map_err(|why| {
            let (file, next) = (file.generation, next.generation);
            let wait = self.rules.wait.as_secs();
            let todo = match why {
                NoRise::Unsettled(_) => format!(
                    "`nettctl status` names voters that run another one: bring this file {wait} s \
                     after all of them run {file}"
                ),
                NoRise::Skipped(_) => {
                    format!("bring the file with voters_gen = {} first", file.0 + 1)
                }
            };
            format!("voters_gen = {next} cannot follow {file} yet: {why}; {todo}")
        })
    }

    /// The generation of the voters that count here.
    pub fn voters_gen(&self) -> Generation {
        self.knowledge.electorate().generation
    }

    /// The generation that another voter runs, as it said last.
    pub fn runs(&self, voter: &SiteId) -> Option<Generation> {
        self.knowledge.runs(voter)
    }

    /// A change of the voters that is under way.
    pub fn next_voters(&self) -> Option<NextVoters> {
        let Electing { running, file, waits, .. } = &self.electing;
        let here = self.knowledge.electorate().generation;
        (file.generation != running.generation || file.generation != here)
            .then(|| NextVoters { generation: file.generation, waits: waits.clone() })
    }
}
