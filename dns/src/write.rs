//! Writes one answer into a reused buffer: header, question, records, OPT.
//!
//! Owner names are always pointers into the question, so a record costs twelve bytes and its data.
//! When a message does not fit, all records go and TC is set (RFC 2181 section 9): a client that
//! retries over TCP gets the whole set, and nobody caches a part of one.

use std::fmt;
use std::io::Write as _;
use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use ipnet::IpNet;

use crate::dnssec::SignedSet;
use crate::edns::OptAnswer;
use crate::message::{HEADER_LEN, Query};
use crate::name::LowerName;
use crate::zone::{Apex, NEGATIVE_TTL, NS_TTL, SOA_TTL};

pub(crate) const CLASS_IN: u16 = 1;
const CLASS_CHAOS: u16 = 3;
pub(crate) const QR: u8 = 0x80;
pub(crate) const AA: u8 = 0x04;
const TC: u8 = 0x02;
pub(crate) const RD: u8 = 0x01;
pub(crate) const CD: u8 = 0x10;

/// The head of the SOA record beside a negative answer: owner and length are to be filled in.
pub(crate) const NO_DATA: [u8; 12] = {
    let [t0, t1, t2, t3] = NEGATIVE_TTL.to_be_bytes();
    [0, 0, 0, 6, 0, 1, t0, t1, t2, t3, 0, 0]
};

/// The parts of a message after the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

/// The owner of records.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Owner<'a> {
    Question,
    Apex,
    /// These labels and the apex.
    Below(&'a [u8]),
}

pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    counts: [u16; 3],
    authoritative: bool,
    /// Where the apex begins in the question's name.
    apex_at: u16,
}

/// The end of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finish<'a> {
    /// The OPT record, if the question had one (RFC 6891 section 7).
    pub(crate) opt: OptAnswer<'a>,
    /// The most bytes the message may have.
    pub(crate) limit: usize,
}

impl<'a> Writer<'a> {
    /// Begins an answer to `query`, with its question echoed as it came.
    pub(crate) fn new(out: &'a mut Vec<u8>, query: &Query<'_>, apex: &LowerName) -> Self {
        out.clear();
        out.extend_from_slice(&[0; HEADER_LEN]);
        out.extend_from_slice(query.question);
        let apex_at = HEADER_LEN + query.name.wire().len().saturating_sub(apex.wire().len());
        Self {
            out,
            counts: [0; 3],
            authoritative: false,
            apex_at: u16::try_from(apex_at).expect("a name has at most 255 bytes"),
        }
    }

    /// From here on the answer is of a child zone, whose name begins so many bytes before the apex
    /// in the question's.
    pub(crate) fn in_child(&mut self, bytes: u16) {
        self.apex_at -= bytes;
    }

    /// Appends records of the answer section alone, whose owner is the name of a question to come.
    pub(crate) fn records_only(out: &'a mut Vec<u8>) -> Self {
        Self { out, counts: [0; 3], authoritative: false, apex_at: 0 }
    }

    pub(crate) fn authoritative(&mut self) {
        self.authoritative = true;
    }

    pub(crate) fn not_authoritative(&mut self) {
        self.authoritative = false;
    }

    fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// One record whose owner is at `owner` in the message (RFC 1035 section 4.1.4).
    fn record(
        &mut self,
        section: Section,
        owner: u16,
        (kind, ttl): (RecordType, u32),
        data: impl FnOnce(&mut Self),
    ) {
        self.u16(0xc000 | owner);
        self.u16(kind.into());
        self.u16(CLASS_IN);
        self.u32(ttl);
        let at = self.out.len();
        self.u16(0);
        data(self);
        self.patch_length(at);
        self.counts[section as usize] += 1;
    }

