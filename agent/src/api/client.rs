//! The asking side: over the agent's socket, or over NATS to any agent of a site.
//!
//! Every wait has a deadline, and a command whose answer did not come is reported as such: it may
//! have been accepted. Nothing is sent twice from here.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::{ConnectErrorKind, RequestErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::codec::{self, DecodeError, MAX_ANSWER, MAX_CALL};
use super::types::{ApiError, ApiRequest, ApiResponse, CommandReply, Outcome, Payload};

/// How to reach an agent.
#[derive(Debug, Clone)]
pub enum Transport {
    /// The socket of the agent on this machine.
    Socket(PathBuf),
    Nats(NatsTarget),
}

/// A site, by one of its nats-servers.
#[derive(Clone)]
pub struct NatsTarget {
    /// `tls://HOST:PORT`, or `nats://` in a lab.
    pub url: String,
    pub site: String,
    pub tls: TlsFiles,
    /// The operator's nkey seed (`SU...`), for the login.
    pub seed: Option<String>,
}

/// PEM files.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach the agent at {path}: {}", reach_hint(source))]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot reach NATS at {url}: {hint}")]
    Nats {
        url: String,
        hint: &'static str,
        #[source]
        source: Box<async_nats::ConnectError>,
    },
    #[error("no agent of site {site} answers ({hint}); ask another site, or use a node's socket")]
    NoAgent { site: String, hint: &'static str },
    #[error("{whom} gave no answer within {after:?}; is the agent stopped or overloaded?")]
    NoAnswer { whom: String, after: Duration },
    #[error("{whom} closed the connection before it answered")]
    Closed { whom: String },
    #[error("--nats needs {what}")]
    Incomplete { what: &'static str },
    #[error("the request has {bytes} bytes, {MAX_CALL} are allowed; name fewer objects")]
    TooLarge { bytes: usize },
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The agent answered that it cannot.
    #[error("{}", .0.message)]
    Agent(ApiError),
    #[error(
        "the agent answered something else than was asked; nettctl and agent differ in release"
    )]
    WrongAnswer,
}

/// A connection to an agent or to a site.
#[derive(Debug)]
pub struct Client {
    link: Link,
    /// The longest wait for one answer.
    deadline: Duration,
    /// The longest wait for a plan.
    planning: Duration,
}

#[derive(Debug)]
enum Link {
    Socket { path: PathBuf, read: BufReader<OwnedReadHalf>, write: OwnedWriteHalf },
    Nats { client: async_nats::Client, site: String },
}

/// The inbox prefix operators have permission for (BUS section 4).
const INBOX: &str = "_INBOX.op";

// === impl NatsTarget ===

impl std::fmt::Debug for NatsTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { url, site, tls, seed } = self;
        f.debug_struct("NatsTarget")
            .field("url", url)
            .field("site", site)
            .field("tls", tls)
            .field("seed", &seed.as_ref().map(|_| "(secret)"))
            .finish()
    }
}

// === impl Client ===

impl Client {
    /// Connects; `deadline` bounds the connecting and each answer.
    pub async fn connect(transport: &Transport, deadline: Duration) -> Result<Self, ClientError> {
        let link = match transport {
            Transport::Socket(path) => connect_socket(path, deadline).await?,
            Transport::Nats(target) => connect_nats(target, deadline).await?,
        };
        Ok(Self { link, deadline, planning: deadline })
    }

    /// Waits for plans longer, or less long, than for other answers.
    #[must_use]
    pub fn with_planning(self, planning: Duration) -> Self {
        Self { planning, ..self }
    }

    /// The site the client was told to ask; `None` for a socket, whose agent knows its own.
    pub fn site(&self) -> Option<&str> {
        match &self.link {
            Link::Socket { .. } => None,
            Link::Nats { client: _, site } => Some(site),
        }
    }

    /// Asks and waits. The answer may be an error of the agent.
    pub async fn call(&mut self, request: &ApiRequest) -> Result<ApiResponse, ClientError> {
        // A long poll takes its own time before the answer is late.
        let deadline = match request {
            ApiRequest::WatchTask { timeout_ms, .. } => {
                self.deadline + Duration::from_millis(*timeout_ms)
            }
            ApiRequest::Plan { .. } => self.planning,
            _ => self.deadline,
        };
        let bytes = codec::encode_call(request);
        if bytes.len() > MAX_CALL {
            return Err(ClientError::TooLarge { bytes: bytes.len() });
        }
        let subject = match &self.link {
            Link::Socket { .. } => String::new(),
            Link::Nats { client: _, site } => format!("nett.l.rpc.{site}.any.api"),
        };
        let answer = self.exchange(subject, bytes, deadline).await?;
        Ok(codec::decode_answer(&answer)?)
    }

    /// Hands in a signed envelope. Over NATS it goes to the subject it was signed for, over the
    /// socket inside a call.
    pub async fn command(
        &mut self,
        subject: &str,
        envelope: Vec<u8>,
    ) -> Result<CommandReply, ClientError> {
        if envelope.len() > MAX_CALL {
            return Err(ClientError::TooLarge { bytes: envelope.len() });
        }
        if matches!(self.link, Link::Nats { .. }) {
            let deadline = self.deadline;
            let answer = self.exchange(subject.to_owned(), envelope, deadline).await?;
            return reply(&answer);
        }
        let envelope = serde_json::from_slice(&envelope).map_err(|_| ClientError::WrongAnswer)?;
        let request = ApiRequest::Command { subject: subject.to_owned(), envelope };
        let answer = self.call(&request).await?;
        unwrap_reply(answer)
    }

