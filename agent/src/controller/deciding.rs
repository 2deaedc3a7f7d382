//! Requests and next facts. One append is in flight at a time, behind the head that the decision
//! was made on: who loses the compare-and-set reads on and judges again.

use std::collections::BTreeMap;
use std::time::Duration;

use nett_policy::id::{EntryId, NodeId, SiteId};
use nett_policy::log::entry::{
    Ask, Body, Command, Entry, Person, Refused, Request, Slot, Wish, WishKind,
};
use nett_policy::log::fold::Verdict;
use nett_policy::task::decide::{Proposal, Refusal, admit, judge, judge_wish};
use nett_policy::task::drained::Silence;
use nett_policy::task::next::{Ack, Next, Seen, next};
use nett_policy::task::view::{TaskState, adoption, state};

use super::effect::{Append, AuditEvent, Effect};
use super::event::{AppendFailure, Now, Token};
use super::local::plain;
use super::pacing::Pacing;
use super::refusals::{Refusals, exit_of_recorded, refusal_body, refusal_reply, unrecorded};
use super::{ByTask, Controller, Queue};
use crate::api::types::CommandReply;
use crate::bus::wire::{OpenError, Sealed, open_request};

#[derive(Debug, Default)]
pub(super) struct Deciding {
    queue: Queue<Waiting>,
    in_flight: Option<InFlight>,
    /// The number of the stream that the append in flight goes behind.
    behind: u64,
    /// After a lost compare-and-set: nothing is appended before the head has moved, or this time.
    held_until: Option<Duration>,
    /// Appends in a row that were not stored for another reason: each doubles the pause.
    failures: u32,
    touched: ByTask<Touched>,
    pub(super) deadline: Option<Duration>,
    pub(super) pacing: Pacing,
    /// Since when the site's stream is being filled again.
    pub(super) refilling: Option<Duration>,
    /// This node has not what its site's stream lacks.
    pub(super) cannot_refill: bool,
    unauthentic: u64,
    unauthentic_noted: Option<Duration>,
    pub(super) refused: u64,
    /// When each person's last request was taken out of the queue, as a number that goes up.
    turns: BTreeMap<String, u64>,
    refusals: Refusals,
    /// Why the journal does not take records; no command is accepted meanwhile.
    pub(super) journal_trouble: Option<String>,
}

/// A request that is authentic and not yet in the log.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) token: Token,
    pub(super) request: Request,
    pub(super) verbatim: Vec<u8>,
    /// It came by this node's own socket, and not over NATS.
    pub(super) by_socket: bool,
    /// How often it lost the compare-and-set.
    lost: u32,
    /// It counts as one of its author's refusals, however often it is judged.
    charged: bool,
    since: Duration,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of them")]
enum InFlight {
    Request(Waiting),
    Fact,
    /// A command that this node had taken while the bus was away.
    Local,
}

/// The last entry about a task, as this agent read it.
#[derive(Debug)]
struct Touched {
    /// When the last fact was read: what delays and timeouts count from.
    fact_at: Duration,
    /// When anything was read: what the turns of the site's agents count from.
    at: Duration,
    /// Who wrote it, when it is in the log of this agent's site.
    writer: Option<NodeId>,
}

/// How many requests may wait; more are turned away at once.
const QUEUE_LIMIT: usize = 256;
/// How many of them may be one person's.
const PERSON_LIMIT: usize = 128;
/// How long another agent of the site waits per place in the node list before it writes a fact
/// that the writer of the last one owes.
const TURN: Duration = Duration::from_millis(500);
/// How long a request waits for the bus: an agent that has just started is connected within that.
const BUS_PATIENCE: Duration = Duration::from_secs(2);
/// How often, and for how long, a request may lose before its author is told.
const LOSSES: u32 = 12;
const LOSES_FOR: Duration = Duration::from_secs(4);
/// How long until another attempt at filling the stream again.
const REFILL_PATIENCE: Duration = Duration::from_secs(5);
/// How long an append holds still after it lost against another writer whose entry does not come.
const CONFLICT_HOLD: Duration = Duration::from_millis(250);

