//! Split decisions: two people decided about one thing without knowing of each other.
//!
//! Every effect names the command that it follows. From the winner of a subject these names lead
//! back through everything that its author knew; what they do not lead to was decided behind his
//! back, and is the loser of a split decision. The verdict is a function of the set of entries: all
//! agents that have read the same say the same, in whatever order they read it. A `resolve` names
//! the losers, so that behind it nothing is missed any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use super::effect::{Change, Effect, Subject, Write};
use super::entry::{Ask, Object, Person};
use super::fold::Fold;
use super::intent::Order;
use super::lineage::{Lineage, ancestors};
use crate::id::{EntryId, Epoch, IdError, ServiceId, WallMs};

/// What can be decided about twice. A service is one thing, whether a command named it or moved it
/// by draining a site.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contested {
    Service(ServiceId),
    Drained(Object),
    Held(ServiceId),
    /// A public key.
    Revoked(String),
}

/// A split decision, with everybody who took part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub subject: Contested,
    pub winner: Claim,
    /// Latest first.
    pub losers: Vec<Claim>,
}

/// One effective command on one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub lineage: Lineage,
    pub person: Person,
    pub reason: String,
    /// The entry that accepted the command, with the envelope that its author signed.
    pub accepted: EntryId,
    /// The entry by which it took effect.
    pub effective: EntryId,
    pub at: WallMs,
    pub verb: &'static str,
    /// What the command wanted of the subject, in words.
    pub wanted: String,
}

/// Every effective command, by what it is about.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    by_subject: BTreeMap<Contested, Vec<Claim>>,
    /// Who stands below has lost to somebody who knew of it.
    floors: BTreeMap<Contested, Order>,
}

impl Claims {
    pub fn of(fold: &Fold) -> Self {
        let floors = fold.checkpoint().floors.clone();
        let mut all = Self { floors, ..Self::default() };
        fold.commands().for_each(|(task, ..)| all.update(fold, task));
        all
    }

    /// Takes in what a task does, after something was added to what is known of it.
    pub fn update(&mut self, fold: &Fold, task: &EntryId) {
        for (subject, claim) in claims(fold, task) {
            let of_subject = self.by_subject.entry(subject).or_default();
            match of_subject.binary_search_by(|old| claim.order().cmp(old.order())) {
                Ok(known) => of_subject[known] = claim,
                Err(place) => of_subject.insert(place, claim),
            }
        }
    }

    /// All split decisions that nobody has resolved, by subject.
    pub fn conflicts(&self) -> Vec<Conflict> {
        self.by_subject.keys().filter_map(|subject| self.conflict(subject)).collect()
    }

    pub fn conflict(&self, subject: &Contested) -> Option<Conflict> {
        contest(subject, self.by_subject.get(subject)?, self.floors.get(subject))
    }

    /// The winner of every subject where everything before it was known to its author, and its task
    /// is done.
    pub fn settled(
        &self,
        done: impl Fn(&EntryId) -> bool,
    ) -> impl Iterator<Item = (Contested, Order)> {
        self.by_subject.iter().filter_map(move |(subject, claims)| {
            let winner = claims.first()?.order();
            let settled = done(&winner.task) && self.conflict(subject).is_none();
            settled.then(|| (subject.clone(), winner.clone()))
        })
    }

    /// The tasks that have a claim at or above one of these places, or where there is none.
    pub fn standing<'a>(
        &'a self,
        floors: &'a BTreeMap<Contested, Order>,
    ) -> impl Iterator<Item = &'a EntryId> {
        self.by_subject.iter().flat_map(move |(subject, claims)| {
            let floor = floors.get(subject);
            let orders = claims.iter().map(Claim::order);
            let stands = move |order: &&Order| floor.is_none_or(|floor| *order >= floor);
            orders.filter(stands).map(|order| &order.task)
        })
    }

    /// The command that a new one on this subject follows.
    pub fn prev(&self, subject: &Contested) -> Option<EntryId> {
        let winner = self.by_subject.get(subject)?.first()?;
        Some(winner.order().task.clone())
    }
}

/// Of claims with the winner first.
fn contest(subject: &Contested, claims: &[Claim], floor: Option<&Order>) -> Option<Conflict> {
    let (winner, rest) = claims.split_first()?;
    if rest.is_empty() {
        return None;
    }
    let known = ancestors(&winner.lineage, rest.iter().map(|claim| &claim.lineage));
    let missed = |claim: &&Claim| {
        !known.contains(&claim.lineage.name()) && floor.is_none_or(|floor| claim.order() > floor)
    };
    let losers: Vec<Claim> = rest.iter().filter(missed).cloned().collect();
    let (subject, winner) = (subject.clone(), winner.clone());
    (!losers.is_empty()).then_some(Conflict { subject, winner, losers })
}

