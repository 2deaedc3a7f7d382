//! Judges a command: what it would do, or which rule refuses it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub use super::admit::{CLOCK_SKEW, admit, judge_wish};
pub use super::aim::planned;
use super::aim::{Aim, aim, undo};
use crate::fabric::{Fabric, Operator};
use crate::fact::Facts;
use crate::id::{EntryId, Generation, LinkId, NodeId, ServiceId, SiteId, WallMs};
use crate::lease::admission;
use crate::log::conflict::Claims;
use crate::log::entry::{
    Ask, Change, Command, Directive, Effect, Move, Object, Request, Subject, Terms, Verb, Write,
};
use crate::log::fold::Fold;
use crate::log::intent::{Intent, World};
use crate::safety::{self, Flows};
use crate::service::{Handover, Service};
use crate::task::acks::Course;
use crate::task::external::ask_outside;
use crate::task::hash::plan_hash;
use crate::task::reroutes::reroutes;
use crate::task::steps::{Manner, Outside, steps};
use crate::task::view::{first_effect, is_open, state};
use crate::traffic::Spread;

/// What a command would do if it were effective now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    pub effect: Arc<Effect>,
    /// Of everything that an approver approves: writes, moves, steps, and the fabric they are for.
    pub plan_hash: String,
    pub approvals_needed: u8,
    /// The services named or moved, sorted.
    pub services: BTreeSet<ServiceId>,
    /// Open tasks that end when the command is accepted.
    pub supersedes: Vec<EntryId>,
    /// Since when a site that services leave has not been heard.
    pub bad_since: Option<WallMs>,
}

/// Why a request is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub kind: RefusalKind,
    /// The rule or check by its name.
    pub refused_by: String,
    pub message: String,
    /// What to do instead, or the exact override.
    pub hint: Option<String>,
}

/// Who has to act on a refusal; decides the exit status of `nettctl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request names something that does not exist: exit 2.
    Usage,
    /// A rule forbids it: exit 4.
    Rule,
    /// The state is not the one the request was made for: exit 7.
    Changed,
}

/// What the decision is made on.
#[derive(Debug, Clone, Copy)]
pub struct Present<'a> {
    pub world: World<'a>,
    pub fold: &'a Fold,
    pub intent: &'a Intent,
    pub claims: &'a Claims,
    /// The site that decides.
    pub home: &'a SiteId,
    pub sight: &'a Sight,
}

/// What the deciding agent knows beside the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sight {
    pub now: WallMs,
    /// How long ago the node was heard that was silent the longest.
    pub age: Duration,
    /// Nodes that were heard a moment ago and run another fabric.
    pub mismatched: BTreeSet<NodeId>,
    /// Sites of which nothing was heard for too long.
    pub silent: BTreeSet<SiteId>,
    /// When each of them was heard last, where it ever was.
    pub last_heard: BTreeMap<SiteId, WallMs>,
    /// The voters that answered this node a moment ago.
    pub voters: BTreeSet<SiteId>,
    /// The generation of voters that this node counts now; that of its file when not given.
    pub counted: Option<Generation>,
    /// Services that were taken without a majority, with the sets of voters of each of which one
    /// has to vote for whatever comes next.
    pub bound: BTreeMap<ServiceId, Vec<BTreeSet<SiteId>>>,
    /// Nodes of which nothing was heard for too long.
    pub away: BTreeSet<NodeId>,
    /// Links that one of their ends says it cannot use.
    pub down: BTreeSet<LinkId>,
    /// What crosses between sites, of those pairs where every border has counted for long enough.
    pub flows: Flows,
    /// What outside reporters say.
    pub facts: Facts,
}

// === impl Refusal ===

impl Refusal {
    pub fn rule(name: &str, message: impl Into<String>) -> Self {
        Self {
            kind: RefusalKind::Rule,
            refused_by: name.to_owned(),
            message: message.into(),
            hint: None,
        }
    }

    pub fn usage(name: &str, message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Usage, ..Self::rule(name, message) }
    }

    pub fn changed(name: &str, message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Changed, ..Self::rule(name, message) }
    }

    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// Judges a command, its author's services and its plan hash included.
