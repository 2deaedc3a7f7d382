//! Rounds of asks: arm a slot of the gate, then ask every voter, then open what a majority allows.
//!
//! The order is what makes a stalled agent harmless: a slot's time runs from before the asks, so
//! wherever the process stops the gate ends no later than the answers it was opened by. A round
//! whose slot could not be armed asks nobody. Nothing of a round is on disk.
//!
//! Of the two slots one is kept: what a round of before has opened passes until its time is over,
//! although nobody answers the rounds after it. The next round takes that slot only once it has
//! opened as much.

use std::collections::BTreeSet;
use std::time::Duration;

use nett_policy::id::SiteId;
use nett_policy::lease::vote::Nonce;

use super::gate::Slot;
use super::store::LeaseRecord;
use super::{Lease, LeaseEffect};
use crate::bus::wire::BeaconAnswer;

#[derive(Debug, Default)]
pub(super) struct Rounds {
    number: u64,
    slot: Slot,
    next: Option<Duration>,
    /// When this round's slot was acknowledged, and its asks were sent.
    armed: Option<Duration>,
    /// The slot is asked for.
    arming: bool,
    /// Groups that are open in this round's slot.
    pub(super) open: BTreeSet<u32>,
    kept: Kept,
    pub(super) trouble: Option<String>,
    /// When the lease was restored.
    pub(super) since: Option<Duration>,
}

/// What the other slot lets pass.
#[derive(Debug, Default)]
struct Kept {
    open: BTreeSet<u32>,
    /// When it ends at the latest.
    until: Option<Duration>,
}

/// How long a start waits for the last answers once it has those of a majority.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// How long a start waits at all, whatever keeps it from being answered.
const FIRST_ROUND: Duration = Duration::from_secs(3);
/// And at most until the gate has its first shape.
const FIRST_SHAPE: Duration = Duration::from_secs(4);

// === impl Rounds ===

impl Rounds {
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.next.filter(|_| !self.arming)
    }

    pub(super) fn slot(&self) -> Slot {
        self.slot
    }

    /// When this round's asks were sent; `None` while they wait for the slot.
    pub(super) fn armed(&self) -> Option<Duration> {
        self.armed
    }

    /// Whether the next round takes the other slot. Not while that has open what this one has not
    /// come to, unless it would end anyhow, `soon`, with something that this one has open.
    fn may_turn(&self, used: &BTreeSet<u32>, now: Duration, soon: Duration) -> bool {
        let lasts = |at: Duration| self.kept.until.is_some_and(|until| until > at);
        let kept: BTreeSet<u32> = self.kept.open.intersection(used).copied().collect();
        match () {
            () if !lasts(now) || kept.is_subset(&self.open) => true,
            // Each has something that the other lacks: the older goes.
            () if !self.open.is_subset(&kept) => true,
            () => !self.open.is_empty() && !lasts(soon),
        }
    }

    /// The gate refused something: it may have been made anew, with both slots empty.
    pub(super) fn emptied(&mut self) {
        self.open.clear();
        self.kept = Kept::default();
    }

    /// The slot of the next round has nothing in it; it is the other one, if that `turns`.
    fn turn(&mut self, turns: bool, lease: Duration) {
        let (open, armed) = (std::mem::take(&mut self.open), self.armed.take());
        if turns {
            self.slot = self.slot.other();
            self.kept = Kept { open, until: armed.map(|armed| armed + lease) };
        }
    }
}

// === impl Lease ===

impl Lease {
    pub(super) fn begin_round(&mut self, now: Duration) {
        let rounds = &mut self.rounds;
        if rounds.arming || rounds.next.is_some_and(|next| now < next) || !self.may_ask() {
            return;
        }
        let round = self.fabric.lease.round();
        let used = self.judged.groups_in_use();
        // Until it has heard all, the other slot is what a former process left.
        let turns = self.heard_all && self.rounds.may_turn(&used, now, now + 2 * round);
        let lease = self.rules.lease;
        let rounds = &mut self.rounds;
        rounds.turn(turns, lease);
        rounds.next = Some(now + round);
        rounds.number += 1;
        if self.is_serving_node() {
            self.rounds.arming = true;
            let (round, slot) = (self.rounds.number, self.rounds.slot());
            let lease = self.rules.lease;
            self.effects.push(LeaseEffect::Arm { round, slot, lease });
        } else {
            self.ask(now);
        }
    }

    /// A voter that is a new incarnation asks nobody before that is on its disk, and a serving node
    /// nobody before there is a gate; and nobody asks before it is settled who the voters are.
    fn may_ask(&self) -> bool {
        let gated = !self.is_serving_node() || self.judged.has_gate();
        let agreed = self.refused.is_none() && self.terms_open.is_none();
        agreed && gated && self.voting.as_ref().is_none_or(|voting| voting.has_begun())
    }

    pub(super) fn armed(&mut self, round: u64, result: Result<(), String>, now: Duration) {
        if round != self.rounds.number || !self.rounds.arming {
            return;
        }
        self.rounds.arming = false;
        match result {
            Ok(()) => {
                self.rounds.trouble = None;
                self.ask(now);
            }
            Err(error) => {
                tracing::error!(error, "The gate cannot be armed; nobody is asked.");
                self.rounds.trouble = Some(error);
            }
        }
    }

