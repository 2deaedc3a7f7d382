//! What the log wants now: a reading of the fold.
//!
//! Per subject a register holds the winning effective change: highest epoch, then lowest rank, then
//! lowest site, then lowest entry id. Per service the winning move tells how far its handover has
//! come; once that task is done the placement is computed from the registers alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::conflict::Contested;
use super::entry::{
    Ask, Change, Directive, Effect, Object, Outcome, Step, StepKind, StepState, Subject, Verb,
};
use super::fold::{Fact, Fold, TaskRecord, Written};
use super::lineage::{Lineage, ancestors};
use crate::fabric::Fabric;
use crate::id::{EntryId, Epoch, ServiceId, SiteId};
use crate::place::Drained;
use crate::service::{Catalog, Handover, Service};
use crate::task::reroutes::is_easing;
use crate::task::steps::{kept, traffic_at};
use crate::traffic::{Spread, Traffic};

/// The two things every reading needs beside the log.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    pub fabric: &'a Fabric,
    pub catalog: &'a Catalog,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Intent {
    registers: BTreeMap<Subject, Held>,
    movers: BTreeMap<ServiceId, Mover>,
    /// Everything that was decided about a service that breaks before it makes, the least first,
    /// in whatever order it was read; the winner is one of them.
    decided: BTreeMap<ServiceId, Arc<Vec<Decided>>>,
    /// Per service the highest epoch that any task, winner or not, has brought into its answers.
    reached: BTreeMap<ServiceId, Epoch>,
    /// What open tasks want that have started nothing yet.
    waiting: BTreeMap<EntryId, Verb>,
    /// What stands below these was known to whoever decides now.
    floors: BTreeMap<ServiceId, Order>,
}

/// The winner of a register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub order: Order,
    pub change: Change,
    /// Of a cluster: the steps that drain it, or end that, have not come to the last one.
    pub easing: bool,
}

/// The winning move of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mover {
    pub order: Order,
    pub progress: Progress,
    /// The state the task has brought the service to; decides until the task is done.
    pub traffic: Traffic,
    pub handover: Handover,
    /// True once a step has started that leaves the service in another state than it was found in.
    pub touched: bool,
    /// Its answers may change soon: the task is open, and lowered their TTL if it does; or it ended
    /// half way.
    pub lowered: bool,
    /// The sites that count what still comes for it: its open task waits until that is gone.
    pub left: BTreeSet<SiteId>,
    /// The sites at which established connections stay, while new ones go where it is now.
    pub kept: BTreeSet<SiteId>,
    /// It ends nowhere. Of what is leased only the undo of a task does.
    pub stops: bool,
}

/// One effect on a service, for those that another effect wins over.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Decided {
    lineage: Lineage,
    /// The sites that deliver the service once the task has come as far as it has; `None` where
    /// the effect moves nothing.
    accept: Option<BTreeSet<SiteId>>,
    /// The task is over and done: everybody has closed by its word.
    done: bool,
}

/// How far a task has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The steps that were started.
    Begun(BTreeSet<u32>),
    /// The task undid itself by a later effect: these were started, and no other will be.
    Undone(BTreeSet<u32>),
    Done,
}

/// Orders the effects on one subject; the greatest wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub epoch: Epoch,
    pub rank: u32,
    pub site: SiteId,
    /// The task whose effect it is.
    pub task: EntryId,
}

// === impl Progress ===

impl Progress {
    pub fn begun(steps: impl IntoIterator<Item = u32>) -> Self {
        Self::Begun(steps.into_iter().collect())
    }

    fn has_begun(&self, step: u32) -> bool {
        match self {
            Self::Begun(begun) | Self::Undone(begun) => begun.contains(&step),
            Self::Done => true,
        }
    }

    /// True when nothing more comes of it.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Begun(_) => false,
            Self::Undone(_) | Self::Done => true,
        }
    }

    fn undo(&mut self) {
        if let Self::Begun(begun) = self {
            *self = Self::Undone(std::mem::take(begun));
        }
    }

    /// The steps that count, of those in order.
    pub fn of<'a>(&self, steps: &'a [Step]) -> impl Iterator<Item = &'a Step> {
        steps.iter().filter(|step| self.has_begun(step.number))
    }
}

