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
use super::rule::{Rules, all_read, stands};
use super::vote::{Asking, Incarnation};
use crate::id::SiteId;

/// The voters that stand behind a claim, each with the incarnation that does.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    members: BTreeSet<(SiteId, Incarnation)>,
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
        self.members.is_empty()
    }
}

impl Knowledge {
    /// The group of a service under a claim. Empty, and thus never open, when the claim is another
    /// site's or the node is fenced from it.
    pub fn group(&self, rules: &Rules, asking: Asking<'_>, now: Duration) -> Grouping {
        let mut members = BTreeSet::new();
        let mut next: Option<Duration> = None;
        if self.may_bid(asking) {
            for (voter, incarnation, sight) in self.unanswered(asking.service) {
                match stands(rules, &sight, &asking.claim, asking.ground) {
                    Some(from) if from <= now => {
                        members.insert((voter.clone(), incarnation));
                    }
                    Some(from) => next = Some(next.map_or(from, |n| n.min(from))),
                    None => {}
                }
            }
        }
        Grouping { group: Group { members }, next }
    }

    /// Whether a slot opens a group: enough of its voters answered an ask sent at or after `armed`,
    /// when the kernel had acknowledged the slot, and every vote they speak of has been read.
    /// Valid for as long as the slot lives, unless a vote changes the group.
    pub fn opens(&self, rules: &Rules, group: &Group, armed: Duration) -> bool {
        let mut voters: BTreeSet<&SiteId> = BTreeSet::new();
        for (voter, incarnation) in &group.members {
            let answers = self.answers(voter, *incarnation);
            if answers.into_iter().any(|s| s.asked >= armed && all_read(&s)) {
                voters.insert(voter);
            }
        }
        voters.len() >= rules.quorum
    }
}
