//! The predicate cut in two, for the kernel gate.
//!
//! The gate holds a verdict per *group* of services instead of one per service, so that a round
//! touches a handful of elements whatever the number of services is. A service's group is the set
//! of voters that stand behind its claim now: conditions (3) and (4), which only a vote, the end of
//! W or a confirmation changes. A slot of the gate lives for T from when it was armed, and opens a
//! group when a majority of its voters answered in that round: conditions (1) and (2). Both halves
//! are the functions of [`super::rule`], and together they never allow more than
//! [`Knowledge::serves`] does.
//!
//! Who stands is known from votes alone: a voter that has not answered for a while stays in the
//! group, or every slot that is open for the group would be worth nothing at that moment. A voter
//! stands with one incarnation: after it shows another one, answers of the older one open nothing
//! for services that count on the newer. A crash leaves the gate with its slots, which end.

use std::collections::BTreeSet;
use std::time::Duration;

use super::knowledge::Knowledge;
use super::rule::{Needed, Rules, Voters, all_read, stands, suffices};
use super::vote::{Asking, Bounds, Incarnation};
use crate::id::SiteId;

/// The voters that stand behind a claim, each with the incarnation that does, and which of them are
/// needed: services for which that differs never share a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    members: BTreeSet<(SiteId, Incarnation)>,
    /// Beside a majority of the members one of each of these.
    with: Vec<BTreeSet<SiteId>>,
    /// All that a claim has left that was made without a majority; empty where they do not all
    /// stand behind it.
    alone: BTreeSet<(SiteId, Incarnation)>,
}

/// A group and when it has to be asked for again although nothing was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grouping {
    pub group: Group,
    /// The next end of a wait.
    pub next: Option<Duration>,
}

impl Group {
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.alone.is_empty()
    }
}

impl Knowledge {
    /// The group of a service under a claim. Empty, and thus never open, when the claim is another
    /// site's or the node may not serve it.
    pub fn group(&self, rules: &Rules, asking: Asking<'_>, now: Duration) -> Grouping {
        let Bounds { with, alone, next, above: _ } = asking.bounds;
        if !self.may_bid(asking) {
            return Grouping { group: Group::default(), next: None };
        }
        let mut next = *next;
        let members = self.standing(rules, asking, now, &mut next);
        let mut left = BTreeSet::new();
        if !alone.is_empty() {
            left = self.standing(rules, Asking { ground: asking.alone, ..asking }, now, &mut next);
            left.retain(|(voter, _)| alone.contains(voter));
            if !alone.iter().all(|voter| left.iter().any(|(site, _)| site == voter)) {
                left.clear();
            }
        }
        let group = Group { members, with: with.clone(), alone: left };
        Grouping { group, next }
    }

    fn standing(
        &self,
        rules: &Rules,
        asking: Asking<'_>,
        now: Duration,
        next: &mut Option<Duration>,
    ) -> BTreeSet<(SiteId, Incarnation)> {
        let mut members = BTreeSet::new();
        for (voter, incarnation, sight) in self.unanswered(asking.service) {
            match stands(rules, &sight, &asking.claim, asking.ground) {
                Some(from) if from <= now => {
                    members.insert((voter.clone(), incarnation));
                }
                Some(from) => *next = Some(next.map_or(from, |n| n.min(from))),
                None => {}
            }
        }
        members
    }

    /// Whether a slot opens a group: enough of its voters answered an ask sent at or after `armed`,
    /// when the kernel had acknowledged the slot, and every vote they speak of has been read.
    /// Valid for as long as the slot lives, unless a vote changes the group.
    pub fn opens(&self, rules: &Rules, group: &Group, armed: Duration) -> bool {
        let Group { members, with, alone } = group;
        let answered = |of: &BTreeSet<(SiteId, Incarnation)>| {
            let of = of.iter().filter(|(voter, incarnation)| {
                let answers = self.answers(voter, *incarnation);
                answers.into_iter().any(|s| s.asked >= armed && all_read(&s))
            });
            self.electorate().places(&of.map(|(voter, _)| voter.clone()).collect())
        };
        let with: Vec<Voters> = with.iter().map(|s| self.electorate().places(s)).collect();
        let left: BTreeSet<SiteId> = alone.iter().map(|(voter, _)| voter.clone()).collect();
        // The generation that counts may be another one than when the group was made.
        let is_whole = left.is_subset(&self.electorate().voters);
        let all = Needed::All(self.electorate().places(&left));
        let rules = &self.rules(rules);
        suffices(rules, Needed::Majority { with: &with }, answered(members))
            || is_whole && suffices(rules, all, answered(alone))
    }
}
