//! `nettctl steer`.

use std::collections::BTreeMap;
use std::time::Duration;

use nett_policy::id::{Selector, SiteId, Weight};
use nett_policy::log::entry::{Ramp, Verb};

use super::parse;
use crate::ctl::args::{Change, More};
use crate::ctl::duration::duration;
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
    /// Shares of the way in percent, ascending to 100, instead of the service's own ramp
    #[arg(long, value_name = "PERCENT,...", value_delimiter = ',')]
    ramp: Vec<u8>,
    /// How long each share of --ramp is held
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    dwell: Duration,
    /// Go on to the next share of --ramp only while this holds ('error-rate <= 1%')
    #[arg(long = "while", value_name = "FACT", requires = "ramp")]
    only_while: Option<String>,
    #[command(flatten)]
    change: Change,
}

impl Args {
    pub(super) fn verb(&self) -> Verb {
        Verb::Steer { services: self.id.clone(), to: self.to.clone() }
    }

    pub(super) fn change(&self) -> Change {
        let (steps, dwell) = (self.ramp.clone(), self.dwell);
        let ramp = Ramp { steps, dwell, only_while: self.only_while.clone() };
        let ramp = (!self.ramp.is_empty()).then_some(ramp);
        Change { more: More { ramp, ..More::default() }, ..self.change.clone() }
    }
}

pub(super) async fn run(args: Args, session: &mut Session) -> Result<Exit, CtlError> {
    submit::command(session, args.verb(), &args.change()).await
}
