//! Who was who in one generation of the fabric: what an entry of that time is judged by.
//!
//! An entry names the generation it was written under. Its agent's key, its site and its operator
//! are looked up there and nowhere else, so that an operator who left and a key that was changed
//! take nothing back that is in the log.

use crate::fabric::{Fabric, Operator};
use crate::id::{NodeId, SiteId};
use crate::log::entry::FabricRef;

/// The names and keys of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    pub fabric: FabricRef,
    pub sites: Vec<SiteId>,
    pub nodes: Vec<RosterNode>,
    pub operators: Vec<Operator>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterNode {
    pub id: NodeId,
    pub site: SiteId,
    /// Public nkey (`U...`).
    pub key: String,
}

impl Roster {
    pub fn of(fabric: &Fabric) -> Self {
        let node = |n: &crate::fabric::Node| RosterNode {
            id: n.id.clone(),
            site: n.site.clone(),
            key: n.key.clone(),
        };
        Self {
            fabric: FabricRef { generation: fabric.generation, hash: fabric.hash.clone() },
            sites: fabric.sites.iter().map(|s| s.id.clone()).collect(),
            nodes: fabric.nodes.iter().map(node).collect(),
            operators: fabric.operators.clone(),
        }
    }

    pub fn node(&self, id: &str) -> Option<&RosterNode> {
        self.nodes.iter().find(|n| n.id.as_str() == id)
    }

    pub fn operator_by_key(&self, key: &str) -> Option<&Operator> {
        self.operators.iter().find(|o| o.key == key)
    }
}

/// The rosters that an agent knows: that of its own fabric, and those of generations before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rosters {
    now: Roster,
    past: Vec<Roster>,
}

impl Rosters {
    pub fn new(fabric: &Fabric, past: impl IntoIterator<Item = Roster>) -> Self {
        let now = Roster::of(fabric);
        let past = past.into_iter().filter(|roster| roster.fabric != now.fabric).collect();
        Self { now, past }
    }

    /// The roster of the fabric that the agent runs.
    pub fn now(&self) -> &Roster {
        &self.now
    }

    pub fn of(&self, fabric: &FabricRef) -> Option<&Roster> {
        std::iter::once(&self.now).chain(&self.past).find(|roster| roster.fabric == *fabric)
    }
}

impl From<&Fabric> for Rosters {
    fn from(fabric: &Fabric) -> Self {
        Self::new(fabric, [])
    }
}
