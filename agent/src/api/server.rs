//! The agent's unix socket: lines in, lines out, with bounds on everything a peer can use up.
//!
//! It never looks into a request beyond its shape and never decides who may ask: the file mode
//! (0660) says who may connect, signatures say who may change something.
//!
//! Crash story: a socket file that nobody listens on is left by an agent that died; the next start
//! takes its place. One that somebody listens on is never touched.

use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::codec::{self, MAX_CALL};
use super::types::{ApiError, ApiRequest, ApiResponse, ErrorCode};

/// Answers requests. The controller's side of the API, on every transport.
pub trait Backend: Send + Sync + 'static {
    fn call(&self, request: ApiRequest) -> impl Future<Output = ApiResponse> + Send;
}

/// What one server may use up.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time; one more is told `busy` and closed.
    pub connections: usize,
    /// How long a connection may take to bring its next whole request.
    pub idle: Duration,
    /// How long the backend may take; longer than any long poll.
    pub call: Duration,
    /// How long a peer may take to read an answer.
    pub write: Duration,
    /// How long calls that the backend has may still take when the server ends: those whose answer
    /// is made need no time, and the agent does nothing else meanwhile.
    pub parting: Duration,
}

/// Why there is no socket to serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{path}: another agent listens here; stop it, or give this one another `socket`")]
    InUse { path: PathBuf },
    #[error("{path}: exists and is not a socket; remove it, or choose another `socket`")]
    NotASocket { path: PathBuf },
    #[error("{path}: cannot {doing}; its directory must exist and be writable for the agent")]
    Io {
        path: PathBuf,
        doing: &'static str,
        #[source]
        source: io::Error,
    },
}

/// A bound socket. Dropping it removes the file.
#[derive(Debug)]
pub struct ApiServer {
    listener: UnixListener,
    file: SocketFile,
    limits: Limits,
}

/// The file of a bound socket, removed on drop if it is still the same one.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

enum Line {
    Whole,
    End,
    TooLong,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            idle: Duration::from_secs(60),
            // A plan over very many services is waited for that long.
            call: Duration::from_secs(75),
            write: Duration::from_secs(10),
            parting: Duration::from_millis(200),
        }
    }
}

// === impl ApiServer ===

impl ApiServer {
    /// Binds `path` with mode 0660. The file of a dead agent is replaced. Whoever starts agents
    /// sees to it (by the lock of the state directory) that two do not start at the same moment.
    ///
    /// Must be called inside a tokio runtime.
    pub fn bind(path: &Path, limits: Limits) -> Result<Self, ServerError> {
        let fail = |doing| move |source| ServerError::Io { path: path.to_owned(), doing, source };
        remove_stale(path)?;
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)
            .map_err(fail("make the socket"))?;
        let address = socket2::SockAddr::unix(path).map_err(fail("use the path"))?;
        socket.bind(&address).map_err(fail("bind the socket"))?;
        // Nobody can connect between bind and listen, so the mode is right from the start.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
            .map_err(fail("set the mode of the socket"))?;
        let found = std::fs::symlink_metadata(path).map_err(fail("read back the socket"))?;
        let file = SocketFile { path: path.to_owned(), inode: (found.dev(), found.ino()) };
        socket.listen(64).map_err(fail("listen"))?;
        socket.set_nonblocking(true).map_err(fail("listen"))?;
        let listener: std::os::unix::net::UnixListener = socket.into();
        let listener = UnixListener::from_std(listener).map_err(fail("listen"))?;
        Ok(Self { listener, file, limits })
    }

    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Serves until `shutdown` completes. Then nobody is let in any more, connections without a
    /// call are closed, those with one get their answer if it comes soon ([`Limits::parting`]), and
    /// the socket file is removed.
    pub async fn serve<B: Backend>(self, backend: Arc<B>, shutdown: impl Future<Output = ()>) {
        let permits = Arc::new(Semaphore::new(self.limits.connections));
        let mut connections = JoinSet::new();
        let (ending, ends) = watch::channel(false);
        let Self { listener, file, limits } = self;
        tokio::pin!(shutdown);
        loop {
            let stream = tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "The API socket cannot accept a connection.");
                        // Out of descriptors: give others the time to close some.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            match Arc::clone(&permits).try_acquire_owned() {
                Ok(permit) => {
                    let backend = Arc::clone(&backend);
                    let (limits, ends) = (limits.clone(), ends.clone());
                    connections.spawn(async move {
                        if let Err(error) = converse(stream, &*backend, &limits, ends).await {
                            tracing::debug!(%error, "An API connection ended early.");
                        }
                        drop(permit);
                    });
                }
                Err(_) => turn_away(&stream, limits.connections),
            }
        }
        drop((listener, file));
        ending.send_replace(true);
        let all = async { while connections.join_next().await.is_some() {} };
        if timeout(limits.parting, all).await.is_err() {
            tracing::info!("Calls over the API socket are left without an answer.");
        }
    }
}

