//! Which claims there are: what the log, and the definitions before it, want served where.
//!
//! A claim is a task's effect on one service, known by the task's id. Before the first of them the
//! definition is a claim of its own, for the primary, below every command: so lease epochs are
//! those of the log plus one. Two files that disagree about the primary make two claims, of which
//! at most one gets a majority.
//!
//! Nothing here permits serving. A claim whose task has not come to the step that serves only
//! forbids it, and so does one whose task was taken back. The log is all there is, so a crash
//! leaves nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::vote::Claim;
use crate::fabric::Fabric;
use crate::id::{EntryId, Epoch, NodeId, ServiceId, SiteId, sha256_hex};
use crate::log::entry::{Ask, Outcome, StepKind, Verb};
use crate::log::fold::Fold;
use crate::log::intent::World;
use crate::service::Service;
use crate::task::view::{first_effect, last_effect, read};
use crate::traffic::Spread;

/// One service's part of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placing {
    /// Of the lease: one more than in the log.
    pub epoch: Epoch,
    pub target: SiteId,
    /// Nodes that an operator says are off: they count as withdrawn.
    pub asserted: BTreeSet<NodeId>,
    /// Sites that an operator says are off with their voters, so that the others are enough; empty
    /// for every claim that needs a majority.
    pub without: BTreeSet<SiteId>,
    /// The task has come to the step that serves, and was not taken back.
    pub open: bool,
    /// The task was taken back, since nobody confirmed it or a step failed: nobody serves under it
    /// any more, and what was served before it does not return. Only another claim serves.
    pub stopped: bool,
    /// In the order in which claims were read.
    place: usize,
}

/// All claims that are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placings {
    by_service: BTreeMap<ServiceId, BTreeMap<EntryId, Placing>>,
    /// The services that have claims which were made without a majority.
    alone: BTreeSet<ServiceId>,
    read: usize,
}

/// The lease epoch of an epoch in the log.
pub fn lease_epoch(log: Epoch) -> Epoch {
    Epoch(log.0 + 1)
}

/// The claim that a service's definition is.
pub fn definition(service: &Service) -> Option<(EntryId, SiteId)> {
    let primary = service.primary()?;
    let hash = sha256_hex(format!("definition {} {primary}", service.id).as_bytes());
    // Hexadecimal digits are digits of a ULID, which begins with one below 8.
    let id = format!("{primary}.0{}", &hash[..25]);
    Some((id.parse().expect("a site and 26 digits are an id"), primary.clone()))
}

/// Every serving node of every candidate site but those that are said to be off, alone or with all
/// of their site.
pub fn candidates(
    fabric: &Fabric,
    service: &Service,
    asserted: &BTreeSet<NodeId>,
    without: &BTreeSet<SiteId>,
) -> BTreeMap<SiteId, BTreeSet<NodeId>> {
    let of = |site: SiteId| {
        let nodes = fabric.serving_nodes(&site).filter(|n| !without.contains(&n.site));
        let nodes = nodes.map(|n| n.id.clone());
        let nodes = nodes.filter(|n| !asserted.contains(n)).collect();
        (site, nodes)
    };
    service.sites().into_iter().map(of).collect()
}

// === impl Placings ===

impl Placings {
    /// Those of the definitions alone.
    pub fn new(world: World<'_>) -> Self {
        let mut placings = Self::default();
        for service in world.catalog.leased() {
            let claims = placings.by_service.entry(service.id.clone()).or_default();
            if let Some((id, target)) = definition(service) {
                let placing = Placing {
                    epoch: lease_epoch(Epoch(0)),
                    target,
                    asserted: BTreeSet::new(),
                    without: BTreeSet::new(),
                    open: true,
                    stopped: false,
                    place: 0,
                };
                claims.insert(id, placing);
            }
        }
        placings
    }

    pub fn of_log(world: World<'_>, fold: &Fold) -> Self {
        let mut placings = Self::new(world);
        for (task, ..) in fold.commands() {
            placings.update(fold, task);
        }
        placings
    }