    fn patch_length(&mut self, at: usize) {
        let length = u16::try_from(self.out.len() - at - 2).expect("record data is short");
        self.out[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }

    pub(crate) fn address(&mut self, ttl: u32, address: IpAddr) {
        self.address_of(Section::Answer, HEADER_LEN as u16, ttl, address);
    }

    /// An address beside the answer, of the owner at this place in the message.
    pub(crate) fn additional_address(&mut self, owner: u16, ttl: u32, address: IpAddr) {
        self.address_of(Section::Additional, owner, ttl, address);
    }

    /// Priority and weight say nothing: which site it is was chosen with the addresses.
    pub(crate) fn srv(&mut self, ttl: u32, port: u16, target: &[u8]) {
        self.record(Section::Answer, HEADER_LEN as u16, (RecordType::SRV, ttl), |w| {
            w.u16(0);
            w.u16(0);
            w.u16(port);
            w.out.extend_from_slice(target);
        });
    }

    /// A record of SVCB or HTTPS in service mode (RFC 9460 section 2.2), with a port or without.
    pub(crate) fn svcb(&mut self, kind: RecordType, ttl: u32, target: &[u8], port: Option<u16>) {
        self.record(Section::Answer, HEADER_LEN as u16, (kind, ttl), |w| {
            service_binding(w.out, target, port);
        });
    }

    fn address_of(&mut self, section: Section, owner: u16, ttl: u32, address: IpAddr) {
        match address {
            IpAddr::V4(a) => self.record(section, owner, (RecordType::A, ttl), |w| {
                w.out.extend_from_slice(&a.octets());
            }),
            IpAddr::V6(a) => self.record(section, owner, (RecordType::AAAA, ttl), |w| {
                w.out.extend_from_slice(&a.octets());
            }),
        }
    }

    /// A signed set, with its signature if asked for; no record gets more than this TTL.
    pub(crate) fn set(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        (set, most_ttl): (&SignedSet, u32),
        signed: bool,
    ) {
        let apex = (0xc000 | self.apex_at).to_be_bytes();
        match owner {
            Owner::Question => set.write(self.out, &[0xc0, HEADER_LEN as u8], most_ttl, signed),
            Owner::Apex | Owner::Below([]) => set.write(self.out, &apex, most_ttl, signed),
            Owner::Below(name) => {
                set.write(self.out, &[name, &apex].concat(), most_ttl, signed);
            }
        }
        self.counts[section as usize] += set.count(signed);
    }

    /// One TXT record, of the strings that `strings` writes.
    pub(crate) fn text(&mut self, ttl: u32, strings: impl FnOnce(&mut Strings<'_>)) {
        self.record(Section::Answer, HEADER_LEN as u16, (RecordType::TXT, ttl), |w| {
            strings(&mut Strings { out: w.out });
        });
    }

    fn character_string(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(255)];
        self.out.push(u8::try_from(bytes.len()).expect("cut to 255"));
        self.out.extend_from_slice(bytes);
    }

    /// A TXT record of one string in class CH, never cached (RFC 4892 section 2.1).
    pub(crate) fn chaos(&mut self, string: &str) {
        self.u16(0xc000 | HEADER_LEN as u16);
        self.u16(RecordType::TXT.into());
        self.u16(CLASS_CHAOS);
        self.u32(0);
        let at = self.out.len();
        self.u16(0);
        self.character_string(string.as_bytes());
        self.patch_length(at);
        self.counts[Section::Answer as usize] += 1;
    }

    /// The whole answer to ANY (RFC 8482 section 4.2).
    pub(crate) fn hinfo(&mut self) {
        self.record(Section::Answer, HEADER_LEN as u16, (RecordType::HINFO, NS_TTL), |w| {
            w.character_string(b"RFC8482");
            w.character_string(b"");
        });
    }

    /// The SOA record: the answer itself, or beside a negative one with the TTL of RFC 2308.
    pub(crate) fn soa(&mut self, section: Section, data: &[u8]) {
        let ttl = match section {
            Section::Answer => SOA_TTL,
            Section::Authority | Section::Additional => NEGATIVE_TTL,
        };
        let owner = self.apex_at;
        self.record(section, owner, (RecordType::SOA, ttl), |w| w.out.extend_from_slice(data));
    }

    /// The NS records of the apex, and the addresses of those inside the zone.
    pub(crate) fn name_servers(&mut self, apex: &Apex) {
        let owner = self.apex_at;
        let mut written = Vec::with_capacity(apex.ns.len());
        for name in &apex.ns {
            self.record(Section::Answer, owner, (RecordType::NS, NS_TTL), |w| {
                written.push(w.out.len());
                w.out.extend_from_slice(name);
            });
        }
        for (name, at) in apex.ns.iter().zip(written) {
            for address in apex.glue(name) {
                // Beyond the reach of a pointer the addresses are left out; they are optional.
                let Some(owner) = u16::try_from(at).ok().filter(|at| *at < 0x4000) else {
                    return;
                };
                self.address_of(Section::Additional, owner, NS_TTL, *address);
            }
        }
    }

    /// Puts OPT and header in place. True when the records had to go.
    pub(crate) fn finish(mut self, query: &Query<'_>, finish: &Finish<'_>) -> bool {
        let Finish { opt, limit } = finish;
        self.opt(query, opt);
        let truncated = self.out.len() > *limit;
        if truncated {
            self.out.truncate(HEADER_LEN + query.question.len());
            self.counts = [0; 3];
            self.opt(query, opt);
        }
        let mut flags = QR | (query.flags[0] & RD);
        if self.authoritative {
            flags |= AA;
        }
        if truncated {
            flags |= TC;
        }
        let header = &mut self.out[..HEADER_LEN];
        header[..2].copy_from_slice(&query.id.to_be_bytes());
        header[2] = flags;
        header[3] = (query.flags[1] & CD) | opt.rcode.low();
        header[5] = u8::from(!query.question.is_empty());
        for (at, count) in self.counts.iter().enumerate() {
            header[6 + 2 * at..8 + 2 * at].copy_from_slice(&count.to_be_bytes());
        }
        truncated
    }

    fn opt(&mut self, query: &Query<'_>, opt: &OptAnswer<'_>) {
        if let Some(edns) = &query.edns {
            edns.write_answer(opt, self.out);
            self.counts[Section::Additional as usize] += 1;
        }
    }
}

/// Data of an SVCB or HTTPS record in service mode (RFC 9460 section 2.2).
pub(crate) fn service_binding(out: &mut Vec<u8>, target: &[u8], port: Option<u16>) {
    /// The key of the parameter `port` (RFC 9460 section 14.3.2).
    const PORT: u16 = 3;
    out.extend_from_slice(&1u16.to_be_bytes());
    out.extend_from_slice(target);
    if let Some(port) = port {
        for number in [PORT, 2, port] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}

/// Writes an answer without records to a message that could not be read.
pub(crate) fn refusal(out: &mut Vec<u8>, head: [u8; 4], rcode: ResponseCode) {
    let [id0, id1, flags, more] = head;
    const OPCODE: u8 = 0x78;
    out.clear();
    out.extend_from_slice(&[id0, id1, QR | (flags & (OPCODE | RD))]);
    out.push((more & CD) | rcode.low());
    out.extend_from_slice(&[0; HEADER_LEN - 4]);
}

/// Cuts a finished answer down to header and question, with TC set.
pub(crate) fn slip(out: &mut Vec<u8>) {
    let mut end = HEADER_LEN;
    if out.get(4..6) == Some(&[0, 1]) {
        // The question is one this server read before it wrote it.
        while let Some(length @ 1..) = out.get(end) {
            end += 1 + usize::from(*length);
        }
        end += 1 + 4;
    }
    out.truncate(end);
    if let Some(header) = out.first_chunk_mut::<HEADER_LEN>() {
        header[2] |= TC;
        header[6..].fill(0);
    }
}

/// The data of a TXT record (RFC 1035 section 3.3.14).
pub(crate) struct Strings<'a> {
    out: &'a mut Vec<u8>,
}

impl Strings<'_> {
    /// Writes one string, cut at 255 bytes.
    pub(crate) fn string(&mut self, text: fmt::Arguments<'_>) {
        let at = self.out.len();
        self.out.push(0);
        self.out.write_fmt(text).expect("memory takes every write");
        self.out.truncate(at + 1 + 255);
        self.out[at] = u8::try_from(self.out.len() - at - 1).expect("cut to 255");
    }
}

/// A network as text, or `none`.
pub(crate) struct NetworkText(pub(crate) Option<IpNet>);

impl fmt::Display for NetworkText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(network) => network.fmt(f),
            None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Message;

    use super::*;

    #[test]
    fn a_slipped_answer_is_a_question_to_ask_over_tcp() {
        let mut out = vec![0x12, 0x34, QR | AA, 0, 0, 1, 0, 1, 0, 0, 0, 0];
        out.extend_from_slice(b"\x01a\x02no\0\0\x01\0\x01");
        out.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x1e\0\x04\xc0\0\x02\x01");
        assert_eq!(Message::from_vec(&out).expect("valid").answers.len(), 1);
        slip(&mut out);
        let message = Message::from_vec(&out).expect("still valid");
        assert!(message.metadata.truncation && message.answers.is_empty());
        assert_eq!(message.queries[0].name().to_string(), "a.no.");
        assert_eq!(out.len(), HEADER_LEN + 10);

        refusal(&mut out, [1, 2, 0x78, 0], ResponseCode::NotImp);
        slip(&mut out);
        let message = Message::from_vec(&out).expect("still valid");
        assert!(message.metadata.truncation && message.queries.is_empty());
    }
}
