//! What takes its time with the journal: filling a lost stream again from it, making it smaller,
//! and putting into the site's stream what is left of it. Runs beside the driver, on what the
//! journal's thread hands out.
//!
//! All may be stopped anywhere: a stream that is half filled is filled on by compare-and-set, a
//! journal is the old one or the new one, and half a checkpoint in a stream counts for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nett_policy::id::{NodeId, SiteId, WallMs};
use nett_policy::log::chain::followed;
use nett_policy::log::conflict::Contested;
use nett_policy::log::entry::FabricRef;
use nett_policy::log::intent::Order;
use nett_policy::roster::Rosters;
use nkeys::KeyPair;
use tokio::time::timeout;

use super::Pace;
use super::driver::Driver;
use super::effect::{Compact, Condense, TakeIn};
use super::event::{Event, Now};
use crate::bus::wire::{Head, Preface, Sealed, digest, seal_preface};
use crate::bus::{Bus, subject};
use crate::journal::{JournalWriter, Record, Saved, audit, survivors};
use crate::probe::Probe;

/// What a node has of the logs on its own disk.
pub struct Shelf {
    pub journal: JournalWriter,
    pub rosters: Arc<Rosters>,
    /// The audit trail, which has what the journal has forgotten.
    pub trail: PathBuf,
}

/// Who signs a checkpoint, and when.
pub struct Writer {
    pub node: NodeId,
    pub at: WallMs,
    pub fabric: FabricRef,
}

/// How long a checkpoint may keep others from the log: a server of the own site takes some
/// thousand messages in that time.
const CONDENSE_WITHIN: Duration = Duration::from_secs(5);

/// A log from a checkpoint on.
struct Part {
    site: SiteId,
    covered: Head,
    kept: Vec<Sealed>,
    /// What is not covered, without a gap.
    rest: Vec<Sealed>,
    floors: BTreeMap<Contested, Order>,
}

/// How far a stream was filled again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filled {
    /// The last entry of the log that it holds.
    pub through: u64,
    /// Where the stream ends now.
    pub stream_seq: u64,
    /// Why this node has no more.
    pub why: Option<String>,
}

/// Where a stream is to be filled.
#[derive(Debug, Clone)]
pub struct Place {
    pub site: SiteId,
    /// The first entry that it lacks, from 1 on.
    pub from: u64,
    /// The number of the stream's last message.
    pub after_stream_seq: u64,
}

impl<P: Probe> Driver<P> {
    /// Sets how often the journal is written anew.
    #[must_use]
    pub fn paced(mut self, pace: Pace) -> Self {
        self.controller.set_pace(pace);
        self
    }

    fn shelf(&self) -> Shelf {
        Shelf {
            journal: self.parts.journal.clone(),
            rosters: self.parts.rosters.clone(),
            // What is looked for there was forgotten a day ago or earlier, and written long ago.
            trail: self.parts.records.path().to_owned(),
        }
    }

    /// Stores the own site's entries again, as they were, in their order.
    pub(super) fn refill(&self, from: u64, after_stream_seq: u64, now: Now) {
        let (bus, events) = (self.parts.bus.clone(), self.events.clone());
        let (shelf, key, writer) = (self.shelf(), self.parts.key.clone(), self.writer(now));
        let site = self.controller.setting().node.site.clone();
        tokio::spawn(async move {
            let place = Place { site, from, after_stream_seq };
            let Filled { through, stream_seq, why } =
                shelf.refill(&*bus, place, (writer, &key)).await;
            let _ = events.send(Event::Refilled { through, stream_seq, why }).await;
        });
    }

    fn writer(&self, now: Now) -> Writer {
        Writer {
            node: self.controller.setting().node.id.clone(),
            at: now.wall,
            fabric: self.controller.fabric_ref(),
        }
    }

