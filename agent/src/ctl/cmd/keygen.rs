//! `nettctl keygen`.

use std::path::PathBuf;

use nkeys::KeyPair;

use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::key;
use crate::ctl::session::Session;

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Args {
    /// A new file for the seed, mode 0600
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Prints the public key: what goes into `fabric.toml`.
pub(super) fn run(args: &Args, session: &Session) -> Result<Exit, CtlError> {
    let pair = KeyPair::new_user();
    let seed = pair.seed().map_err(|e| CtlError::Sign(crate::ctl::sign::SignError::Key(e)))?;
    key::write_seed(&args.out, &seed)?;
    session.out.line(&pair.public_key())?;
    Ok(Exit::Done)
}
