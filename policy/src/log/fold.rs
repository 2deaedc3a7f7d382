//! The fold: a join over the set of entries, keyed by entry id.
//!
//! Joining is commutative, associative and idempotent by construction: every part of the state is
//! a map whose per-key choice is the least element of a total order, or a set that only grows. What
//! the state *means* is a reading of it ([`super::intent`], [`crate::task::view`]), never part of
//! the join. The fold has no clock: whether a command was in time was decided once, by the agent
//! that accepted it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::checkpoint::{Checkpoint, Spent};
use super::entry::{
    AdoptFact, Ask, Body, Command, Effect, EndFact, Entry, FabricRef, Refused, Request, Slot,
    StepFact, StepState, TurnFact,
};
use crate::id::{EntryId, NodeId, SiteId, WallMs};

/// Everything known from the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fold {
    /// Requests that were accepted or refused, by the signed request's id.
    verdicts: BTreeMap<EntryId, Written<Verdict>>,
    /// Facts and wishes, by task.
    tasks: BTreeMap<EntryId, TaskRecord>,
    /// The commands that end a task by being accepted.
    superseded: BTreeMap<EntryId, BTreeSet<EntryId>>,
    /// What was read and is not looked at again: of these entries only what is here counts.
    checkpoint: Checkpoint,
}

/// Something an entry said, with who wrote it and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written<T> {
    pub entry: EntryId,
    pub site: SiteId,
    pub node: NodeId,
    pub at: WallMs,
    pub seq: u64,
    pub fabric: FabricRef,
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
    /// By term, the site that wrote it, and index.
    facts: BTreeMap<(u32, SiteId, u32), Written<Fact>>,
    /// By the term that begins; of several the first counts: that of the best site.
    adopts: BTreeMap<(u32, u32, SiteId, EntryId), Written<AdoptFact>>,
    wishes: BTreeMap<EntryId, Written<Request>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    Effective { approvals: Vec<EntryId>, effect: Arc<Effect> },
    Step(StepFact),
    Turn(TurnFact),
    End(EndFact),
}

// === impl Fold ===

