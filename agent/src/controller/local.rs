//! Commands that this node takes for itself alone while NATS is away, and what becomes of them.
//!
//! They are kept in a log of this node's own, synced before anything is done about them, and never
//! get into a site's log by themselves. What they do is laid over what the logs want, on this node
//! only. With make-before-break that is the last step before the withdrawal: traffic goes to the
//! new sites, the old ones still accept. With break-before-make, and for whatever is leased, this
//! node withdraws, and nothing else: it never opens what another one may still serve.
//!
//! When the bus is back and every log was read again, the site judges each command as it was given,
//! by the time at which it was taken. Where it would still do the same it becomes an ordinary one,
//! and its task takes over step by step; otherwise it is refused on record, and undone here. After
//! a crash the own log says what is still laid over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use nett_policy::id::{EntryId, ServiceId, SiteId, WallMs};
use nett_policy::log::entry::{
    Ask, Body, Command, Effect as TaskEffect, EndFact, Move, Outcome, Request, Slot, Verb, WishKind,
};
use nett_policy::log::fold::Verdict;
use nett_policy::log::intent::Order;
use nett_policy::place::{Placed, Placement, Reason};
use nett_policy::service::Handover;
use nett_policy::task::decide::{Refusal, admit, judge};
use nett_policy::task::view::{TaskState, state};
use nett_policy::traffic::{Spread, Traffic};

use super::deciding::{Waiting, command};
use super::effect::{AuditEvent, Effect, LocalEntry};
use super::event::Now;
use super::refusals::refusal_reply;
use super::{Controller, Heard, SILENCE, Token};
use crate::api::types::{CommandReply, LocalDoc, TaskLine, TaskStateDoc};
use crate::bus::wire::{Head, Sealed};

/// The rule about sending traffic to a site that is not known to take it. It is about commands
/// taken locally and nothing else.
pub const UNHEARD_TARGET: &str = "unheard-target";
/// The state of a command that only this node has taken.
pub const LOCAL: &str = "local";
/// How many that are over are shown.
const SHOWN: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Locals {
    open: BTreeMap<EntryId, Local>,
    /// On their way to the disk, in order.
    keeping: VecDeque<Token>,
    /// The newest last.
    over: VecDeque<LocalDoc>,
    /// Sites whose logs were read since the bus is back. That of another site may be a copy that
    /// lags: what its nodes say of their heads counts as well.
    read: BTreeSet<SiteId>,
    back: Duration,
}

/// A command that this node has taken.
#[derive(Debug, Clone)]
struct Local {
    command: Command,
    verbatim: Vec<u8>,
    at: WallMs,
    /// Who moved each service last, when it was taken or taken again after a start.
    before: BTreeMap<ServiceId, Option<Order>>,
    /// The site's own judgement was asked for.
    judging: bool,
    /// The logs have moved its services since: it lies over nothing any more.
    undone: bool,
}

// === impl Locals ===

impl Locals {
    pub(super) fn connected(&mut self, now: Duration) {
        self.read.clear();
        self.back = now;
        self.open.values_mut().for_each(|local| local.judging = false);
    }

    pub(super) fn caught_up(&mut self, site: SiteId) {
        self.read.insert(site);
    }
}

// === impl Local ===

impl Local {
    fn effect(&self) -> &TaskEffect {
        self.command.effect.as_ref().expect("a command is taken only with its effect")
    }

    fn moves(&self) -> impl Iterator<Item = &Move> {
        self.effect().moves.iter()
    }
}

/// A request without what is about local commands only.
pub(super) fn plain(request: &Request) -> Request {
    let mut plain = request.clone();
    if let Ask::Command { overrides, .. } = &mut plain.ask {
        overrides.remove(UNHEARD_TARGET);
    }
    plain
}

impl Controller {
    /// Takes a request while the bus is away; it came by this node's own socket.
    pub(super) fn take_locally(&mut self, waiting: Waiting, now: Now) {
        let Waiting { token, request, verbatim, .. } = waiting;
        if let Some(local) = self.locals.open.get(&request.id) {
            let reply = local_reply(&local.command);
            return self.reply_command(token, reply, now);
        }
        match self.judge_locally(&request) {
            Ok(body) => {
                let verbatim = matches!(body, Body::Command(_)).then_some(verbatim);
                if let Body::End(end) = &body {
                    self.locals.open.remove(&end.slot.task);
                    self.over(&end.slot.task, "cancelled by an operator", now);
                    self.want(now);
                    let task = Some(end.slot.task.to_string());
                    let message = "undone on this node".to_owned();
                    let reply =
                        CommandReply { accepted: true, task, message, ..CommandReply::default() };
                    self.reply_command(token, reply, now);
                } else {
                    self.locals.keeping.push_back(token);
                }
                self.effects.push(Effect::Local(Box::new(LocalEntry { body, verbatim })));
            }
            Err(refusal) => self.reply_command(token, refusal_reply(&refusal), now),
        }
    }

