//! `nettctl steer`.

use std::collections::BTreeMap;

use nett_policy::id::{Selector, SiteId, Weight};
use nett_policy::log::entry::Verb;

use super::parse;
use crate::ctl::args::Change;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;
use crate::ctl::submit;

/// A type of its own, so that clap takes the whole value at once.
type Weights = BTreeMap<SiteId, Weight>;

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Args {
    /// Service id or selector (shop/prod/*)
    id: Selector,
    /// Weights, 1 to 256 each: osl=70,svg=30
    #[arg(long, value_name = "SITE=WEIGHT,...", value_parser = parse::weights)]
    to: Weights,
    #[command(flatten)]
    pub(super) change: Change,
}

impl Args {
    pub(super) fn verb(&self) -> Verb {
        Verb::Steer { services: self.id.clone(), to: self.to.clone() }
    }
}

pub(super) async fn run(args: Args, session: &mut Session) -> Result<Exit, CtlError> {
    submit::command(session, args.verb(), &args.change).await
}
