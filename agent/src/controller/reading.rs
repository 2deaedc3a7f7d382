//! Entries in: the contiguous, hash-linked prefix of every site's log, and what it means.

use std::collections::{BTreeMap, BTreeSet};

use nett_policy::id::{EntryId, SiteId};
use nett_policy::log::conflict::{Claim, Claims, Conflict, Contested};
use nett_policy::log::entry::{Body, Entry, Object};
use nett_policy::log::intent::Intent;
use nett_policy::place::place;
use nett_policy::task::view::is_open;

use super::Controller;
use super::effect::{AuditEvent, Effect};
use super::event::Now;
use crate::bus::wire::{Head, Sealed};
use crate::journal::{Saved, SavedHead};

#[derive(Debug, Default)]
pub(super) struct Reading {
    heads: BTreeMap<SiteId, Head>,
    chains: BTreeMap<SiteId, Chain>,
    /// Of streams that were lost: how far they hold again what was read.
    stored: BTreeMap<SiteId, u64>,
    /// The last number of each site's stream that was looked at, believed or not: an append goes
    /// behind it.
    seen: BTreeMap<SiteId, u64>,
    caught_up: BTreeSet<SiteId>,
    /// Sites whose log cannot be followed, with the reason.
    trouble: BTreeMap<SiteId, String>,
    /// How often each stream was lost; and the own site's when the append under way was made, and
    /// when it began to be filled.
    losses: BTreeMap<SiteId, u64>,
    append_of: u64,
    refill_of: u64,
}

/// The entries of one log that were read.
#[derive(Debug, Default)]
struct Chain {
    /// How many are covered by a checkpoint: these are not looked at again.
    covered: u64,
    /// Each one behind those.
    links: Vec<Link>,
}

#[derive(Debug)]
struct Link {
    id: EntryId,
    hash: String,
    stream_seq: u64,
}

/// What an entry is to the prefix that was read.
#[derive(Debug, PartialEq, Eq)]
enum Fit {
    Next,
    Known,
    /// Another entry for a place that is taken. With `wins` it is the one that all agents keep.
    Fork {
        wins: bool,
        trouble: String,
    },
    Trouble(String),
}

/// How trouble with a stream begins that is not the one that was read.
pub(super) const LOG_REPLACED: &str = "log_replaced";
/// How trouble with a stream begins that somebody began anew.
const OTHER_LOG: &str = "log_replaced: incarnation";
/// How trouble with an entry that nobody may have written begins.
const NOT_BELIEVED: &str = "not believed: entry";

// === impl Reading ===

impl Reading {
    pub(super) fn head(&self, site: &SiteId) -> Option<&Head> {
        self.heads.get(site)
    }

    /// 0 when nothing of the site's stream was ever seen.
    pub(super) fn seen(&self, site: &SiteId) -> u64 {
        self.seen.get(site).copied().unwrap_or(0)
    }

    pub(super) fn see(&mut self, site: &SiteId, stream_seq: u64) {
        let seen = self.seen.entry(site.clone()).or_default();
        *seen = (*seen).max(stream_seq);
    }

    pub(super) fn heads(&self) -> BTreeMap<SiteId, Head> {
        self.heads.clone()
    }

    pub(super) fn trouble(&self) -> impl Iterator<Item = (&SiteId, &String)> {
        self.trouble.iter()
    }

    /// Sites whose log says two things: forked, replaced or with a gap. An entry that is not
    /// believed is trouble and no conflict.
    pub(super) fn conflicts(&self) -> usize {
        self.trouble.values().filter(|what| !what.starts_with(NOT_BELIEVED)).count()
    }

    /// Why nothing may be appended to a site's log: what stands there cannot be followed, and an
    /// entry behind it would be a fork.
    pub(super) fn cannot_follow(&self, site: &SiteId) -> Option<&String> {
        self.trouble.get(site).filter(|what| !what.starts_with(NOT_BELIEVED))
    }

    pub(super) fn caught_up(&mut self, site: SiteId) {
        self.caught_up.insert(site);
    }

    /// An entry was found in its stream: what matters once the stream was lost. Behind a gap it
    /// does not count: half a checkpoint has some of what it keeps.
    fn is_stored(&mut self, entry: &Entry) {
        let next = self.stored.get(&entry.site).map_or(0, |stored| stored + 1);
        if entry.position.seq <= next {
            self.holds(&entry.site, entry.position.seq);
        }
    }

