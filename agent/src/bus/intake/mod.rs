//! The doors for what people, reporters and other sites send: fair, and bounded in work and memory.
//!
//! A server checks who may send to which subject, and no more: whoever may send at all may send ten
//! thousand messages a second, good or bad. So nothing of it reaches the controller as it comes.
//! Each message waits in a lane of its sender and connection ([`lanes`]); lanes take turns; what
//! signatures cost is spent from a fixed share of one core ([`rate`]); what is not good ends here,
//! answered while answers are few; and what was turned away is told in one place ([`ledger`]).
//! Of the questions one at a time is with the controller ([`turn`]).
//!
//! What a message says of its sender proves nothing before its signature is good. Until then a name
//! only says where it waits: whoever takes another's name crowds that one's lanes. For that the
//! connections take turns too, those that have sent what was not good wait apart from the others
//! of that name, and so does what has been seen to be good before and comes again. Nothing here
//! decides about a request: the controller opens what passes once more.
//!
//! Crash story: nothing is kept. What waited is lost, its senders get no answer and ask again.

mod lanes;
pub mod ledger;
pub(super) mod rate;
pub mod turn;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nett_policy::fabric::Fabric;
use nett_policy::id::SiteId;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::wire::{OpenError, open_fact, open_request};
use super::{BusEvent, Responder};
use crate::api::types::CommandReply;
use lanes::{Lanes, Room};
use ledger::{Fate, Ledger};
use rate::Rate;
use turn::{Turn, Turns};

/// What comes in by a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    /// Signed requests.
    Command,
    /// Questions about the present; nobody signs them.
    Question,
    /// What reporters measured.
    Fact,
    /// What nodes ask a voter; nobody signs it.
    Ask,
}

/// One door of an agent. It is filled by a subscription and emptied by [`Intake::run`].
pub(super) struct Intake {
    door: Door,
    fabric: Arc<Fabric>,
    site: SiteId,
    /// Names by keys.
    people: BTreeMap<String, Arc<str>>,
    ledger: Arc<Ledger>,
    waiting: Mutex<Waiting>,
    more: Notify,
    /// Of questions.
    turns: Turns,
    /// Nobody outside can make two messages alike: it has a secret of this process.
    hasher: RandomState,
}

struct Waiting {
    lanes: Lanes<Who, Message>,
    /// Messages that were good.
    seen: Recent,
    /// Connections, by the name that they used, whose last message was not good.
    doubted: Recent,
    /// Where long messages were that are done with: what comes and goes all the time would be kept
    /// by the allocator many times over.
    spare: Vec<Vec<u8>>,
}

/// Whose turn a message waits for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    /// It names no key of the fabric.
    Nobody,
    /// It names this one's key.
    Person(Arc<str>),
    /// As [`Self::Person`], by a connection whose last message in that name was not good.
    Doubted(Arc<str>),
    /// As [`Self::Person`], and these very bytes were good before.
    Again(Arc<str>),
    Site(String),
    /// Whoever asks a question.
    Asker,
}

/// A message as it comes in.
#[derive(Debug)]
pub(super) struct Incoming<'a> {
    pub(super) subject: &'a str,
    /// The subject of the answer; empty where nobody waits for one.
    pub(super) reply_to: &'a str,
    /// `None`: larger than [`super::wire::MAX_BYTES`], and passed over.
    pub(super) payload: Option<&'a [u8]>,
}

#[derive(Debug)]
struct Message {
    bytes: Vec<u8>,
    subject: String,
    reply: Option<Responder>,
    reply_to: String,
    /// Its connection, in the name that it uses.
    lane: u64,
    /// It is long and names nobody who could have signed it: nothing of it was kept.
    unknown: bool,
}

/// What is spent by whoever empties a door.
struct Desk {
    /// For those of whom nothing bad is known, and for all others: who sends what is not good has
    /// others wait for nothing.
    work: [Rate; 2],
    /// Good requests of each person; good ones that come again.
    passes: BTreeMap<Who, Rate>,
    answers: BTreeMap<Who, Rate>,
}

