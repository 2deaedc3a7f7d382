//! `nettctl simulate`.

use nett_policy::simulate::Lost;

use crate::api::types::ApiRequest;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Args {
    /// What is lost: site:ID, node:ID, link:ID or risk:NAME
    #[arg(long, value_name = "WHAT")]
    lose: Lost,
}

pub(super) async fn run(args: &Args, session: &mut Session) -> Result<Exit, CtlError> {
    session.show(&ApiRequest::Simulate { lose: args.lose.to_string() }).await?;
    Ok(Exit::Done)
}