    /// Puts a checkpoint into the own site's stream.
    pub(super) fn condense(&self, condense: Condense, now: Now) {
        let (bus, events) = (self.parts.bus.clone(), self.events.clone());
        let (shelf, key) = (self.shelf(), self.parts.key.clone());
        let writer = self.writer(now);
        tokio::spawn(async move {
            let (site, through) = (condense.site.clone(), condense.through);
            let done = timeout(CONDENSE_WITHIN, shelf.condense(&*bus, condense, (writer, &key)));
            let stored = match done.await {
                Ok(Ok(repeated)) => {
                    tracing::info!(%site, through, repeated, "Put a checkpoint into the log.");
                    true
                }
                Ok(Err(why)) => {
                    tracing::info!(%site, through, why, "No checkpoint in the log yet.");
                    false
                }
                // It would take as long again, and half of it stays in the stream each time: the
                // next one comes when the journal is written anew.
                Err(_) => {
                    let within = CONDENSE_WITHIN;
                    tracing::error!(%site, through, ?within, "A checkpoint takes too long.");
                    true
                }
            };
            let _ = events.send(Event::Condensed { stored }).await;
        });
    }

    /// Takes over in the journal what a checkpoint of a stream says; returns once it is synced.
    pub(super) async fn take_in(&mut self, taken: TakeIn) -> Event {
        let TakeIn { site, saved, kept } = taken;
        let (rosters, about) = (self.parts.rosters.clone(), site.clone());
        let seq = saved.heads.get(&site).map_or(0, |head| head.head.seq);
        let result = self.parts.journal.restore(move |present| {
            Ok(crate::rescue::take_over(present, &about, (saved, &kept), &rosters))
        });
        let error = match self.parts.pulse.during(result).await {
            Ok(Ok(_)) => None,
            Ok(Err(refused)) => Some(refused.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let text = format!("the log of {site} is read on from its checkpoint at {seq}");
        self.parts.records.note("checkpoint", &text);
        Event::TakenIn { site, error }
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
    /// Stores a site's entries again; where the first of them are nowhere any more, the checkpoint
    /// that this node began from and what is behind it. Another agent that does the same is told
    /// from it by the compare-and-set: who loses stops.
    pub async fn refill(self, bus: &dyn Bus, place: Place, by: (Writer, &KeyPair)) -> Filled {
        let Place { site, from, after_stream_seq } = place;
        let records = self.journal.records().await.unwrap_or_default();
        let (rosters, trail) = (self.rosters.clone(), self.trail.clone());
        let wanted = site.clone();
        let read = move || (entries(&records, &trail, &rosters, (&wanted, from)), all_of(&records));
        let (own, saved) = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        let has_next = own.first().is_some_and(|sealed| sealed.entry.position.seq == from);
        if !has_next && saved.heads.get(&site).is_some_and(|head| head.head.seq >= from) {
            return self
                .refill_from_checkpoint(bus, (site, saved), (from, after_stream_seq), by)
                .await;
        }
        let (mut through, mut last, mut why) = (from - 1, after_stream_seq, None);
        for sealed in &own {
            if sealed.entry.position.seq != through + 1 {
                break;
            }
            match bus.append(sealed, last).await {
                Ok(stored) => (through, last) = (sealed.entry.position.seq, stored),
                Err(error) => {
                    tracing::warn!(%error, through, "The log is not filled again yet.");
                    return Filled { through, stream_seq: last, why };
                }
            }
        }
        if through < from {
            let text = format!("neither its journal nor its audit trail has entry {from}");
            tracing::error!(%site, text, "The site's log cannot be filled again from here.");
            why = Some(text);
        } else {
            tracing::warn!(from, through, "Filled the site's log again from the journal.");
        }
        Filled { through, stream_seq: last, why }
    }

    async fn refill_from_checkpoint(
        self,
        bus: &dyn Bus,
        (site, saved): (SiteId, Saved),
        (from, after_stream_seq): (u64, u64),
        by: (Writer, &KeyPair),
    ) -> Filled {
        let at = site.clone();
        let nothing = |why| Filled { through: from - 1, stream_seq: after_stream_seq, why };
        let part = match self.part(site, saved).await {
            Ok(part) => part,
            Err(why) => {
                tracing::error!(%at, why, "The site's log cannot be filled again from here.");
                return nothing(Some(why));
            }
        };
        let through = part.last();
        match part.store(bus, after_stream_seq, by).await {
            Ok(stored) => {
                tracing::warn!(%at, through, "Filled the site's log from a checkpoint on.");
                Filled { through, stream_seq: after_stream_seq + stored as u64, why: None }
            }
            Err(why) => {
                tracing::warn!(%at, why, "The log is not filled again yet.");
                nothing(None)
            }
        }
    }

    /// Stores a checkpoint, what it keeps and what it does not cover, one behind the other with
    /// nothing in between; gives how many messages that were. Stopped half way, or beaten by
    /// another writer, it leaves what nobody needs and nobody is misled by.
    async fn condense(
        self,
        bus: &dyn Bus,
        condense: Condense,
        by: (Writer, &KeyPair),
    ) -> Result<usize, String> {
        let Condense { site, saved, through, after_stream_seq } = condense;
        let part = self.part(site, saved).await?;
        let last = part.last();
        if last != through {
            return Err(format!("the journal ends at {last}, the log at {through}"));
        }
        part.store(bus, after_stream_seq, by).await
    }

    /// What the journal has of a site's log, from its checkpoint on.
    async fn part(self, site: SiteId, saved: Saved) -> Result<Part, String> {
        let records = self.journal.records().await.map_err(|error| error.to_string())?;
        let covered = saved.heads.get(&site).ok_or("nothing of it is covered")?.head.clone();
        let rosters = self.rosters.clone();
        let read = move || {
            let open = |record: &Record| Sealed::open_stored(&record.bytes, &*rosters).ok();
            let mut all: Vec<Sealed> = records.iter().filter_map(open).collect();
            all.retain(|sealed| sealed.entry.site == site);
            let rest: Vec<Sealed> =
                all.iter().filter(|sealed| !saved.covers(sealed)).cloned().collect();
            let order = followed(rest.iter().map(|sealed| &sealed.entry), &saved.after());
            let rest: Vec<Sealed> = order.into_iter().map(|at| rest[at].clone()).collect();
            // A damaged journal may have been given an entry again.
            let mut known = BTreeSet::new();
            all.retain(|sealed| saved.covers(sealed) && known.insert(sealed.entry.id.clone()));
            Part { site, covered, kept: all, rest, floors: saved.floors }
        };
        tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())
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

impl Part {
    /// The number of the last entry.
    fn last(&self) -> u64 {
        self.rest.last().map_or(self.covered.seq, |sealed| sealed.entry.position.seq)
    }

    async fn store(
        self,
        bus: &dyn Bus,
        after_stream_seq: u64,
        (writer, key): (Writer, &KeyPair),
    ) -> Result<usize, String> {
        let through = self.last();
        let Self { site, covered, kept, rest, floors } = self;
        let Writer { node, at, fabric } = writer;
        let digest = digest(kept.iter().map(|sealed| sealed.entry.position.hash.as_str()));
        let many = kept.len() as u64;
        let preface =
            Preface { site, node, at, fabric, covered, through, kept: many, digest, floors };
        let bytes = seal_preface(&preface, key).map_err(|error| error.to_string())?;
        let subject = subject::preface(&preface.site, &preface.node);
        let copies = kept.iter().chain(&rest).map(|s| (s.subject(), Arc::clone(&s.bytes)));
        let (mut after, mut stored) = (after_stream_seq, 0);
        for (subject, bytes) in std::iter::once((subject, bytes.into())).chain(copies) {
            after = bus.restate(subject, bytes, after).await.map_err(|error| error.to_string())?;
            stored += 1;
        }
        Ok(stored)
    }
}

/// Everything that the checkpoints of a journal say.
fn all_of(records: &[Record]) -> Saved {
    let mut saved = Saved::default();
    records.iter().filter_map(Saved::read).flatten().for_each(|one| saved.take(one));
    saved
}

/// A site's entries from a number on, without gaps as far as journal and trail have them.
fn entries(
    records: &[Record],
    trail: &Path,
    rosters: &Rosters,
    (site, from): (&SiteId, u64),
) -> Vec<Sealed> {
    let mut saved = all_of(records);
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
