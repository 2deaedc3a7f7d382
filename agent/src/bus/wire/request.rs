//! What an operator signs: a command, or a wish about a task.
//!
//! Expiry is not judged here. Whether a request was in time is decided once, by the agent that
//! accepts it, and written into the log; an entry that embeds an old request stays valid.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nett_policy::id::{NodeId, Weight};
use nett_policy::log::entry::{Ask, Object, Person, Ramp, Request, Terms, Verb, WishKind};
use nett_policy::roster::Roster;
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::sign::{self, Signed, Signer};
use super::{Judge, OpenError, READER, VERSION, WireError, check_versions, id, json};
use crate::bus::subject as subjects;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestDoc {
    v: u32,
    min_reader: u32,
    id: String,
    kind: KindDoc,
    subject: String,
    site: String,
    issued_at: String,
    expires_at: String,
    operator: OperatorDoc,
    body: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindDoc {
    Command,
    Wish,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OperatorDoc {
    name: String,
    key: String,
    reason: String,
}

/// What every command may carry beside its verb.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TermsDoc {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plan_hash: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    overrides: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    supersede: bool,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    asserted: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    without: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confirm_within_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ramp: Option<RampDoc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    soft: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RampDoc {
    steps: Vec<u8>,
    dwell_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    only_while: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase", deny_unknown_fields)]
enum VerbDoc {
    Failover {
        services: String,
        to: String,
    },
    Failback {
        services: String,
    },
    Steer {
        services: String,
        to: BTreeMap<String, u32>,
    },
    Drain {
        object: ObjectDoc,
    },
    Undrain {
        object: ObjectDoc,
    },
    Evacuate {
        site: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    Hold {
        services: String,
    },
    Release {
        services: String,
    },
    Revert {
        task: String,
    },
    Resolve {
        subject: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    Revoke {
        person: String,
    },
}

/// A site, or with `service` that service at the site; or a node, or a link.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ObjectDoc {
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "wish", rename_all = "lowercase", deny_unknown_fields)]
enum WishDoc {
    Approve {
        task: String,
        plan_hash: String,
    },
    Reject {
        task: String,
    },
    Cancel {
        task: String,
    },
    Pause {
        task: String,
    },
    Resume {
        task: String,
    },
    Gate {
        task: String,
        gate: String,
    },
    Confirm {
        task: String,
    },
    Adopt {
        task: String,
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        asserted: BTreeSet<String>,
    },
}

/// The members of a command's body that belong to [`TermsDoc`].
const TERMS: [&str; 9] = [
    "plan_hash",
    "overrides",
    "supersede",
    "asserted",
    "without",
    "confirm_within_ms",
    "ramp",
    "until",
    "soft",
];
/// The longest time in which a task may be confirmed, in milliseconds: a day.
const CONFIRM_MAX_MS: u64 = 24 * 3600 * 1000;

/// Where a request is sent: `nett.l.cmd.SITE.VERB.KIND.ID`.
pub fn request_subject(request: &Request) -> String {
    subjects::request(request)
}

/// Signs a request for one subject. `key` must be the seed of the person the request names.
pub fn seal_request(request: &Request, subject: &str, key: &KeyPair) -> Result<Vec<u8>, WireError> {
    let Request { id, site, person, reason, issued_at, expires_at, ask } = request;
    if person.key != key.public_key() {
        let (expected, actual) = (person.key.clone(), key.public_key());
        return Err(WireError::WrongKey { expected, actual });
    }
    let (kind, body) = write_ask(ask)?;
    let (v, min_reader) = versions(ask);
    let document = RequestDoc {
        v,
        min_reader,
        id: id.to_string(),
        kind,
        subject: subject.to_owned(),
        site: site.to_string(),
        issued_at: json::write_time("issued_at", *issued_at)?,
        expires_at: json::write_time("expires_at", *expires_at)?,
        operator: OperatorDoc::write(person, reason),
        body,
    };
    Ok(sign::seal(json::object(&document)?, Signer::Operator, key)?.0)
}

/// `v` and `min_reader` of a request, and of an entry that has it: a reader that passed over the
/// sites without which a claim was made would serve or vote against it.
pub(super) fn versions(ask: &Ask) -> (u32, u32) {
    match ask {
        Ask::Command { terms, .. } if !terms.without.is_empty() => (READER, READER),
        Ask::Command { .. } | Ask::Wish { .. } => (VERSION, VERSION),
    }
}

/// Opens a request that came on `subject` (over the control socket: [`request_subject`]).
///
/// The signature is good, the key is a known operator's of that name, and subject, site and body
/// agree. Expiry, role and services are the caller's to judge.
pub fn open_request(bytes: &[u8], subject: &str, judge: &dyn Judge) -> Result<Request, OpenError> {
    open_map(json::parse(bytes)?, Some(subject), judge.now().as_ref())
}

/// As [`open_request`]; without a subject, the one inside is taken.
pub(super) fn open_map(
    map: Map<String, Value>,
    arrived: Option<&str>,
    roster: &Roster,
) -> Result<Request, OpenError> {
    let signed = Signed::take(map, Signer::Operator)?;
    let named = text(&signed.map, "subject")?;
    if let Some(arrived) = arrived.filter(|arrived| *arrived != named) {
        let (signed, arrived) = (named.to_owned(), arrived.to_owned());
        return Err(OpenError::Subject { signed, arrived });
    }
    let operator = roster
        .operator_by_key(&signed.key)
        .ok_or_else(|| OpenError::UnknownOperator { key: signed.key.clone() })?;
    signed.verify()?;
    check_versions(number(&signed.map, "v")?, number(&signed.map, "min_reader")?, named)?;
    let key = signed.key.clone();
    let (request, subject) = read_document(signed.map)?;
    if request.person.name != operator.name || request.person.key != key {
        let name = request.person.name;
        return Err(OpenError::OperatorName { name, key });
    }
    check_place(&request, &subject, roster)?;
    Ok(request)
}

/// Reads a request without judging who signed it.
pub(super) fn read_unverified(mut map: Map<String, Value>) -> Result<Request, OpenError> {
    map.remove("sig");
    Ok(read_document(map)?.0)
}

fn read_document(map: Map<String, Value>) -> Result<(Request, String), OpenError> {
    let RequestDoc {
        v: _,
        min_reader: _,
        id: request_id,
        kind,
        subject,
        site,
        issued_at,
        expires_at,
        operator,
        body,
    } = json::read(Value::Object(map))?;
    let OperatorDoc { name, key, reason } = operator;
    let request = Request {
        id: id("id", &request_id)?,
        site: id("site", &site)?,
        person: Person { name, key },
        reason,
        issued_at: json::read_time("issued_at", &issued_at)?,
        expires_at: json::read_time("expires_at", &expires_at)?,
        ask: match kind {
            KindDoc::Command => read_command(body)?,
            KindDoc::Wish => read_wish(body)?,
        },
    };
    Ok((request, subject))
}

/// Subject, site, id and body must tell the same story: server permissions are by subject.
fn check_place(request: &Request, subject: &str, roster: &Roster) -> Result<(), OpenError> {
    let site = &request.site;
    let site_error = |actual: String| OpenError::Site { expected: site.to_string(), actual };
    if !roster.sites.contains(site) {
        return Err(OpenError::Value {
            field: "site",
            value: site.to_string(),
            expected: "a site of the fabric",
        });
    }
    if request.id.site() != *site {
        return Err(site_error(request.id.site().to_string()));
    }
    let tail = subjects::request_tail(request);
    let tokens: Vec<&str> = subject.splitn(6, '.').collect();
    let (addressed, signed_tail) = match tokens.as_slice() {
        ["nett", "l", "cmd", to, verb, rest] => (*to, format!("{verb}.{rest}")),
        ["nett", "x", "cmd", to, _from, rest] => (*to, (*rest).to_owned()),
        _ => ("", String::new()),
    };
    if signed_tail != tail {
        let (signed, arrived) = (subjects::request(request), subject.to_owned());
        return Err(OpenError::Subject { signed, arrived });
    }
    if addressed != site.as_str() {
        return Err(site_error(addressed.to_owned()));
    }
    Ok(())
}

fn write_ask(ask: &Ask) -> Result<(KindDoc, Map<String, Value>), WireError> {
    match ask {
        Ask::Command { verb, plan_hash, overrides, terms } => {
            let mut body = json::object(&VerbDoc::write(verb))?;
            let Terms { supersede, asserted, without, confirm_within, ramp, until, soft } = terms;
            let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
            let confirm_within_ms = confirm_within.map(ms);
            let ramp = ramp.as_ref().map(|Ramp { steps, dwell, only_while }| RampDoc {
                steps: steps.clone(),
                dwell_ms: ms(*dwell),
                only_while: only_while.clone(),
            });
            let terms = TermsDoc {
                plan_hash: plan_hash.clone(),
                overrides: overrides.clone(),
                supersede: *supersede,
                asserted: write_nodes(asserted),
                without: without.iter().map(ToString::to_string).collect(),
                confirm_within_ms,
                ramp,
                until: until.map(|at| json::write_time("until", at)).transpose()?,
                soft: *soft,
            };
            body.extend(json::object(&terms)?);
            Ok((KindDoc::Command, body))
        }
        Ask::Wish { task, kind } => {
            let task = task.to_string();
            let document = match kind {
                WishKind::Approve { plan_hash } => {
                    let plan_hash = plan_hash.clone();
                    WishDoc::Approve { task, plan_hash }
                }
                WishKind::Reject => WishDoc::Reject { task },
                WishKind::Cancel => WishDoc::Cancel { task },
                WishKind::Pause => WishDoc::Pause { task },
                WishKind::Resume => WishDoc::Resume { task },
                WishKind::Gate { name } => WishDoc::Gate { task, gate: name.clone() },
                WishKind::Confirm => WishDoc::Confirm { task },
                WishKind::Adopt { asserted } => {
                    WishDoc::Adopt { task, asserted: write_nodes(asserted) }
                }
            };
            Ok((KindDoc::Wish, json::object(&document)?))
        }
    }
}

fn write_nodes(nodes: &BTreeSet<NodeId>) -> BTreeSet<String> {
    nodes.iter().map(NodeId::to_string).collect()
}

fn read_nodes(nodes: &BTreeSet<String>) -> Result<BTreeSet<NodeId>, OpenError> {
    nodes.iter().map(|node| id("asserted", node)).collect()
}

fn read_command(mut body: Map<String, Value>) -> Result<Ask, OpenError> {
    let mut terms = Map::new();
    for name in TERMS {
        if let Some((name, value)) = body.remove_entry(name) {
            terms.insert(name, value);
        }
    }
    let TermsDoc {
        plan_hash,
        overrides,
        supersede,
        asserted,
        without,
        confirm_within_ms,
        ramp,
        until,
        soft,
    } = json::read(Value::Object(terms))?;
    let verb: VerbDoc = json::read(Value::Object(body))?;
    if let Some(ms) = confirm_within_ms.filter(|ms| !(1..=CONFIRM_MAX_MS).contains(ms)) {
        return Err(OpenError::Value {
            field: "confirm_within_ms",
            value: ms.to_string(),
            expected: "1 up to 86400000, a day",
        });
    }
    let asserted = read_nodes(&asserted)?;
    let without = without.iter().map(|site| id("without", site)).collect::<Result<_, _>>()?;
    let confirm_within = confirm_within_ms.map(Duration::from_millis);
    let until = until.map(|at| json::read_time("until", &at)).transpose()?;
    let ramp = ramp.map(|RampDoc { steps, dwell_ms, only_while }| Ramp {
        steps,
        dwell: Duration::from_millis(dwell_ms),
        only_while,
    });
    let terms = Terms { supersede, asserted, without, confirm_within, ramp, until, soft };
    Ok(Ask::Command { verb: verb.read()?, plan_hash, overrides, terms })
}

fn read_wish(body: Map<String, Value>) -> Result<Ask, OpenError> {
    let (task, kind) = match json::read(Value::Object(body))? {
        WishDoc::Approve { task, plan_hash } => (task, WishKind::Approve { plan_hash }),
        WishDoc::Reject { task } => (task, WishKind::Reject),
        WishDoc::Cancel { task } => (task, WishKind::Cancel),
        WishDoc::Pause { task } => (task, WishKind::Pause),
        WishDoc::Resume { task } => (task, WishKind::Resume),
        WishDoc::Gate { task, gate } => (task, WishKind::Gate { name: gate }),
        WishDoc::Confirm { task } => (task, WishKind::Confirm),
        WishDoc::Adopt { task, asserted } => {
            (task, WishKind::Adopt { asserted: read_nodes(&asserted)? })
        }
    };
    Ok(Ask::Wish { task: id("task", &task)?, kind })
}

/// A text member of a header, before the shape of the whole is judged.
pub(super) fn text<'a>(
    map: &'a Map<String, Value>,
    field: &'static str,
) -> Result<&'a str, OpenError> {
    let missing = || OpenError::Value { field, value: String::new(), expected: "a text" };
    map.get(field).and_then(Value::as_str).ok_or_else(missing)
}

