//! What a verb is after, before any rule is asked: the registers it writes and the services that
//! move because of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::decide::{Present, Refusal};
use super::view::{TaskState, first_effect, state};
use crate::fabric::{Operator, OperatorRole, Role};
use crate::id::{ClusterId, EntryId, Epoch, LinkId, NodeId, Selector, ServiceId, SiteId};
use crate::log::conflict::Contested;
use crate::log::entry::{Change, Directive, Effect, Move, Object, Subject, Verb, Write};
use crate::log::intent::{Doing, Intent, Progress};
use crate::place::{place_one, target};
use crate::service::Service;
use crate::traffic::{Spread, Traffic};

pub(super) struct Aim {
    pub(super) named: BTreeSet<ServiceId>,
    pub(super) writes: Vec<Write>,
    pub(super) after: Intent,
    pub(super) moves: Vec<Move>,
}

/// With `anew` what is leased and named is claimed anew where it is, too: its claim has lost its
/// voters.
pub(super) fn aim(present: Present<'_>, verb: &Verb, anew: bool) -> Result<Aim, Refusal> {
    let changes = changes(present, verb)?;
    let named = named_services(present, verb, &changes);
    let writes = writes(present, verb, changes);
    let after = after_writes(present, &writes);
    let moves = match verb {
        Verb::Hold { .. } | Verb::Release { .. } | Verb::Revoke { .. } => Vec::new(),
        _ => moves(present, &after, &named, anew),
    };
    Ok(Aim { named, writes, after, moves })
}

/// What takes a task back whose home site nobody told to keep it: the registers as they were, and
/// the services where those want them. What is leased goes nowhere instead: to go back it would
/// have to be claimed again, which is for a person to do.
pub(super) fn undo(present: Present<'_>, task: &EntryId) -> Option<(Vec<Write>, Vec<Move>)> {
    let effect = first_effect(present.fold, task)?;
    // Nothing gives a revoked key back.
    let lasts = |write: &&Write| matches!(write.change, Change::Revoked(..));
    let own = |write: &&Write| {
        let held = present.intent.held(&write.change.subject());
        held.is_some_and(|held| held.order.task == *task)
    };
    let verb = Verb::Revert { task: task.clone() };
    let undone = effect.writes.iter().filter(|write| !lasts(write)).filter(own);
    let changes = undone.map(|w| w.before.clone()).collect();
    let writes = writes(present, &verb, changes);
    let after = after_writes(present, &writes);
    let named: BTreeSet<ServiceId> = effect.moves.iter().map(|m| m.service.clone()).collect();
    let own = |one: &Move| {
        let mover = present.intent.mover(&one.service);
        mover.is_none_or(|mover| mover.order.task == *task)
    };
    let stopped = |one: Move| {
        let service = present.world.catalog.get(&one.service);
        match service.is_some_and(Service::is_leased) {
            true if !named.contains(&one.service) => None,
            true => Some(Move { to: Traffic::settled(Spread::Nowhere), ..one }),
            false => Some(one),
        }
    };
    let moves = moves(present, &after, &named, false).into_iter().filter(own);
    let moves = moves.filter_map(stopped).collect();
    Some((writes, moves))
}

fn changes(present: Present<'_>, verb: &Verb) -> Result<Vec<Change>, Refusal> {
    let each = |selector: &Selector, directive: Directive| {
        let services = select(present, selector)?;
        let change = |s: &Service| Change::Service(s.id.clone(), directive.clone());
        Ok(services.into_iter().map(change).collect())
    };
    match verb {
        Verb::Failover { services, to } => {
            known_site(present, to)?;
            each(services, Directive::Failover(to.clone()))
        }
        Verb::Failback { services } => each(services, Directive::Nominal),
        Verb::Steer { services, to } => {
            if to.is_empty() {
                return Err(Refusal::usage("no-weights", "a steer names no site")
                    .hint("give weights, for example --to osl=70,svg=30"));
            }
            to.keys().try_for_each(|site| known_site(present, site))?;
            each(services, Directive::Steer(to.clone()))
        }
        Verb::Drain { object } => Ok(vec![drained(present, object, true)?]),
        Verb::Undrain { object } => Ok(vec![drained(present, object, false)?]),
        Verb::Evacuate { site, to } => evacuate(present, site, to.as_ref()),
        Verb::Hold { services } => held(present, services, true),
        Verb::Release { services } => held(present, services, false),
        Verb::Revert { task } => revert(present, task),
        Verb::Resolve { subject, to } => resolve(present, subject, to.as_ref()),
        Verb::Revoke { person } => Ok(vec![revoked(present, person)?]),
    }
}

