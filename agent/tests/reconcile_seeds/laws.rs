//! What holds at every write, whatever went wrong before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use nett_agent::kernel::{Foreign, Parts};
use nett_policy::fabric::Family;
use nett_policy::lower::object::{
    Layout, Nexthop, NexthopId, NodeState, RouteKey, RouteTarget, Rule, RuleAction,
};
use nett_policy::plan::{Object, Op};
use tokio::time::Instant;

use crate::fates::Fate;
use crate::stage::Stage;

/// What is looked at together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Nexthops,
    Rules,
    Guard,
    Tables,
}

// === impl Part ===

impl Part {
    pub(crate) const ALL: [Self; 4] = [Self::Nexthops, Self::Rules, Self::Guard, Self::Tables];

    /// Routes are whole again only with a look at everything in use.
    pub(crate) fn of(parts: &Parts) -> Vec<Self> {
        let Parts { interfaces: _, nexthops, rules, guard, tables: _ } = parts;
        let tables = *rules && *guard;
        let all = [*nexthops, *rules, *guard, tables];
        Self::ALL.into_iter().zip(all).filter(|(_, is)| *is).map(|(part, _)| part).collect()
    }
}

pub(crate) fn covers(parts: &Parts, object: &Object) -> bool {
    match object {
        Object::Nexthop(_) => parts.nexthops,
        Object::Route(key) => parts.tables.contains(&(Family::of_net(key.destination), key.table)),
        Object::Rule(_) => parts.rules,
        Object::Guard => parts.guard,
    }
}

/// What differs.
pub(crate) fn difference(one: &NodeState, other: &NodeState) -> BTreeSet<Object> {
    let mut objects = BTreeSet::new();
    let nexthops = one.nexthops.keys().chain(other.nexthops.keys());
    let nexthops = nexthops.filter(|id| one.nexthops.get(id) != other.nexthops.get(id));
    objects.extend(nexthops.map(|id| Object::Nexthop(*id)));
    let routes = one.routes.keys().chain(other.routes.keys());
    let routes = routes.filter(|key| one.routes.get(key) != other.routes.get(key));
    objects.extend(routes.map(|key| Object::Route(*key)));
    let rules = one.rules.symmetric_difference(&other.rules);
    objects.extend(rules.map(|rule| Object::Rule(rule.clone())));
    if one.guard != other.guard {
        objects.insert(Object::Guard);
    }
    objects
}

pub(crate) fn is_there(object: &Object, state: &NodeState) -> bool {
    match object {
        Object::Nexthop(id) => state.nexthops.contains_key(id),
        Object::Route(key) => state.routes.contains_key(key),
        Object::Rule(rule) => state.rules.contains(rule),
        Object::Guard => state.guard.is_some(),
    }
}

pub(crate) fn is_same(object: &Object, one: &NodeState, other: &NodeState) -> bool {
    match object {
        Object::Nexthop(id) => one.nexthops.get(id) == other.nexthops.get(id),
        Object::Route(key) => one.routes.get(key) == other.routes.get(key),
        Object::Rule(rule) => one.rules.contains(rule) == other.rules.contains(rule),
        Object::Guard => one.guard == other.guard,
    }
}

/// The place of ours that something of somebody else's has.
pub(crate) fn place_of(foreign: &Foreign) -> Option<Object> {
    match foreign {
        Foreign::Route { key, .. } => Some(Object::Route(*key)),
        Foreign::Nexthop { id, .. } => Some(Object::Nexthop(*id)),
        Foreign::NftTable => Some(Object::Guard),
        Foreign::Rule { .. }
        | Foreign::RouteElsewhere { .. }
        | Foreign::RuleElsewhere { .. }
        | Foreign::NexthopElsewhere { .. } => None,
    }
}

fn place_is_taken(op: &Op, foreign: &[Foreign]) -> bool {
    let object = op.object();
    foreign.iter().any(|one| place_of(one).is_some_and(|place| Some(&place) == object.as_ref()))
}

/// An operation on a place that somebody took after it was read.
pub(crate) fn meets_unseen(op: &Op, foreign: &[Foreign], unseen: &BTreeSet<Object>) -> bool {
    place_is_taken(op, foreign) && op.object().is_some_and(|object| unseen.contains(&object))
}

