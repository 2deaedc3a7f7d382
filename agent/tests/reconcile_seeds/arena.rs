//! The fabrics of the fixtures, each with a row of intents that operators came to one after the
//! other: what a node is to have at any of them is what the agent would make of it.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use fastrand::Rng;
use nett_agent::reconcile::OwnLink;
use nett_policy::document::{SourceFile, compile};
use nett_policy::fabric::{Family, Node};
use nett_policy::lower::object::{Layout, NodeState};
use nett_policy::lower::{LinksUp, Neighbours, Place, lower_kernel};
use nett_policy::place::{Placement, place};

use crate::desk::{Desk, Nodes, Order};
use crate::ground::Ground;

/// Commands that are given one after the other.
const ORDERS: usize = 40;
/// By which packets come that no other interface of the fabric takes.
pub(crate) const UPLINK: &str = "uplink";

/// A fabric through time.
pub(crate) struct Arena {
    pub(crate) ground: Ground,
    /// Every step of every task, in the order in which they were done.
    pub(crate) placements: Vec<Placement>,
}

pub(crate) static ARENAS: LazyLock<Vec<Arena>> = LazyLock::new(|| {
    let grounds = [Ground::two_sites(), Ground::resilient(), pairs()];
    grounds.into_iter().zip(0..).map(|(ground, seed)| Arena::new(ground, seed)).collect()
});

fn pairs() -> Ground {
    let file = |name: &str| {
        let text = nett_fixtures::fabric_file("pairs", name).expect("a fixture");
        SourceFile::new(text.name, text.text)
    };
    let compiled = compile(&file("fabric.toml"), &file("services.toml"));
    let (fabric, catalog) = compiled.expect("the fixture is valid");
    Ground { fabric, catalog, layout: Layout::default() }
}

// === impl Arena ===

impl Arena {
    fn new(ground: Ground, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut desk = Desk::new(&ground, 0);
        let mut placements = vec![place(ground.world(), &desk.intent())];
        for _ in 0..ORDERS {
            desk.order(1, &order(&mut rng), false);
            desk.wish(0, 0, true);
            while desk.advance(Nodes::Done).is_some() {
                let next = place(ground.world(), &desk.intent());
                if placements.last() != Some(&next) {
                    placements.push(next);
                }
            }
        }
        Self { ground, placements }
    }

    /// What a node is to have at a step.
    pub(crate) fn state(&self, node: &Node, step: usize, links_up: &LinksUp) -> NodeState {
        let (world, layout) = (self.ground.world(), &self.ground.layout);
        let neighbours = &Neighbours::default();
        let at = Place { world, layout, node, links_up, neighbours };
        lower_kernel(at, &self.placements[step])
    }

    pub(crate) fn links(&self, node: &Node) -> Vec<OwnLink> {
        let own = |view: nett_policy::fabric::LinkView<'_>| OwnLink {
            link: view.link.id.clone(),
            interface: view.near.interface.clone(),
            peer: view.far_site.clone(),
            addresses: view.near.addresses.clone(),
            gateways: Family::BOTH.into_iter().filter_map(|family| view.gateway(family)).collect(),
        };
        self.ground.fabric.links_of(&node.id).map(own).collect()
    }

    /// Everything by which packets come to a node.
    pub(crate) fn interfaces(&self, node: &Node) -> BTreeSet<String> {
        let outer = self.ground.fabric.outer_interfaces(node).into_iter();
        outer.chain([node.core.clone(), UPLINK.to_owned()]).collect()
    }
}

fn order(rng: &mut Rng) -> Order {
    let (service, site, on) = (rng.usize(0..3), rng.usize(0..2), rng.bool());
    match rng.u8(0..7) {
        0 => Order::Failover { service, to: site },
        1 => Order::Failback { service },
        2 | 3 => Order::Steer { service, weights: (rng.u32(1..=256), rng.u32(0..=256)) },
        4 => Order::DrainSite { site, on },
        5 => Order::DrainService { service, site, on },
        _ => Order::Revert { task: rng.usize(0..8) },
    }
}