// === impl Deciding ===

impl Deciding {
    /// An entry about a task was read, whose home is `home` now.
    pub(super) fn touch(&mut self, task: &EntryId, entry: &Entry, home: SiteId, now: Now) {
        self.held_until = None;
        let fact = !matches!(entry.body, Body::Wish(_) | Body::Refused(_));
        let touched = self.touched.entry(task.clone()).or_insert_with(|| Touched {
            fact_at: now.mono,
            at: now.mono,
            writer: None,
        });
        // A wish moves the turn's clock, not the task's, and gives nobody the turn.
        touched.at = now.mono;
        if fact {
            touched.fact_at = now.mono;
        }
        if entry.site == home {
            touched.writer = Some(entry.node.clone());
        } else if fact {
            touched.writer = None;
        }
    }

    /// Nothing waits for the stream of the own site.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_none() && self.held_until.is_none()
    }

    /// Something is due at that time.
    pub(super) fn wake(&mut self, at: Duration) {
        self.deadline = earlier(self.deadline, at);
    }

    /// Nothing more is due about a task.
    pub(super) fn forget(&mut self, task: &EntryId) {
        self.touched.remove(task);
    }

    /// An entry of the own site was read: the head that was waited for.
    pub(super) fn moved_on(&mut self) {
        self.held_until = None;
    }

    /// The next request: the first of whoever has waited longest for a turn.
    fn next_waiting(&mut self) -> Option<Waiting> {
        let turn = |(at, waiting): &(usize, &Waiting)| {
            (self.turns.get(&waiting.request.person.key).copied().unwrap_or(0), *at)
        };
        let (at, _) = self.queue.iter().enumerate().min_by_key(turn)?;
        let waiting = self.queue.remove(at)?;
        let last = self.turns.values().max().copied().unwrap_or(0);
        // There are no more of them than operators.
        self.turns.insert(waiting.request.person.key.clone(), last + 1);
        Some(waiting)
    }

    fn is_full_for(&self, person: &Person) -> bool {
        let theirs = self.queue.iter().filter(|waiting| waiting.request.person == *person);
        self.queue.len() >= QUEUE_LIMIT || theirs.count() >= PERSON_LIMIT
    }

    fn busy(&self, now: Now) -> bool {
        self.in_flight.is_some() || self.held_until.is_some_and(|until| now.mono < until)
    }
}

// === impl Controller ===

impl Controller {
    /// A signed request from the bus or the socket.
    pub(super) fn request(
        &mut self,
        token: Token,
        (subject, by_socket): (&str, bool),
        bytes: Vec<u8>,
        now: Now,
    ) {
        let request = match open_request(&bytes, subject, &self.setting.fabric) {
            Ok(request) => request,
            Err(error) => return self.unauthentic(token, &error, now),
        };
        if let Some(reply) = self.known(&request) {
            return self.reply_command(token, reply, now);
        }
        if request.site != *self.site() {
            // In this site's log nobody would believe it, nor anything behind it.
            let text = format!("the request is for site {}, this is {}", request.site, self.site());
            let refusal = Refusal::usage("other-site", text);
            return self.reply_command(token, refusal_reply(&refusal), now);
        }
        if request.expires_at < self.forgettable(now) {
            // Whatever became of it may be forgotten: nobody decides about it a second time.
            let refusal = Refusal::rule("expired", "the request expired long ago");
            return self.reply_command(token, refusal_reply(&refusal), now);
        }
        if self.deciding.is_full_for(&request.person) {
            let refusal = Refusal::rule("busy", "too many requests are waiting; send it again");
            return self.reply_command(token, refusal_reply(&refusal), now);
        }
        self.deciding.queue.push_back(Waiting {
            token,
            request,
            verbatim: bytes,
            by_socket,
            lost: 0,
            charged: false,
            since: now.mono,
        });
    }

