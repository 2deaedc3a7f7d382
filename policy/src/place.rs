//! Who serves what, with the reason for each choice.
//!
//! The order: residency, then drained (service at site, site), then the effective failover or
//! steer, then `primary` or `active`. A task under way decides for its services until it is done,
//! and where break comes before make nothing moves without one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::id::{ClusterId, EntryId, Epoch, LinkId, NodeId, ServiceId, SiteId};
use crate::log::entry::Directive;
use crate::log::intent::{Intent, Mover, World};
use crate::service::{Handover, Mode, Service, shared};
use crate::traffic::{Spread, Traffic, Weights};

/// The traffic state of every service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    pub services: BTreeMap<ServiceId, Placed>,
    pub drained: Drained,
}

/// Routers, links and clusters of backends that traffic keeps off as far as there are others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drained {
    pub nodes: BTreeSet<NodeId>,
    pub links: BTreeSet<LinkId>,
    pub clusters: BTreeSet<ClusterId>,
    /// Clusters on their way out of service or back into it: groups whose flows stay have their
    /// backends as members that no bucket is meant for. Others go by `clusters` alone.
    pub easing: BTreeSet<ClusterId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// In a placement, services in the same state share one copy.
    pub traffic: Arc<Traffic>,
    pub epoch: Epoch,
    pub reason: Reason,
    /// Sites of the service that are drained, for it or as a whole.
    pub drained: BTreeSet<SiteId>,
    /// A task may change the answers: they are not to be kept for long.
    pub lowered: bool,
    /// Sites that count what still comes for it.
    pub left: BTreeSet<SiteId>,
    /// The task that waits for that: what others wait for is counted apart.
    pub counted_for: Option<EntryId>,
    /// Sites at which its established connections stay.
    pub kept: BTreeSet<SiteId>,
}

/// Why traffic is where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// `primary` or `active` of the definition.
    Nominal,
    /// An operator sent it there.
    Directed,
    /// Where it should be is drained or outside its residency; the next site in failover order.
    NextInOrder { passed: Vec<SiteId> },
    /// No site may serve it.
    NoSite,
    /// Every site is drained, and nobody meant that: the newest drain does not count for it.
    Left,
    /// A task has brought it this far and is not done.
    UnderWay,
    /// A majority of voters is for the claim that brought it there.
    Leased,
    /// A claim that was made without a majority brought it there, and has none yet.
    LeaseUnprotected,
    /// A claim has a majority, and its task has not come to the step that serves.
    LeaseBetween,
    /// The claim for this site does not count here, or not yet.
    LeaseShut,
    /// The task that moved it took itself back: it is served nowhere until somebody claims it.
    LeaseStopped,
    /// Where its last task put it, although what is drained or directed by now wants something
    /// else: without steps it would be closed here and opened there by nodes that do not wait for
    /// each other.
    Kept { wanted: Spread },
}

pub fn place(world: World<'_>, intent: &Intent) -> Placement {
    let mut known = BTreeSet::new();
    let placed = |service: &Service| {
        let placed = place_one(world, intent, service);
        let traffic = shared(&mut known, placed.traffic);
        (service.id.clone(), Placed { traffic, ..placed })
    };
    let drained = intent.drained_ways();
    Placement { services: world.catalog.iter().map(placed).collect(), drained }
}

pub fn place_one(world: World<'_>, intent: &Intent, service: &Service) -> Placed {
    let drained = drained_sites(intent, service);
    let mover = intent.mover(&service.id);
    let epoch = intent.answered_epoch(&service.id);
    let lowered = intent.is_lowered(service);
    let mover = mover.filter(|m| !m.progress.is_over());
    let left = mover.map(|m| m.left.clone()).unwrap_or_default();
    let kept = mover.map(|m| m.kept.clone()).unwrap_or_default();
    let counted_for = mover.filter(|m| !m.left.is_empty()).map(|m| m.order.task.clone());
    let stops = service.is_leased() && intent.mover(&service.id).is_some_and(|m| m.stops);
    let (traffic, reason) = match mover {
        // From its first word on: what only takes away waits for no step.
        _ if stops => (Traffic::settled(Spread::Nowhere), Reason::LeaseStopped),
        Some(mover) => (under_way(intent, service, mover), Reason::UnderWay),
        None => {
            let (spread, reason) = settled(world, intent, service);
            (Traffic::settled(spread), reason)
        }
    };
    let traffic = Arc::new(traffic);
    Placed { traffic, epoch, reason, drained, lowered, left, counted_for, kept }
}

/// Where a task has brought the service. One that is handed over break-before-make, and that the
/// task has not touched yet, stays only where no task that lost to this one has closed it: whoever
/// waits for that one's acknowledgements may open it elsewhere.
fn under_way(intent: &Intent, service: &Service, mover: &Mover) -> Traffic {
    let mut traffic = mover.traffic.clone();
    if mover.touched || mover.handover == Handover::MakeBeforeBreak {
        return traffic;
    }
    for accepting in intent.rivals(&service.id) {
        for site in traffic.spread.sites().difference(accepting) {
            traffic.spread = traffic.spread.without(site);
        }
        traffic.accept.retain(|site| accepting.contains(site));
    }
    traffic
}

