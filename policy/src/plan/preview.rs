//! What a command would do, node by node and step by step: the text that `plan` prints and the
//! operations that the agents then carry out come from the same functions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Op, Plan, answer_ops, plan_kernel, remarks};
use crate::fabric::Node;
use crate::id::{NodeId, ServiceId, SiteId};
use crate::log::effect::Effect;
use crate::log::intent::{Intent, World};
use crate::lower::answers::Answers;
use crate::lower::object::Layout;
use crate::lower::{LinksUp, Neighbours, Place, answers, lower_kernel};
use crate::place::{Placement, place};
use crate::task::acks::Course;
use crate::task::decide::{Proposal, planned};
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
    /// What it means for connections.
    pub remarks: Vec<String>,
    /// Per node, what it does. Nodes that do nothing are left out.
    pub nodes: BTreeMap<NodeId, Plan>,
}

/// What each node sees and uses: its own links, as it last reported them, and its neighbours.
pub struct NodeViews<'a> {
    pub layout: &'a Layout,
    pub links_up: &'a dyn Fn(&NodeId) -> LinksUp,
    pub neighbours: &'a dyn Fn(&Node) -> Neighbours,
}

/// What a task begins with.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    pub world: World<'a>,
    pub intent: &'a Intent,
    /// The site that decides.
    pub home: &'a SiteId,
}

/// Takes its time: every node's state at every step is made anew, for each of its services.
pub fn preview(before: Before<'_>, proposal: &Proposal, views: &NodeViews<'_>) -> Preview {
    let task = planned();
    let Before { world, intent, home } = before;
    let effect = &proposal.effect;
    let course = Course { world, before: intent, task: &task, site: home, effect };
    let placed = |intent: &Intent| place(world, intent);
    let mut placements = vec![placed(&intent.without_waiting()), placed(&course.intent_at(0))];
    let mut steps = vec![on_effect(effect)];
    for step in &effect.steps {
        placements.push(placed(&course.intent_at(step.number)));
        steps.push(PreviewStep {
            number: step.number,
            kind: Some(step.kind),
            services: step.states.keys().cloned().collect(),
            delay: step.delay,
            required: step.required.clone(),
            owed: step.owed.clone(),
            gates: step.gates.clone(),
            old_answers: old_answers_live(world, effect, step.number)
                .filter(|_| step.kind == StepKind::Withdraw),
            remarks: remarks::of_step(world, effect, step),
            nodes: BTreeMap::new(),
        });
    }
    put_plans(&mut steps, &placements, world, views);
    steps.retain(|step| step.number > 0 || !step.nodes.is_empty());
    Preview { steps }
}

/// What changes before the first step.
fn on_effect(effect: &Effect) -> PreviewStep {
    PreviewStep {
        number: 0,
        kind: None,
        services: Vec::new(),
        delay: Duration::ZERO,
        required: BTreeSet::new(),
        owed: BTreeSet::new(),
        gates: BTreeSet::new(),
        old_answers: None,
        remarks: remarks::on_effect(effect),
        nodes: BTreeMap::new(),
    }
}

/// Puts into each step what the nodes do between the placement before it and its own, the next one.
/// With very many services the state of a node is large: there are two of them at a time.
fn put_plans(
    steps: &mut [PreviewStep],
    placements: &[Placement],
    world: World<'_>,
    views: &NodeViews<'_>,
) {
    let answers = placements.iter().map(|placement| answers(world, placement));
    let answers: Vec<Answers> = answers.collect();
    let told: Vec<Vec<Op>> = answers.windows(2).map(|w| answer_ops(&w[1], &w[0])).collect();
    for node in &world.fabric.nodes {
        let (links_up, neighbours) = (&(views.links_up)(&node.id), &(views.neighbours)(node));
        let at = Place { world, layout: views.layout, node, links_up, neighbours };
        let mut before = lower_kernel(at, &placements[0]);
        for ((step, pair), told) in steps.iter_mut().zip(placements.windows(2)).zip(&told) {
            let mut plan = Plan { ops: Vec::new() };
            if pair[0] != pair[1] {
                let after = lower_kernel(at, &pair[1]);
                plan = plan_kernel(&after, &before);
                before = after;
            }
            plan.ops.extend(told.iter().cloned());
            if !plan.is_empty() {
                step.nodes.insert(node.id.clone(), plan);
            }
        }
    }
}
