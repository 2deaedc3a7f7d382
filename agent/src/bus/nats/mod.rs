//! The bus on nats-servers from 2.9.10 on.
//!
//! Two connections, to the own site's server only: one for the logs, and one on which people,
//! reporters and other sites are heard ([`doors`]). Other sites are read through their mirrors
//! there. Publishing while disconnected would be queued by the client and delivered late, so
//! nothing is published unless the connection is up, and everything has a deadline.
//!
//! Tasks: one for the connection's state, one for what is heard, one per door
//! ([`super::intake`]), two followers per site. All end when [`NatsBus`] is dropped.

mod doors;
mod follow;
pub mod lines;
mod tail;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use futures::future::BoxFuture;
use nett_policy::fabric::Fabric;
use nett_policy::id::{NodeId, SiteId};
use nett_policy::roster::Rosters;
use nkeys::KeyPair;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::intake::ledger::Ledger;
use super::intake::{Door, Intake};
use super::subject::{self, Replicated};
use super::wire::{READER, Sealed};
use super::{AppendError, Bus, BusEvent, BusEvents};
use crate::bus::nats::doors::{Doors, Hearing, Subscription};
use crate::bus::nats::follow::{Follower, What};
use crate::bus::nats::tail::Tail;
use crate::telemetry::seldom::Seldom;

pub use doors::Reply;

/// A silent server is noticed after two of these.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// For one request to the server, an answer included.
const REQUEST_DEADLINE: Duration = Duration::from_secs(2);
/// For an append: sending, its answer, and the client's own work.
const APPEND_DEADLINE: Duration = Duration::from_secs(4);
/// How long a new connection waits for the other one.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// Messages the client may hold per subscription before it drops the newest (and a follower reads
/// them again).
const SUBSCRIPTION_CAPACITY: usize = 4096;
/// JetStream's error code for a full stream that discards new messages.
const FULL: u64 = 10077;

/// How to reach the own site's server.
#[derive(Clone)]
pub struct NatsConfig {
    pub site: SiteId,
    pub node: NodeId,
    /// `nats://` or `tls://`, in order of preference.
    pub urls: Vec<String>,
    /// The seed (`S...`) of the node's key.
    pub seed: String,
    pub tls: Option<TlsFiles>,
    /// Per site, the number of the first stream entry to read; 1 where a site is missing.
    pub start: BTreeMap<SiteId, u64>,
    /// Events that may wait for the controller, at least 1.
    pub capacity: usize,
    /// Who entries are judged by.
    pub rosters: Arc<Rosters>,
    /// Where it is told who sends too much.
    pub intake: Arc<Ledger>,
}