    pub(super) fn holds(&mut self, site: &SiteId, seq: u64) {
        let head = self.heads.get(site).map_or(0, |head| head.seq);
        let Some(stored) = self.stored.get_mut(site) else { return };
        *stored = (*stored).max(seq);
        if *stored >= head {
            self.stored.remove(site);
            if self.trouble.get(site).is_some_and(|what| what.starts_with(LOG_REPLACED)) {
                self.trouble.remove(site);
            }
        }
    }

    /// The site's stream was lost, and does not hold yet all that was read of it.
    pub(super) fn is_refilled(&self, site: &SiteId) -> bool {
        self.stored.contains_key(site)
    }

    /// The stream was lost or rebuilt, and is read from its beginning.
    pub(super) fn begin_again(&mut self, site: &SiteId) {
        *self.losses.entry(site.clone()).or_default() += 1;
        self.caught_up.remove(site);
        self.seen.remove(site);
        self.stored.insert(site.clone(), 0);
    }

    /// Where an append goes behind, which is under way from now on.
    pub(super) fn begin_append(&mut self, site: &SiteId) -> u64 {
        self.append_of = self.losses_of(site);
        self.seen(site)
    }

    /// True when the stream that the append went into may be gone.
    pub(super) fn has_lost_append(&self, site: &SiteId) -> bool {
        self.append_of != self.losses_of(site)
    }

    /// Behind what a stream is filled, which is under way from now on.
    pub(super) fn begin_refill(&mut self, site: &SiteId) -> u64 {
        self.refill_of = self.losses_of(site);
        self.seen(site)
    }

    /// True when the stream that was filled may be gone.
    pub(super) fn has_lost_refill(&self, site: &SiteId) -> bool {
        self.refill_of != self.losses_of(site)
    }

    fn losses_of(&self, site: &SiteId) -> u64 {
        self.losses.get(site).copied().unwrap_or(0)
    }

    /// The number of the last message of a stream, whatever was thought before.
    pub(super) fn see_again(&mut self, site: &SiteId, stream_seq: u64) {
        self.seen.insert(site.clone(), stream_seq);
    }

    /// The first entry that a site's stream lacks, once all of it was read. One that somebody began
    /// anew lacks nothing: what was read before is of no use there.
    pub(super) fn lacks(&self, site: &SiteId) -> Option<u64> {
        if self.trouble.get(site).is_some_and(|what| what.starts_with(OTHER_LOG)) {
            return None;
        }
        let head = self.heads.get(site).filter(|_| self.is_caught_up(site))?;
        let stored = *self.stored.get(site)?;
        (stored < head.seq).then_some(stored + 1)
    }

    pub(super) fn is_caught_up(&self, site: &SiteId) -> bool {
        self.caught_up.contains(site)
    }

    fn fit(&self, entry: &Entry) -> Fit {
        let position = &entry.position;
        let Some(head) = self.heads.get(&entry.site) else {
            return match (position.seq, position.prev_hash.is_empty()) {
                (1, true) => Fit::Next,
                _ => Fit::Trouble(format!("begins with entry {}", position.seq)),
            };
        };
        if position.boot != head.boot {
            let message = format!("{OTHER_LOG} {} after {}", position.boot, head.boot);
            return Fit::Trouble(message);
        }
        if position.seq <= head.seq {
            return self.fit_taken(entry);
        }
        if position.seq > head.seq + 1 {
            return Fit::Trouble(format!("gap: entry {} after {}", position.seq, head.seq));
        }
        if position.prev_hash != head.hash {
            return Fit::Trouble(format!("log_forked: entry {} follows another", position.seq));
        }
        Fit::Next
    }

    fn fit_taken(&self, entry: &Entry) -> Fit {
        let (position, chain) = (&entry.position, self.chains.get(&entry.site));
        if self.covers(entry) {
            return Fit::Known;
        }
        let at = |seq: u64| chain?.at(seq);
        match at(position.seq) {
            Some(known) if known.hash == position.hash => Fit::Known,
            Some(Link { id, hash, .. }) => {
                let first = chain.is_some_and(|chain| position.seq == chain.covered + 1);
                let before = at(position.seq - 1).map_or("", |link| link.hash.as_str());
                // What the first one behind a checkpoint follows is not known any more.
                let attached = position.prev_hash == before || (first && position.seq > 1);
                let (seq, other) = (position.seq, &entry.id);
                let trouble = format!("log_forked: two entries at {seq}, {id} and {other}");
                let lower = (&entry.id, &position.hash) < (id, hash);
                Fit::Fork { wins: attached && lower, trouble }
            }
            None => Fit::Trouble(format!("no entry has the number {}", position.seq)),
        }
    }

