//! Requests and facts as a program of somebody else signs them, at any time it says.
//!
//! Written after docs/PROTOCOL.md and without Nett's code: canonical JSON has sorted names and no
//! spaces, which is how `serde_json` writes a [`Value`].

use std::fs;

use anyhow::{Context, Result};
use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use nkeys::KeyPair;
use serde_json::{Value, json};
use ulid::Ulid;

use crate::lab::Lab;

/// From when until when something says it is good, in milliseconds from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub from: i64,
    pub to: i64,
}

/// Bytes with the subject that they are signed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub subject: String,
    pub bytes: Vec<u8>,
}

/// What a reporter says that it measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured<'a> {
    pub service: &'a str,
    pub name: &'a str,
    /// Text with up to three decimals.
    pub value: &'a str,
    pub unit: &'a str,
}

/// A person with a key of the lab.
#[derive(Debug)]
pub struct Signer {
    pub name: String,
    key: KeyPair,
}

/// As `nettctl` signs: from now on, for less than a minute.
pub const NOW: Span = Span { from: 0, to: 55_000 };

// === impl Signer ===

impl Signer {
    pub fn of(lab: &Lab, name: &str) -> Result<Self> {
        let seed = fs::read_to_string(lab.keys().seed(name))?;
        Ok(Self { name: name.to_owned(), key: KeyPair::from_seed(seed.trim())? })
    }

    /// A command about one service: `body` has its verb and the service.
    pub fn command(&self, site: &str, body: &Value, span: Span) -> Result<Message> {
        let word = |name: &str| body[name].as_str().with_context(|| format!("no {name}: {body}"));
        let (verb, service) = (word("verb")?, word("services")?.replace('/', "~"));
        let subject = format!("nett.l.cmd.{site}.{verb}.service.{service}");
        let request = json!({
            "v": 1, "min_reader": 1, "id": format!("{site}.{}", ulid()), "kind": "command",
            "subject": subject, "site": site,
            "issued_at": timestamp(span.from)?, "expires_at": timestamp(span.to)?,
            "operator": {
                "name": self.name, "key": self.key.public_key(), "reason": "told in a story",
            },
            "body": body,
        });
        self.sign(subject, request)
    }

    /// A fact that was measured at the beginning of `span`.
    pub fn fact(&self, site: &str, measured: Measured<'_>, span: Span) -> Result<Message> {
        let Measured { service, name, value, unit } = measured;
        let subject = format!("nett.l.fact.{site}.{}.{name}", service.replace('/', "~"));
        let fact = json!({
            "v": 1, "min_reader": 1, "id": format!("{site}.{}", ulid()), "kind": "fact",
            "subject": subject, "site": site, "service": service, "name": name,
            "value": value, "unit": unit,
            "measured_at": timestamp(span.from)?, "expires_at": timestamp(span.to)?,
            "operator": {"name": self.name, "key": self.key.public_key()},
        });
        self.sign(subject, fact)
    }

    fn sign(&self, subject: String, mut document: Value) -> Result<Message> {
        let signature = self.key.sign(&serde_json::to_vec(&document)?)?;
        let value = BASE64URL_NOPAD.encode(&signature);
        document["sig"] = json!([{"by": "operator", "key": self.key.public_key(), "value": value}]);
        Ok(Message { subject, bytes: serde_json::to_vec(&document)? })
    }
}

/// RFC 3339 with milliseconds, some milliseconds from now.
fn timestamp(ahead: i64) -> Result<String> {
    let at = Timestamp::now().as_millisecond() + ahead;
    Ok(format!("{:.3}", Timestamp::from_millisecond(at)?))
}

/// 26 characters that nobody else makes.
fn ulid() -> String {
    Ulid::generate().to_string().to_lowercase()
}
