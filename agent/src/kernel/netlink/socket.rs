//! One netlink connection: requests with a deadline, dumps that say whether they are whole.
//!
//! Why not a ready-made connection: the usual one drops the error of a failed dump (a refused dump
//! then looks like an empty table), the flag for interrupted dumps, and undecodable messages.
//!
//! The kernel carries a request out inside `send`. Its answer may get lost all the same, or not
//! come: then the socket is replaced. A question ([`Connection::get`], [`Connection::dump`])
//! changes nothing, and is asked again a few times. A write is never repeated here: after
//! [`Failure::Unanswered`] its outcome is unknown, and the caller reads back before it tries again.
//! A cancelled future leaves a dump half read; the next use then starts with a fresh socket.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::errno::Errno;

use super::attr::{Attributes, HEADER, Malformed, Message, read_text, read_u32};
use super::wire::{KernelWires, Wire, Wires};

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
const NLM_F_DUMP: u16 = 0x300;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Bytes of one write of independent messages: about 1000 routes.
const PIPELINE: usize = 64 * 1024;
const DEADLINE: Duration = Duration::from_secs(1);
/// How often a dump is repeated that changed while it was read.
const DUMP_TRIES: usize = 5;
/// How often a question is asked in all when its answers get lost.
pub(crate) const ASKED: u32 = 3;

/// Netlink port ids of Nett's own command sockets, by which the monitor tells own changes.
#[derive(Debug, Clone, Default)]
pub struct OwnPorts(Arc<Mutex<BTreeSet<u32>>>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The kernel said no; `text` is its extended acknowledgement.
    #[error("{errno}{}", text.as_ref().map(|t| format!(" ({t})")).unwrap_or_default())]
    Refused { errno: Errno, text: Option<String> },
    /// No answer within the deadline, or the answer was lost: the outcome is unknown.
    #[error("no answer from the kernel")]
    Unanswered,
    #[error("netlink socket: {0}")]
    Socket(Errno),
}

/// What a dump gave. Incomplete when it changed under every try or held an undecodable message.
#[derive(Debug)]
pub(crate) struct Dump<T> {
    pub(crate) items: Vec<T>,
    pub(crate) complete: bool,
}

pub(crate) struct Connection {
    protocol: isize,
    wires: Arc<dyn Wires>,
    wire: Box<dyn Wire>,
    port: u32,
    ports: OwnPorts,
    sequence: u32,
    buffer: Vec<u8>,
    round_trips: u64,
    /// True from send to the last answer; still true on entry means a cancelled exchange.
    busy: bool,
}

/// The fixed part of one message of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) port: u32,
}

enum Step {
    More,
    End,
}

// === impl Connection ===

impl Connection {
    /// Opens a command socket in the network namespace of the calling thread.
    pub(crate) fn open(protocol: isize, ports: OwnPorts) -> Result<Self, Failure> {
        Self::over(Arc::new(KernelWires), protocol, ports)
    }

    /// As [`Self::open`], over sockets of another make.
    pub(crate) fn over(
        wires: Arc<dyn Wires>,
        protocol: isize,
        ports: OwnPorts,
    ) -> Result<Self, Failure> {
        let (wire, port) = wires.open(protocol).map_err(|e| Failure::Socket(errno_of(&e)))?;
        ports.insert(port);
        Ok(Self {
            protocol,
            wires,
            wire,
            port,
            ports,
            sequence: 0,
            buffer: Vec::new(),
            round_trips: 0,
            busy: false,
        })
    }

    /// Sends one message and waits for its acknowledgement: one round trip.
    pub(crate) async fn request(&mut self, mut message: Message) -> Result<(), Failure> {
        message.add_flags(NLM_F_REQUEST | NLM_F_ACK);
        let sequence = self.next_sequence();
        let bytes = message.finish(sequence);
        self.exchange(bytes, |head, payload| match head.kind {
            NLMSG_ERROR if head.sequence == sequence => {
                acknowledgement(head.flags, payload).map(|()| Step::End)
            }
            _ => Ok(Step::More),
        })
        .await
    }

    /// Sends one message and returns the one object the kernel answers with.
    pub(crate) async fn get<T>(
        &mut self,
        mut message: Message,
        decode: impl Fn(u16, &[u8]) -> Result<Option<T>, Malformed>,
    ) -> Result<Option<T>, Failure> {
        message.add_flags(NLM_F_REQUEST | NLM_F_ACK);
        let mut lost = 0;
        loop {
            let sequence = self.next_sequence();
            let mut found = None;
            let bytes = message.finish(sequence);
            let answered = self.exchange(bytes, |head, payload| match head.kind {
                _ if head.sequence != sequence => Ok(Step::More),
                NLMSG_ERROR => acknowledgement(head.flags, payload).map(|()| Step::End),
                kind => {
                    found = decode(kind, payload).ok().flatten().or(found.take());
                    Ok(Step::More)
                }
            });
            match answered.await {
                Ok(()) => return Ok(found),
                Err(failure) => ask_again(&mut lost, failure)?,
            }
        }
    }

