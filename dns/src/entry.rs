//! One service, ready for questions: its answers, the choice of a site, and the records in bytes.
//!
//! The bytes are written once, when the placement changes, by the very code that answers a question
//! in full. Owner names are pointers to the question, so they fit any spelling of the name.

use std::sync::Arc;

use hickory_proto::rr::RecordType;
use nett_policy::fabric::Family;
use nett_policy::lower::answers::ServiceAnswers;
use nett_policy::service::AllDown;

use crate::answer::{write_addresses, write_sites};
use crate::name::{LowerName, NameError};
use crate::steer::Plan;
use crate::topology::{SiteIndex, Topology};
use crate::write::Writer;

/// A service in a table. Copies share what they point to.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    packed: Packed,
    details: Arc<Details>,
}

/// What the bytes were made of: for the choice among sites, for the full path and for people.
#[derive(Debug)]
struct Details {
    answers: ServiceAnswers,
    plan: Plan,
    /// Seconds.
    ttl: u32,
}

/// Records of the answer section, without anything before or behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Records<'a> {
    pub(crate) count: u16,
    pub(crate) bytes: &'a [u8],
}

/// What a question touches, in one piece of memory:
///
/// ```text
/// key length (1), key                                            the labels below the apex
/// columns (1)                                                    0: nothing is prepared
/// the column that all clients get (1)                            255: it depends on the client
/// per column: site (2), end of A (2), records of A (2), AAAA (4) sites in order, then a fallback
/// end of TXT (2), records of TXT (2)
/// records
/// ```
///
/// Ends count from the first record.
#[derive(Debug, Clone)]
struct Packed(Arc<[u8]>);

const HEAD: usize = 2;
const COLUMN: usize = 10;
const ROW: usize = 4;
/// The mark of a column whose site the fabric does not know, or that is no site.
const NO_SITE: u16 = u16::MAX;
/// The mark of a choice that depends on the client.
const DEPENDS: u8 = u8::MAX;

// === impl Entry ===

impl Entry {
    pub(crate) fn new(answers: &ServiceAnswers, topology: &Topology) -> Result<Self, NameError> {
        // RFC 2181 section 8: a TTL has 31 bits.
        const MAX_TTL: u64 = 0x7fff_ffff;
        let name = LowerName::parse(&answers.service.dns_name())?;
        let (_, key) = name.wire().split_last().expect("a name ends in the root");
        let ttl = u32::try_from(answers.ttl.as_secs().min(MAX_TTL)).expect("31 bits");
        let plan = Plan::new(answers, topology);
        let packed = Packed::new(key, &plan, answers, ttl, topology);
        let details = Details { answers: answers.clone(), plan, ttl };
        Ok(Self { packed, details: Arc::new(details) })
    }

    pub(crate) fn answers(&self) -> &ServiceAnswers {
        &self.details.answers
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.details.plan
    }

    /// Seconds.
    pub(crate) fn ttl(&self) -> u32 {
        self.details.ttl
    }

    /// The labels of the service's name below the apex, in wire form without a root label.
    pub(crate) fn key(&self) -> &[u8] {
        self.packed.key()
    }

    /// The column of `AllDown::Fallback`, behind those of the sites.
    pub(crate) fn fallback(&self) -> usize {
        self.answers().sites.len()
    }

    /// The column that every client gets, if it is prepared and there is one.
    pub(crate) fn only(&self) -> Option<usize> {
        self.packed.only()
    }

    /// The addresses of one family in a column, and whose they are; `None` when not prepared.
    pub(crate) fn addresses(
        &self,
        column: usize,
        family: Family,
    ) -> Option<(Option<SiteIndex>, Records<'_>)> {
        self.packed.addresses(column, family)
    }

    /// The TXT record of the service's own name; `None` when not prepared.
    pub(crate) fn text(&self) -> Option<Records<'_>> {
        self.packed.text()
    }
}

// === impl Packed ===

