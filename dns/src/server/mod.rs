//! Sockets and threads of the name server.
//!
//! Threads and what they own:
//!
//! ```text
//! nett-dns-udp-N   one per listen address and configured thread: a blocking loop on its own
//!                  SO_REUSEPORT socket; receives, answers, sends; shares nothing but the zone
//! nett-dns-tcp     one: a current-thread runtime with all listeners and all connections
//! nett-dns-tls     one, where TLS is served: the same for its listeners and connections, so that
//!                  handshakes take time from each other alone
//! nett-dns-notify  one, where there are secondaries: tells them of new snapshots
//! ```
//!
//! They are the server's own operating-system threads, so a flood of questions takes time from
//! other questions and not from the agent. No loop here ends by an error of a peer or of the
//! kernel, and none runs without waiting: an error is counted and followed by a pause.
//!
//! Wildcard addresses are refused. The answer to a question must leave from the address the
//! question came to, and a wildcard socket lets the routing table choose another.
//!
//! After a crash there is nothing to recover: sockets are bound anew, the zone is given anew.

mod bind;
mod copy;
mod https;
mod intake;
mod places;
mod rate;
mod receive;
mod sieve;
mod tcp;
mod tls;
mod udp;

pub use tls::{Certificate, CertificateError};

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tcp::Door;
use tls::Inside;
use tokio::sync::watch;

use crate::answer::{Ask, DropReason, Outcome, Transport, demand_cookie};
use crate::profile::Profile;
use crate::stats::Stats;
use crate::transfer::{self, Notifier};
use crate::zone::Zone;

/// What the server may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// UDP sockets and threads per listen address, 1 to 64.
    pub udp_threads: usize,
    /// Equal answers a second over UDP to one IPv4 /24 or IPv6 /56, counted by each thread for
    /// itself; 0 is no limit. The host's own loopback addresses have none.
    pub equal_answers_per_second: u32,
    /// Open TCP connections in all.
    pub tcp_connections: usize,
    /// Open TCP connections of one source: an IPv4 address, or an IPv6 /64.
    pub tcp_per_source: usize,
    /// From the end of one message to the end of the next; a client that sends a byte at a time
    /// gets no longer than that, and one that does not read its answers neither.
    pub tcp_idle: Duration,
    /// Copies of the zone that are sent at the same time.
    pub transfers: usize,
    /// The longest time that sending one copy may take.
    pub transfer_time: Duration,
    /// How long open connections may finish the answer they are writing when the server stops.
    pub stop_grace: Duration,
}

/// Why the server did not start: the operator must change `dns.listen` or free the address.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("the name server has no address to listen on: set dns.listen")]
    NoAddress,
    #[error(
        "cannot listen on {0}: answers must leave from the address that was asked; \
         list each address in dns.listen"
    )]
    Wildcard(SocketAddr),
    #[error("cannot listen on {address}/{transport}: {source}")]
    Bind { address: SocketAddr, transport: &'static str, source: io::Error },
    #[error("cannot start a thread of the name server: {0}")]
    Thread(#[source] io::Error),
}

/// What a name server is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    /// UDP and TCP are served on every one; port 0 takes a free port, the same for both. Addresses
    /// need not be up yet.
    pub listen: Vec<SocketAddr>,
    pub encrypted: Option<Encrypted>,
    pub zone: Arc<ArcSwap<Zone>>,
    pub limits: Limits,
    pub profile: Arc<Profile>,
    pub stats: Arc<Stats>,
}

/// Where DNS is served inside TLS. Connections have the limits of TCP, counted for themselves.
#[derive(Debug, Clone)]
pub struct Encrypted {
    /// DNS over TLS (RFC 7858).
    pub tls: Vec<SocketAddr>,
    /// DNS over HTTP/2 (RFC 8484), at `/dns-query`.
    pub https: Vec<SocketAddr>,
    pub certificate: Certificate,
}

/// Starts name servers.
#[derive(Debug)]
pub struct Server;

/// A running name server; dropping it stops it and waits for its threads.
#[derive(Debug)]
pub struct ServerHandle {
    addresses: Vec<SocketAddr>,
    tls: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
    stop: Arc<AtomicBool>,
    udp: Vec<socket2::Socket>,
    tcp: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
    _notifier: Option<Notifier>,
}

/// What every thread needs to answer.
#[derive(Clone)]
struct Answerer {
    zone: Arc<ArcSwap<Zone>>,
    profile: Arc<Profile>,
    stats: Arc<Stats>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            udp_threads: 1,
            equal_answers_per_second: 200,
            tcp_connections: 512,
            tcp_per_source: 16,
            tcp_idle: Duration::from_secs(5),
            transfers: 4,
            transfer_time: Duration::from_secs(600),
            stop_grace: Duration::from_secs(1),
        }
    }
}

// === impl Server ===

