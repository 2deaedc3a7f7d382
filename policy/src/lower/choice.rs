//! Which of a node's possible ways count now: links that are up, neighbours that answer, and what
//! is neither doubted nor drained before what is.
//!
//! A drain of a node or a link is a preference and never a wall: what is drained goes on carrying
//! what still arrives, and is used again where nothing else is left. So nodes may act on a drain in
//! any order, and no packet on its way meets a router that refuses it. So it is with doubt: a far
//! agent that is dead looks like a dead link, and takes no last way away. A border never sends to
//! another border of its site, whatever it lost: two of them could pass a packet between them.
//!
//! A way through another site comes after the direct ones that are worth as much, and before those
//! that are drained or doubted where it is neither. Whether the other site can go on from there is
//! what its borders last said; a way that ends there is doubted.

use super::Place;
use crate::fabric::{Family, LinkView, Node, Role};
use crate::id::SiteId;
use crate::place::{Drained, in_residency};

/// A node, and what it has to choose by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice<'a> {
    pub(super) place: Place<'a>,
    pub(super) drained: &'a Drained,
    /// The regions that the traffic may not leave; empty when it may go anywhere.
    pub(super) residency: &'a [String],
}

/// A link to a site that lets traffic through, and the links of the border there that lead on; not
/// empty.
pub(super) struct Through<'a> {
    pub(super) view: LinkView<'a>,
    legs: Vec<LinkView<'a>>,
}

/// Lower is better: doubted after not doubted, drained after not drained, through another site
/// after direct, then by cost.
type Rank = (bool, bool, bool, u32);

// === impl Choice ===