pub fn judge(present: Present<'_>, request: &Request) -> Result<Proposal, Refusal> {
    let Ask::Command { verb, plan_hash, overrides, terms } = &request.ask else {
        return Err(Refusal::usage("not-a-command", "a wish opens no task"));
    };
    let mut proposal = propose(present, verb, overrides, terms)?;
    if let Some(operator) = present.world.fabric.operator_by_key(&request.person.key) {
        check_services(present.world, operator, &proposal)?;
        if let Verb::Revoke { person } = verb {
            super::admit::may_revoke(present.world, operator, person)?;
            if *person == operator.name {
                proposal.approvals_needed = 0;
            }
        }
    }
    match plan_hash {
        Some(hash) if *hash != proposal.plan_hash => Err(Refusal::changed(
            "plan-hash",
            "the state changed since the plan: its hash is another one now",
        )
        .hint("run `nettctl plan` again and look at the difference")),
        Some(_) | None => Ok(proposal),
    }
}

/// What a verb would do now.
pub fn propose(
    present: Present<'_>,
    verb: &Verb,
    overrides: &BTreeSet<String>,
    terms: &Terms,
) -> Result<Proposal, Refusal> {
    known_rules(present, overrides)?;
    super::admit::known_nodes(present, &terms.asserted)?;
    super::admit::fitting_terms(present, verb, terms)?;
    let anew = !terms.without.is_empty();
    let Aim { named, writes, after, moves } = aim(present, verb, anew)?;
    safety::directed(present, verb, &after)?;
    if terms.soft {
        moves.iter().try_for_each(|one| may_be_soft(present, one))?;
    }
    let easing = present.intent.drained_ways().easing;
    let pins = |w: &Write| match (&w.before, &w.change) {
        _ if !w.settles.is_empty() => false,
        // A task before it was stopped before the cluster was left.
        (_, Change::Drained(Object::Cluster(cluster), true)) if easing.contains(cluster) => false,
        // Nothing sent it elsewhere before, and nothing moves now.
        (Change::Service(_, Directive::Nominal), Change::Service(..)) => true,
        (before, change) => before == change,
    };
    if writes.iter().all(pins) && moves.is_empty() {
        return Err(Refusal::rule("no-change", "everything named is in that state already"));
    }
    let services: BTreeSet<ServiceId> =
        named.into_iter().chain(moves.iter().map(|m| m.service.clone())).collect();
    let supersedes = open_tasks(present, &writes, &moves, terms.supersede)?;
    let change = safety::Change {
        verb,
        after: &after,
        writes: &writes,
        moves: &moves,
        services: &services,
        terms,
        supersedes: &supersedes,
    };
    safety::check(present, change, overrides)?;
    let extra = admission::extra_approvals(present, change);

    let gated = !overrides.contains(safety::GATE);
    let in_waves = matches!(verb, Verb::Evacuate { .. });
    let (world, unhurried, ramp) = (present.world, is_planned(verb), terms.ramp.as_ref());
    let soft = terms.soft;
    let abandoned = abandoned(world.fabric, verb, |node| terms.asserted.contains(node));
    let outside = match verb {
        _ if overrides.contains(safety::EXTERNAL) => Outside::Nobody,
        Verb::Revert { task } => Outside::AskedBy(task),
        _ => Outside::Named,
    };
    let manner = Manner { world, in_waves, abandoned, gated, unhurried, ramp, soft, outside };
    let effect = effect(present, &planned(), writes, moves, manner, &terms.off(world.fabric));
    check_fabric(present, &effect)?;
    let plan_hash = plan_hash(present, verb, &effect, terms);
    let approvals = services.iter().filter_map(|s| present.world.catalog.get(s));
    let mut approvals_needed = match verb {
        // Nothing moves by either.
        Verb::Hold { .. } | Verb::Release { .. } => 0,
        Verb::Revoke { .. } => 1,
        _ => approvals.map(|s| s.approvals).max().unwrap_or(0),
    };
    if !overrides.is_empty() {
        approvals_needed = approvals_needed.max(1);
    }
    approvals_needed = (approvals_needed + extra).min(2);
    if !terms.without.is_empty() {
        approvals_needed = approvals_needed.max(1);
    }
    let bad_since = bad_since(present, &effect.moves);
    let effect = Arc::new(effect);
    Ok(Proposal { effect, plan_hash, approvals_needed, services, supersedes, bad_since })
}