    /// What this node would keep of a request.
    fn judge_locally(&self, request: &Request) -> Result<Body, Refusal> {
        admit(self.present(), request)?;
        let (verb, overrides) = match &request.ask {
            Ask::Command { verb, overrides, .. } => (verb, overrides),
            Ask::Wish { task, kind: WishKind::Cancel } if self.locals.open.contains_key(task) => {
                return Ok(end(task.clone(), Outcome::Cancelled, "cancelled on its node"));
            }
            Ask::Wish { .. } => return Err(away("tasks of the log cannot be changed")),
        };
        if !is_for_one_node(verb) {
            return Err(away(&format!("`{}` cannot be done by one node", verb.name())));
        }
        let proposal = judge(self.present(), &plain(request))?;
        if proposal.approvals_needed > 0 {
            return Err(away("the command needs an approval"));
        }
        for one in &proposal.effect.moves {
            self.may_lay_over(one, overrides)?;
        }
        if proposal.effect.moves.is_empty() {
            return Err(away("no traffic moves by it"));
        }
        Ok(Body::Command(command(request, proposal)))
    }

    fn may_lay_over(&self, one: &Move, overrides: &BTreeSet<String>) -> Result<(), Refusal> {
        let other = self.locals.open.values().find(|l| l.moves().any(|m| m.service == one.service));
        if let Some(local) = other {
            let (service, task) = (&one.service, &local.command.request.id);
            let message = format!("{service} is moved on this node by the local command {task}");
            return Err(Refusal::rule("task-open", message)
                .hint(format!("`nettctl task cancel {task}` undoes that one")));
        }
        if self.only_withdraws(one) || overrides.contains(UNHEARD_TARGET) {
            return Ok(());
        }
        let placed = self.placement.services.get(&one.service);
        let takes = |site: &SiteId| {
            site == self.site() || placed.is_some_and(|p| p.traffic.serves_at(site))
        };
        match one.to.spread.sites().into_iter().find(|site| !takes(site)) {
            None => Ok(()),
            Some(site) => {
                let service = &one.service;
                let message = format!(
                    "as far as is known here {site} does not take {service}: what this node sent \
                     there would be turned away"
                );
                Err(Refusal::rule(UNHEARD_TARGET, message).hint(format!(
                    "give the command at the nodes of {site} first, then here with \
                     --override {UNHEARD_TARGET}"
                )))
            }
        }
    }

    /// True for services that are never opened by one node's word.
    fn only_withdraws(&self, one: &Move) -> bool {
        let leased = self.setting.catalog.get(&one.service).is_some_and(|s| s.is_leased());
        leased || one.handover == Handover::BreakBeforeMake
    }

    /// An own local command is on the disk, or was found there at the start.
    pub(super) fn local_kept(&mut self, sealed: &Sealed, now: Now) {
        match &sealed.entry.body {
            Body::Command(command) => {
                let verbatim = sealed.verbatim().unwrap_or_default();
                let local = Local {
                    command: command.clone(),
                    verbatim,
                    at: sealed.entry.at,
                    before: BTreeMap::new(),
                    judging: false,
                    undone: false,
                };
                let id = command.request.id.clone();
                let text = format!("{id} {}: on this node only", command.request.ask.verb_name());
                self.locals.open.insert(id, local);
                if !self.started {
                    return;
                }
                self.remember_movers();
                self.note_local("local-taken", text);
                self.want(now);
                if let Some(token) = self.locals.keeping.pop_front() {
                    let reply = local_reply(command);
                    self.reply_command(token, reply, now);
                }
            }
            Body::End(end) => drop(self.locals.open.remove(&end.slot.task)),
            _ => {}
        }
    }

    /// The disk did not take it: nothing was done.
    pub(super) fn local_not_kept(&mut self, why: &str, now: Now) {
        if let Some(token) = self.locals.keeping.pop_front() {
            let text = format!("NATS is away, and the command cannot be kept here: {why}");
            self.reply_unreachable(token, &text, now);
        }
    }

    /// Who has moved the services of local commands last, as far as is known now.
    pub(super) fn remember_movers(&mut self) {
        for local in self.locals.open.values_mut() {
            let effect = local.command.effect.iter();
            for one in effect.flat_map(|effect| &effect.moves) {
                let order = self.intent.mover(&one.service).map(|mover| mover.order.clone());
                local.before.entry(one.service.clone()).or_insert(order);
            }
        }
    }

