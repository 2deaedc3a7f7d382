//! Carries effects out, and turns everything that happens into events: the only place where the
//! controller meets tokio.
//!
//! ```text
//!  bus events ──┐                                ┌── journal thread (awaited: fsync before acting)
//!  API calls ───┤                                ├── watch ──> reconciler (kernel)
//!  reconciler ──┼── bounded mpsc ──> Driver ─────┼── zone keeper (one swap)
//!  probes ──────┤        ▲  Controller::handle   ├── task: append (one in flight)
//!  appends ─────┘        └── deadline            ├── watch ──> task: publish report
//!                                                └── audit thread (not awaited), answers
//! ```
//! Queues are bounded; what is only worth its newest value travels by `watch`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use nett_policy::id::{EntryId, WallMs};
use nett_policy::log::entry::Slot;
use nett_policy::roster::Rosters;
use nett_policy::task::acks::ProbeTarget;
use nkeys::KeyPair;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::asker::{Asker, send};
use super::effect::{Append, AuditEvent, Effect};
use super::event::{AppendFailure, Event, Now, Token};
use super::keeping::Keeper;
use super::own_log::OwnLog;
use super::rescuing::{Piece, Staging};
use super::{Controller, Setting, Snapshot};
use crate::api::types::{ApiError, ApiRequest, ApiResponse, ErrorCode, Outcome, Payload};
use crate::bus::intake::ledger::Ledger;
use crate::bus::intake::turn::Turn;
use crate::bus::wire::{Blame, Draft, OutsideRequest, Report, Sealed, seal_outside, seal_report};
use crate::bus::{Bus, BusEvent};
use crate::clock::Clock;
use crate::journal::audit::Filter;
use crate::journal::{JournalWriter, Saved, Stored};
use crate::lease::LeaseEvent;
use crate::lease::hands::Hands;
use crate::name_server::NameServer;
use crate::probe::Probe;
use crate::reconcile::Wanted;
use crate::records::Records;
use crate::rng::Rng;
use crate::telemetry::event::{
    EntryAppended, EntryRefused, EntryTaken, ReportRefused, SitesOrdered, ZoneServed,
};
use crate::telemetry::{Duty, Metrics};
use crate::watchdog::Pulse;
use crate::zone::ZoneKeeper;

/// The concrete parts around the controller.
pub struct Parts<P> {
    pub bus: Arc<dyn Bus>,
    pub probe: Arc<P>,
    pub journal: JournalWriter,
    pub own_log: OwnLog,
    pub zone: ZoneKeeper,
    pub name_server: NameServer,
    pub records: Records,
    pub clock: Clock,
    pub rng: Rng,
    pub key: Arc<KeyPair>,
    pub wanted: watch::Sender<Wanted>,
    /// Whether buckets are looked at.
    pub looks: watch::Sender<bool>,
    pub metrics: Metrics,
    pub rosters: Arc<Rosters>,
    /// Who sends too much over the bus.
    pub intake: Arc<Ledger>,
    /// `None` where nothing is leased.
    pub hands: Option<Hands>,
    /// Answered between events, and while a disk is waited for.
    pub pulse: Pulse,
}

pub struct Driver<P> {
    pub(super) controller: Controller,
    pub(super) parts: Parts<P>,
    pub(super) events: mpsc::Sender<Event>,
    /// A backup that is coming in.
    pub(super) staging: Staging,
    reports: watch::Sender<Option<Report>>,
    pub(super) waiting: BTreeMap<Token, Asker>,
    next_token: u64,
    keeper: Keeper,
    /// A branch of a log that was read does not count: everything begins again from the journal.
    read_again: bool,
    /// Of the question that is looked at now.
    turn: Turn,
    /// How many may read the audit file, or have the kernel asked, at once.
    pub(super) readers: Arc<Semaphore>,
    /// Those who wait for a plan have their turn one after the other.
    pub(super) planners: Arc<Semaphore>,
    /// So many may have or await a plan.
    pub(super) planned: Arc<Semaphore>,
}

/// Why a driver stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// It was told to, or nothing is left that could happen.
    Stopped,
    /// It wants to begin again from the journal.
    ReadAgain,
}

/// Something from outside that is turned into an event here.
#[derive(Debug)]
pub enum Input {
    Event(Event),
    Bus(BusEvent),
    Api {
        request: ApiRequest,
        reply: oneshot::Sender<ApiResponse>,
    },
    /// The controller's view in numbers.
    Measure(oneshot::Sender<Snapshot>),
}

