//! All TCP listeners and connections, on one thread (RFC 7766).
//!
//! A listener never ends: an aborted connection is skipped, and when descriptors or memory run out
//! it waits, twice as long each time up to a second. Connections above a limit are closed at once,
//! so that those of others keep their place. Questions of one connection are answered in order;
//! a client may send many before it reads.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::answer::{DropReason, Outcome, Transport};

use super::tls::Inside;
use super::{Answerer, Limits, ServerError, copy, https, source_of};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Questions are short; more is read in several pieces.
const READ_BUFFER: usize = 2048;

/// Everything the thread owns.
pub(super) struct Tcp {
    runtime: tokio::runtime::Runtime,
    listeners: Vec<(TcpListener, Door)>,
    shared: Shared,
}

/// What is behind a listener.
#[derive(Clone)]
pub(super) enum Door {
    Plain,
    Tls(Inside, TlsAcceptor),
}

#[derive(Clone)]
pub(super) struct Shared {
    pub(super) answerer: Answerer,
    pub(super) limits: Arc<Limits>,
    open: Arc<Mutex<Open>>,
    pub(super) stopped: watch::Receiver<bool>,
}

/// Open connections, in all and by source.
#[derive(Default)]
struct Open {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// A place among the open connections, given back on drop.
struct Place {
    open: Arc<Mutex<Open>>,
    source: IpAddr,
}

// === impl Tcp ===

impl Tcp {
    pub(super) fn new(
        listeners: Vec<(std::net::TcpListener, Door)>,
        (answerer, limits, stopped): (Answerer, Limits, watch::Receiver<bool>),
    ) -> Result<Self, ServerError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(ServerError::Thread)?;
        let entered = runtime.enter();
        let listeners = listeners
            .into_iter()
            .map(|(listener, door)| Ok((TcpListener::from_std(listener)?, door)))
            .collect::<io::Result<Vec<_>>>()
            .map_err(ServerError::Thread)?;
        drop(entered);
        Ok(Self {
            runtime,
            listeners,
            shared: Shared { answerer, limits: Arc::new(limits), open: Arc::default(), stopped },
        })
    }

    /// Runs until the server is stopped.
    pub(super) fn run(self) {
        let Self { runtime, listeners, shared } = self;
        runtime.block_on(async move {
            let mut connections = tokio::task::JoinSet::new();
            for (listener, door) in listeners {
                connections.spawn(accept(listener, door, shared.clone()));
            }
            // Each listener ends when the server stops, after its connections.
            while connections.join_next().await.is_some() {}
        });
    }
}

/// Takes connections from one listener until the server stops, then waits for them to finish.
async fn accept(listener: TcpListener, door: Door, shared: Shared) {
    let mut stopped = shared.stopped.clone();
    let mut connections = tokio::task::JoinSet::new();
    let mut pause = FIRST_PAUSE;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = FIRST_PAUSE;
                match Place::take(&shared, source_of(peer.ip())) {
                    Some(place) => {
                        shared.answerer.stats.connection();
                        let (door, shared) = (door.clone(), shared.clone());
                        connections.spawn(async move {
                            enter(stream, door, peer.ip(), shared).await;
                            drop(place);
                        });
                    }
                    None => shared.answerer.stats.count_drop(DropReason::Connection),
                }
            }
            Err(error) => {
                shared.answerer.stats.accept_error();
                if !is_of_the_peer(&error) {
                    tracing::warn!(%error, ?pause, "Cannot take connections; waiting.");
                    let _ = timeout(pause, stopped.wait_for(|stopped| *stopped)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
    drop(listener);
    let all_done = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(shared.limits.stop_grace, all_done).await;
}

/// Errors of accept(2) that say something about one connection and nothing about the next.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Serves one connection, after its handshake if it has one.
async fn enter(stream: TcpStream, door: Door, source: IpAddr, shared: Shared) {
    // Answers go out whole; waiting to fill a segment would only delay them.
    let _ = stream.set_nodelay(true);
    let (inside, acceptor) = match door {
        Door::Plain => return serve(stream, Transport::Tcp, source, shared).await,
        Door::Tls(inside, acceptor) => (inside, acceptor),
    };
    let mut stopped = shared.stopped.clone();
    let shaken = tokio::select! {
        biased;
        _ = stopped.wait_for(|stopped| *stopped) => return,
        shaken = timeout(shared.limits.tcp_idle, acceptor.accept(stream)) => shaken,
    };
    let Ok(Ok(stream)) = shaken else {
        return shared.answerer.stats.count_drop(DropReason::Handshake);
    };
    match inside {
        Inside::Dns => serve(stream, Transport::Tls, source, shared).await,
        Inside::Http => https::serve(stream, source, shared).await,
    }
}

/// Answers the questions of one connection until it is idle, broken, odd, or the server stops.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    transport: Transport,
    source: IpAddr,
    shared: Shared,
) {
    let mut stopped = shared.stopped.clone();
    let mut stream = BufReader::with_capacity(READ_BUFFER, stream);
    let mut question = Vec::new();
    let mut out = Vec::new();
    let mut framed = Vec::new();
    loop {
        let deadline = Instant::now() + shared.limits.tcp_idle;
        let next = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return,
            next = timeout_at(deadline, read_question(&mut stream, &mut question)) => next,
        };
        let Ok(Ok(())) = next else { return };
        let ask = shared.answerer.ask(&question, source, transport);
        match copy::send(&mut stream, &ask, &shared).await {
            copy::Sent::NoCopy => {}
            copy::Sent::Whole => continue,
            copy::Sent::Broken => return,
        }
        // A message that gets no answer is no question: its sender is not a client.
        let Outcome::Reply { .. } = shared.answerer.answer(&ask, &mut out) else {
            return;
        };
        let length = u16::try_from(out.len()).expect("an answer is held to 65535 bytes");
        framed.clear();
        // Length and message in one write (RFC 7766 section 8).
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(&out);
        let deadline = Instant::now() + shared.limits.tcp_idle;
        let sent = timeout_at(deadline, async {
            stream.write_all(&framed).await?;
            stream.flush().await
        });
        let Ok(Ok(())) = sent.await else { return };
    }
}

/// Reads one message with its length in front.
async fn read_question(
    stream: &mut BufReader<impl AsyncRead + Unpin>,
    question: &mut Vec<u8>,
) -> io::Result<()> {
    let length = stream.read_u16().await?;
    question.clear();
    // Grows with what arrives, not with what the length promises.
    let read = stream.take(u64::from(length)).read_to_end(question).await?;
    if read < usize::from(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

// === impl Place ===

impl Place {
    fn take(shared: &Shared, source: IpAddr) -> Option<Self> {
        let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.total >= shared.limits.tcp_connections {
            return None;
        }
        let of_source = open.by_source.entry(source).or_insert(0);
        if *of_source >= shared.limits.tcp_per_source {
            return None;
        }
        *of_source += 1;
        open.total += 1;
        Some(Self { open: Arc::clone(&shared.open), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total -= 1;
        if let Some(of_source) = open.by_source.get_mut(&self.source) {
            *of_source -= 1;
            if *of_source == 0 {
                open.by_source.remove(&self.source);
            }
        }
    }
}