/// A small number of a header, before the shape of the whole is judged.
pub(super) fn number(map: &Map<String, Value>, field: &'static str) -> Result<u32, OpenError> {
    let value = map.get(field).and_then(Value::as_u64);
    value.and_then(|n| u32::try_from(n).ok()).ok_or_else(|| OpenError::Value {
        field,
        value: String::new(),
        expected: "a number",
    })
}

/// Weights by site, for requests and for entries.
pub(super) fn read_weights(
    field: &'static str,
    weights: BTreeMap<String, u32>,
) -> Result<BTreeMap<nett_policy::id::SiteId, Weight>, OpenError> {
    let read = |(site, weight): (String, u32)| {
        let weight = Weight::new(weight).map_err(|source| OpenError::Id { field, source })?;
        Ok((id(field, &site)?, weight))
    };
    weights.into_iter().map(read).collect()
}

pub(super) fn write_weights(
    weights: &BTreeMap<nett_policy::id::SiteId, Weight>,
) -> BTreeMap<String, u32> {
    let write = |(site, weight): (&nett_policy::id::SiteId, &Weight)| {
        (site.to_string(), u32::from(weight.get()))
    };
    weights.iter().map(write).collect()
}

// === impl OperatorDoc ===

impl OperatorDoc {
    pub(super) fn write(person: &Person, reason: &str) -> Self {
        let Person { name, key } = person;
        Self { name: name.clone(), key: key.clone(), reason: reason.to_owned() }
    }