    /// Lays what this node has taken over what the logs want.
    pub(super) fn lay_over(&self, placement: &mut Placement) {
        let lying = self.locals.open.values().filter(|local| !local.undone);
        for one in lying.flat_map(Local::moves) {
            let Some(placed) = placement.services.get_mut(&one.service) else { continue };
            let Placed { traffic, reason, .. } = placed;
            let over = match self.only_withdraws(one) {
                true => Traffic {
                    spread: Spread::Nowhere,
                    accept: BTreeSet::new(),
                    answers: traffic.answers.clone(),
                },
                false => Traffic {
                    spread: one.to.spread.clone(),
                    accept: traffic.accept.union(&one.to.accept).cloned().collect(),
                    answers: one.to.answers.clone(),
                },
            };
            *traffic = Arc::new(over);
            *reason = Reason::UnderWay;
        }
    }

    /// Ends what has been decided in the site's log, or overtaken there.
    pub(super) fn settle_locals(&mut self, now: Now) {
        let ids: Vec<EntryId> = self.locals.open.keys().cloned().collect();
        for id in ids {
            if self.is_overtaken(&id) {
                self.locals.open.get_mut(&id).expect("just looked at").undone = true;
                self.note_local("local-undone", format!("{id}: the log has moved its services"));
                self.want(now);
            }
            let Some(text) = self.settled(&id) else { continue };
            self.locals.open.remove(&id);
            let body = end(id.clone(), Outcome::Done, &text);
            self.effects.push(Effect::Local(Box::new(LocalEntry { body, verbatim: None })));
            self.over(&id, &text, now);
            self.want(now);
        }
    }

    /// Why a local command lies over nothing any more.
    fn settled(&self, id: &EntryId) -> Option<String> {
        let local = self.locals.open.get(id)?;
        let verdict = self.fold.verdict(id).map(|verdict| &verdict.what);
        let mover = |one: &Move| self.intent.mover(&one.service);
        match verdict {
            Some(Verdict::Refused(refused)) => {
                let (by, why) = (&refused.refused_by, &refused.message);
                Some(format!("refused by {by} and undone: {why}"))
            }
            Some(Verdict::Accepted(command)) if command.effect.is_none() => {
                Some("undone: the task waits for approval".to_owned())
            }
            Some(Verdict::Accepted(_)) => {
                let come = |one: &Move| {
                    mover(one).is_none_or(|mover| {
                        mover.order.task != *id
                            || mover.traffic.spread == one.to.spread
                            || (self.only_withdraws(one) && mover.touched)
                    })
                };
                // What stands still in the log does not go on here.
                let held = local.moves().any(|one| self.intent.is_held(&one.service));
                let runs = state(&self.fold, id) == TaskState::Running && !held;
                let over = !runs || local.moves().all(come);
                over.then(|| "its task in the log has taken over".to_owned())
            }
            None => None,
        }
    }

    /// Somebody has moved a service of it since it was taken.
    fn is_overtaken(&self, id: &EntryId) -> bool {
        let Some(local) = self.locals.open.get(id).filter(|local| !local.undone) else {
            return false;
        };
        let moved = |one: &Move| {
            let now = self.intent.mover(&one.service).map(|mover| &mover.order);
            let own = now.is_some_and(|order| order.task == *id);
            let before = local.before.get(&one.service);
            !own && before.is_some_and(|before| before.as_ref() != now)
        };
        local.moves().any(moved)
    }

    /// The next local command that the site is to judge, once everything was read again.
    pub(super) fn due_local(&mut self, now: Now) -> Option<(Body, Option<Vec<u8>>)> {
        if self.locals.open.is_empty() || !self.has_read_everybody(now) {
            return None;
        }
        let waits = |(_, local): &(&EntryId, &mut Local)| !local.judging;
        let (id, local) = self.locals.open.iter_mut().find(waits)?;
        local.judging = true;
        let (id, local) = (id.clone(), local.clone());
        if self.fold.verdict(&id).is_some() {
            return None;
        }
        // Whether it was in time was decided when it was taken.
        let mut request = local.command.request.clone();
        let sight = nett_policy::task::decide::Sight { now: local.at, ..self.sight.clone() };
        let mut present = self.present();
        present.sight = &sight;
        let in_time = admit(present, &request);
        if let Ask::Command { plan_hash, .. } = &mut request.ask {
            *plan_hash = Some(local.command.plan_hash.clone());
        }
        let judged = in_time.and_then(|()| judge(self.present(), &plain(&request)));
        let body = self.command_or_refusal(&local.command.request, judged);
        Some((body, Some(local.verbatim)))
    }

