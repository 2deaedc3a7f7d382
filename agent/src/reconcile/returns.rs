//! What has come back a moment ago, and is doubted until both ends are ready for it.
//!
//! Both ends of a link see its return at the same time, and each needs some milliseconds to put
//! back the way that answers take. The kernel also has to find the neighbour's address anew: it
//! asks once a second, may be in the middle of that, or asks while the far end cannot answer yet,
//! and throws away what does not fit into the queue meanwhile. Whoever has another way keeps to it
//! so long; who has none uses what there is.
//!
//! What comes back again and again is doubted for longer: [`Flapping`].
//!
//! Crash story: a process that begins finds everything there and waits for nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use nett_policy::fabric::Family;
use tokio::time::Instant;

use super::flaps::Flapping;
use super::{Changes, Reconciler};
use crate::kernel::Kernel;
use crate::probe::bfd::{PathId, Presence};

/// The least time of doubt: some times what a border needs to see a return, read its kernel and
/// write its routes.
const SETTLE: Duration = Duration::from_millis(100);
/// How often a neighbour is looked for then.
const AGAIN: Duration = Duration::from_millis(50);
/// The longest wait for a neighbour: the kernel has asked three times by then, and what has no
/// answer is for those to say who watch the link.
const MOST: Duration = Duration::from_secs(4);

#[derive(Debug, Default)]
pub(super) struct Returns {
    /// What was there at the last look; none before the first.
    before: Option<Presence>,
    new: BTreeMap<PathId, New>,
    pub(super) flaps: Flapping,
}

/// A path that came back.
#[derive(Debug, Clone, Copy)]
struct New {
    since: Instant,
    /// When it is looked at next.
    look: Instant,
}

// === impl Returns ===

impl Returns {
    /// When [`Reconciler::settle`] has something to do, or a link is held down no more.
    pub(super) fn next(&self) -> Option<Instant> {
        self.new.values().map(|new| new.look).chain(self.flaps.next()).min()
    }

    /// Whether the path over the interface of this number has come back a moment ago.
    pub(super) fn is_new(&mut self, path: &PathId, index: u32, now: Instant) -> bool {
        if self.before.as_ref().is_some_and(|before| before.get(path) != Some(&index)) {
            self.new.insert(path.clone(), New { since: now, look: now + SETTLE });
        }
        self.new.contains_key(path)
    }

    /// Ends a look at which these could be sent over.
    pub(super) fn seen(&mut self, present: &Presence) {
        self.new.retain(|path, _| present.contains_key(path));
        self.before = Some(present.clone());
    }
}

// === impl Reconciler ===

impl<K: Kernel, C: Changes> Reconciler<K, C> {
    /// Ends the doubt in what has been back long enough and whose neighbour is known.
    pub(super) async fn settle(&mut self, returns: &mut Returns) {
        let now = Instant::now();
        let due = returns.new.iter().filter(|(_, new)| new.look <= now);
        let due: Vec<(PathId, New)> = due.map(|(path, new)| (path.clone(), *new)).collect();
        for (path, New { since, .. }) in due {
            if now < since + MOST && !self.knows_far_end(&path).await {
                returns.new.insert(path, New { since, look: now + AGAIN });
            } else {
                returns.new.remove(&path);
            }
        }
    }

    async fn knows_far_end(&mut self, (link, family): &PathId) -> bool {
        let Some(own) = self.links.iter().find(|own| own.link == *link) else { return true };
        let gateway = own.gateways.iter().find(|gateway| Family::of(**gateway) == *family);
        let Some(gateway) = gateway.filter(|_| !self.dry_run) else { return true };
        let known = self.kernel.knows(*gateway, &own.interface).await;
        known.unwrap_or_else(|error| {
            tracing::warn!(%error, "The kernel does not say whether it knows a neighbour.");
            true
        })
    }
}
