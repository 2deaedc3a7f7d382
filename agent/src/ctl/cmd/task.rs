//! `nettctl task`.

use nett_policy::id::EntryId;

use super::{approve, parse, reject, revert};
use crate::api::types::ApiRequest;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::follow;
use crate::ctl::session::Session;

#[derive(Debug, clap::Subcommand)]
pub(in crate::ctl) enum Sub {
    /// Tasks, one line each
    List,
    /// Everything about one task
    Show {
        /// Task id
        #[arg(value_parser = parse::task)]
        id: EntryId,
    },
    /// Follow a task to its end
    Watch {
        /// Task id
        #[arg(value_parser = parse::task)]
        id: EntryId,
    },
    /// Approve a task that waits
    Approve(approve::Args),
    /// Reject a task that waits
    Reject(reject::Args),
    /// Undo a task by a new one
    Revert(revert::Args),
}

pub(super) async fn run(sub: Sub, session: &mut Session) -> Result<Exit, CtlError> {
    let request = match sub {
        Sub::List => ApiRequest::Tasks {},
        Sub::Show { id } => ApiRequest::Task { id: id.to_string() },
        Sub::Watch { id } => return follow::follow(session, &id).await,
        Sub::Approve(args) => return approve::run(args, session).await,
        Sub::Reject(args) => return reject::run(args, session).await,
        Sub::Revert(args) => return revert::run(args, session).await,
    };
    session.show(&request).await?;
    Ok(Exit::Done)
}
