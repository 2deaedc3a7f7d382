//! Confirmed withdrawals, which stand in for the wait in planned moves.
//!
//! A node says `withdrawn(service, epoch)` only after its kernel gate is shut and was read back,
//! and after [`super::knowledge::Knowledge::fence`] for that epoch is on disk. One node missing,
//! and the claim waits W instead. A crash between fence and message leaves a node that does not
//! serve and has not said so: that costs the wait, nothing else.

use std::collections::{BTreeMap, BTreeSet};

use super::rule::{Ground, all_withdrawn};
use crate::id::{Epoch, NodeId, ServiceId, SiteId};

/// The highest epoch that each node confirmed for each service. Joining is a maximum, so order and
/// repetition do not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Withdrawals {
    confirmed: BTreeMap<(ServiceId, NodeId), Epoch>,
}

/// What a claim needs confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs<'a> {
    pub service: &'a ServiceId,
    pub epoch: Epoch,
    pub target: &'a SiteId,
    /// *Every* serving node of every candidate site, those of the target included.
    pub nodes: &'a BTreeMap<SiteId, BTreeSet<NodeId>>,
}

impl Withdrawals {
    pub fn join(&mut self, node: NodeId, service: ServiceId, epoch: Epoch) {
        let held = self.confirmed.entry((service, node)).or_insert(epoch);
        *held = epoch.max(*held);
    }

    /// What one node confirmed.
    pub fn of(&self, node: &NodeId) -> BTreeMap<ServiceId, Epoch> {
        let own = self.confirmed.iter().filter(|((_, n), _)| n == node);
        own.map(|((service, _), epoch)| (service.clone(), *epoch)).collect()
    }

    /// True when every serving node of every *other* candidate site has withdrawn from the claim's
    /// epoch or a higher one, not only those of the site that served last.
    pub fn confirmed(&self, needs: Needs<'_>) -> bool {
        self.missing(needs).is_empty()
    }

    /// The nodes that have not confirmed, for messages.
    pub fn missing<'a>(&self, needs: Needs<'a>) -> Vec<&'a NodeId> {
        let Needs { service, epoch, target, nodes } = needs;
        let others = nodes.iter().filter(|(site, _)| *site != target).flat_map(|(_, n)| n);
        let said = |n: &NodeId| self.confirmed.get(&(service.clone(), n.clone())).copied();
        others.filter(|n| !all_withdrawn(epoch, [said(n)])).collect()
    }

    /// The same for a claim that was made without a majority, whatever its service: every candidate
    /// node that nobody says is off must have confirmed, since what the others have read protects
    /// the claim; and the wait is kept, since the gates of who is off end by themselves only.
    pub fn ground_alone(&self, needs: Needs<'_>) -> Ground {
        match self.confirmed(needs) {
            true => Ground::Wait,
            false => Ground::Nothing,
        }
    }

    /// What condition (4) may rest on. For an `exclusive` service the wait alone is nothing.
    pub fn ground(&self, needs: Needs<'_>, exclusive: bool) -> Ground {
        match (self.confirmed(needs), exclusive) {
            (true, _) => Ground::Confirmed,
            (false, false) => Ground::Wait,
            (false, true) => Ground::Nothing,
        }
    }
}
