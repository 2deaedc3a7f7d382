//! Answers the questions that make up nearly all of the load, by copying.
//!
//! A question is taken when it has the plain form of RFC 1035 with at most one EDNS record of
//! version 0, and its name is a service's, or none at all. The answer is then its header, the
//! question, records that were prepared with the snapshot, and the EDNS record. Nothing is
//! allocated, and only the choice of a site is computed. With the DO bit in a signed zone, the
//! records are a signed set of addresses.
//!
//! Everything else is `None`, and so is whatever is odd: the full path says what is wrong with it.
//! What both answer must be equal to the byte, which `dns/tests/agreement.rs` holds.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use ipnet::IpNet;
use nett_policy::fabric::Family;

use crate::answer::{
    Ask, OptBody, Outcome, Steered, is_cookie_due, judge_cookie, limit, opt_answer,
};
use crate::client::Client;
use crate::dnssec::{SignedSet, is_in_child, signed_addresses};
use crate::edns::{Edns, ExtendedError, OptAnswer};
use crate::entry::Entry;
use crate::message::HEADER_LEN;
use crate::name::{LowerName, MAX_NAME, Relative};
use crate::packed::Records;
use crate::steer::Target;
use crate::topology::SiteIndex;
use crate::write::{AA, CD, CLASS_IN, NO_DATA, QR, RD};
use crate::zone::{Found, Zone};

/// An OPT record without options.
const OPT_LEN: usize = 11;
/// An SOA record without its data.
const SOA_HEAD_LEN: usize = 12;

/// A question of the plain form.
struct Plain<'a> {
    header: [u8; HEADER_LEN],
    /// The question section as it came.
    question: &'a [u8],
    kind: RecordType,
    edns: Option<Edns<'a>>,
}

/// What is between the question and the EDNS record.
struct Body<'a> {
    rcode: ResponseCode,
    authoritative: bool,
    /// None of them means: the SOA record, unless refused.
    answer: Answer<'a>,
    scope: u8,
    steered: Option<Steered>,
}

