//! Who may ask, and when: what is checked of every request before its meaning, and the meaning of
//! wishes.

use std::time::Duration;

use super::decide::{Present, Refusal};
use super::view::{TaskState, last_effect, read, role_for, state_of};
use crate::fabric::{Operator, OperatorRole};
use crate::fact::Gate;
use crate::id::EntryId;
use crate::log::entry::{Ask, Command, Object, Ramp, Request, Terms, Verb, WishKind};
use crate::log::intent::World;
use crate::service::Service;

/// How far clocks of two machines may be apart.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// Checks who asks and when, by the clock of the agent that decides.
pub fn admit(present: Present<'_>, request: &Request) -> Result<(), Refusal> {
    let skew = u64::try_from(CLOCK_SKEW.as_millis()).expect("a few seconds");
    let now = present.sight.now;
    if now.0 > request.expires_at.0 + skew {
        let late = (now.0 - request.expires_at.0) / 1000;
        return Err(Refusal::rule("expired", format!("the request expired {late} s ago"))
            .hint("send it again; check the clocks of both machines if it was just signed"));
    }
    if request.issued_at.0 > now.0 + skew {
        return Err(Refusal::rule("issued-in-the-future", "the request was issued after now")
            .hint("check the clocks of both machines"));
    }
    if request.site != *present.home {
        return Err(Refusal::usage(
            "other-site",
            format!("the request is for site {}, this is {}", request.site, present.home),
        ));
    }
    let operator =
        present.world.fabric.operator_by_key(&request.person.key).ok_or_else(|| {
            Refusal::rule("operator", "the key belongs to no operator of the fabric")
        })?;
    let needed = match &request.ask {
        Ask::Command { .. } => OperatorRole::Operator,
        Ask::Wish { kind, .. } => role_for(kind),
    };
    if !operator.roles.contains(&needed) {
        let role = match needed {
            OperatorRole::Operator => "operator",
            OperatorRole::Approver => "approver",
            OperatorRole::Gate => "gate",
            OperatorRole::Viewer => "viewer",
        };
        return Err(Refusal::rule("role", format!("{} has not the role {role}", operator.name)));
    }
    Ok(())
}

/// Judges a wish about a task.
pub fn judge_wish(present: Present<'_>, request: &Request) -> Result<(), Refusal> {
    let Ask::Wish { task, kind } = &request.ask else {
        return Err(Refusal::usage("not-a-wish", "a command is not a wish"));
    };
    let (accepted, command) = present
        .fold
        .command(task)
        .ok_or_else(|| Refusal::usage("unknown-task", format!("no task {task} is known here")))?;
    may_touch(present, request, task)?;
    not_about_own_key(command, request)?;
    let state = state_of(present.fold, task, &read(present.fold, task));
    let is = |allowed: bool, wants: &str| {
        let message = format!("task {task} {wants}: it is {}", state.as_str());
        if allowed { Ok(()) } else { Err(Refusal::changed("not-waiting", message)) }
    };
    let open = !matches!(state, TaskState::Ended(_));
    match kind {
        WishKind::Approve { plan_hash } => {
            is(state == TaskState::WaitingApproval, "does not wait for approval")?;
            if accepted.fabric.hash != present.world.fabric.hash {
                let message = format!(
                    "the task was accepted under fabric generation {}, this agent has {}",
                    accepted.fabric.generation, present.world.fabric.generation
                );
                return Err(Refusal::rule("fabric-mismatch", message)
                    .hint("bring all nodes to one fabric, then give the command again"));
            }
            approval(command, request, plan_hash)
        }
        WishKind::Reject => is(state == TaskState::WaitingApproval, "does not wait for approval"),
        WishKind::Cancel | WishKind::Gate { .. } => is(open, "has ended"),
        WishKind::Pause => is(open && state != TaskState::Paused, "cannot be paused"),
        WishKind::Resume => is(state == TaskState::Paused, "is not paused"),
        WishKind::Confirm => {
            is(open && command.request.ask.confirm_within().is_some(), "waits for no confirmation")
        }
        WishKind::Adopt { asserted } => {
            is(open, "has ended")?;
            known_nodes(present, asserted)?;
            may_adopt(present, task)
        }
    }
}

/// Whoever has a stolen key must not keep it by ending the task that revokes it.
fn not_about_own_key(command: &Command, request: &Request) -> Result<(), Refusal> {
    let name = &request.person.name;
    match &command.request.ask {
        Ask::Command { verb: Verb::Revoke { person }, .. }
            if person == name && command.request.person.name != *name =>
        {
            let message = format!("the task is about the key of {name}");
            Err(Refusal::rule("own-key", message).hint("somebody else decides about it"))
        }
        _ => Ok(()),
    }
}

fn approval(command: &Command, request: &Request, plan_hash: &str) -> Result<(), Refusal> {
    if command.request.person.key == request.person.key {
        return Err(Refusal::rule("four-eyes", "who issued a command cannot approve it")
            .hint("another operator with the role approver must approve"));
    }
    if plan_hash != command.plan_hash {
        return Err(Refusal::changed("plan-hash", "the approval is for another plan"));
    }
    Ok(())
}

/// A task belongs to its home site as long as that site answers.
fn may_adopt(present: Present<'_>, task: &EntryId) -> Result<(), Refusal> {
    let home = present.fold.home(task);
    if home == *present.home {
        return Err(Refusal::rule("own-task", format!("site {home} has the task already"))
            .hint(format!("`nettctl task show {task}` tells what it waits for")));
    }
    if present.sight.silent.contains(&home) {
        return Ok(());
    }
    let message = format!("site {home}, which has the task, was heard a moment ago");
    Err(Refusal::rule("home-alive", message)
        .hint(format!("only the tasks of a dead site are adopted; `nettctl task cancel {task}`")))
}

