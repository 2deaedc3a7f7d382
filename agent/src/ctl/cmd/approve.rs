//! `nettctl approve`.

use nett_policy::id::EntryId;

use super::parse;
use crate::ctl::args::Signing;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;
use crate::ctl::submit::{self, Wanted};

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Args {
    /// Task id
    #[arg(value_parser = parse::task)]
    id: EntryId,
    #[command(flatten)]
    signing: Signing,
}

pub(super) async fn run(args: Args, session: &mut Session) -> Result<Exit, CtlError> {
    submit::wish(session, args.id, Wanted::Approve, &args.signing).await
}