    fn advance(&mut self, entry: &Entry, stream_seq: u64) {
        self.see(&entry.site, stream_seq);
        let position = entry.position.clone();
        let chain = self.chains.entry(entry.site.clone()).or_default();
        let (id, hash) = (entry.id.clone(), position.hash.clone());
        chain.links.push(Link { id, hash, stream_seq });
        let head = Head { boot: position.boot, seq: position.seq, hash: position.hash };
        self.heads.insert(entry.site.clone(), head);
        self.trouble.remove(&entry.site);
    }

    /// True when a checkpoint has read the entry.
    fn covers(&self, entry: &Entry) -> bool {
        self.chains.get(&entry.site).is_some_and(|chain| entry.position.seq <= chain.covered)
    }

    /// Begins behind a checkpoint.
    fn begin_behind(&mut self, saved: &Saved) {
        for (site, SavedHead { head, stream_seq }) in &saved.heads {
            self.heads.insert(site.clone(), head.clone());
            self.see(site, *stream_seq);
            let chain = Chain { covered: head.seq, links: Vec::new() };
            self.chains.insert(site.clone(), chain);
        }
    }

    /// Forgets how it came to what a checkpoint covers.
    pub(super) fn cover(&mut self, covers: &BTreeMap<SiteId, u64>) {
        for (site, seq) in covers {
            if let Some(chain) = self.chains.get_mut(site) {
                chain.cover(*seq);
            }
        }
    }

    /// The place of an entry that was read and is not covered yet.
    pub(super) fn place(&self, site: &SiteId, seq: u64) -> Option<SavedHead> {
        let (link, head) = (self.chains.get(site)?.at(seq)?, self.heads.get(site)?);
        let head = Head { boot: head.boot.clone(), seq, hash: link.hash.clone() };
        Some(SavedHead { head, stream_seq: link.stream_seq })
    }
}

// === impl Chain ===

impl Chain {
    fn at(&self, seq: u64) -> Option<&Link> {
        let place = seq.checked_sub(self.covered + 1)?;
        self.links.get(usize::try_from(place).ok()?)
    }

    fn cover(&mut self, seq: u64) {
        let more = usize::try_from(seq.saturating_sub(self.covered)).unwrap_or(usize::MAX);
        self.links.drain(..more.min(self.links.len()));
        self.covered = self.covered.max(seq);
    }
}

/// Where a journal with these entries goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    /// The first stream entry of each site that is missing: behind the contiguous prefix, so that
    /// what is missing in the middle is read again.
    pub start: BTreeMap<SiteId, u64>,
    /// True when every entry has its place in a prefix.
    pub whole: bool,
}

/// Walks the hash chains of the entries of a journal, from behind its checkpoint.
pub fn prefix(saved: &Saved, entries: &[(Sealed, u64)]) -> Prefix {
    let mut reading = Reading::default();
    reading.begin_behind(saved);
    for (sealed, stream_seq) in entries {
        match reading.fit(&sealed.entry) {
            Fit::Next => {
                reading.advance(&sealed.entry, *stream_seq);
            }
            // Of two branches the one that counts comes first; nothing is missing because of the
            // other.
            Fit::Known | Fit::Fork { .. } => {}
            Fit::Trouble(what) if what.starts_with("log_forked") => {}
            Fit::Trouble(what) => drop(reading.trouble.insert(sealed.entry.site.clone(), what)),
        }
    }
    let whole = reading.trouble.is_empty();
    let start = reading.seen.into_iter().map(|(site, seen)| (site, seen + 1)).collect();
    Prefix { start, whole }
}

// === impl Controller ===

impl Controller {
    /// The checkpoint at the beginning of the journal.
    pub(super) fn begin_behind(&mut self, saved: Saved) {
        self.reading.begin_behind(&saved);
        self.restored = saved.checkpoint();
        self.compacting.begin_behind(saved);
    }

