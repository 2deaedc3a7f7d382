//! `nettctl audit`.

use nett_policy::id::Selector;

use crate::api::types::{ApiRequest, Outcome, Payload, Stamp};
use crate::ctl::duration;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Args {
    /// From this time on (2026-11-21T09:30:00Z), or that long ago (1h)
    #[arg(long, value_name = "TIME", value_parser = duration::since)]
    since: Option<Stamp>,
    /// Only what touches this service or selector
    #[arg(long, value_name = "ID")]
    service: Option<Selector>,
    /// At most this many, the newest
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Follow the hash chain of the whole file and check every signature instead; exit status 1
    /// where something was changed or taken out
    #[arg(long, conflicts_with_all = ["since", "service", "limit"])]
    verify: bool,
}

pub(super) async fn run(args: &Args, session: &mut Session) -> Result<Exit, CtlError> {
    if args.verify {
        let answer = session.ask(&ApiRequest::AuditVerify {}).await?;
        session.out.answer(&answer)?;
        let whole = matches!(&answer.outcome,
            Outcome::Ok(payload) if matches!(&**payload, Payload::AuditVerdict(v) if v.whole));
        return Ok(if whole { Exit::Done } else { Exit::Failed });
    }
    let request = ApiRequest::Audit {
        since: args.since,
        service: args.service.as_ref().map(ToString::to_string),
        limit: args.limit,
    };
    session.show(&request).await?;
    Ok(Exit::Done)
}
