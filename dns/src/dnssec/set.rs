//! Sets of records and their signatures (RFC 4034 sections 3 and 6).

use hickory_proto::rr::RecordType;

use super::key::ALGORITHM;
use crate::name::LowerName;
use crate::records::Record;

/// All records of one name and type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsigned {
    /// Labels below the apex in wire form, without a root label.
    pub(super) owner: Box<[u8]>,
    pub(super) kind: u16,
    /// Seconds.
    pub(super) ttl: u32,
    /// In canonical order (RFC 4034 section 6.3), each once.
    pub(super) data: Vec<Box<[u8]>>,
}

/// The same with its RRSIG record.
#[derive(Debug, Clone)]
pub(crate) struct SignedSet {
    set: Unsigned,
    /// RDATA of the RRSIG record.
    signature: Box<[u8]>,
    expires: u64,
}

impl Unsigned {
    pub(super) fn new(
        owner: &[u8],
        kind: RecordType,
        ttl: u32,
        data: impl IntoIterator<Item = Box<[u8]>>,
    ) -> Self {
        let mut data: Vec<Box<[u8]>> = data.into_iter().collect();
        data.sort();
        data.dedup();
        Self { owner: owner.into(), kind: kind.into(), ttl, data }
    }

    /// Puts records together to sets.
    pub(super) fn group(mut records: Vec<Record>) -> Vec<Self> {
        records.sort();
        let mut sets: Vec<Self> = Vec::new();
        for Record { owner, kind, ttl, data } in records {
            match sets.last_mut() {
                Some(set) if set.owner == owner && set.kind == kind => set.data.push(data),
                _ => sets.push(Self { owner, kind, ttl, data: vec![data] }),
            }
        }
        sets.iter_mut().for_each(|set| {
            set.data.sort();
            set.data.dedup();
        });
        sets
    }

    /// Whether the key of the key set signs it: what the parent zone reads, and the set itself.
    pub(super) fn is_key_set(&self) -> bool {
        let kind = RecordType::from(self.kind);
        matches!(kind, RecordType::DNSKEY | RecordType::CDS | RecordType::CDNSKEY)
    }

    /// A number that differs from set to set and not from time to time (FNV-1a).
    pub(super) fn spread(&self) -> u64 {
        let [k0, k1] = self.kind.to_be_bytes();
        let bytes = self.owner.iter().chain([&k0, &k1]);
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    pub(super) fn sign(
        self,
        zone: &LowerName,
        tag: u16,
        (begins, expires): (u64, u64),
        sign: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> SignedSet {
        // Times are on a circle of 32 bits (RFC 4034 section 3.1.5).
        let circle = |time: u64| (time & u64::from(u32::MAX)).to_be_bytes();
        let mut head = self.kind.to_be_bytes().to_vec();
        head.extend_from_slice(&[ALGORITHM, labels(&self.owner) + labels(zone.wire())]);
        head.extend_from_slice(&self.ttl.to_be_bytes());
        head.extend_from_slice(&circle(expires)[4..]);
        head.extend_from_slice(&circle(begins)[4..]);
        head.extend_from_slice(&tag.to_be_bytes());
        head.extend_from_slice(zone.wire());
        let mut covered = head.clone();
        for data in &self.data {
            covered.extend_from_slice(&self.owner);
            covered.extend_from_slice(zone.wire());
            covered.extend_from_slice(&fixed(self.kind, self.ttl));
            let length = u16::try_from(data.len()).expect("shorter than a message");
            covered.extend_from_slice(&length.to_be_bytes());
            covered.extend_from_slice(data);
        }
        head.extend_from_slice(&sign(&covered));
        SignedSet { set: self, signature: head.into(), expires }
    }
}

/// Type, class IN and TTL.
pub(super) fn fixed(kind: u16, ttl: u32) -> [u8; 8] {
    let ([k0, k1], [t0, t1, t2, t3]) = (kind.to_be_bytes(), ttl.to_be_bytes());
    [k0, k1, 0, 1, t0, t1, t2, t3]
}

fn labels(mut name: &[u8]) -> u8 {
    let mut count = 0;
    while let Some((length @ 1.., rest)) = name.split_first() {
        name = &rest[usize::from(*length)..];
        count += 1;
    }
    count
}

impl SignedSet {
    pub(super) fn set(&self) -> &Unsigned {
        &self.set
    }

    pub(crate) fn kind(&self) -> u16 {
        self.set.kind
    }

    pub(super) fn expires(&self) -> u64 {
        self.expires
    }

    /// How many records it writes.
    pub(crate) fn count(&self, signed: bool) -> u16 {
        u16::try_from(self.set.data.len()).expect("far fewer") + u16::from(signed)
    }

    /// Writes the records, and the signature if asked for, all with this owner and at most this
    /// TTL.
    pub(crate) fn write(&self, out: &mut Vec<u8>, owner: &[u8], most_ttl: u32, signed: bool) {
        let ttl = self.set.ttl.min(most_ttl);
        let records = self.set.data.iter().map(|data| (self.set.kind, data));
        let signature = signed.then_some((u16::from(RecordType::RRSIG), &self.signature));
        for (kind, data) in records.chain(signature) {
            out.extend_from_slice(owner);
            out.extend_from_slice(&fixed(kind, ttl));
            let length = u16::try_from(data.len()).expect("shorter than a message");
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(data);
        }
    }

    /// The records and the signature as a secondary copies them.
    pub(super) fn records(&self, into: &mut Vec<Record>) {
        let Unsigned { owner, kind, ttl, data } = &self.set;
        let record = |kind: u16, data: &[u8]| Record {
            owner: owner.clone(),
            kind,
            ttl: *ttl,
            data: data.into(),
        };
        into.extend(data.iter().map(|d| record(*kind, d)));
        into.push(record(RecordType::RRSIG.into(), &self.signature));
    }
}
