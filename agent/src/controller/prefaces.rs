//! Checkpoints in the streams of the logs: written behind what the own site's stream holds, so that
//! everything before them can go, and read where a stream begins with one.
//!
//! Whoever has read as far as a checkpoint covers learns nothing from it. A node that has not,
//! since it is new or was away for longer, takes it in whole: the checkpoint, all that it kept and
//! nothing else of what it covers go into the journal in one step, and the node begins again from
//! there. Until all that is announced has come, and is what was announced, nothing is believed, and
//! a crash begins to read anew.
//!
//! While one agent of the site writes, the others see it by what they read, and wait. Only one that
//! is whole stands for the log: half of one changes nothing, neither what others have in mind nor
//! what a stream that was lost counts as holding again.

use std::collections::BTreeMap;
use std::time::Duration;

use nett_policy::id::{NodeId, SiteId};
use nett_policy::log::entry::Position;

use super::Controller;
use super::effect::{Condense, Effect, TakeIn};
use super::event::Now;
use crate::bus::wire::{Head, Preface, Sealed, digest};
use crate::journal::{Saved, SavedHead, Stored};

/// How long until a checkpoint that could not be stored is tried again, at first; doubled each
/// time.
const AGAIN: Duration = Duration::from_secs(10);
const AGAIN_AT_MOST: Duration = Duration::from_secs(3600);
/// After so long without another message of it nobody is writing a checkpoint any more.
const QUIET: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Prefaces {
    /// Being read, by site.
    coming: BTreeMap<SiteId, Coming>,
    /// The own journal was made smaller, and the site's stream is to be.
    due: Option<Due>,
    writing: bool,
    /// The newest in each site's stream, while what belongs to it is being read.
    standing: BTreeMap<SiteId, Standing>,
}

/// A checkpoint in a stream, and how much of what belongs to it stands behind it: one message after
/// the other, since each of them was a compare-and-set. Anything else in between breaks it off.
/// What is read at the origin comes before its turn, and waits for it.
#[derive(Debug)]
struct Standing {
    node: NodeId,
    covered: Head,
    kept: u64,
    digest: String,
    /// The number of its last message in the stream.
    end: u64,
    /// The last one that was read.
    read: u64,
    /// When that was.
    at: Duration,
    /// Of what is kept, as far as it was read.
    hashes: Vec<String>,
    /// What belongs to it and came before its turn, by its number in the stream.
    ahead: BTreeMap<u64, Position>,
}

/// What one more message says of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    More,
    /// All that it kept is there, as it was announced.
    Kept,
    /// And all that it repeats.
    Whole,
    Broken,
}

#[derive(Debug)]
struct Due {
    at: Duration,
    pause: Duration,
}

/// A checkpoint and what has come of what it kept.
#[derive(Debug)]
struct Coming {
    preface: Preface,
    /// Its number in the stream: what it kept has those behind it.
    at: u64,
    kept: BTreeMap<u64, Sealed>,
    /// It is on its way to the disk.
    done: bool,
}

// === impl Prefaces ===

impl Prefaces {
    pub(super) fn writing(&self) -> bool {
        self.writing
    }

    /// The site's stream is another one, with numbers of its own.
    pub(super) fn begin_again(&mut self, site: &SiteId) {
        self.standing.remove(site);
        self.coming.remove(site);
    }

    /// Until when nothing is to be added to a site's log, because a node other than `me` is writing
    /// a checkpoint there: whatever came between would break it off, or lose against it again and
    /// again.
    pub(super) fn written_by_other(
        &self,
        site: &SiteId,
        me: &NodeId,
        now: Duration,
    ) -> Option<Duration> {
        let standing = self.standing.get(site).filter(|standing| standing.node != *me)?;
        let until = standing.at + QUIET;
        (standing.read < standing.end && now < until).then_some(until)
    }

    /// What was read of the site's log is not all that its stream says.
    pub(super) fn is_coming(&self, site: &SiteId) -> bool {
        self.coming.contains_key(site)
    }

    /// The own journal was made smaller.
    pub(super) fn compacted(&mut self, now: Duration) {
        self.due = Some(Due { at: now, pause: AGAIN });
    }
}

// === impl Controller ===

