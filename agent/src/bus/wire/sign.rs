//! Signatures over canonical JSON: ed25519 by nkeys, written in base64url without padding.
//!
//! A message carries its signature in the member `sig`, which is not itself signed. This module
//! says whether a key made a signature; whose key may speak is decided from the fabric by the
//! callers.

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{OpenError, WireError, json};

/// Who signs what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Signer {
    Operator,
    Agent,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureDoc {
    by: Signer,
    key: String,
    value: String,
}

/// A message taken apart: what was signed, and by whom it says it was.
pub(super) struct Signed {
    /// Without `sig`.
    pub(super) map: Map<String, Value>,
    /// The canonical form of `map`.
    pub(super) canonical: Vec<u8>,
    /// The key the message names; proves nothing before [`Signed::verify`].
    pub(super) key: String,
    signature: Vec<u8>,
}

impl Signed {
    pub(super) fn take(mut map: Map<String, Value>, signer: Signer) -> Result<Self, OpenError> {
        let sig = map.remove("sig").ok_or(OpenError::SignatureForm)?;
        let mut list: Vec<SignatureDoc> =
            serde_json::from_value(sig).map_err(|_| OpenError::SignatureForm)?;
        let (Some(SignatureDoc { by, key, value }), true) = (list.pop(), list.is_empty()) else {
            return Err(OpenError::SignatureForm);
        };
        let signature = BASE64URL_NOPAD.decode(value.as_bytes());
        let (Ok(signature), true) = (signature, by == signer) else {
            return Err(OpenError::SignatureForm);
        };
        let canonical = json::canonical(&map).map_err(|_| OpenError::NotCanonical)?;
        Ok(Self { map, canonical, key, signature })
    }

    pub(super) fn verify(&self) -> Result<(), OpenError> {
        let refused = || OpenError::Signature { key: self.key.clone() };
        let key = KeyPair::from_public_key(&self.key).map_err(|_| refused())?;
        key.verify(&self.canonical, &self.signature).map_err(|_| refused())
    }

    /// The SHA-256 that links entries.
    pub(super) fn hash(&self) -> String {
        nett_policy::id::sha256_hex(&self.canonical)
    }
}

/// Signs a message; gives the whole message in canonical form and the hash of what was signed.
pub(super) fn seal(
    map: Map<String, Value>,
    signer: Signer,
    key: &KeyPair,
) -> Result<(Vec<u8>, String), WireError> {
    seal_within(map, signer, key, json::MAX_BYTES)
}

/// As [`seal`], with another limit.
pub(super) fn seal_within(
    mut map: Map<String, Value>,
    signer: Signer,
    key: &KeyPair,
    limit: usize,
) -> Result<(Vec<u8>, String), WireError> {
    let canonical = json::canonical(&map)?;
    let signature = key.sign(&canonical).map_err(WireError::Key)?;
    let sig = SignatureDoc {
        by: signer,
        key: key.public_key(),
        value: BASE64URL_NOPAD.encode(&signature),
    };
    let list = serde_json::to_value([sig]).map_err(WireError::Encode)?;
    map.insert("sig".to_owned(), list);
    let bytes = json::canonical(&map)?;
    if bytes.len() > limit {
        return Err(WireError::TooLarge { size: bytes.len(), limit });
    }
    Ok((bytes, nett_policy::id::sha256_hex(&canonical)))
}
