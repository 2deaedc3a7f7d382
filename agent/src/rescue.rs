//! A node's log out of a backup: what is in one, and whether it may be taken in.
//!
//! A backup holds records of a journal, as text. Taken in, they join what is there, as entries from
//! the bus do: nothing is taken away, and what is there twice is there once. Every entry is judged
//! by the fabric generation that it names, so a backup can be handed over by anybody. The journal
//! is written anew in one step, and the one before stays beside it; a crash leaves one of the two.

use std::collections::{BTreeMap, BTreeSet};

use nett_policy::id::{EntryId, SiteId, sha256_hex};
use nett_policy::log::fold::Fold;
use nett_policy::roster::Rosters;
use nett_policy::task::view::is_open;

use crate::bus::wire::{Judge, OpenError, Sealed};
use crate::controller::{Prefix, prefix};
use crate::journal::{Record, Saved, Stored, sort};

/// Why a backup is not taken in. All are for whoever gave it.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("it is of the fabric `{found}`, this node is of `{own}`")]
    Fabric { found: String, own: String },
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("entry {place} is not believed")]
    Entry {
        place: usize,
        #[source]
        source: OpenError,
    },
    #[error("the log of site {site} has incarnation {found} in it, and {own} here")]
    Incarnation { site: SiteId, found: String, own: String },
    #[error(
        "it is older than what is here, and nothing in it is new: it has {found}, here is {own}"
    )]
    Older { found: String, own: String },
}

/// What taking a backup in comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Everything that the journal is to hold.
    pub records: Vec<Record>,
    /// How many of them were not there before.
    pub new: usize,
    /// The last entry of every log.
    pub heads: BTreeMap<SiteId, u64>,
}

/// The records of a journal, one a line, without anything around them.
pub fn to_text(records: &[Record]) -> String {
    let line = |r: &Record| format!("{} {}\n", r.stream_seq, String::from_utf8_lossy(&r.bytes));
    records.iter().map(line).collect()
}

/// The records of such a text.
///
/// # Errors
/// Says which line is none.
pub fn from_text(text: &str) -> Result<Vec<Record>, RestoreError> {
    let record = |(line, number): (&str, usize)| {
        let parts = line.split_once(' ').and_then(|(seq, rest)| Some((seq.parse().ok()?, rest)));
        let (stream_seq, rest) =
            parts.ok_or_else(|| RestoreError::Damaged(format!("line {number} is no record")))?;
        Ok(Record { stream_seq, bytes: rest.as_bytes().to_vec() })
    };
    text.lines().zip(1..).map(record).collect()
}

/// Judges a backup: `text` as of [`to_text`] with its SHA-256, for a node that has `present`.
///
/// # Errors
/// Says why it is not taken in; then nothing is to be changed.
pub fn judge(
    present: &[Record],
    (text, hash): (&str, &str),
    rosters: &Rosters,
) -> Result<Restored, RestoreError> {
    if sha256_hex(text.as_bytes()) != hash {
        return Err(RestoreError::Damaged("its text does not fit its SHA-256".to_owned()));
    }
    let found = from_text(text)?;
    let backup = read(&found, rosters, true)?;
    let Prefix { whole, .. } = prefix(&backup.saved, &backup.entries);
    if !whole {
        return Err(RestoreError::Damaged("entries are missing between others".to_owned()));
    }
    let here = read(present, rosters, false)?;
    for (site, (boot, _)) in &backup.heads {
        if let Some((own, _)) = here.heads.get(site).filter(|(own, _)| own != boot) {
            let (site, found, own) = (site.clone(), boot.clone(), own.clone());
            return Err(RestoreError::Incarnation { site, found, own });
        }
    }
    let newer = |(site, (_, seq)): (&SiteId, &(String, u64))| {
        here.heads.get(site).is_none_or(|(_, own)| seq > own)
    };
    if !backup.heads.iter().any(newer) {
        let (found, own) = (tell(&backup.heads), tell(&here.heads));
        return Err(RestoreError::Older { found, own });
    }
    let forgotten = forgotten(&here, &backup);
    let gone = |r: &&Record| {
        let sealed = Sealed::open_stored(&r.bytes, rosters);
        sealed.is_ok_and(|sealed| forgotten.contains(&sealed.entry.id))
    };
    let entry = |r: &&Record| Saved::read(r).is_none() && !gone(r);
    let mut records: Vec<Record> = present.iter().filter(entry).cloned().collect();
    let before = records.len();
    let known: BTreeSet<&[u8]> = present.iter().map(|r| r.bytes.as_slice()).collect();
    let more = found.iter().filter(entry).filter(|r| !known.contains(r.bytes.as_slice()));
    records.extend(more.cloned());
    let new = records.len() - before;
    let mut saved = here.saved;
    saved.take(backup.saved);
    if !saved.heads.is_empty() {
        records.insert(0, saved.record());
    }
    let mut heads: BTreeMap<SiteId, u64> = BTreeMap::new();
    for (site, (_, seq)) in here.heads.iter().chain(&backup.heads) {
        let head = heads.entry(site.clone()).or_default();
        *head = (*head).max(*seq);
    }
    Ok(Restored { records, new, heads })
}