impl Controller {
    /// A checkpoint was read in a site's stream.
    pub(super) fn preface(&mut self, preface: Preface, stream_seq: u64, now: Now) {
        let site = preface.site.clone();
        let is_next = stream_seq <= self.reading.seen(&site) + 1;
        self.reading.see(&site, stream_seq);
        self.stands(&preface, stream_seq, now);
        let covered = &preface.covered;
        match self.reading.head(&site) {
            Some(head) if head.boot != covered.boot => return,
            Some(head) if head.seq >= covered.seq => return,
            Some(_) | None => {}
        }
        // Whoever misses nothing needs no checkpoint, and one that speaks of entries that nobody
        // has seen would make this node forget those that it has. A stream that was lost may have
        // been filled again from a checkpoint on.
        let misses = self.reading.head(&site).is_none() || self.reading.is_refilled(&site);
        if is_next && !misses && !self.prefaces.coming.contains_key(&site) {
            let at = covered.seq;
            let text = format!("a checkpoint speaks of entry {at}, and none before it is missing");
            return self.astray(site, text);
        }
        // Mirror and origin may both be read, one behind the other: the newest counts.
        if self.prefaces.coming.get(&site).is_none_or(|coming| coming.at < stream_seq) {
            let coming = Coming { preface, at: stream_seq, kept: BTreeMap::new(), done: false };
            self.prefaces.coming.insert(site.clone(), coming);
        }
        self.take_if_whole(&site, now);
    }

    /// A checkpoint stands in a stream; what belongs to it follows.
    fn stands(&mut self, preface: &Preface, stream_seq: u64, now: Now) {
        let Preface { site, node, covered, through, kept, digest, .. } = preface;
        if self.prefaces.standing.get(site).is_some_and(|known| known.read >= stream_seq) {
            return;
        }
        let standing = Standing {
            node: node.clone(),
            covered: covered.clone(),
            kept: *kept,
            digest: digest.clone(),
            end: stream_seq
                .saturating_add(*kept)
                .saturating_add(through.saturating_sub(covered.seq)),
            read: stream_seq,
            at: now.mono,
            hashes: Vec::new(),
            ahead: BTreeMap::new(),
        };
        self.prefaces.standing.insert(site.clone(), standing);
        if *kept == 0 {
            self.kept_stands(&site.clone());
        }
        self.is_whole(&site.clone());
    }

    /// One more message of a stream that may have a checkpoint before it.
    pub(super) fn behind_preface(&mut self, sealed: &Sealed, stream_seq: u64, now: Now) {
        let site = &sealed.entry.site;
        let Some(standing) = self.prefaces.standing.get_mut(site) else { return };
        standing.came(&sealed.entry.position, stream_seq);
        let next = |prefaces: &mut Prefaces| prefaces.standing.get_mut(site)?.next(now.mono);
        while let Some(progress) = next(&mut self.prefaces) {
            match progress {
                Progress::More | Progress::Whole => {}
                Progress::Kept => self.kept_stands(site),
                Progress::Broken => drop(self.prefaces.standing.remove(site)),
            }
        }
        self.is_whole(site);
    }

    /// A message of a site's stream that is no entry of its log.
    pub(super) fn breaks_preface(&mut self, site: &SiteId, stream_seq: u64) {
        let inside = |one: &Standing| (one.read + 1..=one.end).contains(&stream_seq);
        if self.prefaces.standing.get(site).is_some_and(inside) {
            self.prefaces.standing.remove(site);
        }
    }

    /// Whoever reads the stream from its checkpoint on knows what it covers.
    fn kept_stands(&mut self, site: &SiteId) {
        let Some(Standing { covered, .. }) = self.prefaces.standing.get(site) else { return };
        let known = self.reading.head(site);
        if known.is_some_and(|head| head.boot == covered.boot && head.seq >= covered.seq) {
            self.reading.holds(site, covered.seq);
        }
    }

    fn is_whole(&mut self, site: &SiteId) {
        let whole = |standing: &Standing| standing.read >= standing.end;
        let Some(standing) = self.prefaces.standing.get(site).filter(|one| whole(one)) else {
            return;
        };
        // Another agent of the site was first. One that it did not finish changes nothing.
        if *site == *self.site() && standing.node != self.setting.node.id {
            self.prefaces.due = None;
        }
        self.prefaces.standing.remove(site);
    }

    /// True when the entry is part of a checkpoint that is being read.
    pub(super) fn of_preface(&mut self, sealed: &Sealed, stream_seq: u64, now: Now) -> bool {
        let site = &sealed.entry.site;
        let Some(coming) = self.prefaces.coming.get_mut(site) else { return false };
        if coming.done {
            return true;
        }
        if sealed.entry.position.seq > coming.preface.covered.seq {
            return false;
        }
        if stream_seq > coming.at && stream_seq - coming.at <= coming.preface.kept {
            coming.kept.insert(stream_seq, sealed.clone());
        }
        self.take_if_whole(&site.clone(), now);
        true
    }