// === impl Order ===

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Order {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        fn low(o: &Order) -> (u32, &SiteId, &EntryId) {
            (o.rank, &o.site, &o.task)
        }
        self.epoch.cmp(&other.epoch).then_with(|| low(other).cmp(&low(self)))
    }
}

// === impl Intent ===

impl Intent {
    pub fn read(fold: &Fold) -> Self {
        let floors = fold.checkpoint().floors.iter().filter_map(|(subject, order)| {
            let Contested::Service(service) = subject else { return None };
            Some((service.clone(), order.clone()))
        });
        let mut intent = Self { floors: floors.collect(), ..Self::default() };
        fold.commands().for_each(|(task, ..)| intent.update(fold, task));
        intent
    }

    /// Takes in how far one task has come, after something was added to what is known of it.
    pub fn update(&mut self, fold: &Fold, task: &EntryId) {
        let Some((_, command)) = fold.command(task) else { return };
        // A task of which only the command is known has no record yet.
        let record = fold.task(task);
        let facts = || record.into_iter().flat_map(|r| r.facts_in_force(task));
        let over = facts().any(|(_, _, fact)| matches!(fact.what, Fact::End(_)));
        let mut begun = false;
        for (fact, effect, progress) in doings(facts()) {
            begun |= progress.of(&effect.steps).next().is_some();
            self.apply(&Doing { task, site: &fact.site, effect, progress, over });
        }
        if let Some(record) = record.filter(|record| record.all_adopts().next().is_some()) {
            self.remember(record, task);
        }
        match &command.request.ask {
            Ask::Command { verb, .. } if !over && !begun => {
                self.waiting.insert(task.clone(), verb.clone());
            }
            Ask::Command { .. } | Ask::Wish { .. } => drop(self.waiting.remove(task)),
        }
    }

    /// What an adoption has made void was acted on before: the epoch of the answers stays.
    fn remember(&mut self, record: &TaskRecord, task: &EntryId) {
        for facts in record.facts_at_any_time(task) {
            for (_, effect, progress) in doings(facts.into_iter()) {
                for a_move in &effect.moves {
                    let (_, epoch) = traffic_at(&effect.steps, a_move, &progress);
                    self.reach(&a_move.service, epoch);
                }
            }
        }
    }

    fn reach(&mut self, service: &ServiceId, epoch: Epoch) {
        let reached = self.reached.entry(service.clone()).or_default();
        *reached = epoch.max(*reached);
    }

    /// As if no task was waiting: plans are made on it, and stay the same while they wait.
    #[must_use]
    pub fn without_waiting(&self) -> Self {
        Self { waiting: BTreeMap::new(), ..self.clone() }
    }

    /// What is wanted of some services, and of what is no service; without those that wait.
    #[must_use]
    pub(crate) fn only(&self, services: &BTreeSet<&ServiceId>) -> Self {
        let about = |subject: &Subject| match subject {
            Subject::Service(service)
            | Subject::Held(service)
            | Subject::Drained(Object::ServiceAt(service, _)) => services.contains(service),
            Subject::Drained(
                Object::Site(_) | Object::Node(_) | Object::Link(_) | Object::Cluster(_),
            )
            | Subject::Revoked(_) => true,
        };
        let registers = self.registers.iter().filter(|(subject, _)| about(subject));
        let movers = services.iter().filter_map(|id| self.movers.get_key_value(*id));
        let decided = services.iter().filter_map(|id| self.decided.get_key_value(*id));
        let reached = services.iter().filter_map(|id| self.reached.get_key_value(*id));
        let floors = services.iter().filter_map(|id| self.floors.get_key_value(*id));
        Self {
            registers: registers.map(|(subject, held)| (subject.clone(), held.clone())).collect(),
            movers: movers.map(|(id, mover)| (id.clone(), mover.clone())).collect(),
            decided: decided.map(|(id, all)| (id.clone(), all.clone())).collect(),
            reached: reached.map(|(id, epoch)| (id.clone(), *epoch)).collect(),
            waiting: BTreeMap::new(),
            floors: floors.map(|(id, order)| (id.clone(), order.clone())).collect(),
        }
    }