/// What is to be done with a message.
enum Verdict {
    Pass,
    Refuse { reason: &'static str, message: String },
    Drop(&'static str),
}

/// The last of many, by a hash.
#[derive(Default)]
struct Recent {
    order: VecDeque<u64>,
    set: BTreeSet<u64>,
}

/// What a door may have saved up of its share of work, in seconds.
const SAVED: f64 = 0.1;
/// What a question counts for at least, in seconds of work.
const QUESTION: f64 = 0.000_25;
/// What nodes ask a voter: so many a second pass as fit into the door's share.
const ASK: f64 = 0.000_25;
/// The most that one answer to a question counts for, in seconds of work.
const LONGEST_ANSWER: f64 = 0.1;
/// The most that one message counts for, in seconds of work.
const LONGEST: f64 = 0.05;
/// Good messages of one person, a second and at once.
const PER_PERSON: (f64, f64) = (50.0, 200.0);
/// The same for facts: a reporter may say all that it knows at once.
const FACTS: (f64, f64) = (50.0, 4096.0);
/// Messages that were good before and come again, of one person.
const REPEATED: (f64, f64) = (20.0, 40.0);
/// Answers to what was refused, for one sender.
const ANSWERS: (f64, f64) = (20.0, 20.0);
/// How many good messages are recognised when they come again, and how many connections.
const RECOGNISED: usize = 4096;
/// Longer ones are looked at from both ends only, so many bytes of each, before it is their turn:
/// whoever signs stands at one of them.
const END: usize = 4096;
/// Long messages whose room is kept.
const SPARE: usize = 2;
/// A message of more bytes than this is long.
const LONG: usize = 32 * 1024;
/// Reason: there was no room left in the sender's lanes.
const CROWD: &str = "crowd";
const TOO_LARGE: &str = "too-large";
const TOO_MANY: &str = "too-many";
const REPEATS: &str = "repeated";

// === impl Door ===

impl Door {
    pub const ALL: [Self; 4] = [Self::Command, Self::Question, Self::Fact, Self::Ask];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Question => "question",
            Self::Fact => "fact",
            Self::Ask => "ask",
        }
    }

    /// How much may wait. Facts come without a place to answer to, so a reporter has one lane.
    fn room(self) -> Room {
        const MIB: usize = 1024 * 1024;
        let (per_lane, bytes) = match self {
            Self::Command => (64, MIB),
            Self::Fact => (4096, 2 * MIB),
            Self::Question | Self::Ask => (64, MIB / 2),
        };
        Room { per_lane, bytes }
    }

    /// The shares of one core that it may use: for those of whom nothing bad is known, and for all
    /// others.
    fn work(self) -> [f64; 2] {
        match self {
            Self::Command => [0.15, 0.1],
            Self::Fact => [0.2, 0.05],
            // Nobody is told from others.
            Self::Question | Self::Ask => [0.2, 0.2],
        }
    }

    fn per_person(self) -> (f64, f64) {
        match self {
            Self::Fact => FACTS,
            Self::Command | Self::Question | Self::Ask => PER_PERSON,
        }
    }
}

// === impl Who ===

impl Who {
    /// Whose share of the work it is paid from.
    fn payer(&self) -> usize {
        match self {
            Self::Person(_) | Self::Site(_) | Self::Asker => 0,
            Self::Nobody | Self::Doubted(_) | Self::Again(_) => 1,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Nobody => "nobody known".to_owned(),
            Self::Person(name) | Self::Doubted(name) => name.to_string(),
            Self::Again(name) => format!("{name}, the same again"),
            Self::Site(site) => format!("site {site}"),
            Self::Asker => "anybody".to_owned(),
        }
    }
}

// === impl Intake ===

impl Intake {
    pub(super) fn new(
        door: Door,
        fabric: &Arc<Fabric>,
        site: &SiteId,
        ledger: &Arc<Ledger>,
    ) -> Arc<Self> {
        let people = fabric.operators.iter();
        let people = people.map(|person| (person.key.clone(), person.name.as_str().into()));
        Arc::new(Self {
            door,
            fabric: fabric.clone(),
            site: site.clone(),
            people: people.collect(),
            ledger: ledger.clone(),
            waiting: Mutex::new(Waiting {
                lanes: Lanes::new(door.room()),
                seen: Recent::default(),
                doubted: Recent::default(),
                spare: Vec::new(),
            }),
            more: Notify::new(),
            turns: Turns::new(),
            hasher: RandomState::new(),
        })
    }

