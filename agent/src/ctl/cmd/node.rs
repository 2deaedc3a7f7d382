//! `nettctl node`.

use nett_policy::id::NodeId;

use crate::api::client::ClientError;
use crate::api::types::{ApiRequest, Outcome, Payload};
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;

#[derive(Debug, clap::Subcommand)]
pub(in crate::ctl) enum Sub {
    /// Nodes, one line each
    List,
    /// Everything about one node
    Show { id: NodeId },
}

pub(super) async fn run(sub: Sub, session: &mut Session) -> Result<Exit, CtlError> {
    let mut answer = session.ask(&ApiRequest::Nodes {}).await?;
    let Sub::Show { id } = sub else {
        session.out.answer(&answer)?;
        return Ok(Exit::Done);
    };
    if let Outcome::Ok(payload) = &mut answer.outcome {
        let Payload::Nodes { nodes } = &mut **payload else {
            return Err(ClientError::WrongAnswer.into());
        };
        nodes.retain(|node| node.id == id.as_str());
        if nodes.is_empty() {
            return Err(CtlError::usage(
                format!("the fabric has no node {id}"),
                "see nettctl node list",
            ));
        }
    }
    session.out.single(&answer)?;
    Ok(Exit::Done)
}