    /// How often something was decided about a service, where each had it and whether it is done:
    /// what rivals can come of.
    pub(crate) fn history(&self, service: &ServiceId) -> Vec<(Option<&BTreeSet<SiteId>>, bool)> {
        let decided = self.decided.get(service).into_iter().flat_map(|all| all.iter());
        decided.map(|one| (one.accept.as_ref(), one.done)).collect()
    }

    /// Lets an effect win what it wins. Also used to ask "what if" for a plan.
    pub fn apply(&mut self, doing: &Doing<'_>) {
        let Effect { rank, writes, moves, steps } = doing.effect;
        let order = |epoch: Epoch| Order {
            epoch,
            rank: *rank,
            site: doing.site.clone(),
            task: doing.task.clone(),
        };
        for write in writes {
            let easing = is_easing(steps, &write.change, &doing.progress, doing.over);
            let held = Held { order: order(write.epoch), change: write.change.clone(), easing };
            match self.registers.get(&write.change.subject()) {
                Some(old) if old.order > held.order => {}
                Some(_) | None => drop(self.registers.insert(write.change.subject(), held)),
            }
            if let Change::Service(service, _) = &write.change {
                let (prev, settles) = (write.prev.clone(), write.settles.clone());
                let lineage = Lineage { order: order(write.epoch), prev, settles };
                self.decide(service, Decided { lineage, accept: None, done: false });
            }
        }
        for a_move in moves {
            let order = order(a_move.epoch);
            let (traffic, epoch) = traffic_at(steps, a_move, &doing.progress);
            let lineage =
                Lineage { order: order.clone(), prev: a_move.prev.clone(), settles: [].into() };
            if a_move.handover == Handover::BreakBeforeMake {
                let accept = Some(traffic.accept.clone());
                let done = doing.progress == Progress::Done;
                self.decide(&a_move.service, Decided { lineage, accept, done });
            }
            self.reach(&a_move.service, epoch);
            if self.movers.get(&a_move.service).is_some_and(|old| old.order > order) {
                continue;
            }
            let progress = doing.progress.clone();
            let states = progress.of(steps).filter_map(|step| step.states.get(&a_move.service));
            let touched = states.into_iter().any(|state| *state != a_move.from);
            let handover = a_move.handover;
            let lowers =
                |s: &&Step| s.kind == StepKind::LowerTtl && s.states.contains_key(&a_move.service);
            let between = traffic != a_move.from && traffic != a_move.to;
            let lowered = match steps.iter().find(lowers) {
                _ if doing.over => progress != Progress::Done && between,
                Some(step) => progress.has_begun(step.number),
                None => true,
            };
            let counts =
                |s: &Step| s.kind == StepKind::Drained && s.states.contains_key(&a_move.service);
            let counted = !doing.over && steps.iter().any(counts);
            let left = if counted { a_move.left() } else { BTreeSet::new() };
            let kept = kept(steps, a_move, &progress, doing.over);
            let mover = Mover {
                order,
                progress,
                traffic,
                handover,
                touched,
                lowered,
                left,
                kept,
                stops: a_move.to.spread == Spread::Nowhere,
            };
            self.movers.insert(a_move.service.clone(), mover);
        }
    }

    fn decide(&mut self, service: &ServiceId, new: Decided) {
        let decided = Arc::make_mut(self.decided.entry(service.clone()).or_default());
        match decided.binary_search_by(|old| old.lineage.order.cmp(&new.lineage.order)) {
            Ok(at) => {
                let old = &mut decided[at];
                old.lineage.settles.extend(new.lineage.settles);
                old.accept = new.accept.or_else(|| old.accept.take());
                old.done |= new.done;
            }
            Err(at) => decided.insert(at, new),
        }
    }