/// The answer section.
enum Answer<'a> {
    Prepared(Records<'a>),
    Signed(&'a SignedSet),
}

/// The same as [`crate::answer::answer_in_full`], or nothing; `out` is then of no use.
pub fn answer_from_prepared(zone: &Zone, ask: &Ask<'_>, out: &mut Vec<u8>) -> Option<Outcome> {
    let plain = Plain::read(ask.packet)?;
    let mut lower = [0; MAX_NAME];
    let (name, cut) = below(&plain, &zone.apex().name, &mut lower)?;
    let judged = judge_cookie(plain.edns.as_ref(), ask);
    let sender = judged.map(|j| j.sender).unwrap_or_default();
    if is_cookie_due(sender, ask) {
        return None;
    }
    // Of what is signed only addresses; proofs are the full path's.
    let signed = zone.signed().filter(|_| plain.edns.as_ref().is_some_and(|e| e.dnssec_ok));
    let body = match signed {
        // The signed side has all it needs: the other one is not looked at.
        Some(signed) => {
            let client = Client::new(ask.source, plain.network());
            let (set, told) = signed_addresses(zone, signed, (name, plain.kind), &client)?;
            Body { scope: told.scope, steered: told.steered, ..Body::of(Answer::Signed(set)) }
        }
        None => match zone.find_below(name) {
            Found::Service(entry) => service(zone, entry, &plain, ask)?,
            // What denies the names below `reflect` is another zone's in a signed one.
            Found::Missing if zone.signed().is_some() && is_in_child(name) => return None,
            Found::Missing => Body::without_records(ResponseCode::NXDomain),
            Found::Empty if is_usual(plain.kind) => Body::without_records(ResponseCode::NoError),
            _ => return None,
        },
    };
    let Body { rcode, scope, steered, .. } = body;
    // The only refusal of a name in the zone.
    let error = (rcode == ResponseCode::Refused).then_some(ExtendedError::ALL_DOWN);
    let told = OptBody { rcode, scope, is_steered: steered.is_some(), error };
    let opt = opt_answer(ask, &told, judged.as_ref());
    write(zone, &plain, (&body, cut), &opt, limit(ask.transport, plain.payload()), out)?;
    Some(Outcome::Reply { rcode, truncated: false, steered, sender })
}

/// Types that a service does not have and that mean nothing special. Neither list needs to be
/// complete: what is in neither is answered in full.
fn is_ordinary(kind: RecordType) -> bool {
    use RecordType::{CAA, CNAME, MX, NAPTR, PTR, SRV};
    matches!(kind, CAA | CNAME | MX | NAPTR | PTR | SRV)
}

/// Types that mean the records of a name and nothing else.
fn is_usual(kind: RecordType) -> bool {
    matches!(kind, RecordType::A | RecordType::AAAA | RecordType::TXT) || is_ordinary(kind)
}

// === reading ===

impl<'a> Plain<'a> {
    fn read(packet: &'a [u8]) -> Option<Self> {
        let (header, rest) = packet.split_first_chunk::<HEADER_LEN>()?;
        // A query of opcode 0 with one question, no records but one additional one at most.
        let [_, _, flags, _, 0, 1, 0, 0, 0, 0, 0, additional @ 0..=1] = *header else {
            return None;
        };
        if flags & 0xf8 != 0 {
            return None;
        }
        let name = name_length(rest)?;
        let (question, rest) = rest.split_at_checked(name + 4)?;
        let [k0, k1, c0, c1] = *question.last_chunk()?;
        if u16::from_be_bytes([c0, c1]) != CLASS_IN {
            return None;
        }
        let edns = match additional {
            0 if rest.is_empty() => None,
            1 => Some(read_edns(rest)?),
            _ => return None,
        };
        let kind = u16::from_be_bytes([k0, k1]).into();
        // Of the questions that are not for records of a name.
        if matches!(kind, RecordType::OPT | RecordType::AXFR | RecordType::IXFR | RecordType::ANY) {
            return None;
        }
        Some(Self { header: *header, question, kind, edns })
    }

    fn payload(&self) -> Option<u16> {
        self.edns.as_ref().map(|e| e.payload)
    }

    fn network(&self) -> Option<IpNet> {
        self.edns.as_ref().and_then(|e| e.network)
    }
}

/// The length of a name of plain labels, with its root label.
fn name_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match usize::from(*bytes.get(at)?) {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + length,
            _ => return None,
        }
        if at >= MAX_NAME {
            return None;
        }
    }
}

/// The last record of the message: an OPT record of version 0.
fn read_edns(bytes: &[u8]) -> Option<Edns<'_>> {
    let (head, data) = bytes.split_first_chunk::<OPT_LEN>()?;
    let [0, 0, 41, p0, p1, ttl @ .., l0, l1] = *head else {
        return None;
    };
    if ttl[1] != 0 || usize::from(u16::from_be_bytes([l0, l1])) != data.len() {
        return None;
    }
    Edns::read(u16::from_be_bytes([p0, p1]), ttl, data).ok()
}

/// The labels below the apex in lower case, and where the apex begins in the name.
fn below<'l>(
    plain: &Plain<'_>,
    apex: &LowerName,
    lower: &'l mut [u8; MAX_NAME],
) -> Option<(Relative<'l>, usize)> {
    let name = &plain.question[..plain.question.len() - 4];
    let cut = name.len().checked_sub(apex.wire().len())?;
    let lower = &mut lower[..name.len()];
    // The lengths of labels are below 64 and so no letters.
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    if lower[cut..] != *apex.wire() {
        return None;
    }
    let (mut at, mut labels) = (0, 0);
    while at < cut {
        at += 1 + usize::from(lower[at]);
        labels += 1;
    }
    // Otherwise the bytes of the apex are inside a longer label.
    (at == cut).then(|| (Relative::of_labels(&lower[..cut], labels), cut))
}

