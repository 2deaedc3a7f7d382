//! `nettctl site`.

use nett_policy::id::SiteId;

use crate::api::types::ApiRequest;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;

#[derive(Debug, clap::Subcommand)]
pub(in crate::ctl) enum Sub {
    /// Sites, one line each
    List,
    /// One site with its nodes
    Show { id: SiteId },
}

pub(super) async fn run(sub: Sub, session: &mut Session) -> Result<Exit, CtlError> {
    let request = match sub {
        Sub::List => ApiRequest::Sites {},
        Sub::Show { id } => ApiRequest::Site { id: id.to_string() },
    };
    session.show(&request).await?;
    Ok(Exit::Done)
}