    /// Lets a message wait, or drops it. Never waits itself; nothing is copied of what is dropped.
    pub(super) fn offer(&self, incoming: &Incoming<'_>, reply: impl FnOnce() -> Option<Responder>) {
        let Incoming { subject, reply_to, payload } = *incoming;
        let Some(bytes) = payload else {
            return self.drop_one(&Who::Nobody, reply_to, TOO_LARGE);
        };
        let mut waiting = self.lock();
        let (who, lane) = self.whose(incoming, bytes, &waiting);
        // Of those of whom something bad is known, one that is long at a time.
        let long = bytes.len() > LONG && who.payer() != Who::Asker.payer();
        if !waiting.lanes.has_room(&who, lane) || (long && waiting.lanes.waits(&who)) {
            drop(waiting);
            return self.drop_one(&who, reply_to, CROWD);
        }
        let signed = matches!(self.door, Door::Command | Door::Fact);
        let unknown = signed && who == Who::Nobody && bytes.len() > 2 * END;
        let bytes = if unknown { &[] } else { bytes };
        // What the sender has chosen, and what each message takes up beside.
        let size = bytes.len() + subject.len() + reply_to.len() + size_of::<Message>();
        let spare = if bytes.len() > LONG { waiting.spare.pop() } else { None };
        let mut room = spare.unwrap_or_default();
        room.extend_from_slice(bytes);
        let message = Message {
            bytes: room,
            subject: subject.to_owned(),
            reply: reply(),
            reply_to: reply_to.to_owned(),
            lane,
            unknown,
        };
        let lost = waiting.lanes.push(who, lane, size, message);
        drop(waiting);
        for (who, message) in lost {
            self.drop_one(&who, &message.reply_to, CROWD);
            self.done_with(message.bytes);
        }
        self.more.notify_one();
    }

    /// Lets through what waits, each in its turn, until nobody takes it any more.
    pub(super) async fn run(self: Arc<Self>, events: mpsc::Sender<BusEvent>) {
        let mut desk = Desk::new(self.door);
        loop {
            let turn = match self.door {
                Door::Question => self.turns.next().await,
                Door::Command | Door::Fact | Door::Ask => Turn::default(),
            };
            let owed = self.turns.owed().as_secs_f64().min(LONGEST_ANSWER);
            desk.work[Who::Asker.payer()].spend(owed, Instant::now());
            let waits = desk.waits(Instant::now());
            let next = self.lock().lanes.pop(|who| waits[who.payer()].is_none());
            let Some((who, message)) = next else {
                drop(turn);
                let hour = Duration::from_secs(3600);
                let wait = waits.into_iter().flatten().min().unwrap_or(hour);
                tokio::select! {
                    () = self.more.notified() => continue,
                    () = tokio::time::sleep(wait) => continue,
                    () = events.closed() => return,
                }
            };
            if !self.handle(&mut desk, (who, message, turn), &events).await {
                return;
            }
        }
    }

    /// False when nobody takes events any more.
    async fn handle(
        &self,
        desk: &mut Desk,
        (who, mut message, turn): (Who, Message, Turn),
        events: &mpsc::Sender<BusEvent>,
    ) -> bool {
        let begun = Instant::now();
        let verdict = self.examine(desk, &who, &message);
        let now = Instant::now();
        desk.work[who.payer()].spend(self.cost(now.saturating_duration_since(begun)), now);
        match verdict {
            Verdict::Pass => {
                self.ledger.passed(self.door);
                match self.event(message, turn) {
                    Some(event) => events.send(event).await.is_ok(),
                    None => true,
                }
            }
            Verdict::Drop(why) => {
                self.drop_one(&who, &message.reply_to, why);
                self.done_with(message.bytes);
                true
            }
            Verdict::Refuse { reason, message: text } => {
                let from = (self.door, who.text());
                let fate = (Fate::Refused, reason);
                self.ledger.turned_away(from, fate, &message.reply_to, now);
                // Too many good ones are no sign of somebody who proves nothing.
                let record = match reason {
                    TOO_MANY => None,
                    reason => self.ledger.record(reason, || text.clone(), now),
                };
                self.done_with(std::mem::take(&mut message.bytes));
                desk.answer(&who, message, reason, text, now);
                match record {
                    Some(record) => events.send(BusEvent::TurnedAway(record)).await.is_ok(),
                    None => true,
                }
            }
        }
    }

