//! All TCP listeners and connections, on one thread (RFC 7766).
//!
//! A listener never ends: an aborted connection is skipped, and when descriptors or memory run out
//! it waits, twice as long each time up to a second, and an idle connection ends. Connections above
//! the limit of a source are closed at once, and who is there when the table is full takes the
//! place of an idle one: see `places.rs`. A client may send many questions before it reads; they
//! are answered one after the other, and between the messages of a copy of the zone.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::answer::{DropReason, Outcome, Transport};
use crate::own_runtime::OwnRuntime;

use super::copy::Copies;
use super::places::{Admission, Place, Places};
use super::tls::Inside;
use super::{Answerer, Limits, ServerError, https, source_of};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Questions are short; more is read in several pieces.
const READ_BUFFER: usize = 2048;

/// Everything the thread owns.
pub(super) struct Tcp {
    runtime: OwnRuntime,
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
    places: Places,
    pub(super) stopped: watch::Receiver<bool>,
}

// === impl Tcp ===

impl Tcp {
    pub(super) fn new(
        listeners: Vec<(std::net::TcpListener, Door)>,
        (answerer, limits, stopped): (Answerer, Limits, watch::Receiver<bool>),
    ) -> Result<Self, ServerError> {
        let runtime = OwnRuntime::build().map_err(ServerError::Thread)?;
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
            shared: Shared {
                answerer,
                limits: Arc::new(limits),
                places: Places::default(),
                stopped,
            },
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
                let stats = &shared.answerer.stats;
                let place = match shared.places.take(source_of(peer.ip()), &shared.limits) {
                    Admission::Taken(place) => place,
                    Admission::InPlaceOfAnother(place) => {
                        stats.count_drop(DropReason::Evicted);
                        place
                    }
                    Admission::Refused => {
                        stats.count_drop(DropReason::Connection);
                        continue;
                    }
                };
                stats.connection();
                connections.spawn(enter(stream, door.clone(), peer.ip(), shared.clone(), place));
            }
            Err(error) => {
                shared.answerer.stats.accept_error();
                if !is_of_the_peer(&error) {
                    tracing::warn!(%error, ?pause, "Cannot take connections; waiting.");
                    // Its descriptor is free when the pause is over.
                    if shared.places.end_one() {
                        shared.answerer.stats.count_drop(DropReason::Evicted);
                    }
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

/// Serves one connection, after its handshake if it has one, until its place is given to another.
async fn enter(stream: TcpStream, door: Door, source: IpAddr, shared: Shared, place: Place) {
    // Answers go out whole; waiting to fill a segment would only delay them.
    let _ = stream.set_nodelay(true);
    let serve = async {
        match door {
            Door::Plain => serve(stream, Transport::Tcp, source, &shared, &place).await,
            Door::Tls(inside, acceptor) => {
                serve_inside(stream, (inside, acceptor), source, &shared, &place).await;
            }
        }
    };
    tokio::select! {
        biased;
        () = place.taken_away() => {}
        () = serve => {}
    }
}

async fn serve_inside(
    stream: TcpStream,
    (inside, acceptor): (Inside, TlsAcceptor),
    source: IpAddr,
    shared: &Shared,
    place: &Place,
) {
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
        Inside::Dns => serve(stream, Transport::Tls, source, shared, place).await,
        Inside::Http => https::serve(stream, source, shared, place).await,
    }
}

/// Answers the questions of one connection until it is idle, broken, odd, or the server stops.
///
/// While copies of the zone are sent, questions that come meanwhile are answered between two of
/// their messages (RFC 7766 section 6.2.1.1).
async fn serve(
    stream: impl AsyncRead + AsyncWrite,
    transport: Transport,
    source: IpAddr,
    shared: &Shared,
    place: &Place,
) {
    let mut stopped = shared.stopped.clone();
    let (reader, mut writer) = tokio::io::split(stream);
    let mut questions = Questions::new(reader);
    let mut copies = Copies::default();
    let (mut question, mut out, mut framed) = (Vec::new(), Vec::new(), Vec::new());
    let mut closed = false;
    while !(closed && copies.is_empty()) {
        let deadline = deadline_of(shared);
        if !copies.is_empty() {
            let copied = copies.send_next(&mut writer, shared);
            let copied = tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => false,
                copied = copied => copied,
            };
            if !copied {
                return copies.break_off(source, shared);
            }
            // Other connections have their turn, and so has what this one asked meanwhile.
            tokio::task::yield_now().await;
            if copies.is_empty() {
                place.activity().idle();
                continue;
            }
        }
        let next = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return copies.break_off(source, shared),
            next = questions.next(&mut question), if !closed => next.is_ok(),
            () = std::future::ready(()), if !copies.is_empty() => continue,
            () = sleep_until(deadline) => false,
        };
        if !next {
            closed = true;
            continue;
        }
        place.activity().busy();
        let ask = shared.answerer.ask(&question, source, transport);
        // A message that gets no answer is no question: its sender is not a client.
        if !copies.begin(&ask, shared, &mut out) {
            let Outcome::Reply { .. } = shared.answerer.answer(&ask, &mut out) else { return };
        }
        if !out.is_empty() && !send(&mut writer, &out, deadline_of(shared), &mut framed).await {
            return copies.break_off(source, shared);
        }
        if copies.is_empty() {
            place.activity().idle();
        }
    }
}

fn deadline_of(shared: &Shared) -> Instant {
    Instant::now() + shared.limits.tcp_idle
}

/// Writes length and message at once (RFC 7766 section 8); false when the client does not take it.
pub(super) async fn send<W: AsyncWrite + Unpin>(
    writer: &mut W,
    message: &[u8],
    deadline: Instant,
    framed: &mut Vec<u8>,
) -> bool {
    let length = u16::try_from(message.len()).expect("an answer is held to 65535 bytes");
    framed.clear();
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    let sent = timeout_at(deadline, async {
        writer.write_all(framed).await?;
        writer.flush().await
    });
    matches!(sent.await, Ok(Ok(())))
}

/// The questions of one connection, as they come.
struct Questions<S> {
    reader: ReadHalf<S>,
    /// What was read and not given out yet: at most one message, and one read more.
    read: Vec<u8>,
}

impl<S: AsyncRead> Questions<S> {
    fn new(reader: ReadHalf<S>) -> Self {
        Self { reader, read: Vec::with_capacity(READ_BUFFER) }
    }

    /// The next message, without its length. May be given up at any time: what was read is kept.
    async fn next(&mut self, question: &mut Vec<u8>) -> io::Result<()> {
        loop {
            if let Some((head, rest)) = self.read.split_first_chunk::<2>()
                && let Some(message) = rest.get(..usize::from(u16::from_be_bytes(*head)))
            {
                question.clear();
                question.extend_from_slice(message);
                self.read.drain(..2 + message.len());
                return Ok(());
            }
            // Grows with what arrives, not with what the length promises.
            self.read.reserve(READ_BUFFER);
            if self.reader.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
