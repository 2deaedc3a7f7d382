//! Which entries of a log are followed, when a broken log server stored two for one position.
//!
//! A log is a chain by hashes. Where two entries follow the same one, all agents keep the one with
//! the lower id (of equal ones, the lower hash) and pass over the other with all behind it: a
//! choice that depends on the set of entries alone. What was lost is in the journals and in the
//! audit trail, and `log_forked` is reported; only a person can order it again.

use std::collections::BTreeMap;

use super::entry::Entry;
use crate::id::{EntryId, SiteId};

/// The last entry of a log that need not be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    pub boot: String,
    pub seq: u64,
    pub hash: String,
}

/// The places, in the order in which they are to be read, of the entries that count: site by site,
/// each from behind `after`, or from its first entry on, without gaps. Places that are not named
/// are void, or wait for what is missing before them.
pub fn followed<'a>(
    entries: impl IntoIterator<Item = &'a Entry>,
    after: &BTreeMap<SiteId, After>,
) -> Vec<usize> {
    // By site, sequence number and the hash before.
    type Place<'a> = (&'a SiteId, u64, &'a str);
    let mut next: BTreeMap<Place<'a>, Vec<(&'a EntryId, usize, &'a Entry)>> = BTreeMap::new();
    for (at, entry) in entries.into_iter().enumerate() {
        let place = (&entry.site, entry.position.seq, entry.position.prev_hash.as_str());
        next.entry(place).or_default().push((&entry.id, at, entry));
    }
    let mut sites: Vec<&SiteId> = next.keys().map(|(site, ..)| *site).collect();
    sites.dedup();
    let mut order = Vec::new();
    for site in sites {
        let (mut seq, mut hash, mut boot) = match after.get(site) {
            Some(After { boot, seq, hash }) => (seq + 1, hash.as_str(), Some(boot.as_str())),
            None => (1u64, "", None::<&str>),
        };
        while let Some(rivals) = next.get(&(site, seq, hash)) {
            let of_boot = |entry: &Entry| boot.is_none_or(|boot| entry.position.boot == boot);
            let of_boot = rivals.iter().filter(|(_, _, entry)| of_boot(entry));
            let lowest = of_boot.min_by_key(|(id, _, entry)| (*id, &entry.position.hash));
            let Some((_, at, entry)) = lowest else { break };
            order.push(*at);
            hash = &entry.position.hash;
            boot = Some(&entry.position.boot);
            seq += 1;
        }
    }
    order
}
