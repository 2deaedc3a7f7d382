//! When this node forgets what nobody needs any more, and what of it.
//!
//! Every node says in its reports how far it has read each log. What all nodes of the fabric have
//! read is forgotten only after everything was read here that any of them wrote before it said so:
//! a second round of reports, some time later, and own heads that are not behind any of them. A
//! node that is silent therefore keeps everything in place; nothing is ever forgotten because of a
//! timer. Nothing is kept here: after a crash the journal is as long as it was, and the counting
//! begins anew.

use std::collections::BTreeMap;
use std::time::Duration;

use nett_policy::id::{SiteId, WallMs};
use nett_policy::log::checkpoint::spent;

use super::Controller;
use super::effect::{Compact, Effect};
use super::event::Now;
use crate::bus::wire::Head;
use crate::journal::{Saved, SavedHead};

/// How often a journal is written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// After so many records.
    pub records: usize,
    /// What everybody has read must have been read by everybody for this long.
    pub settle: Duration,
    /// How long what a command led to is kept after the command has expired. What is older and
    /// comes again is refused, and no entry is written about it. More than any clock is wrong.
    pub kept: Duration,
}

#[derive(Debug)]
pub(super) struct Compacting {
    pace: Pace,
    /// Records in the journal.
    records: usize,
    /// At so many it is looked at again.
    due: usize,
    /// Or then: what was too young to be forgotten is not any more.
    again: Option<Duration>,
    /// What everybody had read, and when.
    candidate: Option<(Duration, BTreeMap<SiteId, SavedHead>)>,
    running: bool,
    /// What the journal begins with.
    saved: Saved,
}

// === impl Pace ===

impl Default for Pace {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { records: 4096, settle: Duration::from_secs(60), kept: day }
    }
}

// === impl Compacting ===

impl Default for Compacting {
    fn default() -> Self {
        let pace = Pace::default();
        let saved = Saved::default();
        Self {
            pace,
            records: 0,
            due: pace.records,
            again: None,
            candidate: None,
            running: false,
            saved,
        }
    }
}

impl Compacting {
    pub(super) fn recorded(&mut self, records: usize) {
        self.records += records;
    }

    pub(super) fn begin_behind(&mut self, saved: Saved) {
        self.saved = saved;
    }

    pub(super) fn saved(&self) -> &Saved {
        &self.saved
    }

    /// Not before so many more records, or so much time, is it worth another look.
    fn put_off(&mut self, now: Duration) {
        self.due = self.records + self.pace.records;
        self.again = Some(now + self.pace.kept / 4);
        self.candidate = None;
    }

    fn is_due(&self, now: Duration) -> bool {
        let later = self.again.is_some_and(|at| now >= at) && self.records >= self.pace.records;
        !self.running && (self.records >= self.due || later)
    }

    fn done(&mut self, records: Option<usize>, now: Duration) {
        self.records = records.unwrap_or(self.records);
        self.running = false;
        self.put_off(now);
    }
}

impl Controller {
    /// Sets how often the journal is written anew.
    pub fn set_pace(&mut self, pace: Pace) {
        self.compacting.pace = pace;
        self.compacting.due = pace.records;
    }

    /// The journal was written anew; the stream of the site comes next.
    pub(super) fn compacted(&mut self, records: Option<usize>, now: Now) {
        self.compacting.done(records, now.mono);
        if records.is_some() {
            self.prefaces.compacted(now.mono);
        }
    }

    pub(super) fn compact(&mut self, now: Now) {
        if !self.compacting.is_due(now.mono) {
            return;
        }
        // What is not known to be whole is not made smaller.
        if !self.trusted || self.reading.trouble().next().is_some() {
            return;
        }
        let Some((since, candidate)) = &self.compacting.candidate else {
            self.compacting.candidate = self.read_by_all().map(|heads| (now.mono, heads));
            return;
        };
        if now.mono < *since + self.compacting.pace.settle || !self.read_what_they_wrote(*since) {
            return;
        }
        let heads = candidate.clone();
        let covers = heads.iter().map(|(site, head)| (site.clone(), head.head.seq)).collect();
        let spent = spent(&self.fold, &covers, self.forgettable(now));
        if spent.tasks.is_empty() {
            return self.compacting.put_off(now.mono);
        }
        self.fold.forget(&spent);
        self.reading.cover(&covers);
        for task in &spent.tasks {
            self.deciding.forget(task);
        }
        self.read_all();
        self.compacting.running = true;
        self.compacting.saved.take(Saved { heads, floors: spent.checkpoint.floors });
        let saved = self.compacting.saved.clone();
        self.effects.push(Effect::Compact(Box::new(Compact { saved, fold: self.fold.clone() })));
    }

    /// Requests that expired before this may be forgotten.
    pub(super) fn forgettable(&self, now: Now) -> WallMs {
        let kept = u64::try_from(self.compacting.pace.kept.as_millis()).unwrap_or(u64::MAX);
        WallMs(now.wall.0.saturating_sub(kept))
    }

    /// The heads that every node of the fabric has reached, where that can be told.
    fn read_by_all(&self) -> Option<BTreeMap<SiteId, SavedHead>> {
        let mut all: BTreeMap<SiteId, SavedHead> = BTreeMap::new();
        for (site, own) in self.reading.heads() {
            let mut least = own.seq;
            for node in self.others() {
                let heard = self.peers.reports.get(node)?;
                let theirs = heard.report.heads.get(&site).filter(|head| head.boot == own.boot);
                least = least.min(theirs.map_or(0, |head| head.seq));
            }
            // None where nothing is new.
            if let Some(place) = self.reading.place(&site, least) {
                all.insert(site, place);
            }
        }
        (!all.is_empty()).then_some(all)
    }

    /// Every other node has reported since, and nothing that one had written when it did is still
    /// unread here.
    fn read_what_they_wrote(&self, since: Duration) -> bool {
        let own = self.reading.heads();
        let read = |(site, theirs): (&SiteId, &Head)| {
            own.get(site).is_some_and(|own| own.boot == theirs.boot && own.seq >= theirs.seq)
        };
        self.others().all(|node| {
            let heard = self.peers.reports.get(node).filter(|heard| heard.at > since);
            heard.is_some_and(|heard| heard.report.heads.iter().all(read))
        })
    }

    fn others(&self) -> impl Iterator<Item = &nett_policy::id::NodeId> {
        let me = &self.setting.node.id;
        self.setting.fabric.nodes.iter().map(|node| &node.id).filter(move |node| *node != me)
    }
}
