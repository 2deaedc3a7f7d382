//! `nettctl restore`.

use std::path::PathBuf;

use nett_policy::id::sha256_hex;

use crate::api::types::ApiRequest;
use crate::ctl::archive::Archive;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::provision;
use crate::ctl::session::Session;

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Args {
    /// What `nettctl backup` has written, at this node or another one
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Why; goes on record
    #[arg(long, value_name = "TEXT", required_unless_present = "audit_to")]
    reason: Option<String>,
    /// Write the audit trail that is in it there instead, and change nothing
    #[arg(long, value_name = "FILE")]
    audit_to: Option<PathBuf>,
}

/// A piece is at most so many bytes: as JSON it is at most twice as long, and fits into a call.
const PIECE: usize = 100_000;

pub(super) async fn run(args: &Args, session: &mut Session) -> Result<Exit, CtlError> {
    let archive = Archive::read(&args.file)?;
    session.out.note(&archive.summary())?;
    if let Some(path) = &args.audit_to {
        provision::write_private(path, &archive.audit)?;
        return Ok(Exit::Done);
    }
    let (log, hash) = (archive.log.as_str(), sha256_hex(archive.log.as_bytes()));
    let reason = args.reason.clone().unwrap_or_default();
    let mut from = 0;
    loop {
        let end = boundary(log, from + PIECE);
        let piece = ApiRequest::Restore {
            fabric: archive.fabric.clone(),
            hash: hash.clone(),
            from: from as u64,
            text: log[from..end].to_owned(),
            last: end == log.len(),
            reason: reason.clone(),
        };
        if end == log.len() {
            session.show(&piece).await?;
            return Ok(Exit::Done);
        }
        session.payload(&piece).await?;
        from = end;
    }
}

/// The last place up to `at` where a character ends.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}
