//! What a command would do, node by node and step by step: the text that `plan` prints and the
//! operations that the agents then carry out come from the same functions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Plan, plan};
use crate::fabric::Node;
use crate::id::{NodeId, ServiceId};
use crate::log::intent::Intent;
use crate::lower::object::{Layout, NodeState};
use crate::lower::{LinksUp, Neighbours, Place, lower};
use crate::place::place;
use crate::task::acks::Course;
use crate::task::decide::{Present, Proposal, planned};
use crate::task::steps::{StepKind, old_answers_live};

/// A task as it would run if nothing changed meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    pub steps: Vec<PreviewStep>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewStep {
    /// 0 is what changes when the task takes effect, before its first step.
    pub number: u32,
    pub kind: Option<StepKind>,
    pub services: Vec<ServiceId>,
    pub delay: Duration,
    /// Nodes that must acknowledge.
    pub required: BTreeSet<NodeId>,
    /// Nodes that are said to be off, and carry it out when they can.
    pub owed: BTreeSet<NodeId>,
    /// Facts from outside without which it does not start.
    pub gates: BTreeSet<String>,
    /// For a withdrawal: how long answers that lead to the old site may still be kept when it
    /// begins. Absent where addresses in DNS do not change.
    pub old_answers: Option<Duration>,
    /// Per node, what it does. Nodes that do nothing are left out.
    pub nodes: BTreeMap<NodeId, Plan>,
}

/// What each node sees and uses: its own links, as it last reported them, and its neighbours.
pub struct NodeViews<'a> {
    pub layout: &'a Layout,
    pub links_up: &'a dyn Fn(&NodeId) -> LinksUp,
    pub neighbours: &'a dyn Fn(&Node) -> Neighbours,
}

pub fn preview(present: Present<'_>, proposal: &Proposal, views: &NodeViews<'_>) -> Preview {
    let task = planned();
    let Present { world, intent, home, .. } = present;
    let effect = &proposal.effect;
    let course = Course { world, before: intent, task: &task, site: home, effect };
    let mut states = node_states(present, &intent.without_waiting(), views);
    let mut preview = Preview { steps: Vec::new() };
    let on_effect = node_states(present, &course.intent_at(0), views);
    preview.steps.push(PreviewStep {
        number: 0,
        kind: None,
        services: Vec::new(),
        delay: Duration::ZERO,
        required: BTreeSet::new(),
        owed: BTreeSet::new(),
        gates: BTreeSet::new(),
        old_answers: None,
        nodes: plans(&states, &on_effect),
    });
    states = on_effect;
    for step in &effect.steps {
        let after = node_states(present, &course.intent_at(step.number), views);
        preview.steps.push(PreviewStep {
            number: step.number,
            kind: Some(step.kind),
            services: step.states.keys().cloned().collect(),
            delay: step.delay,
            required: step.required.clone(),
            owed: step.owed.clone(),
            gates: step.gates.clone(),
            old_answers: old_answers_live(world, effect, step.number)
                .filter(|_| step.kind == StepKind::Withdraw),
            nodes: plans(&states, &after),
        });
        states = after;
    }
    preview.steps.retain(|step| step.number > 0 || !step.nodes.is_empty());
    preview
}

fn node_states(
    present: Present<'_>,
    intent: &Intent,
    views: &NodeViews<'_>,
) -> BTreeMap<NodeId, NodeState> {
    let placement = place(present.world, intent);
    let state = |node: &Node| {
        let (links_up, neighbours) = (&(views.links_up)(&node.id), &(views.neighbours)(node));
        let layout = views.layout;
        let at = Place { world: present.world, layout, node, links_up, neighbours };
        (node.id.clone(), lower(at, &placement))
    };
    present.world.fabric.nodes.iter().map(state).collect()
}

fn plans(
    before: &BTreeMap<NodeId, NodeState>,
    after: &BTreeMap<NodeId, NodeState>,
) -> BTreeMap<NodeId, Plan> {
    let of = |(node, desired): (&NodeId, &NodeState)| {
        let plan = plan(desired, before.get(node)?);
        (!plan.is_empty()).then(|| (node.clone(), plan))
    };
    after.iter().filter_map(of).collect()
}