    /// All objects of one kind; `decode` says `None` for messages that do not matter.
    pub(crate) async fn dump<T>(
        &mut self,
        mut message: Message,
        decode: impl Fn(u16, &[u8]) -> Result<Option<T>, Malformed>,
    ) -> Result<Dump<T>, Failure> {
        message.add_flags(NLM_F_REQUEST | NLM_F_DUMP);
        let mut dump = Dump { items: Vec::new(), complete: false };
        let (mut lost, mut tries) = (0, 0);
        while tries < DUMP_TRIES {
            dump.items.clear();
            let (mut interrupted, mut undecodable) = (false, false);
            let sequence = self.next_sequence();
            let bytes = message.finish(sequence);
            let answered = self.exchange(bytes, |head, payload| {
                if head.sequence != sequence {
                    return Ok(Step::More);
                }
                interrupted |= head.flags & NLM_F_DUMP_INTR != 0;
                match head.kind {
                    NLMSG_DONE => done(head.flags, payload).map(|()| Step::End),
                    NLMSG_ERROR => acknowledgement(head.flags, payload).map(|()| Step::End),
                    kind => {
                        match decode(kind, payload) {
                            Ok(item) => dump.items.extend(item),
                            Err(_) => undecodable = true,
                        }
                        Ok(Step::More)
                    }
                }
            });
            if let Err(failure) = answered.await {
                ask_again(&mut lost, failure)?;
                continue;
            }
            tries += 1;
            if !interrupted {
                dump.complete = !undecodable;
                break;
            }
        }
        Ok(dump)
    }

    /// Sends the messages of one nf_tables transaction. Only the last one is acknowledged, so
    /// success is one answer; a refused one is answered by the error of each bad message.
    pub(crate) async fn transaction(&mut self, messages: &mut [Message]) -> Result<(), Failure> {
        let mut bytes = Vec::with_capacity(messages.iter().map(Message::len).sum());
        let first = self.sequence.wrapping_add(1);
        let last = messages.len() - 1;
        // The last message is the end of the batch, which has no acknowledgement of its own.
        let acknowledged = last - 1;
        let mut awaited = first;
        for (nth, message) in messages.iter_mut().enumerate() {
            let ack = if nth == acknowledged { NLM_F_ACK } else { 0 };
            message.add_flags(NLM_F_REQUEST | ack);
            let sequence = self.next_sequence();
            if nth == acknowledged {
                awaited = sequence;
            }
            bytes.extend_from_slice(message.finish(sequence));
        }
        let ours = awaited.wrapping_sub(first);
        let result = self
            .exchange(&bytes, |head, payload| match head.kind {
                NLMSG_ERROR if head.sequence.wrapping_sub(first) <= ours.wrapping_add(1) => {
                    acknowledgement(head.flags, payload)?;
                    Ok(if head.sequence == awaited { Step::End } else { Step::More })
                }
                _ => Ok(Step::More),
            })
            .await;
        if matches!(result, Err(Failure::Refused { .. })) {
            self.discard_answers();
        }
        result
    }

    /// Sends independent messages in few writes; only the last of each write is acknowledged, a
    /// refused one always answers. Gives one result per message, in order.
    pub(crate) async fn pipeline(&mut self, messages: Vec<Message>) -> Vec<Result<(), Failure>> {
        let mut results: Vec<Result<(), Failure>> = Vec::with_capacity(messages.len());
        let mut messages = messages.into_iter().peekable();
        while messages.peek().is_some() {
            let mut bytes = Vec::with_capacity(PIPELINE);
            let first = self.sequence.wrapping_add(1);
            let mut last = first;
            while let Some(mut message) = messages.next() {
                let ends = bytes.len() + message.len() >= PIPELINE || messages.peek().is_none();
                message.add_flags(NLM_F_REQUEST | if ends { NLM_F_ACK } else { 0 });
                last = self.next_sequence();
                bytes.extend_from_slice(message.finish(last));
                results.push(Ok(()));
                if ends {
                    break;
                }
            }
            let count = last.wrapping_sub(first) as usize + 1;
            let start = results.len() - count;
            let chunk = &mut results[start..];
            let answered = self.exchange(&bytes, |head, payload| {
                let at = head.sequence.wrapping_sub(first) as usize;
                if head.kind != NLMSG_ERROR || at >= count {
                    return Ok(Step::More);
                }
                chunk[at] = acknowledgement(head.flags, payload);
                Ok(if head.sequence == last { Step::End } else { Step::More })
            });
            if let Err(failure) = answered.await {
                chunk.fill(Err(failure.clone()));
                results.extend(messages.map(|_| Err(failure.clone())));
                return results;
            }
        }
        results
    }

