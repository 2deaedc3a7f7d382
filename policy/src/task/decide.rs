//! Judges a request: what it would do, or which rule refuses it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use crate::fabric::{Operator, OperatorRole};
use crate::id::{EntryId, Epoch, Selector, ServiceId, SiteId, WallMs, sha256_hex};
use crate::log::entry::{
    Ask, Change, Directive, Effect, Move, Object, Request, Subject, Verb, WishKind, Write,
};
use crate::log::fold::{Fact, Fold};
use crate::log::intent::{Intent, World};
use crate::place::{place_one, target};
use crate::safety;
use crate::service::Service;
use crate::task::steps::steps;
use crate::task::view::{TaskState, read};
use crate::traffic::Traffic;

/// What a command would do if it were effective now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    pub effect: Effect,
    /// Of everything that an approver approves: writes, moves, steps, and the fabric they are for.
    pub plan_hash: String,
    pub approvals_needed: u8,
    /// The services named or moved, sorted.
    pub services: BTreeSet<ServiceId>,
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

/// How far clocks of two machines may be apart.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// What the decision is made on.
#[derive(Debug, Clone, Copy)]
pub struct Present<'a> {
    pub world: World<'a>,
    pub fold: &'a Fold,
    pub intent: &'a Intent,
    /// The site that decides.
    pub home: &'a SiteId,
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

/// Checks who asks and when. `now` is the clock of the agent that decides.
pub fn admit(present: Present<'_>, request: &Request, now: WallMs) -> Result<(), Refusal> {
    let skew = u64::try_from(CLOCK_SKEW.as_millis()).expect("a few seconds");
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
        Ask::Wish { .. } => OperatorRole::Approver,
    };
    if !operator.roles.contains(&needed) {
        let role = if needed == OperatorRole::Operator { "operator" } else { "approver" };
        return Err(Refusal::rule("role", format!("{} has not the role {role}", operator.name)));
    }
    Ok(())
}