// === impl SocketFile ===

impl Drop for SocketFile {
    fn drop(&mut self) {
        let same = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.inode);
        if same && let Err(error) = std::fs::remove_file(&self.path) {
            let path = self.path.display();
            tracing::warn!(%error, %path, "The API socket's file could not be removed.");
        }
    }
}

/// Makes room at `path`: nothing there, or a socket that refuses connections.
fn remove_stale(path: &Path) -> Result<(), ServerError> {
    let io = |doing, source| ServerError::Io { path: path.to_owned(), doing, source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("look at the path", error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ServerError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        // Nobody listens, or the file went away meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|e| io("remove the stale socket", e))
        }
        Ok(_) => Err(ServerError::InUse { path: path.to_owned() }),
        Err(error) => Err(io("tell whether the socket is in use", error)),
    }
}

/// One connection: requests one after the other until the peer ends, breaks a bound or is slow, or
/// the server ends and nothing is asked.
async fn converse<B: Backend>(
    stream: UnixStream,
    backend: &B,
    limits: &Limits,
    mut ends: watch::Receiver<bool>,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let asked = tokio::select! {
            biased;
            _ = ends.wait_for(|ends| *ends) => return Ok(()),
            asked = timeout(limits.idle, read_line(&mut read, &mut line)) => asked,
        };
        let answer = match asked {
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(Err(error)) => return Err(error),
            Ok(Ok(Line::End)) => return Ok(()),
            Ok(Ok(Line::TooLong)) => {
                let answer = ApiResponse::transport_error(codec::too_large_call());
                // The rest of the line is not read: the connection has no known position.
                return send(&mut write, &answer, limits).await;
            }
            Ok(Ok(Line::Whole)) => match codec::decode_call(&line) {
                Err(error) => ApiResponse::transport_error(error),
                Ok(request) => match timeout(limits.call, backend.call(request)).await {
                    Ok(answer) => answer,
                    Err(_) => ApiResponse::transport_error(ApiError::new(
                        ErrorCode::Timeout,
                        format!("the agent had no answer within {} s", limits.call.as_secs()),
                        "look at its log and its load; a command may still take effect",
                    )),
                },
            },
        };
        send(&mut write, &answer, limits).await?;
    }
}

async fn send(
    write: &mut tokio::net::unix::OwnedWriteHalf,
    answer: &ApiResponse,
    limits: &Limits,
) -> io::Result<()> {
    let mut bytes = codec::encode_answer(answer);
    bytes.push(b'\n');
    match timeout(limits.write, write.write_all(&bytes)).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Reads one line of at most [`MAX_CALL`] bytes, without its line break.
async fn read_line<R: AsyncBufRead + Unpin>(read: &mut R, line: &mut Vec<u8>) -> io::Result<Line> {
    loop {
        let available = read.fill_buf().await?;
        if available.is_empty() {
            // A half line at the end is a request that was cut off, not a request.
            return Ok(Line::End);
        }
        let end = available.iter().position(|b| *b == b'\n');
        let taken = end.unwrap_or(available.len());
        if line.len() + taken > MAX_CALL {
            return Ok(Line::TooLong);
        }
        line.extend_from_slice(&available[..taken]);
        read.consume(taken + usize::from(end.is_some()));
        if end.is_some() {
            return Ok(Line::Whole);
        }
    }
}

/// Says `busy` without waiting for the peer.
fn turn_away(stream: &UnixStream, most: usize) {
    let mut bytes = codec::encode_answer(&ApiResponse::transport_error(ApiError::new(
        ErrorCode::Busy,
        format!("the agent has {most} API connections, and takes no more"),
        "close idle ones, and try again",
    )));
    bytes.push(b'\n');
    if let Err(error) = stream.try_write(&bytes) {
        tracing::debug!(%error, "A surplus API connection was closed without a word.");
    }
}
