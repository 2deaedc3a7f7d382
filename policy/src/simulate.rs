//! What would move, stop or be too narrow if something were lost: computed, nothing is changed.
//!
//! Links and borders are passed by at once and by themselves; a service at a site that is lost
//! stops until somebody moves it, and says where its order would take it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use crate::fabric::{Fabric, Family, Link, Node, Role};
use crate::id::{LinkId, NodeId, ServiceId, SiteId};
use crate::log::intent::{Intent, World};
use crate::lower::object::{Layout, NodeState};
use crate::lower::{LinksUp, Neighbours, Place, beyond, lower};
use crate::place::{Placement, place, resides};
use crate::plan::plan_kernel;
use crate::traffic::Deliver;

/// What is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    Site(SiteId),
    Node(NodeId),
    Link(LinkId),
    /// Every link of a shared-risk group.
    Risk(String),
}

/// Not `site:ID`, `node:ID`, `link:ID` or `risk:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of site:ID, node:ID, link:ID, risk:NAME")]
pub struct NotALoss(String);

/// Something in the fabric of that name was looked for in vain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the fabric has no {0}")]
pub struct UnknownLoss(pub Lost);

/// What follows from a loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub nodes_lost: BTreeSet<NodeId>,
    pub links_lost: BTreeSet<LinkId>,
    /// The ways between two sites, before and after.
    pub pairs: Vec<Pair>,
    pub services: Vec<ServiceLoss>,
    /// Per node that is left, how many kernel operations its repair takes.
    pub repairs: BTreeMap<NodeId, usize>,
    /// What an operator has to know, one sentence each.
    pub findings: Vec<String>,
}

/// Two sites that links join, with how many of them are in use and what they carry together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub sites: [SiteId; 2],
    pub before: Ways,
    pub after: Ways,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ways {
    pub links: usize,
    /// Bits per second, of those links whose capacity the fabric names.
    pub bps: u64,
}

/// A service that is touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceLoss {
    pub service: ServiceId,
    /// Sites that serve it and are lost.
    pub stops_at: BTreeSet<SiteId>,
    /// Sites that serve it and are left.
    pub stays_at: BTreeSet<SiteId>,
    /// Where its failover order would take it; nobody moves it by itself.
    pub next: Option<SiteId>,
    /// Sites whose clients have no way to it any more.
    pub cut_off: BTreeSet<SiteId>,
}

// === impl Lost ===

impl FromStr for Lost {
    type Err = NotALoss;

    fn from_str(text: &str) -> Result<Self, NotALoss> {
        let bad = || NotALoss(text.to_owned());
        let (kind, id) = text.split_once(':').ok_or_else(bad)?;
        match kind {
            "site" => id.parse().map(Self::Site).map_err(|_| bad()),
            "node" => id.parse().map(Self::Node).map_err(|_| bad()),
            "link" => id.parse().map(Self::Link).map_err(|_| bad()),
            "risk" if !id.is_empty() => Ok(Self::Risk(id.to_owned())),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Site(id) => write!(f, "site:{id}"),
            Self::Node(id) => write!(f, "node:{id}"),
            Self::Link(id) => write!(f, "link:{id}"),
            Self::Risk(name) => write!(f, "risk:{name}"),
        }
    }
}

/// What follows if `lost` were gone, from how things are now: `up` has the links that both ends can
/// use.
///
/// # Errors
/// When the fabric has nothing of that name.
pub fn simulate(
    world: World<'_>,
    intent: &Intent,
    up: &BTreeSet<LinkId>,
    layout: &Layout,
    lost: &Lost,
) -> Result<Outcome, UnknownLoss> {
    let fabric = world.fabric;
    let (nodes, links) = parts(fabric, lost).ok_or_else(|| UnknownLoss(lost.clone()))?;
    let left: BTreeSet<LinkId> = up.difference(&links).cloned().collect();
    let placement = place(world, intent);
    let states = |up: &BTreeSet<LinkId>, silent: &BTreeSet<NodeId>| {
        let of =
            |node: &Node| (node.id.clone(), state(world, layout, node, &placement, up, silent));
        fabric.nodes.iter().map(of).collect::<BTreeMap<NodeId, NodeState>>()
    };
    let (before, after) = (states(up, &BTreeSet::new()), states(&left, &nodes));
    let repaired = |(id, state): (&NodeId, &NodeState)| {
        let operations = plan_kernel(state, before.get(id)?).ops.len();
        (operations > 0 && !nodes.contains(id)).then(|| (id.clone(), operations))
    };
    let repairs = after.iter().filter_map(repaired).collect();
    let pairs = pairs(fabric, up, &left);
    let dead = dead_sites(fabric, &nodes);
    let services = services(world, intent, &placement, &dead, [up, &left]);
    let findings = findings(fabric, (&nodes, &left), &pairs, &services);
    Ok(Outcome { nodes_lost: nodes, links_lost: links, pairs, services, repairs, findings })
}