    async fn exchange(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Head, &[u8]) -> Result<Step, Failure>,
    ) -> Result<(), Failure> {
        if self.busy {
            self.reopen()?;
        }
        self.busy = true;
        self.round_trips += 1;
        let work = exchange(&mut *self.wire, &mut self.buffer, bytes, &mut each);
        let result = match tokio::time::timeout(DEADLINE, work).await {
            Ok(result) => result,
            Err(_elapsed) => Err(Failure::Unanswered),
        };
        match &result {
            Ok(()) | Err(Failure::Refused { .. }) => self.busy = false,
            // Left busy: the next exchange begins with a fresh socket.
            Err(error @ (Failure::Unanswered | Failure::Socket(_))) => {
                let protocol = self.protocol;
                tracing::warn!(%error, protocol, "The connection to the kernel is replaced.");
            }
        }
        result
    }

    /// Reads away what the kernel queued beside the answer that was taken.
    fn discard_answers(&mut self) {
        let mut now = Context::from_waker(Waker::noop());
        while let Poll::Ready(Ok(())) = self.wire.poll_receive(&mut now, &mut self.buffer) {}
    }

    /// How often something was sent and answered.
    pub(crate) fn round_trips(&self) -> u64 {
        self.round_trips
    }

    /// The socket's port: another one is another socket.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    fn reopen(&mut self) -> Result<(), Failure> {
        let opened = self.wires.open(self.protocol);
        let (wire, port) = opened.map_err(|e| Failure::Socket(errno_of(&e)))?;
        self.ports.remove(self.port);
        self.ports.insert(port);
        self.wire = wire;
        self.port = port;
        self.busy = false;
        Ok(())
    }

    /// Wraps around: only the answers of the exchange under way are looked at.
    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.ports.remove(self.port);
    }
}

/// An answer that is lost is asked for again, so often.
fn ask_again(lost: &mut u32, failure: Failure) -> Result<(), Failure> {
    *lost += 1;
    match failure {
        Failure::Refused { .. } | Failure::Socket(Errno::EPERM | Errno::EACCES) => Err(failure),
        Failure::Unanswered | Failure::Socket(_) if *lost == ASKED => Err(failure),
        Failure::Unanswered | Failure::Socket(_) => Ok(()),
    }
}

async fn exchange(
    wire: &mut dyn Wire,
    buffer: &mut Vec<u8>,
    bytes: &[u8],
    each: &mut impl FnMut(Head, &[u8]) -> Result<Step, Failure>,
) -> Result<(), Failure> {
    let sent = poll_fn(|cx| wire.poll_send(cx, bytes)).await;
    sent.map_err(|error| Failure::Socket(errno_of(&error)))?;
    loop {
        // Whatever is wrong with the socket now, what was sent has been carried out.
        let received = poll_fn(|cx| wire.poll_receive(cx, buffer)).await;
        received.map_err(|_| Failure::Unanswered)?;
        for message in messages(buffer) {
            let (head, payload) = message.map_err(|_| Failure::Unanswered)?;
            if head.kind == NLMSG_OVERRUN {
                return Err(Failure::Unanswered);
            }
            if matches!(each(head, payload)?, Step::End) {
                return Ok(());
            }
        }
    }
}

/// The messages in one datagram.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Result<(Head, &[u8]), Malformed>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let all = std::mem::take(&mut bytes);
        let Some(header) = all.first_chunk::<HEADER>() else {
            return Some(Err(Malformed("a netlink header")));
        };
        let word = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let length = word(0) as usize;
        let Some(payload) = all.get(HEADER..length) else {
            return Some(Err(Malformed("a netlink message")));
        };
        bytes = all.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        let head = Head {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: word(8),
            port: word(12),
        };
        Some(Ok((head, payload)))
    })
}

/// `struct nlmsgerr`: code, the header of the request, then attributes (linux/netlink.h).
fn acknowledgement(flags: u16, payload: &[u8]) -> Result<(), Failure> {
    let code = read_u32(payload).map_err(|_| Failure::Unanswered)?.cast_signed();
    if code == 0 {
        return Ok(());
    }
    let request = payload.get(4..8).map_or(0, |b| read_u32(b).unwrap_or(0)) as usize;
    let echoed = if flags & NLM_F_CAPPED != 0 { HEADER } else { request };
    let text = (flags & NLM_F_ACK_TLVS != 0).then(|| extended(payload, 4 + echoed)).flatten();
    Err(Failure::Refused { errno: Errno::from_raw(code.wrapping_neg()), text })
}

/// The end of a dump carries its error: a refused dump must not look like an empty table.
fn done(flags: u16, payload: &[u8]) -> Result<(), Failure> {
    let code = read_u32(payload).unwrap_or(0).cast_signed();
    if code >= 0 {
        return Ok(());
    }
    let text = (flags & NLM_F_ACK_TLVS != 0).then(|| extended(payload, 4)).flatten();
    Err(Failure::Refused { errno: Errno::from_raw(code.wrapping_neg()), text })
}

fn extended(payload: &[u8], at: usize) -> Option<String> {
    let attributes = Attributes::after(payload, at).ok()?;
    let text = attributes.filter_map(Result::ok).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?;
    Some(read_text(text.1))
}

pub(crate) fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

// === impl OwnPorts ===

impl OwnPorts {
    pub(crate) fn contains(&self, port: u32) -> bool {
        self.lock().contains(&port)
    }

    fn insert(&self, port: u32) {
        self.lock().insert(port);
    }

    fn remove(&self, port: u32) {
        self.lock().remove(&port);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        self.0.lock().expect("no code panics while it holds the set of ports")
    }
}

#[cfg(test)]
mod tests;