/// Established connections can stay only while new ones have somewhere to go.
fn may_be_soft(present: Present<'_>, one: &Move) -> Result<(), Refusal> {
    let service = &one.service;
    let leased = present.world.catalog.get(service).is_some_and(Service::is_leased);
    let why = match one.handover {
        _ if leased => "serves under a lease, and at one site at a time",
        Handover::BreakBeforeMake => {
            "is handed over break-before-make: its connections end with it"
        }
        Handover::MakeBeforeBreak if one.to.spread == Spread::Nowhere => {
            "has no other site that new connections could go to"
        }
        Handover::MakeBeforeBreak => return Ok(()),
    };
    Err(Refusal::rule("soft", format!("{service} {why}"))
        .hint("without --soft; or drain the services that can be, one by one"))
}

/// When the site was heard last that services are moved away from because it is silent.
fn bad_since(present: Present<'_>, moves: &[Move]) -> Option<WallMs> {
    let left = |site: &SiteId| {
        moves.iter().any(|one| one.from.spread.has(site) && !one.to.spread.has(site))
    };
    let heard = present.sight.last_heard.iter().filter(|(site, _)| left(site));
    heard.map(|(_, at)| *at).min()
}

/// Whether a verb is for moves that were thought of before: with the others something is broken,
/// and every second that an old answer is still waited for is lost.
fn is_planned(verb: &Verb) -> bool {
    match verb {
        Verb::Failback { .. } | Verb::Steer { .. } | Verb::Drain { .. } | Verb::Undrain { .. } => {
            true
        }
        Verb::Failover { .. }
        | Verb::Evacuate { .. }
        | Verb::Revert { .. }
        | Verb::Resolve { .. }
        | Verb::Hold { .. }
        | Verb::Release { .. }
        | Verb::Revoke { .. } => false,
    }
}

/// The site of an evacuation, if all of its nodes are said to be off: nothing there is waited for,
/// and what leaves no other site is no worse off elsewhere.
pub(super) fn abandoned<'a>(
    fabric: &Fabric,
    verb: &'a Verb,
    off: impl Fn(&NodeId) -> bool,
) -> Option<&'a SiteId> {
    let Verb::Evacuate { site, .. } = verb else { return None };
    fabric.serving_nodes(site).all(|node| off(&node.id)).then_some(site)
}

/// What takes a task back that nobody confirmed; `None` when nothing is left to take back.
pub fn propose_undo(present: Present<'_>, command: &Command) -> Option<Effect> {
    let task = &command.request.id;
    let (writes, moves) = undo(present, task)?;
    if writes.is_empty() && moves.is_empty() {
        return None;
    }
    let world = present.world;
    let manner = Manner {
        world,
        in_waves: false,
        abandoned: None,
        gated: false,
        unhurried: false,
        ramp: None,
        soft: false,
        outside: Outside::AskedBy(task),
    };
    let off = match &command.request.ask {
        Ask::Command { terms, .. } => terms.off(world.fabric),
        Ask::Wish { .. } => BTreeSet::new(),
    };
    Some(effect(present, task, writes, moves, manner, &off))
}

/// The whole effect, with its steps and the nodes that acknowledge them.
fn effect(
    present: Present<'_>,
    task: &EntryId,
    writes: Vec<Write>,
    moves: Vec<Move>,
    manner: Manner<'_>,
    asserted: &BTreeSet<NodeId>,
) -> Effect {
    let Present { world, intent, home, .. } = present;
    let rank = world.fabric.rank(home);
    let mut steps = ask_outside(steps(&moves, manner), &moves, present, manner);
    // Behind the others: numbers are places.
    let next = u32::try_from(steps.len() + 1).unwrap_or(u32::MAX);
    steps.extend(reroutes(world, intent, &writes, manner.unhurried, next));
    let mut effect = Effect { rank, writes, moves, steps };
    let course = Course { world, before: intent, task, site: home, effect: &effect };
    course.name_nodes(asserted).take(&mut effect);
    effect
}

