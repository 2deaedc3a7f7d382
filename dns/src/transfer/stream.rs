//! The messages of one copy, one after the other, from one snapshot.
//!
//! Each message repeats the question, so that every owner name ends in a pointer to the apex there.
//! Services are turned into records piece by piece: a copy of a large zone never exists as a whole.

use std::collections::VecDeque;
use std::sync::Arc;

use super::access::Request;
use super::differ::{Difference, Pieces};
use super::stats::Count;
use crate::edns::UDP_PAYLOAD;
use crate::message::HEADER_LEN;
use crate::records::{Record, soa};
use crate::serial::Serial;
use crate::topology::SiteIndex;
use crate::tsig::Session;
use crate::zone::Zone;

/// Messages of a copy are no longer than compression can reach (RFC 1035 section 4.1.4).
const MESSAGE: usize = 0x3fff;
const OPT_LEN: usize = 11;

/// Messages that are still to be written.
pub(crate) struct Stream {
    zone: Arc<Zone>,
    site: Option<SiteIndex>,
    head: Head,
    session: Option<Session>,
    ready: VecDeque<Record>,
    /// The rest of the zone; none when all that is left is in `ready`.
    pieces: Option<Pieces>,
    kind: Count,
}

/// What every message repeats.
struct Head {
    id: u16,
    flags: [u8; 2],
    question: Vec<u8>,
    /// The DO bit of the question's OPT record, if it had one.
    edns: Option<bool>,
}

impl Stream {
    /// The whole zone; the answer to AXFR, and to IXFR where there is no difference to give.
    pub(super) fn whole(zone: Arc<Zone>, site: Option<SiteIndex>, request: Request) -> Self {
        let ready = VecDeque::from([soa(zone.apex(), zone.serial())]);
        let pieces = Pieces::new(&zone);
        Self::new(zone, site, request, (ready, Some(pieces)), Count::Whole)
    }

    /// The difference from `serial` (RFC 1995 section 4), the SOA record alone where there is
    /// none, or the whole zone where `serial` is not known any more.
    pub(super) fn since(
        serial: Serial,
        zone: Arc<Zone>,
        site: Option<SiteIndex>,
        request: Request,
    ) -> Self {
        let now = soa(zone.apex(), zone.serial());
        // Who is ahead of us follows another server; the SOA record tells him.
        if serial == zone.serial() || serial.is_newer_than(zone.serial()) {
            return Self::new(zone, site, request, (VecDeque::from([now]), None), Count::Unchanged);
        }
        let since = zone.history().since(serial).map(|(old, delta)| (Arc::clone(old), delta));
        let Some((old, delta)) = since else {
            return Self::whole(zone, site, request);
        };
        let difference = Difference::between(&old, &zone, &delta, site);
        // More than the zone itself would be told shorter by the zone.
        if difference.len() > zone.len().saturating_mul(2).max(1000) {
            return Self::whole(zone, site, request);
        }
        let Difference { gone, new } = difference;
        let mut ready = VecDeque::from([now.clone(), soa(old.apex(), old.serial())]);
        ready.extend(gone);
        ready.push_back(now.clone());
        ready.extend(new);
        ready.push_back(now);
        Self::new(zone, site, request, (ready, None), Count::Difference)
    }

    /// The SOA record alone: over UDP it means "ask over TCP" (RFC 1995 section 2).
    pub(super) fn soa_alone(zone: Arc<Zone>, request: Request) -> Self {
        let ready = VecDeque::from([soa(zone.apex(), zone.serial())]);
        Self::new(zone, None, request, (ready, None), Count::Unchanged)
    }

    fn new(
        zone: Arc<Zone>,
        site: Option<SiteIndex>,
        request: Request,
        (ready, pieces): (VecDeque<Record>, Option<Pieces>),
        kind: Count,
    ) -> Self {
        let Request { id, flags, question, edns, serial: _, session } = request;
        let head = Head { id, flags, question, edns };
        Self { zone, site, head, session, ready, pieces, kind }
    }

