//! `nettctl failback`.

use nett_policy::id::Selector;
use nett_policy::log::entry::Verb;

use crate::ctl::args::Change;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;
use crate::ctl::submit;

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Args {
    /// Service id or selector (shop/prod/*)
    id: Selector,
    #[command(flatten)]
    pub(super) change: Change,
}

impl Args {
    pub(super) fn verb(&self) -> Verb {
        Verb::Failback { services: self.id.clone() }
    }
}

pub(super) async fn run(args: Args, session: &mut Session) -> Result<Exit, CtlError> {
    submit::command(session, args.verb(), &args.change).await
}