/// What is planned for nodes that run another fabric would be done by other rules.
fn check_fabric(present: Present<'_>, effect: &Effect) -> Result<(), Refusal> {
    let mut nodes = effect.steps.iter().flat_map(|step| &step.required);
    match nodes.find(|node| present.sight.mismatched.contains(*node)) {
        None => Ok(()),
        Some(node) => {
            let message = format!("{node} runs another fabric than the one this plan is for");
            Err(Refusal::rule("fabric-mismatch", message)
                .hint("`nettctl node list` shows who has which; bring all nodes to one"))
        }
    }
}

fn known_rules(present: Present<'_>, overrides: &BTreeSet<String>) -> Result<(), Refusal> {
    let own = present.world.fabric.safety.iter().map(|rule| rule.id.as_str());
    let known: BTreeSet<&str> = own.chain(safety::BUILT_IN).collect();
    let unknown = |name: &&String| !known.contains(name.as_str());
    match overrides.iter().find(unknown) {
        None => Ok(()),
        Some(name) => {
            let names: Vec<&str> = known.into_iter().collect();
            Err(Refusal::usage("unknown-rule", format!("there is no rule `{name}` to pass over"))
                .hint(format!("the rules that can be passed over are {}", names.join(", "))))
        }
    }
}

/// The open tasks about the same: one at a time per subject and service, unless told to end them.
fn open_tasks(
    present: Present<'_>,
    writes: &[Write],
    moves: &[Move],
    supersede: bool,
) -> Result<Vec<EntryId>, Refusal> {
    let subjects: BTreeSet<Subject> = writes.iter().map(|w| w.change.subject()).collect();
    let services: BTreeSet<&ServiceId> = moves.iter().map(|m| &m.service).collect();
    let mut found = Vec::new();
    for (task, _, command) in present.fold.commands() {
        if !is_open(present.fold, task) {
            continue;
        }
        let touched = touched(present, task, command);
        let shared = touched.subjects.intersection(&subjects).next().is_some()
            || touched.services.iter().any(|s| services.contains(s));
        if shared && supersede {
            found.push(task.clone());
        } else if shared {
            let state = state(present.fold, task).as_str();
            let message = format!("task {task} by {} is {state}", command.request.person.name);
            return Err(Refusal::rule("task-open", message).hint(format!(
                "`nettctl task show {task}` tells what it waits for; --supersede ends it"
            )));
        }
    }
    Ok(found)
}

struct Touched {
    subjects: BTreeSet<Subject>,
    services: BTreeSet<ServiceId>,
}

/// What an open task touches: its recorded effect, or what its verb would do if it waits.
fn touched(present: Present<'_>, task: &EntryId, command: &Command) -> Touched {
    if let Some(effect) = first_effect(present.fold, task) {
        return Touched {
            subjects: effect.writes.iter().map(|w| w.change.subject()).collect(),
            services: effect.moves.iter().map(|m| m.service.clone()).collect(),
        };
    }
    let nothing = || Touched { subjects: BTreeSet::new(), services: BTreeSet::new() };
    let Ask::Command { verb, terms, .. } = &command.request.ask else { return nothing() };
    match aim(present, verb, !terms.without.is_empty()) {
        Ok(Aim { named, writes, after: _, moves }) => Touched {
            subjects: writes.iter().map(|w| w.change.subject()).collect(),
            services: moves.into_iter().map(|m| m.service).chain(named).collect(),
        },
        // What it named is gone; it will be refused when it is to take effect.
        Err(_) => nothing(),
    }
}

fn check_services(
    world: World<'_>,
    operator: &Operator,
    proposal: &Proposal,
) -> Result<(), Refusal> {
    if operator.services.is_empty() {
        return Ok(());
    }
    if proposal.effect.touches_ways() {
        super::admit::ways_of_all(world, operator)?;
    }
    let allowed = |service: &&ServiceId| operator.services.iter().any(|p| p.matches(service));
    match proposal.services.iter().find(|s| !allowed(s)) {
        None => Ok(()),
        Some(service) => {
            let message = format!("{} may not touch {service}", operator.name);
            Err(Refusal::rule("operator-services", message))
        }
    }
}
