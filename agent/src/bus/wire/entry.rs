//! The envelope of a log entry, signed by the agent that wrote it.
//!
//! An entry arrives in canonical form or not at all, so the bytes are kept as they came and a
//! refill of a lost log stores exactly what was there before.

use std::sync::Arc;

use nett_policy::id::{EntryId, Generation, NodeId, SiteId, WallMs};
use nett_policy::log::entry::{Body, Entry, FabricRef, Position, Request};
use nett_policy::roster::Roster;
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::request::{self, OperatorDoc, number, text};
use super::sign::{self, Signed, Signer};
use super::{Judge, OpenError, VERSION, WireError, body, check_versions, id, json};
use crate::bus::subject as subjects;

/// An entry before it has a hash.
#[derive(Debug, Clone)]
pub struct Draft {
    pub id: EntryId,
    pub site: SiteId,
    pub node: NodeId,
    pub fabric: FabricRef,
    pub at: WallMs,
    /// The incarnation of the log.
    pub boot: String,
    /// 1 is the first entry of the incarnation.
    pub seq: u64,
    /// Empty for the first.
    pub prev_hash: String,
    pub body: Body,
    /// The request as the operator signed it; needed for commands, refusals and wishes.
    pub request_verbatim: Option<Vec<u8>>,
}

