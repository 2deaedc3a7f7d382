//! A fact from an outside reporter: what was measured, signed by a key with the role `gate`.
//!
//! Values are text, because messages have no fractions. Whether a fact is still good is judged
//! where it is used.

use nett_policy::fabric::OperatorRole;
use nett_policy::fact::{Fact, FactKey, Measured, Thousandths};
use nett_policy::id::{ServiceId, SiteId};
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::sign::{self, Signed, Signer};
use super::{Judge, OpenError, VERSION, WireError, check_versions, id, json};
use crate::bus::subject as subjects;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FactDoc {
    v: u32,
    min_reader: u32,
    id: String,
    kind: KindDoc,
    subject: String,
    site: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    name: String,
    value: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    unit: String,
    measured_at: String,
    expires_at: String,
    operator: ReporterDoc,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindDoc {
    Fact,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReporterDoc {
    name: String,
    key: String,
}

/// A fact as the start of a step carries it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MeasuredDoc {
    id: String,
    service: String,
    name: String,
    value: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    unit: String,
    measured_at: String,
}

/// Where a fact is reported: `nett.l.fact.SITE.SERVICE.NAME`.
pub fn fact_subject(site: &SiteId, (service, name): &FactKey) -> String {
    subjects::fact(site, service.as_ref(), name)
}

/// Signs a fact for the agents of a site; `fact.person` is the operator whose key it is.
pub fn seal_fact(
    site: &SiteId,
    about: &FactKey,
    fact: &Fact,
    key: &KeyPair,
) -> Result<Vec<u8>, WireError> {
    let Fact { id, value, unit, measured_at, expires_at, person } = fact;
    let (service, name) = about;
    let document = FactDoc {
        v: VERSION,
        min_reader: VERSION,
        id: id.to_string(),
        kind: KindDoc::Fact,
        subject: fact_subject(site, about),
        site: site.to_string(),
        service: service.as_ref().map(ToString::to_string),
        name: name.clone(),
        value: value.to_string(),
        unit: unit.clone(),
        measured_at: json::write_time("measured_at", *measured_at)?,
        expires_at: json::write_time("expires_at", *expires_at)?,
        operator: ReporterDoc { name: person.clone(), key: key.public_key() },
    };
    Ok(sign::seal(json::object(&document)?, Signer::Operator, key)?.0)
}

/// Opens a fact that came on `subject`: signed by somebody who may report, for this site.
pub fn open_fact(
    bytes: &[u8],
    subject: &str,
    site: &SiteId,
    judge: &dyn Judge,
) -> Result<(FactKey, Fact), OpenError> {
    let signed = Signed::take(json::parse(bytes)?, Signer::Operator)?;
    let roster = judge.now();
    let operator = roster
        .operator_by_key(&signed.key)
        .ok_or_else(|| OpenError::UnknownOperator { key: signed.key.clone() })?;
    signed.verify()?;
    let key = signed.key.clone();
    let FactDoc {
        v,
        min_reader,
        id: fact_id,
        kind: KindDoc::Fact,
        subject: named,
        site: addressed,
        service,
        name,
        value,
        unit,
        measured_at,
        expires_at,
        operator: reporter,
    } = json::read(Value::Object(signed.map))?;
    check_versions(v, min_reader, &named)?;
    if reporter.name != operator.name || reporter.key != key {
        return Err(OpenError::OperatorName { name: reporter.name, key });
    }
    if !operator.roles.contains(&OperatorRole::Gate) {
        return Err(OpenError::Value {
            field: "operator",
            value: reporter.name,
            expected: "somebody with the role `gate`",
        });
    }
    if addressed != site.as_str() {
        return Err(OpenError::Site { expected: site.to_string(), actual: addressed });
    }
    let service: Option<ServiceId> = service.map(|text| id("service", &text)).transpose()?;
    let about = (service, fact_name(name)?);
    let expected = fact_subject(site, &about);
    if named != expected || subject != named {
        let arrived = if named == expected { subject.to_owned() } else { named };
        return Err(OpenError::Subject { signed: expected, arrived });
    }
    let fact = Fact {
        id: id("id", &fact_id)?,
        value: number("value", &value)?,
        unit,
        measured_at: json::read_time("measured_at", &measured_at)?,
        expires_at: json::read_time("expires_at", &expires_at)?,
        person: operator.name.clone(),
    };
    Ok((about, fact))
}

/// A name is one word of the subject.
fn fact_name(name: String) -> Result<String, OpenError> {
    match id::<SiteId>("name", &name) {
        Ok(_) => Ok(name),
        Err(error) => Err(error),
    }
}

fn number(field: &'static str, text: &str) -> Result<Thousandths, OpenError> {
    text.parse().map_err(|_| OpenError::Value {
        field,
        value: text.to_owned(),
        expected: "a number with at most three decimals, as text",
    })
}

// === impl MeasuredDoc ===

impl MeasuredDoc {
    pub(super) fn write(measured: &Measured) -> Result<Self, WireError> {
        let Measured { id, service, name, value, unit, measured_at } = measured;
        Ok(Self {
            id: id.to_string(),
            service: service.to_string(),
            name: name.clone(),
            value: value.to_string(),
            unit: unit.clone(),
            measured_at: json::write_time("measured_at", *measured_at)?,
        })
    }

    pub(super) fn read(self) -> Result<Measured, OpenError> {
        let Self { id: fact, service, name, value, unit, measured_at } = self;
        Ok(Measured {
            id: id("facts.id", &fact)?,
            service: id("facts.service", &service)?,
            name,
            value: number("facts.value", &value)?,
            unit,
            measured_at: json::read_time("facts.measured_at", &measured_at)?,
        })
    }
}