/// Readers of the audit file, and of packets' ways, at once; more are told to come again.
const AUDIT_READERS: usize = 2;
/// Each holds what it is worked out from: everything that is decided about services.
const PLANS: usize = 8;
/// How many entries are taken in at once, before anything else is looked at.
const AT_ONCE: usize = 256;

// === impl Driver ===

impl<P: Probe> Driver<P> {
    pub fn new(setting: Setting, parts: Parts<P>, events: mpsc::Sender<Event>) -> Self {
        let (reports, latest) = watch::channel(None);
        tokio::spawn(publish_reports(latest, parts.bus.clone(), parts.key.clone()));
        let controller = Controller::new(setting);
        let keeper = Keeper::new(parts.journal.clone(), parts.metrics.clone());
        let waiting = BTreeMap::new();
        Self {
            controller,
            parts,
            events,
            staging: Staging::default(),
            reports,
            waiting,
            next_token: 0,
            keeper,
            read_again: false,
            turn: Turn::default(),
            readers: Arc::new(Semaphore::new(AUDIT_READERS)),
            planners: Arc::new(Semaphore::new(1)),
            planned: Arc::new(Semaphore::new(PLANS)),
        }
    }

    /// What the journal holds, before anything else.
    ///
    /// `trusted` is false when entries may be missing and the kernel has the state of a former run:
    /// then nothing is wanted before the logs are read from the bus.
    pub async fn replay(&mut self, saved: Saved, entries: Vec<Stored>, trusted: bool) {
        self.step(Event::Checkpoint(saved)).await;
        for (sealed, stream_seq) in entries {
            self.parts.metrics.emit(EntryTaken { body: &sealed.entry.body, replayed: true });
            self.step(Event::Replayed { sealed, stream_seq }).await;
        }
        self.step(Event::ReplayDone { trusted }).await;
        self.parts.metrics.fulfil(Duty::Journal);
    }

    /// Runs until the inputs end or `stop` is done. Nothing is undone on the way out.
    pub async fn run(
        &mut self,
        mut own: mpsc::Receiver<Event>,
        mut inputs: mpsc::Receiver<Input>,
        stop: impl Future<Output = ()>,
    ) -> Finished {
        tokio::pin!(stop);
        loop {
            let deadline = self.controller.deadline().map(|at| self.parts.clock.instant(at));
            let deadline = deadline.into_iter().chain(self.parts.name_server.again()).min();
            let far = Instant::now() + Duration::from_secs(3600);
            let event = tokio::select! {
                biased;
                () = &mut stop => return Finished::Stopped,
                () = self.parts.pulse.asked() => {
                    self.parts.pulse.answer();
                    continue;
                }
                event = own.recv() => event,
                input = inputs.recv() => match input {
                    Some(input) => match self.event_of(input) {
                        Some(Event::Entries(entries)) => {
                            self.step_all(entries, &mut inputs).await;
                            if self.read_again {
                                return Finished::ReadAgain;
                            }
                            continue;
                        }
                        Some(event) => Some(event),
                        None => {
                            self.turn = Turn::default();
                            continue;
                        }
                    },
                    None => return Finished::Stopped,
                },
                () = tokio::time::sleep_until(deadline.unwrap_or(far)) => Some(Event::Timer),
            };
            let Some(event) = event else { return Finished::Stopped };
            self.step(event).await;
            if self.read_again {
                return Finished::ReadAgain;
            }
        }
    }

    /// Handles one event before [`Self::run`].
    pub async fn take(&mut self, event: Event) {
        self.step(event).await;
    }

    /// Takes in entries together with those that wait right behind them.
    async fn step_all(
        &mut self,
        mut entries: Vec<(Sealed, u64)>,
        inputs: &mut mpsc::Receiver<Input>,
    ) {
        let mut other = None;
        while entries.len() < AT_ONCE && other.is_none() {
            let Ok(input) = inputs.try_recv() else { break };
            match self.event_of(input) {
                Some(Event::Entries(more)) => entries.extend(more),
                event => other = event,
            }
        }
        self.step(Event::Entries(entries)).await;
        // What was read does not count then.
        if let Some(event) = other.filter(|_| !self.read_again) {
            self.step(event).await;
        }
    }

