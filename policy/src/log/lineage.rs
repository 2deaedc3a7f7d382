//! What the author of an effect knew: the names that lead from it back through everything before.
//!
//! Every effect names the command that it follows, and a `resolve` also the losers that it ends.
//! What these names do not lead to was decided behind the author's back.

use std::collections::{BTreeMap, BTreeSet};

use super::intent::Order;
use crate::id::{EntryId, Epoch};

/// One effect's place among those on one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    pub order: Order,
    /// The command on the subject that it follows.
    pub prev: Option<EntryId>,
    /// Losers of a split decision that it ends.
    pub settles: BTreeSet<EntryId>,
}

/// An effect: its task, and the epoch that it gave the subject.
pub type Known<'a> = (&'a EntryId, Epoch);

/// Everything of `rest` that `winner` leads back to. A task's later effect follows its earlier one.
pub fn ancestors<'a>(
    winner: &'a Lineage,
    rest: impl Iterator<Item = &'a Lineage>,
) -> BTreeSet<Known<'a>> {
    let mut by_task: BTreeMap<&EntryId, Vec<&Lineage>> = BTreeMap::new();
    for lineage in rest {
        by_task.entry(&lineage.order.task).or_default().push(lineage);
    }
    let mut known = BTreeSet::new();
    let mut open = vec![winner];
    while let Some(one) = open.pop() {
        let named = one.prev.iter().chain(&one.settles).chain(Some(&one.order.task));
        let older = named.filter_map(|task| by_task.get(task)).flatten();
        for older in older.filter(|o| o.order.epoch < one.order.epoch || one.settled(o)) {
            if known.insert(older.name()) {
                open.push(older);
            }
        }
    }
    known
}

// === impl Lineage ===

impl Lineage {
    pub fn name(&self) -> Known<'_> {
        (&self.order.task, self.order.epoch)
    }

    fn settled(&self, other: &Self) -> bool {
        self.settles.contains(&other.order.task)
    }
}
