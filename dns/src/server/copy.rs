//! Sends copies of the zone over a TCP connection, message by message.
//!
//! Other connections of the thread get their turn after each message, and so do other questions of
//! the same one. A reader that is slow has the time of an idle connection for each message, and one
//! limit for the whole copy: it holds a snapshot in memory for no longer than that.

use std::collections::VecDeque;
use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::tcp::{Shared, send};
use crate::answer::{Ask, Outcome};
use crate::clock::unix_time;
use crate::cookie::Sender;
use crate::transfer::{Begun, Permit, Stream, begin};
use crate::write::refusal;

/// The copies under way on one connection, one after the other.
#[derive(Default)]
pub(super) struct Copies {
    queue: VecDeque<Copy>,
    out: Vec<u8>,
    framed: Vec<u8>,
}

struct Copy {
    stream: Box<Stream>,
    /// When it must be done.
    end: Instant,
    _permit: Permit,
}

impl Copies {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Begins the copy that `ask` asks for; false when it asks for none, or may not have it, and is
    /// answered as any question. What is to be said at once is in `out`.
    pub(super) fn begin(&mut self, ask: &Ask<'_>, shared: &Shared, out: &mut Vec<u8>) -> bool {
        out.clear();
        let zone = shared.answerer.zone.load_full();
        let stats = &shared.answerer.stats;
        let count = |rcode| {
            let sender = Sender::Unproven;
            let outcome = Outcome::Reply { rcode, truncated: false, steered: None, sender };
            stats.count(ask.transport, &outcome, zone.topology());
        };
        let limits = (unix_time(), shared.limits.transfers);
        match begin(&zone, ask, stats, limits) {
            Begun::Nothing => return false,
            Begun::Copy(stream, permit) => {
                let end = Instant::now() + shared.limits.transfer_time;
                self.queue.push_back(Copy { stream, end, _permit: permit });
                count(ResponseCode::NoError);
            }
            Begun::Busy => {
                let [a, b, c, d] = *ask.packet.first_chunk().unwrap_or(&[0; 4]);
                refusal(out, [a, b, c, d], ResponseCode::ServFail);
                count(ResponseCode::ServFail);
            }
        }
        true
    }

    /// Sends the next message of the first copy; false when the connection is of no more use.
    pub(super) async fn send_next<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        shared: &Shared,
    ) -> bool {
        let Some(copy) = self.queue.front_mut() else { return true };
        if !copy.stream.next(unix_time(), &mut self.out) {
            self.queue.pop_front();
            return true;
        }
        let deadline = copy.end.min(Instant::now() + shared.limits.tcp_idle);
        send(writer, &self.out, deadline, &mut self.framed).await
    }

    /// Counts what was not finished.
    pub(super) fn break_off(self, to: IpAddr, shared: &Shared) {
        for _ in self.queue {
            shared.answerer.stats.transfers.broken();
            tracing::info!(%to, "A transfer of the zone was not finished.");
        }
    }
}
