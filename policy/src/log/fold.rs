//! The fold: a join over the set of entries, keyed by entry id.
//!
//! Joining is commutative, associative and idempotent by construction: every part of the state is
//! a map whose per-key choice is the least element of a total order, or a set that only grows. What
//! the state *means* is a reading of it ([`super::intent`], [`crate::task::view`]), never part of
//! the join. The fold has no clock: whether a command was in time was decided once, by the agent
//! that accepted it.

use std::collections::BTreeMap;

use super::entry::{Body, Command, Effect, EndFact, Entry, Refused, Request, Slot, StepFact};
use crate::id::{EntryId, NodeId, SiteId, WallMs};

/// Everything known from the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fold {
    /// Requests that were accepted or refused, by the signed request's id.
    verdicts: BTreeMap<EntryId, Written<Verdict>>,
    /// Facts and wishes, by task.
    tasks: BTreeMap<EntryId, TaskRecord>,
}

/// Something an entry said, with who wrote it and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written<T> {
    pub entry: EntryId,
    pub site: SiteId,
    pub node: NodeId,
    pub at: WallMs,
    pub seq: u64,
    pub what: T,
}

/// What the home site decided about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Accepted(Command),
    Refused(Refused),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskRecord {
    facts: BTreeMap<(u32, u32), Written<Fact>>,
    wishes: BTreeMap<EntryId, Written<Request>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    Effective { approvals: Vec<EntryId>, effect: Effect },
    Step(StepFact),
    End(EndFact),
}

// === impl Fold ===

impl Fold {
    /// Joins one entry. Joining it again, or in another order, changes nothing.
    pub fn join(&mut self, entry: &Entry) {
        match &entry.body {
            Body::Command(command) => {
                let task = command.request.id.clone();
                if let Some(effect) = &command.effect {
                    let slot = Slot { task: task.clone(), term: 0, index: 0 };
                    let fact = Fact::Effective { approvals: Vec::new(), effect: effect.clone() };
                    self.join_fact(&slot, written(entry, fact));
                }
                self.join_verdict(&task, written(entry, Verdict::Accepted(command.clone())));
            }
            Body::Refused(refused) => {
                let verdict = written(entry, Verdict::Refused(refused.clone()));
                self.join_verdict(&refused.request.id, verdict);
            }
            Body::Wish(wish) => self.join_wish(written(entry, wish.request.clone())),
            Body::Effective(fact) => {
                let approvals = fact.approvals.clone();
                let effective = Fact::Effective { approvals, effect: fact.effect.clone() };
                self.join_fact(&fact.slot, written(entry, effective));
            }
            Body::Step(fact) => {
                self.join_fact(&fact.slot, written(entry, Fact::Step(fact.clone())))
            }
            Body::End(fact) => self.join_fact(&fact.slot, written(entry, Fact::End(fact.clone()))),
        }
    }

    /// What was decided about a request, if its home site has decided.
    pub fn verdict(&self, request: &EntryId) -> Option<&Written<Verdict>> {
        self.verdicts.get(request)
    }

    pub fn verdicts(&self) -> impl Iterator<Item = &Written<Verdict>> {
        self.verdicts.values()
    }

    /// The accepted command that opened a task.
    pub fn command(&self, task: &EntryId) -> Option<(&Written<Verdict>, &Command)> {
        let written = self.verdicts.get(task)?;
        match &written.what {
            Verdict::Accepted(command) => Some((written, command)),
            Verdict::Refused(_) => None,
        }
    }

    /// All accepted commands, by task id.
    pub fn commands(&self) -> impl Iterator<Item = (&EntryId, &Written<Verdict>, &Command)> {
        self.verdicts.iter().filter_map(|(id, written)| match &written.what {
            Verdict::Accepted(command) => Some((id, written, command)),
            Verdict::Refused(_) => None,
        })
    }

    pub fn task(&self, task: &EntryId) -> Option<&TaskRecord> {
        self.tasks.get(task)
    }

    /// The wish with this request id, whichever task it is about.
    pub fn wish(&self, request: &EntryId) -> Option<&Written<Request>> {
        self.tasks.values().find_map(|t| t.wishes.get(request))
    }

    /// The same without one task: what its command is judged on when it is to take effect.
    pub fn without(&self, task: &EntryId) -> Self {
        let mut rest = self.clone();
        rest.verdicts.remove(task);
        rest.tasks.remove(task);
        rest
    }

    fn join_verdict(&mut self, request: &EntryId, verdict: Written<Verdict>) {
        keep_least(&mut self.verdicts, request.clone(), verdict);
    }

    fn join_fact(&mut self, slot: &Slot, fact: Written<Fact>) {
        let record = self.tasks.entry(slot.task.clone()).or_default();
        keep_least(&mut record.facts, (slot.term, slot.index), fact);
    }

    fn join_wish(&mut self, wish: Written<Request>) {
        if let super::entry::Ask::Wish { task, .. } = &wish.what.ask {
            let record = self.tasks.entry(task.clone()).or_default();
            keep_least(&mut record.wishes, wish.what.id.clone(), wish);
        }
    }
}

fn written<T>(entry: &Entry, what: T) -> Written<T> {
    Written {
        entry: entry.id.clone(),
        site: entry.site.clone(),
        node: entry.node.clone(),
        at: entry.at,
        seq: entry.position.seq,
        what,
    }
}

/// Of two entries for one key the earlier of a log stays, across logs the lower id: a total order,
/// so any order of joining gives the same.
fn keep_least<K: Ord, T>(map: &mut BTreeMap<K, Written<T>>, key: K, new: Written<T>) {
    let rank = |w: &Written<T>| (w.site.clone(), w.seq, w.entry.clone());
    match map.get(&key) {
        Some(old) if rank(old) <= rank(&new) => {}
        Some(_) | None => drop(map.insert(key, new)),
    }
}

// === impl TaskRecord ===

impl TaskRecord {
    /// The facts of the first term in order of their index, up to the first gap.
    pub fn facts(&self) -> impl Iterator<Item = &Written<Fact>> {
        (0u32..).map_while(|index| self.facts.get(&(0, index)))
    }

    pub fn wishes(&self) -> impl Iterator<Item = &Written<Request>> {
        self.wishes.values()
    }

    /// The effect, once the task is effective.
    pub fn effect(&self) -> Option<&Written<Fact>> {
        self.facts.get(&(0, 0)).filter(|w| matches!(w.what, Fact::Effective { .. }))
    }
}
