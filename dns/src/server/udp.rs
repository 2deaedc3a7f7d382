//! One UDP socket, one thread: receive, answer, send.
//!
//! Blocking calls cost less per question than a runtime does, and the thread has nothing else to
//! do. Buffers are made once.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::answer::{DropReason, Outcome, Transport};
use crate::client::Client;
use crate::cookie::Sender;
use crate::write::slip;

use super::Answerer;
use super::intake::Intake;
use super::rate::{Rate, Verdict};
use super::receive::{LONGEST_QUESTION, Received, Receiver};
use super::sieve;

/// The pause after an error of the socket, so that a lasting one does not take the processor.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) fn run(
    socket: &UdpSocket,
    answerer: &Answerer,
    equal_per_second: u32,
    stop: &AtomicBool,
) {
    let start = Instant::now();
    let mut rate = (equal_per_second > 0).then(|| Rate::new(equal_per_second, start));
    let mut intake = Intake::new(start);
    let mut receiver = Receiver::new(socket);
    let mut question = [0; LONGEST_QUESTION];
    let mut out = Vec::with_capacity(usize::from(u16::MAX));
    // When the question came whose answer was sent last.
    let mut answered: Option<Instant> = None;
    loop {
        let waits_since = Instant::now();
        if let Some(came) = answered.take() {
            answerer.stats.answered_in(waits_since.saturating_duration_since(came));
        }
        let received = receiver.receive(&mut question, intake.wants_look());
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let Received { length, from, queue } = match received {
            Ok(received) => received,
            Err(error) => {
                use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
                let now = Instant::now();
                intake.nothing_came(now);
                filter(socket, &mut intake, answerer, now);
                if !matches!(error.kind(), Interrupted | TimedOut | WouldBlock) {
                    answerer.stats.receive_error();
                    std::thread::sleep(PAUSE);
                }
                continue;
            }
        };
        let now = Instant::now();
        intake.waited(now.saturating_duration_since(waits_since), queue, now);
        filter(socket, &mut intake, answerer, now);
        if !intake.admits(from.ip(), now) {
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
        let limited = rate.as_mut().filter(|_| sender != Sender::Proven);
        let verdict = limited.map(|rate| rate.judge(from.ip(), rcode, &out, now));
        match verdict.unwrap_or(Verdict::Send) {
            Verdict::Send => {}
            Verdict::Slip => {
                withheld(answerer, from.ip(), now);
                answerer.stats.slip();
                match sender {
                    Sender::Asking => answerer.demand_cookie(&ask, &mut out),
                    Sender::Unproven | Sender::Proven => slip(&mut out),
                }
            }
            Verdict::Drop => {
                withheld(answerer, from.ip(), now);
                answerer.stats.count_drop(DropReason::Rate);
                continue;
            }
        }
        // A full queue, a filter or a route that is gone: the client asks again.
        if socket.send_to(&out, from).is_err() {
            answerer.stats.count_drop(DropReason::Send);
        }
        answered = Some(now);
    }
}

/// Lets the kernel pass over what is not to be answered, where that has changed, and counts what
/// it did.
fn filter(socket: &UdpSocket, intake: &mut Intake, answerer: &Answerer, now: Instant) {
    let uncounted = intake.take_uncounted();
    if uncounted > 0 {
        answerer.stats.count_drops(DropReason::Rush, uncounted.into());
    }
    let Some(holes) = intake.wanted_filter(now) else { return };
    match holes.attach(socket, intake.secret()) {
        Ok(()) => intake.filtered(holes, now),
        Err(error) if holes.share() < sieve::ALL => {
            if intake.without_filter(now) {
                tracing::warn!(%error, "A name server socket takes no filter: floods cost more.");
            }
        }
        // Tried again in the next window.
        Err(_) => {}
    }
}

fn withheld(answerer: &Answerer, from: IpAddr, now: Instant) {
    answerer.stats.limit(Client::new(from, None).block(), now);
}