    /// Nothing is written to the log for somebody who proved nothing: one counted line a second.
    fn unauthentic(&mut self, token: Token, error: &OpenError, now: Now) {
        self.deciding.unauthentic += 1;
        self.deciding.refused += 1;
        let second = Duration::from_secs(1);
        let due = self.deciding.unauthentic_noted.is_none_or(|at| now.mono >= at + second);
        if due {
            let (reason, message) = (error.reason(), self.refusal_of(error).message);
            let count = std::mem::take(&mut self.deciding.unauthentic);
            self.deciding.unauthentic_noted = Some(now.mono);
            self.effects.push(Effect::Audit(AuditEvent::Unauthentic { reason, message, count }));
        }
        let refusal = self.refusal_of(error);
        self.reply_command(token, refusal_reply(&refusal), now);
    }

    /// The recorded answer to a request that is in the log already.
    fn known(&self, request: &Request) -> Option<CommandReply> {
        if self.fold.wish(request).is_some() {
            return Some(self.wish_reply(request));
        }
        match &self.fold.verdict(&request.id)?.what {
            Verdict::Accepted(command) => Some(self.accepted_reply(command)),
            Verdict::Refused(refused) => {
                let Refused { request: _, refused_by, message } = refused;
                let exit = exit_of_recorded(refused_by);
                Some(CommandReply {
                    refused_by: Some(refused_by.clone()),
                    message: message.clone(),
                    exit,
                    ..CommandReply::default()
                })
            }
        }
    }

    /// Starts the next append, if there is something to append and nothing in flight.
    pub(super) fn decide(&mut self, now: Now) {
        self.deciding.deadline = self.deciding.held_until.filter(|until| now.mono < *until);
        let busy = self.deciding.busy(now) || self.prefaces.writing();
        if busy || !self.reading.is_caught_up(self.site()) {
            return self.refuse_without_bus(now);
        }
        let (site, me) = (self.site(), &self.setting.node.id);
        if let Some(until) = self.prefaces.written_by_other(site, me, now.mono) {
            return self.deciding.wake(until);
        }
        // What cannot be filled is said, below; it is tried again all the same.
        let lacking = self.refill_first(now);
        if lacking && !self.deciding.cannot_refill {
            return;
        }
        let lacks = || lacking.then_some("it lacks entries that this node cannot fill in");
        let follow = self.reading.cannot_follow(self.site()).map(String::as_str).or_else(lacks);
        let follow = follow.map(|what| format!("nothing can be added to the site's log: {what}"));
        let durable = self.deciding.journal_trouble.as_ref();
        let durable = durable.map(|why| format!("this agent cannot keep what it accepts: {why}"));
        if let Some(text) = follow.or(durable) {
            while let Some(waiting) = self.deciding.queue.pop_front() {
                self.reply_unreachable(waiting.token, &text, now);
            }
            return;
        }
        if let Some((body, verbatim)) = self.due_local(now) {
            self.deciding.in_flight = Some(InFlight::Local);
            return self.append(body, verbatim);
        }
        while let Some(mut waiting) = self.deciding.next_waiting() {
            if let Some(reply) = self.known(&waiting.request) {
                self.reply_command(waiting.token, reply, now);
                continue;
            }
            let body = self.judged(&waiting.request);
            if let Body::Refused(refused) = &body
                && !waiting.charged
            {
                let person = &waiting.request.person;
                waiting.charged = self.deciding.refusals.may_record(person, now.mono);
                if !waiting.charged {
                    self.deciding.refused += 1;
                    self.reply_command(waiting.token, unrecorded(refused), now);
                    continue;
                }
            }
            let verbatim = Some(waiting.verbatim.clone());
            self.deciding.in_flight = Some(InFlight::Request(waiting));
            return self.append(body, verbatim);
        }
        if let Some(body) = self.due_withdrawal() {
            self.deciding.in_flight = Some(InFlight::Fact);
            return self.append(body, None);
        }
        self.next_fact(now);
    }