    fn cost(&self, took: Duration) -> f64 {
        // Of a process that was stopped meanwhile most is nobody's work.
        let took = took.as_secs_f64().min(LONGEST);
        match self.door {
            Door::Command | Door::Fact => took,
            Door::Question => took.max(QUESTION),
            Door::Ask => took.max(ASK),
        }
    }

    fn examine(&self, desk: &mut Desk, who: &Who, message: &Message) -> Verdict {
        let Message { bytes, subject, reply: _, reply_to: _, lane, unknown } = message;
        if *unknown {
            let key = "no key of the fabric at either end of it".to_owned();
            let error = OpenError::UnknownOperator { key };
            return Verdict::Refuse { reason: error.reason(), message: error.message() };
        }
        let opened: Result<Arc<str>, OpenError> = match self.door {
            Door::Question | Door::Ask => return Verdict::Pass,
            Door::Command if matches!(who, Who::Again(_)) => {
                let now = Instant::now();
                let pass = desk.may_pass(who, REPEATED, now);
                return if pass { Verdict::Pass } else { Verdict::Drop(REPEATS) };
            }
            Door::Command => open_request(bytes, subject, &self.fabric)
                .map(|request| request.person.name.as_str().into()),
            Door::Fact => open_fact(bytes, subject, &self.site, &self.fabric)
                .map(|(_, fact)| fact.person.as_str().into()),
        };
        match opened {
            Ok(name) => {
                let mut waiting = self.lock();
                waiting.doubted.forget(*lane);
                if self.door == Door::Command {
                    waiting.seen.note(self.known_by(bytes));
                }
                drop(waiting);
                let per_person = self.door.per_person();
                let text = format!("more than {} a second came from {name}", per_person.0);
                match desk.may_pass(&Who::Person(name), per_person, Instant::now()) {
                    true => Verdict::Pass,
                    false => Verdict::Refuse {
                        reason: TOO_MANY,
                        message: format!("{text}: nothing of it is kept; send it again later"),
                    },
                }
            }
            Err(error) => {
                self.lock().doubted.note(*lane);
                Verdict::Refuse { reason: error.reason(), message: error.message() }
            }
        }
    }

    fn event(&self, message: Message, turn: Turn) -> Option<BusEvent> {
        let Message { bytes, subject, reply, reply_to: _, lane: _, unknown: _ } = message;
        let kept: Arc<[u8]> = bytes.as_slice().into();
        self.done_with(bytes);
        let bytes = kept;
        Some(match self.door {
            Door::Command => BusEvent::Request { bytes, subject, reply: reply? },
            Door::Question => BusEvent::Rpc { bytes, subject, reply: reply?, turn },
            Door::Fact => BusEvent::Fact { bytes, subject },
            Door::Ask => BusEvent::Beacon { bytes, reply: reply? },
        })
    }

    /// Who it says it is from, and which lane that is.
    fn whose(&self, incoming: &Incoming<'_>, bytes: &[u8], waiting: &Waiting) -> (Who, u64) {
        let from = connection(incoming.reply_to);
        let who = match self.door {
            Door::Question => Who::Asker,
            // `nett.x.beacon.TO.FROM.NODE`: the servers see to it that FROM is true.
            Door::Ask => Who::Site(incoming.subject.split('.').nth(4).unwrap_or("").to_owned()),
            Door::Command | Door::Fact => match self.named(bytes) {
                None => Who::Nobody,
                Some(name) => {
                    let lane = self.hasher.hash_one((&name, from));
                    let who = if waiting.seen.knows(|| self.known_by(bytes)) {
                        Who::Again(name)
                    } else if waiting.doubted.knows(|| lane) {
                        Who::Doubted(name)
                    } else {
                        Who::Person(name)
                    };
                    return (who, lane);
                }
            },
        };
        (who, self.hasher.hash_one(from))
    }

