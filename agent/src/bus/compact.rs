//! Making the streams of logs smaller: what stands before a checkpoint goes.
//!
//! Agents put checkpoints into their site's log; only the admin's key may delete anything. Nothing
//! is deleted before what stays was read as a node without a journal reads it: the newest
//! checkpoint, everything it announces, and behind it every entry of the log in one chain. A stream
//! in which something of that is missing stays as it is. Stopped half way, some streams are smaller
//! and some are not; running it again makes the others so.

use std::ops::Range;

use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, Context};
use nett_policy::fabric::Fabric;
use nett_policy::id::SiteId;

use super::provision::{Finding, Outcome, ProvisionError, check_domain};
use super::subject::{self, Replicated};
use super::wire::{Placed, Preface, digest, open_preface, placed};

/// Why a stream stays as it is.
enum Kept {
    Says(String),
    Error(ProvisionError),
}

/// Deletes what stands before the newest checkpoint of each log, in all streams of `site`: that of
/// its own log and the mirrors of the others.
pub async fn compact(
    context: &Context,
    fabric: &Fabric,
    site: &SiteId,
) -> Result<Vec<Finding>, ProvisionError> {
    if fabric.site(site).is_none() {
        return Err(ProvisionError::UnknownSite(site.clone()));
    }
    check_domain(context, site).await?;
    let mut findings = Vec::new();
    for author in fabric.sites.iter().map(|s| &s.id) {
        let stream = Replicated::Log.stream(author);
        let purpose = match author == site {
            true => format!("the log of site {author}"),
            false => format!("mirror of the log of site {author}"),
        };
        let outcome = match compact_one(context, fabric, author).await {
            Ok(outcome) => outcome,
            Err(Kept::Says(why)) => Outcome::Stays(why),
            Err(Kept::Error(error)) => return Err(error),
        };
        findings.push(Finding { stream, purpose, outcome });
    }
    Ok(findings)
}

async fn compact_one(context: &Context, fabric: &Fabric, author: &SiteId) -> Result<Outcome, Kept> {
    let name = Replicated::Log.stream(author);
    let look = |source| Kept::Error(ProvisionError::Look { stream: name.clone(), source });
    let stream = context.get_stream(&name).await.map_err(look)?;
    let before = stream.cached_info().state.clone();
    let newest = stream.get_last_raw_message_by_subject(&subject::prefaces(author)).await;
    let Ok(newest) = newest else {
        return Err(Kept::Says("no checkpoint in it yet: the agents write one in time".to_owned()));
    };
    let first = newest.sequence;
    if before.first_sequence >= first {
        return Err(Kept::Says("nothing stands before its checkpoint".to_owned()));
    }
    let preface = open_preface(&newest.payload, &newest.subject, fabric)
        .map_err(|error| Kept::Says(format!("its checkpoint is not believed: {error}")))?;
    read(&stream, &preface, first, before.last_sequence)
        .await
        .map_err(|why| Kept::Says(format!("its checkpoint is not whole: {why}")))?;
    stands_before(&stream, &preface, before.first_sequence..first, fabric)
        .await
        .map_err(|why| Kept::Says(format!("its checkpoint is not believed: {why}")))?;
    let purged = stream.purge().sequence(first).await.map_err(|source| {
        let stream = name.clone();
        Kept::Error(ProvisionError::Purge { stream, source })
    })?;
    let after = before.messages.saturating_sub(purged.purged);
    Ok(Outcome::Smaller { before: before.messages, after })
}

/// Reads what would be left, as somebody who knows nothing does.
async fn read(stream: &Stream, preface: &Preface, first: u64, last: u64) -> Result<(), String> {
    let Preface { site, covered, through, kept, digest: expected, .. } = preface;
    let mut hashes: Vec<String> = Vec::new();
    let (mut seq, mut hash) = (covered.seq, covered.hash.clone());
    for sequence in first + 1..=last {
        let message = stream.get_raw_message(sequence).await;
        let message = message.map_err(|error| format!("message {sequence}: {error}"))?;
        if subject::is_preface(&message.subject) {
            return Err("another one was begun behind it".to_owned());
        }
        let Ok(Placed { site: of, position }) = placed(&message.payload) else { continue };
        if of != site.as_str() || position.boot != covered.boot {
            continue;
        }
        if (hashes.len() as u64) < *kept {
            if hashes.contains(&position.hash) {
                return Err(format!("entry {} stands there twice", position.seq));
            }
            hashes.push(position.hash);
        } else if position.seq == seq + 1 && position.prev_hash == hash {
            (seq, hash) = (position.seq, position.hash);
        } else if position.seq > seq + 1 {
            return Err(format!("entry {} of the log follows {seq}", position.seq));
        }
    }
    if digest(hashes.iter().map(String::as_str)) != *expected {
        return Err("entries that it keeps are not there".to_owned());
    }
    if seq < *through {
        return Err(format!("it ends at entry {seq}, and {through} were written"));
    }
    Ok(())
}

/// Whether what the checkpoint covers, and says of the end of the log, is what stands before it:
/// nobody is asked again once that is deleted.
async fn stands_before(
    stream: &Stream,
    preface: &Preface,
    sequences: Range<u64>,
    fabric: &Fabric,
) -> Result<(), String> {
    let Preface { site, covered, through, .. } = preface;
    let (mut is_there, mut last) = (false, 0);
    for sequence in sequences {
        // Numbers of messages that were deleted are passed over.
        let Ok(message) = stream.get_raw_message(sequence).await else { continue };
        if subject::is_preface(&message.subject) {
            // Covered before, and deleted since.
            let earlier = open_preface(&message.payload, &message.subject, fabric);
            is_there |= earlier.is_ok_and(|earlier| earlier.covered == *covered);
            continue;
        }
        let Ok(Placed { site: of, position }) = placed(&message.payload) else { continue };
        if of == site.as_str() && position.boot == covered.boot {
            is_there |= position.seq == covered.seq && position.hash == covered.hash;
            last = last.max(position.seq);
        }
    }
    if !is_there {
        return Err(format!("the log has no entry {} as it says", covered.seq));
    }
    if last > *through {
        return Err(format!(
            "the log went on to entry {last}, and it repeats none behind {through}"
        ));
    }
    Ok(())
}

/// What the server said to a purge.
pub type PurgeError = jetstream::stream::PurgeError;
