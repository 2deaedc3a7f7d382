//! Who may copy the zone, and the way of questions that are signed or ask for a copy.
//!
//! Nearly all questions are neither, and [`is_plain`] tells so from a few bytes. The others are
//! judged first by their signature (RFC 8945 section 5.2) and then as any question.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, RecordType};
use nett_policy::fabric;
use nett_policy::id::SiteId;
use tokio::sync::watch;

use super::stats::Count;
use super::stream::Stream;
use crate::answer::{Ask, Outcome, Transport, answer, limit};
use crate::clock::unix_time;
use crate::cookie::Sender;
use crate::message::{HEADER_LEN, Query};
use crate::name::LowerName;
use crate::serial::Serial;
use crate::stats::Stats;
use crate::topology::SiteIndex;
use crate::tsig::{Keyring, Session, Verdict};
use crate::write::{refusal, slip};
use crate::zone::Zone;

/// The secondaries of a zone and the keys they sign with. Shared by all snapshots.
#[derive(Debug)]
pub struct Transfers {
    secondaries: Vec<Secondary>,
    keys: Keyring,
    site: Option<SiteId>,
    published: watch::Sender<Option<Serial>>,
    open: Arc<AtomicUsize>,
}

/// All that is given must fit.
#[derive(Debug, Clone)]
struct Secondary {
    address: Option<SocketAddr>,
    /// In wire form.
    key: Option<Box<[u8]>>,
}

/// A question for a copy.
pub(super) struct Request {
    pub(super) id: u16,
    pub(super) flags: [u8; 2],
    pub(super) question: Vec<u8>,
    /// The DO bit of the OPT record, if there is one.
    pub(super) edns: Option<bool>,
    /// What the asker of IXFR has.
    pub(super) serial: Option<Serial>,
    pub(super) session: Option<Session>,
}

/// What a message over TCP begins.
pub(crate) enum Begun {
    /// No copy: it is answered as any question, by which a copy is refused.
    Nothing,
    /// Too many copies are under way, or the zone is not all signed yet.
    Busy,
    Copy(Box<Stream>, Permit),
}

/// A place among the copies under way, given back on drop.
pub(crate) struct Permit {
    open: Arc<AtomicUsize>,
}

// === impl Transfers ===

impl Transfers {
    /// `keys` may hold more than the zone's secondaries use. Without `serves` nobody gets a copy
    /// or is notified, because another name server does that; signed questions are answered.
    pub fn new(transfer: &fabric::Transfer, keys: Keyring, serves: bool) -> Self {
        // A name that cannot be one fits no key.
        let parse = |name: &String| {
            LowerName::parse(name).map_or_else(|_| Box::default(), |n| n.wire().into())
        };
        let secondaries = transfer
            .to
            .iter()
            .filter(|_| serves)
            .map(|s| Secondary { address: s.address, key: s.tsig.as_ref().map(parse) });
        Self {
            secondaries: secondaries.collect(),
            keys,
            site: transfer.site.clone(),
            published: watch::Sender::new(None),
            open: Arc::default(),
        }
    }

    /// Whether anybody may have a copy.
    pub(crate) fn has_secondaries(&self) -> bool {
        !self.secondaries.is_empty()
    }

