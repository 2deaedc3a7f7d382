//! Who must acknowledge a step: the nodes whose desired state it changes, and for `verify` the
//! borders that send the service to its new site. Computed when a command takes effect, and then a
//! part of the step in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::reroutes::{is_of_clusters, left_slowly};
use super::steps::{Step, StepKind};
use crate::fabric::{Family, Node, Role};
use crate::id::{EntryId, NodeId, ServiceId, SiteId};
use crate::log::entry::{Change, Effect, Move, Object};
use crate::log::intent::{Doing, Intent, Progress, World};
use crate::lower::object::{Layout, NodeState};
use crate::lower::{self, Neighbours, Place, all_links};
use crate::place::place;
use crate::task::sample::Sample;
use crate::traffic::Deliver;

/// A task's effect, where it comes from, and what the log wanted before it.
#[derive(Debug, Clone, Copy)]
pub struct Course<'a> {
    pub world: World<'a>,
    pub before: &'a Intent,
    pub task: &'a EntryId,
    pub site: &'a SiteId,
    pub effect: &'a Effect,
}

/// One packet's way that `verify` tries: from a border over one of its links to a VIP.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProbeTarget {
    pub service: ServiceId,
    /// The site that must answer.
    pub site: SiteId,
    pub vip: IpAddr,
    /// The index of the link that the probe is pinned to.
    pub link: u8,
    /// The near end's own address on that link, in the VIP's family.
    pub source: IpAddr,
    pub interface: String,
    /// A TCP port to open as well, where the service names one.
    pub port: Option<u16>,
}

/// For each step the nodes that must acknowledge, and those that are said to be off.
pub(super) struct NamedNodes(Vec<(BTreeSet<NodeId>, BTreeSet<NodeId>)>);

// === impl NamedNodes ===

impl NamedNodes {
    pub(super) fn take(self, effect: &mut Effect) {
        for (step, (required, owed)) in effect.steps.iter_mut().zip(self.0) {
            (step.required, step.owed) = (required, owed);
        }
    }
}

// === impl Course ===

