//! The agent's HTTP server: metrics, health, readiness and three questions, all read-only.
//!
//! It changes nothing and has no way to: there is no path that leads to a command. It knows no
//! user, so it listens on loopback unless the configuration says otherwise. Everything a peer can
//! use up has a bound: connections, the size of a head, the time of a conversation. One connection
//! carries one request.
//!
//! Crash story: it keeps nothing. When the controller does not answer, health and the questions say
//! so and the page of metrics comes without the controller's part.

mod pages;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::api::server::Backend;
use crate::controller::Snapshot;
use crate::telemetry::Scrape;
use pages::Pages;

/// What the server asks of the agent: the API's questions, and the controller's view in numbers.
pub trait Inside: Backend {
    /// `None` when the agent is stopping.
    fn measure(&self) -> impl Future<Output = Option<Snapshot>> + Send;
}

/// What one server may use up.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time; one more is told 503 and closed.
    pub connections: usize,
    /// Bytes of request line and headers; at least 1024. More is answered with 431.
    pub head: usize,
    /// How long a peer may take to send them.
    pub head_time: Duration,
    /// How long the controller may take; after it `/healthz` says 503.
    pub answer: Duration,
    /// How long a whole conversation may take.
    pub whole: Duration,
}

/// Why HTTP is not served. The operator's.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve HTTP on {address}: choose another `http.listen`, or `off`")]
pub struct BindError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// A bound server.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
    limits: Limits,
}

/// Headers of one request.
const HEADERS: usize = 64;
/// The least that hyper lets a read buffer hold.
const LEAST_BUFFER: usize = 8192;

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 32,
            head: 8192,
            head_time: Duration::from_secs(5),
            answer: Duration::from_secs(1),
            whole: Duration::from_secs(15),
        }
    }
}

// === impl HttpServer ===

impl HttpServer {
    /// Binds `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is not this host's, is in use, or may not be used.
    pub async fn bind(address: SocketAddr, limits: Limits) -> Result<Self, BindError> {
        let fail = |source| BindError { address, source };
        let listener = TcpListener::bind(address).await.map_err(fail)?;
        let bound = listener.local_addr().map_err(fail)?;
        if bound.ip().is_loopback() {
            tracing::info!(address = %bound, "Serving HTTP.");
        } else {
            tracing::warn!(address = %bound, "Serving HTTP to whoever reaches this address.");
        }
        Ok(Self { listener, address: bound, limits })
    }

    /// The address with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves for as long as it is polled; what is open goes with it.
    pub async fn serve<B: Inside>(self, backend: Arc<B>, scrape: Scrape) {
        let Self { listener, address: _, limits } = self;
        let permits = Arc::new(Semaphore::new(limits.connections));
        let pages = Arc::new(Pages { backend, scrape, patience: limits.answer });
        let mut connections = JoinSet::new();
        loop {
            let stream = tokio::select! {
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "HTTP cannot accept a connection.");
                        // Out of descriptors: give others the time to close some.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                turn_away(&stream);
                continue;
            };
            let (pages, limits) = (Arc::clone(&pages), limits.clone());
            connections.spawn(async move {
                converse(stream, pages, &limits).await;
                drop(permit);
            });
        }
    }
}

/// One connection, one request.
async fn converse<B: Inside>(stream: TcpStream, pages: Arc<Pages<B>>, limits: &Limits) {
    let service = service_fn(|request| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(pages.answer(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .keep_alive(false)
        .max_headers(HEADERS)
        .max_header_size(limits.head)
        .max_buf_size(limits.head.max(LEAST_BUFFER))
        .serve_connection(TokioIo::new(stream), service);
    match timeout(limits.whole, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "An HTTP connection ended early."),
        Err(_) => tracing::debug!("An HTTP connection took too long."),
    }
}

/// Says 503 without waiting for the peer.
fn turn_away(stream: &TcpStream) {
    const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 25\r\n\
        connection: close\r\n\r\ntoo many HTTP connections";
    if let Err(error) = stream.try_write(BUSY) {
        tracing::debug!(%error, "A surplus HTTP connection was closed without a word.");
    }
}