/// What an operation needs to be allowed, before it is carried out.
pub(crate) fn before(stage: &Stage, op: &Op) -> Result<(), String> {
    let Some(object) = op.object() else { return Err("is not the kernel's".to_owned()) };
    if stage.plans.is_empty() {
        return Err("nothing is wanted yet".to_owned());
    }
    let adds = matches!(op, Op::AddNexthop(..) | Op::AddRoute(..) | Op::LoadGuard { .. });
    if !adds && place_is_taken(op, &stage.foreign) {
        return Err("changes what is somebody else's".to_owned());
    }
    if op.deletes() {
        if !stage.torn.is_empty() {
            return Err(format!("deletes although {:?} was not read whole", stage.torn));
        }
        if stage.strangers.contains(&object) {
            return Err("deletes what this agent did not put there".to_owned());
        }
    }
    // One of the wishes that it can be for must allow it.
    let mut reasons = stage.plans.iter().map(|plan| ordered(stage, op, &object, plan));
    let first = reasons.next().unwrap_or(Ok(()));
    if first.is_err() && reasons.any(|result| result.is_ok()) { Ok(()) } else { first }
}

/// Nothing is used before it is there, and nothing goes before it is unused.
fn ordered(stage: &Stage, op: &Op, object: &Object, plan: &NodeState) -> Result<(), String> {
    let state = stage.kernel.state();
    let seen = |object: &Object| !stage.unseen.contains(object);
    match op {
        Op::DeleteNexthop(id, _) => {
            // What the kernel cannot change in place is made anew.
            let there = state.nexthops.get(id);
            let anew = |to| there.is_some_and(|from: &Nexthop| !from.becomes(to));
            if plan.nexthops.get(id).is_some_and(|to| !anew(to)) {
                return Err("deletes what is wanted".to_owned());
            }
            let user = user_of(*id, state).find(seen);
            user.map_or(Ok(()), |user| Err(format!("deletes what {user} uses")))
        }
        _ if op.deletes() && is_there(object, plan) => Err("deletes what is wanted".to_owned()),
        Op::DeleteRoute(key, _) => {
            let looks = |rule: &&Rule| looks_into(rule, key) && !plan.rules.contains(*rule);
            let rule = state.rules.iter().filter(|r| seen(&Object::Rule((*r).clone()))).find(looks);
            rule.map_or(Ok(()), |rule| Err(format!("{rule} still looks there")))
        }
        Op::AddRule(rule) => rule_added(stage, rule, plan),
        Op::ReplaceRoute { to: RouteTarget::Nexthop(id), .. } => {
            let ready = state.nexthops.get(id) == plan.nexthops.get(id);
            let ready = ready || !seen(&Object::Nexthop(*id));
            if ready { Ok(()) } else { Err(format!("{id} is not as it should be yet")) }
        }
        _ => Ok(()),
    }
}

/// A rule brings packets to a table: the floors there, and the table that guards, come first.
fn rule_added(stage: &Stage, rule: &Rule, plan: &NodeState) -> Result<(), String> {
    let state = stage.kernel.state();
    let seen = |object: &Object| !stage.unseen.contains(object);
    if plan.guard.is_some() && state.guard.is_none() && seen(&Object::Guard) {
        return Err("comes before the table that guards".to_owned());
    }
    // Only connections that the table has marked follow it.
    let kept = rule.fwmark.is_some_and(|(m, _)| m & Layout::MARK_CLASS == Layout::MARK_KEPT);
    if kept {
        return Ok(());
    }
    let wall = plan.rules.iter().find(|wall| {
        !is_wall(rule)
            && is_wall(wall)
            && wall.priority < rule.priority
            && wall.family == rule.family
            && meet(rule, wall)
            && !state.rules.contains(*wall)
            && seen(&Object::Rule((*wall).clone()))
    });
    if let Some(wall) = wall {
        return Err(format!("comes before {wall}, which stops what is not to come so far"));
    }
    let floor = plan.routes.keys().find(|key| {
        key.metric == Layout::METRIC_FLOOR
            && looks_into(rule, key)
            && !state.routes.contains_key(key)
            && seen(&Object::Route(**key))
    });
    floor.map_or(Ok(()), |key| Err(format!("comes before its floor {key}")))
}

