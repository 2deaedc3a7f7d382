//! `nettctl evacuate`.

use nett_policy::id::SiteId;
use nett_policy::log::entry::Verb;

use crate::ctl::args::Change;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;
use crate::ctl::submit;

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Args {
    /// The dead site
    id: SiteId,
    /// Where its services go; `auto`: each to the next site of its own order
    #[arg(long, value_name = "SITE", default_value = "auto")]
    to: String,
    #[command(flatten)]
    pub(super) change: Change,
}

impl Args {
    pub(super) fn verb(&self) -> Result<Verb, CtlError> {
        let to = match self.to.as_str() {
            "auto" => None,
            site => Some(site.parse().map_err(|error| {
                CtlError::usage(format!("--to: {error}"), "`nettctl site list` names all sites")
            })?),
        };
        Ok(Verb::Evacuate { site: self.id.clone(), to })
    }
}

pub(super) async fn run(args: Args, session: &mut Session) -> Result<Exit, CtlError> {
    submit::command(session, args.verb()?, &args.change).await
}