/// Where a service is that nothing moves now.
fn settled(world: World<'_>, intent: &Intent, service: &Service) -> (Spread, Reason) {
    let found = target(world, intent, service);
    let kept = |mover: &&Mover| {
        let may = |site: &SiteId| service.sites().contains(site) && resides(world, service, site);
        service.handover == Handover::BreakBeforeMake
            && mover.traffic.spread.sites().iter().all(may)
    };
    if let Some(mover) = intent.mover(&service.id).filter(kept) {
        return match mover.traffic.spread == found.0 {
            true => found,
            false => (mover.traffic.spread.clone(), Reason::Kept { wanted: found.0 }),
        };
    }
    match found {
        (Spread::Nowhere, reason) => left(world, intent, service)
            .map_or((Spread::Nowhere, reason), |site| (Spread::one(site), Reason::Left)),
        found => found,
    }
}

/// Where a service stays although every site is drained: two sides of a cut may each have drained
/// another site, and neither meant to take the service down. The newest of the drains, which would
/// have been refused had the older ones been known, does not count for it.
///
/// `None` when the last command about the service meant it: it then moved it to nowhere.
fn left(world: World<'_>, intent: &Intent, service: &Service) -> Option<SiteId> {
    let meant = |mover: &Mover| mover.traffic.spread == Spread::Nowhere;
    if intent.mover(&service.id).is_some_and(meant) {
        return None;
    }
    let may = service.sites().into_iter().filter(|site| resides(world, service, site));
    may.max_by_key(|site| intent.drain_order(&service.id, site).cloned())
}

/// Where the registers want a service, whatever a task is doing.
pub fn target(world: World<'_>, intent: &Intent, service: &Service) -> (Spread, Reason) {
    let eligible = eligible(world, intent, service);
    let next = |wanted: Option<&SiteId>| {
        let passed = service.sites().into_iter().filter(|s| !eligible.contains(s)).collect();
        match eligible.first() {
            Some(site) if Some(site) == wanted => (Spread::one(site.clone()), Reason::Nominal),
            Some(site) => (Spread::one(site.clone()), Reason::NextInOrder { passed }),
            None => (Spread::Nowhere, Reason::NoSite),
        }
    };
    match (intent.directive(&service.id), &service.mode) {
        (Directive::Failover(to), _) if eligible.contains(to) => {
            (Spread::one(to.clone()), Reason::Directed)
        }
        (Directive::Steer(weights), _) => {
            let kept: Weights = weights
                .iter()
                .filter(|(s, _)| eligible.contains(s))
                .map(|(s, w)| (s.clone(), *w))
                .collect();
            match kept.is_empty() {
                false => (Spread::Weighted(kept), Reason::Directed),
                true => next(None),
            }
        }
        (Directive::Failover(_) | Directive::Nominal, Mode::ActivePassive { primary, .. }) => {
            let nominal = *intent.directive(&service.id) == Directive::Nominal;
            next(nominal.then_some(primary))
        }
        (Directive::Failover(_) | Directive::Nominal, Mode::ActiveActive { .. }) => {
            if eligible.is_empty() {
                return (Spread::Nowhere, Reason::NoSite);
            }
            (Spread::Nearest(eligible.into_iter().collect()), Reason::Nominal)
        }
    }
}

/// The sites that may serve now, in failover order.
pub fn eligible(world: World<'_>, intent: &Intent, service: &Service) -> Vec<SiteId> {
    let may =
        |site: &SiteId| resides(world, service, site) && !intent.is_drained_at(&service.id, site);
    service.sites().into_iter().filter(may).collect()
}

/// True when the service's residency lets it be placed at the site.
pub fn resides(world: World<'_>, service: &Service, site: &SiteId) -> bool {
    in_residency(world, &service.residency, site)
}

/// True when the site lies in one of the regions, or there are none.
pub fn in_residency(world: World<'_>, residency: &[String], site: &SiteId) -> bool {
    let region = world.fabric.site(site).and_then(|s| s.region.as_ref());
    residency.is_empty() || region.is_some_and(|r| residency.contains(r))
}

fn drained_sites(intent: &Intent, service: &Service) -> BTreeSet<SiteId> {
    service.sites().into_iter().filter(|s| intent.is_drained_at(&service.id, s)).collect()
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nominal => f.write_str("as defined"),
            Self::Directed => f.write_str("sent there by an operator"),
            Self::NextInOrder { passed } => {
                let names: Vec<&str> = passed.iter().map(SiteId::as_str).collect();
                write!(f, "next in failover order; drained or not allowed: {}", names.join(", "))
            }
            Self::NoSite => f.write_str("no site may serve it"),
            Self::Left => f.write_str(
                "every site is drained, which nobody meant: the newest drain does not count for it",
            ),
            Self::UnderWay => f.write_str("a task is under way"),
            Self::Leased => f.write_str("a majority of voters is for it"),
            Self::LeaseUnprotected => {
                f.write_str("unprotected: taken without a majority of voters, which it has not yet")
            }
            Self::LeaseBetween => f.write_str("withdrawn; its task has not come to serving it"),
            Self::LeaseShut => f.write_str("the lease of this site does not count, or not yet"),
            Self::LeaseStopped => f.write_str("stopped: the task that moved it took itself back"),
            Self::Kept { wanted } => {
                write!(f, "where its last task put it; {wanted} is wanted, and takes a task")
            }
        }
    }
}
