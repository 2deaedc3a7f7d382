//! One UDP socket, one thread: receive, answer, send.
//!
//! Blocking calls cost less per question than a runtime does, and the thread has nothing else to
//! do. Buffers are made once.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{SockaddrStorage, recvfrom};

use crate::answer::{DropReason, Outcome, Transport};
use crate::client::Client;
use crate::cookie::Sender;
use crate::write::slip;

use super::Answerer;
use super::intake::Intake;
use super::rate::{Rate, Verdict};

/// Longer questions are cut off by the kernel and then refused as malformed.
const LONGEST_QUESTION: usize = 4096;
/// The pause after an error of the socket, so that a lasting one does not take the processor.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) fn run(
    socket: &UdpSocket,
    answerer: &Answerer,
    equal_per_second: u32,
    stop: &AtomicBool,
) {
    // When the thread began to wait for the question, when it came, and when it was done with.
    let mut waits_since = Instant::now();
    let mut rate = (equal_per_second > 0).then(|| Rate::new(equal_per_second, waits_since));
    let mut intake = Intake::new(waits_since);
    let mut question = [0; LONGEST_QUESTION];
    let mut out = Vec::with_capacity(usize::from(u16::MAX));
    loop {
        let received = receive(socket, &mut question);
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (length, from) = match received {
            Ok(received) => received,
            Err(error) => {
                use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
                if !matches!(error.kind(), Interrupted | TimedOut | WouldBlock) {
                    answerer.stats.receive_error();
                    std::thread::sleep(PAUSE);
                }
                continue;
            }
        };
        let now = Instant::now();
        let waited = now.saturating_duration_since(waits_since);
        waits_since = now;
        if !intake.admits(from.ip(), waited, now) {
            answerer.stats.count_drop(DropReason::Rush);
            continue;
        }
        if from.port() == 0 {
            answerer.stats.count_drop(DropReason::PortZero);
            continue;
        }
        let ask = answerer.ask(&question[..length], from.ip(), Transport::Udp);
        let Outcome::Reply { rcode, sender, .. } = answerer.answer(&ask, &mut out) else {
            continue;
        };
        if sender == Sender::Proven {
            intake.vouch(from.ip(), now);
        }
        // An address that is proven is nobody else's, so its flood is none at a victim.
        if let Some(rate) = rate.as_mut().filter(|_| sender != Sender::Proven) {
            let verdict = rate.judge(from.ip(), rcode, &out, now);
            if verdict != Verdict::Send {
                answerer.stats.limit(Client::new(from.ip(), None).block(), now);
            }
            match verdict {
                Verdict::Send => {}
                Verdict::Slip => {
                    answerer.stats.slip();
                    match sender {
                        Sender::Asking => answerer.demand_cookie(&ask, &mut out),
                        Sender::Unproven | Sender::Proven => slip(&mut out),
                    }
                }
                Verdict::Drop => {
                    answerer.stats.count_drop(DropReason::Rate);
                    continue;
                }
            }
        }
        // A full queue, a filter or a route that is gone: the client asks again.
        if socket.send_to(&out, from).is_err() {
            answerer.stats.count_drop(DropReason::Send);
        }
        waits_since = Instant::now();
        answerer.stats.answered_in(waits_since.saturating_duration_since(now));
    }
}

/// Receives one datagram.
///
/// The standard library's `recv_from` panics when the kernel tells no sender, which is what it does
/// when the socket was shut down to wake its reader.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    let (length, sender) = recvfrom::<SockaddrStorage>(socket.as_raw_fd(), buffer)?;
    let address = sender.and_then(|sender| {
        let four = sender.as_sockaddr_in().map(|a| SocketAddr::V4((*a).into()));
        four.or_else(|| sender.as_sockaddr_in6().map(|a| SocketAddr::V6((*a).into())))
    });
    Ok((length, address.ok_or(io::ErrorKind::NotConnected)?))
}
