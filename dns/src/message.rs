//! Reads one question from untrusted bytes, without allocating and without trusting a count.
//!
//! Every record read consumes bytes of the packet, so counts in the header cannot make this run
//! longer than the packet is. Anything odd is answered with the response code the RFCs name, or
//! not at all where an answer could start a loop between two servers.

use crate::edns::Edns;
use crate::name::LowerName;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, RecordType};

pub(crate) const HEADER_LEN: usize = 12;

/// A well-formed question (opcode QUERY, one question), or a request for a cookie without one.
pub(crate) struct Query<'a> {
    pub(crate) id: u16,
    /// Bytes 2 and 3 of the header.
    pub(crate) flags: [u8; 2],
    /// The question section as it came; empty when there is none.
    pub(crate) question: &'a [u8],
    pub(crate) name: LowerName,
    pub(crate) kind: RecordType,
    pub(crate) class: DNSClass,
    pub(crate) edns: Option<Edns<'a>>,
}

/// Why bytes are not a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Shorter than a header: there is no id to answer to.
    Short,
    /// A response: answering it could go on for ever.
    Response,
    /// To be answered with this code and without a question.
    Rejected { head: [u8; 4], rcode: ResponseCode },
}

/// A message with a mistake behind its header.
pub(crate) struct Malformed;

impl<'a> Query<'a> {
    pub(crate) fn read(packet: &'a [u8]) -> Result<Self, Unreadable> {
        let Some((header, body)) = packet.split_first_chunk::<HEADER_LEN>() else {
            return Err(Unreadable::Short);
        };
        let [id0, id1, f0, f1, counts @ ..] = *header;
        let [qd0, qd1, an0, an1, ns0, ns1, ar0, ar1] = counts;
        if f0 & 0x80 != 0 {
            return Err(Unreadable::Response);
        }
        let rejected = |rcode| Unreadable::Rejected { head: [id0, id1, f0, f1], rcode };
        if f0 & 0x78 != 0 {
            return Err(rejected(ResponseCode::NotImp));
        }
        let counts = [[an0, an1], [ns0, ns1], [ar0, ar1]].map(u16::from_be_bytes);
        let read = match [qd0, qd1] {
            [0, 0] => Ok(Self::without_question()),
            [0, 1] => Self::question(body),
            _ => Err(Malformed),
        };
        let mut query = read.map_err(|_| rejected(ResponseCode::FormErr))?;
        query.id = u16::from_be_bytes([id0, id1]);
        query.flags = [f0, f1];
        let rest = &body[query.question.len()..];
        query.edns = edns(rest, counts).map_err(|_| rejected(ResponseCode::FormErr))?;
        // Nothing is asked but a cookie (RFC 7873 section 5.4).
        if query.question.is_empty() && query.edns.is_none_or(|e| e.cookie.is_none()) {
            return Err(rejected(ResponseCode::FormErr));
        }
        Ok(query)
    }

    fn without_question() -> Self {
        Self {
            id: 0,
            flags: [0; 2],
            question: &[],
            name: LowerName::root(),
            kind: RecordType::ZERO,
            class: DNSClass::IN,
            edns: None,
        }
    }

    /// Reads the question at the start of `body`.
    fn question(body: &'a [u8]) -> Result<Self, Malformed> {
        let (name, used) = LowerName::read(body).map_err(|_| Malformed)?;
        let [k0, k1, c0, c1] = *body[used..].first_chunk().ok_or(Malformed)?;
        Ok(Self {
            id: 0,
            flags: [0; 2],
            question: &body[..used + 4],
            name,
            kind: u16::from_be_bytes([k0, k1]).into(),
            class: u16::from_be_bytes([c0, c1]).into(),
            edns: None,
        })
    }
}

/// Walks all records to the exact end of the message and returns its OPT record.
fn edns(mut rest: &[u8], counts: [u16; 3]) -> Result<Option<Edns<'_>>, Malformed> {
    let [answers, authorities, additionals] = counts;
    let before = u32::from(answers) + u32::from(authorities);
    let mut found = None;
    for at in 0..before + u32::from(additionals) {
        let record = Record::read(&mut rest)?;
        if record.kind != RecordType::OPT {
            continue;
        }
        // RFC 6891 section 6.1.1: one OPT, in the additional section, owned by the root.
        if at < before || found.is_some() || !record.owner_is_root {
            return Err(Malformed);
        }
        found = Some(Edns::read(record.class, record.ttl, record.data)?);
    }
    if !rest.is_empty() {
        return Err(Malformed);
    }
    Ok(found)
}

/// The least TTL among the answers of a message that this server wrote, in seconds; where there is
/// none, of the record beside them that says so (RFC 2308). `None` without any record.
pub(crate) fn least_ttl(message: &[u8]) -> Option<u32> {
    let (header, mut rest) = message.split_first_chunk::<HEADER_LEN>()?;
    let [_, _, _, _, _, questions, an0, an1, ns0, ns1, _, _] = *header;
    if questions > 0 {
        let name = name_length(rest).ok()?;
        rest = rest.get(name + 4..)?;
    }
    let [answers, authorities] = [[an0, an1], [ns0, ns1]].map(u16::from_be_bytes);
    let count = if answers > 0 { answers } else { authorities };
    let ttls = (0..count).map_while(|_| Record::read(&mut rest).ok());
    ttls.map(|record| u32::from_be_bytes(record.ttl)).min()
}

struct Record<'a> {
    owner_is_root: bool,
    kind: RecordType,
    class: u16,
    ttl: [u8; 4],
    data: &'a [u8],
}

impl<'a> Record<'a> {
    fn read(rest: &mut &'a [u8]) -> Result<Self, Malformed> {
        let owner = name_length(rest)?;
        let owner_is_root = rest[0] == 0;
        // The second byte of a pointer may be missing.
        let body = rest.get(owner..).ok_or(Malformed)?;
        let ([k0, k1, c0, c1, t0, t1, t2, t3, l0, l1], tail) =
            body.split_first_chunk().ok_or(Malformed)?;
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        let (data, tail) = tail.split_at_checked(length).ok_or(Malformed)?;
        *rest = tail;
        Ok(Self {
            owner_is_root,
            kind: u16::from_be_bytes([*k0, *k1]).into(),
            class: u16::from_be_bytes([*c0, *c1]),
            ttl: [*t0, *t1, *t2, *t3],
            data,
        })
    }
}

/// How many bytes the name at the start of `bytes` takes. A pointer ends it and is not followed:
/// nobody reads names behind the question.
fn name_length(bytes: &[u8]) -> Result<usize, Malformed> {
    let mut at = 0;
    loop {
        match *bytes.get(at).ok_or(Malformed)? {
            0 => return Ok(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            0xc0.. => return Ok(at + 2),
            _ => return Err(Malformed),
        }
        if at > 254 {
            return Err(Malformed);
        }
    }
}
