//! `nettctl prove`: what the packet counters say. Ends with 1 where they disprove.

use crate::api::types::{ApiRequest, Outcome, Payload};
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;

#[derive(Debug, clap::Subcommand)]
pub(in crate::ctl) enum Sub {
    /// That nothing went where it must not: counters that are to be zero, and who counts
    Separation,
    /// That what is drained carries nothing any more
    Drained,
}

pub(super) async fn run(sub: Sub, session: &mut Session) -> Result<Exit, CtlError> {
    let request = match sub {
        Sub::Separation => ApiRequest::Separation {},
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