fn held(present: Present<'_>, services: &Selector, on: bool) -> Result<Vec<Change>, Refusal> {
    let services = select(present, services)?;
    Ok(services.into_iter().map(|s| Change::Held(s.id.clone(), on)).collect())
}

/// Somebody must be left who can approve, or nothing that needs an approval ever happens again.
fn revoked(present: Present<'_>, person: &str) -> Result<Change, Refusal> {
    let people = &present.world.fabric.operators;
    let Some(one) = people.iter().find(|one| one.name == person) else {
        return Err(Refusal::usage(
            "unknown-operator",
            format!("no operator {person} has a key that counts"),
        )
        .hint("`nettctl status` shows the keys that were revoked before"));
    };
    let approves = |one: &&Operator| one.roles.contains(&OperatorRole::Approver);
    if approves(&one) && people.iter().filter(approves).count() == 1 {
        let message = format!("{person} is the last who can approve");
        return Err(Refusal::rule("last-approver", message)
            .hint("bring the nodes to a new generation of the fabric with other keys"));
    }
    Ok(Change::Revoked(one.key.clone(), true))
}

/// The site is drained; what serves there now goes to `to`, where it may.
fn evacuate(
    present: Present<'_>,
    site: &SiteId,
    to: Option<&SiteId>,
) -> Result<Vec<Change>, Refusal> {
    known_site(present, site)?;
    let mut changes = vec![Change::Drained(Object::Site(site.clone()), true)];
    let Some(to) = to else { return Ok(changes) };
    known_site(present, to)?;
    if to == site {
        return Err(Refusal::usage("same-site", format!("{site} cannot be evacuated to itself")));
    }
    for service in present.world.catalog.iter() {
        let placed = place_one(present.world, present.intent, service);
        let here = placed.traffic.serves_at(site) && !service.is_active_active();
        if here && service.sites().contains(to) {
            changes.push(Change::Service(service.id.clone(), Directive::Failover(to.clone())));
        }
    }
    Ok(changes)
}

/// What the winner of a split decision wants, or another place, as a command that knows of all.
fn resolve(
    present: Present<'_>,
    subject: &Contested,
    to: Option<&SiteId>,
) -> Result<Vec<Change>, Refusal> {
    if present.claims.conflict(subject).is_none() {
        let message = format!("there is no split decision about `{subject}`");
        return Err(
            Refusal::rule("no-conflict", message).hint("`nettctl conflicts` names them all")
        );
    }
    match (subject, to) {
        (Contested::Service(service), Some(to)) => {
            known_site(present, to)?;
            Ok(vec![Change::Service(service.clone(), Directive::Failover(to.clone()))])
        }
        (Contested::Drained(_) | Contested::Held(_) | Contested::Revoked(_), Some(_)) => {
            Err(Refusal::usage("no-site", format!("`{subject}` is not at a site"))
                .hint("leave --to out: what the winner wants stays"))
        }
        (_, None) => Ok(vec![present.intent.value(&subject.subject())]),
    }
}

fn select<'a>(present: Present<'a>, selector: &Selector) -> Result<Vec<&'a Service>, Refusal> {
    let matching = present.world.catalog.iter().filter(|s| selector.matches(&s.id));
    let services: Vec<&Service> = matching.collect();
    if services.is_empty() {
        return Err(Refusal::usage("unknown-service", format!("no service matches `{selector}`"))
            .hint("`nettctl service list` names them all"));
    }
    Ok(services)
}

fn known_site(present: Present<'_>, site: &SiteId) -> Result<(), Refusal> {
    if present.world.fabric.site(site).is_some() {
        return Ok(());
    }
    let known: Vec<&str> = present.world.fabric.sites.iter().map(|s| s.id.as_str()).collect();
    Err(Refusal::usage("unknown-site", format!("there is no site `{site}`"))
        .hint(format!("the sites are {}", known.join(", "))))
}