/// Judges a command, its author's services and its plan hash included.
pub fn judge(present: Present<'_>, request: &Request) -> Result<Proposal, Refusal> {
    let Ask::Command { verb, plan_hash, overrides } = &request.ask else {
        return Err(Refusal::usage("not-a-command", "a wish opens no task"));
    };
    let proposal = propose(present, verb, overrides)?;
    if let Some(operator) = present.world.fabric.operator_by_key(&request.person.key) {
        check_services(operator, &proposal)?;
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

/// Judges an approval or rejection.
pub fn judge_wish(present: Present<'_>, request: &Request) -> Result<(), Refusal> {
    let Ask::Wish { task, kind } = &request.ask else {
        return Err(Refusal::usage("not-a-wish", "a command is not a wish"));
    };
    let (_, command) = present
        .fold
        .command(task)
        .ok_or_else(|| Refusal::usage("unknown-task", format!("no task {task} is known here")))?;
    let state = read(present.fold, task).state();
    if state != TaskState::WaitingApproval {
        let message = format!("task {task} does not wait for approval: it is {}", state.as_str());
        return Err(Refusal::changed("not-waiting", message));
    }
    let WishKind::Approve { plan_hash } = kind else {
        return Ok(());
    };
    if command.request.person.key == request.person.key {
        return Err(Refusal::rule("four-eyes", "who issued a command cannot approve it")
            .hint("another operator with the role approver must approve"));
    }
    if *plan_hash != command.plan_hash {
        return Err(Refusal::changed("plan-hash", "the approval is for another plan"));
    }
    Ok(())
}

/// What a verb would do now.
pub fn propose(
    present: Present<'_>,
    verb: &Verb,
    overrides: &BTreeSet<String>,
) -> Result<Proposal, Refusal> {
    known_rules(present, overrides)?;
    let Aim { named, writes, after, moves } = aim(present, verb)?;
    let pins = |w: &Write| match (&w.before, &w.change) {
        // Nothing sent it elsewhere before, and nothing moves now.
        (Change::Service(_, Directive::Nominal), Change::Service(..)) => true,
        (before, change) => before == change,
    };
    if writes.iter().all(pins) && moves.is_empty() {
        return Err(Refusal::rule("no-change", "everything named is in that state already"));
    }
    refuse_open_tasks(present, &writes, &moves)?;
    safety::check(present, verb, &after, &moves, overrides)?;

    let services: BTreeSet<ServiceId> =
        named.into_iter().chain(moves.iter().map(|m| m.service.clone())).collect();
    let rank = present.world.fabric.rank(present.home);
    let effect = Effect { rank, writes, moves };
    let plan_hash = plan_hash(present, verb, &effect);
    let approvals = services.iter().filter_map(|s| present.world.catalog.get(s));
    let mut approvals_needed = approvals.map(|s| s.approvals).max().unwrap_or(0);
    if !overrides.is_empty() {
        approvals_needed = approvals_needed.max(1);
    }
    Ok(Proposal { effect, plan_hash, approvals_needed, services })
}

/// What a verb is after, before any rule is asked.
struct Aim {
    named: BTreeSet<ServiceId>,
    writes: Vec<Write>,
    after: Intent,
    moves: Vec<Move>,
}

fn aim(present: Present<'_>, verb: &Verb) -> Result<Aim, Refusal> {
    let changes = changes(present, verb)?;
    let named = named_services(present, verb, &changes);
    let writes = writes(present, changes);
    let after = after_writes(present, &writes);
    let moves = moves(present, &after, &named);
    Ok(Aim { named, writes, after, moves })
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
        Verb::Revert { task } => revert(present, task),
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
    }
    Ok(Change::Drained(object.clone(), value))
}

/// The recorded undo of a task, if nothing it touched has moved since.
fn revert(present: Present<'_>, task: &EntryId) -> Result<Vec<Change>, Refusal> {
    let unknown = || Refusal::usage("unknown-task", format!("no task {task} is known here"));
    let (_, command) = present.fold.command(task).ok_or_else(unknown)?;
    match read(present.fold, task).state() {
        TaskState::Ended(_) => {}
        TaskState::WaitingApproval => {
            return Err(Refusal::rule("not-effective", "the task waits for approval")
                .hint(format!("`nettctl reject {task}` ends it")));
        }
        TaskState::Running => {
            return Err(Refusal::rule("task-open", "the task is still running")
                .hint(format!("wait for it: `nettctl task watch {task}`")));
        }
    }
    let fact = present.fold.task(task).and_then(|record| record.effect());
    let Some(Fact::Effective { effect, .. }) = fact.map(|w| &w.what) else {
        let verb = command.request.ask.verb_name();
        return Err(Refusal::rule("not-effective", format!("the {verb} never took effect")));
    };
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
            Change::Service(service, _) | Change::Drained(Object::ServiceAt(service, _), _) => {
                named.insert(service.clone());
            }
            Change::Drained(Object::Site(_), _) => {}
        }
    }
    if let Verb::Revert { task } = verb {
        let effect = present.fold.task(task).and_then(|record| record.effect());
        if let Some(Fact::Effective { effect, .. }) = effect.map(|w| &w.what) {
            named.extend(effect.moves.iter().map(|m| m.service.clone()));
        }
    }
    named
}

