//! The voters change while things go wrong: one is added and one of the first removed, by files
//! that each node gets at a time of its own, in any order but for what the manual says of it. What
//! must hold of leases holds throughout, and in the end everybody counts by the last generation.

use std::sync::Arc;
use std::time::Duration;

use nett_policy::fabric::{Fabric, VoterChange, VoterStep};
use nett_policy::id::{Generation, NodeId, SiteId};

use crate::world::{Happening, World, ms};

/// The fabrics of the generations after the first: a voter more at the last site, and one less at
/// the first.
fn generations(first: &Fabric) -> Vec<Arc<Fabric>> {
    let sites: Vec<&SiteId> = first.sites.iter().map(|site| &site.id).collect();
    let (from, to) = (sites[0], sites[sites.len() - 1]);
    let one = |fabric: &Fabric, generation: u64, node: &NodeId, votes: bool| {
        let mut fabric = fabric.clone();
        fabric.nodes.iter_mut().filter(|n| n.id == *node).for_each(|n| n.voter = votes);
        let change = match votes {
            true => VoterChange::Added(node.clone()),
            false => VoterChange::Removed(node.clone()),
        };
        let generation = Generation(generation);
        fabric.voter_step = VoterStep { generation, change, lease: fabric.lease };
        fabric
    };
    let of = |site: &SiteId, votes: bool| {
        let node = first.nodes.iter().find(|n| n.site == *site && n.voter == votes);
        node.map(|node| node.id.clone()).expect("a node of that site")
    };
    let second = one(first, 2, &of(to, false), true);
    let third = one(&second, 3, &of(from, true), false);
    [second, third].map(Arc::new).to_vec()
}

impl World {
    /// Times at which each node gets the files of the next generations, one half of the time each.
    pub(crate) fn plan_voters(&mut self, time: Duration) {
        self.generations = generations(&self.fabric);
        let half = u64::try_from(time.as_millis()).expect("a short run") / 2;
        let nodes: Vec<NodeId> = self.agents.keys().cloned().collect();
        for (at, begin) in [(0, 0), (1, half)] {
            for node in nodes.clone() {
                let delay = begin + self.rng.u64(0..half);
                self.at(ms(delay), Happening::File { node, at });
            }
        }
    }

    /// Who gives the files waits until the voters have run a generation for the wait before the
    /// next, and gives that to the voter that is removed last.
    fn is_time(&self, node: &NodeId, at: usize) -> bool {
        let Some(before) = at.checked_sub(1).map(|before| &self.generations[before]) else {
            return true;
        };
        let file = |agent: &crate::agent::Agent| agent.setting.fabric.voter_step.generation;
        let next = self.generations[at].voter_step.generation;
        let runs = |voter: &NodeId| {
            let agent = &self.agents[voter];
            let now = agent.lease.mono(self.now);
            let runs = agent.controller.lease().and_then(|lease| lease.runs());
            runs.filter(|runs| runs.entered && now >= runs.since + before.lease.wait)
        };
        let have_run = before.voters().all(|voter| {
            runs(&voter.id).is_some_and(|runs| runs.generation >= next.before())
                || file(&self.agents[&voter.id]) == next
        });
        let is_removed = before.voters().any(|voter| voter.id == *node)
            && self.generations[at].voters().all(|voter| voter.id != *node);
        let mut voters = self.generations[at].voters();
        have_run
            && (!is_removed || voters.all(|v| runs(&v.id).is_some_and(|r| r.generation == next)))
    }

    /// True when every node has the last file.
    pub(crate) fn has_files(&self) -> bool {
        let last = self.generations.last();
        self.agents.values().all(|agent| Some(&agent.setting.fabric) == last)
    }

    /// A node gets the file of a generation; its agent begins anew where it runs.
    pub(crate) fn give_file(&mut self, node: &NodeId, at: usize) {
        if !self.is_time(node, at) {
            return self.at(ms(1000), Happening::File { node: node.clone(), at });
        }
        let fabric = self.generations[at].clone();
        self.note(format!("{node} gets generation {} of the voters", at + 2));
        let alive = self.agents[node].alive;
        if alive {
            self.kill(node);
        }
        let setting = &mut self.agent(node).setting;
        setting.node = fabric.node(node).expect("it stays in the file").clone();
        setting.fabric = fabric;
        if alive {
            self.start(node, true);
        }
    }

    /// The node that votes for a site, in whatever generation.
    pub(crate) fn voter_of(&self, site: &SiteId) -> Option<NodeId> {
        let all = std::iter::once(&self.fabric).chain(&self.generations);
        let mut voters = all.flat_map(|fabric| fabric.voters());
        voters.find(|node| node.site == *site).map(|node| node.id.clone())
    }

    /// Everybody counts by the last generation, and its voters run it.
    pub(crate) fn check_voters(&self) -> Result<(), String> {
        let last = Generation(1 + self.generations.len() as u64);
        for (node, agent) in &self.agents {
            let Some(lease) = agent.controller.lease() else { continue };
            let why = lease.rises_not().map(ToString::to_string).unwrap_or_default();
            if lease.runs().is_some_and(|runs| runs.generation != last || !runs.entered) {
                return Err(format!("{node} runs {:?}: {why}", lease.runs()));
            }
            if lease.counts_by() != last {
                return Err(format!("{node} counts by generation {}", lease.counts_by()));
            }
        }
        Ok(())
    }
}
