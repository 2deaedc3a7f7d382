//! `nettctl fact`: what outside reporters say, and a way to be one by hand.

use std::time::Duration;

use nett_policy::fact::{Fact, FactKey, Thousandths};
use nett_policy::id::{EntryId, ServiceId, WallMs};

use crate::api::types::ApiRequest;
use crate::bus::wire::{fact_subject, seal_fact};
use crate::ctl::duration::{self, now_ms};
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;
use crate::ctl::submit;

#[derive(Debug, clap::Subcommand)]
pub(in crate::ctl) enum Sub {
    /// Facts that the agent knows and that are good
    List,
    /// Report a fact to the agent (role gate)
    Report(Report),
}

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Report {
    /// The fact, as gates and switches name it (data-lag)
    name: String,
    /// A number with up to three decimals
    value: String,
    /// What the number counts: s, ms, min, h, % or any word
    #[arg(long, default_value = "")]
    unit: String,
    /// The service it is about; a switch is about none
    #[arg(long, value_name = "ID")]
    service: Option<ServiceId>,
    /// For how long it is good
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::duration)]
    expires: Duration,
}

pub(super) async fn run(sub: Sub, session: &mut Session) -> Result<Exit, CtlError> {
    match sub {
        Sub::List => session.show(&ApiRequest::Facts {}).await.map(|_| Exit::Done),
        Sub::Report(args) => report(args, session).await,
    }
}

async fn report(args: Report, session: &mut Session) -> Result<Exit, CtlError> {
    let Report { name, value, unit, service, expires } = args;
    let value: Thousandths = value.parse().map_err(|error| {
        CtlError::usage(format!("{error}"), "for example `nettctl fact report data-lag 0.25 ...`")
    })?;
    let pair = submit::key_of(session)?;
    let (site, person) = submit::speaker(session, &pair).await?;
    let id = format!("{site}.{}", ulid::Ulid::generate().to_string().to_lowercase());
    let id: EntryId = id.parse().expect("a site, a dot and a ULID are an entry id");
    let now = now_ms();
    let expires_ms = u64::try_from(expires.as_millis()).unwrap_or(u64::MAX);
    let fact = Fact {
        id,
        value,
        unit,
        measured_at: WallMs(now),
        expires_at: WallMs(now.saturating_add(expires_ms)),
        person,
    };
    let about: FactKey = (service, name);
    let bytes = seal_fact(&site, &about, &fact, &pair)?;
    let envelope = serde_json::from_slice(&bytes).expect("sealed as JSON");
    let subject = fact_subject(&site, &about);
    let reply = session.reply(&ApiRequest::Fact { subject, envelope }).await?;
    session.out.reply(&reply)?;
    Ok(if reply.accepted { Exit::Done } else { Exit::of_refusal(reply.exit) })
}