/// PEM files for a connection with a client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Why the adapter could not be started. A missing server is no reason.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("no URL of a nats-server for site {0}: set `nats` of the site in the fabric file")]
    NoUrl(SiteId),
    #[error("cannot read {path}")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("site {0} is not in the fabric")]
    UnknownSite(SiteId),
    #[error("the nats client did not start")]
    Connect(#[source] async_nats::ConnectError),
    #[error("{url} is no address of a nats-server: write `tls://HOST:PORT` or `nats://HOST:PORT`")]
    BadUrl {
        url: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the key of this agent cannot be used")]
    Key(#[source] nkeys::error::Error),
}

/// The adapter. Dropping it ends all its tasks.
pub struct NatsBus {
    client: Client,
    context: Context,
    site: SiteId,
    node: NodeId,
    /// Where the readers of the logs are told to begin anew, by site.
    rewinds: BTreeMap<SiteId, Arc<Notify>>,
    _tasks: JoinSet<()>,
}

/// The connection as the followers see it: a count that rises with every new connection, and
/// whether it is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Link {
    up: bool,
    generation: u64,
}

impl NatsBus {
    /// Starts the adapter. Returns at once, whether or not a server is there.
    pub async fn start(
        config: NatsConfig,
        fabric: Arc<Fabric>,
    ) -> Result<(Self, BusEvents), StartError> {
        if fabric.site(&config.site).is_none() {
            return Err(StartError::UnknownSite(config.site));
        }
        let (link_sender, link) = watch::channel(Link { up: false, generation: 0 });
        let client = connect(&config, link_sender).await?;
        let context = jetstream::context::ContextBuilder::new()
            .timeout(REQUEST_DEADLINE)
            .ack_timeout(REQUEST_DEADLINE)
            .build(client.clone());
        let (events, receiver) = mpsc::channel(config.capacity.max(1));

        let mut tasks = JoinSet::new();
        let (open, heard) = watch::channel(Hearing::None);
        tasks.spawn(tell_hearing(heard.clone(), events.clone()));
        let (tell, told) = watch::channel(Link { up: false, generation: 0 });
        tasks.spawn(tell_link(link.clone(), heard, events.clone(), tell));
        let mut subscriptions = Vec::new();
        for (door, subjects) in doors(&config, &fabric) {
            let intake = Intake::new(door, &fabric, &config.site, &config.intake);
            subscriptions.extend(subjects.into_iter().map(|subject| (subject, intake.clone())));
            tasks.spawn(intake.run(events.clone()));
        }
        tasks.spawn(hearing(&config, subscriptions, open)?.run());
        let votes = fabric.voters().next().map(|_| What::Vote);
        let mut rewinds: BTreeMap<SiteId, Arc<Notify>> = BTreeMap::new();
        for site in fabric.sites.iter().map(|s| s.id.clone()) {
            let start = config.start.get(&site).copied().unwrap_or(1).max(1);
            for what in [What::Log { start }, What::State].into_iter().chain(votes) {
                let follower = Follower {
                    context: context.clone(),
                    stream: what.replicated().stream(&site),
                    site: site.clone(),
                    what,
                    rosters: Arc::clone(&config.rosters),
                    link: told.clone(),
                    events: events.clone(),
                    rewind: Arc::default(),
                    votes_refused: Arc::default(),
                };
                if matches!(what, What::Log { .. }) {
                    rewinds.insert(site.clone(), follower.rewind.clone());
                }
                if site != config.site && what != What::Vote {
                    let prefix = subject::domain_api(&site);
                    let origin = jetstream::context::ContextBuilder::new()
                        .timeout(REQUEST_DEADLINE)
                        .api_prefix(prefix)
                        .build(client.clone());
                    tasks.spawn(Tail { mirror: follower.clone(), origin }.run());
                }
                tasks.spawn(follower.run());
            }
        }
        let NatsConfig { site, node, .. } = config;
        Ok((Self { client, context, site, node, rewinds, _tasks: tasks }, receiver))
    }

    /// Servers from 2.12 on compare the number before they recognise a repeated entry; so a retry
    /// whose first answer was lost looks like a conflict, unless the entry there is this one.
    async fn after_conflict(&self, sealed: &Sealed, after: u64) -> Result<u64, AppendError> {
        let look = async {
            let name = Replicated::Log.stream(&self.site);
            let stream = self.context.get_stream_no_info(name).await.ok()?;
            stream.get_raw_message(after + 1).await.ok()
        };
        match timeout(REQUEST_DEADLINE, look).await {
            Err(_) => Err(AppendError::Timeout),
            Ok(Some(stored)) if *stored.payload == *sealed.bytes => Ok(after + 1),
            Ok(_) => Err(AppendError::Conflict),
        }
    }

    async fn publish(&self, subject: String, message: PublishMessage) -> Result<u64, AppendError> {
        if !self.connected() {
            return Err(AppendError::Unreachable);
        }
        let send = async {
            let answer = self.context.send_publish(subject, message).await?;
            answer.await
        };
        match timeout(APPEND_DEADLINE, send).await {
            Err(_) => Err(AppendError::Timeout),
            Ok(Ok(ack)) => Ok(ack.sequence),
            Ok(Err(error)) => Err(append_error(&error)),
        }
    }
}

impl Bus for NatsBus {
    fn append<'a>(
        &'a self,
        sealed: &'a Sealed,
        after_stream_seq: u64,
    ) -> BoxFuture<'a, Result<u64, AppendError>> {
        Box::pin(async move {
            let message = with_headers(sealed)
                .message_id(sealed.entry.id.as_str())
                .expected_last_sequence(after_stream_seq)
                .expected_stream(Replicated::Log.stream(&self.site));
            match self.publish(sealed.subject(), message).await {
                Err(AppendError::Conflict) => self.after_conflict(sealed, after_stream_seq).await,
                result => result,
            }
        })
    }

    fn restate(
        &self,
        subject: String,
        bytes: Arc<[u8]>,
        after_stream_seq: u64,
    ) -> BoxFuture<'_, Result<u64, AppendError>> {
        Box::pin(async move {
            let message = PublishMessage::build()
                .payload(bytes.to_vec().into())
                .header(subject::HEADER_SITE, self.site.as_str())
                .header(subject::HEADER_KIND, subject::CHECKPOINT)
                .header(subject::HEADER_MIN_READER, READER.to_string())
                .expected_last_sequence(after_stream_seq)
                .expected_stream(Replicated::Log.stream(&self.site));
            self.publish(subject, message).await
        })
    }

    fn publish_report(&self, bytes: Vec<u8>) -> BoxFuture<'_, Result<(), AppendError>> {
        Box::pin(async move {
            let message = PublishMessage::build()
                .payload(bytes.into())
                .header(subject::HEADER_SITE, self.site.as_str())
                .header(subject::HEADER_KIND, "state")
                .header(subject::HEADER_MIN_READER, READER.to_string());
            let to = subject::report(&self.site, &self.node);
            self.publish(to, message).await.map(drop)
        })
    }

    fn publish_vote(&self, bytes: Vec<u8>) -> BoxFuture<'_, Result<(), AppendError>> {
        Box::pin(async move {
            let message = PublishMessage::build()
                .payload(bytes.into())
                .header(subject::HEADER_SITE, self.site.as_str())
                .header(subject::HEADER_KIND, "vote")
                .header(subject::HEADER_MIN_READER, READER.to_string());
            self.publish(subject::votes(&self.site), message).await.map(drop)
        })
    }

    fn ask_outside(&self, party: String, bytes: Vec<u8>) -> BoxFuture<'_, Result<(), AppendError>> {
        Box::pin(async move {
            if !self.connected() {
                return Err(AppendError::Unreachable);
            }
            let to = subject::outside(&self.site, &party);
            match timeout(APPEND_DEADLINE, self.client.publish(to, bytes.into())).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(AppendError::Timeout),
            }
        })
    }

    fn ask<'a>(
        &'a self,
        site: &'a SiteId,
        voter: &'a NodeId,
        bytes: Vec<u8>,
    ) -> BoxFuture<'a, Result<Vec<u8>, AppendError>> {
        Box::pin(async move {
            if !self.connected() {
                return Err(AppendError::Unreachable);
            }
            let to = subject::beacon(site, &self.site, voter);
            match timeout(REQUEST_DEADLINE, self.client.request(to, bytes.into())).await {
                Ok(Ok(answer)) => Ok(answer.payload.to_vec()),
                Ok(Err(_)) | Err(_) => Err(AppendError::Timeout),
            }
        })
    }

    fn rewind(&self, site: &SiteId) {
        if let Some(rewind) = self.rewinds.get(site) {
            rewind.notify_one();
        }
    }

    fn connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }
}

