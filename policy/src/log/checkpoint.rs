//! What may be forgotten of a log, so that a node's copy stays small.
//!
//! A checkpoint is an element of the same join as entries are: it says how far it has read each
//! log, and a fold that has it keeps of those entries only what the checkpoint kept. So it may come
//! late, twice, or to somebody who still has all that it leaves out ([`Fold::merge`]). Whole tasks
//! are forgotten, never parts of one: what is kept can be read as if nothing had been there before.
//!
//! A task is forgotten only when nothing that is yet to be written can be about it: it has ended,
//! every node has read that, and everything it decided has been decided anew by a task that is
//! done, that every node has read, and that left nobody behind. Below that one's place in the order
//! of a subject nobody is the loser of a split decision any more ([`Checkpoint::floors`]): who
//! decides now has read it, and with it everything before. Nothing here has a clock, and a crash
//! leaves nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::conflict::{Claims, Contested};
use super::entry::{Body, Entry, Outcome};
use super::fold::{Fact, Fold, TaskRecord, Verdict, Written};
use super::intent::{Intent, Order};
use crate::id::{EntryId, NodeId, ServiceId, SiteId, WallMs};
use crate::task::view::read;

/// How far logs were read when something was forgotten, and from where on it does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Per site the number of the last entry that is covered.
    pub covers: BTreeMap<SiteId, u64>,
    /// Everything about this subject below this place was known to whoever wrote what stands there.
    pub floors: BTreeMap<Contested, Order>,
}

/// What a fold may forget.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spent {
    pub checkpoint: Checkpoint,
    /// By the id of the command or of the refused request.
    pub tasks: BTreeSet<EntryId>,
}

/// What may be forgotten of a fold, when every node has read the logs as far as `stable` says, and
/// everything that was written by nodes that had not is in the fold.
///
/// Only what expired before `expired` is forgotten: who sends a command again that is not refused
/// as expired must get the recorded answer.
pub fn spent(fold: &Fold, stable: &BTreeMap<SiteId, u64>, expired: WallMs) -> Spent {
    let (intent, claims) = (Intent::read(fold), Claims::of(fold));
    let look = Look { fold, stable, expired };
    let floors = claims.settled(|task| look.is_done(task)).collect();
    let mut checkpoint = fold.checkpoint().clone();
    checkpoint.take(&Checkpoint { covers: stable.clone(), floors });
    let counts: BTreeSet<&EntryId> =
        claims.standing(&checkpoint.floors).chain(intent.rests_on()).collect();
    let over = fold.verdicts().filter(|verdict| look.is_over(verdict));
    let over = over.map(|verdict| &verdict.what.request().id);
    let tasks = over.filter(|task| !counts.contains(task)).cloned().collect();
    Spent { checkpoint, tasks }
}

/// The places of the entries that have to be kept for a fold that has forgotten what it may: those
/// behind what it covers, those about what it knows, and of what nodes withdrew the last word.
pub fn kept<'a>(fold: &Fold, entries: impl IntoIterator<Item = &'a Entry>) -> Vec<usize> {
    let mut kept = BTreeSet::new();
    let mut withdrawn: BTreeMap<(&NodeId, &ServiceId), (crate::id::Epoch, usize)> = BTreeMap::new();
    for (at, entry) in entries.into_iter().enumerate() {
        let known = match &entry.body {
            Body::Withdrawn(body) => {
                for (service, epoch) in &body.services {
                    let last = withdrawn.entry((&entry.node, service)).or_insert((*epoch, at));
                    *last = (*last).max((*epoch, at));
                }
                false
            }
            Body::Refused(refused) => fold.verdict(&refused.request.id).is_some(),
            _ => entry.about().is_some_and(|task| fold.knows(task)),
        };
        if known || !fold.covers(&entry.site, entry.position.seq) {
            kept.insert(at);
        }
    }
    kept.extend(withdrawn.into_values().map(|(_, at)| at));
    kept.into_iter().collect()
}

struct Look<'a> {
    fold: &'a Fold,
    stable: &'a BTreeMap<SiteId, u64>,
    expired: WallMs,
}

impl Look<'_> {
    fn has(&self, site: &SiteId, seq: u64) -> bool {
        self.stable.get(site).is_some_and(|stable| seq <= *stable)
    }

    fn stands<T>(&self, written: &Written<T>) -> bool {
        self.has(&written.site, written.seq)
    }

    /// Every node has read that the task is done, and all that was ever said of it.
    fn is_done(&self, task: &EntryId) -> bool {
        read(self.fold, task).end == Some(Outcome::Done) && self.is_read(task)
    }

    fn is_read(&self, task: &EntryId) -> bool {
        let verdict = self.fold.verdict(task).is_some_and(|verdict| self.stands(verdict));
        verdict && self.fold.task(task).is_none_or(|record| self.all_stand(record))
    }

    fn all_stand(&self, record: &TaskRecord) -> bool {
        record.all_facts().all(|fact: &Written<Fact>| self.stands(fact))
            && record.all_adopts().all(|adopt| self.stands(adopt))
            && record.wishes().all(|wish| self.stands(wish))
    }

    /// Nothing more comes of a request, and nobody can send it again.
    fn is_over(&self, verdict: &Written<Verdict>) -> bool {
        let request = verdict.what.request();
        let expired = request.expires_at < self.expired;
        let ended = match &verdict.what {
            Verdict::Refused(_) => true,
            Verdict::Accepted(_) => read(self.fold, &request.id).end.is_some(),
        };
        expired && ended && self.is_read(&request.id)
    }
}

// === impl Checkpoint ===

impl Checkpoint {
    /// The higher of every number and place.
    pub fn take(&mut self, other: &Self) {
        let Self { covers, floors } = other;
        for (site, seq) in covers {
            let covered = self.covers.entry(site.clone()).or_default();
            *covered = (*covered).max(*seq);
        }
        for (subject, order) in floors {
            match self.floors.get(subject) {
                Some(floor) if floor >= order => {}
                Some(_) | None => drop(self.floors.insert(subject.clone(), order.clone())),
            }
        }
    }

    /// True when it stands where this checkpoint has read.
    pub fn has_read<T>(&self, written: &Written<T>) -> bool {
        self.covers.get(&written.site).is_some_and(|covered| written.seq <= *covered)
    }
}