impl Course<'_> {
    /// What the log wants once step `number` has started; 0 is effective, nothing started.
    pub fn intent_at(&self, number: u32) -> Intent {
        let mut intent = self.before.without_waiting();
        let progress = Progress::begun(1..=number);
        let Self { task, site, effect, .. } = *self;
        intent.apply(&Doing { task, site, effect, progress, over: false });
        intent
    }

    /// What every node should have once step `number` has started, all links up.
    pub fn states_at(&self, number: u32) -> BTreeMap<NodeId, NodeState> {
        self.states(&self.intent_at(number))
    }

    fn states(&self, intent: &Intent) -> BTreeMap<NodeId, NodeState> {
        let placement = place(self.world, intent);
        let layout = Layout::default();
        let (links_up, neighbours) = (&all_links(self.world), &Neighbours::default());
        let state = |node: &Node| {
            let at = Place { world: self.world, layout: &layout, node, links_up, neighbours };
            (node.id.clone(), lower::lower(at, &placement))
        };
        self.world.fabric.nodes.iter().map(state).collect()
    }

    /// The same effect with the nodes of every step: those that must acknowledge, and those that
    /// an operator says are off.
    ///
    /// Of services that look and move alike one stands for all: a node's part in a step is that of
    /// each of them.
    pub fn with_nodes(&self, asserted: &BTreeSet<NodeId>) -> Effect {
        let mut whole = self.effect.clone();
        self.name_nodes(asserted).take(&mut whole);
        whole
    }

    /// The nodes of every step, to be put into the effect.
    pub(super) fn name_nodes(&self, asserted: &BTreeSet<NodeId>) -> NamedNodes {
        let of = |effect: Effect| {
            NamedNodes(effect.steps.into_iter().map(|s| (s.required, s.owed)).collect())
        };
        // What is drained for all shows at services that do not move, too.
        if self.effect.steps.iter().any(|step| step.kind == StepKind::Reroute) {
            return of(self.with_nodes_in_full(asserted));
        }
        let sample = Sample::of(self);
        let world = World { fabric: self.world.fabric, catalog: &sample.catalog };
        let (before, effect) = (&sample.before, &sample.effect);
        of(Course { world, before, effect, ..*self }.with_nodes_in_full(asserted))
    }

    /// As [`Self::with_nodes`], from what every node should have of every service: the meaning of
    /// the other, which a test holds to it.
    pub fn with_nodes_in_full(&self, asserted: &BTreeSet<NodeId>) -> Effect {
        let mut effect = self.effect.clone();
        let present = self.states(&self.before.without_waiting());
        let mut before = self.states_at(0);
        let mut rerouted = false;
        for step in &mut effect.steps {
            let after = self.states_at(step.number);
            let first = step.kind == StepKind::Reroute && !std::mem::replace(&mut rerouted, true);
            if first {
                // What is drained is in force from the start on; this step waits for it.
                before = present.clone();
            }
            let leased = self.leased(step);
            let mut nodes = match &leased {
                _ if step.kind == StepKind::Drained => self.counting(step),
                _ if step.kind == StepKind::External => BTreeSet::new(),
                Some(nodes) => nodes.clone(),
                None => differing(&before, &after),
            };
            if step.kind == StepKind::Reroute {
                nodes.extend(self.near_drained());
            }
            if let Some(next) = self.opens_next(step).filter(|_| leased.is_none()) {
                // Whoever opens with the next step must have closed with this one.
                nodes.extend(differing(&after, &self.states_at(next)));
            }
            if step.kind == StepKind::Verify {
                let observes = |node: &&Node| !self.probes(step, node).is_empty();
                let fabric = self.world.fabric;
                nodes.extend(fabric.nodes.iter().filter(observes).map(|n| n.id.clone()));
            }
            let (owed, required) = nodes.into_iter().partition(|node| asserted.contains(node));
            (step.owed, step.required) = (owed, required);
            before = after;
        }
        effect
    }

    /// The nodes that may choose otherwise because of what is drained, whichever links they have
    /// now: all that forward at the sites of a drained node or link.
    fn near_drained(&self) -> BTreeSet<NodeId> {
        let fabric = self.world.fabric;
        let mut ends: BTreeSet<&NodeId> = BTreeSet::new();
        for write in &self.effect.writes {
            match &write.change {
                Change::Drained(Object::Node(node), _) => drop(ends.insert(node)),
                Change::Drained(Object::Link(link), _) => {
                    let found = fabric.links.iter().filter(|l| l.id == *link);
                    ends.extend(found.flat_map(|l| [&l.a.node, &l.b.node]));
                }
                Change::Drained(Object::Cluster(cluster), _) => {
                    let found = fabric.clusters.iter().filter(|c| c.id == *cluster);
                    let there = found.flat_map(|c| fabric.serving_nodes(&c.site));
                    ends.extend(there.map(|node| &node.id));
                }
                Change::Drained(..)
                | Change::Service(..)
                | Change::Held(..)
                | Change::Revoked(..) => {}
            }
        }
        let sites: BTreeSet<&SiteId> =
            ends.into_iter().filter_map(|node| Some(&fabric.node(node)?.site)).collect();
        let near = |n: &&Node| n.role != Role::Witness && sites.contains(&n.site);
        fabric.nodes.iter().filter(near).map(|n| n.id.clone()).collect()
    }

    /// The nodes that hand packets to backends of clusters that are drained here.
    fn handing(&self) -> BTreeSet<NodeId> {
        let fabric = self.world.fabric;
        let left = left_slowly(self.effect);
        let sites = fabric.clusters.iter().filter(|c| left.contains(&c.id)).map(|c| &c.site);
        sites.flat_map(|site| fabric.handing_nodes(site)).map(|n| n.id.clone()).collect()
    }

    /// The nodes that count what still comes for the services of a step to the sites they leave.
    fn counting(&self, step: &Step) -> BTreeSet<NodeId> {
        if is_of_clusters(step) {
            return self.handing();
        }
        let moves = self.effect.moves.iter().filter(|m| step.states.contains_key(&m.service));
        let left: BTreeSet<SiteId> = moves.flat_map(Move::left).collect();
        let nodes = self.world.fabric.nodes.iter();
        let counts = |n: &&Node| n.role != Role::Witness && left.contains(&n.site);
        nodes.filter(counts).map(|n| n.id.clone()).collect()
    }

    /// Of leased services the withdrawal is everybody's who could have served, and the start is
    /// the new site's own: the others follow the votes. Steps have leased services alone or none.
    fn leased(&self, step: &Step) -> Option<BTreeSet<NodeId>> {
        let fabric = self.world.fabric;
        let mut nodes = BTreeSet::new();
        let (first, _) = step.states.first_key_value()?;
        self.world.catalog.get(first).filter(|s| s.is_leased())?;
        let moves: BTreeMap<&ServiceId, &Move> =
            self.effect.moves.iter().map(|m| (&m.service, m)).collect();
        for id in step.states.keys() {
            let service = self.world.catalog.get(id).filter(|s| s.is_leased())?;
            let one = moves.get(id);
            let target = one.and_then(|m| m.to.spread.sites().into_iter().next());
            let concerned = |site: &SiteId| match step.kind {
                StepKind::Withdraw => Some(site) != target.as_ref(),
                StepKind::Activate | StepKind::Shift => Some(site) == target.as_ref(),
                StepKind::Verify
                | StepKind::LowerTtl
                | StepKind::Drained
                | StepKind::Reroute
                | StepKind::External => false,
            };
            for site in service.sites().iter().filter(|site| concerned(site)) {
                nodes.extend(fabric.serving_nodes(site).map(|n| n.id.clone()));
            }
        }
        Some(nodes)
    }

    /// Of the break of a break-before-make the number of the make that follows, whoever is asked
    /// outside between the two.
    fn opens_next(&self, step: &Step) -> Option<u32> {
        let follows = |next: &&Step| next.number > step.number && next.kind != StepKind::External;
        let next = self.effect.steps.iter().find(follows)?;
        let same = next.states.keys().any(|s| step.states.contains_key(s));
        let opens = step.kind == StepKind::Withdraw && next.kind == StepKind::Activate && same;
        opens.then_some(next.number)
    }

    /// What a node probes in a `verify` step. Empty on nodes that do not observe.
    pub fn probes(&self, step: &Step, node: &Node) -> Vec<ProbeTarget> {
        probes(self.world, &self.effect.moves, step, node)
    }
}