fn known_node(present: Present<'_>, id: &NodeId) -> Result<(), Refusal> {
    let routers = || present.world.fabric.nodes.iter().filter(|n| n.role != Role::Witness);
    if routers().any(|node| node.id == *id) {
        return Ok(());
    }
    let known: Vec<&str> = routers().map(|n| n.id.as_str()).collect();
    Err(Refusal::usage("unknown-node", format!("there is no border or route node `{id}`"))
        .hint(format!("the nodes are {}", known.join(", "))))
}

fn known_link(present: Present<'_>, id: &LinkId) -> Result<(), Refusal> {
    let links = &present.world.fabric.links;
    if links.iter().any(|link| link.id == *id) {
        return Ok(());
    }
    let known: Vec<&str> = links.iter().map(|l| l.id.as_str()).collect();
    Err(Refusal::usage("unknown-link", format!("there is no link `{id}`"))
        .hint(format!("the links are {}", known.join(", "))))
}

fn known_cluster(present: Present<'_>, id: &ClusterId) -> Result<(), Refusal> {
    let clusters = &present.world.fabric.clusters;
    if clusters.iter().any(|cluster| cluster.id == *id) {
        return Ok(());
    }
    let known: Vec<&str> = clusters.iter().map(|c| c.id.as_str()).collect();
    let hint = match known.is_empty() {
        true => "the fabric has no [[cluster]]".to_owned(),
        false => format!("the clusters are {}", known.join(", ")),
    };
    Err(Refusal::usage("unknown-cluster", format!("there is no cluster `{id}`")).hint(hint))
}

fn drained(present: Present<'_>, object: &Object, value: bool) -> Result<Change, Refusal> {
    match object {
        Object::Site(site) => known_site(present, site)?,
        Object::ServiceAt(service, site) => {
            known_site(present, site)?;
            let selector: Selector = service.as_str().parse().expect("a service id is a selector");
            let found = select(present, &selector)?;
            if !found.iter().any(|s| s.sites().contains(site)) {
                let message = format!("{service} has no part at site {site}");
                return Err(Refusal::usage("not-a-candidate", message));
            }
        }
        Object::Node(node) => known_node(present, node)?,
        Object::Link(link) => known_link(present, link)?,
        Object::Cluster(cluster) => known_cluster(present, cluster)?,
    }
    Ok(Change::Drained(object.clone(), value))
}

/// The recorded undo of a task, if nothing it touched has moved since.
fn revert(present: Present<'_>, task: &EntryId) -> Result<Vec<Change>, Refusal> {
    let unknown = || Refusal::usage("unknown-task", format!("no task {task} is known here"));
    let (_, command) = present.fold.command(task).ok_or_else(unknown)?;
    match state(present.fold, task) {
        TaskState::Ended(_) => {}
        TaskState::WaitingApproval => {
            return Err(Refusal::rule("not-effective", "the task waits for approval")
                .hint(format!("`nettctl reject {task}` ends it")));
        }
        TaskState::Running | TaskState::Paused | TaskState::Confirming => {
            return Err(Refusal::rule("task-open", "the task is still running")
                .hint(format!("wait for it, or end it: `nettctl task cancel {task}`")));
        }
    }
    let Some(effect) = first_effect(present.fold, task) else {
        let verb = command.request.ask.verb_name();
        return Err(Refusal::rule("not-effective", format!("the {verb} never took effect")));
    };
    if effect.writes.iter().any(|write| matches!(write.change, Change::Revoked(..))) {
        return Err(Refusal::rule("revoked", "a key that was revoked never counts again")
            .hint("give the person a new key, in a new generation of the fabric"));
    }
    for write in &effect.writes {
        let held = present.intent.held(&write.change.subject());
        if held.is_some_and(|h| h.order.task != *task) {
            let by = held.map(|h| h.order.task.to_string()).unwrap_or_default();
            let message = format!("task {by} has changed the same since");
            return Err(Refusal::changed("moved-since", message)
                .hint(format!("revert {by} first, or give a new command")));
        }
    }
    Ok(effect.writes.iter().map(|w| w.before.clone()).collect())
}