    fn ask(&mut self, now: Duration) {
        self.rounds.armed = Some(now);
        let voters = self.electorates.all();
        let mut asks = Vec::new();
        for voter in voters {
            let nonce = Nonce(self.draw());
            let ask = self.knowledge.ask(&self.rules, &voter, nonce, now);
            match &self.voting {
                // The own voter is not asked over the bus, which may be down.
                Some(_) if voter == self.me.site => {
                    if let Some(said) = self.say(&ask, now) {
                        self.answered(&said, now);
                    }
                }
                _ => asks.push(ask),
            }
        }
        self.effects.push(LeaseEffect::Ask(asks));
    }

    pub(super) fn answered(&mut self, said: &BeaconAnswer, now: Duration) {
        let BeaconAnswer { answer, node, rejoining, votes } = said;
        if self.voter_of(&answer.voter) != Some(node) {
            tracing::warn!(%node, "A node answers that is not its site's voter.");
            return;
        }
        votes.iter().for_each(|vote| self.read_vote(vote, now));
        if *rejoining {
            self.heard_rejoining(answer, now);
            return;
        }
        match self.knowledge.take(answer, now) {
            Ok(()) => {
                let (voter, incarnation) = (answer.voter.clone(), answer.incarnation);
                if self.heard.insert((voter.clone(), incarnation)) {
                    let boot = self.boot.clone();
                    self.keep(vec![LeaseRecord::Heard { voter, incarnation, at: now, boot }]);
                }
                self.heard_answer(answer);
            }
            Err(error) => tracing::debug!(%error, voter = %answer.voter, "An answer is late."),
        }
    }

    /// The bus is there: a start does not wait for its next round.
    pub fn connected(&mut self) {
        if !self.heard_all {
            (self.rounds.next, self.news) = (None, true);
        }
    }

    /// False after a start until the voters have answered and the gate has its shape, or both have
    /// had their time: what is in the kernel stays, since the gate in it ends by itself.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    pub(super) fn has_heard(&self, now: Duration) -> bool {
        self.answers_at().is_some_and(|at| now >= at)
    }

    pub(super) fn may_begin(&self, now: Duration) -> bool {
        let late = self.rounds.since.is_some_and(|since| now >= since + FIRST_SHAPE);
        let shaped = !self.is_serving_node() || self.judged.is_shaped();
        self.heard_all && (shaped || late)
    }

    /// When a start is to be looked at again.
    pub(super) fn ready_at(&self) -> Option<Duration> {
        match self.heard_all {
            true => self.rounds.since.map(|since| since + FIRST_SHAPE),
            false => self.answers_at(),
        }
    }

    /// When a start waits for no more answers, as far as is known now.
    fn answers_at(&self) -> Option<Duration> {
        let end = self.rounds.since? + FIRST_ROUND;
        let Some(armed) = self.rounds.armed else { return Some(end) };
        let answered =
            |voter: &&SiteId| self.knowledge.answered(voter).is_some_and(|asked| asked >= armed);
        let counts = |voter: &&SiteId| {
            let said = self.knowledge.said(voter);
            answered(voter) && said.is_some_and(|s| s.generation == self.counts_by())
        };
        Some(match self.voters().iter().filter(counts).count() {
            _ if self.electorates.all().iter().all(|voter| answered(&voter)) => armed,
            count if count >= self.knowledge.electorate().quorum() => end.min(armed + LAST_ANSWERS),
            _ => end,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kept slot has, whether it lives, and soon still does; what the other has.
    #[test]
    fn a_slot_is_kept_while_it_has_what_the_other_has_not() {
        let second = Duration::from_secs;
        let (now, soon) = (second(10), second(14));
        let turns = |kept: &[u32], until: u64, open: &[u32], used: &[u32]| {
            let set = |numbers: &[u32]| numbers.iter().copied().collect();
            let kept = Kept { open: set(kept), until: Some(second(until)) };
            let rounds = Rounds { open: set(open), kept, ..Rounds::default() };
            rounds.may_turn(&set(used), now, soon)
        };
        assert!(!turns(&[1], 60, &[], &[1]), "nobody answers: it is all there is");
        assert!(!turns(&[1, 2], 60, &[2], &[1, 2]), "the other has less");
        assert!(turns(&[1], 60, &[1], &[1]), "the other has as much");
        assert!(turns(&[1, 2], 60, &[2], &[2]), "nobody uses the rest");
        assert!(turns(&[1], 60, &[2], &[1, 2]), "each has something: the older goes");
        assert!(turns(&[1], 10, &[], &[1]), "it is over");
        assert!(turns(&[1, 2], 13, &[2], &[1, 2]), "it ends anyhow");
        assert!(!turns(&[1], 13, &[], &[1]), "it ends, and there is nothing better");
        let mut rounds = Rounds {
            open: BTreeSet::from([2]),
            kept: Kept { open: BTreeSet::from([1]), until: Some(second(60)) },
            ..Rounds::default()
        };
        rounds.emptied();
        assert!(rounds.may_turn(&BTreeSet::from([1, 2]), now, soon), "made anew, it keeps nothing");
    }
}