    /// An entry of the journal: as when it was first read, but neither journalled nor audited
    /// again.
    pub(super) fn replay(&mut self, sealed: Sealed, stream_seq: u64, now: Now) {
        self.compacting.recorded(1);
        if self.reading.covers(&sealed.entry) {
            self.take_in(&sealed, now);
        } else if self.reading.fit(&sealed.entry) == Fit::Next {
            self.reading.advance(&sealed.entry, stream_seq);
            self.take_in(&sealed, now);
        }
    }

    /// The journal is read: from here on the agent wants something of the kernel.
    pub(super) fn start(&mut self, trusted: bool, now: Now) {
        self.started = true;
        self.trusted = trusted;
        let restored = std::mem::take(&mut self.restored);
        self.fold.cover(&restored);
        self.read_all();
        self.remember_movers();
        self.claims_changed = false;
        self.tell_conflicts();
        self.hear_those_who_count();
        self.want(now);
    }

    /// Once every site's log was read, what is known is what there is.
    pub(super) fn caught_up(&mut self, site: SiteId, now: Now) {
        if self.prefaces.is_coming(&site) {
            // Until its checkpoint is taken over nothing of it is known.
            return;
        }
        self.locals.caught_up(site.clone());
        self.reading.caught_up(site);
        let all = self.setting.fabric.sites.iter().all(|s| self.reading.is_caught_up(&s.id));
        self.trusted |= self.started && all;
        if self.started {
            self.want(now);
        }
    }

    /// Entries out of the logs: each is taken in, and what all of them come to is done once.
    pub(super) fn read(&mut self, entries: Vec<(Sealed, u64)>, now: Now) {
        let mut wanted = false;
        for (sealed, stream_seq) in entries {
            let site = sealed.entry.site.clone();
            let taken = self.read_one(sealed, stream_seq, now);
            // What a site did while this node was away is history: only its end is wanted.
            wanted |= taken && self.reading.is_caught_up(&site);
        }
        if std::mem::take(&mut self.claims_changed) {
            self.tell_conflicts();
            self.hear_those_who_count();
        }
        if wanted {
            self.want(now);
        }
    }

    /// True when the entry is the next one of its log.
    fn read_one(&mut self, sealed: Sealed, stream_seq: u64, now: Now) -> bool {
        let entry = &sealed.entry;
        self.reading.see(&entry.site, stream_seq);
        self.behind_preface(&sealed, stream_seq, now);
        if self.of_preface(&sealed, stream_seq, now) {
            return false;
        }
        let entry = &sealed.entry;
        match self.reading.fit(entry) {
            Fit::Known => self.reading.is_stored(entry),
            Fit::Trouble(trouble) | Fit::Fork { wins: false, trouble } => {
                self.astray(entry.site.clone(), trouble);
            }
            Fit::Fork { wins: true, trouble } => {
                self.trouble(entry.site.clone(), trouble);
                // What followed the other one is void: everything is read anew.
                self.effects.push(Effect::Journal { sealed, stream_seq });
                self.effects.push(Effect::ReadAgain);
            }
            Fit::Next => {
                self.reading.is_stored(entry);
                self.compacting.recorded(1);
                self.effects.push(Effect::Journal { sealed: sealed.clone(), stream_seq });
                self.effects.push(Effect::Audit(AuditEvent::Entry(sealed.clone())));
                self.reading.advance(&sealed.entry, stream_seq);
                self.take_in(&sealed, now);
                return true;
            }
        }
        false
    }

    pub(super) fn bad_entry(
        &mut self,
        site: SiteId,
        stream_seq: u64,
        error: &str,
        blocks: Option<&'static str>,
    ) {
        self.reading.see(&site, stream_seq);
        self.breaks_preface(&site, stream_seq);
        if let Some(why) = blocks {
            return self.trouble(site, format!("{why} at {stream_seq}: {error}"));
        }
        self.trouble(site, format!("{NOT_BELIEVED} {stream_seq} of the stream: {error}"));
    }

    /// Reported until an entry of the site fits again; audited once.
    pub(super) fn trouble(&mut self, site: SiteId, trouble: String) {
        self.is_new_trouble(site, trouble);
    }

