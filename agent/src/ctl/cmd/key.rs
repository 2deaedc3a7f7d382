//! `nettctl key revoke`.

use clap::Subcommand;
use nett_policy::log::entry::Verb;

use crate::ctl::args::Change;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;
use crate::ctl::submit;

#[derive(Debug, Subcommand)]
pub(in crate::ctl) enum Sub {
    /// Let nobody speak with a person's key any more
    Revoke(Args),
}

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Args {
    /// Whose key, as the fabric names the person
    name: String,
    #[command(flatten)]
    change: Change,
}

impl Sub {
    pub(super) fn verb(&self) -> Verb {
        let Self::Revoke(args) = self;
        Verb::Revoke { person: args.name.clone() }
    }

    pub(super) fn change(&self) -> Change {
        let Self::Revoke(args) = self;
        args.change.clone()
    }
}

pub(super) async fn run(sub: Sub, session: &mut Session) -> Result<Exit, CtlError> {
    submit::command(session, sub.verb(), &sub.change()).await
}