/// The nodes and links that go.
fn parts(fabric: &Fabric, lost: &Lost) -> Option<(BTreeSet<NodeId>, BTreeSet<LinkId>)> {
    let mut nodes = BTreeSet::new();
    let mut links: BTreeSet<LinkId> = BTreeSet::new();
    match lost {
        Lost::Site(site) => {
            fabric.site(site)?;
            let of_site = fabric.nodes.iter().filter(|n| n.site == *site);
            nodes.extend(of_site.map(|n| n.id.clone()));
        }
        Lost::Node(node) => drop(nodes.insert(fabric.node(node)?.id.clone())),
        Lost::Link(id) => {
            links.insert(fabric.links.iter().find(|l| l.id == *id)?.id.clone());
        }
        Lost::Risk(name) => {
            let shared = fabric.links.iter().filter(|l| l.risk.contains(name));
            links.extend(shared.map(|l| l.id.clone()));
            if links.is_empty() {
                return None;
            }
        }
    }
    let ends = |l: &&Link| nodes.contains(&l.a.node) || nodes.contains(&l.b.node);
    links.extend(fabric.links.iter().filter(ends).map(|l| l.id.clone()));
    Some((nodes, links))
}

fn state(
    world: World<'_>,
    layout: &Layout,
    node: &Node,
    placement: &Placement,
    up: &BTreeSet<LinkId>,
    silent: &BTreeSet<NodeId>,
) -> NodeState {
    let fabric = world.fabric;
    let own = fabric.links_of(&node.id).map(|view| view.link.id.clone());
    let links_up: LinksUp = own.filter(|link| up.contains(link)).collect();
    let mut neighbours = Neighbours::default();
    for other in fabric.nodes.iter().filter(|n| n.site == node.site && n.id != node.id) {
        let entry = neighbours.entry(other.id.clone());
        entry.silent = silent.contains(&other.id);
        let links = fabric.links_of(&other.id).map(|view| view.link.id.clone());
        entry.links = Some(links.filter(|link| up.contains(link)).collect());
    }
    for other in beyond(fabric, &node.site) {
        let links = fabric.links_of(&other.id).map(|view| view.link.id.clone());
        let links = links.filter(|link| up.contains(link)).collect();
        neighbours.entry(other.id.clone()).links = Some(links);
    }
    let (links_up, neighbours) = (&links_up, &neighbours);
    lower(Place { world, layout, node, links_up, neighbours }, placement)
}

/// Sites that serve nothing any more: without a border, or without any of the route nodes they had.
fn dead_sites(fabric: &Fabric, lost: &BTreeSet<NodeId>) -> BTreeSet<SiteId> {
    let gone = |site: &SiteId, role| {
        let mut nodes = fabric.nodes_of(site, role).peekable();
        nodes.peek().is_some() && nodes.all(|n| lost.contains(&n.id))
    };
    let dead = |site: &&SiteId| gone(site, Role::Border) || gone(site, Role::Route);
    fabric.sites.iter().map(|s| &s.id).filter(dead).cloned().collect()
}

fn pairs(fabric: &Fabric, before: &BTreeSet<LinkId>, after: &BTreeSet<LinkId>) -> Vec<Pair> {
    let site = |node: &NodeId| fabric.node(node).map(|n| n.site.clone());
    let mut pairs: BTreeMap<[SiteId; 2], (Ways, Ways)> = BTreeMap::new();
    for link in &fabric.links {
        let (Some(a), Some(b)) = (site(&link.a.node), site(&link.b.node)) else { continue };
        let key = if a < b { [a, b] } else { [b, a] };
        let (was, is) = pairs.entry(key).or_default();
        for (ways, up) in [(was, before), (is, after)] {
            if up.contains(&link.id) {
                ways.links += 1;
                ways.bps = ways.bps.saturating_add(link.capacity_bps.unwrap_or(0));
            }
        }
    }
    pairs.into_iter().map(|(sites, (before, after))| Pair { sites, before, after }).collect()
}

/// The site that lets packets of a family between two others through, over links that are up.
fn through<'a>(
    fabric: &'a Fabric,
    up: &BTreeSet<LinkId>,
    sites: [&SiteId; 2],
    family: Family,
) -> Option<&'a SiteId> {
    let transit = fabric.goes_through(sites, family, &|link| up.contains(&link.id));
    transit.map(|transit| &transit.via)
}