/// Names of nodes that somebody says are off must be names of nodes.
pub(super) fn known_nodes(
    present: Present<'_>,
    nodes: &std::collections::BTreeSet<crate::id::NodeId>,
) -> Result<(), Refusal> {
    match nodes.iter().find(|node| present.world.fabric.node(node).is_none()) {
        None => Ok(()),
        Some(node) => {
            let message = format!("there is no node `{node}` to be asserted off");
            Err(Refusal::usage("unknown-node", message).hint("`nettctl node list` names them all"))
        }
    }
}

/// Terms that say something about another verb than theirs would be passed over in silence.
pub(super) fn fitting_terms(
    present: Present<'_>,
    verb: &Verb,
    terms: &Terms,
) -> Result<(), Refusal> {
    if let Some(Ramp { steps, dwell: _, only_while }) = &terms.ramp {
        if !matches!(verb, Verb::Steer { .. }) {
            return Err(Refusal::usage("ramp", "only a steer takes a ramp along"));
        }
        let ascending = steps.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || steps.last() != Some(&100) || steps.first() == Some(&0) {
            return Err(Refusal::usage("ramp", "a ramp has shares that ascend from 1 to 100")
                .hint("for example --ramp 10,50,100"));
        }
        let compares = |text: &String| matches!(text.parse(), Ok(Gate::Compare { .. }));
        if only_while.as_ref().is_some_and(|text| !compares(text)) {
            return Err(Refusal::usage("ramp", "a ramp goes on while a comparison holds")
                .hint("for example --while 'error-rate <= 1%'"));
        }
    }
    if terms.confirm_within.is_some() && matches!(verb, Verb::Revoke { .. }) {
        return Err(Refusal::usage("confirm-within", "a revocation is not taken back")
            .hint("without --confirm-within"));
    }
    if !terms.without.is_empty() && !matches!(verb, Verb::Failover { .. }) {
        let message = "only a failover of what is leased goes without a majority of the voters";
        return Err(Refusal::usage("without-quorum", message)
            .hint("`nettctl failover ID --to SITE --without-quorum --without SITE`"));
    }
    if let Some(site) = terms.without.iter().find(|s| present.world.fabric.site(s).is_none()) {
        let message = format!("there is no site `{site}` that could be off");
        return Err(Refusal::usage("unknown-site", message));
    }
    let at_site = matches!(verb, Verb::Drain { object: Object::Site(_) | Object::ServiceAt(..) });
    if terms.soft && !at_site {
        let message = "only the drain of a site, or of a service at a site, can be soft";
        return Err(Refusal::usage("soft", message)
            .hint("without --soft: a drain of a node or link ends no connection"));
    }
    match terms.until {
        None => Ok(()),
        Some(_) if !matches!(verb, Verb::Drain { .. }) => {
            Err(Refusal::usage("until", "only a drain lasts until a time"))
        }
        Some(until) if until <= present.sight.now => {
            Err(Refusal::usage("until", "the drain would be over before it begins"))
        }
        Some(_) => Ok(()),
    }
}

/// What a node or a link carries may be any service.
pub(super) fn ways_of_all(world: World<'_>, operator: &Operator) -> Result<(), Refusal> {
    let allowed = |s: &&Service| operator.services.iter().any(|p| p.matches(&s.id));
    match world.catalog.iter().find(|service| !allowed(service)) {
        None => Ok(()),
        Some(Service { id, .. }) => {
            let name = &operator.name;
            let message = format!("{name} may not touch {id}, and nodes and links carry all");
            Err(Refusal::rule("operator-services", message))
        }
    }
}

/// An own key at any time; another's only by somebody who may touch everything, and with the
/// approval of a third.
pub(super) fn may_revoke(
    world: World<'_>,
    operator: &Operator,
    person: &str,
) -> Result<(), Refusal> {
    let name = &operator.name;
    if name == person {
        return Ok(());
    }
    if !operator.services.is_empty() {
        let message = format!("{name} may not touch everything, and may revoke the own key only");
        return Err(Refusal::rule("operator-services", message));
    }
    let third = |one: &Operator| {
        one.roles.contains(&OperatorRole::Approver) && one.name != *name && one.name != person
    };
    match world.fabric.operators.iter().any(third) {
        true => Ok(()),
        false => {
            let message = format!("nobody but {name} and {person} could approve it");
            Err(Refusal::rule("nobody-approves", message)
                .hint("bring the nodes to a new generation of the fabric without the key"))
        }
    }
}

/// An operator for some services has no say about tasks that move others.
fn may_touch(present: Present<'_>, request: &Request, task: &EntryId) -> Result<(), Refusal> {
    let operator = present.world.fabric.operator_by_key(&request.person.key);
    let Some(operator) = operator.filter(|o| !o.services.is_empty()) else { return Ok(()) };
    let effect = last_effect(present.fold, task);
    if effect.is_some_and(|effect| effect.touches_ways()) {
        ways_of_all(present.world, operator)?;
    }
    let moves = effect.into_iter().flat_map(|effect| &effect.moves);
    let allowed = |service| operator.services.iter().any(|p| p.matches(service));
    match moves.map(|m| &m.service).find(|service| !allowed(service)) {
        None => Ok(()),
        Some(service) => {
            let message = format!("{} may not touch {service}", operator.name);
            Err(Refusal::rule("operator-services", message))
        }
    }
}
