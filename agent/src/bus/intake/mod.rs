//! The doors for what people, reporters and other sites send: fair, and bounded in work and memory.
//!
//! A server checks who may send to which subject, and no more: whoever may send at all may send ten
//! thousand messages a second, good or bad. So nothing of it reaches the controller as it comes.
//! Each message waits in a lane of its sender and connection ([`lanes`]); lanes take turns; what
//! signatures cost is spent from a fixed share of one core ([`rate`]); what is not good ends here,
//! answered while answers are few; and what was turned away is told in one place ([`ledger`]).
//!
//! What a message says of its sender proves nothing before its signature is good. Until then a name
//! only says where it waits: whoever takes another's name crowds that one's lanes, and for that the
//! connections take turns too, and what has been seen to be good before waits apart when it comes
//! again. Nothing here decides about a request: the controller opens what passes once more.
//!
//! Crash story: nothing is kept. What waited is lost, its senders get no answer and ask again.

mod lanes;
pub mod ledger;
pub(super) mod rate;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nett_policy::fabric::Fabric;
use nett_policy::id::SiteId;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::wire::{MAX_BYTES, OpenError, open_fact, open_request};
use super::{BusEvent, Responder};
use crate::api::types::CommandReply;
use lanes::Lanes;
use ledger::{Fate, Ledger};
use rate::Rate;

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
}

struct Waiting {
    lanes: Lanes<Who, Message>,
    seen: Seen,
}

/// Whose turn a message waits for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    /// It names no key of the fabric.
    Nobody,
    /// It names this one's key.
    Person(Arc<str>),
    /// As [`Self::Person`], and these very bytes were good before.
    Again(Arc<str>),
    Site(String),
    /// Whoever asks a question.
    Asker,
}

#[derive(Debug)]
pub(super) struct Message {
    pub(super) bytes: Arc<[u8]>,
    pub(super) subject: String,
    pub(super) reply: Option<Responder>,
    /// The subject of the answer; empty where nobody waits for one.
    pub(super) reply_to: String,
}

/// What is spent by whoever empties a door.
struct Desk {
    work: Rate,
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

/// The bytes of good messages, lately.
struct Seen {
    hasher: RandomState,
    order: VecDeque<u64>,
    set: BTreeSet<u64>,
}

/// The share of one core that a door may use, and what it may have saved up, in seconds.
const WORK: (f64, f64) = (0.25, 0.1);
/// What a question counts for, in seconds of work: so many a second pass as fit into [`WORK`].
const QUESTION: f64 = 0.001_25;
/// As [`QUESTION`], for what nodes ask a voter.
const ASK: f64 = 0.000_25;
/// The most that one message counts for, in seconds of work.
const LONGEST: f64 = 0.01;
/// Good messages of one person, a second and at once.
const PER_PERSON: (f64, f64) = (50.0, 200.0);
/// The same for facts: a reporter may say all that it knows at once.
const FACTS: (f64, f64) = (50.0, 4096.0);
/// Messages that were good before and come again, of one person.
const REPEATED: (f64, f64) = (20.0, 40.0);
/// Answers to what was refused, for one sender.
const ANSWERS: (f64, f64) = (20.0, 20.0);
/// How many good messages are recognised when they come again.
const RECOGNISED: usize = 4096;
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