fn services(
    world: World<'_>,
    intent: &Intent,
    placement: &Placement,
    dead: &BTreeSet<SiteId>,
    [before, after]: [&BTreeSet<LinkId>; 2],
) -> Vec<ServiceLoss> {
    let mut found = Vec::new();
    for service in world.catalog.iter() {
        let Some(placed) = placement.services.get(&service.id) else { continue };
        let serving = placed.traffic.spread.sites();
        let (stops_at, stays_at): (BTreeSet<_>, BTreeSet<_>) =
            serving.into_iter().partition(|site| dead.contains(site));
        let eligible = crate::place::eligible(world, intent, service);
        let next = eligible.into_iter().find(|site| !dead.contains(site));
        let next = next.filter(|_| !stops_at.is_empty() && stays_at.is_empty());
        let joins = |up: &BTreeSet<LinkId>, sites: [&SiteId; 2], family: Family| {
            let mut links = world.fabric.links_between(sites, family);
            links.any(|link| up.contains(&link.id))
                || through(world.fabric, up, sites, family)
                    .is_some_and(|via| resides(world, service, via))
        };
        let has = |family: &Family| service.vips(*family).next().is_some();
        let cut_off = |site: &&SiteId| {
            let away: Vec<SiteId> = match placed.traffic.deliver(site, world.fabric) {
                Deliver::Remote(there) => vec![there],
                Deliver::Split(weights) => weights.sites().filter(|s| s != site).cloned().collect(),
                Deliver::Local | Deliver::Drained => Vec::new(),
            };
            let away: Vec<_> = away.into_iter().filter(|there| !dead.contains(there)).collect();
            let joined = |up, family| away.iter().any(|there| joins(up, [site, there], family));
            let cut = |family: Family| joined(before, family) && !joined(after, family);
            !dead.contains(*site) && Family::BOTH.into_iter().filter(has).any(cut)
        };
        let sites = world.fabric.sites.iter().map(|s| &s.id);
        let cut_off: BTreeSet<SiteId> = sites.filter(cut_off).cloned().collect();
        if !stops_at.is_empty() || !cut_off.is_empty() {
            let service = service.id.clone();
            found.push(ServiceLoss { service, stops_at, stays_at, next, cut_off });
        }
    }
    found
}

/// What goes through a third site where two have no link left: of the families that they had.
fn onwards(fabric: &Fabric, left: &BTreeSet<LinkId>, sites: [&SiteId; 2]) -> String {
    let had = Family::BOTH.into_iter().filter(|f| fabric.links_between(sites, *f).next().is_some());
    let had: Vec<Family> = had.collect();
    let ways = had.iter().filter_map(|f| Some((*f, through(fabric, left, sites, *f)?)));
    let ways: Vec<(Family, &SiteId)> = ways.collect();
    match ways.as_slice() {
        [] => String::new(),
        [(family, via)] if had.len() > 1 => {
            format!(", and go through {via} with {} alone", family.name())
        }
        [(_, via), ..] => format!(", and go through {via}"),
    }
}

fn findings(
    fabric: &Fabric,
    (lost, left): (&BTreeSet<NodeId>, &BTreeSet<LinkId>),
    pairs: &[Pair],
    services: &[ServiceLoss],
) -> Vec<String> {
    let mut all = Vec::new();
    for Pair { sites: [a, b], before, after } in pairs {
        match (before.links, after.links) {
            (0, _) => {}
            (_, 0) => {
                let onwards = onwards(fabric, left, [a, b]);
                all.push(format!("{a} and {b} would have no link left{onwards}"));
            }
            (was, 1) if was > 1 => {
                all.push(format!("{a} and {b} would have one link left: the next loss cuts them"));
            }
            _ => {}
        }
        if after.links > 0 && after.bps < before.bps {
            let percent = u128::from(after.bps) * 100 / u128::from(before.bps);
            all.push(format!("{a} and {b} would have {percent} % of their capacity"));
        }
    }
    for site in &fabric.sites {
        for (role, what) in [(Role::Border, "border"), (Role::Route, "route node")] {
            let nodes: Vec<_> = fabric.nodes_of(&site.id, role).collect();
            let left = nodes.iter().filter(|n| !lost.contains(&n.id)).count();
            if left < nodes.len() {
                all.push(format!("{} would have {left} of {} {what}s", site.id, nodes.len()));
            }
        }
    }
    let stops = services.iter().filter(|s| !s.stops_at.is_empty() && s.stays_at.is_empty());
    let (stops, nowhere) = (stops.clone().count(), stops.filter(|s| s.next.is_none()).count());
    if stops > 0 {
        all.push(format!("{stops} services would stop until somebody moves them"));
    }
    if nowhere > 0 {
        all.push(format!("{nowhere} of them have no other site that may serve them"));
    }
    all
}