    /// Nothing new is appended to a stream that lacks what was there before.
    fn refill_first(&mut self, now: Now) -> bool {
        match self.deciding.refilling {
            Some(since) if now.mono < since + REFILL_PATIENCE && self.lacks_something() => {
                self.deciding.deadline = Some(since + REFILL_PATIENCE);
                return true;
            }
            Some(_) | None => self.deciding.refilling = None,
        }
        if !self.refill() {
            return false;
        }
        self.deciding.refilling = Some(now.mono);
        self.deciding.deadline = Some(now.mono + REFILL_PATIENCE);
        true
    }

    /// Without the site's log nothing can be accepted: say so soon instead of keeping people
    /// waiting.
    fn refuse_without_bus(&mut self, now: Now) {
        let reachable = self.peers.bus_connected && self.reading.is_caught_up(self.site());
        if reachable || self.deciding.in_flight.is_some() {
            return;
        }
        while let Some(waiting) = self.deciding.queue.front() {
            let until = waiting.since + BUS_PATIENCE;
            if now.mono < until {
                self.deciding.deadline = earlier(self.deciding.deadline, until);
                return;
            }
            let Some(waiting) = self.deciding.queue.pop_front() else { return };
            if self.may_take_locally(&waiting) {
                self.take_locally(waiting, now);
                continue;
            }
            let text = "the site's log cannot be written: this agent is not connected to the bus";
            self.reply_unreachable(waiting.token, text, now);
        }
    }

    /// While the bus is away, and the node's own disk works.
    fn may_take_locally(&self, waiting: &Waiting) -> bool {
        let well = self.trusted && self.deciding.journal_trouble.is_none();
        waiting.by_socket && well && !self.peers.bus_connected
    }

    fn judged(&mut self, request: &Request) -> Body {
        let refused = |refusal: &Refusal| refusal_body(request, refusal);
        let present = self.present();
        if let Err(refusal) = admit(present, request) {
            return refused(&refusal);
        }
        match &request.ask {
            Ask::Wish { kind, .. } => match judge_wish(present, request) {
                Ok(()) if matches!(kind, WishKind::Adopt { .. }) => {
                    let rank = self.setting.fabric.rank(self.site());
                    Body::Adopt(adoption(&self.fold, request.clone(), rank))
                }
                Ok(()) => Body::Wish(Wish { request: request.clone() }),
                Err(refusal) => refused(&refusal),
            },
            Ask::Command { .. } => {
                let judged = judge(present, &plain(request));
                self.command_or_refusal(request, judged)
            }
        }
    }

    pub(super) fn command_or_refusal(
        &self,
        request: &Request,
        judged: Result<Proposal, Refusal>,
    ) -> Body {
        match judged {
            Ok(proposal) => Body::Command(command(request, proposal)),
            Err(refusal) => refusal_body(request, &refusal),
        }
    }

    /// Writes the first fact that is due and this agent's turn.
    fn next_fact(&mut self, now: Now) {
        if let Some(wake) = self.deciding.pacing.rests(now.mono) {
            let deadlines = [self.deciding.deadline, wake];
            self.deciding.deadline = deadlines.into_iter().flatten().min();
            return;
        }
        let mut wake: Option<Duration> = None;
        let mut due: Option<Body> = None;
        for task in &self.open {
            if self.fold.home(task) != *self.site() {
                continue;
            }
            let touched = self.deciding.touched.get(task);
            let since =
                |at: Option<Duration>| at.map_or(Duration::ZERO, |at| now.mono.saturating_sub(at));
            let since_last = since(touched.map(|t| t.fact_at));
            let since_any = since(touched.map(|t| t.at));
            let ack = |node: &NodeId, slot: &Slot| self.ack_of(node, slot);
            let told = |node: &NodeId, slot: &Slot| self.told_of(node, slot);
            let heard = |node: &NodeId| self.heard_ago(node, now.mono);
            let seen = Seen { ack: &ack, told: &told, heard: &heard, since_last, now: now.wall };
            match next(self.present(), task, &seen) {
                Next::Wait(None) => {}
                Next::Wait(Some(left)) => wake = earlier(wake, now.mono + left),
                Next::Write(body) => match self.turn(touched).checked_sub(since_any) {
                    Some(left) if !left.is_zero() => wake = earlier(wake, now.mono + left),
                    Some(_) | None => {
                        due = Some(*body);
                        break;
                    }
                },
            }
        }
        let deadlines = [self.deciding.deadline, wake];
        self.deciding.deadline = deadlines.into_iter().flatten().min();
        self.deciding.pacing.asked(now.mono, self.moving(), wake);
        if let Some(body) = due {
            self.deciding.pacing.acted();
            self.deciding.in_flight = Some(InFlight::Fact);
            self.append(body, None);
        }
    }