    async fn step(&mut self, event: Event) {
        // What an effect leads to at once is handled before anything else.
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = self.parts.clock.now();
            let effects = self.controller.handle(event, now);
            // Everything is kept before anything is carried out.
            let Parts { records, pulse, .. } = &mut self.parts;
            events.extend(pulse.during(self.keeper.keep(&effects, records, now)).await);
            for effect in effects {
                events.extend(self.carry_out(effect, now).await);
            }
            let silent = self.controller.isolated_since(now);
            let ms = |silent: Duration| u64::try_from(silent.as_millis()).unwrap_or(u64::MAX);
            let since = silent.map(|silent| WallMs(now.wall.0.saturating_sub(ms(silent))));
            self.parts.name_server.set_isolated(since);
            events.extend(self.start_name_server());
            let Parts { records, pulse, .. } = &mut self.parts;
            events.extend(pulse.during(self.keeper.keep_again(records, now)).await);
        }
        self.turn = Turn::default();
    }

    fn event_of(&mut self, input: Input) -> Option<Event> {
        match input {
            Input::Event(event) => Some(event),
            Input::Bus(event) => self.bus_event(event),
            Input::Api { request, reply } => self.api_event(request, Asker::Api(reply)),
            Input::Measure(reply) => {
                // Whoever scrapes may have gone away.
                let _ = reply.send(self.measured(self.parts.clock.now()));
                None
            }
        }
    }

    fn bus_event(&mut self, event: BusEvent) -> Option<Event> {
        match event {
            BusEvent::Entry { sealed, stream_seq, site: _ } => {
                Some(Event::Entries(vec![(sealed, stream_seq)]))
            }
            BusEvent::Preface { preface, stream_seq } => {
                Some(Event::Preface { preface: Box::new(preface), stream_seq })
            }
            BusEvent::BadEntry { site, stream_seq, subject: _, bytes: _, error } => {
                self.parts.metrics.emit(EntryRefused { site: &site, stream_seq, error: &error });
                let blocks = match error.blame() {
                    Blame::Upgrade | Blame::Fabric => Some(error.reason()),
                    Blame::Sender | Blame::Forged => None,
                };
                Some(Event::BadEntry { site, stream_seq, error: error.message(), blocks })
            }
            BusEvent::Report(report) => Some(Event::Report(report)),
            BusEvent::BadReport { site, subject, error } => {
                self.parts.metrics.emit(ReportRefused { site: &site, subject, error: &error });
                None
            }
            BusEvent::Request { bytes, subject, reply } => {
                let token = self.token(Asker::Command(reply));
                Some(Event::Request { token, subject, bytes: bytes.to_vec() })
            }
            BusEvent::Rpc { bytes, subject: _, reply, turn } => {
                self.turn = turn;
                self.turn.begin();
                match crate::api::codec::decode_call(&bytes) {
                    Ok(ApiRequest::Rejoin { .. } | ApiRequest::Restore { .. }) => {
                        let error = ApiError::new(
                            ErrorCode::BadRequest,
                            "this is asked for at the node's own socket only",
                            "",
                        );
                        send(Asker::Rpc(reply), ApiResponse::transport_error(error));
                        None
                    }
                    Ok(request) => self.api_event(request, Asker::Rpc(reply)),
                    Err(error) => {
                        send(Asker::Rpc(reply), ApiResponse::transport_error(error));
                        None
                    }
                }
            }
            BusEvent::Beacon { bytes, reply } => self.parts.hands.as_mut()?.asked(&bytes, reply),
            BusEvent::Fact { bytes, subject } => Some(Event::Fact { subject, bytes }),
            BusEvent::Vote(vote) => Some(Event::Lease(LeaseEvent::Vote(vote))),
            BusEvent::TurnedAway(record) => Some(Event::TurnedAway(record)),
            BusEvent::Connected => {
                self.parts.metrics.fulfil(Duty::Bus);
                Some(Event::BusConnected)
            }
            BusEvent::Disconnected => Some(Event::BusDisconnected),
            BusEvent::Hearing { result } => Some(Event::Hearing { result }),
            BusEvent::CaughtUp { site } => Some(Event::CaughtUp { site }),
            BusEvent::StreamMissing { site, stream, reason } => {
                tracing::warn!(%site, stream, reason, "A stream cannot be read.");
                None
            }
            BusEvent::LogReplaced { site, read, found } => {
                tracing::error!(%site, read, found, "A log was replaced.");
                Some(Event::LogReplaced { site, read, found })
            }
            BusEvent::Rewound { site } => Some(Event::Rewound { site }),
        }
    }

    /// Questions that need the zone or the audit file are answered here, the others by the
    /// controller.
    fn api_event(&mut self, request: ApiRequest, asker: Asker) -> Option<Event> {
        let outcome = match request {
            ApiRequest::ExplainName { name, client, subnet } => {
                self.parts.zone.explain(&name, client.as_deref(), subnet.as_deref())
            }
            ApiRequest::Audit { since, service, limit } => {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                let filter = Filter { since: since.map(|s| s.0), service, limit };
                self.beside(asker, move |path, _| crate::records::read(path, &filter));
                return None;
            }
            ApiRequest::AuditPart { from } => {
                self.beside(asker, move |path, _| crate::records::part(path, from));
                return None;
            }
            ApiRequest::Backup {} => {
                self.backup(asker);
                return None;
            }
            ApiRequest::Restore { fabric, hash, from, text, last, reason } => {
                self.restore(Piece { fabric, hash, from, text, last, reason }, asker);
                return None;
            }
            ApiRequest::AuditVerify {} => {
                self.beside(asker, crate::records::verify);
                return None;
            }
            request => {
                let token = self.token(asker);
                return Some(Event::Api { token, request });
            }
        };
        let now = self.parts.clock.now();
        let outcome = match outcome {
            Ok(payload) => Outcome::from(payload),
            Err(error) => Outcome::from(error),
        };
        send(asker, self.controller.envelope(outcome, now));
        None
    }

    /// Answers; what is told of a packet's way is held against this node's kernel first.
    fn tell(&self, asker: Asker, mut response: ApiResponse) {
        let of_path = |payload: &Payload| matches!(payload, Payload::Path(_));
        if !matches!(&response.outcome, Outcome::Ok(payload) if of_path(payload)) {
            return send(asker, response);
        }
        let Ok(permit) = self.readers.clone().try_acquire_owned() else {
            let busy = "the kernel is being asked for others";
            let busy = ApiError::new(ErrorCode::Busy, busy, "try again in a moment");
            response.outcome = Outcome::from(busy);
            return send(asker, response);
        };
        let node = response.node.clone();
        tokio::spawn(async move {
            if let Outcome::Ok(payload) = &mut response.outcome
                && let Payload::Path(path) = &mut **payload
            {
                super::path_check::check(path, &node).await;
            }
            drop(permit);
            send(asker, response);
        });
    }

    fn token(&mut self, asker: Asker) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.waiting.insert(token, asker);
        token
    }

    /// Carries an effect out; gives the event that it leads to at once, if any.
    async fn carry_out(&mut self, effect: Effect, now: Now) -> Option<Event> {
        match effect {
            // Kept before.
            Effect::Journal { .. } => {}
            Effect::Append(append) => self.append(*append, now),
            Effect::Kernel { generation, desired } => {
                self.parts.wanted.send_replace(Some((generation, Arc::from(desired))));
            }
            Effect::Buckets { looks } => drop(self.parts.looks.send_replace(looks)),
            Effect::Zone(answers) => {
                // The serial is put on disk.
                let Parts { zone, pulse, .. } = &mut self.parts;
                let served = pulse.excused(|| zone.serve(answers)).map(|()| zone.serial());
                self.parts.metrics.emit(ZoneServed { result: served.as_ref().copied() });
                let result = served.map_err(|error| error.to_string());
                return Some(Event::Served { result });
            }
            Effect::Near(near) => {
                let Parts { zone, pulse, .. } = &mut self.parts;
                let ordered = pulse.excused(|| zone.order(near)).map(|()| zone.serial());
                self.parts.metrics.emit(SitesOrdered { result: ordered.as_ref().copied() });
                let result = ordered.map_err(|error| error.to_string());
                return Some(Event::Ordered { result });
            }
            Effect::Probe { slot, targets, timeout } => self.probe(slot, targets, timeout),
            Effect::Refill { from, after_stream_seq } => self.refill(from, after_stream_seq, now),
            Effect::Local(entry) => return Some(self.keep_local(*entry, now).await),
            Effect::Compact(compact) => self.compact(*compact),
            Effect::Condense(condense) => self.condense(*condense, now),
            Effect::TakeIn(taken) => return Some(self.take_in(*taken).await),
            Effect::ReadAgain => self.read_again = true,
            Effect::Rewind { site } => self.parts.bus.rewind(&site),
            Effect::Report(report) => drop(self.reports.send_replace(Some(*report))),
            Effect::AskOutside(request) => self.ask_outside(*request),
            Effect::Reply { token, mut response } => {
                self.fill_in(&mut response);
                if let Some(asker) = self.waiting.remove(&token) {
                    self.tell(asker, *response);
                }
            }
            Effect::Plan { token, response, planning } => self.plan(token, response, planning),
            Effect::Lease(effect) => {
                // Of what is done there, the disk alone is waited for.
                let Parts { hands, pulse, .. } = &mut self.parts;
                return pulse.during(hands.as_mut()?.carry_out(effect)).await;
            }
            Effect::Audit(event) => {
                if let AuditEvent::Entry(sealed) = &event {
                    let body = &sealed.entry.body;
                    self.parts.metrics.emit(EntryTaken { body, replayed: false });
                }
                self.parts.records.write(&event, now);
            }
        }
        None
    }

    /// Signs and stores an entry behind the head that it was decided on.
    fn append(&mut self, append: Append, now: Now) {
        let setting = self.controller.setting();
        let Append { body, verbatim, after, after_stream_seq } = append;
        let kind = crate::records::kind(&body);
        let id = self.parts.rng.ulid(now.wall);
        let id: EntryId =
            format!("{}.{id}", setting.node.site).parse().expect("a site and a ulid are an id");
        let (boot, seq, prev_hash) = match after {
            Some(head) => (head.boot, head.seq + 1, head.hash),
            None => (self.parts.rng.ulid(now.wall), 1, String::new()),
        };
        let draft = Draft {
            id,
            site: setting.node.site.clone(),
            node: setting.node.id.clone(),
            fabric: self.controller.fabric_ref(),
            at: now.wall,
            boot,
            seq,
            prev_hash,
            body,
            request_verbatim: verbatim,
        };
        let (bus, events) = (self.parts.bus.clone(), self.events.clone());
        let metrics = self.parts.metrics.clone();
        let sealed = Sealed::seal(draft, &self.parts.key);
        tokio::spawn(async move {
            let event = match sealed {
                Ok(sealed) => match bus.append(&sealed, after_stream_seq).await {
                    Ok(stream_seq) => Event::Appended { sealed, stream_seq },
                    Err(error) => Event::AppendFailed((&error).into()),
                },
                Err(error) => Event::AppendFailed(AppendFailure::Refused(error.to_string())),
            };
            let result = match &event {
                Event::AppendFailed(failure) => Err(failure),
                _ => Ok(()),
            };
            metrics.emit(EntryAppended { kind, result });
            // The driver is gone when the agent stops.
            let _ = events.send(event).await;
        });
    }

    /// What does not get out is asked again as what is not answered.
    fn ask_outside(&self, request: OutsideRequest) {
        let (bus, sealed) = (self.parts.bus.clone(), seal_outside(&request, &self.parts.key));
        let party = request.asked.party;
        tokio::spawn(async move {
            match sealed {
                Ok(bytes) => {
                    if let Err(error) = bus.ask_outside(party.clone(), bytes).await {
                        tracing::debug!(%error, party, "Somebody outside was not asked.");
                    }
                }
                Err(error) => tracing::error!(%error, party, "A request cannot be signed."),
            }
        });
    }

    fn probe(&self, slot: Slot, targets: Vec<ProbeTarget>, timeout: Duration) {
        let (probe, events) = (self.parts.probe.clone(), self.events.clone());
        tokio::spawn(async move {
            let verdict = probe.run(targets, timeout).await;
            let (ok, evidence) = (verdict.ok, verdict.evidence);
            let _ = events.send(Event::Probed { slot, ok, evidence }).await;
        });
    }
}

/// Publishes the newest report; while the bus is away the older ones are forgotten.
async fn publish_reports(
    mut latest: watch::Receiver<Option<Report>>,
    bus: Arc<dyn Bus>,
    key: Arc<KeyPair>,
) {
    while latest.changed().await.is_ok() {
        let Some(report) = latest.borrow_and_update().clone() else { continue };
        match seal_report(&report, &key) {
            Ok(bytes) => {
                if let Err(error) = bus.publish_report(bytes).await {
                    tracing::debug!(%error, "The report was not published.");
                }
            }
            Err(error) => tracing::error!(%error, "The report cannot be signed."),
        }
    }
}

impl ZoneKeeper {
    /// Why a name has the answer it has.
    fn explain(
        &self,
        name: &str,
        client: Option<&str>,
        subnet: Option<&str>,
    ) -> Result<Payload, ApiError> {
        crate::zone::explain(self.zone(), self.near(), name, client, subnet)
            .map_err(|message| ApiError::new(ErrorCode::BadRequest, message, ""))
    }
}
