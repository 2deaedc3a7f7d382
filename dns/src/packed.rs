//! What a question about a service touches, as one run of bytes.
//!
//! ```text
//! key length (1), key                          the labels below the apex
//! columns (1)                                  0: nothing is prepared
//! per column: site (2), and for A and for AAAA where the records begin (2) and their bytes (2)
//! records                                      each column's, unless one before it has the same
//! ```
//!
//! Columns are the service's sites in order, then the fallback address. The bytes are written once,
//! by the very code that answers a question in full, and a move leaves them as they are: which
//! column is answered stands beside the place of the bytes. Owner names are pointers to the
//! question, so the records fit any spelling of the name.

use hickory_proto::rr::RecordType;
use nett_policy::fabric::Family;

use nett_policy::service::{AllDown, FixedAnswers};

use crate::answer::write_addresses;
use crate::topology::{SiteIndex, Topology};
use crate::write::Writer;

const HEAD: usize = 1;
const COLUMN: usize = 10;
/// The mark of a column whose site the fabric does not know, or that is no site.
const NO_SITE: u16 = u16::MAX;
/// Owner, type, class, TTL and length: what a record of an address has before it.
const RECORD_HEAD: usize = 12;

/// The bytes of one service; what is behind them is another's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packed<'a>(&'a [u8]);

/// Records of the answer section, without anything before or behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Records<'a> {
    pub(crate) count: u16,
    pub(crate) bytes: &'a [u8],
}

/// Appends the bytes of one service.
pub(crate) fn pack(
    out: &mut Vec<u8>,
    key: &[u8],
    (answers, ttl): (&FixedAnswers, u32),
    topology: &Topology,
) {
    out.push(u8::try_from(key.len()).expect("a name has at most 255 bytes"));
    out.extend_from_slice(key);
    let at = out.len();
    out.push(0);
    if pack_columns(out, at, (answers, ttl), topology).is_none() {
        out.truncate(at + HEAD);
        out[at] = 0;
    }
}

/// `None` when places do not fit into 16 bits: such a service is answered in full.
fn pack_columns(
    out: &mut Vec<u8>,
    at: usize,
    (answers, ttl): (&FixedAnswers, u32),
    topology: &Topology,
) -> Option<()> {
    let fallback = match &answers.all_down {
        AllDown::Fallback(address) => Some(std::slice::from_ref(address)),
        AllDown::LastOrder | AllDown::Refuse => None,
    };
    let of_sites = answers.sites.iter().map(|s| (topology.index(&s.site), &s.addresses[..]));
    let columns = of_sites.chain(fallback.map(|address| (None, address)));
    let count = answers.sites.len() + fallback.iter().len();
    out[at] = u8::try_from(count).ok()?;
    let table = at + HEAD;
    out.resize(table + count * COLUMN, 0);
    let first = out.len();
    for (column, (site, addresses)) in columns.enumerate() {
        let place = table + column * COLUMN;
        let site = site.map_or(NO_SITE, |s| s.0);
        out[place..place + 2].copy_from_slice(&site.to_be_bytes());
        for (family, kind) in [(2, RecordType::A), (6, RecordType::AAAA)] {
            let begin = out.len();
            let mut writer = Writer::records_only(out);
            write_addresses(&mut writer, kind, ttl, addresses.iter().copied());
            let length = out.len() - begin;
            // Sites that answer with the same addresses share their records.
            let same = (0..column).map(|before| table + before * COLUMN + family).find(|earlier| {
                let (start, long) = (number(out, *earlier), number(out, *earlier + 2));
                out[first + start..first + start + long] == out[begin..begin + length]
            });
            let start = match same {
                Some(earlier) => {
                    out.truncate(begin);
                    number(out, earlier)
                }
                None => begin - first,
            };
            let place = place + family;
            out[place..place + 2].copy_from_slice(&u16::try_from(start).ok()?.to_be_bytes());
            out[place + 2..place + 4].copy_from_slice(&u16::try_from(length).ok()?.to_be_bytes());
        }
    }
    Some(())
}

fn number(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

// === impl Packed ===

impl<'a> Packed<'a> {
    /// What [`pack`] wrote, or a key behind its length, with anything behind it.
    pub(crate) fn at(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The labels of the service's name below the apex, in wire form without a root label.
    pub(crate) fn key(self) -> &'a [u8] {
        &self.0[1..=usize::from(self.0[0])]
    }

    /// All bytes of this service.
    pub(crate) fn bytes(self) -> &'a [u8] {
        let (columns, table) = self.table();
        let first = table + columns * COLUMN;
        let ends = (0..columns).flat_map(|column| {
            let at = table + column * COLUMN;
            [at + 2, at + 6].map(|place| number(self.0, place) + number(self.0, place + 2))
        });
        &self.0[..first + ends.max().unwrap_or(0)]
    }

    /// How many columns there are, and where the first one begins.
    fn table(self) -> (usize, usize) {
        let at = 1 + usize::from(self.0[0]);
        (usize::from(self.0[at]), at + HEAD)
    }

    /// The addresses of one family in a column, and whose they are; `None` when not prepared.
    pub(crate) fn addresses(
        self,
        column: usize,
        family: Family,
    ) -> Option<(Option<SiteIndex>, Records<'a>)> {
        let (columns, table) = self.table();
        if column >= columns {
            return None;
        }
        let at = table + column * COLUMN;
        let (place, size) = match family {
            Family::V4 => (at + 2, RECORD_HEAD + 4),
            Family::V6 => (at + 6, RECORD_HEAD + 16),
        };
        let (start, length) = (number(self.0, place), number(self.0, place + 2));
        let first = table + columns * COLUMN;
        let bytes = &self.0[first + start..first + start + length];
        let count = u16::try_from(length / size).expect("fewer records than bytes");
        let site = u16::from_be_bytes([self.0[at], self.0[at + 1]]);
        Some(((site != NO_SITE).then_some(SiteIndex(site)), Records { count, bytes }))
    }
}
