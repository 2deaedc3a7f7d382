//! The secrets of the zone: keys of secondaries, and keys that sign.
//!
//! The fabric names them, each node that needs them has them in files. A secret is never part of a
//! message. The files are read here when the configuration is checked, and again when it is used.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nett_dns::Keyring;
use nett_dns::dnssec::{Keys, SigningStats, ZoneKey, ZoneKeyMistake};
use nett_dns::tsig::{KeyFileMistake, read_keys};
use nett_policy::document::{Code, Reader};
use nett_policy::fabric::{self, Dnssec, Fabric, ZoneKeys};

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
    Zone {
        path: PathBuf,
        #[source]
        source: ZoneKeyMistake,
    },
    #[error("the zone is signed, and `dns.key_dir` does not say where its keys are")]
    NoDirectory,
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

/// The keys that sign the zone; `None` for a zone that is not signed.
///
/// # Errors
/// A key is not in the directory, or cannot be used.
pub fn read_zone_keys(
    directory: Option<&Path>,
    zone: &fabric::Zone,
    stats: &Arc<SigningStats>,
) -> Result<Option<Keys>, ZoneKeyError> {
    let Some(Dnssec { keys, publish, validity }) = &zone.dnssec else {
        return Ok(None);
    };
    let directory = directory.ok_or(ZoneKeyError::NoDirectory)?;
    let text = |name: &str, ending: &str| {
        let path = directory.join(format!("{name}.{ending}"));
        let text = std::fs::read_to_string(&path);
        let text = text.map_err(|source| ZoneKeyError::Read { path: path.clone(), source })?;
        Ok((path, text))
    };
    let read = |name: &str, signs: bool| {
        let (path, public) = text(name, "key")?;
        let private = signs.then(|| text(name, "private")).transpose()?;
        let private = private.as_ref().map(|(_, text)| text.as_str());
        let key = ZoneKey::read(&zone.name, &public, private);
        key.map(Arc::new).map_err(|source| ZoneKeyError::Zone { path, source })
    };
    let signing = match keys {
        ZoneKeys::One(csk) => (read(csk, true)?, None),
        ZoneKeys::Split { ksk, zsk } => (read(ksk, true)?, Some(read(zsk, true)?)),
    };
    let published = publish.iter().map(|name| read(name, false));
    let published = published.collect::<Result<Vec<_>, ZoneKeyError>>()?;
    let keys = Keys::new(&zone.name, signing, published, *validity, Arc::clone(stats));
    Ok(Some(keys.expect("both have private halves, and the zone's name is checked")))
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
    if !doc.dns().listen.is_empty() {
        signing(r, doc, fabric);
    }
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

/// Reports keys of a signed zone that a name server of it cannot use.
fn signing(r: &Reader<'_>, doc: &AgentDoc, fabric: &Fabric) {
    let directory = doc.dns().key_dir.as_ref();
    let path = directory.map(|d| d.value.as_path());
    if let Err(error) = read_zone_keys(path, &fabric.zone, &Arc::default()) {
        let Some(span) = directory.map(|d| d.span).or(doc.node.as_ref().map(|n| n.span)) else {
            return;
        };
        let hint = "`dnssec-keygen -a ECDSAP256SHA256 -f KSK -K DIR ZONE` makes a key, the same \
                    for all name servers";
        let mistake = r.mistake(Code::ZoneKeyMissing, span, error.to_string());
        r.report(mistake.hint(hint));
    }
}
