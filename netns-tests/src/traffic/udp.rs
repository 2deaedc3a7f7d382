//! The UDP prober: so many packets a second to one address, each accounted for.
//!
//! Sockets are connected and ask for ICMP errors (`IP_RECVERR`, ip(7)), which quote the packet
//! they answer, so that an error is booked on the packet it belongs to. One thread sends on a
//! schedule (late packets are sent at once, none is skipped), one receives.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::cmsg_space;
use nix::libc::{sock_extended_err, sockaddr_in6};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};

use super::packet;
use super::report::{Answered, IcmpError, Report, Sent};
use crate::eventually::eventually_true;
use crate::netns::Netns;
use crate::observe::drops;

/// Where to, how often, and as how many flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub address: SocketAddr,
    pub per_second: u32,
    /// Sockets used in turn; each is one flow for a router that spreads by ports.
    pub flows: usize,
}

/// A probe at work. Dropping it ends its threads.
#[derive(Debug)]
pub struct Running {
    target: Target,
    shared: Arc<Shared>,
    sender: Option<JoinHandle<()>>,
    receiver: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    report: Mutex<Report>,
    stop_sending: AtomicBool,
    stop_receiving: AtomicBool,
}

// === impl Target ===

impl Target {
    /// One flow to the lab's service port.
    pub fn new(address: IpAddr, per_second: u32) -> Self {
        Self { address: SocketAddr::new(address, crate::services::PORT), per_second, flows: 1 }
    }

    pub fn with_flows(mut self, flows: usize) -> Self {
        self.flows = flows;
        self
    }
}

// === impl Running ===

impl Running {
    /// Opens the sockets inside `ns` and begins to send.
    pub fn start(ns: &Netns, target: Target) -> Result<Self> {
        let sockets = ns.run(|| (0..target.flows).map(|_| open(target.address)).collect())?;
        let sockets: Arc<Vec<UdpSocket>> = Arc::new(sockets);
        let shared = Arc::new(Shared::default());
        let sender = std::thread::spawn({
            let (shared, sockets) = (Arc::clone(&shared), Arc::clone(&sockets));
            move || send_all(&shared, &sockets, target.per_second)
        });
        let receiver = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || receive_all(&shared, &sockets)
        });
        Ok(Self { target, shared, sender: Some(sender), receiver: Some(receiver) })
    }

    pub fn target(&self) -> Target {
        self.target
    }

    /// The record so far; the newest packets may still be on their way.
    pub fn report(&self) -> Report {
        self.shared.report().clone()
    }

    /// How many packets were sent so far.
    pub fn sent(&self) -> usize {
        self.shared.report().sent()
    }

    /// Stops sending, waits up to half a second for the answers on their way, and tells all.
    pub fn finish(mut self) -> Report {
        self.shared.stop_sending.store(true, Ordering::Relaxed);
        join(self.sender.take());
        // Answers that do not come are counted as lost; that is what the wait is for.
        let _ = eventually_true(Duration::from_millis(500), "all answers are in", || {
            let report = self.shared.report();
            Ok(report.lost() <= report.errors().count())
        });
        self.shared.stop_receiving.store(true, Ordering::Relaxed);
        join(self.receiver.take());
        let mut report = self.report();
        if self.target.address.is_ipv6() {
            let silent = |sent: &&mut Sent| sent.answer.is_none() && sent.error.is_none();
            let mut lost: Vec<&mut Sent> = report.packets.iter_mut().filter(silent).collect();
            let times: Vec<u64> = lost.iter().map(|sent| sent.at).collect();
            for (sent, discarded) in lost.iter_mut().zip(drops::claim(&times)) {
                sent.discarded = discarded;
            }
        }
        report
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop_sending.store(true, Ordering::Relaxed);
        self.shared.stop_receiving.store(true, Ordering::Relaxed);
        join(self.sender.take());
        join(self.receiver.take());
    }
}

fn join(thread: Option<JoinHandle<()>>) {
    if let Some(Err(panic)) = thread.map(JoinHandle::join)
        && !std::thread::panicking()
    {
        std::panic::resume_unwind(panic);
    }
}

// === impl Shared ===

