//! What somebody outside is asked for a step of a task: as the effect records it, and as the
//! message that goes out, signed by the node that sends it.
//!
//! The answer is an ordinary fact of the name that the request has: see [`super::seal_fact`].

use std::collections::{BTreeMap, BTreeSet};

use nett_policy::id::{NodeId, ServiceId, SiteId, WallMs};
use nett_policy::log::entry::{Act, Asked, FabricRef, Slot, Way};
use nett_policy::service::When;
use nett_policy::task::external::request_id;
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};

use super::effect::{NamesDoc, read_names, write_names};
use super::entry::FabricDoc;
use super::sign::{self, Signer};
use super::{OpenError, VERSION, WireError, id, json};
use crate::bus::subject as subjects;

/// A request to somebody outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutsideRequest {
    pub site: SiteId,
    pub node: NodeId,
    pub fabric: FabricRef,
    pub at: WallMs,
    /// Until when the node waits for the answer.
    pub expires_at: WallMs,
    /// The start of the step.
    pub slot: Slot,
    pub step: u32,
    pub asked: Asked,
}

#[derive(Debug, Serialize)]
struct RequestDoc {
    v: u32,
    min_reader: u32,
    id: String,
    kind: KindDoc,
    subject: String,
    site: String,
    node: String,
    fabric: FabricDoc,
    issued_at: String,
    expires_at: String,
    task: String,
    term: u32,
    step: u32,
    verb: ActDoc,
    when: String,
    services: Vec<ServiceDoc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    takes_back: Option<String>,
    answer: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum KindDoc {
    External,
}

#[derive(Debug, Serialize)]
struct ServiceDoc {
    service: String,
    from: BTreeSet<String>,
    to: BTreeSet<String>,
}

/// As a step of an effect has it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AskedDoc {
    party: String,
    act: ActDoc,
    when: String,
    undo: bool,
    ways: Vec<WayDoc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    takes_back: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ActDoc {
    Do,
    Undo,
}

/// Services that go the same way.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WayDoc {
    from: BTreeSet<String>,
    to: BTreeSet<String>,
    services: NamesDoc,
}

/// Signs a request with the key of the node that sends it.
pub fn seal_outside(request: &OutsideRequest, key: &KeyPair) -> Result<Vec<u8>, WireError> {
    let OutsideRequest { site, node, fabric, at, expires_at, slot, step, asked } = request;
    let Asked { party, act, when, undo: _, services, takes_back } = asked;
    let name = request_id(slot, asked);
    let service = |(id, way): (&ServiceId, &Way)| ServiceDoc {
        service: id.to_string(),
        from: texts(&way.from),
        to: texts(&way.to),
    };
    let document = RequestDoc {
        v: VERSION,
        min_reader: VERSION,
        answer: subjects::fact(site, None, &name),
        id: name,
        kind: KindDoc::External,
        subject: subjects::outside(site, party),
        site: site.to_string(),
        node: node.to_string(),
        fabric: FabricDoc::write(fabric),
        issued_at: json::write_time("issued_at", *at)?,
        expires_at: json::write_time("expires_at", *expires_at)?,
        task: slot.task.to_string(),
        term: slot.term,
        step: *step,
        verb: ActDoc::write(*act),
        when: when.to_string(),
        services: services.iter().map(service).collect(),
        takes_back: takes_back.clone(),
    };
    Ok(sign::seal(json::object(&document)?, Signer::Agent, key)?.0)
}

fn texts(sites: &BTreeSet<SiteId>) -> BTreeSet<String> {
    sites.iter().map(SiteId::to_string).collect()
}

// === impl ActDoc ===

impl ActDoc {
    fn write(act: Act) -> Self {
        match act {
            Act::Do => Self::Do,
            Act::Undo => Self::Undo,
        }
    }

    fn read(self) -> Act {
        match self {
            Self::Do => Act::Do,
            Self::Undo => Act::Undo,
        }
    }
}

// === impl AskedDoc ===

impl AskedDoc {
    pub(super) fn write(asked: &Asked) -> Self {
        let Asked { party, act, when, undo, services, takes_back } = asked;
        let mut ways: BTreeMap<&Way, Vec<&ServiceId>> = BTreeMap::new();
        for (service, way) in services {
            ways.entry(way).or_default().push(service);
        }
        let way = |(way, services): (&Way, Vec<&ServiceId>)| WayDoc {
            from: texts(&way.from),
            to: texts(&way.to),
            services: write_names(services.into_iter()),
        };
        Self {
            party: party.clone(),
            act: ActDoc::write(*act),
            when: when.to_string(),
            undo: *undo,
            ways: ways.into_iter().map(way).collect(),
            takes_back: takes_back.clone(),
        }
    }

    pub(super) fn read(self) -> Result<Asked, OpenError> {
        let Self { party, act, when, undo, ways, takes_back } = self;
        let place = When::ALL.into_iter().find(|place| place.as_str() == when);
        let sites = |field: &'static str, names: BTreeSet<String>| {
            names.iter().map(|site| id(field, site)).collect::<Result<BTreeSet<SiteId>, _>>()
        };
        let mut services = BTreeMap::new();
        for WayDoc { from, to, services: names } in ways {
            let way = Way { from: sites("asked.from", from)?, to: sites("asked.to", to)? };
            services.extend(read_names(names)?.into_iter().map(|id| (id, way.clone())));
        }
        Ok(Asked {
            // A word of a subject, as every name of a site is.
            party: id::<SiteId>("asked.party", &party)?.to_string(),
            act: act.read(),
            when: place.ok_or(OpenError::Value {
                field: "asked.when",
                value: when,
                expected: "a place in a move, such as `before-activate`",
            })?,
            undo,
            services,
            takes_back,
        })
    }
}