    /// Where those that the winner won over without knowing of them have the service now: each of
    /// them may have closed it everywhere else, and nobody told the winner. Those that lost to a
    /// task before it which is done do not count: by that one's word everybody has closed.
    pub fn rivals(&self, service: &ServiceId) -> Vec<&BTreeSet<SiteId>> {
        let (Some(mover), Some(decided)) = (self.movers.get(service), self.decided.get(service))
        else {
            return Vec::new();
        };
        let of_mover = |d: &&Decided| d.lineage.order == mover.order;
        let Some(winner) = decided.iter().find(of_mover) else { return Vec::new() };
        let older = || decided.iter().filter(|d| d.lineage.order < mover.order);
        let known = ancestors(&winner.lineage, older().map(|d| &d.lineage));
        let done = older().filter(|d| d.done && known.contains(&d.lineage.name()));
        let done = done.map(|d| &d.lineage.order).max();
        let floor = self.floors.get(service);
        let missed = |d: &&Decided| {
            floor.is_none_or(|floor| d.lineage.order > *floor)
                && !known.contains(&d.lineage.name())
                && done.is_none_or(|done| d.lineage.order > *done)
        };
        older().filter(missed).filter_map(|d| d.accept.as_ref()).collect()
    }

    pub fn held(&self, subject: &Subject) -> Option<&Held> {
        self.registers.get(subject)
    }

    /// The tasks because of which a register or a service is where it is.
    pub fn rests_on(&self) -> impl Iterator<Item = &EntryId> {
        let held = self.registers.values().map(|held| &held.order.task);
        held.chain(self.movers.values().map(|mover| &mover.order.task))
    }

    pub fn mover(&self, service: &ServiceId) -> Option<&Mover> {
        self.movers.get(service)
    }

    /// The epoch that the service's answers carry. It never goes back, also when a task that had
    /// brought it forward turns out to be the loser of a split decision, or the step that had is
    /// made void by an adoption.
    pub fn answered_epoch(&self, service: &ServiceId) -> Epoch {
        self.reached.get(service).copied().unwrap_or_default()
    }

    /// Whether the answers of the service are not to be kept for long: a task about it is open.
    pub fn is_lowered(&self, service: &Service) -> bool {
        let mover = self.mover(&service.id);
        mover.is_some_and(|mover| mover.lowered)
            || self.waiting.values().any(|verb| self.concerns(verb, service))
    }

    fn concerns(&self, verb: &Verb, service: &Service) -> bool {
        match verb {
            Verb::Failover { services, .. }
            | Verb::Failback { services }
            | Verb::Steer { services, .. } => services.matches(&service.id),
            Verb::Drain { object } | Verb::Undrain { object } => match object {
                Object::Site(site) => service.sites().contains(site),
                Object::ServiceAt(id, _) => *id == service.id,
                Object::Node(_) | Object::Link(_) | Object::Cluster(_) => false,
            },
            Verb::Evacuate { site, .. } => service.sites().contains(site),
            Verb::Revert { task } => {
                self.mover(&service.id).is_some_and(|mover| mover.order.task == *task)
            }
            Verb::Resolve { subject, .. } => *subject == Contested::Service(service.id.clone()),
            Verb::Hold { .. } | Verb::Release { .. } | Verb::Revoke { .. } => false,
        }
    }

    /// The order of the newest drain that holds the service off a site.
    pub fn drain_order(&self, service: &ServiceId, site: &SiteId) -> Option<&Order> {
        let whole = Object::Site(site.clone());
        let own = Object::ServiceAt(service.clone(), site.clone());
        let drains = [whole, own].map(|object| self.held(&Subject::Drained(object)));
        let holding = |held: &&Held| matches!(held.change, Change::Drained(_, true));
        drains.into_iter().flatten().filter(holding).map(|held| &held.order).max()
    }

    pub fn directive(&self, service: &ServiceId) -> &Directive {
        match self.held(&Subject::Service(service.clone())).map(|h| &h.change) {
            Some(Change::Service(_, directive)) => directive,
            Some(Change::Drained(..) | Change::Held(..) | Change::Revoked(..)) | None => {
                &Directive::Nominal
            }
        }
    }

    pub fn is_drained(&self, object: &Object) -> bool {
        let held = self.held(&Subject::Drained(object.clone()));
        matches!(held.map(|h| &h.change), Some(Change::Drained(_, true)))
    }

    /// Everything that is drained, with the task that did it.
    pub fn drains(&self) -> impl Iterator<Item = (&Object, &EntryId)> {
        self.registers.values().filter_map(|held| match &held.change {
            Change::Drained(object, true) => Some((object, &held.order.task)),
            Change::Drained(_, false)
            | Change::Service(..)
            | Change::Held(..)
            | Change::Revoked(..) => None,
        })
    }