impl Shared {
    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().expect("no holder of the lock panics")
    }

    fn answered(&self, bytes: &[u8]) {
        let Some(answer) = packet::parse_answer(bytes) else {
            return;
        };
        let mut report = self.report();
        let server = report.server(answer.server);
        if let Some(sent) = slot(&mut report, answer.number) {
            if sent.answer.is_some() {
                sent.duplicates += 1;
            } else {
                sent.answer =
                    Some(Answered { served_at: answer.served_at, got_at: super::now(), server });
            }
        }
    }

    fn failed(&self, number: u64, error: IcmpError) {
        if let Some(sent) = slot(&mut self.report(), number) {
            sent.error.get_or_insert(error);
        }
    }
}

fn slot(report: &mut Report, number: u64) -> Option<&mut Sent> {
    report.packets.get_mut(usize::try_from(number).ok()?)
}

fn open(to: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).context("cannot open a probe socket")?;
    match to {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true),
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true),
    }
    .context("cannot ask for ICMP errors")?;
    super::keep_bursts(&socket)?;
    socket.connect(to).with_context(|| format!("no route to {to}"))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn send_all(shared: &Shared, sockets: &[UdpSocket], per_second: u32) {
    let begun = Instant::now();
    let gap = Duration::from_secs(1) / per_second.max(1);
    for (number, socket) in (0u64..).zip(sockets.iter().cycle()) {
        let due = gap.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        if shared.stop_sending.load(Ordering::Relaxed) {
            return;
        }
        let sent = Sent { at: super::now(), ..Sent::default() };
        shared.report().packets.push(sent);
        send_one(shared, socket, number);
    }
}

/// A pending ICMP error of an *earlier* packet makes one `send` fail without sending, so a failure
/// is tried again; the third one in a row is this host's own and booked on this packet.
fn send_one(shared: &Shared, socket: &UdpSocket, number: u64) {
    let question = packet::question(number);
    let failures = (0..3).map(|_| socket.send(&question).err());
    let mut errors = Vec::new();
    for failure in failures {
        match failure {
            None => return,
            Some(error) => errors.push(error),
        }
    }
    let errno = errors.iter().find_map(std::io::Error::raw_os_error);
    let error = IcmpError { at: super::now(), errno: errno.unwrap_or_default(), from: None };
    shared.failed(number, error);
}

fn receive_all(shared: &Shared, sockets: &[UdpSocket]) {
    let wait = PollTimeout::from(20u8);
    while !shared.stop_receiving.load(Ordering::Relaxed) {
        let mut waiting: Vec<PollFd<'_>> =
            sockets.iter().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)).collect();
        // An interrupted wait is a short wait.
        let _ = poll(&mut waiting, wait);
        for (socket, state) in sockets.iter().zip(&waiting) {
            let events = state.revents().unwrap_or(PollFlags::empty());
            if events.contains(PollFlags::POLLERR) {
                drain_errors(shared, socket);
            }
            if !events.is_empty() {
                drain_answers(shared, socket);
            }
        }
    }
}

fn drain_answers(shared: &Shared, socket: &UdpSocket) {
    let mut buffer = [0; packet::MAX];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => shared.answered(&buffer[..length]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return,
            // A pending error is told once; the packet it belongs to is in the error queue.
            Err(_) => drain_errors(shared, socket),
        }
    }
}

fn drain_errors(shared: &Shared, socket: &UdpSocket) {
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let mut buffer = [0; packet::MAX];
    loop {
        let mut control = cmsg_space!(sock_extended_err, sockaddr_in6);
        let mut parts = [std::io::IoSliceMut::new(&mut buffer)];
        let fd = socket.as_raw_fd();
        let received = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), flags);
        let Ok(message) = received else {
            return;
        };
        let (length, error) = (message.bytes, icmp_error(&message));
        if let (Some(number), Some(error)) = (packet::number(&buffer[..length]), error) {
            shared.failed(number, error);
        }
    }
}

fn icmp_error(message: &nix::sys::socket::RecvMsg<'_, '_, SockaddrStorage>) -> Option<IcmpError> {
    let at = super::now();
    message.cmsgs().ok()?.find_map(|control| {
        let (error, from): (_, Option<IpAddr>) = match control {
            ControlMessageOwned::Ipv4RecvErr(error, from) => {
                let from = from.map(|a| Ipv4Addr::from(u32::from_be(a.sin_addr.s_addr)).into());
                (error, from)
            }
            ControlMessageOwned::Ipv6RecvErr(error, from) => {
                (error, from.map(|a| Ipv6Addr::from(a.sin6_addr.s6_addr).into()))
            }
            _ => return None,
        };
        let errno = i32::try_from(error.ee_errno).ok()?;
        Some(IcmpError { at, errno, from })
    })
}