/// Whether a packet can match both, by where it came in.
fn meet(one: &Rule, other: &Rule) -> bool {
    match (&one.iif, &other.iif) {
        (Some(one), Some(other)) => one == other,
        (None, _) | (_, None) => true,
    }
}

fn looks_into(rule: &Rule, key: &RouteKey) -> bool {
    rule.family == Family::of_net(key.destination)
        && matches!(rule.action, RuleAction::Lookup { table, .. } if table == key.table)
}

fn user_of(id: NexthopId, state: &NodeState) -> impl Iterator<Item = Object> {
    let routes = state.routes.iter().filter(move |(_, to)| **to == RouteTarget::Nexthop(id));
    let routes = routes.map(|(key, _)| Object::Route(*key));
    let groups = state.nexthops.iter().filter(move |(_, nexthop)| match nexthop {
        Nexthop::Group { members, .. } => members.contains_key(&id),
        Nexthop::Single { .. } | Nexthop::Blackhole { .. } => false,
    });
    routes.chain(groups.map(|(id, _)| Object::Nexthop(*id))).collect::<Vec<_>>().into_iter()
}

/// No write of ours lets a packet out that was held, or sends it a way that nobody asked for.
pub(crate) fn after(stage: &Stage, before: &[Fate], after: &[Fate]) -> Result<(), String> {
    for (n, packet) in stage.packets.iter().enumerate() {
        let (was, is) = (&before[n], &after[n]);
        if was == is {
            continue;
        }
        match is {
            Fate::Leaks => return Err(format!("lets {packet:?} out, which {was:?}")),
            Fate::Stopped => {}
            // Whoever else changed our objects, or took a rule that stops packets, is why.
            Fate::Goes(_) if !stage.bent.is_empty() || lacks_a_wall(stage) => {}
            Fate::Goes(ways) => {
                let was = matches!(was, Fate::Goes(all) if ways.is_subset(all));
                if !was && !stage.asked.iter().any(|wish| ways.is_subset(&wish.ways[n])) {
                    return Err(format!("sends {packet:?} by {ways:?}, as nobody asked"));
                }
            }
        }
    }
    Ok(())
}

fn lacks_a_wall(stage: &Stage) -> bool {
    let state = stage.kernel.state();
    let wanted = stage.plans.iter().flat_map(|plan| &plan.rules);
    wanted.filter(|rule| is_wall(rule)).any(|rule| !state.rules.contains(rule))
}

fn is_wall(rule: &Rule) -> bool {
    rule.action == RuleAction::Unreachable
}

/// How many writes there are in a second.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    writes: BTreeMap<Object, VecDeque<Instant>>,
    disturbed: VecDeque<Instant>,
}

/// Within this time tries of one object are counted.
const SECOND: Duration = Duration::from_secs(1);
/// Tries of one object in a second with nothing new: the pauses begin with 0.1 s and double.
const TRIES: usize = 6;
/// And for each thing that happened: as often as one look is followed by a round.
const ROUNDS: usize = 3;

// === impl Pace ===

impl Pace {
    pub(crate) fn disturbed(&mut self, at: Instant) {
        self.disturbed.push_back(at);
    }

    /// Notes a write; the text says that there are too many.
    pub(crate) fn wrote(&mut self, op: &Op, at: Instant) -> Option<String> {
        let object = op.object()?;
        let times = self.writes.entry(object).or_default();
        times.push_back(at);
        while times.front().is_some_and(|first| at.duration_since(*first) > SECOND) {
            times.pop_front();
        }
        while self.disturbed.front().is_some_and(|first| at.duration_since(*first) > 2 * SECOND) {
            self.disturbed.pop_front();
        }
        let (tries, most) = (times.len(), TRIES + ROUNDS * self.disturbed.len());
        (tries > most).then(|| format!("{op}: tried {tries} times in a second, at most {most}"))
    }
}