    /// As [`Self::trouble`]; true when nothing of the kind was known.
    pub(super) fn is_new_trouble(&mut self, site: SiteId, trouble: String) -> bool {
        let known = self.reading.trouble.get(&site);
        // A gap behind an entry that cannot be read says nothing new.
        let behind = known
            .is_some_and(|known| trouble.starts_with("gap") && !known.starts_with(NOT_BELIEVED));
        // Nor does one that is not believed, in a log that is not followed.
        let beside = known.is_some_and(|known| {
            trouble.starts_with(NOT_BELIEVED) && known.starts_with(LOG_REPLACED)
        });
        if known == Some(&trouble) || behind || beside {
            return false;
        }
        let event = AuditEvent::LogTrouble { site: site.to_string(), trouble: trouble.clone() };
        self.effects.push(Effect::Audit(event));
        self.reading.trouble.insert(site, trouble);
        true
    }

    fn take_in(&mut self, sealed: &Sealed, now: Now) {
        let entry = &sealed.entry;
        let added = self.fold.join(entry);
        if let Some(lease) = &mut self.lease {
            lease.read_entry(entry);
        }
        if entry.site == *self.site() {
            self.deciding.moved_on();
        }
        let Some(task) = entry.about() else { return };
        self.deciding.touch(task, entry, self.fold.home(task), now);
        let open = self.fold.command(task).is_some() && is_open(&self.fold, task);
        match open {
            true => self.open.insert(task.clone()),
            false => self.open.remove(task),
        };
        self.note_costs(entry);
        if !self.started {
            return;
        }
        if !added {
            return self.read_all();
        }
        self.intent.update(&self.fold, task);
        if let Some(lease) = &mut self.lease {
            lease.read_task(&self.fold, task);
        }
        if matches!(entry.body, Body::Command(_) | Body::Effective(_)) {
            self.claims.update(&self.fold, task);
            self.claims_changed = true;
        }
    }

    /// Reads the whole fold: at the start, and where an entry has made others void.
    pub(super) fn read_all(&mut self) {
        self.intent = Intent::read(&self.fold);
        if let Some(lease) = &mut self.lease {
            lease.read_all(&self.fold);
        }
        self.claims = Claims::of(&self.fold);
        let open = |id: &&EntryId| is_open(&self.fold, id);
        self.open = self.fold.commands().map(|(id, ..)| id).filter(open).cloned().collect();
        self.claims_changed = true;
    }

    /// Puts on record which split decisions there are now.
    fn tell_conflicts(&mut self) {
        let found = self.claims.conflicts();
        if found == self.conflicts {
            return;
        }
        let line = |conflict: &Conflict| {
            let name =
                |c: &Claim| format!("{} at {} ({})", c.person.name, c.order().site, c.order().task);
            let losers: Vec<String> = conflict.losers.iter().map(name).collect();
            let Conflict { subject, winner, .. } = conflict;
            format!("{subject}: {} wins over {}", name(winner), losers.join(", "))
        };
        let service = |conflict: &Conflict| match &conflict.subject {
            Contested::Service(service) | Contested::Held(service) => Some(service.to_string()),
            Contested::Drained(Object::ServiceAt(service, _)) => Some(service.to_string()),
            Contested::Drained(
                Object::Site(_) | Object::Node(_) | Object::Link(_) | Object::Cluster(_),
            )
            | Contested::Revoked(_) => None,
        };
        let mut notes = Vec::new();
        for conflict in found.iter().filter(|c| !self.conflicts.contains(c)) {
            let text = format!("split decision about {}", line(conflict));
            notes.push(AuditEvent::Conflict { service: service(conflict), text });
        }
        for old in &self.conflicts {
            if found.iter().all(|new| new.subject != old.subject) {
                let text = format!("resolved: {}", old.subject);
                notes.push(AuditEvent::Conflict { service: service(old), text });
            }
        }
        self.effects.extend(notes.into_iter().map(Effect::Audit));
        self.conflicts = found;
    }

    /// Places and lowers again, and says what changed.
    pub(super) fn want(&mut self, now: Now) {
        self.placement = place(self.world(), &self.intent);
        if let Some(lease) = &self.lease {
            lease.overlay(&mut self.placement);
        }
        let mut placement = std::mem::take(&mut self.placement);
        self.lay_over(&mut placement);
        self.placement = placement;
        self.lower(now);
    }
}
