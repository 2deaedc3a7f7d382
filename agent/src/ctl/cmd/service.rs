//! `nettctl service`.

use nett_policy::id::{Selector, ServiceId};

use crate::api::types::ApiRequest;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;

#[derive(Debug, clap::Subcommand)]
pub(in crate::ctl) enum Sub {
    /// Services, one line each
    List {
        /// Id or selector (shop/prod/*)
        selector: Option<Selector>,
    },
    /// Everything about one service
    Show { id: ServiceId },
}

pub(super) async fn run(sub: Sub, session: &mut Session) -> Result<Exit, CtlError> {
    let request = match sub {
        Sub::List { selector } => {
            ApiRequest::Services { selector: selector.map(|s| s.to_string()) }
        }
        Sub::Show { id } => ApiRequest::Service { id: id.to_string() },
    };
    session.show(&request).await?;
    Ok(Exit::Done)
}
