//! One UDP socket, one thread: receive, answer, send.
//!
//! Blocking calls cost less per question than a runtime does, and the thread has nothing else to
//! do. Buffers are made once.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::answer::{Ask, DropReason, Outcome, Transport};
use crate::write::slip;

use super::Answerer;
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
    let mut rate = (equal_per_second > 0).then(|| Rate::new(equal_per_second, Instant::now()));
    let mut question = [0; LONGEST_QUESTION];
    let mut out = Vec::with_capacity(usize::from(u16::MAX));
    loop {
        let received = socket.recv_from(&mut question);
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (length, from) = match received {
            Ok(received) => received,
            Err(error) => {
                use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
                if !matches!(error.kind(), Interrupted | TimedOut | WouldBlock) {
                    answerer.stats.receive_error();
                    std::thread::sleep(PAUSE);
                }
                continue;
            }
        };
        if from.port() == 0 {
            answerer.stats.count_drop(DropReason::PortZero);
            continue;
        }
        let ask = Ask { packet: &question[..length], source: from.ip(), transport: Transport::Udp };
        let Outcome::Reply { rcode, .. } = answerer.answer(&ask, &mut out) else {
            continue;
        };
        if let Some(rate) = &mut rate {
            match rate.judge(from.ip(), rcode, &out, Instant::now()) {
                Verdict::Send => {}
                Verdict::Slip => {
                    answerer.stats.slip();
                    slip(&mut out);
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
    }
}