    /// The first operator whose key stands in a message, without reading it as JSON.
    fn named(&self, bytes: &[u8]) -> Option<Arc<str>> {
        let [front, back] = ends(bytes);
        [front, back].into_iter().find_map(|part| {
            let words = part.split(|byte| *byte == b'"').filter(|word| word.len() == 56);
            let mut keys = words.filter_map(|word| std::str::from_utf8(word).ok());
            keys.find_map(|key| self.people.get(key)).cloned()
        })
    }

    /// What a message is recognised by. Two that are long and differ in the middle only are taken
    /// for the same, and judged by the controller all the same.
    fn known_by(&self, bytes: &[u8]) -> u64 {
        self.hasher.hash_one((bytes.len(), ends(bytes)))
    }

    /// Keeps the room of a long message for the next one.
    fn done_with(&self, mut room: Vec<u8>) {
        if room.capacity() > LONG {
            room.clear();
            let mut waiting = self.lock();
            if waiting.spare.len() < SPARE {
                waiting.spare.push(room);
            }
        }
    }

    fn drop_one(&self, who: &Who, reply_to: &str, why: &'static str) {
        let from = (self.door, who.text());
        self.ledger.turned_away(from, (Fate::Dropped, why), reply_to, Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the answers of one connection have in common: a client makes a new last word for each.
fn connection(reply_to: &str) -> &str {
    reply_to.rsplit_once('.').map_or("", |(connection, _)| connection)
}

/// The whole of a message, or both ends of a long one.
fn ends(bytes: &[u8]) -> [&[u8]; 2] {
    if bytes.len() <= 2 * END {
        return [bytes, &[]];
    }
    [&bytes[..END], &bytes[bytes.len() - END..]]
}

// === impl Desk ===

impl Desk {
    fn new(door: Door) -> Self {
        let work = door.work().map(|share| Rate::new(share, SAVED, Instant::now()));
        Self { work, passes: BTreeMap::new(), answers: BTreeMap::new() }
    }

    /// How long until each of the shares has something left.
    fn waits(&mut self, now: Instant) -> [Option<Duration>; 2] {
        self.work.each_mut().map(|rate| rate.wait(now))
    }

    fn may_pass(&mut self, who: &Who, (rate, most): (f64, f64), now: Instant) -> bool {
        // There are no more of them than operators.
        let rates = self.passes.entry(who.clone());
        rates.or_insert_with(|| Rate::new(rate, most, now)).take(now)
    }

    /// Says why, as long as this sender is not told all the time.
    fn answer(
        &mut self,
        who: &Who,
        message: Message,
        reason: &'static str,
        text: String,
        now: Instant,
    ) {
        let rates = self.answers.entry(who.clone());
        let rate = rates.or_insert_with(|| Rate::new(ANSWERS.0, ANSWERS.1, now));
        let Some(reply) = message.reply.filter(|_| rate.take(now)) else { return };
        let refusal = CommandReply {
            refused_by: Some(reason.to_owned()),
            message: text,
            exit: 4,
            ..CommandReply::default()
        };
        let bytes = serde_json::to_vec(&refusal).expect("keys of the API's types are strings");
        tokio::spawn(reply.answer(bytes));
    }
}

// === impl Recent ===

impl Recent {
    fn knows(&self, hash: impl FnOnce() -> u64) -> bool {
        !self.set.is_empty() && self.set.contains(&hash())
    }

    fn note(&mut self, hash: u64) {
        if !self.set.insert(hash) {
            return;
        }
        self.order.push_back(hash);
        if self.order.len() > RECOGNISED
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
    }

    /// Its place in the order stays: at worst it is forgotten early the next time.
    fn forget(&mut self, hash: u64) {
        self.set.remove(&hash);
    }
}
