//! The checkpoint of a log as it stands in the log's own stream: what a stream may begin with that
//! was made smaller.
//!
//! It says how far the log is covered and which entries of that part are kept. Those follow it as
//! they were signed, and behind them everything that is not covered. So whoever reads a stream from
//! here on knows as much as one who read it from its first entry. It counts for its own site's log
//! alone, and nothing is believed of it before all that it announces was read.

use std::collections::BTreeMap;

use nett_policy::id::{Epoch, IdError, NodeId, SiteId, WallMs, sha256_hex};
use nett_policy::log::conflict::Contested;
use nett_policy::log::entry::FabricRef;
use nett_policy::log::intent::Order;
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::entry::{FabricDoc, named_fabric, open_header};
use super::report::Head;
use super::sign::{self, Signer};
use super::{Judge, OpenError, VERSION, WireError, id, json};
use crate::bus::subject as subjects;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preface {
    pub site: SiteId,
    pub node: NodeId,
    pub at: WallMs,
    pub fabric: FabricRef,
    /// The last entry of the log that is covered.
    pub covered: Head,
    /// The number of the log's last entry when this was written: as far as entries are repeated.
    pub through: u64,
    /// How many of the covered entries are kept.
    pub kept: u64,
    /// What [`digest`] makes of these.
    pub digest: String,
    /// Below these places nothing is contested any more.
    pub floors: BTreeMap<Contested, Order>,
}

/// Stands for entries in an order, by their hashes.
pub fn digest<'a>(hashes: impl Iterator<Item = &'a str>) -> String {
    let lines: Vec<&str> = hashes.collect();
    sha256_hex(lines.join("\n").as_bytes())
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PrefaceDoc {
    v: u32,
    min_reader: u32,
    kind: KindDoc,
    subject: String,
    site: String,
    node: String,
    fabric: FabricDoc,
    issued_at: String,
    boot: String,
    covered: u64,
    covered_hash: String,
    through: u64,
    kept: u64,
    digest: String,
    floors: BTreeMap<String, OrderDoc>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindDoc {
    Checkpoint,
}

/// A place in the order of a subject, as a message or the journal has it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OrderDoc {
    epoch: u64,
    rank: u32,
    site: String,
    task: String,
}

/// Signs a checkpoint with the key of the node that writes it.
///
/// # Errors
/// Another key, or more contested subjects than a message holds (about 30,000).
pub fn seal_preface(preface: &Preface, key: &KeyPair) -> Result<Vec<u8>, WireError> {
    let Preface { site, node, at, fabric, covered, through, kept, digest, floors } = preface;
    let Head { boot, seq, hash } = covered.clone();
    let document = PrefaceDoc {
        v: VERSION,
        min_reader: VERSION,
        kind: KindDoc::Checkpoint,
        subject: subjects::preface(site, node),
        site: site.to_string(),
        node: node.to_string(),
        fabric: FabricDoc::write(fabric),
        issued_at: json::write_time("issued_at", *at)?,
        boot,
        covered: seq,
        covered_hash: hash,
        through: *through,
        kept: *kept,
        digest: digest.clone(),
        floors: floors.iter().map(|(what, at)| (what.to_string(), OrderDoc::write(at))).collect(),
    };
    let map = json::object(&document)?;
    Ok(sign::seal_within(map, Signer::Agent, key, json::MAX_ENTRY_BYTES)?.0)
}

/// Opens a checkpoint that was stored under `subject`: signed by the key of its node, as the fabric
/// that it names has it, or the present one where that is not known.
pub fn open_preface(bytes: &[u8], subject: &str, judge: &dyn Judge) -> Result<Preface, OpenError> {
    let map = json::parse_within(bytes, json::MAX_ENTRY_BYTES)?;
    let roster = judge.roster(&named_fabric(&map)?).unwrap_or_else(|| judge.now());
    let signed = open_header(bytes, map, Some(subject), roster.as_ref())?;
    let PrefaceDoc {
        v: _,
        min_reader: _,
        kind: KindDoc::Checkpoint,
        subject: named,
        site,
        node,
        fabric,
        issued_at,
        boot,
        covered,
        covered_hash,
        through,
        kept,
        digest,
        floors,
    } = json::read(Value::Object(signed.map))?;
    let (site, node): (SiteId, NodeId) = (id("site", &site)?, id("node", &node)?);
    let expected = subjects::preface(&site, &node);
    if expected != named {
        return Err(OpenError::Subject { signed: expected, arrived: named });
    }
    let floor = |(what, at): (String, OrderDoc)| Ok((what.parse()?, at.read()?));
    let floors: Result<_, IdError> = floors.into_iter().map(floor).collect();
    Ok(Preface {
        site,
        node,
        at: json::read_time("issued_at", &issued_at)?,
        fabric: fabric.read(),
        covered: Head { boot, seq: covered, hash: covered_hash },
        through,
        kept,
        digest,
        floors: floors.map_err(|source| OpenError::Id { field: "floors", source })?,
    })
}

// === impl OrderDoc ===

impl OrderDoc {
    pub(crate) fn write(order: &Order) -> Self {
        let Order { epoch, rank, site, task } = order;
        Self { epoch: epoch.0, rank: *rank, site: site.to_string(), task: task.to_string() }
    }

    pub(crate) fn read(self) -> Result<Order, IdError> {
        let Self { epoch, rank, site, task } = self;
        Ok(Order { epoch: Epoch(epoch), rank, site: site.parse()?, task: task.parse()? })
    }
}
