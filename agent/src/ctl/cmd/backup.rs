//! `nettctl backup`.

use std::path::PathBuf;

use crate::api::client::ClientError;
use crate::api::types::{ApiRequest, Outcome, Payload};
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
    let answer = session.ask(&ApiRequest::Backup {}).await?;
    let backup = match answer.outcome {
        Outcome::Ok(payload) => match *payload {
            Payload::Backup(backup) => backup,
            _ => return Err(ClientError::WrongAnswer.into()),
        },
        Outcome::Error(error) => return Err(ClientError::Agent(error).into()),
    };
    let mut audit = String::new();
    let mut from = Some(0);
    while let Some(at) = from {
        let Payload::AuditPart(part) = session.payload(&ApiRequest::AuditPart { from: at }).await?
        else {
            return Err(ClientError::WrongAnswer.into());
        };
        audit.push_str(&part.text);
        from = part.next.filter(|next| *next > at);
    }
    let archive = Archive {
        fabric: backup.fabric,
        generation: backup.generation,
        site: answer.site,
        node: answer.node,
        at: answer.as_of.to_string(),
        log: backup.log,
        audit,
    };
    provision::write_private(&args.file, &archive.to_text())?;
    session.out.note(&archive.summary())?;
    Ok(Exit::Done)
}