    /// How long this agent leaves the next fact to others.
    fn turn(&self, touched: Option<&Touched>) -> Duration {
        let me = &self.setting.node;
        if touched.and_then(|t| t.writer.as_ref()) == Some(&me.id) {
            return Duration::ZERO;
        }
        let of_site = self.setting.fabric.nodes.iter().filter(|n| n.site == me.site);
        let place = of_site.take_while(|n| n.id != me.id).count() + 1;
        TURN * u32::try_from(place).unwrap_or(u32::MAX)
    }

    /// How long this agent leaves it to others to say what a task's last fact asks for, and when
    /// that fact was read.
    pub(super) fn turn_of(&self, task: &EntryId, now: Now) -> (Duration, Duration) {
        let touched = self.deciding.touched.get(task);
        (self.turn(touched), touched.map_or(now.mono, |touched| touched.fact_at))
    }

    pub(super) fn ack_of(&self, node: &NodeId, slot: &Slot) -> Option<Ack> {
        if *node == self.setting.node.id {
            return self.doing.own_ack(slot);
        }
        let report = &self.peers.reports.get(node)?.report;
        report.acks.iter().find(|ack| ack.slot == *slot).cloned()
    }

    /// What a node measures for a step that it has not acknowledged.
    pub(super) fn told_of(&self, node: &NodeId, slot: &Slot) -> Option<Vec<String>> {
        if *node == self.setting.node.id {
            return self.draining.told(self.last_now).remove(slot);
        }
        self.peers.reports.get(node)?.report.measuring.get(slot).cloned()
    }

    /// How long ago a node reported last; this one always has.
    fn heard_ago(&self, node: &NodeId, now: Duration) -> Option<Duration> {
        if *node == self.setting.node.id {
            return Some(Duration::ZERO);
        }
        Some(now.saturating_sub(self.peers.reports.get(node)?.at))
    }

    /// Why what a node told of an open step of a task is no verdict: it is not heard any more.
    pub(super) fn silence_of(&self, node: &NodeId, task: &EntryId) -> Option<Silence> {
        let fact = self.deciding.touched.get(task)?.fact_at;
        let since_start = self.last_now.saturating_sub(fact);
        Silence::of(self.heard_ago(node, self.last_now), since_start)
    }

    fn append(&mut self, body: Body, verbatim: Option<Vec<u8>>) {
        let site = self.site().clone();
        let after = self.reading.head(&site).cloned();
        let after_stream_seq = self.reading.begin_append(&site);
        self.deciding.behind = after_stream_seq;
        let append = Append { body, verbatim, after, after_stream_seq };
        self.effects.push(Effect::Append(Box::new(append)));
    }

    pub(super) fn appended(&mut self, sealed: Sealed, stream_seq: u64, now: Now) {
        let in_flight = self.deciding.in_flight.take();
        self.deciding.failures = 0;
        self.read_own(sealed, stream_seq, now);
        if let Some(InFlight::Request(Waiting { token, request, .. })) = in_flight
            && let Some(reply) = self.known(&request)
        {
            self.deciding.refused += u64::from(!reply.accepted);
            self.reply_command(token, reply, now);
        }
    }