    /// Takes in how far a task has come; true when a claim is new or has come further.
    pub fn update(&mut self, fold: &Fold, task: &EntryId) -> bool {
        let (Some((_, command)), Some(effect)) = (fold.command(task), first_effect(fold, task))
        else {
            return false;
        };
        let reading = read(fold, task);
        let (asserted, without) = match &command.request.ask {
            Ask::Command { verb: Verb::Failover { .. }, terms, .. } => {
                (terms.asserted.clone(), terms.without.clone())
            }
            Ask::Command { terms, .. } => (terms.asserted.clone(), BTreeSet::new()),
            Ask::Wish { .. } => (BTreeSet::new(), BTreeSet::new()),
        };
        let mut changed = false;
        let undo = last_effect(fold, task).filter(|_| reading.effects > 1);
        for one in &effect.moves {
            let Some(claims) = self.by_service.get_mut(&one.service) else { continue };
            let id = one.service.clone();
            // Taken back while it was not leased yet, it went somewhere.
            let back = undo.and_then(|u| u.moves.iter().find(|m| m.service == one.service));
            let back = back.filter(|m| m.to.spread != Spread::Nowhere);
            let (effect, one) = match (undo, back) {
                (Some(undo), Some(back)) => (undo, back),
                _ => (effect, one),
            };
            let Some(target) = one.to.spread.sites().into_iter().next() else { continue };
            let serves = effect.steps.iter().any(|step| {
                let kind = matches!(step.kind, StepKind::Activate | StepKind::Shift);
                kind && step.states.contains_key(&one.service) && step.number <= reading.started
            });
            let ended = [Outcome::Done, Outcome::Reverted].map(Some).contains(&reading.end);
            let stopped = reading.is_taken_back() && back.is_none();
            let open = !stopped && (serves || ended);
            let asserted = asserted.union(&reading.asserted).cloned().collect();
            let place = claims.get(task).map_or(self.read + 1, |known| known.place);
            self.read = self.read.max(place);
            let epoch = lease_epoch(one.epoch);
            // What somebody said was about where the task was to bring it, not about its undo.
            let without = if back.is_none() { without.clone() } else { BTreeSet::new() };
            let placing = Placing { epoch, target, asserted, without, open, stopped, place };
            let old = claims.insert(task.clone(), placing.clone());
            changed |= old.as_ref() != Some(&placing);
            match claims.values().any(|claim| !claim.without.is_empty()) {
                true => drop(self.alone.insert(id)),
                false => drop(self.alone.remove(&id)),
            }
        }
        changed
    }

    /// The services whose claims are known, which are all that are leased.
    pub fn services(&self) -> impl Iterator<Item = &ServiceId> {
        self.by_service.keys()
    }

    pub fn get(&self, service: &ServiceId, claim: &EntryId) -> Option<&Placing> {
        self.by_service.get(service)?.get(claim)
    }

    pub fn of(&self, service: &ServiceId) -> impl Iterator<Item = (&EntryId, &Placing)> {
        self.by_service.get(service).into_iter().flatten()
    }

    /// Those of a service's claims that were made without a majority.
    pub fn alone(&self, service: &ServiceId) -> impl Iterator<Item = (&EntryId, &Placing)> {
        let claims = self.alone.get(service).into_iter().flat_map(|service| self.of(service));
        claims.filter(|(_, placing)| !placing.without.is_empty())
    }

    /// The services that have such claims.
    pub fn with_alone(&self) -> impl Iterator<Item = &ServiceId> {
        self.alone.iter()
    }

    /// What a voter may vote for: of each service the claims of its highest epoch, those that were
    /// read first first. A vote is for one site, so a task with several targets has as many.
    pub fn newest(&self) -> Vec<Claim> {
        let mut claims: BTreeMap<(usize, &EntryId, &SiteId), BTreeMap<ServiceId, Epoch>> =
            BTreeMap::new();
        for (service, placings) in &self.by_service {
            let highest = placings.values().map(|p| p.epoch).max();
            for (id, placing) in placings.iter().filter(|(_, p)| Some(p.epoch) == highest) {
                let services = claims.entry((placing.place, id, &placing.target)).or_default();
                services.insert(service.clone(), placing.epoch);
            }
        }
        let claim = |((_, id, target), services): ((usize, &EntryId, &SiteId), _)| Claim {
            id: id.clone(),
            target: target.clone(),
            services,
        };
        claims.into_iter().map(claim).collect()
    }
}