    pub(super) fn of(request: &Request) -> Self {
        Self::write(&request.person, &request.reason)
    }
}

// === impl ObjectDoc ===

impl ObjectDoc {
    pub(super) fn write(object: &Object) -> Self {
        let mut doc = Self::default();
        match object {
            Object::Site(site) => doc.site = Some(site.to_string()),
            Object::ServiceAt(service, site) => {
                (doc.site, doc.service) = (Some(site.to_string()), Some(service.to_string()));
            }
            Object::Node(node) => doc.node = Some(node.to_string()),
            Object::Link(link) => doc.link = Some(link.to_string()),
            Object::Cluster(cluster) => doc.cluster = Some(cluster.to_string()),
        }
        doc
    }

    pub(super) fn read(self) -> Result<Object, OpenError> {
        let Self { site, service, node, link, cluster } = self;
        Ok(match (site, service, node, link, cluster) {
            (Some(site), None, None, None, None) => Object::Site(id("object.site", &site)?),
            (Some(site), Some(service), None, None, None) => {
                Object::ServiceAt(id("object.service", &service)?, id("object.site", &site)?)
            }
            (None, None, Some(node), None, None) => Object::Node(id("object.node", &node)?),
            (None, None, None, Some(link), None) => Object::Link(id("object.link", &link)?),
            (None, None, None, None, Some(one)) => Object::Cluster(id("object.cluster", &one)?),
            (site, service, node, link, cluster) => {
                let value = format!("{:?}", [site, service, node, link, cluster]);
                let expected = "a site, a service at a site, a node, a link or a cluster";
                return Err(OpenError::Value { field: "object", value, expected });
            }
        })
    }
}

