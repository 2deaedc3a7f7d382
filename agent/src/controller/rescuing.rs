//! Hands this node's journal out as a backup, and takes one in.
//!
//! A backup comes in pieces, over the node's own socket only, and is judged when all of it is here
//! ([`crate::rescue`]). Until then nothing is changed, and a crash forgets the pieces. Once it is
//! on the disk the agent begins again from its journal, which counts as perhaps not whole until the
//! logs were read from the bus.

use super::asker::{Asker, send};
use super::driver::Driver;
use super::event::Event;
use crate::api::types::{ApiError, BackupDoc, ErrorCode, Outcome, Payload, RestoredDoc};
use crate::probe::Probe;
use crate::rescue::{self, RestoreError};

/// The largest log that is taken in, in bytes.
const LARGEST: usize = 64 << 20;

/// A backup that is coming in.
#[derive(Debug, Default)]
pub(super) struct Staging {
    hash: String,
    text: String,
}

/// A part of a backup, as it is asked for.
pub(super) struct Piece {
    pub(super) fabric: String,
    /// The SHA-256 of the whole log.
    pub(super) hash: String,
    /// Where in the log it stands, in bytes.
    pub(super) from: u64,
    pub(super) text: String,
    pub(super) last: bool,
    pub(super) reason: String,
}

impl<P: Probe> Driver<P> {
    pub(super) fn backup(&self, asker: Asker) {
        let fabric = &self.controller.setting().fabric;
        let (name, generation, fabric_hash) =
            (fabric.name.clone(), fabric.generation.0, fabric.hash.clone());
        let mut answer = self.controller.envelope(not_ready().into(), self.parts.clock.now());
        let journal = self.parts.journal.clone();
        tokio::spawn(async move {
            answer.outcome = match journal.records().await {
                Ok(records) => {
                    let log = rescue::to_text(&records);
                    let (fabric, fabric_hash) = (name, fabric_hash);
                    Payload::Backup(BackupDoc { fabric, generation, fabric_hash, log }).into()
                }
                Err(error) => ApiError::new(ErrorCode::Internal, error.to_string(), "").into(),
            };
            send(asker, answer);
        });
    }

    pub(super) fn restore(&mut self, piece: Piece, asker: Asker) {
        let mut answer = self.controller.envelope(not_ready().into(), self.parts.clock.now());
        let (hash, text) = match self.stage(piece) {
            Ok(Some(whole)) => whole,
            Ok(None) => {
                let received = self.staging.text.len() as u64;
                let doc = RestoredDoc { received, ..RestoredDoc::default() };
                answer.outcome = Payload::Restored(doc).into();
                return send(asker, answer);
            }
            Err(error) => {
                self.staging = Staging::default();
                answer.outcome = error.into();
                return send(asker, answer);
            }
        };
        let (journal, rosters) = (self.parts.journal.clone(), self.parts.rosters.clone());
        let events = self.events.clone();
        tokio::spawn(async move {
            let received = text.len() as u64;
            let judge = move |present: &[_]| rescue::judge(present, (&text, &hash), &rosters);
            let outcome = match journal.restore(judge).await {
                Ok(Ok(done)) => {
                    let new = Some(done.new as u64);
                    let heads = done.heads.iter().map(|(site, seq)| (site.to_string(), *seq));
                    let doc = RestoredDoc { received, new, heads: heads.collect() };
                    Outcome::from(Payload::Restored(doc))
                }
                Ok(Err(refused)) => refusal(&refused).into(),
                Err(error) => ApiError::new(ErrorCode::Internal, error.to_string(), "").into(),
            };
            let done = matches!(outcome, Outcome::Ok(_));
            answer.outcome = outcome;
            send(asker, answer);
            if done {
                let _ = events.send(Event::Restored).await;
            }
        });
    }

    /// Puts a piece to those before it; gives the whole log with its hash once it is here.
    fn stage(&mut self, piece: Piece) -> Result<Option<(String, String)>, ApiError> {
        let Piece { fabric, hash, from, text, last, reason } = piece;
        let own = &self.controller.setting().fabric.name;
        if fabric != *own {
            let (found, own) = (fabric, own.clone());
            return Err(refusal(&RestoreError::Fabric { found, own }));
        }
        if reason.trim().is_empty() {
            let message = "a reason is missing: it goes on record";
            return Err(ApiError::new(ErrorCode::BadRequest, message, ""));
        }
        if from == 0 {
            self.staging = Staging { hash: hash.clone(), text: String::new() };
        }
        let staging = &mut self.staging;
        if staging.hash != hash || staging.text.len() as u64 != from {
            let message = "another backup is being taken in";
            return Err(ApiError::new(ErrorCode::Busy, message, "try again in a moment"));
        }
        if staging.text.len() + text.len() > LARGEST {
            let message = format!("the log has more than {LARGEST} bytes");
            return Err(ApiError::new(ErrorCode::TooLarge, message, ""));
        }
        staging.text.push_str(&text);
        if !last {
            return Ok(None);
        }
        let Staging { hash, text } = std::mem::take(staging);
        self.parts.records.note("restore", &format!("a backup is taken in: {reason}"));
        Ok(Some((hash, text)))
    }
}

fn refusal(error: &RestoreError) -> ApiError {
    let because = std::error::Error::source(error).map(|s| format!(": {s}")).unwrap_or_default();
    let hint = match error {
        RestoreError::Fabric { .. } => "use a backup of a node of this fabric",
        RestoreError::Damaged(_) => "use another copy of the backup",
        RestoreError::Entry { .. } => {
            "if it names an older fabric generation, this node needs that one's file in `fabrics` \
             of its state directory first"
        }
        RestoreError::Incarnation { .. } => "that site's log began anew since: use a later backup",
        RestoreError::Older { .. } => "nothing needs to be done, unless a later backup is at hand",
    };
    ApiError::new(ErrorCode::BadRequest, format!("the backup is refused: {error}{because}"), hint)
}

fn not_ready() -> ApiError {
    ApiError::new(ErrorCode::NotReady, "the agent is stopping", "try again")
}