fn claims(fold: &Fold, task: &EntryId) -> Vec<(Contested, Claim)> {
    let Some((accepted, command)) = fold.command(task) else { return Vec::new() };
    let mut claims = Vec::new();
    for (fact, effect) in fold.effects(task) {
        let claim = |epoch: Epoch, prev: &Option<EntryId>, wanted: String| Claim {
            lineage: Lineage {
                order: Order {
                    epoch,
                    rank: effect.rank,
                    site: fact.site.clone(),
                    task: task.clone(),
                },
                prev: prev.clone(),
                settles: BTreeSet::new(),
            },
            person: command.request.person.clone(),
            reason: command.request.reason.clone(),
            accepted: accepted.entry.clone(),
            effective: fact.entry.clone(),
            at: fact.at,
            verb: match &command.request.ask {
                Ask::Command { verb, .. } => verb.name(),
                Ask::Wish { kind, .. } => kind.name(),
            },
            wanted,
        };
        let mut by_subject: BTreeMap<Contested, Claim> = BTreeMap::new();
        for one in &effect.moves {
            let wanted = format!("{} to {}", one.from.spread, one.to.spread);
            let claim = claim(one.epoch, &one.prev, wanted);
            by_subject.insert(Contested::Service(one.service.clone()), claim);
        }
        // Two who revoke the same key agree.
        let agreed = |write: &&Write| matches!(write.change, Change::Revoked(..));
        for write in effect.writes.iter().filter(|write| !agreed(write)) {
            let subject = Contested::of(&write.change.subject());
            let wanted = wanted(&write.change, effect);
            let mut claim = claim(write.epoch, &write.prev, wanted);
            claim.lineage.settles.clone_from(&write.settles);
            by_subject.insert(subject, claim);
        }
        claims.extend(by_subject);
    }
    claims
}

fn wanted(change: &Change, effect: &Effect) -> String {
    match change {
        Change::Service(service, directive) => {
            let moved = effect.moves.iter().find(|m| m.service == *service);
            match moved {
                Some(one) => format!("{} to {}", one.from.spread, one.to.spread),
                None => directive.to_string(),
            }
        }
        Change::Drained(_, true) => "drained".to_owned(),
        Change::Drained(_, false) => "not drained".to_owned(),
        Change::Held(_, true) => "held".to_owned(),
        Change::Held(_, false) => "not held".to_owned(),
        Change::Revoked(_, true) => "revoked".to_owned(),
        Change::Revoked(_, false) => "not revoked".to_owned(),
    }
}

// === impl Claim ===

impl Claim {
    pub fn order(&self) -> &Order {
        &self.lineage.order
    }
}

// === impl Conflict ===

impl Conflict {
    /// By what the winner won over a loser.
    pub fn why(&self, loser: &Claim) -> String {
        let (won, lost) = (self.winner.order(), loser.order());
        if won.epoch > lost.epoch {
            return format!(
                "epoch {} is above {}, and was given without knowing of it",
                won.epoch, lost.epoch
            );
        }
        let by = match () {
            () if won.rank != lost.rank => format!("rank {} is before {}", won.rank, lost.rank),
            () if won.site != lost.site => format!("site {} is before {}", won.site, lost.site),
            () => format!("task {} is before {}", won.task, lost.task),
        };
        format!("both have epoch {}; {by}", won.epoch)
    }
}

// === impl Contested ===

impl Contested {
    pub fn of(subject: &Subject) -> Self {
        match subject {
            Subject::Service(service) => Self::Service(service.clone()),
            Subject::Drained(object) => Self::Drained(object.clone()),
            Subject::Held(service) => Self::Held(service.clone()),
            Subject::Revoked(key) => Self::Revoked(key.clone()),
        }
    }

    /// The register of that name.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Service(service) => Subject::Service(service.clone()),
            Self::Drained(object) => Subject::Drained(object.clone()),
            Self::Held(service) => Subject::Held(service.clone()),
            Self::Revoked(key) => Subject::Revoked(key.clone()),
        }
    }
}

/// `shop/prod/api`, `drained:osl`, `drained:shop/prod/api@osl`, `drained:node/osl-b1`,
/// `drained:link/osl-svg-1`, `drained:cluster/osl/k1`, `held:shop/prod/api`, `revoked:UA...`.
impl fmt::Display for Contested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => f.pad(service.as_str()),
            Self::Drained(Object::Site(site)) => f.pad(&format!("drained:{site}")),
            Self::Drained(Object::ServiceAt(service, site)) => {
                f.pad(&format!("drained:{service}@{site}"))
            }
            Self::Drained(Object::Node(node)) => f.pad(&format!("drained:node/{node}")),
            Self::Drained(Object::Link(link)) => f.pad(&format!("drained:link/{link}")),
            Self::Drained(Object::Cluster(one)) => f.pad(&format!("drained:cluster/{one}")),
            Self::Held(service) => f.pad(&format!("held:{service}")),
            Self::Revoked(key) => f.pad(&format!("revoked:{key}")),
        }
    }
}

impl FromStr for Contested {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if let Some(rest) = text.strip_prefix("drained:") {
            if let Some((service, site)) = rest.split_once('@') {
                return Ok(Self::Drained(Object::ServiceAt(service.parse()?, site.parse()?)));
            }
            return Ok(Self::Drained(match rest.split_once('/') {
                Some(("node", node)) => Object::Node(node.parse()?),
                Some(("link", link)) => Object::Link(link.parse()?),
                Some(("cluster", cluster)) => Object::Cluster(cluster.parse()?),
                Some(_) | None => Object::Site(rest.parse()?),
            }));
        }
        if let Some(key) = text.strip_prefix("revoked:") {
            return Ok(Self::Revoked(key.to_owned()));
        }
        match text.strip_prefix("held:") {
            Some(service) => Ok(Self::Held(service.parse()?)),
            None => Ok(Self::Service(text.parse()?)),
        }
    }
}