/// An entry with the bytes it has on the bus and in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    pub entry: Entry,
    pub bytes: Arc<[u8]>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryDoc {
    v: u32,
    min_reader: u32,
    id: String,
    kind: String,
    subject: String,
    site: String,
    node: String,
    fabric: FabricDoc,
    issued_at: String,
    lane: String,
    boot: String,
    seq: u64,
    prev_hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operator: Option<OperatorDoc>,
    body: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<Map<String, Value>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FabricDoc {
    generation: u64,
    hash: String,
}

/// Signs an entry with the key of the agent that writes it.
pub fn seal_entry(draft: Draft, key: &KeyPair) -> Result<(Vec<u8>, Entry), WireError> {
    let Draft { id, site, node, fabric, at, boot, seq, prev_hash, body, request_verbatim } = draft;
    let request = verbatim(&body, request_verbatim.as_deref())?;
    let (v, min_reader) = match embedded(&body) {
        Some(request) => request::versions(&request.ask),
        None => (VERSION, VERSION),
    };
    let document = EntryDoc {
        v,
        min_reader,
        id: id.to_string(),
        kind: subjects::entry_kind(&body).to_owned(),
        subject: subjects::entry(&site, &body),
        site: site.to_string(),
        node: node.to_string(),
        fabric: FabricDoc::write(&fabric),
        issued_at: json::write_time("issued_at", at)?,
        lane: site.to_string(),
        boot: boot.clone(),
        seq,
        prev_hash: prev_hash.clone(),
        operator: embedded(&body).map(OperatorDoc::of),
        body: body::write(&body)?,
        request,
    };
    let (map, limit) = (json::object(&document)?, json::MAX_ENTRY_BYTES);
    let (bytes, hash) = sign::seal_within(map, Signer::Agent, key, limit)?;
    let position = Position { boot, seq, prev_hash, hash };
    Ok((bytes, Entry { id, site, node, position, fabric, at, body }))
}

/// The request a body embeds.
fn embedded(body: &Body) -> Option<&Request> {
    match body {
        Body::Command(command) => Some(&command.request),
        Body::Refused(refused) => Some(&refused.request),
        Body::Wish(wish) => Some(&wish.request),
        Body::Adopt(fact) => Some(&fact.request),
        Body::Effective(_) | Body::Step(_) | Body::Turn(_) | Body::End(_) | Body::Withdrawn(_) => {
            None
        }
    }
}

/// The signed request as JSON, after checking that it is the one the body speaks of.
fn verbatim(body: &Body, bytes: Option<&[u8]>) -> Result<Option<Map<String, Value>>, WireError> {
    let read = |bytes: &[u8]| {
        let map = json::parse(bytes)?;
        Ok((request::read_unverified(map.clone())?, map))
    };
    match (embedded(body), bytes) {
        (None, None) => Ok(None),
        (Some(expected), Some(bytes)) => {
            let (request, map) =
                read(bytes).map_err(|error| WireError::VerbatimForm(Box::new(error)))?;
            if request == *expected { Ok(Some(map)) } else { Err(WireError::Verbatim) }
        }
        _ => Err(WireError::Verbatim),
    }
}

/// Opens an entry that was stored under `subject`.
///
/// It is judged by the fabric generation that it names: the key is that of the entry's node, the
/// node is of the entry's site, the signature is good, subject, kind and body agree, and an
/// embedded request was signed by a known operator for this site. Position and order are the fold's
/// to judge.
pub fn open_entry(bytes: &[u8], subject: &str, judge: &dyn Judge) -> Result<Entry, OpenError> {
    open(bytes, Some(subject), judge)
}

/// Opens an entry from a place that has no subjects, such as the journal.
pub fn open_stored_entry(bytes: &[u8], judge: &dyn Judge) -> Result<Entry, OpenError> {
    open(bytes, None, judge)
}

fn open(bytes: &[u8], arrived: Option<&str>, judge: &dyn Judge) -> Result<Entry, OpenError> {
    let map = json::parse_within(bytes, json::MAX_ENTRY_BYTES)?;
    let named = named_fabric(&map)?;
    let roster = judge.roster(&named).ok_or_else(|| OpenError::UnknownFabric {
        generation: named.generation.0,
        hash: named.hash.clone(),
    })?;
    let roster = roster.as_ref();
    let signed = open_header(bytes, map, arrived, roster)?;
    let hash = signed.hash();
    let EntryDoc {
        v: _,
        min_reader: _,
        id: entry_id,
        kind,
        subject,
        site,
        node,
        fabric: fabric_ref,
        issued_at,
        lane,
        boot,
        seq,
        prev_hash,
        operator,
        body,
        request,
    } = json::read(Value::Object(signed.map))?;
    let entry_id: EntryId = id("id", &entry_id)?;
    let site: SiteId = id("site", &site)?;
    let expect_site = |actual: String| {
        if actual == site.as_str() {
            return Ok(());
        }
        Err(OpenError::Site { expected: site.to_string(), actual })
    };
    expect_site(entry_id.site().to_string())?;
    expect_site(lane)?;
    let request = request.map(|map| request::open_map(map, None, roster)).transpose()?;
    if let Some(request) = &request {
        expect_site(request.site.to_string())?;
    }
    if operator != request.as_ref().map(OperatorDoc::of) {
        return Err(OpenError::Value {
            field: "operator",
            value: String::new(),
            expected: "the operator of the embedded request, or none",
        });
    }
    let body = body::read(&kind, body, request)?;
    let expected = subjects::entry(&site, &body);
    if expected != subject {
        return Err(OpenError::Subject { signed: expected, arrived: subject });
    }
    Ok(Entry {
        id: entry_id,
        node: id("node", &node)?,
        site,
        position: Position { boot, seq, prev_hash, hash },
        fabric: fabric_ref.read(),
        at: json::read_time("issued_at", &issued_at)?,
        body,
    })
}

/// Where an entry says it stands. Nothing of it is believed: no key and no signature was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    pub site: String,
    pub position: Position,
}

/// Reads the place of an entry, for somebody who only counts and compares: see [`Placed`].
pub fn placed(bytes: &[u8]) -> Result<Placed, OpenError> {
    let map = json::parse_within(bytes, json::MAX_ENTRY_BYTES)?;
    let signed = Signed::take(map, Signer::Agent)?;
    let word = |name| text(&signed.map, name).map(str::to_owned);
    let (boot, prev_hash) = (word("boot")?, word("prev_hash")?);
    let seq = signed.map.get("seq").and_then(Value::as_u64).unwrap_or(0);
    let position = Position { boot, seq, prev_hash, hash: signed.hash() };
    Ok(Placed { site: word("site")?, position })
}

