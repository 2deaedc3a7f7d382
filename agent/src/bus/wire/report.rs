//! What a node says about itself: the last value of `nett.r.state.SITE.NODE`.
//!
//! Only the last value is kept, so a report always carries everything: all open acknowledgements
//! together, every link, every head.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nett_policy::id::{LinkId, NodeId, SiteId, WallMs};
use nett_policy::log::entry::{FabricRef, Slot};
pub use nett_policy::task::next::Ack;
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::body::SlotDoc;
use super::entry::{FabricDoc, named_fabric, open_header};
use super::sign::{self, Signer};
use super::{Judge, OpenError, VERSION, WireError, id, json};
use crate::bus::subject as subjects;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub site: SiteId,
    pub node: NodeId,
    pub at: WallMs,
    pub fabric: FabricRef,
    /// How far the node has applied each site's log.
    pub heads: BTreeMap<SiteId, Head>,
    /// Every acknowledgement that is still open.
    pub acks: Vec<Ack>,
    /// What it measures for steps that it has not acknowledged, in words.
    pub measuring: BTreeMap<Slot, Vec<String>>,
    /// Up or down, as this end sees it.
    pub links: BTreeMap<LinkId, bool>,
    /// Links of which a family is missing or doubted and over which packets can be sent: used where
    /// there is no better one. One that carries the other family is up in `links` as well.
    pub doubted: BTreeSet<LinkId>,
    /// Round-trip times over its links, as it tells them: see [`nett_policy::nearness`].
    pub rtts: BTreeMap<LinkId, Duration>,
    /// The serial of the zone it answers from; `None` where it serves no DNS.
    pub dns_serial: Option<u32>,
    /// Objects in the kernel that differ from what is wanted, one line each.
    pub drift: Vec<String>,
    /// Duties that are not fulfilled, for example `journal`.
    pub degraded: Vec<String>,
    /// Packets that its nft table has counted, by `CLASS` or `CLASS.SITE`.
    pub counters: BTreeMap<String, u64>,
    /// The bytes of the same.
    pub bytes: BTreeMap<String, u64>,
}

