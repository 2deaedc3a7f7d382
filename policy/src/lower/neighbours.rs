//! What a node knows of the other nodes of its site: whether they answer, and what their links are
//! like. So it knows the links of borders at a site that lets its site's traffic through.
//!
//! Nothing here takes the last way away: a neighbour that nothing is known of counts as good, and
//! where all of them are silent the choice is as if all of them answered.

use std::collections::{BTreeMap, BTreeSet};

use super::object::Mac;
use crate::fabric::{Fabric, Node, Role};
use crate::id::{LinkId, NodeId, SiteId};

/// The other nodes of the site, and borders beyond it, as far as anything is known of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Neighbours(BTreeMap<NodeId, Neighbour>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Neighbour {
    /// It answered once, and does not any more.
    pub silent: bool,
    /// Its Ethernet address on the segment that both are on.
    pub mac: Option<Mac>,
    /// The inter-site links that it says it can use; `None` when it never said.
    pub links: Option<BTreeSet<LinkId>>,
    /// Links of its own, also of [`Self::links`], that it would use if it had no better one.
    pub doubted: BTreeSet<LinkId>,
}

/// The borders of sites that a site's traffic may go through: their links decide whether it can.
pub fn beyond<'a>(fabric: &'a Fabric, site: &SiteId) -> impl Iterator<Item = &'a Node> {
    let through = fabric.transits.iter().filter(|t| t.other_end(site).is_some());
    let sites: BTreeSet<&SiteId> = through.map(|t| &t.via).collect();
    let borders = fabric.nodes.iter().filter(|node| node.role == Role::Border);
    borders.filter(move |node| sites.contains(&node.site))
}

// === impl Neighbours ===

impl Neighbours {
    pub fn entry(&mut self, node: NodeId) -> &mut Neighbour {
        self.0.entry(node).or_default()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &Neighbour)> {
        self.0.iter()
    }

    pub fn is_silent(&self, node: &NodeId) -> bool {
        self.0.get(node).is_some_and(|n| n.silent)
    }

    pub fn mac(&self, node: &NodeId) -> Option<Mac> {
        self.0.get(node)?.mac
    }

    /// True when the node says that it would use the link if it had no better one.
    pub fn doubts(&self, node: &NodeId, link: &LinkId) -> bool {
        self.0.get(node).is_some_and(|n| n.doubted.contains(link))
    }

    /// True unless the node says that it cannot use the link.
    pub fn may_use(&self, node: &NodeId, link: &LinkId) -> bool {
        let links = self.0.get(node).and_then(|n| n.links.as_ref());
        links.is_none_or(|links| links.contains(link))
    }
}