impl<'a> Choice<'a> {
    /// The links over which this border reaches a site: the cheapest that are up; where none is,
    /// those to a site that lets its traffic through; else those that may be up.
    pub(super) fn links(self, site: &SiteId, family: Family) -> Vec<LinkView<'a>> {
        best(self.ranked(self.place.node, site, family, &|view| self.doubted(view, family)))
    }

    /// As [`Self::links`], to the site itself and to no other one.
    pub(super) fn direct(self, site: &SiteId, family: Family) -> Vec<LinkView<'a>> {
        best(self.ranked_direct(self.place.node, site, family, &|view| self.doubted(view, family)))
    }

    /// Whether a link of this border is doubted; `None` where nothing can be sent.
    fn doubted(self, view: &LinkView<'_>, family: Family) -> Option<bool> {
        let links_up = self.place.links_up;
        let sends = links_up.sends(&view.link.id, family);
        sends.then(|| !links_up.carries(&view.link.id, family))
    }

    /// The borders over which this route node reaches a site: those that answer and have the best
    /// links. A link that lacks a family comes after one that has both, and before a drained one.
    /// Where no border has a link, all that answer; where none answers, all.
    pub(super) fn borders(self, site: &SiteId, family: Family) -> Vec<&'a Node> {
        let neighbours = self.place.neighbours;
        let all = self.all(Role::Border);
        let answering: Vec<&Node> = awake(&all, neighbours);
        let ranked = answering.iter().filter_map(|border| {
            let doubts = |view: &LinkView<'_>| neighbours.doubts(&border.id, &view.link.id);
            let doubted = |view: &LinkView<'_>| {
                let carries = neighbours.may_use(&border.id, &view.link.id);
                (carries || doubts(view)).then_some(!carries)
            };
            let is_drained = self.drained.nodes.contains(&border.id);
            let rank = |((doubted, drained, through, cost), view): (Rank, LinkView<'_>)| {
                (doubted, drained || is_drained, through, doubts(&view), cost)
            };
            let ranks = self.ranked(border, site, family, &doubted);
            Some((ranks.into_iter().map(rank).min()?, *border))
        });
        match best(ranked.collect()) {
            none if none.is_empty() => answering,
            some => some,
        }
    }

    /// The other nodes of the site with a role that take traffic: those that answer and are not
    /// drained, as far as there are any.
    pub(super) fn nodes(self, role: Role) -> Vec<&'a Node> {
        let answering = awake(&self.all(role), self.place.neighbours);
        let serving = |n: &&Node| !self.drained.nodes.contains(&n.id);
        match answering.iter().copied().filter(serving).collect::<Vec<_>>() {
            none if none.is_empty() => answering,
            some => some,
        }
    }

    /// The border itself, or another one of the site while it is silent.
    pub(super) fn instead_of(self, border: &'a Node) -> &'a Node {
        let answering = awake(&self.all(Role::Border), self.place.neighbours);
        match answering.iter().any(|other| other.id == border.id) {
            true => border,
            false => answering.first().copied().unwrap_or(border),
        }
    }

    pub(super) fn all(self, role: Role) -> Vec<&'a Node> {
        let Place { world, node, .. } = self.place;
        world.fabric.nodes_of(&node.site, role).collect()
    }

    /// The links of a border by which it reaches a site, for which `doubted` has an answer, each
    /// with its rank.
    fn ranked(
        self,
        border: &'a Node,
        site: &SiteId,
        family: Family,
        doubted: &dyn Fn(&LinkView<'_>) -> Option<bool>,
    ) -> Vec<(Rank, LinkView<'a>)> {
        let mut all = self.ranked_direct(border, site, family, doubted);
        for Through { view, legs } in self.through(border, site, family) {
            let Some(own) = doubted(&view) else { continue };
            // What is doubted there may carry the other family only.
            let ends = |leg: &LinkView<'_>| {
                let (neighbours, there) = (self.place.neighbours, &view.far.node);
                !neighbours.may_use(there, &leg.link.id) || neighbours.doubts(there, &leg.link.id)
            };
            let doubted = own || legs.iter().all(ends);
            let drained = self.is_drained(&view) || legs.iter().all(|leg| self.is_drained(leg));
            let least = legs.iter().map(|leg| leg.link.cost).min().unwrap_or(0);
            all.push(((doubted, drained, true, view.link.cost.saturating_add(least)), view));
        }
        all
    }

    /// The links of a border to the site that lets its traffic through to another one, as far as
    /// what comes in there can leave at once, by what the fabric file says.
    pub(super) fn through(
        self,
        border: &'a Node,
        site: &SiteId,
        family: Family,
    ) -> Vec<Through<'a>> {
        let world = self.place.world;
        let transit = world.fabric.transit_between(&border.site, site);
        let transit = transit.filter(|t| in_residency(world, self.residency, &t.via));
        let Some(transit) = transit else { return Vec::new() };
        let ways = world.fabric.links_to(&border.id, &transit.via, family).map(|view| {
            let legs = world.fabric.links_to(&view.far.node, site, family).collect();
            Through { view, legs }
        });
        ways.filter(|way| !way.legs.is_empty()).collect()
    }

    fn is_drained(self, view: &LinkView<'_>) -> bool {
        let Drained { nodes, links, clusters: _, easing: _ } = self.drained;
        links.contains(&view.link.id) || nodes.contains(&view.far.node)
    }

    /// As [`Self::ranked`], of the links that end at the site.
    fn ranked_direct(
        self,
        border: &'a Node,
        site: &SiteId,
        family: Family,
        doubted: &dyn Fn(&LinkView<'_>) -> Option<bool>,
    ) -> Vec<(Rank, LinkView<'a>)> {
        let possible = self.place.world.fabric.links_to(&border.id, site, family);
        let rank = |view: LinkView<'a>| {
            let doubted = doubted(&view)?;
            Some(((doubted, self.is_drained(&view), false, view.link.cost), view))
        };
        possible.filter_map(rank).collect()
    }
}

/// Those that are not silent; all when all are.
fn awake<'a>(nodes: &[&'a Node], neighbours: &super::Neighbours) -> Vec<&'a Node> {
    let awake = nodes.iter().copied().filter(|n| !neighbours.is_silent(&n.id));
    match awake.collect::<Vec<_>>() {
        none if none.is_empty() => nodes.to_vec(),
        some => some,
    }
}

/// All with the lowest rank.
fn best<R: Ord + Copy, T>(ranked: Vec<(R, T)>) -> Vec<T> {
    let Some(least) = ranked.iter().map(|(rank, _)| *rank).min() else { return Vec::new() };
    ranked.into_iter().filter(|(rank, _)| *rank == least).map(|(_, one)| one).collect()
}