/// Repeats in headers what routers and tools need without parsing.
fn with_headers(sealed: &Sealed) -> PublishMessage {
    let entry = &sealed.entry;
    let mut message = PublishMessage::build()
        .payload(sealed.bytes.to_vec().into())
        .header(subject::HEADER_SITE, entry.site.as_str())
        .header(subject::HEADER_KIND, subject::entry_kind(&entry.body))
        .header(subject::HEADER_MIN_READER, READER.to_string());
    if let Some(epoch) = subject::entry_epoch(&entry.body) {
        message = message.header(subject::HEADER_EPOCH, epoch.to_string());
    }
    if let Some(request) = sealed.request() {
        let expires = i64::try_from(request.expires_at.0).unwrap_or(i64::MAX);
        if let Ok(time) = jiff::Timestamp::from_millisecond(expires) {
            message = message.header(subject::HEADER_EXPIRES, format!("{time:.3}"));
        }
    }
    message
}

fn append_error(error: &jetstream::context::PublishError) -> AppendError {
    use std::error::Error;
    let text = || match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    match error.kind() {
        PublishErrorKind::WrongLastSequence => AppendError::Conflict,
        PublishErrorKind::TimedOut => AppendError::Timeout,
        PublishErrorKind::BrokenPipe => AppendError::Timeout,
        PublishErrorKind::StreamNotFound => {
            AppendError::Refused("no stream stores this subject: run `nettctl bus init`".to_owned())
        }
        PublishErrorKind::WrongLastMessageId
        | PublishErrorKind::MaxAckPending
        | PublishErrorKind::MaxPayloadExceeded => AppendError::Refused(text()),
        PublishErrorKind::Other => {
            let code = error.source().and_then(|s| s.downcast_ref::<jetstream::Error>());
            match code.map(|e| e.error_code().0) {
                Some(FULL) => AppendError::Refused("the stream of the log is full".to_owned()),
                _ => AppendError::Refused(text()),
            }
        }
    }
}