    /// What kind of copy this is.
    pub(super) fn kind(&self) -> Count {
        self.kind
    }

    /// True when everything is written.
    pub(super) fn is_done(&self) -> bool {
        self.ready.is_empty() && self.pieces.is_none()
    }

    /// Writes the next message; false when there is none. `now` is in seconds since 1970.
    pub(crate) fn next(&mut self, now: u64, out: &mut Vec<u8>) -> bool {
        self.next_within(MESSAGE, now, out)
    }

    /// Writes a message of at most `limit` bytes; it has one record at least.
    pub(super) fn next_within(&mut self, limit: usize, now: u64, out: &mut Vec<u8>) -> bool {
        if self.is_done() {
            return false;
        }
        self.head.begin(out);
        let signature = self.session.as_ref().map_or(0, Session::length);
        let opt = if self.head.edns.is_some() { OPT_LEN } else { 0 };
        let room = limit.saturating_sub(signature + opt);
        let mut count: u16 = 0;
        let mut last: Option<(Box<[u8]>, usize)> = None;
        loop {
            if self.ready.is_empty() {
                self.refill();
            }
            let Some(record) = self.ready.front() else { break };
            let length = 2 + record.owner.len() + 10 + record.data.len();
            if count > 0 && out.len() + length > room {
                break;
            }
            let record = self.ready.pop_front().expect("it was just looked at");
            write(out, &record, &mut last);
            count += 1;
        }
        out[6..8].copy_from_slice(&count.to_be_bytes());
        self.head.end(out);
        if let Some(session) = &mut self.session {
            session.sign(out, now);
        }
        true
    }

    /// Turns parts into records until there are some, and puts the last SOA record behind them.
    fn refill(&mut self) {
        while let (Some(pieces), true) = (&mut self.pieces, self.ready.is_empty()) {
            let Some(records) = pieces.next(&self.zone, self.site) else {
                self.pieces = None;
                self.ready.push_back(soa(self.zone.apex(), self.zone.serial()));
                return;
            };
            self.ready.extend(records);
        }
    }
}

/// One record; a name that was just written is a pointer to it.
fn write(out: &mut Vec<u8>, record: &Record, last: &mut Option<(Box<[u8]>, usize)>) {
    let Record { owner, kind, ttl, data } = record;
    const POINTER: u16 = 0xc000;
    let pointer = |at: usize| (POINTER | u16::try_from(at).expect("within reach")).to_be_bytes();
    match last {
        Some((name, at)) if name == owner => out.extend_from_slice(&pointer(*at)),
        _ => {
            let at = if owner.is_empty() { HEADER_LEN } else { out.len() };
            out.extend_from_slice(owner);
            out.extend_from_slice(&pointer(HEADER_LEN));
            *last = (at < MESSAGE).then(|| (owner.clone(), at));
        }
    }
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&1u16.to_be_bytes());
    out.extend_from_slice(&ttl.to_be_bytes());
    let length = u16::try_from(data.len()).expect("record data is shorter than a message");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(data);
}

impl Head {
    fn begin(&self, out: &mut Vec<u8>) {
        const QR_AA: u8 = 0x84;
        const RD: u8 = 0x01;
        const CD: u8 = 0x10;
        out.clear();
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&[QR_AA | (self.flags[0] & RD), self.flags[1] & CD]);
        out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&self.question);
    }

    /// OPT in every message whose question had one (RFC 5936 section 2.2.5).
    fn end(&self, out: &mut Vec<u8>) {
        let Some(dnssec_ok) = self.edns else { return };
        out.extend_from_slice(&[0, 0, 41]);
        out.extend_from_slice(&UDP_PAYLOAD.to_be_bytes());
        out.extend_from_slice(&[0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
        out[10..12].copy_from_slice(&1u16.to_be_bytes());
    }
}
