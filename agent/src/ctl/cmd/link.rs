//! `nettctl link`.

use nett_policy::id::LinkId;

use crate::api::client::ClientError;
use crate::api::types::{ApiRequest, Outcome, Payload};
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;

#[derive(Debug, clap::Subcommand)]
pub(in crate::ctl) enum Sub {
    /// Links, one line each
    List,
    /// Everything about one link
    Show { id: LinkId },
}

pub(super) async fn run(sub: Sub, session: &mut Session) -> Result<Exit, CtlError> {
    let mut answer = session.ask(&ApiRequest::Links {}).await?;
    let Sub::Show { id } = sub else {
        session.out.answer(&answer)?;
        return Ok(Exit::Done);
    };
    if let Outcome::Ok(payload) = &mut answer.outcome {
        let Payload::Links { links } = &mut **payload else {
            return Err(ClientError::WrongAnswer.into());
        };
        links.retain(|link| link.id == id.as_str());
        if links.is_empty() {
            return Err(CtlError::usage(
                format!("the fabric has no link {id}"),
                "see nettctl link list",
            ));
        }
    }
    session.out.single(&answer)?;
    Ok(Exit::Done)
}
