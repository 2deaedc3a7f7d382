//! Reading one stream from a number on, without end.
//!
//! A push consumer with flow control delivers as the server stores. Loss shows in the consumer's
//! own numbering, in a heartbeat that counts more than arrived, or in silence; each time the
//! consumer is given up and a new one starts behind the last entry handed on. So nothing is handed
//! on twice and nothing is skipped.

use std::sync::Arc;
use std::time::Duration;

use async_nats::datetime::DateTime;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, push};
use async_nats::jetstream::{self, Context};
use async_nats::{Message, StatusCode, Subscriber};
use futures::StreamExt;
use nett_policy::id::SiteId;
use nett_policy::roster::Rosters;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::Link;
use crate::bus::BusEvent;
use crate::bus::intake::rate::Rate;
use crate::bus::subject::{Replicated, is_preface};
use crate::bus::wire::{OpenError, Sealed, SealedVote, open_preface, open_report};
use crate::telemetry::seldom::Seldom;

const HEARTBEAT: Duration = Duration::from_secs(1);
/// Without a message or heartbeat for this long, the consumer is gone.
const SILENCE: Duration = Duration::from_millis(2500);
/// For finding the stream and making a consumer on it.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LAST: Duration = Duration::from_secs(5);

/// Messages that are not believed, a second and at once: a site that stores many of them is read
/// slowly, and costs the others nothing. Every one of them takes a signature and leaves a line.
const BAD: (f64, f64) = (100.0, 500.0);

/// What is read of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Every entry from this number on.
    Log { start: u64 },
    /// The last value of each subject, then every new one.
    State,
    /// Every vote: there are few.
    Vote,
}

#[derive(Clone)]
pub(super) struct Follower {
    pub(super) context: Context,
    pub(super) stream: String,
    pub(super) site: SiteId,
    pub(super) what: What,
    pub(super) rosters: Arc<Rosters>,
    pub(super) link: watch::Receiver<Link>,
    pub(super) events: mpsc::Sender<BusEvent>,
    /// What the stream held before this began to read is wanted, too.
    pub(super) rewind: Arc<Notify>,
    /// Votes that are not believed.
    pub(super) votes_refused: Arc<Seldom>,
}

/// How far a stream was read.
struct Place {
    /// The number of the entry handed on last.
    last: u64,
    /// When the stream was made that this was read of.
    made: Option<DateTime>,
    /// It was, or is being, read from its first message on.
    whole: bool,
}

/// A consumer and what has come from it.
struct Reading {
    messages: Subscriber,
    /// The consumer's number of the last message.
    delivered: u64,
    /// Messages that were waiting when the consumer was made.
    waiting: u64,
    /// Said that those have been handed on.
    caught_up: bool,
    /// What is not believed is read no faster than this.
    bad: Rate,
}

/// Why a consumer was given up, or could not be made.
enum Stop {
    /// The controller is gone.
    End,
    /// Read on at once with a new consumer.
    Again(&'static str),
    /// The stream is not there or cannot be read.
    Missing(String),
    /// The stream ends before the number read last, or was made anew since.
    Replaced { found: u64 },
    /// It is to be read from its first message on.
    Rewind,
}

impl Follower {
    pub(super) async fn run(mut self) {
        let last = match self.what {
            What::Log { start } => start - 1,
            What::State | What::Vote => 0,
        };
        let mut place = Place { last, made: None, whole: last == 0 };
        let mut backoff = BACKOFF_FIRST;
        let mut told = false;
        loop {
            if self.link.wait_for(|link| link.up).await.is_err() {
                return;
            }
            let generation = self.link.borrow().generation;
            let stop = match self.open(&mut place).await {
                Ok(reading) => {
                    (backoff, told) = (BACKOFF_FIRST, false);
                    self.read(reading, generation, &mut place).await
                }
                Err(stop) => stop,
            };
            let event = match stop {
                Stop::End => return,
                Stop::Again(why) => {
                    let (stream, last) = (&self.stream, place.last);
                    tracing::debug!(stream, why, last, "Reading a stream again.");
                    None
                }
                Stop::Missing(reason) => Some(BusEvent::StreamMissing {
                    site: self.site.clone(),
                    stream: self.stream.clone(),
                    reason,
                }),
                Stop::Replaced { found } => {
                    let (site, read) = (self.site.clone(), place.last);
                    // What it holds now is read from its beginning: what is known is passed over.
                    (place.last, place.whole, told) = (0, true, false);
                    let is_log = matches!(self.what, What::Log { .. });
                    is_log.then_some(BusEvent::LogReplaced { site, read, found })
                }
                Stop::Rewind => {
                    let stream = &self.stream;
                    tracing::info!(stream, "Reading a stream from its first message on.");
                    (place.last, place.whole, told) = (0, true, false);
                    Some(BusEvent::Rewound { site: self.site.clone() })
                }
            };
            if let Some(event) = event.filter(|_| !told) {
                told = true;
                if self.events.send(event).await.is_err() {
                    return;
                }
            }
            self.pause(backoff, generation).await;
            backoff = (backoff * 2).min(BACKOFF_LAST);
        }
    }

