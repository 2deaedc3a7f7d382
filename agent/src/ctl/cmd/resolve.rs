//! `nettctl conflicts` and `nettctl resolve`.

use nett_policy::id::SiteId;
use nett_policy::log::conflict::Contested;
use nett_policy::log::entry::Verb;

use crate::api::types::ApiRequest;
use crate::ctl::args::Change;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;
use crate::ctl::submit;

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Args {
    /// What the split decision is about, as `nettctl conflicts` names it
    id: Contested,
    /// Where the service is to be [default: where the winner has it]
    #[arg(long, value_name = "SITE")]
    to: Option<SiteId>,
    #[command(flatten)]
    pub(super) change: Change,
}

impl Args {
    pub(super) fn verb(&self) -> Verb {
        Verb::Resolve { subject: self.id.clone(), to: self.to.clone() }
    }
}

pub(super) async fn run(args: Args, session: &mut Session) -> Result<Exit, CtlError> {
    submit::command(session, args.verb(), &args.change).await
}

pub(super) async fn list(session: &mut Session) -> Result<Exit, CtlError> {
    session.show(&ApiRequest::Conflicts {}).await?;
    Ok(Exit::Done)
}