async fn connect(config: &NatsConfig, link: watch::Sender<Link>) -> Result<Client, StartError> {
    if config.urls.is_empty() {
        return Err(StartError::NoUrl(config.site.clone()));
    }
    let name = format!("nett-agent {}", config.node);
    let options = options(&config.seed, config.tls.as_ref())?
        .name(name)
        .custom_inbox_prefix(subject::inbox(&config.site))
        .retry_on_initial_connect()
        .event_callback(move |event| {
            note(&link, &event);
            std::future::ready(())
        });
    options.connect(config.urls.clone()).await.map_err(StartError::Connect)
}

/// The connection on which others are heard.
fn hearing(
    config: &NatsConfig,
    subscriptions: Vec<(Subscription, Arc<Intake>)>,
    open: watch::Sender<Hearing>,
) -> Result<Doors, StartError> {
    let address = |url: &String| {
        let bad = |source| StartError::BadUrl { url: url.clone(), source };
        url.parse::<ServerAddr>().map_err(bad)
    };
    Ok(Doors {
        servers: config.urls.iter().map(address).collect::<Result<_, _>>()?,
        name: format!("nett-agent {}, what it is told", config.node),
        key: KeyPair::from_seed(&config.seed).map_err(StartError::Key)?,
        tls: config.tls.clone(),
        subscriptions,
        open,
        refused: Seldom::default(),
    })
}

/// What all of Nett's connections share: key, certificate, deadlines.
pub(super) fn options(seed: &str, tls: Option<&TlsFiles>) -> Result<ConnectOptions, StartError> {
    let mut options = ConnectOptions::with_nkey(seed.to_owned())
        .ping_interval(PING_INTERVAL)
        .connection_timeout(REQUEST_DEADLINE)
        .request_timeout(Some(REQUEST_DEADLINE))
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .client_capacity(256)
        .ignore_discovered_servers()
        .reconnect_delay_callback(reconnect_delay);
    if let Some(TlsFiles { ca, cert, key }) = tls {
        for path in [ca, cert, key] {
            std::fs::metadata(path)
                .map_err(|source| StartError::File { path: path.clone(), source })?;
        }
        options = options
            .require_tls(true)
            .add_root_certificates(ca.clone())
            .add_client_certificate(cert.clone(), key.clone());
    }
    Ok(options)
}

