//! The operator's nkey: read from a file, made by `keygen`. Never shown in errors or logs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nkeys::{KeyPair, KeyPairType};

use super::exit::CtlError;

/// The seed in a file: its first line that is neither empty nor a comment (`#`).
pub(super) fn read_seed(path: &Path) -> Result<String, CtlError> {
    let text = fs::read_to_string(path).map_err(|source| CtlError::File {
        path: path.to_owned(),
        hint: "--key (NETT_KEY) names the operator's seed; see nettctl keygen",
        source,
    })?;
    let mut lines = text.lines().map(str::trim);
    let seed = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    let bad = || CtlError::Seed { path: path.to_owned() };
    let seed = seed.ok_or_else(bad)?;
    parse(seed).ok_or_else(bad)?;
    Ok(seed.to_owned())
}

/// A user's key pair, or nothing.
pub(super) fn parse(seed: &str) -> Option<KeyPair> {
    let pair = KeyPair::from_seed(seed).ok()?;
    matches!(pair.key_pair_type(), KeyPairType::User).then_some(pair)
}

/// Writes a seed to a new file with mode 0600; an existing one is never overwritten.
pub(super) fn write_seed(path: &Path, seed: &str) -> Result<(), CtlError> {
    let failed = |source| CtlError::File {
        path: path.to_owned(),
        hint: "choose a new file in an existing directory; keys are never overwritten",
        source,
    };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    writeln!(file, "{seed}").map_err(failed)?;
    file.sync_all().map_err(failed)
}
