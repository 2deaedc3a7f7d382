//! Whether buckets of resilient groups still lead to backends of drained clusters: this node's part
//! of the steps `drained` that are about clusters (adr/0052).
//!
//! The kernel moves a bucket when no packet has used it for the service's `idle`, and no bucket
//! ever comes back to a member that none is meant for. So the first look that finds none is the
//! acknowledgement; nothing else ends such a step, but that this node has no such member.
//!
//! Crash story: nothing is kept. After a restart the next look says all there is to say.

use std::collections::{BTreeMap, BTreeSet};

use nett_policy::id::ClusterId;
use nett_policy::log::entry::{self, Slot};
use nett_policy::lower::object::{Nexthop, NexthopId, NodeState};
use nett_policy::lower::resilient::{backends_in, left_over};
use nett_policy::task::drained::{MEASURED, UNMEASURED};
use nett_policy::task::reroutes::left_slowly;

use super::Controller;
use super::effect::Effect;
use crate::kernel::Filled;

/// One step that waits until no bucket leads to some backends.
#[derive(Debug)]
pub(super) struct Leaving {
    clusters: BTreeSet<ClusterId>,
    backends: BTreeSet<NexthopId>,
    /// How many buckets led to them at the first look, and at the last.
    looks: Option<(u32, u32)>,
}

// === impl Leaving ===

impl Leaving {
    /// What was found at the last look, in words; nothing before the first.
    pub(super) fn told(&self) -> Option<String> {
        let (first, last) = self.looks?;
        let names = self.names();
        let lead = if last == 1 { "bucket leads" } else { "buckets lead" };
        Some(format!("{last} {lead} to {names}, {first} did when it was looked first"))
    }

    /// The words of the acknowledgement, once no bucket leads to the backends any more. A look that
    /// was not at all of the groups says nothing.
    fn look(
        &mut self,
        groups: &BTreeMap<NexthopId, BTreeSet<NexthopId>>,
        filled: &Filled,
    ) -> Option<String> {
        let mut now = 0;
        for (group, left) in groups {
            let members = filled.get(group)?;
            let own = left.intersection(&self.backends).filter_map(|member| members.get(member));
            now += own.sum::<u32>();
        }
        let (first, last) = self.looks.get_or_insert((now, now));
        *last = now;
        let (first, names) = (*first, self.names());
        (now == 0).then(|| {
            format!("{MEASURED} no bucket leads to {names}; {first} did when it was looked first")
        })
    }

    /// The words of the acknowledgement of a node that has nothing to look at.
    fn without(&self, wanted: &NodeState) -> String {
        let names = self.names();
        let has = |nexthop: &Nexthop| match nexthop {
            Nexthop::Group { members, .. } => members.keys().any(|id| self.backends.contains(id)),
            Nexthop::Single { .. } | Nexthop::Blackhole { .. } => false,
        };
        match wanted.nexthops.values().any(has) {
            true => format!("{UNMEASURED} {names} goes on here, where nothing else is left"),
            false => format!("{MEASURED} no group leads to {names} here"),
        }
    }

    fn names(&self) -> String {
        self.clusters.iter().map(ClusterId::as_str).collect::<Vec<_>>().join(", ")
    }
}

// === impl Controller ===

impl Controller {
    pub(super) fn leaving(&self, effect: &entry::Effect) -> Leaving {
        let clusters = left_slowly(effect);
        let (catalog, site) = (&self.setting.catalog, &self.setting.node.site);
        let backends = backends_in(catalog, site, &clusters);
        Leaving { clusters, backends, looks: None }
    }

    /// The groups in which no bucket is meant for some of these backends, by what is wanted now.
    fn groups_of(
        wanted: &NodeState,
        backends: &BTreeSet<NexthopId>,
    ) -> BTreeMap<NexthopId, BTreeSet<NexthopId>> {
        let mut groups = left_over(wanted);
        groups.retain(|_, left| !left.is_disjoint(backends));
        groups
    }

    /// The buckets were looked at.
    pub(super) fn buckets(&mut self, filled: &Filled) {
        let (_, wanted) = self.doing.wanted();
        let mut quiet = Vec::new();
        for (slot, one) in &mut self.draining.leaving {
            let groups = Self::groups_of(wanted, &one.backends);
            let words = one.look(&groups, filled).filter(|_| !groups.is_empty());
            quiet.extend(words.map(|words| (slot.clone(), words)));
        }
        self.left(quiet);
    }

    /// Acknowledges where no group has such a member: there is nothing to look at.
    pub(super) fn leave_what_is_not_there(&mut self) {
        let (_, wanted) = self.doing.wanted();
        let gone = self.draining.leaving.iter();
        let gone = gone.filter(|(_, one)| Self::groups_of(wanted, &one.backends).is_empty());
        let gone = gone.map(|(slot, one)| (slot.clone(), one.without(wanted))).collect();
        self.left(gone);
    }

    /// Has buckets looked at for as long as a step waits for them. A drain that was cancelled
    /// leaves members without buckets for good, and nobody waits.
    pub(super) fn tell_looks(&mut self) {
        let looks = !self.draining.leaving.is_empty();
        if looks != self.draining.looks {
            self.draining.looks = looks;
            self.effects.push(Effect::Buckets { looks });
        }
    }

    fn left(&mut self, quiet: Vec<(Slot, String)>) {
        for (slot, words) in quiet {
            self.draining.leaving.remove(&slot);
            self.doing.quiet(slot, vec![words]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaving() -> Leaving {
        Leaving {
            clusters: BTreeSet::from(["osl/k1".parse().expect("an id")]),
            backends: BTreeSet::from([NexthopId::backend(1), NexthopId::backend(2)]),
            looks: None,
        }
    }

    #[test]
    fn only_a_look_at_every_group_that_finds_none_is_the_end() {
        let [a, b, other] = [1, 2, 3].map(NexthopId::backend);
        let [out, inside] = [NexthopId(1), NexthopId(2)];
        let groups =
            BTreeMap::from([(out, BTreeSet::from([a, other])), (inside, BTreeSet::from([a, b]))]);
        let filled = |of_a: u32, of_b: u32| {
            Filled::from([
                (out, BTreeMap::from([(a, of_a), (other, 9)])),
                (inside, BTreeMap::from([(b, of_b)])),
            ])
        };
        let mut one = leaving();
        assert_eq!(one.told(), None);
        assert_eq!(one.look(&groups, &filled(5, 7)), None);
        assert_eq!(one.look(&groups, &filled(0, 7)), None);
        let told = one.told().expect("it was looked");
        assert_eq!(told, "7 buckets lead to osl/k1, 12 did when it was looked first");
        assert_eq!(one.look(&groups, &filled(1, 0)), None);
        let told = one.told().expect("it was looked");
        assert_eq!(told, "1 bucket leads to osl/k1, 12 did when it was looked first");
        let part = Filled::from([(out, BTreeMap::from([(other, 9)]))]);
        assert_eq!(one.look(&groups, &part), None, "it was not looked at the other group");
        let said = one.look(&groups, &filled(0, 0)).expect("nothing is left");
        assert!(said.starts_with(MEASURED), "{said}");
    }
}
