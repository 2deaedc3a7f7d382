//! The log of one node: commands that it took for itself while the bus was away, and their ends.
//!
//! Entries are sealed as those of a site's log are, and say in their `boot` that they are of none.
//! Each is synced before anything is done about it; a torn one was not acted on. Once everything in
//! it is over the file begins anew with the next start.

use std::collections::BTreeSet;
use std::path::Path;

use nett_policy::id::NodeId;
use nett_policy::log::entry::Body;
use nett_policy::roster::Rosters;

use super::driver::{Driver, Parts};
use super::effect::LocalEntry;
use super::event::{Event, Now};
use crate::bus::wire::{Draft, Sealed};
use crate::journal::{FileJournal, Journal, JournalError, JournalWriter, Record};
use crate::probe::Probe;

/// Where own entries are kept.
pub struct OwnLog {
    journal: JournalWriter,
    boot: String,
    seq: u64,
    prev_hash: String,
}

/// Why there is no such log: for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OwnLogError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("cannot start the thread of the node's own log")]
    Thread(#[source] std::io::Error),
}

// === impl OwnLog ===

impl OwnLog {
    /// Opens `local` in the state directory; gives what is in it and not over.
    pub fn open(
        state_dir: &Path,
        node: &NodeId,
        rosters: &Rosters,
    ) -> Result<(Self, Vec<Sealed>), OwnLogError> {
        let mut journal = FileJournal::open_named(state_dir, "local")?;
        let loaded = journal.load()?;
        if !loaded.damaged.is_empty() || loaded.missing > 0 {
            tracing::error!("Commands that only this node has taken are lost, and undone.");
        }
        let open = |record: &Record| Sealed::open_stored(&record.bytes, rosters).ok();
        let all: Vec<Sealed> = loaded.records.iter().filter_map(open).collect();
        let over: BTreeSet<_> = all
            .iter()
            .filter_map(|sealed| match &sealed.entry.body {
                Body::End(end) => Some(end.slot.task.clone()),
                _ => None,
            })
            .collect();
        let (mut seq, mut prev_hash) = (0, String::new());
        if let Some(last) = all.last() {
            seq = last.entry.position.seq;
            prev_hash.clone_from(&last.entry.position.hash);
        }
        let is_open = |sealed: &Sealed| match &sealed.entry.body {
            Body::Command(command) => !over.contains(&command.request.id),
            _ => false,
        };
        let left: Vec<Sealed> = all.into_iter().filter(is_open).collect();
        if left.is_empty() && !loaded.records.is_empty() {
            journal.rewrite(&[])?;
            (seq, prev_hash) = (0, String::new());
        }
        let journal = JournalWriter::spawn(Box::new(journal)).map_err(OwnLogError::Thread)?;
        Ok((Self { journal, boot: format!("local.{node}"), seq, prev_hash }, left))
    }

    async fn keep(&mut self, sealed: Sealed) -> Result<Box<Sealed>, String> {
        let record = Record { stream_seq: 0, bytes: sealed.bytes.to_vec() };
        self.journal.append(vec![record]).await.map_err(|error| error.to_string())?;
        self.seq = sealed.entry.position.seq;
        self.prev_hash.clone_from(&sealed.entry.position.hash);
        Ok(Box::new(sealed))
    }
}

impl<P: Probe> Driver<P> {
    /// Seals an entry into the own log; returns once it is synced.
    pub(super) async fn keep_local(&mut self, entry: LocalEntry, now: Now) -> Event {
        let setting = self.controller.setting();
        let id = self.parts.rng.ulid(now.wall);
        let log = &self.parts.own_log;
        let draft = Draft {
            id: format!("{}.{id}", setting.node.site).parse().expect("a site and a ulid are an id"),
            site: setting.node.site.clone(),
            node: setting.node.id.clone(),
            fabric: self.controller.fabric_ref(),
            at: now.wall,
            boot: log.boot.clone(),
            seq: log.seq + 1,
            prev_hash: log.prev_hash.clone(),
            body: entry.body,
            request_verbatim: entry.verbatim,
        };
        Event::LocalKept(match Sealed::seal(draft, &self.parts.key) {
            Ok(sealed) => {
                let Parts { own_log, pulse, .. } = &mut self.parts;
                pulse.during(own_log.keep(sealed)).await
            }
            Err(error) => Err(error.to_string()),
        })
    }
}