/// The services that the command is about, whether or not they move.
fn named_services(present: Present<'_>, verb: &Verb, changes: &[Change]) -> BTreeSet<ServiceId> {
    let mut named: BTreeSet<ServiceId> = BTreeSet::new();
    for change in changes {
        match change {
            Change::Service(service, _)
            | Change::Held(service, _)
            | Change::Drained(Object::ServiceAt(service, _), _) => {
                named.insert(service.clone());
            }
            Change::Drained(
                Object::Site(_) | Object::Node(_) | Object::Link(_) | Object::Cluster(_),
                _,
            )
            | Change::Revoked(..) => {}
        }
    }
    if let Verb::Revert { task } = verb
        && let Some(effect) = first_effect(present.fold, task)
    {
        named.extend(effect.moves.iter().map(|m| m.service.clone()));
    }
    named
}

fn writes(present: Present<'_>, verb: &Verb, changes: Vec<Change>) -> Vec<Write> {
    let write = |change: Change| {
        let subject = change.subject();
        let epoch = match &subject {
            Subject::Service(service) => next_epoch(present, service),
            Subject::Drained(_) | Subject::Held(_) | Subject::Revoked(_) => {
                present.intent.epoch(&subject).next()
            }
        };
        let contested = Contested::of(&subject);
        let conflict = match verb {
            Verb::Resolve { .. } => present.claims.conflict(&contested),
            _ => None,
        };
        let losers = conflict.into_iter().flat_map(|c| c.losers);
        Write {
            epoch,
            prev: present.claims.prev(&contested),
            settles: losers.map(|loser| loser.lineage.order.task).collect(),
            before: present.intent.value(&subject),
            change,
        }
    };
    changes.into_iter().map(write).collect()
}

/// One more than the highest epoch known of the service, whether it moved or was only directed.
fn next_epoch(present: Present<'_>, service: &ServiceId) -> Epoch {
    let directed = present.intent.epoch(&Subject::Service(service.clone()));
    let moved = present.intent.mover(service).map_or(Epoch(0), |m| m.order.epoch);
    directed.max(moved).next()
}

fn after_writes(present: Present<'_>, writes: &[Write]) -> Intent {
    let task = planned();
    let rank = present.world.fabric.rank(present.home);
    let (writes, moves, steps) = (writes.to_vec(), Vec::new(), Vec::new());
    let effect = Effect { rank, writes, moves, steps };
    let mut after = present.intent.clone();
    let (task, site, progress) = (&task, present.home, Progress::begun([]));
    after.apply(&Doing { task, site, effect: &effect, progress, over: false });
    after
}

/// The id of a task that there is not yet.
pub fn planned() -> EntryId {
    "plan.00000000000000000000000000".parse().expect("a valid id")
}

/// A claim that was not brought to its end may never serve, and one that was made without a
/// majority asks more of those behind it: the same again is a new claim.
fn is_unsettled(present: Present<'_>, service: &Service) -> bool {
    let mover = present.intent.mover(&service.id);
    let unsettled = mover.is_some_and(|m| m.progress != Progress::Done);
    service.is_leased() && (unsettled || present.sight.bound.contains_key(&service.id))
}

/// What is leased and was sent nowhere stays there until somebody names it.
fn is_stopped(intent: &Intent, service: &Service) -> bool {
    service.is_leased() && intent.mover(&service.id).is_some_and(|mover| mover.stops)
}

/// A service moves when the command names it or its target changes by the writes, and it is not in
/// that state already.
fn moves(
    present: Present<'_>,
    after: &Intent,
    named: &BTreeSet<ServiceId>,
    anew: bool,
) -> Vec<Move> {
    let Present { world, intent, .. } = present;
    let mut moves = Vec::new();
    for service in world.catalog.iter() {
        let (spread, _) = target(world, after, service);
        let changed = || !is_stopped(intent, service) && target(world, intent, service).0 != spread;
        if !named.contains(&service.id) && !changed() {
            continue;
        }
        let placed = place_one(world, intent, service);
        let to = Traffic::settled(spread);
        let kept = placed.kept.clone();
        let again = anew && service.is_leased() || is_unsettled(present, service);
        if *placed.traffic != to || again && named.contains(&service.id) {
            moves.push(Move {
                service: service.id.clone(),
                epoch: next_epoch(present, &service.id),
                prev_epoch: placed.epoch,
                prev: present.claims.prev(&Contested::Service(service.id.clone())),
                from: Arc::unwrap_or_clone(placed.traffic),
                to,
                handover: service.handover,
                kept,
            });
        }
    }
    moves
}