    /// Who is told of changes.
    pub(super) fn notified(&self) -> Vec<SocketAddr> {
        let mut all: Vec<SocketAddr> = self.secondaries.iter().filter_map(|s| s.address).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Says that a snapshot is served. Never waits.
    pub(crate) fn publish(&self, serial: Serial) {
        self.published.send_replace(Some(serial));
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<Serial>> {
        self.published.subscribe()
    }

    fn allows(&self, source: IpAddr, key: Option<&LowerName>) -> bool {
        let source = source.to_canonical();
        let key = key.map(LowerName::wire);
        self.secondaries.iter().any(|s| {
            s.address.is_none_or(|a| a.ip().to_canonical() == source)
                && s.key.as_ref().is_none_or(|k| key == Some(&**k))
        })
    }

    /// The site whose clients the copy is made for.
    fn site(&self, zone: &Zone) -> Option<SiteIndex> {
        let named = self.site.as_ref().and_then(|site| zone.topology().index(site));
        named.or_else(|| zone.topology().nearest_to_unknown())
    }
}

/// True when a message is neither signed nor asks for a copy: then [`answer`] is all it needs.
pub(crate) fn is_plain(packet: &[u8]) -> bool {
    let Some(header) = packet.first_chunk::<HEADER_LEN>() else {
        return true;
    };
    let mut at = HEADER_LEN;
    loop {
        match packet.get(at) {
            Some(0) => break,
            Some(length @ 1..=63) => at += 1 + usize::from(*length),
            _ => return true,
        }
    }
    let kind = packet.get(at + 1..at + 3);
    if matches!(kind, Some([0, 251 | 252])) {
        return false;
    }
    match header[6..] {
        [0, 0, 0, 0, 0, 0] => true,
        // The one record is OPT.
        [0, 0, 0, 0, 0, 1] => packet.get(at + 5..at + 8) == Some(&[0, 0, 41]),
        _ => false,
    }
}

/// Looks whether a message over TCP asks for a copy that its sender may have.
pub(crate) fn begin(
    zone: &Arc<Zone>,
    ask: &Ask<'_>,
    stats: &Stats,
    (now, most): (u64, usize),
) -> Begun {
    if is_plain(ask.packet) {
        return Begun::Nothing;
    }
    let Some(transfers) = zone.transfers() else {
        return Begun::Nothing;
    };
    let Some(request) = Request::of(transfers, zone, ask, now) else {
        return Begun::Nothing;
    };
    let permit = Permit::take(&transfers.open, most).filter(|_| zone.can_be_copied());
    let Some(permit) = permit else {
        stats.transfers.count(Count::Busy);
        return Begun::Busy;
    };
    let stream = request.stream(zone, transfers);
    stats.transfers.count(stream.kind());
    Begun::Copy(Box::new(stream), permit)
}

/// All messages of the copy that a message over TCP asks for, as the server sends them one by one;
/// `None` where it begins none.
pub fn copy_messages(zone: &Arc<Zone>, ask: &Ask<'_>, stats: &Stats) -> Option<Vec<Vec<u8>>> {
    let now = unix_time();
    let Begun::Copy(mut stream, _permit) = begin(zone, ask, stats, (now, 1)) else {
        return None;
    };
    let (mut messages, mut out) = (Vec::new(), Vec::new());
    while stream.next(now, &mut out) {
        messages.push(out.clone());
    }
    Some(messages)
}

/// Answers any message, signed or not, that begins no copy over TCP.
pub fn answer_any(zone: &Arc<Zone>, ask: &Ask<'_>, stats: &Stats, out: &mut Vec<u8>) -> Outcome {
    match is_plain(ask.packet) {
        true => answer(zone, ask, out),
        false => carefully(zone, ask, stats, unix_time(), out),
    }
}

/// Answers a message that is not plain. `now` is in seconds since 1970.
fn carefully(
    zone: &Arc<Zone>,
    ask: &Ask<'_>,
    stats: &Stats,
    now: u64,
    out: &mut Vec<u8>,
) -> Outcome {
    let reply =
        |rcode| Outcome::Reply { rcode, truncated: false, steered: None, sender: Sender::Unproven };
    // Responses and bare headers get no answer, signed or not.
    if ask.packet.get(2).is_none_or(|flags| flags & 0x80 != 0) {
        return answer(zone, ask, out);
    }
    let nobody = Keyring::default();
    let keys = zone.transfers().map_or(&nobody, |t| &t.keys);
    match keys.judge(ask.packet, now) {
        Verdict::Unsigned => {
            if let Some(outcome) = copy_over_udp(zone, ask, stats, now, out) {
                return outcome;
            }
            count_refusal(ask.packet, stats);
            answer(zone, ask, out)
        }
        Verdict::Malformed => {
            let [a, b, c, d] = *ask.packet.first_chunk().unwrap_or(&[0; 4]);
            refusal(out, [a, b, c, d], ResponseCode::FormErr);
            reply(ResponseCode::FormErr)
        }
        Verdict::Failed(failure) => {
            stats.transfers.count(Count::BadKey);
            reply(failure.answer(ask.packet, now, out))
        }
        Verdict::Signed { message, mut session } => {
            if let Some(outcome) = copy_over_udp(zone, ask, stats, now, out) {
                return outcome;
            }
            count_refusal(&message, stats);
            let ask = Ask { packet: &message, ..*ask };
            let mut outcome = answer(zone, &ask, out);
            if let Outcome::Reply { truncated, .. } = &mut outcome {
                if out.len() + session.length() > room(&ask) {
                    slip(out);
                    *truncated = true;
                }
                session.sign(out, now);
            }
            outcome
        }
    }
}

/// IXFR over UDP (RFC 1995 section 2): the difference if it fits, else the SOA record alone.
fn copy_over_udp(
    zone: &Arc<Zone>,
    ask: &Ask<'_>,
    stats: &Stats,
    now: u64,
    out: &mut Vec<u8>,
) -> Option<Outcome> {
    if ask.transport != Transport::Udp {
        return None;
    }
    let transfers = zone.transfers()?;
    let request = || Request::of(transfers, zone, ask, now).filter(|r| r.serial.is_some());
    let first = request()?;
    if !zone.can_be_copied() {
        let [a, b, c, d] = *ask.packet.first_chunk().unwrap_or(&[0; 4]);
        refusal(out, [a, b, c, d], ResponseCode::ServFail);
        stats.transfers.count(Count::Busy);
        let (rcode, sender) = (ResponseCode::ServFail, Sender::Unproven);
        return Some(Outcome::Reply { rcode, truncated: false, steered: None, sender });
    }
    let mut stream = first.stream(zone, transfers);
    let limit = room(ask);
    stream.next_within(limit, now, out);
    if !stream.is_done() || out.len() > limit {
        stream = Stream::soa_alone(Arc::clone(zone), request()?);
        stream.next(now, out);
    }
    stats.transfers.count(stream.kind());
    let sender = Sender::Unproven;
    Some(Outcome::Reply { rcode: ResponseCode::NoError, truncated: false, steered: None, sender })
}

fn count_refusal(packet: &[u8], stats: &Stats) {
    let copy = |q: Query<'_>| matches!(q.kind, RecordType::AXFR | RecordType::IXFR);
    if Query::read(packet).is_ok_and(copy) {
        stats.transfers.count(Count::Refused);
    }
}

/// The most bytes the answer may have.
fn room(ask: &Ask<'_>) -> usize {
    let payload = Query::read(ask.packet).ok().and_then(|q| q.edns.map(|e| e.payload));
    limit(ask.transport, payload)
}

// === impl Request ===

impl Request {
    /// The request, if it is one and its sender may have what it asks for.
    fn of(transfers: &Transfers, zone: &Zone, ask: &Ask<'_>, now: u64) -> Option<Self> {
        let (message, session) = match transfers.keys.judge(ask.packet, now) {
            Verdict::Unsigned => (ask.packet.to_vec(), None),
            Verdict::Signed { message, session } => (message, Some(session)),
            Verdict::Malformed | Verdict::Failed(_) => return None,
        };
        let query = Query::read(&message).ok()?;
        let serial = match query.kind {
            RecordType::AXFR => None,
            RecordType::IXFR => Some(known_serial(&message, query.question.len())?),
            _ => return None,
        };
        let is_ours = query.class == DNSClass::IN
            && query.name.wire() == zone.apex().name.wire()
            && query.edns.is_none_or(|e| e.version == 0);
        let key = session.as_ref().map(Session::key);
        if !is_ours || !transfers.allows(ask.source, key) {
            return None;
        }
        Some(Self {
            id: query.id,
            flags: query.flags,
            question: query.question.to_vec(),
            edns: query.edns.map(|e| e.dnssec_ok),
            serial,
            session,
        })
    }

    fn stream(self, zone: &Arc<Zone>, transfers: &Transfers) -> Stream {
        let site = transfers.site(zone);
        let zone = Arc::clone(zone);
        match self.serial {
            None => Stream::whole(zone, site, self),
            Some(serial) => Stream::since(serial, zone, site, self),
        }
    }
}

/// The serial in the authority section of a question for IXFR (RFC 1995 section 3).
///
/// Five numbers end the data of a SOA record, so its names need not be read.
fn known_serial(message: &[u8], question: usize) -> Option<Serial> {
    const NUMBERS: usize = 20;
    let [.., n0, n1] = *message.get(8..10)? else { return None };
    if [n0, n1] != [0, 1] || message.get(6..8) != Some(&[0, 0]) {
        return None;
    }
    let mut at = HEADER_LEN + question;
    loop {
        match *message.get(at)? {
            0 => break at += 1,
            length @ 1..=63 => at += 1 + usize::from(length),
            0xc0.. => break at += 2,
            _ => return None,
        }
    }
    let ([k0, k1, _, _, _, _, _, _, l0, l1], data) = message.get(at..)?.split_first_chunk()?;
    let data = data.get(..usize::from(u16::from_be_bytes([*l0, *l1])))?;
    let numbers = data.get(data.len().checked_sub(NUMBERS)?..)?;
    let is_soa = RecordType::from(u16::from_be_bytes([*k0, *k1])) == RecordType::SOA;
    is_soa.then(|| numbers.first_chunk().map(|n| Serial(u32::from_be_bytes(*n)))).flatten()
}

// === impl Permit ===

impl Permit {
    fn take(open: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let more = |n: usize| (n < most).then_some(n + 1);
        open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self { open: Arc::clone(open) })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}
