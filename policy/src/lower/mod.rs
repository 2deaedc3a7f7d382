//! From a placement to what one node should have: kernel objects, guards and DNS answers.
//!
//! The same function serves the agent for its own node and `plan` for every node. What a node sees
//! of its links is an argument: a link without carrier takes no nexthop object, so it is left out
//! of every group; the group of a class that would be empty holds a blackhole, and without another
//! group a route becomes `unreachable`. So is what it knows of the other nodes of its site.

pub mod answers;
mod between;
mod choice;
mod classes;
mod failover;
mod guard;
mod links;
mod mac;
mod neighbours;
pub mod object;
pub mod resilient;
mod routes;
mod rules;
mod sets;
mod transit;
mod ways;

use std::sync::Arc;

use crate::fabric::{Node, Role};
use crate::log::intent::World;
use crate::place::{Placed, Placement};
use crate::service::FixedAnswers;
use answers::{Answers, ServiceAnswers, Standings};
use choice::Choice;
pub use links::LinksUp;
pub use neighbours::{Neighbour, Neighbours, beyond};
use object::{Layout, NodeState};

/// What lowering needs beside the placement.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub world: World<'a>,
    pub layout: &'a Layout,
    pub node: &'a Node,
    /// Links of the node that can carry packets now.
    pub links_up: &'a LinksUp,
    /// The other nodes of its site.
    pub neighbours: &'a Neighbours,
}

/// What `place.node` should have. A witness has answers only.
pub fn lower(place: Place<'_>, placement: &Placement) -> NodeState {
    let answers = answers(place.world, placement);
    NodeState { answers, ..lower_kernel(place, placement) }
}

/// As [`lower`], without the answers, which are the same for all nodes.
pub fn lower_kernel(place: Place<'_>, placement: &Placement) -> NodeState {
    let mut state = NodeState::default();
    if place.node.role != Role::Witness {
        let choice = Choice { place, drained: &placement.drained, residency: &[] };
        between::inter_site(choice, &mut state);
        let alike = routes::services(choice, placement, &mut state);
        routes::floors(place, &mut state);
        rules::rules(place, &mut state);
        let guard = guard::guard(place, &alike);
        if guard.keeps() {
            rules::kept(place, &mut state);
        }
        state.guard = Some(guard);
    }
    state
}

/// What every name server of the fabric answers.
pub fn answers(world: World<'_>, placement: &Placement) -> Answers {
    let mut standings = Standings::default();
    let of = |fixed: &Arc<FixedAnswers>| {
        let placed = placement.services.get(&fixed.service)?;
        Some((fixed.service.clone(), answers_of(fixed, placed, &mut standings)))
    };
    world.catalog.answers().filter_map(of).collect()
}

/// All links of the fabric: what other nodes are assumed to see.
pub fn all_links(world: World<'_>) -> LinksUp {
    world.fabric.links.iter().map(|l| l.id.clone()).collect()
}

/// What every name server answers for one service.
pub fn answers_of(
    fixed: &Arc<FixedAnswers>,
    placed: &Placed,
    standings: &mut Standings,
) -> ServiceAnswers {
    let standing = standings.of_placed(fixed, placed);
    ServiceAnswers { fixed: Arc::clone(fixed), epoch: placed.epoch, standing }
}
