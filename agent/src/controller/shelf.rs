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

use super::driver::Driver;
use super::effect::Compact;
use super::event::Event;
use crate::bus::Bus;
use crate::bus::wire::Sealed;
use crate::journal::{JournalWriter, Record, Saved, audit, survivors};
use crate::probe::Probe;

struct Shelf {
    journal: JournalWriter,
    rosters: Arc<Rosters>,
    /// The audit trail, which has what the journal has forgotten.
    trail: PathBuf,
}

/// Where a stream is to be filled.
struct Place {
    site: SiteId,
    /// The first entry that it lacks.
    from: u64,
    after_stream_seq: u64,
}

impl<P: Probe> Driver<P> {
    fn shelf(&self) -> Shelf {
        Shelf {
            journal: self.parts.journal.clone(),
            rosters: self.parts.rosters.clone(),
            trail: self.parts.records.path().to_owned(),
        }
    }

    /// Stores the own site's entries again, as they were, in their order.
    pub(super) fn refill(&self, from: u64, after_stream_seq: u64) {
        let (bus, events) = (self.parts.bus.clone(), self.events.clone());
        let shelf = self.shelf();
        let site = self.controller.setting().node.site.clone();
        tokio::spawn(async move {
            let place = Place { site, from, after_stream_seq };
            let (through, stream_seq) = shelf.refill(&*bus, place).await;
            let _ = events.send(Event::Refilled { through, stream_seq }).await;
        });
    }

    /// Writes the journal anew with what counts.
    pub(super) fn compact(&self, compact: Compact) {
        let shelf = self.shelf();
        let events = self.events.clone();
        tokio::spawn(async move {
            let records = shelf.compact(compact).await;
            let _ = events.send(Event::Compacted { records }).await;
        });
    }
}

impl Shelf {
    /// Stores a site's entries again. Another agent that does the same is told from it by the
    /// compare-and-set: who loses stops. Gives how far it came, and the number there.
    async fn refill(self, bus: &dyn Bus, place: Place) -> (u64, u64) {
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
    async fn compact(self, compact: Compact) -> Option<usize> {
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
