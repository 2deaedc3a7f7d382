//! Sends copies of the zone over a TCP connection, message by message.
//!
//! Other connections of the thread get their turn after each message. A reader that is slow has
//! the time of an idle connection for each message, and one limit for the whole copy: it holds a
//! snapshot in memory for no longer than that.

use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::tcp::Shared;
use crate::answer::{Ask, Outcome};
use crate::clock::unix_time;
use crate::cookie::Sender;
use crate::transfer::{Begun, Stream, begin};
use crate::write::refusal;

/// What became of a message that may have asked for a copy.
pub(super) enum Sent {
    /// It did not, or may not have one: it is answered as any question.
    NoCopy,
    Whole,
    /// The connection is of no more use.
    Broken,
}

/// Sends the copy that `ask` asks for, if it does.
pub(super) async fn send<W: AsyncWrite + Unpin>(
    stream: &mut W,
    ask: &Ask<'_>,
    shared: &Shared,
) -> Sent {
    let zone = shared.answerer.zone.load_full();
    let stats = &shared.answerer.stats;
    let outcome =
        |rcode| Outcome::Reply { rcode, truncated: false, steered: None, sender: Sender::Unproven };
    let limits = (unix_time(), shared.limits.transfers);
    let (mut copy, permit) = match begin(&zone, ask, stats, limits) {
        Begun::Nothing => return Sent::NoCopy,
        Begun::Copy(copy, permit) => (copy, permit),
        Begun::Busy => {
            let mut out = Vec::new();
            let [a, b, c, d] = *ask.packet.first_chunk().unwrap_or(&[0; 4]);
            refusal(&mut out, [a, b, c, d], ResponseCode::ServFail);
            stats.count(ask.transport, &outcome(ResponseCode::ServFail), zone.topology());
            let deadline = Instant::now() + shared.limits.tcp_idle;
            return write(stream, &out, deadline, &mut Vec::new()).await;
        }
    };
    stats.count(ask.transport, &outcome(ResponseCode::NoError), zone.topology());
    let mut stopped = shared.stopped.clone();
    let sent = tokio::select! {
        biased;
        _ = stopped.wait_for(|stopped| *stopped) => Sent::Broken,
        sent = messages(stream, &mut copy, shared) => sent,
    };
    drop(permit);
    if let Sent::Broken = sent {
        stats.transfers.broken();
        tracing::info!(to = %ask.source, "A transfer of the zone was not finished.");
    }
    sent
}

async fn messages<W: AsyncWrite + Unpin>(
    stream: &mut W,
    copy: &mut Stream,
    shared: &Shared,
) -> Sent {
    let end = Instant::now() + shared.limits.transfer_time;
    let (mut out, mut framed) = (Vec::new(), Vec::new());
    while copy.next(unix_time(), &mut out) {
        let deadline = end.min(Instant::now() + shared.limits.tcp_idle);
        let Sent::Whole = write(stream, &out, deadline, &mut framed).await else {
            return Sent::Broken;
        };
        tokio::task::yield_now().await;
    }
    Sent::Whole
}

/// Length and message in one write (RFC 7766 section 8).
async fn write<W: AsyncWrite + Unpin>(
    stream: &mut W,
    message: &[u8],
    deadline: Instant,
    framed: &mut Vec<u8>,
) -> Sent {
    let length = u16::try_from(message.len()).expect("a message of a copy is far shorter");
    framed.clear();
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    match timeout_at(deadline, stream.write_all(framed)).await {
        Ok(Ok(())) => Sent::Whole,
        _ => Sent::Broken,
    }
}
