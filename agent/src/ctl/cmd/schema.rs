//! `nettctl schema`.

use crate::api::schema::SCHEMA;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Args {}

pub(super) fn run(Args {}: &Args, session: &Session) -> Result<Exit, CtlError> {
    session.out.raw(SCHEMA.as_bytes())?;
    Ok(Exit::Done)
}
