//! `[[service.external]]` as written, and whether the fabric knows those who are named there.

use std::collections::BTreeSet;
use std::time::Duration;

use super::code::Code;
use super::fabric_check::Unique;
use super::fabric_file::{FabricDoc, OperatorDoc};
use super::form::{self, Flaw};
use super::nearest::nearest;
use super::read::{At, Reader, Section};
use super::service_file::ServiceDoc;
use crate::fabric::OperatorRole;
use crate::service::{Party, When};

/// How often a service may ask somebody in one move.
const MOST: usize = 16;

/// Who takes part in the moves of a service, in file order.
pub(super) fn parties(r: &Reader<'_>, s: &Section<'_, '_>) -> Vec<At<Party>> {
    let Some(value) = s.optional("external") else { return Vec::new() };
    let mut places = Unique::new(r, Code::DuplicateId, "the external party");
    let parties = r.items(value, |v| {
        let party = r.section(v, "[[service.external]]", |s| party(r, s))?;
        places.add(format!("{} {}", party.value.name, party.value.when), party.span);
        Some(party)
    });
    if let Some(more) = parties.get(MOST) {
        let message = format!("a service asks at most {MOST} times outside in one move");
        r.report(r.mistake(Code::TooMany, more.span, message));
    }
    parties
}

fn party(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<At<Party>> {
    let places = When::ALL.map(|when| (when.as_str(), when));
    let name = s.required("name").and_then(|v| r.parse_text(v, form::name));
    let when = s.required("when").and_then(|v| r.choice(v, &places));
    let timeout = s.optional("timeout").and_then(|v| r.parse_text(v, patience));
    let undo = s.optional("undo").and_then(|v| r.boolean(v));
    let name = name?;
    let value = Party {
        when: when?.value,
        timeout: timeout.map_or(Party::TIMEOUT, |time| time.value),
        undo: undo.unwrap_or(true),
        name: name.value,
    };
    Some(At { value, span: name.span })
}

fn patience(text: &str) -> Result<Duration, Flaw> {
    let time = form::some_time(text)?;
    if time < Duration::from_secs(1) || time > Party::LONGEST {
        let message = format!("somebody outside has 1s to 1h for an answer, not `{text}`");
        return Err(Flaw::new(Code::OutOfRange, message));
    }
    Ok(time)
}

/// Whoever is asked must be able to answer: an acknowledgement is signed by an operator.
pub(super) fn known(r: &Reader<'_>, service: &ServiceDoc, fabric: &FabricDoc) {
    if !fabric.whole {
        return;
    }
    let id = &service.id.value;
    let may = |o: &&OperatorDoc| {
        o.roles.contains(&OperatorRole::Gate)
            && (o.services.is_empty() || o.services.iter().any(|s| s.matches(id)))
    };
    let known: BTreeSet<&str> =
        fabric.operators.iter().filter(may).map(|o| o.name.value.as_str()).collect();
    for party in service.external.iter().filter(|p| !known.contains(p.value.name.as_str())) {
        let name = &party.value.name;
        let message = format!("no operator `{name}` has the role `gate` for `{id}`");
        let hint = match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!(
                "add an [[operator]] `{name}` with a key of its own and `roles = [\"gate\"]` to \
                 the fabric file"
            ),
        };
        r.report(r.mistake(Code::UnknownParty, party.span, message).hint(hint));
    }
}