    /// Waits, but not longer than until the next connection.
    async fn pause(&mut self, backoff: Duration, generation: u64) {
        let new_link = self.link.wait_for(|link| link.generation != generation);
        drop(timeout(backoff, new_link).await);
    }

    async fn open(&self, place: &mut Place) -> Result<Reading, Stop> {
        match timeout(OPEN_DEADLINE, self.consumer(place)).await {
            Ok(result) => result,
            Err(_) => Err(Stop::Again("no answer to a request")),
        }
    }

    async fn consumer(&self, place: &mut Place) -> Result<Reading, Stop> {
        let stream = self.context.get_stream(&self.stream).await;
        let stream = stream.map_err(|error| Stop::Missing(describe(&error)))?;
        let (found, made) =
            (stream.cached_info().state.last_sequence, stream.cached_info().created);
        // One that was lost may have been filled again with more than was read of it; and one of
        // which nothing was read yet may be one that this site's agents have filled.
        let other = place.made.replace(made).is_some_and(|known| known != made);
        let deliver_policy = match self.what {
            What::Log { .. } | What::Vote if found < place.last || other => {
                return Err(Stop::Replaced { found });
            }
            What::Log { .. } | What::Vote => {
                DeliverPolicy::ByStartSequence { start_sequence: place.last + 1 }
            }
            What::State => DeliverPolicy::LastPerSubject,
        };
        let client = self.context.client();
        let inbox = client.new_inbox();
        // Interest comes first: the server does not wait for it.
        let messages = client.subscribe(inbox.clone()).await;
        let messages = messages.map_err(|_| Stop::Again("the subscription failed"))?;
        let config = push::Config {
            deliver_subject: inbox,
            deliver_policy,
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            filter_subject: self.filter(),
            idle_heartbeat: HEARTBEAT,
            flow_control: true,
            max_deliver: 1,
            num_replicas: 1,
            memory_storage: true,
            ..push::Config::default()
        };
        let consumer = self.context.create_consumer_on_stream(config, &self.stream).await;
        let consumer = consumer.map_err(|error| Stop::Missing(describe(&error)))?;
        let waiting = consumer.cached_info().num_pending;
        let bad = Rate::new(BAD.0, BAD.1, Instant::now());
        Ok(Reading { messages, delivered: 0, waiting, caught_up: false, bad })
    }

    /// The server refuses a last-per-subject consumer without a filter.
    fn filter(&self) -> String {
        match self.what {
            What::Log { .. } | What::Vote => String::new(),
            What::State => Replicated::State.subjects(&self.site),
        }
    }

    async fn read(&mut self, mut reading: Reading, generation: u64, place: &mut Place) -> Stop {
        let mut deadline = Instant::now() + SILENCE;
        loop {
            if !reading.caught_up && reading.delivered >= reading.waiting {
                reading.caught_up = true;
                if !self.caught_up().await {
                    return Stop::End;
                }
            }
            let message = tokio::select! {
                biased;
                changed = self.link.wait_for(|l| !l.up || l.generation != generation) => {
                    return if changed.is_err() { Stop::End } else { Stop::Again("disconnected") };
                }
                () = self.rewind.notified(), if !place.whole => return Stop::Rewind,
                message = timeout_at(deadline, reading.messages.next()) => message,
            };
            let message = match message {
                Err(_) => return Stop::Again("no heartbeat"),
                Ok(None) => return Stop::Again("the subscription ended"),
                Ok(Some(message)) => message,
            };
            let taken = if message.status.is_some() {
                self.status(&message, &reading).await
            } else {
                self.message(message, &mut reading, &mut place.last).await
            };
            if let Err(stop) = taken {
                return stop;
            }
            deadline = Instant::now() + SILENCE;
        }
    }

