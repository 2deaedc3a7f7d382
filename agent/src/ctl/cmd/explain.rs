//! `nettctl explain`.

use std::net::IpAddr;

use ipnet::IpNet;
use nett_policy::id::NodeId;

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
    /// Which rule, table, route, group and guard a packet meets on each node of its way
    Path {
        /// Where it comes from
        from: IpAddr,
        /// Where it goes
        to: IpAddr,
        /// The node it begins at, when the fabric does not say
        #[arg(long = "from", value_name = "NODE")]
        node: Option<NodeId>,
    },
}

pub(super) async fn run(sub: Sub, session: &mut Session) -> Result<Exit, CtlError> {
    let request = match sub {
        Sub::Name { name, client, subnet } => ApiRequest::ExplainName {
            name,
            client: client.map(|c| c.to_string()),
            subnet: subnet.map(|s| s.to_string()),
        },
        Sub::Path { from, to, node } => ApiRequest::ExplainPath {
            from: from.to_string(),
            to: to.to_string(),
            node: node.map(|n| n.to_string()),
        },
    };
    session.show(&request).await?;
    Ok(Exit::Done)
}