    fn take_if_whole(&mut self, site: &SiteId, now: Now) {
        let Some(coming) = self.prefaces.coming.get_mut(site) else { return };
        let Coming { preface, at, kept, done } = coming;
        if *done || (kept.len() as u64) < preface.kept {
            return;
        }
        let hashes = kept.values().map(|sealed| sealed.entry.position.hash.as_str());
        if digest(hashes) != preface.digest {
            let text = format!("the checkpoint at {} lacks what it kept", preface.covered.seq);
            // No more is taken for a part of it, and the log does not count as read.
            *done = true;
            return self.trouble(site.clone(), text);
        }
        *done = true;
        let stream_seq = *at + preface.kept;
        let head = SavedHead { head: preface.covered.clone(), stream_seq };
        let heads = BTreeMap::from([(site.clone(), head)]);
        let saved = Saved { heads, floors: preface.floors.clone() };
        let kept = std::mem::take(kept);
        let kept: Vec<Stored> = kept.into_iter().map(|(seq, sealed)| (sealed, seq)).collect();
        self.effects.push(Effect::TakeIn(Box::new(TakeIn { site: site.clone(), saved, kept })));
        self.deciding.wake(now.mono);
    }

    /// Whether a checkpoint is in the journal now.
    pub(super) fn taken_in(&mut self, site: SiteId, error: Option<String>) {
        match error {
            None => self.effects.push(Effect::ReadAgain),
            // What was read of the log is not all of it: it stays so, and the kernel as it is,
            // until another checkpoint comes or the agent starts anew.
            Some(why) => {
                let text = format!("the checkpoint could not be kept: {why}; restart the agent");
                self.trouble(site, text);
            }
        }
    }

    /// Puts a checkpoint into the own site's stream, when nothing else is to be put there.
    pub(super) fn condense(&mut self, now: Now) {
        let Some(due) = self.prefaces.due.as_ref().filter(|_| !self.prefaces.writing) else {
            return;
        };
        if now.mono < due.at || !self.deciding.is_idle() || !self.peers.bus_connected {
            return;
        }
        let (site, me) = (self.site().clone(), &self.setting.node.id);
        if let Some(until) = self.prefaces.written_by_other(&site, me, now.mono) {
            return self.deciding.wake(until);
        }
        let (Some(head), true) = (self.reading.head(&site), self.reading.is_caught_up(&site))
        else {
            return;
        };
        if self.reading.cannot_follow(&site).is_some() || self.deciding.refilling.is_some() {
            return;
        }
        let saved = self.compacting.saved().clone();
        if !saved.heads.contains_key(&site) {
            self.prefaces.due = None;
            return;
        }
        let condense = Condense {
            site: site.clone(),
            saved,
            through: head.seq,
            after_stream_seq: self.reading.seen(&site),
        };
        self.prefaces.writing = true;
        self.effects.push(Effect::Condense(Box::new(condense)));
    }

    pub(super) fn condensed(&mut self, stored: bool, now: Now) {
        self.prefaces.writing = false;
        let Some(Due { at: _, pause }) = self.prefaces.due.take().filter(|_| !stored) else {
            return;
        };
        let (at, pause) = (now.mono + pause, (pause * 2).min(AGAIN_AT_MOST));
        self.prefaces.due = Some(Due { at, pause });
    }
}

// === impl Standing ===

impl Standing {
    /// A message that may belong to it: it waits for those before it.
    fn came(&mut self, position: &Position, stream_seq: u64) {
        if (self.read + 1..=self.end).contains(&stream_seq) {
            self.ahead.insert(stream_seq, position.clone());
        }
    }

    /// The next message, if it is there.
    fn next(&mut self, now: Duration) -> Option<Progress> {
        let position = self.ahead.remove(&self.read.checked_add(1)?)?;
        (self.read, self.at) = (self.read + 1, now);
        Some(self.take(&position))
    }

    fn take(&mut self, position: &Position) -> Progress {
        if position.boot != self.covered.boot {
            return Progress::Broken;
        }
        if (self.hashes.len() as u64) < self.kept {
            if position.seq > self.covered.seq {
                return Progress::Broken;
            }
            self.hashes.push(position.hash.clone());
            if (self.hashes.len() as u64) < self.kept {
                return Progress::More;
            }
            let found = digest(self.hashes.iter().map(String::as_str));
            return if found == self.digest { Progress::Kept } else { Progress::Broken };
        }
        match position.seq > self.covered.seq {
            true if self.read == self.end => Progress::Whole,
            true => Progress::More,
            false => Progress::Broken,
        }
    }
}