fn writes(present: Present<'_>, changes: Vec<Change>) -> Vec<Write> {
    let write = |change: Change| {
        let subject = change.subject();
        let epoch = match &subject {
            Subject::Service(service) => next_epoch(present, service),
            Subject::Drained(_) => present.intent.epoch(&subject).next(),
        };
        let prev = present.intent.held(&subject).map(|h| h.order.task.clone());
        Write { epoch, prev, before: present.intent.value(&subject), change }
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
    let task: EntryId = "plan.00000000000000000000000000".parse().expect("a valid id");
    let rank = present.world.fabric.rank(present.home);
    let effect = Effect { rank, writes: writes.to_vec(), moves: Vec::new() };
    let mut after = present.intent.clone();
    after.apply(
        present.world,
        &crate::log::intent::Doing {
            task: &task,
            site: present.home,
            effect: &effect,
            progress: crate::log::intent::Progress::Step(0),
        },
    );
    after
}

/// A service moves when the command names it or its target changes by the writes, and it is not in
/// that state already.
fn moves(present: Present<'_>, after: &Intent, named: &BTreeSet<ServiceId>) -> Vec<Move> {
    let Present { world, intent, .. } = present;
    let mut moves = Vec::new();
    for service in world.catalog.iter() {
        let (spread, _) = target(world, after, service);
        let changed = || target(world, intent, service).0 != spread;
        if !named.contains(&service.id) && !changed() {
            continue;
        }
        let placed = place_one(world, intent, service);
        let to = Traffic::settled(spread);
        if placed.traffic != to {
            moves.push(Move {
                service: service.id.clone(),
                epoch: next_epoch(present, &service.id),
                prev_epoch: placed.epoch,
                from: placed.traffic,
                to,
                handover: service.handover,
            });
        }
    }
    moves
}

/// One task at a time per subject and service.
fn refuse_open_tasks(
    present: Present<'_>,
    writes: &[Write],
    moves: &[Move],
) -> Result<(), Refusal> {
    let subjects: BTreeSet<Subject> = writes.iter().map(|w| w.change.subject()).collect();
    let services: BTreeSet<&ServiceId> = moves.iter().map(|m| &m.service).collect();
    for (task, _, command) in present.fold.commands() {
        let state = read(present.fold, task).state();
        if matches!(state, TaskState::Ended(_)) {
            continue;
        }
        let touched = touched(present, task, command);
        let shared = touched.subjects.intersection(&subjects).next().is_some()
            || touched.services.iter().any(|s| services.contains(s));
        if shared {
            let message =
                format!("task {task} by {} is {}", command.request.person.name, state.as_str());
            return Err(Refusal::rule("task-open", message)
                .hint(format!("`nettctl task show {task}` tells what it waits for")));
        }
    }
    Ok(())
}

struct Touched {
    subjects: BTreeSet<Subject>,
    services: BTreeSet<ServiceId>,
}

/// What an open task touches: its recorded effect, or what its verb would do if it waits.
fn touched(present: Present<'_>, task: &EntryId, command: &crate::log::entry::Command) -> Touched {
    let fact = present.fold.task(task).and_then(|record| record.effect());
    if let Some(Fact::Effective { effect, .. }) = fact.map(|w| &w.what) {
        return Touched {
            subjects: effect.writes.iter().map(|w| w.change.subject()).collect(),
            services: effect.moves.iter().map(|m| m.service.clone()).collect(),
        };
    }
    let Ask::Command { verb, .. } = &command.request.ask else {
        return Touched { subjects: BTreeSet::new(), services: BTreeSet::new() };
    };
    match aim(present, verb) {
        Ok(Aim { named, writes, after: _, moves }) => Touched {
            subjects: writes.iter().map(|w| w.change.subject()).collect(),
            services: moves.into_iter().map(|m| m.service).chain(named).collect(),
        },
        // What it named is gone; it will be refused when it is to take effect.
        Err(_) => Touched { subjects: BTreeSet::new(), services: BTreeSet::new() },
    }
}

fn check_services(operator: &Operator, proposal: &Proposal) -> Result<(), Refusal> {
    if operator.services.is_empty() {
        return Ok(());
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

/// A hash over the meaning: epochs are not in it, the writes they follow are.
fn plan_hash(present: Present<'_>, verb: &Verb, effect: &Effect) -> String {
    let mut text = format!("fabric {}\nverb {}\n", present.world.fabric.hash, verb.name());
    let mut line = |words: std::fmt::Arguments<'_>| {
        writeln!(text, "{words}").expect("writing to a string cannot fail");
    };
    for Write { epoch: _, prev, change, before } in &effect.writes {
        line(format_args!("write {change:?} over {before:?} after {prev:?}"));
    }
    for Move { service, epoch: _, prev_epoch: _, from, to, handover } in &effect.moves {
        line(format_args!("move {service} {from:?} to {to:?} {handover:?}"));
    }
    for step in steps(&effect.moves, present.world) {
        line(format_args!("step {} {} after {:?}", step.number, step.kind, step.delay));
    }
    sha256_hex(text.as_bytes())
}

impl Ask {
    /// The verb or wish in one word, as in subjects and messages.
    pub fn verb_name(&self) -> &'static str {
        match self {
            Self::Command { verb, .. } => verb.name(),
            Self::Wish { kind: WishKind::Approve { .. }, .. } => "approve",
            Self::Wish { kind: WishKind::Reject, .. } => "reject",
        }
    }
}
