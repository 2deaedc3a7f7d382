//! What a secondary must take away and add to get from one snapshot to another.

use crate::records::{Record, of_apex, of_service};
use crate::topology::SiteIndex;
use crate::zone::Zone;

/// Records without SOA; both lists are sorted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) gone: Vec<Record>,
    pub(crate) new: Vec<Record>,
}

impl Difference {
    /// Takes time by the number of services that changed.
    pub(crate) fn between(old: &Zone, new: &Zone, site: Option<SiteIndex>) -> Self {
        let mut gone = Vec::new();
        let mut added = Vec::new();
        if !old.has_apex_of(new) {
            gone.extend(of_apex(old.apex()));
            added.extend(of_apex(new.apex()));
        }
        for (key, before, after) in new.changed_entries(old) {
            gone.extend(before.iter().flat_map(|e| of_service(old, key, e, site)));
            added.extend(after.iter().flat_map(|e| of_service(new, key, e, site)));
        }
        gone.sort();
        added.sort();
        Self { gone: without(&gone, &added), new: without(&added, &gone) }
    }

    pub(crate) fn len(&self) -> usize {
        self.gone.len() + self.new.len()
    }
}

/// The records of `all` that are not in `others`; both are sorted.
fn without(all: &[Record], others: &[Record]) -> Vec<Record> {
    let missing = |record: &&Record| others.binary_search(record).is_err();
    all.iter().filter(missing).cloned().collect()
}
