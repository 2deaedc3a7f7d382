//! `nettctl explain`.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::api::types::ApiRequest;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;

#[derive(Debug, clap::Subcommand)]
pub(in crate::ctl) enum Sub {
    /// Why a name has the answer it has
    Name {
        /// A name of the steering zone
        name: String,
        /// The resolver's or client's address
        #[arg(long, value_name = "ADDR")]
        client: Option<IpAddr>,
        /// A client subnet, as a resolver would send it
        #[arg(long, value_name = "PREFIX")]
        subnet: Option<IpNet>,
    },
}

pub(super) async fn run(sub: Sub, session: &mut Session) -> Result<Exit, CtlError> {
    let Sub::Name { name, client, subnet } = sub;
    let request = ApiRequest::ExplainName {
        name,
        client: client.map(|c| c.to_string()),
        subnet: subnet.map(|s| s.to_string()),
    };
    session.show(&request).await?;
    Ok(Exit::Done)
}
