//! By which links nodes and sites reach each other, as the fabric file has it.

use super::{Fabric, Family, Link, LinkEnd, LinkView, Node, Role, Transit};
use crate::id::{NodeId, SiteId};

// === impl Link ===

impl Link {
    /// True when both ends have an address of the family.
    pub fn carries(&self, family: Family) -> bool {
        let has = |end: &LinkEnd| end.addresses.iter().any(|net| Family::of_net(*net) == family);
        has(&self.a) && has(&self.b)
    }
}

// === impl Fabric ===

impl Fabric {
    /// The links that end at `node`, in file order.
    pub fn links_of<'a>(&'a self, node: &NodeId) -> impl Iterator<Item = LinkView<'a>> {
        self.links.iter().zip(1u8..).filter_map(move |(link, index)| {
            let (near, far) = match (link.a.node == *node, link.b.node == *node) {
                (true, _) => (&link.a, &link.b),
                (false, true) => (&link.b, &link.a),
                (false, false) => return None,
            };
            let far_site = &self.node(&far.node).expect("checked: links join known nodes").site;
            Some(LinkView { index, link, near, far, far_site })
        })
    }

    /// The links of a node that end at a site and carry a family.
    pub fn links_to<'a>(
        &'a self,
        node: &NodeId,
        site: &SiteId,
        family: Family,
    ) -> impl Iterator<Item = LinkView<'a>> {
        let views = self.links_of(node);
        views.filter(move |view| view.far_site == site && view.gateway(family).is_some())
    }

    /// The links that join two sites and carry a family, in the order of the file.
    pub fn links_between<'a>(
        &'a self,
        sites: [&SiteId; 2],
        family: Family,
    ) -> impl Iterator<Item = &'a Link> {
        self.links.iter().filter(move |link| {
            let joined = self.joined_by(link);
            sites.iter().all(|site| joined.contains(site)) && link.carries(family)
        })
    }

    /// What may go through a third site between two.
    pub fn transit_between(&self, one: &SiteId, other: &SiteId) -> Option<&Transit> {
        self.transits.iter().find(|transit| transit.other_end(one) == Some(other))
    }

    /// What lets packets of a family go through a third site between two: one border there has
    /// links to both that carry the family and are good, since borders of a site do not send to
    /// each other.
    pub fn goes_through(
        &self,
        [one, other]: [&SiteId; 2],
        family: Family,
        is_good: &dyn Fn(&Link) -> bool,
    ) -> Option<&Transit> {
        let transit = self.transit_between(one, other)?;
        let leads = |border: &Node, site: &SiteId| {
            self.links_to(&border.id, site, family).any(|view| is_good(view.link))
        };
        let mut borders = self.nodes_of(&transit.via, Role::Border);
        let joins = |border: &Node| leads(border, one) && leads(border, other);
        borders.any(joins).then_some(transit)
    }
}