    pub(super) fn append_failed(&mut self, failure: &AppendFailure, now: Now) {
        let in_flight = self.deciding.in_flight.take();
        let hold = match failure {
            // Whoever won may have been read before it was known that this one lost.
            AppendFailure::Conflict if self.reading.seen(self.site()) > self.deciding.behind => {
                Duration::ZERO
            }
            AppendFailure::Conflict => CONFLICT_HOLD,
            AppendFailure::Unreachable(_)
            | AppendFailure::Unknown(_)
            | AppendFailure::Refused(_) => {
                self.deciding.failures += 1;
                CONFLICT_HOLD * 2u32.saturating_pow(self.deciding.failures.min(7))
            }
        };
        self.deciding.held_until = (!hold.is_zero()).then(|| now.mono + hold);
        if matches!(in_flight, Some(InFlight::Local)) {
            self.judge_locals_again();
        }
        let Some(InFlight::Request(waiting)) = in_flight else { return };
        match failure {
            AppendFailure::Unreachable(_) if self.may_take_locally(&waiting) => {
                self.take_locally(waiting, now);
            }
            AppendFailure::Conflict
                if waiting.lost < LOSSES || now.mono < waiting.since + LOSES_FOR =>
            {
                let lost = waiting.lost + 1;
                self.deciding.queue.push_front(Waiting { lost, ..waiting });
            }
            AppendFailure::Conflict => {
                let text = "others of this site wrote to its log each time before this agent \
                            could: nothing was accepted; send it again in a few seconds";
                self.reply_unreachable(waiting.token, text, now);
            }
            AppendFailure::Unreachable(why) => {
                let text = format!("the site's log cannot be written: {why}");
                self.reply_unreachable(waiting.token, &text, now);
            }
            AppendFailure::Unknown(why) => {
                let id = &waiting.request.id;
                let text = format!(
                    "no answer from the site's log ({why}): the command may yet be accepted; \
                     look for it with `nettctl task show {id}`, or send the same bytes again"
                );
                self.reply_unreachable(waiting.token, &text, now);
            }
            AppendFailure::Refused(why) => {
                let text = format!("the bus refused the entry: {why}");
                self.reply_unreachable(waiting.token, &text, now);
            }
        }
    }

    fn accepted_reply(&self, command: &Command) -> CommandReply {
        let state = state(&self.fold, &command.request.id);
        let waits = state == TaskState::WaitingApproval;
        let message = match (waits, command.approvals_needed) {
            (true, needed) => format!("accepted; waits for {needed} approval(s)"),
            (false, _) => format!("accepted; {}", state.as_str()),
        };
        CommandReply {
            accepted: true,
            task: Some(command.request.id.to_string()),
            state: Some(state.as_str().to_owned()),
            refused_by: None,
            message,
            exit: if waits { 5 } else { 0 },
            plan_hash: Some(command.plan_hash.clone()),
        }
    }

    fn wish_reply(&self, request: &Request) -> CommandReply {
        let Ask::Wish { task, .. } = &request.ask else { return CommandReply::default() };
        let verb = request.ask.verb_name();
        CommandReply {
            accepted: true,
            task: Some(task.to_string()),
            message: format!("{verb} is recorded; the task's home site acts on it"),
            ..CommandReply::default()
        }
    }
}

/// A command as accepted. One that needs no approval has its effect at once.
pub(super) fn command(request: &Request, proposal: Proposal) -> Command {
    let Proposal { effect, plan_hash, approvals_needed, services: _, supersedes, bad_since } =
        proposal;
    let effect = (approvals_needed == 0).then_some(effect);
    let request = request.clone();
    Command { request, plan_hash, approvals_needed, supersedes, bad_since, effect }
}

fn earlier(a: Option<Duration>, b: Duration) -> Option<Duration> {
    Some(a.map_or(b, |a| a.min(b)))
}
