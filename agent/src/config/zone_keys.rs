//! The secrets of the zone: keys of secondaries, and keys that sign.
//!
//! The fabric names them, each node that needs them has them in files. A secret is never part of a
//! message. The files are read here when the configuration is checked, and again when it is used.

use std::path::{Path, PathBuf};

use nett_dns::Keyring;
use nett_dns::tsig::{KeyFileMistake, read_keys};
use nett_policy::document::{Code, Reader};
use nett_policy::fabric::Fabric;

use super::file::AgentDoc;

/// Why a key of the zone cannot be used. The operator must act.
#[derive(Debug, thiserror::Error)]
pub enum ZoneKeyError {
    #[error("cannot read {path}: {source}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path}: {source}")]
    Tsig {
        path: PathBuf,
        #[source]
        source: KeyFileMistake,
    },
}

/// The keys of the file; none without a file.
///
/// # Errors
/// The file cannot be read, or is not one of keys.
pub fn read_keyring(path: Option<&Path>) -> Result<Keyring, ZoneKeyError> {
    let Some(path) = path else {
        return Ok(Keyring::default());
    };
    let text = std::fs::read_to_string(path)
        .map_err(|source| ZoneKeyError::Read { path: path.to_owned(), source })?;
    let keys =
        read_keys(&text).map_err(|source| ZoneKeyError::Tsig { path: path.to_owned(), source })?;
    Ok(Keyring::new(keys))
}

/// Reports files that are no key files, and keys that this node lacks.
pub(super) fn check(r: &Reader<'_>, doc: &AgentDoc, fabric: Option<&Fabric>) {
    let file = doc.dns().tsig_keys.as_ref();
    let keyring = match read_keyring(file.map(|f| f.value.as_path())) {
        Ok(keyring) => keyring,
        Err(error) => {
            let span = file.expect("without a file nothing fails").span;
            let hint = "`tsig-keygen NAME` writes one; the agent must be able to read it";
            r.report(r.mistake(Code::BadKeyFile, span, error.to_string()).hint(hint));
            return;
        }
    };
    let (Some(fabric), Some(node)) = (fabric, &doc.node) else { return };
    let transfer = &fabric.zone.transfer;
    if transfer.from.as_ref() != Some(&node.value) {
        return;
    }
    for name in transfer.to.iter().filter_map(|s| s.tsig.as_deref()) {
        if !keyring.has(name) {
            let message =
                format!("`{}` gives copies of the zone and has no TSIG key `{name}`", node.value);
            let span = file.map_or(node.span, |f| f.span);
            r.report(
                r.mistake(Code::TsigKeyMissing, span, message).hint(
                    "put it into the file that `dns.tsig_keys` names; `tsig-keygen` makes one",
                ),
            );
        }
    }
}