    /// Messages of one connection that may wait. Facts come without a place to answer to, so a
    /// reporter has one lane.
    fn lane(self) -> usize {
        match self {
            Self::Fact => 4096,
            Self::Command | Self::Question | Self::Ask => 64,
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
    fn text(&self) -> String {
        match self {
            Self::Nobody => "nobody known".to_owned(),
            Self::Person(name) => name.to_string(),
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
            waiting: Mutex::new(Waiting { lanes: Lanes::new(door.lane()), seen: Seen::new() }),
            more: Notify::new(),
        })
    }

    /// Lets a message wait, or drops it. Never waits itself.
    pub(super) fn offer(&self, message: Message) {
        let size = message.bytes.len();
        if size > MAX_BYTES {
            return self.drop_one(&Who::Nobody, &message, TOO_LARGE);
        }
        let mut waiting = self.lock();
        let who = self.whose(&message, &waiting.seen);
        // What the sender has chosen, and what each message takes up beside.
        let size = size + message.subject.len() + message.reply_to.len() + size_of::<Message>();
        let lane = waiting.seen.hash(connection(&message).as_bytes());
        let lost = waiting.lanes.push(who, lane, size, message);
        drop(waiting);
        for (who, message) in lost {
            self.drop_one(&who, &message, CROWD);
        }
        self.more.notify_one();
    }

    /// Lets through what waits, each in its turn, until nobody takes it any more.
    pub(super) async fn run(self: Arc<Self>, events: mpsc::Sender<BusEvent>) {
        let mut desk = Desk::new();
        loop {
            if let Some(wait) = desk.work.wait(Instant::now()) {
                tokio::time::sleep(wait).await;
            }
            let next = self.lock().lanes.pop();
            let Some((who, message)) = next else {
                tokio::select! {
                    () = self.more.notified() => continue,
                    () = events.closed() => return,
                }
            };
            if !self.handle(&mut desk, who, message, &events).await {
                return;
            }
        }
    }

    /// False when nobody takes events any more.
    async fn handle(
        &self,
        desk: &mut Desk,
        who: Who,
        message: Message,
        events: &mpsc::Sender<BusEvent>,
    ) -> bool {
        let begun = Instant::now();
        let verdict = self.examine(desk, &who, &message);
        let now = Instant::now();
        desk.work.spend(self.cost(now.saturating_duration_since(begun)), now);
        match verdict {
            Verdict::Pass => {
                self.ledger.passed(self.door);
                match self.event(message) {
                    Some(event) => events.send(event).await.is_ok(),
                    None => true,
                }
            }
            Verdict::Drop(why) => {
                self.drop_one(&who, &message, why);
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
        let Message { bytes, subject, reply: _, reply_to: _ } = message;
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
                if self.door == Door::Command {
                    self.lock().seen.note(bytes);
                }
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
            Err(error) => Verdict::Refuse { reason: error.reason(), message: error.message() },
        }
    }

    fn event(&self, message: Message) -> Option<BusEvent> {
        let Message { bytes, subject, reply, reply_to: _ } = message;
        Some(match self.door {
            Door::Command => BusEvent::Request { bytes, subject, reply: reply? },
            Door::Question => BusEvent::Rpc { bytes, subject, reply: reply? },
            Door::Fact => BusEvent::Fact { bytes, subject },
            Door::Ask => BusEvent::Beacon { bytes, reply: reply? },
        })
    }

    fn whose(&self, message: &Message, seen: &Seen) -> Who {
        match self.door {
            Door::Question => Who::Asker,
            // `nett.x.beacon.TO.FROM.NODE`: the servers see to it that FROM is true.
            Door::Ask => Who::Site(message.subject.split('.').nth(4).unwrap_or("").to_owned()),
            Door::Command | Door::Fact => match self.named(&message.bytes) {
                None => Who::Nobody,
                Some(name) if seen.knows(&message.bytes) => Who::Again(name),
                Some(name) => Who::Person(name),
            },
        }
    }

    /// The first operator whose key stands in a message, without reading it as JSON.
    fn named(&self, bytes: &[u8]) -> Option<Arc<str>> {
        let words = bytes.split(|byte| *byte == b'"').filter(|word| word.len() == 56);
        let keys = words.filter_map(|word| std::str::from_utf8(word).ok());
        keys.filter_map(|key| self.people.get(key)).next().cloned()
    }

    fn drop_one(&self, who: &Who, message: &Message, why: &'static str) {
        let from = (self.door, who.text());
        let fate = (Fate::Dropped, why);
        self.ledger.turned_away(from, fate, &message.reply_to, Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the answers of one connection have in common: a client makes a new last word for each.
fn connection(message: &Message) -> &str {
    message.reply_to.rsplit_once('.').map_or("", |(connection, _)| connection)
}

// === impl Desk ===

impl Desk {
    fn new() -> Self {
        let work = Rate::new(WORK.0, WORK.1, Instant::now());
        Self { work, passes: BTreeMap::new(), answers: BTreeMap::new() }
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

// === impl Seen ===

impl Seen {
    fn new() -> Self {
        Self { hasher: RandomState::new(), order: VecDeque::new(), set: BTreeSet::new() }
    }

    /// Nobody outside can make two messages alike: the hash has a secret of this process.
    fn hash(&self, bytes: &[u8]) -> u64 {
        self.hasher.hash_one(bytes)
    }

    fn knows(&self, bytes: &[u8]) -> bool {
        !self.set.is_empty() && self.set.contains(&self.hash(bytes))
    }

    fn note(&mut self, bytes: &[u8]) {
        let hash = self.hash(bytes);
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
}
