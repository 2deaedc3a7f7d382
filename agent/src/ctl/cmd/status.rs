//! `nettctl status`.

use std::time::Duration;

use crate::api::client::ClientError;
use crate::api::types::{ApiRequest, Outcome, Payload};
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::render::Look;
use crate::ctl::session::Session;

/// How often `--watch` looks.
const WATCH: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Args {
    /// The nodes of every site, not only of the answering one
    #[arg(long)]
    all_sites: bool,
    /// Look again every 2 s, until interrupted
    #[arg(long)]
    watch: bool,
}

pub(super) async fn run(args: &Args, session: &mut Session) -> Result<Exit, CtlError> {
    let mut ticks = tokio::time::interval(WATCH);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = session.ask(&ApiRequest::Status {}).await?;
        let site = session.global.site.clone();
        if let (Some(site), Outcome::Ok(payload)) = (&site, &answer.outcome)
            && let Payload::Status(status) = &**payload
            && !status.sites.iter().any(|s| s.id == *site)
        {
            let known: Vec<&str> = status.sites.iter().map(|s| s.id.as_str()).collect();
            return Err(CtlError::usage(
                format!("the fabric has no site {site}"),
                format!("it has {}", known.join(", ")),
            ));
        }
        if let Outcome::Error(error) = &answer.outcome {
            return Err(ClientError::Agent(error.clone()).into());
        }
        let look = match site {
            _ if args.all_sites => Look::AllSites,
            Some(site) => Look::Site(site),
            None => Look::Here,
        };
        session.out.status(&answer, &look, args.watch)?;
        if !args.watch {
            return Ok(Exit::Done);
        }
    }
}
