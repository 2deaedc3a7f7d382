//! `nettctl rejoin`: an operator's word that a voter will not come back with its votes.

use nett_policy::id::SiteId;

use crate::api::types::ApiRequest;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Args {
    /// The site whose voter this node's voter need not read
    #[arg(long, value_name = "SITE")]
    without: SiteId,
    /// Why; goes on record
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) async fn run(args: &Args, session: &mut Session) -> Result<Exit, CtlError> {
    let request =
        ApiRequest::Rejoin { without: args.without.to_string(), reason: args.reason.clone() };
    session.show(&request).await?;
    Ok(Exit::Done)
}