    async fn exchange(
        &mut self,
        subject: String,
        bytes: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, ClientError> {
        match &mut self.link {
            Link::Socket { path, read, write } => {
                let whom = format!("the agent at {}", path.display());
                match timeout(deadline, over_socket(path, read, write, bytes)).await {
                    Ok(result) => result,
                    Err(_) => Err(ClientError::NoAnswer { whom, after: deadline }),
                }
            }
            Link::Nats { client, site } => {
                let request =
                    async_nats::Request::new().payload(bytes.into()).timeout(Some(deadline));
                let no_agent = |hint| ClientError::NoAgent { site: site.clone(), hint };
                match client.send_request(subject, request).await {
                    Ok(message) => Ok(message.payload.into()),
                    Err(error) => Err(match error.kind() {
                        RequestErrorKind::TimedOut => {
                            ClientError::NoAnswer { whom: format!("site {site}"), after: deadline }
                        }
                        RequestErrorKind::NoResponders => no_agent("no one listens"),
                        RequestErrorKind::InvalidSubject => no_agent("bad site name"),
                        _ => no_agent("the NATS connection broke"),
                    }),
                }
            }
        }
    }
}

fn reply(bytes: &[u8]) -> Result<CommandReply, ClientError> {
    // A bare reply on the command subject; the whole answer where an agent's API served it.
    match serde_json::from_slice::<CommandReply>(bytes) {
        Ok(reply) => Ok(reply),
        Err(_) => unwrap_reply(codec::decode_answer(bytes)?),
    }
}

fn unwrap_reply(answer: ApiResponse) -> Result<CommandReply, ClientError> {
    match answer.outcome {
        Outcome::Error(error) => Err(ClientError::Agent(error)),
        Outcome::Ok(payload) => match *payload {
            Payload::Command(reply) => Ok(reply),
            _ => Err(ClientError::WrongAnswer),
        },
    }
}

async fn connect_socket(path: &Path, deadline: Duration) -> Result<Link, ClientError> {
    let failed = |source| ClientError::Socket { path: path.to_owned(), source };
    let stream = match timeout(deadline, UnixStream::connect(path)).await {
        Ok(result) => result.map_err(failed)?,
        Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
    };
    let (read, write) = stream.into_split();
    Ok(Link::Socket { path: path.to_owned(), read: BufReader::new(read), write })
}

async fn connect_nats(target: &NatsTarget, deadline: Duration) -> Result<Link, ClientError> {
    let NatsTarget { url, site, tls, seed } = target;
    if site.is_empty() {
        return Err(ClientError::Incomplete {
            what: "--site (NETT_SITE): the site whose agents are asked",
        });
    }
    let mut options = async_nats::ConnectOptions::new()
        .name("nettctl")
        .custom_inbox_prefix(INBOX)
        .connection_timeout(deadline)
        .max_reconnects(1);
    if let Some(seed) = seed {
        options = options.nkey(seed.clone());
    }
    if let Some(ca) = &tls.ca {
        options = options.add_root_certificates(ca.clone()).require_tls(true);
    }
    match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        (None, None) => {}
        _ => {
            return Err(ClientError::Incomplete {
                what: "both --tls-cert and --tls-key, or neither",
            });
        }
    }
    let client = options.connect(url.as_str()).await.map_err(|source| ClientError::Nats {
        url: url.clone(),
        hint: nats_hint(source.kind()),
        source: Box::new(source),
    })?;
    Ok(Link::Nats { client, site: site.clone() })
}

async fn over_socket(
    path: &Path,
    read: &mut BufReader<OwnedReadHalf>,
    write: &mut OwnedWriteHalf,
    mut bytes: Vec<u8>,
) -> Result<Vec<u8>, ClientError> {
    use tokio::io::AsyncBufReadExt;
    let closed = || ClientError::Closed { whom: format!("the agent at {}", path.display()) };
    bytes.push(b'\n');
    // A server that turns a connection away answers before it closes: read even if this fails.
    let written = write.write_all(&bytes).await;
    let limit = u64::try_from(MAX_ANSWER).unwrap_or(u64::MAX);
    let mut line = Vec::new();
    let found = (&mut *read).take(limit).read_until(b'\n', &mut line).await;
    match (written, found) {
        (_, Ok(_)) if line.last() == Some(&b'\n') => Ok(line),
        _ => Err(closed()),
    }
}

fn reach_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no such socket; does an agent run here, is --socket (NETT_SOCKET) right?"
        }
        io::ErrorKind::ConnectionRefused => "nobody listens; the agent has stopped",
        io::ErrorKind::PermissionDenied => "not permitted; join the socket's group, or use --nats",
        io::ErrorKind::TimedOut => "it does not take the connection in time",
        _ => "the connection failed",
    }
}

fn nats_hint(kind: ConnectErrorKind) -> &'static str {
    match kind {
        ConnectErrorKind::ServerParse => "the URL is not understood; write tls://HOST:PORT",
        ConnectErrorKind::Dns => "the host name has no address",
        ConnectErrorKind::Authentication => "the key cannot sign; is --key an nkey seed?",
        ConnectErrorKind::AuthorizationViolation => {
            "the server does not know this key; is it in fabric.toml and in the server's file?"
        }
        ConnectErrorKind::TimedOut => "it does not answer in time",
        ConnectErrorKind::Tls => "TLS failed; check --tls-ca, --tls-cert and --tls-key",
        ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects => {
            "nobody answers there; is nats-server running?"
        }
    }
}
