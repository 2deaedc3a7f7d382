//! A checkpoint as a record of the journal: how far each log was read, and below which place of a
//! subject nothing is contested any more. What it kept stands behind it, as ordinary records.

use std::collections::{BTreeMap, BTreeSet};

use nett_policy::id::{IdError, SiteId};
use nett_policy::log::chain::{After, followed};
use nett_policy::log::checkpoint::{Checkpoint, kept};
use nett_policy::log::conflict::Contested;
use nett_policy::log::fold::Fold;
use nett_policy::log::intent::Order;
use serde::{Deserialize, Serialize};

use super::Record;
use crate::bus::wire::{Head, Judge, OrderDoc, Sealed};

/// What a journal begins with that was written anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    pub heads: BTreeMap<SiteId, SavedHead>,
    pub floors: BTreeMap<Contested, Order>,
}

/// The last entry of a log that is covered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedHead {
    pub head: Head,
    /// Its number in the site's stream.
    pub stream_seq: u64,
}

/// An entry with its number in the stream, as it was kept.
pub type Stored = (Sealed, u64);

/// A record begins like this and no entry does.
const MARK: &[u8] = b"{\"checkpoint\":";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedDoc {
    /// The version of this shape.
    checkpoint: u32,
    heads: BTreeMap<String, HeadDoc>,
    floors: BTreeMap<String, OrderDoc>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadDoc {
    boot: String,
    seq: u64,
    hash: String,
    stream_seq: u64,
}

/// Brings what a journal holds into the order in which it is to be read: what a checkpoint kept,
/// then site by site what follows, and at last what is void or waits for something.
pub fn sort(saved: &Saved, entries: Vec<Stored>) -> Vec<Stored> {
    let covered = |stored: &Stored| saved.covers(&stored.0);
    let (kept, rest): (Vec<Stored>, Vec<Stored>) = entries.into_iter().partition(covered);
    let order = followed(rest.iter().map(|(sealed, _)| &sealed.entry), &saved.after());
    let chosen: BTreeSet<usize> = order.iter().copied().collect();
    let void = (0..rest.len()).filter(|at| !chosen.contains(at));
    let order = order.iter().copied().chain(void).map(|at| rest[at].clone());
    kept.into_iter().chain(order).collect()
}

/// The places of the records that a journal keeps when it is written anew for this checkpoint and
/// fold; one place for each record. What cannot be read stays: somebody else may know what it is.
pub fn survivors(saved: &Saved, fold: &Fold, records: &[Record], judge: &dyn Judge) -> Vec<bool> {
    let mut survive = vec![true; records.len()];
    let mut entries: Vec<(usize, Stored)> = Vec::new();
    for (at, record) in records.iter().enumerate() {
        if Saved::read(record).is_some() {
            survive[at] = false;
        } else if let Ok(sealed) = Sealed::open_stored(&record.bytes, judge) {
            entries.push((at, (sealed, record.stream_seq)));
        }
    }
    let (places, entries): (Vec<usize>, Vec<Stored>) = entries.into_iter().unzip();
    let kept: BTreeSet<usize> = saved.kept(fold, &entries).into_iter().collect();
    for (n, at) in places.into_iter().enumerate() {
        survive[at] = kept.contains(&n);
    }
    survive
}

// === impl Saved ===

impl Saved {
    /// What the core makes of it.
    pub fn checkpoint(&self) -> Checkpoint {
        let covers = self.heads.iter().map(|(site, head)| (site.clone(), head.head.seq)).collect();
        Checkpoint { covers, floors: self.floors.clone() }
    }

    /// True when the entry is not behind what is covered.
    pub fn covers(&self, sealed: &Sealed) -> bool {
        let entry = &sealed.entry;
        self.heads.get(&entry.site).is_some_and(|head| entry.position.seq <= head.head.seq)
    }

    /// Where the chains of hashes go on.
    pub fn after(&self) -> BTreeMap<SiteId, After> {
        let after = |head: &SavedHead| {
            let Head { boot, seq, hash } = head.head.clone();
            After { boot, seq, hash }
        };
        self.heads.iter().map(|(site, head)| (site.clone(), after(head))).collect()
    }

    /// The higher of every head and place.
    pub fn take(&mut self, other: Self) {
        let mut checkpoint = self.checkpoint();
        checkpoint.take(&other.checkpoint());
        self.floors = checkpoint.floors;
        for (site, head) in other.heads {
            match self.heads.get(&site) {
                Some(known) if known.head.seq >= head.head.seq => {}
                Some(_) | None => drop(self.heads.insert(site, head)),
            }
        }
    }

    /// The places of the entries that this checkpoint keeps, for a fold that has it.
    pub fn kept(&self, fold: &Fold, entries: &[Stored]) -> Vec<usize> {
        kept(fold, entries.iter().map(|(sealed, _)| &sealed.entry))
    }

    pub fn record(&self) -> Record {
        let Self { heads, floors } = self;
        let head = |head: &SavedHead| {
            let SavedHead { head: Head { boot, seq, hash }, stream_seq } = head.clone();
            HeadDoc { boot, seq, hash, stream_seq }
        };
        let doc = SavedDoc {
            checkpoint: 1,
            heads: heads.iter().map(|(site, one)| (site.to_string(), head(one))).collect(),
            floors: floors
                .iter()
                .map(|(what, one)| (what.to_string(), OrderDoc::write(one)))
                .collect(),
        };
        let bytes = serde_json::to_vec(&doc).expect("keys are strings");
        Record { stream_seq: 0, bytes }
    }

    /// `None` where the record is something else: an entry.
    ///
    /// # Errors
    /// Another release wrote it, or it was damaged in a way that its check did not see.
    pub fn read(record: &Record) -> Option<Result<Self, String>> {
        record.bytes.starts_with(MARK).then(|| Self::decode(&record.bytes))
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let doc: SavedDoc = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        let SavedDoc { checkpoint, heads, floors } = doc;
        if checkpoint != 1 {
            return Err(format!("a checkpoint of version {checkpoint}, this agent reads 1"));
        }
        let head = |(site, doc): (String, HeadDoc)| {
            let HeadDoc { boot, seq, hash, stream_seq } = doc;
            Ok((site.parse()?, SavedHead { head: Head { boot, seq, hash }, stream_seq }))
        };
        let floor =
            |(subject, doc): (String, OrderDoc)| Ok((subject.parse()?, OrderDoc::read(doc)?));
        let heads: Result<_, IdError> = heads.into_iter().map(head).collect();
        let floors: Result<_, IdError> = floors.into_iter().map(floor).collect();
        let bad = |error: IdError| error.to_string();
        Ok(Self { heads: heads.map_err(bad)?, floors: floors.map_err(bad)? })
    }
}
