//! Key files: one nkey seed in a file that nobody else may read.
//!
//! A seed is never part of a message, and an existing file is never overwritten.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nkeys::{KeyPair, KeyPairType};

/// Why a key file cannot be used. The operator must act.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("cannot read the key file {path}: {source}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the key file {0} does not hold the seed of a user nkey")]
    NotASeed(PathBuf),
}

/// Why no new key was made.
#[derive(Debug, thiserror::Error)]
pub enum KeygenError {
    #[error(
        "{0} exists already, and a key is never overwritten: move it away or name another file"
    )]
    Exists(PathBuf),
    #[error("cannot write {path}: {source}")]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("no random numbers for a new key: {0}")]
    Random(#[source] nkeys::error::Error),
}

impl KeyFileError {
    /// What to do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Read { .. } => "`nett-agent keygen` makes a key file; the agent must own it",
            Self::NotASeed(_) => "one line that begins with `SU`, as `nett-agent keygen` writes it",
        }
    }
}

/// The key pair in the file.
///
/// # Errors
/// The file cannot be read, or holds something other than a user seed.
pub fn read_seed(path: &Path) -> Result<KeyPair, KeyFileError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| KeyFileError::Read { path: path.to_owned(), source })?;
    match KeyPair::from_seed(text.trim()) {
        Ok(pair) if pair.key_pair_type() == KeyPairType::User => Ok(pair),
        _ => Err(KeyFileError::NotASeed(path.to_owned())),
    }
}

/// Makes a key pair, writes its seed to a new file with mode 0600 and returns the public key.
///
/// # Errors
/// The file exists or cannot be written, or the system has no random numbers.
pub fn keygen(path: &Path) -> Result<String, KeygenError> {
    let pair = KeyPair::new_user();
    let seed = pair.seed().map_err(KeygenError::Random)?;
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AlreadyExists => KeygenError::Exists(path.to_owned()),
        _ => KeygenError::Write { path: path.to_owned(), source },
    };
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let written = writeln!(file, "{seed}").and_then(|()| file.sync_all());
    written.map_err(failed)?;
    Ok(pair.public_key())
}
