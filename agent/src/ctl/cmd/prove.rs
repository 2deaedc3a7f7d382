//! `nettctl prove`: what the packet counters say. Ends with 1 where they disprove.

use crate::api::types::{ApiRequest, Outcome, Payload, Stamp};
use crate::ctl::duration;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;

#[derive(Debug, clap::Subcommand)]
pub(in crate::ctl) enum Sub {
    /// That nothing went where it must not: counters that are to be zero, and who counts
    Separation {
        /// Only what was counted from this time on (2026-11-21T09:30:00Z), or that long ago (1h)
        #[arg(long, value_name = "TIME", value_parser = duration::since)]
        since: Option<Stamp>,
    },
    /// That what is drained carries nothing any more
    Drained,
}

pub(super) async fn run(sub: Sub, session: &mut Session) -> Result<Exit, CtlError> {
    let request = match sub {
        Sub::Separation { since } => ApiRequest::Separation { since },
        Sub::Drained => ApiRequest::Drained {},
    };
    let answer = session.show(&request).await?;
    let holds = match &answer.outcome {
        Outcome::Ok(payload) => match &**payload {
            Payload::Separation(doc) => doc.holds,
            Payload::Drained(doc) => doc.rows.iter().all(|row| row.state == "drained"),
            _ => true,
        },
        Outcome::Error(_) => true,
    };
    Ok(if holds { Exit::Done } else { Exit::Failed })
}
