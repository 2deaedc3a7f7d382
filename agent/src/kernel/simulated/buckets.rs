//! Buckets of resilient groups, as net/ipv4/nexthop.c fills and moves them: one whose member is
//! gone moves at once, one of a member with too many moves when it is idle, to the first member
//! that has too few.
//!
//! There is no clock: a bucket is in use for as long as a test says so.

use std::collections::{BTreeMap, BTreeSet};

use nett_policy::id::Weight;
use nett_policy::lower::object::{Nexthop, NexthopId};
use nett_policy::lower::resilient::wanted;

use super::Filled;

/// The buckets of every resilient group.
#[derive(Debug, Default)]
pub(super) struct Buckets(BTreeMap<NexthopId, Vec<Bucket>>);

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    member: Option<NexthopId>,
    used: bool,
}

impl Buckets {
    /// Follows what groups there are, and their weights.
    pub(super) fn follow(&mut self, nexthops: &BTreeMap<NexthopId, Nexthop>) {
        self.0.retain(|group, _| nexthops.contains_key(group));
        for (id, nexthop) in nexthops {
            let Nexthop::Group { members, buckets: Some(buckets), .. } = nexthop else {
                self.0.remove(id);
                continue;
            };
            let table = self.0.entry(*id).or_default();
            if table.len() != usize::from(buckets.count) {
                *table = vec![Bucket::default(); usize::from(buckets.count)];
            }
            rebalance(table, members, buckets.count);
        }
    }

    /// Says of all buckets that lead to a member whether flows use them.
    pub(super) fn mark(&mut self, member: NexthopId, used: bool) {
        let all = self.0.values_mut().flatten();
        all.filter(|bucket| bucket.member == Some(member)).for_each(|bucket| bucket.used = used);
    }

    /// How many lead to each member of these groups.
    pub(super) fn of(&self, groups: &BTreeSet<NexthopId>) -> Filled {
        let count = |group: &NexthopId| {
            let mut members: BTreeMap<NexthopId, u32> = BTreeMap::new();
            let table = self.0.get(group).into_iter().flatten();
            for member in table.filter_map(|bucket| bucket.member) {
                *members.entry(member).or_default() += 1;
            }
            (*group, members)
        };
        groups.iter().map(count).collect()
    }
}

fn rebalance(table: &mut [Bucket], members: &BTreeMap<NexthopId, Weight>, count: u16) {
    let wanted = wanted(members, count);
    let mut has: BTreeMap<NexthopId, u32> = members.keys().map(|id| (*id, 0)).collect();
    for bucket in &mut *table {
        match bucket.member.and_then(|member| has.get_mut(&member)) {
            Some(count) => *count += 1,
            None => *bucket = Bucket::default(),
        }
    }
    for bucket in table {
        let too_many = |member: NexthopId| has[&member] > wanted[&member];
        if bucket.member.is_some_and(|member| bucket.used || !too_many(member)) {
            continue;
        }
        let Some(to) = members.keys().copied().find(|id| has[id] < wanted[id]) else { continue };
        if let Some(count) = bucket.member.and_then(|from| has.get_mut(&from)) {
            *count -= 1;
        }
        *has.entry(to).or_default() += 1;
        bucket.member = Some(to);
    }
}