/// What one side has forgotten and the other one still has. A task of which only the beginning was
/// left would be open for ever.
///
/// A backup was read whole, so what its checkpoint covers and it lacks is forgotten. What is
/// lacking here may be lost with a disk as well; so it is taken from the backup, but for tasks that
/// are open there and of which nothing is known here: they have ended since.
fn forgotten(here: &Read, backup: &Read) -> BTreeSet<EntryId> {
    let ids = |read: &Read| -> BTreeSet<EntryId> {
        read.entries.iter().map(|(sealed, _)| sealed.entry.id.clone()).collect()
    };
    let (own, told) = (ids(here), ids(backup));
    let mut forgotten: BTreeSet<EntryId> = BTreeSet::new();
    for (sealed, _) in here.entries.iter().filter(|(sealed, _)| backup.saved.covers(sealed)) {
        if !told.contains(&sealed.entry.id) {
            forgotten.insert(sealed.entry.id.clone());
        }
    }
    let mut fold = Fold::default();
    for (sealed, _) in &backup.entries {
        fold.join(&sealed.entry);
    }
    let known: BTreeSet<&EntryId> =
        here.entries.iter().filter_map(|(sealed, _)| sealed.entry.about()).collect();
    for (sealed, _) in backup.entries.iter().filter(|(sealed, _)| here.saved.covers(sealed)) {
        let ended_since = |task: &EntryId| !known.contains(task) && is_open(&fold, task);
        if !own.contains(&sealed.entry.id) && sealed.entry.about().is_some_and(ended_since) {
            forgotten.insert(sealed.entry.id.clone());
        }
    }
    forgotten
}

/// The records of a journal that takes over what the checkpoint of a site's log says: of what it
/// covers, only what it kept is left. A task of which this node has read the beginning alone would
/// be open for ever otherwise.
pub fn take_over(
    present: &[Record],
    site: &SiteId,
    (saved, kept): (Saved, &[Stored]),
    judge: &dyn Judge,
) -> Restored {
    let mut whole = Saved::default();
    let mut records = Vec::new();
    for record in present {
        match Saved::read(record) {
            Some(Ok(one)) => whole.take(one),
            // Somebody else may know what it is.
            Some(Err(_)) => records.push(record.clone()),
            None => {
                let gone = Sealed::open_stored(&record.bytes, judge)
                    .is_ok_and(|sealed| sealed.entry.site == *site && saved.covers(&sealed));
                if !gone {
                    records.push(record.clone());
                }
            }
        }
    }
    whole.take(saved);
    let keep = |(sealed, stream_seq): &Stored| {
        let bytes = sealed.bytes.to_vec();
        Record { stream_seq: *stream_seq, bytes }
    };
    let heads = whole.heads.iter().map(|(site, at)| (site.clone(), at.head.seq)).collect();
    let front = std::iter::once(whole.record()).chain(kept.iter().map(keep));
    Restored { records: front.chain(records).collect(), new: kept.len(), heads }
}

/// Records as they are read.
struct Read {
    saved: Saved,
    entries: Vec<Stored>,
    /// By site, incarnation and number of the last entry.
    heads: BTreeMap<SiteId, (String, u64)>,
}

/// Reads records in order; a `strict` reader passes over nothing.
fn read(records: &[Record], rosters: &Rosters, strict: bool) -> Result<Read, RestoreError> {
    let (mut saved, mut entries) = (Saved::default(), Vec::new());
    for (record, place) in records.iter().zip(1..) {
        match Saved::read(record) {
            Some(Ok(one)) => saved.take(one),
            Some(Err(why)) if strict => return Err(RestoreError::Damaged(why)),
            Some(Err(_)) => {}
            None => match Sealed::open_stored(&record.bytes, rosters) {
                Ok(sealed) => entries.push((sealed, record.stream_seq)),
                Err(source) if strict => return Err(RestoreError::Entry { place, source }),
                Err(_) => {}
            },
        }
    }
    let entries = sort(&saved, entries);
    let covered = saved.heads.iter();
    let covered = covered.map(|(site, at)| (site, &at.head.boot, at.head.seq));
    let read = entries.iter().map(|(sealed, _)| {
        let position = &sealed.entry.position;
        (&sealed.entry.site, &position.boot, position.seq)
    });
    let mut heads: BTreeMap<SiteId, (String, u64)> = BTreeMap::new();
    for (site, boot, seq) in covered.chain(read) {
        let head = heads.entry(site.clone()).or_insert_with(|| (boot.clone(), seq));
        head.1 = head.1.max(seq);
    }
    Ok(Read { saved, entries, heads })
}

fn tell(heads: &BTreeMap<SiteId, (String, u64)>) -> String {
    let all: Vec<String> = heads.iter().map(|(site, (_, seq))| format!("{site} {seq}")).collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
}