    /// The nodes, links and clusters that are drained.
    pub fn drained_ways(&self) -> Drained {
        let mut drained = Drained::default();
        for held in self.registers.values() {
            if let (Change::Drained(Object::Cluster(cluster), _), true) =
                (&held.change, held.easing)
            {
                drained.easing.insert(cluster.clone());
            }
            match &held.change {
                Change::Drained(Object::Node(node), true) => {
                    drained.nodes.insert(node.clone());
                }
                Change::Drained(Object::Link(link), true) => {
                    drained.links.insert(link.clone());
                }
                Change::Drained(Object::Cluster(cluster), true) => {
                    drained.clusters.insert(cluster.clone());
                }
                Change::Drained(..)
                | Change::Service(..)
                | Change::Held(..)
                | Change::Revoked(..) => {}
            }
        }
        drained
    }

    /// The keys that were revoked, each with the task that did it.
    pub fn revoked(&self) -> impl Iterator<Item = (&str, &EntryId)> {
        // They stand behind all others, and there may be very many of those.
        let keys = self.registers.range(Subject::Revoked(String::new())..);
        keys.filter_map(|(_, held)| match &held.change {
            Change::Revoked(key, true) => Some((key.as_str(), &held.order.task)),
            Change::Revoked(_, false)
            | Change::Service(..)
            | Change::Drained(..)
            | Change::Held(..) => None,
        })
    }

    /// True while no task may touch the service.
    pub fn is_held(&self, service: &ServiceId) -> bool {
        let held = self.held(&Subject::Held(service.clone()));
        matches!(held.map(|h| &h.change), Some(Change::Held(_, true)))
    }

    /// Drained as a site, or for this service only.
    pub fn is_drained_at(&self, service: &ServiceId, site: &SiteId) -> bool {
        self.is_drained(&Object::Site(site.clone()))
            || self.is_drained(&Object::ServiceAt(service.clone(), site.clone()))
    }

    /// The register's present value, as a change that would write it again.
    pub fn value(&self, subject: &Subject) -> Change {
        match (self.held(subject), subject) {
            (Some(held), _) => held.change.clone(),
            (None, Subject::Service(id)) => Change::Service(id.clone(), Directive::Nominal),
            (None, Subject::Drained(object)) => Change::Drained(object.clone(), false),
            (None, Subject::Held(id)) => Change::Held(id.clone(), false),
            (None, Subject::Revoked(key)) => Change::Revoked(key.clone(), false),
        }
    }

    /// The highest epoch of the subject; 0 when it was never written.
    pub fn epoch(&self, subject: &Subject) -> Epoch {
        self.held(subject).map_or(Epoch(0), |h| h.order.epoch)
    }
}

/// What a task does and how far each of it has come. A task that ends well is done with its last
/// effect, which is all of it, or the undo of what came before.
fn doings<'a>(
    facts: impl Iterator<Item = (u32, u32, &'a Written<Fact>)>,
) -> Vec<(&'a Written<Fact>, &'a Effect, Progress)> {
    let mut doings: Vec<(&Written<Fact>, &Effect, Progress)> = Vec::new();
    for (_, _, fact) in facts {
        match &fact.what {
            Fact::Effective { effect, .. } => doings.push((fact, effect, Progress::begun([]))),
            Fact::Step(step) => {
                if let (StepState::Started { .. }, Some((_, _, Progress::Begun(begun)))) =
                    (&step.state, doings.last_mut())
                {
                    begun.insert(step.step);
                }
            }
            Fact::Turn(_) => {}
            Fact::End(end) => {
                if matches!(end.outcome, Outcome::Done | Outcome::Reverted) {
                    let last = doings.pop().map(|(fact, effect, _)| (fact, effect, Progress::Done));
                    doings.iter_mut().for_each(|doing| doing.2.undo());
                    doings.extend(last);
                }
                break;
            }
        }
    }
    doings
}

/// An effect with where it comes from and how far it has come.
#[derive(Debug, Clone)]
pub struct Doing<'a> {
    pub task: &'a EntryId,
    pub site: &'a SiteId,
    pub effect: &'a Effect,
    pub progress: Progress,
    /// The task has ended, as wanted or not.
    pub over: bool,
}
