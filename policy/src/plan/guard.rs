//! What changes of the nft table, and when: what is refused is refused before its route ends, and
//! let in after its route leads somewhere again.
//!
//! A route that ends at a blackhole answers nobody, so between two states each VIP is refused what
//! either of them refuses it. A table that differs in more than classes and what is refused is
//! replaced as a whole.

use std::collections::BTreeSet;

use super::Op;
use crate::lower::object::{Guard, GuardElement, GuardSet, Subject};

/// Operations on the table, before and after those on nexthops and routes.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) before: Vec<Op>,
    pub(super) after: Vec<Op>,
}

pub(super) fn changes(desired: Option<&Guard>, actual: Option<&Guard>) -> Changes {
    let mut changes = Changes::default();
    let Some(to) = desired else { return changes };
    let Some(from) = actual else {
        changes.after.push(Op::LoadGuard { from: None, to: to.clone() });
        return changes;
    };
    if is_damaged(from) {
        // Of another version, or changed by somebody: nobody knows what it refuses.
        changes.before.push(Op::LoadGuard { from: Some(from.clone()), to: to.clone() });
        return changes;
    }
    let mut now = from.clone();
    // The classes are as many as the VIPs, and compared once.
    let alike = Guard { classes: to.classes.clone(), refused: to.refused.clone(), ..now.clone() };
    let whole = alike != *to;
    if !whole && now.classes != to.classes {
        changes.before.push(Op::Classes { from: now.classes, to: to.classes.clone() });
        now.classes = to.classes.clone();
    }
    let between = between(from, to);
    let (closes, opens) = (between.closes, between.opens || whole);
    let early = match (closes, opens) {
        (false, _) => None,
        (true, false) => Some(&to.refused),
        (true, true) => Some(&between.refused),
    };
    if let Some(refused) = early {
        // A table without marks has no sets for them, nor one that lets nothing through: they come
        // with the one that has.
        let there = |e: &&GuardElement| match e.set {
            GuardSet::Carried(_) => !now.transit.is_empty(),
            _ => !is_mark(e) || !now.failover.is_empty(),
        };
        let refused: BTreeSet<GuardElement> = refused.iter().filter(there).copied().collect();
        changes.before.extend(elements(&now.refused, &refused));
        now.refused = refused;
    }
    if whole {
        changes.after.push(Op::LoadGuard { from: Some(now), to: to.clone() });
    } else {
        changes.after.extend(elements(&now.refused, &to.refused));
    }
    changes
}

/// A readback gives a damaged table the mask 0, which no node wants.
fn is_damaged(guard: &Guard) -> bool {
    guard.mark_mask == 0
}

fn is_mark(element: &GuardElement) -> bool {
    matches!(element.set, GuardSet::FailoverTo(_) | GuardSet::FailoverFrom(_))
}

fn is_carried(element: &GuardElement) -> bool {
    matches!(element.set, GuardSet::Carried(_))
}

/// What holds on the way from one table to another.
struct Between {
    refused: BTreeSet<GuardElement>,
    /// Somebody is refused more than before.
    closes: bool,
    /// Somebody was refused more than in the end.
    opens: bool,
}

fn between(from: &Guard, to: &Guard) -> Between {
    let of_class = |element: &&GuardElement| {
        matches!(element.subject, Subject::Class(_)) && !is_carried(element)
    };
    let mut between = Between {
        refused: from.refused.union(&to.refused).filter(of_class).copied().collect(),
        closes: to.refused.difference(&from.refused).any(|e| of_class(&e)),
        opens: from.refused.difference(&to.refused).any(|e| of_class(&e)),
    };
    // What is carried is not refused, so it is so while both of them say it.
    between.closes |= from.refused.difference(&to.refused).any(is_carried);
    between.opens |= to.refused.difference(&from.refused).any(is_carried);
    let carried = from.refused.intersection(&to.refused).filter(|e| is_carried(e));
    between.refused.extend(carried.copied());
    let carrying: BTreeSet<GuardSet> =
        from.refused.union(&to.refused).filter(|e| is_carried(e)).map(|e| e.set).collect();
    // A counter that goes and comes again has forgotten what it counted; and what is kept, or
    // marked, is so from before the routes change until after.
    const KEEPING: [GuardSet; 2] = [GuardSet::Keep, GuardSet::KeepHere];
    let keeps = |e: &GuardElement| KEEPING.contains(&e.set) || is_mark(e);
    between.closes |= to.refused.difference(&from.refused).any(keeps);
    between.opens |= from.refused.difference(&to.refused).any(keeps);
    let counts = |e: &&GuardElement| keeps(e) || GuardSet::COUNTED.contains(&e.set);
    between.refused.extend(from.refused.union(&to.refused).filter(counts).copied());
    let apart = from.refused.union(&to.refused).filter(|e| e.set == GuardSet::Apart);
    for element in apart.copied().collect::<Vec<_>>() {
        between.refused.insert(element);
        let Subject::Vip(vip) = element.subject else { continue };
        for set in GuardSet::REFUSING {
            let (before, after) = (from.refuses(vip, set), to.refuses(vip, set));
            between.closes |= after && !before;
            between.opens |= before && !after;
            if before || after {
                between.refused.insert(GuardElement { set, ..element });
            }
        }
        for set in carrying.iter().copied() {
            let (before, after) = (from.refuses(vip, set), to.refuses(vip, set));
            between.closes |= before && !after;
            between.opens |= after && !before;
            if before && after {
                between.refused.insert(GuardElement { set, ..element });
            } else {
                between.refused.remove(&GuardElement { set, ..element });
            }
        }
    }
    between
}

fn elements(from: &BTreeSet<GuardElement>, to: &BTreeSet<GuardElement>) -> Option<Op> {
    let add = to.difference(from).copied().collect();
    let delete = from.difference(to).copied().collect();
    (from != to).then_some(Op::Elements { add, delete })
}
