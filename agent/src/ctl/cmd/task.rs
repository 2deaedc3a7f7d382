//! `nettctl task`.

use nett_policy::id::EntryId;
use nett_policy::log::entry::WishKind;

use super::{approve, parse, reject, revert, turn};
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
    /// End a task where it is
    Cancel(turn::Args),
    /// Let no further step of a task start
    Pause(turn::Args),
    /// Let a paused task go on
    Resume(turn::Args),
    /// Say that a task is as wanted: it does not undo itself
    Confirm(turn::Args),
    /// Say that a fact holds that a task waits for (role gate)
    Gate(turn::GateArgs),
    /// Go on, from this site, with a task whose home site is dead
    Adopt(turn::AdoptArgs),
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
        Sub::Cancel(args) => return turn::run(args, WishKind::Cancel, session).await,
        Sub::Pause(args) => return turn::run(args, WishKind::Pause, session).await,
        Sub::Resume(args) => return turn::run(args, WishKind::Resume, session).await,
        Sub::Confirm(args) => return turn::run(args, WishKind::Confirm, session).await,
        Sub::Gate(args) => return turn::gate(args, session).await,
        Sub::Adopt(args) => return turn::adopt(args, session).await,
        Sub::Revert(args) => return revert::run(args, session).await,
    };
    session.show(&request).await?;
    Ok(Exit::Done)
}