/// A place in a site's log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Head {
    /// The incarnation of the log.
    pub boot: String,
    pub seq: u64,
    /// The hash of the entry there.
    pub hash: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportDoc {
    v: u32,
    min_reader: u32,
    kind: KindDoc,
    subject: String,
    site: String,
    node: String,
    fabric: FabricDoc,
    issued_at: String,
    heads: BTreeMap<String, HeadDoc>,
    acks: Vec<AckDoc>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    measuring: Vec<MeasuringDoc>,
    links: BTreeMap<String, bool>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    doubted: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    rtts_us: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dns_serial: Option<u32>,
    drift: Vec<String>,
    degraded: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    counters: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    bytes: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindDoc {
    State,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadDoc {
    boot: String,
    seq: u64,
    hash: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AckDoc {
    slot: SlotDoc,
    ok: bool,
    evidence: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MeasuringDoc {
    slot: SlotDoc,
    told: Vec<String>,
}

/// Signs a report with the key of its node.
pub fn seal_report(report: &Report, key: &KeyPair) -> Result<Vec<u8>, WireError> {
    let Report {
        site,
        node,
        at,
        fabric,
        heads,
        acks,
        measuring,
        links,
        doubted,
        rtts,
        dns_serial,
        drift,
        degraded,
        counters,
        bytes,
    } = report;
    let document = ReportDoc {
        v: VERSION,
        min_reader: VERSION,
        kind: KindDoc::State,
        subject: subjects::report(site, node),
        site: site.to_string(),
        node: node.to_string(),
        fabric: FabricDoc::write(fabric),
        issued_at: json::write_time("issued_at", *at)?,
        heads: heads.iter().map(|(site, head)| (site.to_string(), HeadDoc::write(head))).collect(),
        acks: acks.iter().map(AckDoc::write).collect(),
        measuring: measuring.iter().map(MeasuringDoc::write).collect(),
        links: links.iter().map(|(link, up)| (link.to_string(), *up)).collect(),
        doubted: doubted.iter().map(ToString::to_string).collect(),
        rtts_us: rtts.iter().map(|(link, rtt)| (link.to_string(), micros(*rtt))).collect(),
        dns_serial: *dns_serial,
        drift: drift.clone(),
        degraded: degraded.clone(),
        counters: counters.clone(),
        bytes: bytes.clone(),
    };
    Ok(sign::seal(json::object(&document)?, Signer::Agent, key)?.0)
}

/// Opens a report that was stored under `subject`: signed by the key of the node it speaks of, as
/// the fabric it names has it. Where that one is not known, the own one must do: that a node runs
/// another fabric is what its report is there to say.
pub fn open_report(bytes: &[u8], subject: &str, judge: &dyn Judge) -> Result<Report, OpenError> {
    let map = json::parse(bytes)?;
    let roster = judge.roster(&named_fabric(&map)?).unwrap_or_else(|| judge.now());
    let signed = open_header(bytes, map, Some(subject), roster.as_ref())?;
    let ReportDoc {
        v: _,
        min_reader: _,
        kind: KindDoc::State,
        subject: named,
        site,
        node,
        fabric: fabric_ref,
        issued_at,
        heads,
        acks,
        measuring,
        links,
        doubted,
        rtts_us,
        dns_serial,
        drift,
        degraded,
        counters,
        bytes,
    } = json::read(Value::Object(signed.map))?;
    let (site, node): (SiteId, NodeId) = (id("site", &site)?, id("node", &node)?);
    let expected = subjects::report(&site, &node);
    if expected != named {
        return Err(OpenError::Subject { signed: expected, arrived: named });
    }
    let heads = heads.into_iter().map(|(site, head)| Ok((id("heads", &site)?, head.read())));
    let links = links.into_iter().map(|(link, up)| Ok((id("links", &link)?, up)));
    let doubted = doubted.iter().map(|link| id("doubted", link));
    let rtts = rtts_us
        .into_iter()
        .map(|(link, us)| Ok((id("rtts_us", &link)?, Duration::from_micros(us))));
    Ok(Report {
        site,
        node,
        at: json::read_time("issued_at", &issued_at)?,
        fabric: fabric_ref.read(),
        heads: heads.collect::<Result<_, OpenError>>()?,
        acks: acks.into_iter().map(AckDoc::read).collect::<Result<_, _>>()?,
        measuring: measuring.into_iter().map(MeasuringDoc::read).collect::<Result<_, _>>()?,
        links: links.collect::<Result<_, OpenError>>()?,
        doubted: doubted.collect::<Result<_, OpenError>>()?,
        rtts: rtts.collect::<Result<_, OpenError>>()?,
        dns_serial,
        drift,
        degraded,
        counters,
        bytes,
    })
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

// === impl HeadDoc ===

impl HeadDoc {
    fn write(head: &Head) -> Self {
        let Head { boot, seq, hash } = head.clone();
        Self { boot, seq, hash }
    }

    fn read(self) -> Head {
        let Self { boot, seq, hash } = self;
        Head { boot, seq, hash }
    }
}

// === impl AckDoc ===

impl AckDoc {
    fn write(ack: &Ack) -> Self {
        let Ack { slot, ok, evidence } = ack;
        Self { slot: SlotDoc::write(slot), ok: *ok, evidence: evidence.clone() }
    }

    fn read(self) -> Result<Ack, OpenError> {
        let Self { slot, ok, evidence } = self;
        Ok(Ack { slot: slot.read()?, ok, evidence })
    }
}

// === impl MeasuringDoc ===

impl MeasuringDoc {
    fn write((slot, told): (&Slot, &Vec<String>)) -> Self {
        Self { slot: SlotDoc::write(slot), told: told.clone() }
    }

    fn read(self) -> Result<(Slot, Vec<String>), OpenError> {
        let Self { slot, told } = self;
        Ok((slot.read()?, told))
    }
}