    /// A heartbeat, or the server asking whether we keep up.
    async fn status(&self, message: &Message, reading: &Reading) -> Result<(), Stop> {
        if message.status != Some(StatusCode::IDLE_HEARTBEAT) {
            return Err(Stop::Again("the server ended the consumer"));
        }
        let header = |name: &str| {
            let value = message.headers.as_ref()?.get(name)?;
            Some(value.as_str().to_owned())
        };
        let resume = message.reply.as_ref().map(ToString::to_string);
        if let Some(subject) = resume.or_else(|| header("Nats-Consumer-Stalled")) {
            let client = self.context.client();
            if client.publish(subject, bytes::Bytes::new()).await.is_err() {
                return Err(Stop::Again("flow control failed"));
            }
        }
        let counted = header("Nats-Last-Consumer").and_then(|n| n.parse::<u64>().ok());
        match counted {
            Some(counted) if counted > reading.delivered => Err(Stop::Again("messages were lost")),
            _ => Ok(()),
        }
    }

    async fn message(
        &self,
        message: Message,
        reading: &mut Reading,
        last: &mut u64,
    ) -> Result<(), Stop> {
        let message = jetstream::Message { message, context: self.context.clone() };
        let Ok(info) = message.info() else {
            return Err(Stop::Again("a message without numbers"));
        };
        if info.consumer_sequence != reading.delivered + 1 {
            return Err(Stop::Again("messages were lost"));
        }
        let stream_seq = info.stream_sequence;
        reading.delivered += 1;
        if matches!(self.what, What::State) || stream_seq > *last {
            let event = self.event(&message, stream_seq);
            let good = matches!(
                event,
                Some(
                    BusEvent::Entry { .. }
                        | BusEvent::Preface { .. }
                        | BusEvent::Report(_)
                        | BusEvent::Vote(_)
                )
            );
            if let Some(event) = event {
                self.events.send(event).await.map_err(|_| Stop::End)?;
            }
            *last = stream_seq;
            if !good {
                let now = Instant::now();
                reading.bad.spend(1.0, now);
                if let Some(wait) = reading.bad.wait(now) {
                    tokio::time::sleep(wait).await;
                }
            }
        }
        Ok(())
    }

    fn event(&self, message: &Message, stream_seq: u64) -> Option<BusEvent> {
        let (site, subject) = (self.site.clone(), message.subject.to_string());
        Some(match self.what {
            What::Log { .. } => match self.of_log(message, &subject, stream_seq) {
                Ok(event) => event,
                Err(error) => {
                    let bytes = message.payload.as_ref().into();
                    BusEvent::BadEntry { site, stream_seq, subject, bytes, error }
                }
            },
            What::State => match open_report(&message.payload, &subject, &*self.rosters) {
                Ok(report) => BusEvent::Report(report),
                Err(error) => BusEvent::BadReport { site, subject, error },
            },
            What::Vote => match SealedVote::open(&message.payload, &*self.rosters) {
                Ok(vote) => BusEvent::Vote(vote),
                Err(error) => {
                    if let Some(unsaid) = self.votes_refused.due() {
                        let error = error.message();
                        tracing::warn!(%site, stream_seq, error, unsaid, "A vote is not believed.");
                    }
                    return None;
                }
            },
        })
    }

    fn of_log(
        &self,
        message: &Message,
        subject: &str,
        stream_seq: u64,
    ) -> Result<BusEvent, OpenError> {
        if is_preface(subject) {
            let preface = open_preface(&message.payload, subject, &*self.rosters)?;
            return Ok(BusEvent::Preface { preface, stream_seq });
        }
        let sealed = Sealed::open(&message.payload, subject, &*self.rosters)?;
        Ok(BusEvent::Entry { sealed, stream_seq, site: self.site.clone() })
    }

    /// False when the controller is gone.
    async fn caught_up(&self) -> bool {
        if self.what == What::State || self.what == What::Vote {
            return true;
        }
        let site = self.site.clone();
        self.events.send(BusEvent::CaughtUp { site }).await.is_ok()
    }
}

/// An error with what is beneath it.
fn describe(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

// === impl What ===

impl What {
    pub(super) fn replicated(self) -> Replicated {
        match self {
            Self::Log { .. } => Replicated::Log,
            Self::State => Replicated::State,
            Self::Vote => Replicated::Vote,
        }
    }
}