// === choosing ===

fn service<'z>(
    zone: &'z Zone,
    entry: Entry<'z>,
    plain: &Plain<'_>,
    ask: &Ask<'_>,
) -> Option<Body<'z>> {
    let family = match plain.kind {
        RecordType::A => Family::V4,
        RecordType::AAAA => Family::V6,
        kind if is_ordinary(kind) => return Some(Body::without_records(ResponseCode::NoError)),
        _ => return None,
    };
    if zone.is_over(entry.fixed()) {
        return None;
    }
    let topology = zone.topology();
    let client = Client::new(ask.source, plain.network());
    let (target, scope, site) = match entry.only() {
        // The client is only counted.
        Some(position) => (Target::Site(position), 0, topology.site_of(&client)),
        None => {
            let located = topology.locate(&client);
            let choice = entry.plan().choose(topology, &client, &located);
            (choice.target, choice.scope, located.found.map(|(site, _)| site))
        }
    };
    let steered = |target: Option<SiteIndex>| Some(Steered { client: site, target });
    let column = match target {
        Target::Site(position) => position,
        Target::Address(_) => entry.fallback(),
        Target::Refused => {
            let body = Body::without_records(ResponseCode::Refused);
            return Some(Body { authoritative: false, scope, steered: steered(None), ..body });
        }
    };
    let (target, records) = entry.addresses(column, family)?;
    Some(Body { scope, steered: steered(target), ..Body::of(Answer::Prepared(records)) })
}

impl<'a> Body<'a> {
    fn of(answer: Answer<'a>) -> Self {
        Self { rcode: ResponseCode::NoError, authoritative: true, answer, scope: 0, steered: None }
    }

    fn without_records(rcode: ResponseCode) -> Self {
        Self { rcode, ..Self::of(Answer::Prepared(Records { count: 0, bytes: &[] })) }
    }
}

impl Answer<'_> {
    fn count(&self) -> u16 {
        match self {
            Self::Prepared(records) => records.count,
            Self::Signed(set) => set.count(true),
        }
    }

    fn append(&self, out: &mut Vec<u8>) {
        const QUESTION: [u8; 2] = [0xc0, HEADER_LEN as u8];
        match self {
            Self::Prepared(records) => out.extend_from_slice(records.bytes),
            Self::Signed(set) => set.write(out, &QUESTION, u32::MAX, true),
        }
    }
}

// === writing ===

/// `None` when the answer is longer than `limit`.
fn write(
    zone: &Zone,
    plain: &Plain<'_>,
    (body, cut): (&Body<'_>, usize),
    opt: &OptAnswer<'_>,
    limit: usize,
    out: &mut Vec<u8>,
) -> Option<()> {
    let count = body.answer.count();
    let negative = body.authoritative && count == 0;
    let [id0, id1, flags, more, ..] = plain.header;
    let [an0, an1] = count.to_be_bytes();
    let authoritative = if body.authoritative { AA } else { 0 };
    let (ns, additional) = (u8::from(negative), u8::from(plain.edns.is_some()));
    out.clear();
    out.extend_from_slice(&[
        id0,
        id1,
        QR | authoritative | (flags & RD),
        (more & CD) | body.rcode.low(),
        0,
        1,
        an0,
        an1,
        0,
        ns,
        0,
        additional,
    ]);
    out.extend_from_slice(plain.question);
    body.answer.append(out);
    if negative {
        let owner = 0xc000 | u16::try_from(HEADER_LEN + cut).expect("a name has 255 bytes at most");
        let data = zone.soa();
        let mut head = NO_DATA;
        head[..2].copy_from_slice(&owner.to_be_bytes());
        let length = u16::try_from(data.len()).expect("two names and five numbers");
        head[SOA_HEAD_LEN - 2..].copy_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&head);
        out.extend_from_slice(data);
    }
    if let Some(edns) = &plain.edns {
        edns.write_answer(opt, out);
    }
    (out.len() <= limit).then_some(())
}