/// 0, then 100 ms doubling to 2 s, with up to a quarter more so that a site's agents do not all
/// come at once.
fn reconnect_delay(attempts: usize) -> Duration {
    let Some(doublings) = attempts.checked_sub(1) else {
        return Duration::ZERO;
    };
    let base = 100 * (1u64 << doublings.min(5)).min(20);
    let mut byte = [0u8; 1];
    let jitter = getrandom::fill(&mut byte).map_or(0, |()| base * u64::from(byte[0]) / 1024);
    Duration::from_millis(base + jitter)
}

fn note(link: &watch::Sender<Link>, event: &Event) {
    match event {
        Event::Connected => link.send_modify(|l| {
            *l = Link { up: true, generation: l.generation + 1 };
        }),
        Event::Disconnected | Event::Closed => link.send_modify(|l| l.up = false),
        Event::ServerError(error) => {
            tracing::warn!(%error, "The nats-server refused something.");
        }
        Event::ClientError(error) => tracing::debug!(%error, "The nats client has an error."),
        Event::SlowConsumer(id) => {
            tracing::debug!(id, "A subscription overflowed; it is read again.");
        }
        Event::LameDuckMode | Event::Draining => {
            tracing::info!(%event, "The nats-server is going down.");
        }
    }
}

/// Tells the controller about each change of the connection; two changes in quick succession may
/// be told as one. A connection is told when others are heard, too, or soon: so whoever sees that
/// the bus is there can send something. Followers hear of it behind the controller: what they say
/// they have read was read over a connection that it knows.
async fn tell_link(
    mut link: watch::Receiver<Link>,
    mut heard: watch::Receiver<Hearing>,
    events: mpsc::Sender<BusEvent>,
    followers: watch::Sender<Link>,
) {
    let mut told = Link { up: false, generation: 0 };
    loop {
        let now = *link.borrow_and_update();
        let other = now.generation != told.generation;
        if told.up && (!now.up || other) && events.send(BusEvent::Disconnected).await.is_err() {
            return;
        }
        if now.up && (!told.up || other) {
            tracing::info!(connection = now.generation, "Connected to the nats-server.");
            drop(timeout(HEARD_WITHIN, heard.wait_for(|heard| *heard == Some(Ok(())))).await);
            if events.send(BusEvent::Connected).await.is_err() {
                return;
            }
        }
        told = now;
        followers.send_replace(now);
        if link.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the controller whether others are heard, each time that this is another.
async fn tell_hearing(mut heard: watch::Receiver<Hearing>, events: mpsc::Sender<BusEvent>) {
    while heard.changed().await.is_ok() {
        let Some(result) = heard.borrow_and_update().clone() else { continue };
        if events.send(BusEvent::Hearing { result }).await.is_err() {
            return;
        }
    }
}

/// What each door subscribes to.
fn doors(config: &NatsConfig, fabric: &Fabric) -> Vec<(Door, Vec<Subscription>)> {
    let NatsConfig { site, node, .. } = config;
    let shared = |subject| (subject, Some(subject::QUEUE_GROUP));
    let questions = [subject::rpc_of(site, node), subject::rpc_any(site)].map(shared);
    let mut doors = vec![
        (Door::Command, vec![shared(subject::commands(site))]),
        (Door::Question, questions.into()),
        // Every agent of the site hears them.
        (Door::Fact, vec![(subject::facts(site), None)]),
    ];
    if fabric.voters().any(|voter| voter.id == *node) {
        let peers = fabric.sites.iter().map(|peer| &peer.id);
        let asks = peers.map(|peer| (subject::beacon(site, peer, node), None));
        doors.push((Door::Ask, asks.collect()));
    }
    doors
}
