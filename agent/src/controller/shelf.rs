//! What takes its time with the journal: filling a lost stream again from it, and making it
//! smaller. Runs beside the driver, on what the journal's thread hands out.
//!
//! Both may be stopped anywhere: a stream that is half filled is filled on by compare-and-set, and
//! a journal is the old one or the new one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nett_policy::id::SiteId;
use nett_policy::log::chain::followed;
use nett_policy::roster::Rosters;

use super::effect::Compact;
use crate::bus::Bus;
use crate::bus::wire::Sealed;
use crate::journal::{JournalWriter, Record, Saved, audit, survivors};

pub(super) struct Shelf {
    pub(super) journal: JournalWriter,
    pub(super) rosters: Arc<Rosters>,
    /// The audit trail, which has what the journal has forgotten.
    pub(super) trail: PathBuf,
}

/// Where a stream is to be filled.
pub(super) struct Place {
    pub(super) site: SiteId,
    /// The first entry that it lacks.
    pub(super) from: u64,
    pub(super) after_stream_seq: u64,
}

impl Shelf {
    /// Stores a site's entries again. Another agent that does the same is told from it by the
    /// compare-and-set: who loses stops. Gives how far it came, and the number there.
    pub(super) async fn refill(self, bus: &dyn Bus, place: Place) -> (u64, u64) {
        let Place { site, from, after_stream_seq } = place;
        let records = self.journal.records().await.unwrap_or_default();
        let (rosters, trail) = (self.rosters.clone(), self.trail.clone());
        let wanted = site.clone();
        let read = move || entries(&records, &trail, &rosters, (&wanted, from));
        let own = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        let (mut through, mut last) = (from - 1, after_stream_seq);
        for sealed in &own {
            if sealed.entry.position.seq != through + 1 {
                tracing::error!(%site, through, "Nothing here has the next entry of the log.");
                break;
            }
            match bus.append(sealed, last).await {
                Ok(stored) => (through, last) = (sealed.entry.position.seq, stored),
                Err(error) => {
                    tracing::warn!(%error, through, "The log is not filled again yet.");
                    break;
                }
            }
        }
        tracing::warn!(from, through, "Filled the site's log again from the journal.");
        (through, last)
    }

    /// Writes the journal anew. Gives how many records it has then.
    pub(super) async fn compact(self, compact: Compact) -> Option<usize> {
        let Compact { saved, fold } = compact;
        let records = self.journal.records().await.ok()?;
        let (rosters, before) = (self.rosters.clone(), records.len());
        let choose = move || (survivors(&saved, &fold, &records, &*rosters), saved);
        let (survive, saved) = tokio::task::spawn_blocking(choose).await.ok()?;
        let written = self.journal.rewrite(move |records| {
            // What was recorded since stands behind.
            let survives = |(at, _): &(usize, Record)| survive.get(*at).copied().unwrap_or(true);
            let kept = records.into_iter().enumerate().filter(survives).map(|(_, record)| record);
            std::iter::once(saved.record()).chain(kept).collect()
        });
        match written.await {
            Ok(after) => {
                tracing::info!(before, after, "Wrote the journal anew.");
                Some(after)
            }
            Err(error) => {
                tracing::error!(%error, "The journal stays as it is.");
                None
            }
        }
    }
}

/// A site's entries from a number on, without gaps as far as journal and trail have them.
fn entries(
    records: &[Record],
    trail: &Path,
    rosters: &Rosters,
    (site, from): (&SiteId, u64),
) -> Vec<Sealed> {
    let mut saved = Saved::default();
    records.iter().filter_map(Saved::read).flatten().for_each(|one| saved.take(one));
    let open = |bytes: &[u8]| Sealed::open_stored(bytes, rosters).ok();
    let mut all: Vec<Sealed> = records.iter().filter_map(|r| open(&r.bytes)).collect();
    all.retain(|sealed| sealed.entry.site == *site && !saved.covers(sealed));
    // What the journal has forgotten is in the trail, as it was signed.
    let forgotten = saved.heads.get(site).is_some_and(|head| head.head.seq >= from);
    if forgotten {
        let told = audit::entries(trail, site.as_str()).unwrap_or_default();
        let told = told.iter().filter_map(|bytes| open(bytes));
        all.extend(told.filter(|sealed| saved.covers(sealed)));
        saved = Saved::default();
    }
    let order = followed(all.iter().map(|sealed| &sealed.entry), &saved.after());
    let own = order.into_iter().map(|at| all[at].clone());
    own.filter(|sealed| sealed.entry.position.seq >= from).collect()
}