    /// True once everything was read that others have written while the bus was away here. A site
    /// that is not heard for long is cut off: what it has decided is a split decision then.
    fn has_read_everybody(&mut self, now: Now) -> bool {
        let sites = &self.setting.fabric.sites;
        let all = sites.iter().all(|s| self.locals.read.contains(&s.id));
        if !all || !self.peers.bus_connected {
            return false;
        }
        let until = self.locals.back + SILENCE;
        let since = |heard: &&Heard| heard.at > self.locals.back;
        let fresh = || self.peers.reports.values().filter(since);
        let others = self.setting.fabric.other_sites(self.site());
        let heard = |site: &SiteId| fresh().any(|heard| heard.report.site == *site);
        let unheard = others.filter(|site| !heard(&site.id)).count();
        if unheard > 0 && now.mono < until {
            self.deciding.wake(until);
            return false;
        }
        let own = self.reading.heads();
        let read =
            |(site, head): (&SiteId, &Head)| own.get(site).is_some_and(|o| o.seq >= head.seq);
        fresh().all(|heard| heard.report.heads.iter().all(read))
    }

    /// The append of a local command failed: it is tried again.
    pub(super) fn judge_locals_again(&mut self) {
        self.locals.open.values_mut().for_each(|local| local.judging = false);
    }

    pub(super) fn local_docs(&self) -> Vec<LocalDoc> {
        let waits = "waits for NATS".to_owned();
        let open = self.locals.open.values().map(|local| local_doc(local, waits.clone()));
        open.chain(self.locals.over.iter().cloned()).collect()
    }

    /// As tasks, for those that are none of the log yet.
    pub(super) fn local_lines(&self) -> Vec<TaskLine> {
        let known = |local: &&Local| self.fold.command(&local.command.request.id).is_none();
        let line = |local: &Local| {
            let LocalDoc { task, verb, subject, person, at, state: _ } =
                local_doc(local, String::new());
            let (state, progress) = (TaskStateDoc::Local, String::new());
            TaskLine { id: task, verb, subject, person, state, progress, opened_at: at }
        };
        self.locals.open.values().filter(known).map(line).collect()
    }

    /// How many commands lie over what the logs want.
    pub fn locals(&self) -> usize {
        self.locals.open.len()
    }

    fn over(&mut self, id: &EntryId, text: &str, now: Now) {
        self.note_local("local-over", format!("{id}: {text}"));
        if self.locals.over.len() == SHOWN {
            self.locals.over.pop_front();
        }
        self.locals.over.push_back(LocalDoc {
            task: id.to_string(),
            verb: String::new(),
            subject: String::new(),
            person: String::new(),
            at: now.wall.into(),
            state: text.to_owned(),
        });
    }

    fn note_local(&mut self, kind: &'static str, text: String) {
        self.effects.push(Effect::Audit(AuditEvent::Kernel { kind, text }));
    }
}

fn local_doc(local: &Local, state: String) -> LocalDoc {
    let request = &local.command.request;
    let services: Vec<String> =
        local.moves().map(|m| format!("{} -> {}", m.service, m.to.spread)).collect();
    LocalDoc {
        task: request.id.to_string(),
        verb: request.ask.verb_name().to_owned(),
        subject: services.join(", "),
        person: request.person.name.clone(),
        at: local.at.into(),
        state,
    }
}

fn local_reply(command: &Command) -> CommandReply {
    CommandReply {
        accepted: true,
        task: Some(command.request.id.to_string()),
        state: Some(LOCAL.to_owned()),
        refused_by: None,
        message: "NATS is away: taken by this node, for itself alone; the site decides about it \
                  when NATS is back (`nettctl status` tells)"
            .to_owned(),
        exit: 0,
        plan_hash: Some(command.plan_hash.clone()),
    }
}

/// Verbs that move services, and mean something on one node.
fn is_for_one_node(verb: &Verb) -> bool {
    match verb {
        Verb::Failover { .. }
        | Verb::Failback { .. }
        | Verb::Steer { .. }
        | Verb::Drain { .. }
        | Verb::Undrain { .. }
        | Verb::Evacuate { .. } => true,
        Verb::Hold { .. }
        | Verb::Release { .. }
        | Verb::Revert { .. }
        | Verb::Resolve { .. }
        | Verb::Revoke { .. } => false,
    }
}

fn away(why: &str) -> Refusal {
    Refusal::rule("bus-away", format!("{why} while NATS is away"))
        .hint("this node alone takes commands that move services; see `nettctl status`")
}

fn end(task: EntryId, outcome: Outcome, reason: &str) -> Body {
    let slot = Slot { task, term: 0, index: 1 };
    Body::End(EndFact { slot, outcome, reason: reason.to_owned() })
}