fn differing(
    before: &BTreeMap<NodeId, NodeState>,
    after: &BTreeMap<NodeId, NodeState>,
) -> BTreeSet<NodeId> {
    let changed = after.iter().filter(|(node, state)| before.get(node) != Some(state));
    changed.map(|(node, _)| node.clone()).collect()
}

/// What a node probes in a `verify` step of these moves. Empty on nodes that do not observe.
pub fn probes(world: World<'_>, moves: &[Move], step: &Step, node: &Node) -> Vec<ProbeTarget> {
    if node.role != Role::Border {
        return Vec::new();
    }
    let moves = moves.iter().filter(|m| step.states.contains_key(&m.service));
    let mut targets = Vec::new();
    for a_move in moves {
        let new = a_move.to.accept.difference(&a_move.from.accept);
        let sent: Vec<SiteId> = match a_move.to.deliver(&node.site, world.fabric) {
            Deliver::Remote(site) => vec![site],
            Deliver::Split(weights) => weights.sites().cloned().collect(),
            Deliver::Local | Deliver::Drained => Vec::new(),
        };
        for site in new.filter(|site| sent.contains(site) && **site != node.site) {
            targets.extend(probes_of(world, node, &a_move.service, site));
        }
    }
    targets
}

fn probes_of(
    world: World<'_>,
    node: &Node,
    service: &ServiceId,
    site: &SiteId,
) -> Vec<ProbeTarget> {
    let Some(service) = world.catalog.get(service) else {
        return Vec::new();
    };
    let health = service.health.as_ref().and_then(|h| h.tcp);
    let port = health.or_else(|| service.ports.first().map(|p| p.port));
    let links = world.fabric.links_of(&node.id).filter(|view| view.far_site == site);
    let mut targets = Vec::new();
    for view in links {
        for vip in &service.vips {
            let same = |a: &IpAddr| Family::of(*a) == Family::of(*vip);
            let Some(source) = view.near.addresses.iter().map(|n| n.addr()).find(same) else {
                continue;
            };
            targets.push(ProbeTarget {
                service: service.id.clone(),
                site: site.clone(),
                vip: *vip,
                link: view.index,
                source,
                interface: view.near.interface.clone(),
                port,
            });
        }
    }
    targets
}
