//! One netlink connection: requests with a deadline, dumps that say whether they are whole.
//!
//! Why not a ready-made connection: the usual one drops the error of a failed dump (a refused dump
//! then looks like an empty table), the flag for interrupted dumps, and undecodable messages.
//!
//! The kernel carries a request out inside `send`, so its answer is normally readable at once and
//! the reactor is only asked when it is not. Requests are never repeated here: after
//! [`Failure::Unanswered`] the outcome is unknown, the socket is replaced, and the caller reads
//! back before it tries again. A cancelled future leaves a dump half read; the next use then
//! starts with a fresh socket.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use super::attr::{Attributes, HEADER, Malformed, Message, read_text, read_u32};

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

/// The kernel fills at most 32 KiB per dump answer; acknowledgements are capped.
const RECEIVE: usize = 64 * 1024;
/// Bytes of one write of independent messages: about 1000 routes.
const PIPELINE: usize = 64 * 1024;
/// Room for a batch of 100 000 set elements (about 5 MB) in one send.
const SEND_BUFFER: usize = 64 * 1024 * 1024;
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
const DEADLINE: Duration = Duration::from_secs(1);
/// How often a dump is repeated that changed while it was read.
const DUMP_TRIES: usize = 5;

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
    socket: TokioSocket,
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
        let (socket, port) = open_socket(protocol)?;
        ports.insert(port);
        Ok(Self {
            protocol,
            socket,
            port,
            ports,
            sequence: 0,
            buffer: Vec::with_capacity(RECEIVE),
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
        let sequence = self.next_sequence();
        let mut found = None;
        let bytes = message.finish(sequence);
        self.exchange(bytes, |head, payload| match head.kind {
            _ if head.sequence != sequence => Ok(Step::More),
            NLMSG_ERROR => acknowledgement(head.flags, payload).map(|()| Step::End),
            kind => {
                found = decode(kind, payload).ok().flatten().or(found.take());
                Ok(Step::More)
            }
        })
        .await?;
        Ok(found)
    }

    /// All objects of one kind; `decode` says `None` for messages that do not matter.
    pub(crate) async fn dump<T>(
        &mut self,
        mut message: Message,
        decode: impl Fn(u16, &[u8]) -> Result<Option<T>, Malformed>,
    ) -> Result<Dump<T>, Failure> {
        message.add_flags(NLM_F_REQUEST | NLM_F_DUMP);
        let mut dump = Dump { items: Vec::new(), complete: false };
        for _ in 0..DUMP_TRIES {
            dump.items.clear();
            let (mut interrupted, mut undecodable) = (false, false);
            let sequence = self.next_sequence();
            let bytes = message.finish(sequence);
            self.exchange(bytes, |head, payload| {
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
            })
            .await?;
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
        let work = exchange(&self.socket, &mut self.buffer, bytes, &mut each);
        let result = match tokio::time::timeout(DEADLINE, work).await {
            Ok(result) => result,
            Err(_elapsed) => Err(Failure::Unanswered),
        };
        match &result {
            Ok(()) | Err(Failure::Refused { .. }) => self.busy = false,
            // Left busy: the next exchange begins with a fresh socket.
            Err(Failure::Unanswered | Failure::Socket(_)) => {}
        }
        result
    }

    /// Reads away what the kernel queued beside the answer that was taken.
    fn discard_answers(&mut self) {
        self.buffer.clear();
        while self.socket.socket_ref().recv(&mut self.buffer, 0).is_ok() {
            self.buffer.clear();
        }
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
        let (socket, port) = open_socket(self.protocol)?;
        self.ports.remove(self.port);
        self.ports.insert(port);
        self.socket = socket;
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

fn open_socket(protocol: isize) -> Result<(TokioSocket, u32), Failure> {
    let socket_error = |error: std::io::Error| Failure::Socket(errno_of(&error));
    let mut socket = TokioSocket::new(protocol).map_err(socket_error)?;
    let raw = socket.socket_mut();
    let port = raw.bind_auto().map_err(socket_error)?.port_number();
    raw.connect(&SocketAddr::new(0, 0)).map_err(socket_error)?;
    raw.set_ext_ack(true).map_err(socket_error)?;
    raw.set_cap_ack(true).map_err(socket_error)?;
    if protocol == netlink_sys::protocols::NETLINK_ROUTE {
        raw.set_netlink_get_strict_chk(true).map_err(socket_error)?;
    }
    // Without the privilege for more, the system's default sizes stay: enough for single objects.
    let _ = setsockopt(raw, sockopt::SndBufForce, &SEND_BUFFER);
    let _ = setsockopt(raw, sockopt::RcvBufForce, &RECEIVE_BUFFER);
    Ok((socket, port))
}

async fn exchange(
    socket: &TokioSocket,
    buffer: &mut Vec<u8>,
    bytes: &[u8],
    each: &mut impl FnMut(Head, &[u8]) -> Result<Step, Failure>,
) -> Result<(), Failure> {
    match socket.socket_ref().send(bytes, 0) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            socket.send(bytes).await.map_err(|e| Failure::Socket(errno_of(&e)))?;
        }
        Err(error) => return Err(Failure::Socket(errno_of(&error))),
    }
    loop {
        receive(socket, buffer).await.map_err(|error| match errno_of(&error) {
            Errno::ENOBUFS => Failure::Unanswered,
            errno => Failure::Socket(errno),
        })?;
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

/// Reads one datagram of the kernel into `buffer`.
pub(crate) async fn receive(socket: &TokioSocket, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    loop {
        buffer.clear();
        buffer.reserve(RECEIVE);
        let from = match socket.socket_ref().recv_from(buffer, 0) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => socket.recv_from(buffer).await?,
            received => received?.1,
        };
        // Port 0 is the kernel; anybody with the privilege could send from another one.
        if from.port_number() == 0 {
            return Ok(());
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
mod tests {
    use netlink_sys::protocols::NETLINK_ROUTE;

    use super::super::link;
    use super::*;

    fn inside<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(work)
    }

    #[test]
    fn a_request_without_answer_ends_at_the_deadline_and_the_next_has_a_new_socket() {
        inside(async {
            let ports = OwnPorts::default();
            let mut connection = Connection::open(NETLINK_ROUTE, ports.clone()).expect("opens");
            let port = connection.port;
            // The kernel takes bytes that are shorter than their own length without a word.
            let silent = connection.exchange(&[255; HEADER], |_, _| Ok(Step::End)).await;
            assert_eq!(silent, Err(Failure::Unanswered));
            let links = connection.dump(link::dump_links(), link::decode_link).await;
            let links = links.expect("answered");
            assert!(links.complete);
            assert!(links.items.iter().any(|l| l.name == "lo"));
            assert_ne!(connection.port, port);
            assert!(ports.contains(connection.port) && !ports.contains(port));
        });
    }

    #[test]
    fn a_refused_dump_is_an_error_and_not_an_empty_table() {
        inside(async {
            let mut connection =
                Connection::open(NETLINK_ROUTE, OwnPorts::default()).expect("opens");
            let mut bad = super::super::nexthop::dump();
            bad.put_u32(200, 1);
            let refused = connection.dump(bad, super::super::nexthop::decode).await;
            let Err(Failure::Refused { errno: Errno::EINVAL, text: Some(text) }) = refused else {
                panic!("{refused:?}");
            };
            assert!(!text.is_empty());
        });
    }

    #[test]
    fn one_undecodable_message_makes_a_dump_incomplete() {
        inside(async {
            let mut connection =
                Connection::open(NETLINK_ROUTE, OwnPorts::default()).expect("opens");
            let decode = |_: u16, _: &[u8]| Err::<Option<()>, _>(Malformed("this test"));
            let dump = connection.dump(link::dump_links(), decode).await.expect("answered");
            assert!(!dump.complete && dump.items.is_empty());
        });
    }

    #[test]
    fn a_cancelled_exchange_leaves_nothing_behind() {
        inside(async {
            let mut connection =
                Connection::open(NETLINK_ROUTE, OwnPorts::default()).expect("opens");
            {
                let silent = connection.exchange(&[255; HEADER], |_, _| Ok(Step::End));
                let mut silent = std::pin::pin!(silent);
                let first = std::future::poll_fn(|cx| {
                    std::task::Poll::Ready(silent.as_mut().poll(cx).is_pending())
                });
                assert!(first.await);
            }
            let links = connection.dump(link::dump_links(), link::decode_link).await;
            assert!(links.expect("answered").complete);
        });
    }
}