impl Packed {
    fn new(
        key: &[u8],
        plan: &Plan,
        answers: &ServiceAnswers,
        ttl: u32,
        topology: &Topology,
    ) -> Self {
        let mut head = Vec::with_capacity(256);
        head.push(u8::try_from(key.len()).expect("a name has at most 255 bytes"));
        head.extend_from_slice(key);
        let bare = head.len();
        let only = match plan {
            Plan::One(position) => u8::try_from(*position).unwrap_or(DEPENDS),
            Plan::Shares(_) | Plan::Nearest { .. } | Plan::Nowhere(_) => DEPENDS,
        };
        head.extend([0, only]);
        if Self::columns(&mut head, answers, ttl, topology).is_none() {
            head.truncate(bare);
            head.extend([0, DEPENDS]);
        }
        Self(head.into())
    }

    /// `None` when ends do not fit into 16 bits: such a service is answered in full.
    fn columns(
        head: &mut Vec<u8>,
        answers: &ServiceAnswers,
        ttl: u32,
        topology: &Topology,
    ) -> Option<()> {
        let fallback = match answers.all_down {
            AllDown::Fallback(address) => Some(address),
            AllDown::LastOrder | AllDown::Refuse => None,
        };
        let columns = answers.sites.len() + usize::from(fallback.is_some());
        let at = head.len() - HEAD;
        head[at] = u8::try_from(columns).ok()?;
        let mut records = Vec::new();
        let mut writer = Writer::records_only(&mut records);
        let end = |head: &mut Vec<u8>, writer: &mut Writer<'_>| {
            let (bytes, count) = writer.written();
            head.extend(u16::try_from(bytes).ok()?.to_be_bytes());
            head.extend(count.to_be_bytes());
            Some(())
        };
        let of_sites = answers.sites.iter().map(|s| (topology.index(&s.site), &s.addresses[..]));
        let of_fallback = fallback.as_slice();
        let of_fallback = (!of_fallback.is_empty()).then_some((None, of_fallback));
        for (site, addresses) in of_sites.chain(of_fallback) {
            head.extend(site.map_or(NO_SITE, |s| s.0).to_be_bytes());
            for kind in [RecordType::A, RecordType::AAAA] {
                write_addresses(&mut writer, kind, ttl, addresses.iter().copied());
                end(head, &mut writer)?;
            }
        }
        write_sites(&mut writer, answers, ttl, answers.sites.iter(), RecordType::TXT);
        end(head, &mut writer)?;
        head.extend_from_slice(&records);
        Some(())
    }

    fn key(&self) -> &[u8] {
        &self.0[1..=usize::from(self.0[0])]
    }

    /// How many columns there are, and where the first one begins.
    fn table(&self) -> (usize, usize) {
        let at = 1 + usize::from(self.0[0]);
        (usize::from(self.0[at]), at + HEAD)
    }

    fn only(&self) -> Option<usize> {
        let only = self.0[2 + usize::from(self.0[0])];
        (only != DEPENDS).then_some(only.into())
    }

    fn number(&self, at: usize) -> usize {
        usize::from(u16::from_be_bytes([self.0[at], self.0[at + 1]]))
    }

    /// The records whose end and count are at `row`, after those that end at `before`.
    fn records(&self, first: usize, before: usize, row: usize) -> Records<'_> {
        Records {
            count: u16::from_be_bytes([self.0[row + 2], self.0[row + 3]]),
            bytes: &self.0[first + before..first + self.number(row)],
        }
    }

    fn addresses(
        &self,
        column: usize,
        family: Family,
    ) -> Option<(Option<SiteIndex>, Records<'_>)> {
        let (columns, table) = self.table();
        if column >= columns {
            return None;
        }
        let first = table + columns * COLUMN + ROW;
        let at = table + column * COLUMN;
        let site = u16::from_be_bytes([self.0[at], self.0[at + 1]]);
        let (v4, v6) = (at + 2, at + 2 + ROW);
        // The ends of a column begin where those of the one before it stop.
        let start = if column == 0 { 0 } else { self.number(at - ROW) };
        let records = match family {
            Family::V4 => self.records(first, start, v4),
            Family::V6 => self.records(first, self.number(v4), v6),
        };
        Some(((site != NO_SITE).then_some(SiteIndex(site)), records))
    }

    fn text(&self) -> Option<Records<'_>> {
        let (columns, table) = self.table();
        if columns == 0 {
            return None;
        }
        let row = table + columns * COLUMN;
        Some(self.records(row + ROW, self.number(row - ROW), row))
    }
}