impl Server {
    /// Binds every address and answers from the zone until the handle is dropped.
    pub fn start(setup: Setup) -> Result<ServerHandle, ServerError> {
        let Setup { listen, encrypted, zone, limits, profile, stats } = setup;
        if listen.is_empty() {
            return Err(ServerError::NoAddress);
        }
        let others = encrypted.iter().flat_map(|e| e.tls.iter().chain(&e.https));
        if let Some(wildcard) = listen.iter().chain(others).find(|a| a.ip().is_unspecified()) {
            return Err(ServerError::Wildcard(*wildcard));
        }
        let sockets = listen
            .iter()
            .map(|address| bind::Bound::new(*address, limits.udp_threads.clamp(1, 64)))
            .collect::<Result<Vec<_>, _>>()?;
        let (tcp, stopped) = watch::channel(false);
        let mut handle = ServerHandle {
            addresses: sockets.iter().map(|s| s.address).collect(),
            tls: Vec::new(),
            https: Vec::new(),
            stop: Arc::new(AtomicBool::new(false)),
            udp: Vec::new(),
            tcp,
            threads: Vec::new(),
            _notifier: None,
        };
        // Everything is bound before anything is served.
        let inside = encrypted.map(|encrypted| handle.open(&encrypted)).transpose()?;
        handle.notify(&zone.load(), &stats)?;
        let answerer = Answerer { zone, profile, stats };
        let mut listeners = Vec::new();
        for bound in sockets {
            listeners.push((bound.tcp, Door::Plain));
            for socket in bound.udp {
                let rate = limits.equal_answers_per_second;
                handle.start_udp(socket, answerer.clone(), rate)?;
            }
        }
        let shared = (answerer.clone(), limits.clone(), stopped.clone());
        let tcp = tcp::Tcp::new(listeners, shared)?;
        handle.spawn("nett-dns-tcp".to_owned(), move || tcp.run())?;
        if let Some(listeners) = inside {
            let tls = tcp::Tcp::new(listeners, (answerer, limits, stopped))?;
            handle.spawn("nett-dns-tls".to_owned(), move || tls.run())?;
        }
        Ok(handle)
    }
}

// === impl ServerHandle ===

impl ServerHandle {
    /// The addresses served over UDP and TCP, in the order given, with the ports really bound.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The addresses of DNS over TLS.
    pub fn tls_addresses(&self) -> &[SocketAddr] {
        &self.tls
    }

    /// The addresses of DNS over HTTPS.
    pub fn https_addresses(&self) -> &[SocketAddr] {
        &self.https
    }

    /// Binds the listeners of what is inside TLS.
    fn open(
        &mut self,
        encrypted: &Encrypted,
    ) -> Result<Vec<(std::net::TcpListener, Door)>, ServerError> {
        let Encrypted { tls, https, certificate } = encrypted;
        let mut listeners = Vec::new();
        for (wanted, inside, bound) in
            [(tls, Inside::Dns, &mut self.tls), (https, Inside::Http, &mut self.https)]
        {
            for address in wanted {
                let listener = bind::listener(*address)?;
                bound.push(listener.local_addr().map_err(ServerError::Thread)?);
                listeners.push((listener, Door::Tls(inside, certificate.acceptor(inside))));
            }
        }
        Ok(listeners)
    }

    /// Stops the server: no new question is taken, answers under way are finished.
    pub fn stop(self) {
        drop(self);
    }

    /// Tells the secondaries of new snapshots, where there are any.
    fn notify(&mut self, zone: &Zone, stats: &Arc<Stats>) -> Result<(), ServerError> {
        if let Some(transfers) = zone.transfers().filter(|t| t.has_secondaries()) {
            let notifier = Notifier::start(zone, transfers, &self.addresses, stats);
            self._notifier = Some(notifier.map_err(ServerError::Thread)?);
        }
        Ok(())
    }

    fn start_udp(
        &mut self,
        socket: socket2::Socket,
        with: Answerer,
        equal_per_second: u32,
    ) -> Result<(), ServerError> {
        let waker = socket.try_clone().map_err(ServerError::Thread)?;
        self.udp.push(waker);
        let stop = Arc::clone(&self.stop);
        let name = format!("nett-dns-udp-{}", self.udp.len());
        self.spawn(name, move || {
            udp::run(&socket.into(), &with, equal_per_second, &stop);
        })
    }

    fn spawn(
        &mut self,
        name: String,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), ServerError> {
        let thread = std::thread::Builder::new().name(name).spawn(body);
        self.threads.push(thread.map_err(ServerError::Thread)?);
        Ok(())
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for socket in &self.udp {
            // Fails with ENOTCONN on an unconnected socket, and wakes its reader all the same.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
        self.tcp.send_replace(true);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("A thread of the name server panicked.");
            }
        }
    }
}

// === impl Answerer ===

impl Answerer {
    /// One message, as it came in now.
    fn ask<'a>(&'a self, packet: &'a [u8], source: IpAddr, transport: Transport) -> Ask<'a> {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since_1970.unwrap_or_default().as_secs() & u64::from(u32::MAX);
        let now = u32::try_from(seconds).expect("cut to 32 bits");
        Ask { packet, source, transport, now, profile: &self.profile }
    }

    /// Answers one message from one snapshot. A panic is a bug, costs this one answer, and is
    /// counted; the threads go on.
    fn answer(&self, ask: &Ask<'_>, out: &mut Vec<u8>) -> Outcome {
        let zone = self.zone.load();
        let attempt =
            std::panic::AssertUnwindSafe(|| transfer::answer_any(&zone, ask, &self.stats, out));
        let outcome =
            std::panic::catch_unwind(attempt).unwrap_or(Outcome::Dropped(DropReason::Panic));
        self.stats.count(ask.transport, &outcome, zone.topology());
        outcome
    }

    /// Puts a demand for a cookie in the place of an answer that was just given.
    fn demand_cookie(&self, ask: &Ask<'_>, out: &mut Vec<u8>) {
        demand_cookie(&self.zone.load(), ask, out);
    }
}

/// Whom a connection is counted for: an IPv4 address, or an IPv6 /64, which one host can fill.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(a) => IpAddr::V4(a),
        IpAddr::V6(a) => IpAddr::V6((a.to_bits() & (u128::MAX << 64)).into()),
    }
}
