//! Answers the questions that make up nearly all of the load, by copying.
//!
//! A question is taken when it has the plain form of RFC 1035 with at most one EDNS record without
//! options but the client subnet, and its name is a service's, or none at all. The answer is then
//! its header, the question, records that were prepared with the snapshot, and the EDNS record.
//! Nothing is allocated, and only the choice of a site is computed.
//!
//! Everything else is `None`, and so is whatever is odd: the full path says what is wrong with it.
//! What both answer must be equal to the byte, which `dns/tests/agreement.rs` holds.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use ipnet::IpNet;
use nett_policy::fabric::Family;

use crate::answer::{Ask, Outcome, Steered, limit};
use crate::client::{CLIENT_SUBNET, Client, read_subnet};
use crate::entry::Entry;
use crate::message::HEADER_LEN;
use crate::name::{LowerName, MAX_NAME, Relative};
use crate::packed::Records;
use crate::steer::Target;
use crate::topology::SiteIndex;
use crate::write::{AA, CD, CLASS_IN, DNSSEC_OK, NO_DATA, QR, RD, UDP_PAYLOAD};
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
    edns: Option<PlainEdns<'a>>,
}

struct PlainEdns<'a> {
    payload: u16,
    dnssec_ok: bool,
    /// The data of the client subnet option, and what it means.
    subnet: Option<&'a [u8]>,
    network: Option<IpNet>,
}

/// What is between the question and the EDNS record.
struct Body<'a> {
    rcode: ResponseCode,
    authoritative: bool,
    /// None of them means: the SOA record, unless refused.
    records: Records<'a>,
    scope: u8,
    steered: Option<Steered>,
}

/// The same as [`crate::answer::answer_in_full`], or nothing; `out` is then of no use.
pub fn answer_from_prepared(zone: &Zone, ask: &Ask<'_>, out: &mut Vec<u8>) -> Option<Outcome> {
    let plain = Plain::read(ask.packet)?;
    // Signatures and proofs are the full path's.
    if zone.signed().is_some() && plain.edns.as_ref().is_some_and(|e| e.dnssec_ok) {
        return None;
    }
    let mut lower = [0; MAX_NAME];
    let (name, cut) = below(&plain, &zone.apex().name, &mut lower)?;
    let body = match zone.find_below(name) {
        Found::Service(entry) => service(zone, entry, &plain, ask)?,
        Found::Missing => Body::without_records(ResponseCode::NXDomain),
        Found::Empty if is_usual(plain.kind) => Body::without_records(ResponseCode::NoError),
        _ => return None,
    };
    write(zone, &plain, &body, cut, limit(ask.transport, plain.payload()), out)?;
    let Body { rcode, steered, .. } = body;
    Some(Outcome::Reply { rcode, truncated: false, steered })
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
            1 => Some(PlainEdns::read(rest)?),
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

impl<'a> PlainEdns<'a> {
    /// The last record of the message: an OPT record of version 0.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (head, data) = bytes.split_first_chunk::<OPT_LEN>()?;
        let [0, 0, 41, p0, p1, _, 0, flags, _, l0, l1] = *head else {
            return None;
        };
        if usize::from(u16::from_be_bytes([l0, l1])) != data.len() {
            return None;
        }
        let mut edns = Self {
            payload: u16::from_be_bytes([p0, p1]),
            dnssec_ok: flags & 0x80 != 0,
            subnet: None,
            network: None,
        };
        if let Some((option, subnet)) = data.split_first_chunk::<4>() {
            let [code, length] = [[option[0], option[1]], [option[2], option[3]]];
            let length = usize::from(u16::from_be_bytes(length));
            if u16::from_be_bytes(code) != CLIENT_SUBNET || length != subnet.len() {
                return None;
            }
            edns.network = read_subnet(subnet).ok()?;
            edns.subnet = Some(subnet);
        } else if !data.is_empty() {
            return None;
        }
        Some(edns)
    }
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
    Some(Body { scope, steered: steered(target), ..Body::of(records) })
}

impl<'a> Body<'a> {
    fn of(records: Records<'a>) -> Self {
        Self { rcode: ResponseCode::NoError, authoritative: true, records, scope: 0, steered: None }
    }

    fn without_records(rcode: ResponseCode) -> Self {
        Self { rcode, ..Self::of(Records { count: 0, bytes: &[] }) }
    }
}

// === writing ===

/// `None` when the answer is longer than `limit`.
fn write(
    zone: &Zone,
    plain: &Plain<'_>,
    body: &Body<'_>,
    cut: usize,
    limit: usize,
    out: &mut Vec<u8>,
) -> Option<()> {
    let negative = body.authoritative && body.records.count == 0;
    let [id0, id1, flags, more, ..] = plain.header;
    let [an0, an1] = body.records.count.to_be_bytes();
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
    out.extend_from_slice(body.records.bytes);
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
        write_edns(edns, body, out);
    }
    (out.len() <= limit).then_some(())
}

fn write_edns(edns: &PlainEdns<'_>, body: &Body<'_>, out: &mut Vec<u8>) {
    let [p0, p1] = UDP_PAYLOAD.to_be_bytes();
    let [f0, f1] = if edns.dnssec_ok { DNSSEC_OK } else { 0 }.to_be_bytes();
    let data = edns.subnet.map_or(0, |option| option.len() + 4);
    let [l0, l1] = u16::try_from(data).expect("an option of 20 bytes at most").to_be_bytes();
    out.extend_from_slice(&[0, 0, 41, p0, p1, body.rcode.high(), 0, f0, f1, l0, l1]);
    if let Some(option) = edns.subnet {
        let [c0, c1] = CLIENT_SUBNET.to_be_bytes();
        let [l0, l1] = u16::try_from(option.len()).expect("20 bytes at most").to_be_bytes();
        out.extend_from_slice(&[c0, c1, l0, l1]);
        let at = out.len();
        out.extend_from_slice(option);
        // Who does not want to be located gets a scope of 0.
        out[at + 3] = if edns.network.is_some() { body.scope } else { 0 };
    }
}