// === impl VerbDoc ===

impl VerbDoc {
    fn write(verb: &Verb) -> Self {
        match verb {
            Verb::Failover { services, to } => {
                Self::Failover { services: services.to_string(), to: to.to_string() }
            }
            Verb::Failback { services } => Self::Failback { services: services.to_string() },
            Verb::Steer { services, to } => {
                Self::Steer { services: services.to_string(), to: write_weights(to) }
            }
            Verb::Drain { object } => Self::Drain { object: ObjectDoc::write(object) },
            Verb::Undrain { object } => Self::Undrain { object: ObjectDoc::write(object) },
            Verb::Evacuate { site, to } => {
                Self::Evacuate { site: site.to_string(), to: to.as_ref().map(ToString::to_string) }
            }
            Verb::Hold { services } => Self::Hold { services: services.to_string() },
            Verb::Release { services } => Self::Release { services: services.to_string() },
            Verb::Revert { task } => Self::Revert { task: task.to_string() },
            Verb::Resolve { subject, to } => Self::Resolve {
                subject: subject.to_string(),
                to: to.as_ref().map(ToString::to_string),
            },
            Verb::Revoke { person } => Self::Revoke { person: person.clone() },
        }
    }

    fn read(self) -> Result<Verb, OpenError> {
        Ok(match self {
            Self::Failover { services, to } => {
                Verb::Failover { services: id("services", &services)?, to: id("to", &to)? }
            }
            Self::Failback { services } => Verb::Failback { services: id("services", &services)? },
            Self::Steer { services, to } => {
                Verb::Steer { services: id("services", &services)?, to: read_weights("to", to)? }
            }
            Self::Drain { object } => Verb::Drain { object: object.read()? },
            Self::Undrain { object } => Verb::Undrain { object: object.read()? },
            Self::Evacuate { site, to } => Verb::Evacuate {
                site: id("site", &site)?,
                to: to.map(|to| id("to", &to)).transpose()?,
            },
            Self::Hold { services } => Verb::Hold { services: id("services", &services)? },
            Self::Release { services } => Verb::Release { services: id("services", &services)? },
            Self::Revert { task } => Verb::Revert { task: id("task", &task)? },
            Self::Resolve { subject, to } => Verb::Resolve {
                subject: id("subject", &subject)?,
                to: to.map(|to| id("to", &to)).transpose()?,
            },
            Self::Revoke { person } => Verb::Revoke { person },
        })
    }
}
