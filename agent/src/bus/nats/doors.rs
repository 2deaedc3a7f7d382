//! The connection on which people, reporters and other sites are heard.
//!
//! It is another one than that of the logs, deliberately. What is sent here in crowds stands in
//! nobody else's way: an append hears its answer and a log is read on however long the queue is
//! here, and where a server gives this connection up as too slow the other one stays. And it is
//! read by [`Lines`], not by the client library, which holds every message as long as it may be: a
//! message that is too large is passed over as it comes in, so it costs neither memory nor work.
//!
//! Received is whatever comes, as fast as it comes: a queue in the server would be everybody's.
//! What is dropped is dropped by [`Intake::offer`], which knows whose it is. Answers go out by the
//! connection that the question came by, since the server allows them there only, and no larger
//! than it takes: one that is too large would end the connection for everybody.
//!
//! It counts as open while every subscription on it stands. What a server refuses is asked for
//! again, since its files may be rendered anew.
//!
//! Crash story: nothing is kept. With the connection everything ends that came by it: whoever asked
//! hears nothing and asks again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::ServerAddr;
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, crypto};

use super::lines::{Garbled, Lines, Said};
use super::{PING_INTERVAL, REQUEST_DEADLINE, TlsFiles, reconnect_delay};
use crate::bus::Responder;
use crate::bus::intake::{Incoming, Intake};
use crate::bus::wire::MAX_BYTES;
use crate::telemetry::seldom::Seldom;

/// For reaching a server and logging in.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);
/// Pings without a word from the server after which it counts as gone.
const PINGS: u32 = 2;
/// What is read at once, in bytes.
const READ: usize = 64 * 1024;
/// Answers that may wait to be sent.
const ANSWERS: usize = 64;
/// How long until a subscription that was refused is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How a server begins to say that it refuses one.
const REFUSED: &str = "permissions violation for subscription";
/// How much is repeated of what a server says, in characters.
const REPEATED: usize = 200;

