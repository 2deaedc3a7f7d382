//! From a request to the signed bytes of its envelope, and the subject they are for.
//!
//! The form is the bus's (`docs/PROTOCOL.md`): RFC 8785 JSON, signed without `sig`.

use data_encoding::BASE64URL_NOPAD;
use nett_policy::id::WallMs;
use nett_policy::log::entry::{Ask, Object, Request, Verb, WishKind};
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::api::types::VerbDoc;

/// A request that cannot be written down or signed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignError {
    #[error("the key cannot sign; is it a seed (SU...)?")]
    Key(#[source] nkeys::error::Error),
    #[error("the request has no JSON form")]
    Encode(#[source] serde_json::Error),
}

/// A request as it is sent.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) subject: String,
    pub(super) envelope: Vec<u8>,
}

pub(super) fn seal(request: &Request, key: &KeyPair) -> Result<Sealed, SignError> {
    let subject = subject(request);
    let Request { id, site, person, reason, issued_at, expires_at, ask } = request;
    let (kind, body) = match ask {
        Ask::Command { verb, plan_hash, overrides } => {
            let verb = VerbDoc::from(verb);
            let mut body = serde_json::to_value(verb).map_err(SignError::Encode)?;
            if let Some(hash) = plan_hash {
                body["plan_hash"] = json!(hash);
            }
            if !overrides.is_empty() {
                body["overrides"] = json!(overrides);
            }
            ("command", body)
        }
        Ask::Wish { task, kind } => {
            let task = task.to_string();
            let body = match kind {
                WishKind::Approve { plan_hash } => {
                    json!({"wish": "approve", "task": task, "plan_hash": plan_hash})
                }
                WishKind::Reject => json!({"wish": "reject", "task": task}),
            };
            ("wish", body)
        }
    };
    let mut document = json!({
        "v": 1,
        "min_reader": 1,
        "id": id.to_string(),
        "kind": kind,
        "subject": subject,
        "site": site.to_string(),
        "issued_at": time(*issued_at),
        "expires_at": time(*expires_at),
        "operator": {"name": person.name, "key": person.key, "reason": reason},
        "body": body,
    });
    let signature = key.sign(&canonical(&document)?).map_err(SignError::Key)?;
    document["sig"] = json!([{
        "by": "operator",
        "key": key.public_key(),
        "value": BASE64URL_NOPAD.encode(&signature),
    }]);
    let envelope = canonical(&document)?;
    Ok(Sealed { subject, envelope })
}

fn canonical(document: &Value) -> Result<Vec<u8>, SignError> {
    serde_json_canonicalizer::to_vec(document).map_err(SignError::Encode)
}

fn time(at: WallMs) -> String {
    let ms = i64::try_from(at.0).unwrap_or(i64::MAX);
    let at = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX);
    format!("{at:.3}")
}

/// `nett.l.cmd.SITE.VERB.KIND.ID`.
fn subject(request: &Request) -> String {
    let (verb, about) = match &request.ask {
        Ask::Command { verb, .. } => (verb.name(), about(verb)),
        Ask::Wish { task, kind } => {
            let verb = match kind {
                WishKind::Approve { .. } => "approve",
                WishKind::Reject => "reject",
            };
            (verb, format!("task.{}", task.token()))
        }
    };
    format!("nett.l.cmd.{}.{verb}.{about}", request.site)
}

fn about(verb: &Verb) -> String {
    match verb {
        Verb::Failover { services, to: _ } => selector(services),
        Verb::Steer { services, to: _ } => selector(services),
        Verb::Failback { services } => selector(services),
        Verb::Drain { object } | Verb::Undrain { object } => match object {
            Object::Site(site) => format!("site.{site}"),
            Object::ServiceAt(service, _) => format!("service.{}", service.token()),
        },
        Verb::Revert { task } => format!("task.{}", task.token()),
    }
}

fn selector(services: &nett_policy::id::Selector) -> String {
    if services.is_exact() {
        format!("service.{}", services.as_str().replace('/', "~"))
    } else {
        "service.many".to_owned()
    }
}
