//! The other nodes of the site, as far as forwarding depends on them.
//!
//! Two sources are put together: what the probes see of them, and what their reports say of their
//! links. A report counts until the next one comes: the kernel of a node whose agent is away puts
//! no link back by itself.

use std::collections::{BTreeMap, BTreeSet};

use nett_policy::fabric::{Fabric, Link, Node, Role};
use nett_policy::id::{LinkId, NodeId};
use nett_policy::lower::{Neighbours, beyond};

use super::event::{Now, Pulse};
use super::{Controller, SILENCE};

/// The nodes of the own site that a node chooses between: of one, there is no choice.
pub fn chosen_between<'a>(fabric: &'a Fabric, node: &'a Node) -> Vec<&'a Node> {
    let role = match node.role {
        Role::Border => Role::Route,
        Role::Route => Role::Border,
        Role::Witness => return Vec::new(),
    };
    let nodes: Vec<&Node> = fabric.nodes_of(&node.site, role).collect();
    if nodes.len() > 1 { nodes } else { Vec::new() }
}

impl Controller {
    pub(super) fn pulses(&mut self, pulses: BTreeMap<NodeId, Pulse>, now: Now) {
        let before = self.neighbours_of(&self.setting.node);
        let first = !self.has_pulses();
        self.pulses = Some(pulses);
        if first || self.neighbours_of(&self.setting.node) != before {
            self.lower(now);
        }
    }

    /// False while it is not known yet who of the site's nodes is there.
    pub(super) fn has_pulses(&self) -> bool {
        let Self { setting, pulses, .. } = self;
        pulses.is_some() || chosen_between(&setting.fabric, &setting.node).is_empty()
    }

    /// What a node knows of the others of its site, and of borders that let its site's traffic
    /// through: of another one than this, only what all know.
    pub(super) fn neighbours_of(&self, node: &Node) -> Neighbours {
        let mut neighbours = Neighbours::default();
        for other in chosen_between(&self.setting.fabric, node) {
            let links = self.reported_links(&other.id);
            let pulse = self.pulses.as_ref().and_then(|pulses| pulses.get(&other.id));
            let doubted = self.peers.reports.get(&other.id).map(|heard| &heard.report.doubted);
            let doubted = doubted.cloned().unwrap_or_default();
            let entry = neighbours.entry(other.id.clone());
            (entry.links, entry.doubted) = (links, doubted);
            if node.id == self.setting.node.id {
                let Pulse { silent, mac } = pulse.cloned().unwrap_or_default();
                (entry.silent, entry.mac) = (silent, mac);
            }
        }
        for other in beyond(&self.setting.fabric, &node.site) {
            let links = self.reported_links(&other.id);
            let heard = self.peers.reports.get(&other.id);
            let entry = neighbours.entry(other.id.clone());
            entry.links = links;
            entry.doubted = heard.map(|heard| heard.report.doubted.clone()).unwrap_or_default();
        }
        neighbours
    }

    fn reported_links(&self, node: &NodeId) -> Option<BTreeSet<LinkId>> {
        if *node == self.setting.node.id {
            let links = self.setting.fabric.links_of(node).map(|view| view.link.id.clone());
            let up = self.doing.links_up();
            return self.doing.links_seen().then(|| links.filter(|l| up.contains(l)).collect());
        }
        let report = &self.peers.reports.get(node)?.report;
        let up = report.links.iter().filter(|(_, up)| **up);
        Some(up.map(|(link, _)| link.clone()).collect())
    }

    /// Nodes of which nothing was heard for too long, and neighbours that do not answer.
    pub(super) fn away(&self, now: Now) -> BTreeSet<NodeId> {
        let silent = |node: &&Node| {
            let heard = self.peers.reports.get(&node.id);
            let late = heard.is_none_or(|heard| now.mono.saturating_sub(heard.at) > SILENCE);
            let pulse = self.pulses.as_ref().and_then(|pulses| pulses.get(&node.id));
            late || pulse.is_some_and(|pulse| pulse.silent)
        };
        let others = self.setting.fabric.nodes.iter().filter(|n| n.id != self.setting.node.id);
        others.filter(silent).map(|node| node.id.clone()).collect()
    }

    /// Links that one of their ends says it cannot use.
    pub(super) fn links_down(&self) -> BTreeSet<LinkId> {
        let own = &self.setting.node.id;
        let denied = |node: &NodeId, link: &LinkId| match self.peers.reports.get(node) {
            _ if node == own => self.doing.links_seen() && !self.doing.links_up().contains(link),
            Some(heard) => heard.report.links.get(link) != Some(&true),
            None => false,
        };
        let down = |link: &&Link| {
            [&link.a.node, &link.b.node].into_iter().any(|end| denied(end, &link.id))
        };
        let links = self.setting.fabric.links.iter();
        links.filter(down).map(|link| link.id.clone()).collect()
    }

    /// Nodes of the site that do not answer, one line each.
    pub(super) fn silent_neighbours(&self) -> impl Iterator<Item = String> {
        let silent = self.pulses.iter().flatten().filter(|(_, pulse)| pulse.silent);
        silent.map(|(node, _)| format!("neighbour {node} does not answer"))
    }
}