/// A subject, and the queue group that its messages are shared in.
pub(super) type Subscription = (String, Option<&'static str>);

pub(super) struct Doors {
    pub(super) servers: Vec<ServerAddr>,
    /// As the server shows it.
    pub(super) name: String,
    pub(super) key: KeyPair,
    pub(super) tls: Option<TlsFiles>,
    pub(super) subscriptions: Vec<(Subscription, Arc<Intake>)>,
    /// Whether all who may send are heard.
    pub(super) open: watch::Sender<Hearing>,
    /// What the server does not let this node do.
    pub(super) refused: Seldom,
}

/// Whether all who may send are heard, or why not. `None`: it is not known yet.
pub(super) type Hearing = Option<Result<(), String>>;

/// Where an answer goes.
pub struct Reply {
    lines: mpsc::Sender<Vec<u8>>,
    to: String,
    /// The largest message that the server takes, in bytes.
    room: Arc<AtomicUsize>,
}

/// Why a connection ended, or was not made.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("no connection to the nats-server: {0}")]
    Io(#[from] std::io::Error),
    #[error("the nats-server closed the connection; the last it said: {0}")]
    Closed(String),
    #[error("the nats-server is silent")]
    Silent,
    #[error(transparent)]
    Garbled(#[from] Garbled),
    #[error("what the nats-server says of itself is not understood")]
    Info(#[source] serde_json::Error),
    #[error("the key of this agent does not sign")]
    Key(#[source] nkeys::error::Error),
    #[error("the certificate files in `nats` of agent.toml cannot be used: {0}")]
    Pem(#[from] pem::Error),
    #[error("no TLS with the nats-server: {0}")]
    Tls(#[from] rustls::Error),
}

/// What a server says of itself, as far as it is needed to log in.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Info {
    nonce: String,
    tls_required: bool,
    max_payload: i64,
}

impl Info {
    /// The largest message that the server takes, where it says so.
    fn room(&self) -> Option<usize> {
        usize::try_from(self.max_payload).ok().filter(|room| *room > 0)
    }
}

/// A connection, encrypted or not.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// What a connection has said so far.
#[derive(Default)]
struct Heard {
    pings: usize,
    pongs: usize,
    error: String,
    /// Subscriptions that the server does not allow, by their place, and what it said last.
    refused: BTreeSet<usize>,
    room: Arc<AtomicUsize>,
}

// === impl Doors ===

impl Doors {
    /// Hears until it is dropped, on one server after the other.
    pub(super) async fn run(self) {
        let (mut attempts, mut told) = (0, String::new());
        for server in self.servers.iter().cycle() {
            tokio::time::sleep(reconnect_delay(attempts)).await;
            let ended = self.session(server).await;
            attempts += 1;
            let why = ended.to_string();
            if self.open.send_replace(Some(Err(why.clone()))) == Some(Ok(())) {
                (attempts, told) = (1, String::new());
            }
            // Said again only when something else is wrong.
            if why != told {
                let server = server.host();
                tracing::warn!(server, why, "Commands and questions over NATS are not heard.");
                told = why;
            }
        }
    }

    /// One connection, until it ends.
    async fn session(&self, server: &ServerAddr) -> Ended {
        let (wire, room) = match timeout(DIAL_DEADLINE, self.dial(server)).await {
            Ok(Ok(dialled)) => dialled,
            Ok(Err(ended)) => return ended,
            Err(_) => return Ended::Silent,
        };
        let (read, write) = tokio::io::split(wire);
        let (lines, waiting) = mpsc::channel(ANSWERS);
        // Both in one task: with either the other ends, too.
        tokio::select! {
            ended = self.listen(read, lines, room) => ended,
            ended = say(write, waiting) => ended,
        }
    }

    /// Connects, and says who this is and what it wants to hear.
    async fn dial(&self, server: &ServerAddr) -> Result<(Box<dyn Wire>, usize), Ended> {
        let mut stream = TcpStream::connect((server.host(), server.port())).await?;
        stream.set_nodelay(true)?;
        let info = greeting(&mut stream).await?;
        let encrypted = self.tls.is_some() || server.tls_required() || info.tls_required;
        let mut wire: Box<dyn Wire> = if encrypted {
            let name = ServerName::try_from(server.host().to_owned())
                .map_err(|_| std::io::Error::other("its address is no name for a certificate"))?;
            let connector = TlsConnector::from(Arc::new(client(self.tls.as_ref()).await?));
            Box::new(connector.connect(name, stream).await?)
        } else {
            Box::new(stream)
        };
        let signature = self.key.sign(info.nonce.as_bytes()).map_err(Ended::Key)?;
        let connect = serde_json::json!({
            "verbose": false, "pedantic": false, "tls_required": encrypted,
            "lang": "rust", "version": env!("CARGO_PKG_VERSION"), "protocol": 1, "name": self.name,
            "nkey": self.key.public_key(), "sig": BASE64URL_NOPAD.encode(&signature),
            // Nothing that is heard here has any that count.
            "headers": false,
        });
        let mut text = format!("CONNECT {connect}\r\n");
        text.push_str(&self.asks(|_| true));
        wire.write_all(text.as_bytes()).await?;
        wire.flush().await?;
        Ok((wire, info.room().unwrap_or(MAX_BYTES)))
    }

    /// Asks for subscriptions, and for a word behind what the server says to that.
    fn asks(&self, which: impl Fn(usize) -> bool) -> String {
        let all = self.subscriptions.iter().enumerate().filter(|(at, _)| which(*at));
        let line = |(at, ((subject, group), _)): (usize, &(Subscription, _))| {
            format!("SUB {subject} {} {at}\r\n", group.unwrap_or_default())
        };
        all.map(line).chain(["PING\r\n".to_owned()]).collect()
    }

    async fn listen(
        &self,
        mut read: ReadHalf<Box<dyn Wire>>,
        lines: mpsc::Sender<Vec<u8>>,
        room: usize,
    ) -> Ended {
        let mut from_server = Lines::new(MAX_BYTES);
        let (mut heard, mut unanswered) = (Heard::default(), 0);
        heard.room.store(room, Ordering::Relaxed);
        // One word is on its way already. Only the last says that all others were said.
        let (mut awaited, mut asked) = (1usize, Instant::now());
        let mut buffer = vec![0; READ];
        loop {
            if !heard.refused.is_empty() && asked.elapsed() >= ASK_AGAIN {
                let again = self.asks(|at| heard.refused.contains(&at));
                if lines.try_send(again.into_bytes()).is_ok() {
                    heard.refused.clear();
                    (awaited, asked) = (awaited + 1, Instant::now());
                }
            }
            let count = match timeout(PING_INTERVAL, read.read(&mut buffer)).await {
                Ok(Ok(0)) => return Ended::Closed(heard.error),
                Ok(Ok(count)) => count,
                Ok(Err(error)) => return error.into(),
                Err(_) if unanswered == PINGS => return Ended::Silent,
                Err(_) => {
                    unanswered += 1;
                    // Where there is no room for it much else is under way.
                    awaited += usize::from(lines.try_send(b"PING\r\n".to_vec()).is_ok());
                    continue;
                }
            };
            unanswered = 0;
            let each = |said: Said<'_>| self.said(&said, &lines, &mut heard);
            if let Err(garbled) = from_server.take(&buffer[..count], each) {
                return garbled.into();
            }
            for _ in 0..std::mem::take(&mut heard.pings) {
                let _ = lines.try_send(b"PONG\r\n".to_vec());
            }
            let pongs = std::mem::take(&mut heard.pongs);
            awaited = awaited.saturating_sub(pongs);
            // The answers to the subscriptions stand before the last word that is awaited.
            match (awaited, heard.refused.is_empty()) {
                (0, false) => self.set_open(Err(self.refusal(&heard))),
                (0, true) if pongs > 0 => self.set_open(Ok(())),
                _ => {}
            }
        }
    }

    fn set_open(&self, now: Result<(), String>) {
        let is_open = now.is_ok();
        let changed = self.open.send_if_modified(|open| open.replace(now.clone()) != Some(now));
        if changed && is_open {
            tracing::info!("Commands and questions over NATS are heard.");
        }
    }

    /// What is not heard although there is a connection.
    fn refusal(&self, heard: &Heard) -> String {
        let of = |at: &usize| self.subscriptions.get(*at).map(|((subject, _), _)| subject.as_str());
        let subjects: Vec<&str> = heard.refused.iter().filter_map(of).collect();
        format!(
            "the nats-server refuses {}: render its configuration anew (`nettctl bus render`), and \
             reload it",
            subjects.join(", ")
        )
    }

    /// The subscriptions that the server says it does not allow.
    fn refused_by<'a>(&'a self, text: &'a str) -> impl Iterator<Item = usize> + 'a {
        let about = text.to_ascii_lowercase().starts_with(REFUSED);
        // The first thing in quotes is the subject.
        let named = text.split('"').nth(1).filter(|_| about);
        let all = self.subscriptions.iter().enumerate();
        all.filter(move |(_, ((subject, _), _))| Some(subject.as_str()) == named).map(|(at, _)| at)
    }

    fn said(&self, said: &Said<'_>, lines: &mpsc::Sender<Vec<u8>>, heard: &mut Heard) {
        match *said {
            Said::Message { subscription, subject, reply_to, payload } => {
                let at = usize::try_from(subscription).unwrap_or(usize::MAX);
                let Some((_, intake)) = self.subscriptions.get(at) else { return };
                let reply = || {
                    let (lines, room) = (lines.clone(), heard.room.clone());
                    let reply = Reply { lines, to: reply_to.to_owned(), room };
                    (!reply_to.is_empty()).then(|| Responder::nats(reply))
                };
                intake.offer(&Incoming { subject, reply_to, payload }, reply);
            }
            Said::Ping => heard.pings += 1,
            Said::Pong => heard.pongs += 1,
            Said::Error(text) => {
                if let Some(unsaid) = self.refused.due() {
                    tracing::warn!(text, unsaid, "The nats-server refused something.");
                }
                heard.refused.extend(self.refused_by(text));
                heard.error = text.chars().take(REPEATED).collect();
            }
            Said::Info(json) => {
                // It says so again when it was given another limit.
                let told = serde_json::from_slice::<Info>(json).ok();
                if let Some(room) = told.and_then(|info| info.room()) {
                    heard.room.store(room, Ordering::Relaxed);
                }
            }
            Said::Ok => {}
        }
    }
}

/// Sends what waits, each in its turn.
async fn say(mut write: WriteHalf<Box<dyn Wire>>, mut waiting: mpsc::Receiver<Vec<u8>>) -> Ended {
    while let Some(line) = waiting.recv().await {
        let sent = async {
            write.write_all(&line).await?;
            write.flush().await
        };
        if let Err(error) = sent.await {
            return error.into();
        }
    }
    Ended::Closed(String::new())
}

/// The first line of a server, which comes before anything is encrypted.
async fn greeting(stream: &mut TcpStream) -> Result<Info, Ended> {
    let (mut lines, mut buffer, mut info) = (Lines::new(0), [0; 4096], None);
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Err(Ended::Closed("nothing".to_owned()));
        }
        lines.take(&buffer[..count], |said| {
            if let Said::Info(json) = said {
                info = Some(serde_json::from_slice(json));
            }
        })?;
        if let Some(info) = info.take() {
            return info.map_err(Ended::Info);
        }
    }
}

/// Read anew for each connection: certificates are replaced while an agent runs.
async fn client(files: Option<&TlsFiles>) -> Result<ClientConfig, Ended> {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut roots = RootCertStore::empty();
    let Some(TlsFiles { ca, cert, key }) = files else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    };
    let (ca, cert) = (tokio::fs::read(ca).await?, tokio::fs::read(cert).await?);
    let key = PrivateKeyDer::from_pem_slice(&tokio::fs::read(key).await?)?;
    for certificate in CertificateDer::pem_slice_iter(&ca) {
        roots.add(certificate?)?;
    }
    let chain = CertificateDer::pem_slice_iter(&cert).collect::<Result<Vec<_>, _>>()?;
    Ok(builder.with_root_certificates(roots).with_client_auth_cert(chain, key)?)
}

// === impl Reply ===

impl Reply {
    pub(in crate::bus) fn room(&self) -> usize {
        self.room.load(Ordering::Relaxed)
    }

    pub(in crate::bus) async fn send(self, bytes: Vec<u8>) {
        let (size, room) = (bytes.len(), self.room());
        if size > room {
            return tracing::error!(size, room, "An answer is larger than the nats-server takes.");
        }
        let mut line = format!("PUB {} {}\r\n", self.to, bytes.len()).into_bytes();
        line.extend_from_slice(&bytes);
        line.extend_from_slice(b"\r\n");
        let sent = timeout(REQUEST_DEADLINE, self.lines.send(line)).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::debug!("An answer could not be sent.");
        }
    }
}
