//! Streams that were lost: how a node finds out, and what the own site's is filled again with.
//!
//! What was read of a log is on the node's own disk, so a stream that is gone loses nothing. It is
//! made anew, and filled by the site's agents with the entries as they were, or from a checkpoint
//! on; then numbers in it mean something else than before. A node that looks meanwhile finds fewer
//! messages than it has read, or another stream. One that was off finds more of them, and what does
//! not fit behind what it has: so it reads the stream from its first message on, once.

use nett_policy::id::SiteId;

use super::Controller;
use super::effect::{AuditEvent, Effect};
use super::event::Now;
use super::reading::LOG_REPLACED;
use crate::bus::wire::Sealed;

// === impl Controller ===

impl Controller {
    /// A site's stream holds less than was read of it. That of the own site is filled again from
    /// the journal, with the entries as they were.
    pub(super) fn log_replaced(&mut self, site: SiteId, read: u64, found: u64) {
        if site == *self.site() {
            // What could not be filled was another loss.
            self.deciding.cannot_refill = false;
        }
        self.reading.begin_again(&site);
        self.prefaces.begin_again(&site);
        if read == 0 && self.reading.head(&site).is_none() {
            // Nothing is missing of what was empty.
            return;
        }
        let trouble = match found < read {
            true => format!("{LOG_REPLACED}: the stream has {found} entries, {read} were read"),
            false => format!(
                "{LOG_REPLACED}: another stream, with {found} entries; of the one before {read} \
                 were read"
            ),
        };
        self.trouble(site, trouble);
    }

    /// What stands behind that which was read does not fit. If the stream was lost and filled again
    /// while this node did not look, what is missing stands before the place where reading began.
    pub(super) fn astray(&mut self, site: SiteId, trouble: String) {
        let other = trouble.starts_with(LOG_REPLACED);
        let is_new = self.is_new_trouble(site.clone(), trouble);
        if is_new && !other && self.reading.head(&site).is_some() {
            self.effects.push(Effect::Rewind { site });
        }
    }

    /// The site's stream comes from its first message on. Until it has shown that it holds what was
    /// read of it, it counts as one that was lost.
    pub(super) fn rewound(&mut self, site: &SiteId) {
        self.reading.begin_again(site);
        self.prefaces.begin_again(site);
        let text = "log_rewound: the stream is read from its first message on".to_owned();
        let event = AuditEvent::LogTrouble { site: site.to_string(), trouble: text };
        self.effects.push(Effect::Audit(event));
    }

    /// Fills the own site's stream again, one agent at a time by compare-and-set.
    pub(super) fn refill(&mut self) -> bool {
        let site = self.site().clone();
        let Some(from) = self.reading.lacks(&site) else { return false };
        let after_stream_seq = self.reading.begin_refill(&site);
        self.effects.push(Effect::Refill { from, after_stream_seq });
        true
    }

    /// The own site's stream lacks entries that were read of it.
    pub(super) fn lacks_something(&self) -> bool {
        self.reading.lacks(self.site()).is_some()
    }

    /// The stream was lost, and this node has not what would fill it again.
    fn cannot_refill(&mut self, why: &str) {
        let site = self.site().clone();
        let from = self.reading.lacks(&site).unwrap_or(0);
        let text = format!(
            "{LOG_REPLACED}: the stream of site {site} lacks entry {from} and those behind it, and \
             this node cannot fill it: {why}; start the agents of the site's other nodes, or take \
             in a backup here (`nettctl restore FILE`)"
        );
        self.trouble(site, text);
    }

    /// How a refill went: so far, up to this number of the stream.
    pub(super) fn refilled(
        &mut self,
        through: u64,
        stream_seq: u64,
        why: Option<String>,
        now: Now,
    ) {
        let site = self.site().clone();
        if self.reading.has_lost_refill(&site) {
            // It is about a stream that is gone: the one in its place is filled at once.
            self.deciding.refilling = None;
            return;
        }
        self.deciding.refilling = why.is_some().then_some(now.mono);
        self.deciding.cannot_refill = why.is_some();
        self.reading.see(&site, stream_seq);
        self.reading.holds(&site, through);
        if let Some(why) = why {
            self.cannot_refill(&why);
        }
        if self.reading.lacks(&site).is_none() {
            let text = format!("log_refilled: the stream holds entry {through} again");
            let event = AuditEvent::LogTrouble { site: site.to_string(), trouble: text };
            self.effects.push(Effect::Audit(event));
        }
    }

    /// Takes in what this node appended. The number that it got means nothing where the stream was
    /// lost while the answer was under way: the next append would go behind what is not there.
    pub(super) fn read_own(&mut self, sealed: Sealed, stream_seq: u64, now: Now) {
        let site = self.site().clone();
        let seen = self.reading.has_lost_append(&site).then(|| self.reading.seen(&site));
        self.read(vec![(sealed, stream_seq)], now);
        if let Some(seen) = seen {
            self.reading.see_again(&site, seen);
        }
    }
}
