//! `nettctl backup`.

use std::path::PathBuf;

use crate::api::client::ClientError;
use crate::api::types::{ApiRequest, ApiResponse, Outcome, Payload};
use crate::ctl::archive::Archive;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::provision;
use crate::ctl::session::Session;

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Args {
    /// Where to write it, mode 0600
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) async fn run(args: &Args, session: &mut Session) -> Result<Exit, CtlError> {
    let answer = session.ask_plainly(&ApiRequest::Backup {}).await?;
    let (site, node, at) = (answer.site.clone(), answer.node.clone(), answer.as_of.to_string());
    let Payload::Backup(backup) = payload(answer)? else {
        return Err(ClientError::WrongAnswer.into());
    };
    let mut audit = String::new();
    let mut from = Some(0);
    while let Some(place) = from {
        let answer = session.ask_plainly(&ApiRequest::AuditPart { from: place }).await?;
        let Payload::AuditPart(part) = payload(answer)? else {
            return Err(ClientError::WrongAnswer.into());
        };
        audit.push_str(&part.text);
        from = part.next.filter(|next| *next > place);
    }
    let (fabric, generation, log) = (backup.fabric, backup.generation, backup.log);
    let archive = Archive { fabric, generation, site, node, at, log, audit };
    provision::write_private(&args.file, &archive.to_text())?;
    session.out.note(&archive.summary())?;
    Ok(Exit::Done)
}

fn payload(answer: ApiResponse) -> Result<Payload, CtlError> {
    match answer.outcome {
        Outcome::Ok(payload) => Ok(*payload),
        Outcome::Error(error) => Err(ClientError::Agent(error).into()),
    }
}
