//! `nettctl hold` and `nettctl release`.

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
    pub(super) fn verb(&self, hold: bool) -> Verb {
        let services = self.id.clone();
        if hold { Verb::Hold { services } } else { Verb::Release { services } }
    }
}

pub(super) async fn run(args: Args, hold: bool, session: &mut Session) -> Result<Exit, CtlError> {
    submit::command(session, args.verb(hold), &args.change).await
}