/// Checks everything an agent's message must satisfy before its content is read: form, subject,
/// that the node exists at the site and owns the key, the signature, the version.
pub(super) fn open_header(
    bytes: &[u8],
    map: Map<String, Value>,
    arrived: Option<&str>,
    roster: &Roster,
) -> Result<Signed, OpenError> {
    if json::canonical(&map).ok().as_deref() != Some(bytes) {
        return Err(OpenError::NotCanonical);
    }
    let signed = Signed::take(map, Signer::Agent)?;
    let subject = text(&signed.map, "subject")?;
    if let Some(arrived) = arrived.filter(|arrived| *arrived != subject) {
        let (signed, arrived) = (subject.to_owned(), arrived.to_owned());
        return Err(OpenError::Subject { signed, arrived });
    }
    let (site, node) = (text(&signed.map, "site")?, text(&signed.map, "node")?);
    let known =
        roster.node(node).ok_or_else(|| OpenError::UnknownNode { node: node.to_owned() })?;
    if known.site.as_str() != site {
        let (expected, actual) = (known.site.to_string(), site.to_owned());
        return Err(OpenError::Site { expected, actual });
    }
    if known.key != signed.key {
        let (node, key) = (node.to_owned(), signed.key.clone());
        return Err(OpenError::NodeKey { node, key });
    }
    signed.verify()?;
    check_versions(number(&signed.map, "v")?, number(&signed.map, "min_reader")?, subject)?;
    Ok(signed)
}

/// The generation that a message names, before anything in it is believed.
pub(super) fn named_fabric(map: &Map<String, Value>) -> Result<FabricRef, OpenError> {
    let missing = || OpenError::Value {
        field: "fabric",
        value: String::new(),
        expected: "an object with generation and hash",
    };
    let fabric = map.get("fabric").cloned().ok_or_else(missing)?;
    let fabric: FabricDoc = json::read(fabric)?;
    Ok(fabric.read())
}

// === impl FabricDoc ===

impl FabricDoc {
    pub(super) fn write(fabric: &FabricRef) -> Self {
        let FabricRef { generation, hash } = fabric;
        Self { generation: generation.0, hash: hash.clone() }
    }

    pub(super) fn read(self) -> FabricRef {
        let Self { generation, hash } = self;
        FabricRef { generation: Generation(generation), hash }
    }
}

// === impl Sealed ===

impl Sealed {
    /// As [`seal_entry`].
    pub fn seal(draft: Draft, key: &KeyPair) -> Result<Self, WireError> {
        let (bytes, entry) = seal_entry(draft, key)?;
        Ok(Self { entry, bytes: bytes.into() })
    }

    /// As [`open_entry`].
    pub fn open(bytes: &[u8], subject: &str, judge: &dyn Judge) -> Result<Self, OpenError> {
        let entry = open_entry(bytes, subject, judge)?;
        Ok(Self { entry, bytes: bytes.into() })
    }

    /// As [`open_stored_entry`].
    pub fn open_stored(bytes: &[u8], judge: &dyn Judge) -> Result<Self, OpenError> {
        let entry = open_stored_entry(bytes, judge)?;
        Ok(Self { entry, bytes: bytes.into() })
    }

    /// Where it is stored on the bus.
    pub fn subject(&self) -> String {
        subjects::entry(&self.entry.site, &self.entry.body)
    }

    /// The request inside as its author signed it, if the body has one.
    pub fn verbatim(&self) -> Option<Vec<u8>> {
        let entry: Value = serde_json::from_slice(&self.bytes).ok()?;
        json::canonical(entry.get("request")?.as_object()?).ok()
    }

    /// The request inside, if the body has one.
    pub fn request(&self) -> Option<&Request> {
        embedded(&self.entry.body)
    }
}
