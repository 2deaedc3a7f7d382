//! `nettctl failover`.

use nett_policy::id::{Selector, SiteId};
use nett_policy::log::entry::Verb;

use crate::ctl::args::{Change, More};
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;
use crate::ctl::submit;

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Args {
    /// Service id or selector (shop/prod/*)
    id: Selector,
    /// The site that is to serve
    #[arg(long, value_name = "SITE")]
    to: SiteId,
    /// Services under a lease only: serve although no majority of the voters is left, because the
    /// sites named by --without are off; needs somebody's approval
    #[arg(long)]
    without_quorum: bool,
    /// With --without-quorum: you say that this site is off, and that nobody there serves before it
    /// has read the log; may be repeated
    #[arg(long, value_name = "SITE", requires = "without_quorum")]
    without: Vec<SiteId>,
    #[command(flatten)]
    change: Change,
}

impl Args {
    pub(super) fn verb(&self) -> Verb {
        Verb::Failover { services: self.id.clone(), to: self.to.clone() }
    }

    pub(super) fn change(&self) -> Change {
        let without = self.without_quorum.then(|| self.without.iter().cloned().collect());
        Change { more: More { without, ..More::default() }, ..self.change.clone() }
    }
}

pub(super) async fn run(args: Args, session: &mut Session) -> Result<Exit, CtlError> {
    submit::command(session, args.verb(), &args.change()).await
}