impl Fold {
    /// Joins one entry. Joining it again, or in another order, changes nothing.
    ///
    /// True when it only added something; false when it took the place of what was there, or may
    /// have made other entries void: then what was read of the fold before has to be read anew.
    pub fn join(&mut self, entry: &Entry) -> bool {
        if self.covers(&entry.site, entry.position.seq) {
            return true;
        }
        match &entry.body {
            Body::Command(command) => {
                let task = command.request.id.clone();
                if let Some(effect) = &command.effect {
                    let slot = Slot { task: task.clone(), term: 0, index: 0 };
                    let fact = Fact::Effective { approvals: Vec::new(), effect: effect.clone() };
                    let added = self.join_fact(&slot, written(entry, fact));
                    let verdict = written(entry, Verdict::Accepted(command.clone()));
                    return self.join_verdict(&task, verdict) && added;
                }
                self.join_verdict(&task, written(entry, Verdict::Accepted(command.clone())))
            }
            Body::Refused(refused) => {
                let verdict = written(entry, Verdict::Refused(refused.clone()));
                self.join_verdict(&refused.request.id, verdict)
            }
            Body::Wish(wish) => self.join_wish(written(entry, wish.request.clone())),
            Body::Effective(fact) => {
                let approvals = fact.approvals.clone();
                let effective = Fact::Effective { approvals, effect: fact.effect.clone() };
                self.join_fact(&fact.slot, written(entry, effective))
            }
            Body::Step(fact) => {
                self.join_fact(&fact.slot, written(entry, Fact::Step(fact.clone())))
            }
            Body::Turn(fact) => {
                self.join_fact(&fact.slot, written(entry, Fact::Turn(fact.clone())))
            }
            Body::End(fact) => self.join_fact(&fact.slot, written(entry, Fact::End(fact.clone()))),
            Body::Adopt(fact) => self.join_adopt(written(entry, fact.clone())),
            // About a node, not a task: `lease::confirm` joins these.
            Body::Withdrawn(_) => true,
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

    /// What a task that was accepted does, first and later.
    pub fn effects(&self, task: &EntryId) -> impl Iterator<Item = (&Written<Fact>, &Arc<Effect>)> {
        self.tasks.get(task).into_iter().flat_map(|record| record.effects(task))
    }

    /// The first command that was accepted in place of a task.
    pub fn superseded_by(&self, task: &EntryId) -> Option<&EntryId> {
        self.superseded.get(task)?.first()
    }

    /// The site that writes the task's next fact.
    pub fn home(&self, task: &EntryId) -> SiteId {
        let last = self.tasks.get(task).and_then(|record| record.adopts().last());
        last.map_or_else(|| task.site(), |adopt| adopt.site.clone())
    }

    /// The wish or adoption with this request id, whichever task it is about.
    pub fn wish(&self, request: &Request) -> Option<&EntryId> {
        let Ask::Wish { task, .. } = &request.ask else { return None };
        let record = self.tasks.get(task)?;
        let adopted = |adopt: &&Written<AdoptFact>| adopt.what.request.id == request.id;
        let wish = record.wishes.get(&request.id).map(|wish| &wish.entry);
        wish.or_else(|| record.adopts.values().find(adopted).map(|adopt| &adopt.entry))
    }

    /// True when a checkpoint has read this place of a log.
    pub fn covers(&self, site: &SiteId, seq: u64) -> bool {
        self.checkpoint.covers.get(site).is_some_and(|covered| seq <= *covered)
    }

    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// True when anything is known of the task.
    pub fn knows(&self, task: &EntryId) -> bool {
        self.verdicts.contains_key(task) || self.tasks.contains_key(task)
    }

    /// Takes a checkpoint for what it is, once all that it kept was joined.
    pub fn cover(&mut self, checkpoint: &Checkpoint) {
        self.checkpoint.take(checkpoint);
    }

    /// Forgets these tasks, and takes the checkpoint that covers all that is known of them.
    pub fn forget(&mut self, spent: &Spent) {
        self.verdicts.retain(|task, _| !spent.tasks.contains(task));
        self.tasks.retain(|task, _| !spent.tasks.contains(task));
        self.cover(&spent.checkpoint);
        self.drop_superseded();
    }

    /// Joins everything another fold knows, and forgets what it has forgotten. Folds of any entries
    /// and checkpoints, in any order and however often, come to the same.
    pub fn merge(&mut self, other: &Self) {
        let Self { verdicts, tasks, superseded, checkpoint } = other;
        let (mine, theirs) = (self.checkpoint.clone(), checkpoint);
        merge_maps(&mut self.verdicts, verdicts, (&mine, theirs), keep_least);
        let known: BTreeSet<EntryId> = self.tasks.keys().chain(tasks.keys()).cloned().collect();
        let nothing = TaskRecord::default();
        for task in known {
            let record = self.tasks.entry(task.clone()).or_default();
            record.merge(tasks.get(&task).unwrap_or(&nothing), (&mine, theirs));
        }
        self.tasks.retain(|_, record| *record != nothing);
        for (task, by) in superseded {
            self.superseded.entry(task.clone()).or_default().extend(by.iter().cloned());
        }
        self.checkpoint.take(checkpoint);
        self.drop_superseded();
    }

    /// Keeps of "ended by" what accepted commands say.
    fn drop_superseded(&mut self) {
        let verdicts = &self.verdicts;
        self.superseded.retain(|_, by| {
            by.retain(|request| verdicts.contains_key(request));
            !by.is_empty()
        });
    }

    /// The same without one task: what its command is judged on when it is to take effect.
    pub fn without(&self, task: &EntryId) -> Self {
        let mut rest = self.clone();
        rest.verdicts.remove(task);
        rest.tasks.remove(task);
        for by in rest.superseded.values_mut() {
            by.remove(task);
        }
        rest
    }

    /// Only a request's own site decides about it: what another site says is in its log, and void.
    fn join_verdict(&mut self, request: &EntryId, verdict: Written<Verdict>) -> bool {
        if verdict.site != request.site() {
            return true;
        }
        if let Verdict::Accepted(command) = &verdict.what {
            for older in &command.supersedes {
                self.superseded.entry(older.clone()).or_default().insert(request.clone());
            }
        }
        keep_least(&mut self.verdicts, request.clone(), verdict)
    }

    /// Facts are kept by the site that wrote them. Which of them count depends on who adopted the
    /// task, and that may be read later: see [`TaskRecord::facts`].
    fn join_fact(&mut self, slot: &Slot, fact: Written<Fact>) -> bool {
        let record = self.tasks.entry(slot.task.clone()).or_default();
        let key = (slot.term, fact.site.clone(), slot.index);
        let kept = keep_least(&mut record.facts, key, fact);
        // With an adoption, what its site does may take others out of force.
        kept && record.adopts.is_empty()
    }

    fn join_wish(&mut self, wish: Written<Request>) -> bool {
        let Ask::Wish { task, .. } = &wish.what.ask else { return true };
        let record = self.tasks.entry(task.clone()).or_default();
        keep_least(&mut record.wishes, wish.what.id.clone(), wish)
    }

    fn join_adopt(&mut self, adopt: Written<AdoptFact>) -> bool {
        let slot = &adopt.what.slot;
        if slot.term == 0 {
            return true;
        }
        let record = self.tasks.entry(slot.task.clone()).or_default();
        let key = (slot.term, adopt.what.rank, adopt.site.clone(), adopt.entry.clone());
        // It may void what was read.
        record.adopts.insert(key, adopt);
        false
    }
}

fn written<T>(entry: &Entry, what: T) -> Written<T> {
    Written {
        entry: entry.id.clone(),
        site: entry.site.clone(),
        node: entry.node.clone(),
        at: entry.at,
        seq: entry.position.seq,
        fabric: entry.fabric.clone(),
        what,
    }
}

impl<T> Written<T> {
    /// Who wrote it and when, alone.
    pub fn without_what(&self) -> Written<()> {
        let Self { entry, site, node, at, seq, fabric, what: _ } = self;
        Written {
            entry: entry.clone(),
            site: site.clone(),
            node: node.clone(),
            at: *at,
            seq: *seq,
            fabric: fabric.clone(),
            what: (),
        }
    }
}

/// Brings two maps together: what one of them has read and does not have, it has forgotten.
fn merge_maps<K: Ord + Clone, T: Clone>(
    map: &mut BTreeMap<K, Written<T>>,
    other: &BTreeMap<K, Written<T>>,
    (mine, theirs): (&Checkpoint, &Checkpoint),
    mut put: impl FnMut(&mut BTreeMap<K, Written<T>>, K, Written<T>) -> bool,
) {
    let has = |map: &BTreeMap<K, Written<T>>, key: &K, one: &Written<T>| {
        map.get(key).is_some_and(|held| held.entry == one.entry)
    };
    let old = map.clone();
    map.retain(|key, one| !theirs.has_read(one) || has(other, key, one));
    for (key, one) in other {
        if !mine.has_read(one) || has(&old, key, one) {
            put(map, key.clone(), one.clone());
        }
    }
}

/// Of two entries for one key the earlier of a log stays, across logs the lower id: a total order,
/// so any order of joining gives the same.
/// False when something else was there before.
fn keep_least<K: Ord, T>(map: &mut BTreeMap<K, Written<T>>, key: K, new: Written<T>) -> bool {
    let rank = |w: &Written<T>| (w.site.clone(), w.seq, w.entry.clone());
    match map.get(&key) {
        Some(old) if rank(old) <= rank(&new) => true,
        Some(_) | None => map.insert(key, new).is_none(),
    }
}

// === impl Verdict ===

impl Verdict {
    pub fn request(&self) -> &Request {
        match self {
            Self::Accepted(command) => &command.request,
            Self::Refused(refused) => &refused.request,
        }
    }
}

// === impl TaskRecord ===

impl TaskRecord {
    fn merge(&mut self, other: &Self, read: (&Checkpoint, &Checkpoint)) {
        let Self { facts, adopts, wishes } = other;
        merge_maps(&mut self.facts, facts, read, keep_least);
        merge_maps(&mut self.adopts, adopts, read, keep_least);
        merge_maps(&mut self.wishes, wishes, read, keep_least);
    }

    /// Everything that was written about the task, whether it counts or not.
    pub fn all_facts(&self) -> impl Iterator<Item = &Written<Fact>> {
        self.facts.values()
    }

    /// The facts that count, with their slots: those of the first home from index 0 without gaps,
    /// at most to where an adoption begins, then those of the adopter, and so on.
    pub fn facts<'a>(
        &'a self,
        task: &EntryId,
    ) -> impl Iterator<Item = (u32, u32, &'a Written<Fact>)> + use<'a> {
        self.along(task, self.adopts().collect())
    }

    /// The facts that traffic goes by: those that count, but an adoption takes nothing back before
    /// its site has started a step, or ended the task. Who adopts has not read all that was started
    /// before, and somebody has acted on it: it stays until there is something to put in its place.
    pub fn facts_in_force<'a>(
        &'a self,
        task: &EntryId,
    ) -> impl Iterator<Item = (u32, u32, &'a Written<Fact>)> + use<'a> {
        let decides = |fact: &Fact| match fact {
            Fact::Effective { .. } | Fact::End(_) => true,
            Fact::Step(step) => matches!(step.state, StepState::Started { .. }),
            Fact::Turn(_) => false,
        };
        let mut adopts: Vec<_> = self.adopts().collect();
        if !adopts.is_empty() {
            let deciding = self.facts(task).filter(|(_, _, fact)| decides(&fact.what));
            let last = deciding.last().map_or(0, |(term, ..)| term);
            adopts.retain(|adopt| adopt.what.slot.term <= last);
        }
        self.along(task, adopts)
    }

    /// What counted, or would have counted, before each adoption was read, and with each that lost
    /// to another: all that anybody may have acted on.
    pub fn facts_at_any_time<'a>(
        &'a self,
        task: &EntryId,
    ) -> Vec<Vec<(u32, u32, &'a Written<Fact>)>> {
        /// More than these are not told apart: a task is adopted once, or seldom twice.
        const MOST: usize = 256;
        let mut ways: Vec<Vec<&Written<AdoptFact>>> = vec![Vec::new()];
        // In order of their terms; an adoption follows one of the term before it.
        for adopt in self.all_adopts() {
            let before = adopt.what.slot.term - 1;
            let follows = |way: &&Vec<&Written<AdoptFact>>| {
                way.last().map_or(0, |last| last.what.slot.term) == before
            };
            let longer = ways.iter().filter(follows).map(|way| [&way[..], &[adopt]].concat());
            let longer: Vec<_> = longer.take(MOST.saturating_sub(ways.len())).collect();
            ways.extend(longer);
        }
        ways.into_iter().map(|adopts| self.along(task, adopts).collect()).collect()
    }

    /// The facts that count when these adoptions do, in order of their terms.
    fn along<'a>(
        &'a self,
        task: &EntryId,
        adopts: Vec<&'a Written<AdoptFact>>,
    ) -> impl Iterator<Item = (u32, u32, &'a Written<Fact>)> + use<'a> {
        let mut home = task.site();
        let (mut term, mut index) = (0u32, 0u32);
        let mut adopts = adopts.into_iter().peekable();
        std::iter::from_fn(move || {
            let begins = |a: &&Written<AdoptFact>, term: u32| {
                a.what.slot.term == term + 1 && a.what.slot.index <= index
            };
            while let Some(adopt) = adopts.next_if(|a| begins(a, term)) {
                term += 1;
                home = adopt.site.clone();
            }
            let fact = self.facts.get(&(term, home.clone(), index))?;
            index += 1;
            Some((term, index - 1, fact))
        })
    }

    /// What the task does, in the order in which it came to: the command's effect, and the undo of
    /// one that nobody confirmed.
    pub fn effects<'a>(
        &'a self,
        task: &EntryId,
    ) -> impl Iterator<Item = (&'a Written<Fact>, &'a Arc<Effect>)> + use<'a> {
        let open = |(_, _, fact): &(u32, u32, &Written<Fact>)| !matches!(fact.what, Fact::End(_));
        self.facts(task).take_while(open).filter_map(|(_, _, fact)| match &fact.what {
            Fact::Effective { effect, .. } => Some((fact, effect)),
            Fact::Step(_) | Fact::Turn(_) | Fact::End(_) => None,
        })
    }

    /// The adoptions that count, in order of their terms.
    pub fn adopts(&self) -> impl Iterator<Item = &Written<AdoptFact>> {
        let mut last = 0;
        self.adopts.iter().filter_map(move |((term, ..), adopt)| {
            (std::mem::replace(&mut last, *term) != *term).then_some(adopt)
        })
    }

    /// All adoptions, whether they count or not.
    pub fn all_adopts(&self) -> impl Iterator<Item = &Written<AdoptFact>> {
        self.adopts.values()
    }

    pub fn wishes(&self) -> impl Iterator<Item = &Written<Request>> {
        self.wishes.values()
    }
}
