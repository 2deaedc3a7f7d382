//! `nettctl revert`.

use nett_policy::id::EntryId;
use nett_policy::log::entry::Verb;

use super::parse;
use crate::ctl::args::Change;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;
use crate::ctl::submit;

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Args {
    /// Task id
    #[arg(value_parser = parse::task)]
    id: EntryId,
    #[command(flatten)]
    pub(super) change: Change,
}

impl Args {
    pub(super) fn verb(&self) -> Verb {
        Verb::Revert { task: self.id.clone() }
    }
}

pub(super) async fn run(args: Args, session: &mut Session) -> Result<Exit, CtlError> {
    submit::command(session, args.verb(), &args.change).await
}
