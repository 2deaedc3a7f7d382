//! Everything that can happen next. Nothing has to happen: a voter that never votes again is dead,
//! a message that never arrives is lost, a node that never reads is behind.
//!
//! Commands are not a step: a claim exists as soon as somebody votes for it or withdraws for it.

use nett_policy::id::Epoch;
use nett_policy::lease::rule::{Bound, may_vote, quorum_of};

use crate::judge::{judge, serving};
use crate::runs::{Alone, Mutant, Run};
use crate::state::{CLAIMS, ClaimNo, LIVES, Slot, State, View};

/// Places of voters (`p`, `q`) and nodes (`i`), and claims by place plus one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Vote {
        p: u8,
        claim: ClaimNo,
    },
    Read {
        i: u8,
        p: u8,
        life: u8,
    },
    Withdraw {
        i: u8,
        epoch: u8,
    },
    Die {
        i: u8,
    },
    Restart {
        i: u8,
    },
    LoseJournal {
        p: u8,
    },
    /// `p` reads all votes of `q`.
    Rejoin {
        p: u8,
        q: u8,
    },
    /// The newest vote was published and is not on the disk after a power loss.
    LoseVote {
        p: u8,
    },
    Send {
        i: u8,
        p: u8,
    },
    Answer {
        i: u8,
        p: u8,
    },
    Deliver {
        i: u8,
        p: u8,
    },
    /// A tick of all clocks but those of these nodes, as bits.
    Tick(u8),
    /// Somebody says that sites are off, which they are from now on.
    Assert,
    /// A node reads the claim that was made by that.
    Learn {
        i: u8,
    },
    /// A voter that was off has read it, too.
    Return {
        p: u8,
    },
}

fn small(n: usize) -> u8 {
    u8::try_from(n).expect("few of everything")
}

pub(crate) fn start(run: &Run) -> State {
    let mut state = State::default();
    for node in &mut state.nodes {
        node.views = [[run.unknown(); LIVES]; crate::state::VOTERS];
        node.first = [run.wait; CLAIMS];
    }
    settle(run, &mut state);
    for wanted in run.prefix {
        let mut reached = None;
        successors(run, &state, &mut |step, next| {
            if step == *wanted {
                reached = Some(next);
            }
        });
        state = reached.unwrap_or_else(|| panic!("{}: {wanted:?} is not possible", run.name));
        state.served |= if run.only_mutex { 0 } else { judge(run, &state).0 };
    }
    state
}

pub(crate) fn successors(run: &Run, state: &State, visit: &mut dyn FnMut(Step, State)) {
    let mut go = |step: Step, mut next: State| {
        settle(run, &mut next);
        visit(step, next);
    };
    for p in 0..run.voters {
        voter_steps(run, state, p, &mut go);
    }
    if let Some(alone) = run.alone {
        alone_steps(run, state, alone, &mut go);
    }
    for i in run.nodes() {
        node_steps(run, state, i, &mut go);
        if !state.nodes[i].dead {
            (0..run.voters).for_each(|p| reading_steps(run, state, i, p, &mut go));
        }
    }
    for lost in 0..(1u8 << run.sites.len()) {
        let may = |i: usize| lost & (1 << i) == 0 || state.nodes[i].steady == 0;
        if (lost == 0 || run.lost_every > 0) && run.nodes().all(may) {
            go(Step::Tick(lost), tick(run, state, lost));
        }
    }
}

/// What was said is true: nodes end there as agents die, with the gate open for as long as it would
/// have been, and come back when they have read the log.
fn alone_steps(run: &Run, state: &State, alone: Alone, go: &mut impl FnMut(Step, State)) {
    if !state.asserted {
        let mut next = *state;
        next.asserted = true;
        if run.mutant != Mutant::NotOff {
            next.off = alone.without;
            for i in run.nodes().filter(|i| alone.without & (1 << run.sites[*i]) != 0) {
                if !next.nodes[i].dead {
                    die(run, &mut next, i);
                }
            }
        }
        go(Step::Assert, next);
        return;
    }
    for i in run.nodes().filter(|i| !state.nodes[*i].dead && !state.nodes[*i].knows) {
        let mut next = *state;
        next.nodes[i].knows = true;
        go(Step::Learn { i: small(i) }, next);
    }
    for p in (0..run.voters).filter(|p| state.off & (1 << p) != 0) {
        let mut next = *state;
        next.off &= !(1 << p);
        go(Step::Return { p: small(p) }, next);
    }
}

/// Whether a voter may know of a claim, and votes at all: whoever has read the one that was made
/// without a majority votes for nothing older.
fn is_voting(run: &Run, state: &State, p: usize, claim: ClaimNo) -> bool {
    let Some(alone) = run.alone else { return true };
    if state.off & (1 << p) != 0 || run.is_alone(claim) && !state.asserted {
        return false;
    }
    let is_back = state.asserted && alone.without & (1 << p) != 0 && run.mutant != Mutant::NotOff;
    !is_back || run.claim(claim).epoch >= run.claim(alone.claim).epoch
}

fn voter_steps(run: &Run, state: &State, p: usize, go: &mut impl FnMut(Step, State)) {
    let voter = &state.voters[p];
    let life = usize::from(voter.life);
    for claim in 1..=small(run.claims.len()) {
        if voter.made() < CLAIMS && is_voting(run, state, p, claim) && votes(run, state, p, claim) {
            let mut next = *state;
            next.voters[p].votes[life][voter.made()] = claim;
            go(Step::Vote { p: small(p), claim }, next);
        }
    }
    if state.losses < run.losses {
        let mut next = *state;
        next.losses += 1;
        lose(run, &mut next, p);
        go(Step::LoseJournal { p: small(p) }, next);
        if run.mutant == Mutant::NoFsync && voter.made() > 0 {
            let mut next = *state;
            next.losses += 1;
            next.voters[p].votes[life][voter.made() - 1] = 0;
            go(Step::LoseVote { p: small(p) }, next);
        }
    }
    for q in (0..run.voters).filter(|q| voter.pending & (1 << q) != 0) {
        let other = &state.voters[q];
        if other.pending == 0 && (state.off & (1 << q) == 0 && state.off & (1 << p) == 0) {
            let mut next = *state;
            let highest = other.votes[usize::from(other.life)].iter().filter(|v| **v > 0);
            let highest = highest.map(|v| run.claim(*v).epoch).max().unwrap_or(0);
            let told = if run.mutant == Mutant::FloorUntold { 0 } else { other.floor };
            next.voters[p].floor = voter.floor.max(highest).max(told);
            next.voters[p].pending &= !(1 << q);
            go(Step::Rejoin { p: small(p), q: small(q) }, next);
        }
    }
}

fn votes(run: &Run, state: &State, p: usize, claim: ClaimNo) -> bool {
    let voter = &state.voters[p];
    let epoch = |c: ClaimNo| if c == 0 { 0 } else { run.claim(c).epoch };
    let others = (0..run.voters).filter(|q| *q != p && state.voters[*q].ever_voted(claim)).count();
    let newest = voter.newest();
    match run.mutant {
        Mutant::Lower => return newest != claim,
        Mutant::Revote if newest != claim && epoch(newest) == epoch(claim) => return true,
        _ => {}
    }
    let bound = Bound {
        rejoining: voter.pending != 0,
        newest: Epoch(u64::from(epoch(newest))),
        floor: Epoch(u64::from(voter.floor)),
        decided: others >= quorum_of(run.voters),
    };
    may_vote(bound, Epoch(u64::from(epoch(claim)))).is_ok()
}

fn lose(run: &Run, state: &mut State, p: usize) {
    let voter = &mut state.voters[p];
    if run.mutant == Mutant::SameLife {
        voter.votes[usize::from(voter.life)] = [0; CLAIMS];
    } else {
        voter.life += 1;
    }
    voter.floor = 0;
    if !run.no_rejoin {
        voter.pending = ((1 << run.voters) - 1) & !(1 << p);
    }
}

fn node_steps(run: &Run, state: &State, i: usize, go: &mut impl FnMut(Step, State)) {
    let node = &state.nodes[i];
    if node.dead {
        let mut next = *state;
        next.nodes[i].dead = false;
        let was_off =
            run.alone.is_some_and(|a| state.asserted && a.without & (1 << run.sites[i]) != 0);
        next.nodes[i].knows |= was_off && run.mutant != Mutant::BackUnread;
        if run.mutant == Mutant::ConfirmForget {
            next.nodes[i].fence = 0;
        }
        go(Step::Restart { i: small(i) }, next);
        return;
    }
    if run.confirm {
        for claim in run.claims.iter().filter(|c| c.target != run.sites[i] && c.epoch > node.said) {
            let mut next = *state;
            let here = &mut next.nodes[i];
            (here.fence, here.said) = (claim.epoch, claim.epoch);
            for (place, shut) in run.claims.iter().enumerate() {
                if shut.epoch <= claim.epoch {
                    here.gate[place] = 0;
                }
            }
            go(Step::Withdraw { i: small(i), epoch: claim.epoch }, next);
        }
    }
    if state.deaths < run.deaths {
        let mut next = *state;
        next.deaths += 1;
        die(run, &mut next, i);
        go(Step::Die { i: small(i) }, next);
    }
}

/// Answers are gone; the gate stays for as long as it would have.
fn die(run: &Run, state: &mut State, i: usize) {
    let left = serving(run, state, i);
    let node = &mut state.nodes[i];
    node.dead = true;
    node.gate = left.map(|ticks| ticks.unwrap_or(0));
    node.slots = Default::default();
    for view in node.views.iter_mut().flatten() {
        view.young = [run.lease; CLAIMS + 1];
        if !run.times_survive && view.known {
            (view.since, view.heard) = (0, 0);
        }
    }
}

fn reading_steps(run: &Run, state: &State, i: usize, p: usize, go: &mut impl FnMut(Step, State)) {
    let voter = &state.voters[p];
    let at = (small(i), small(p));
    for life in 0..=usize::from(voter.life) {
        if is_worth_reading(run, state, i, p, life) {
            let mut next = *state;
            read(run, &mut next, i, p, life);
            go(Step::Read { i: at.0, p: at.1, life: small(life) }, next);
        }
    }
    if !run.has_messages(i) {
        return;
    }
    let slot = state.nodes[i].slots[p];
    if !slot.used || slot.age > 0 || slot.answered {
        let mut next = *state;
        let fresh = Slot { used: true, ..Slot::default() };
        let kept = Slot { age: 0, used: true, ..slot };
        let is_kept = run.mutant == Mutant::NoNonce && slot.answered;
        next.nodes[i].slots[p] = if is_kept { kept } else { fresh };
        go(Step::Send { i: at.0, p: at.1 }, next);
    }
    let answer = Slot { answered: true, life: voter.life, stated: small(voter.made()), ..slot };
    if slot.used && voter.pending == 0 && answer != slot {
        let mut next = *state;
        next.nodes[i].slots[p] = answer;
        go(Step::Answer { i: at.0, p: at.1 }, next);
    }
    if slot.answered {
        let mut next = *state;
        let age = if run.mutant == Mutant::Receipt { 0 } else { slot.age };
        let view = &mut next.nodes[i].views[p][usize::from(slot.life)];
        hear(view);
        let young = &mut view.young[usize::from(slot.stated)];
        *young = age.min(*young);
        go(Step::Deliver { i: at.0, p: at.1 }, next);
    }
}

/// A node that holds nothing of a voter can only gain by reading on, so that is done at once
/// ([`settle`]). One that holds a vote for its own site can only lose by reading on, unless a later
/// claim is its own again. A search with `every_reading` leaves nothing out; the same must hold.
fn is_worth_reading(run: &Run, state: &State, i: usize, p: usize, life: usize) -> bool {
    let read = usize::from(state.nodes[i].views[p][life].read);
    if read >= state.voters[p].count(life) {
        return false;
    }
    let next = run.claim(state.voters[p].votes[life][read]);
    let again = |c: &crate::runs::Claim| c.target == run.sites[i] && c.epoch > next.epoch;
    run.every_reading || next.target == run.sites[i] || run.claims.iter().any(again)
}

fn read_what_helps(run: &Run, state: &mut State, i: usize, p: usize) {
    for life in 0..=usize::from(state.voters[p].life) {
        loop {
            let view = &state.nodes[i].views[p][life];
            let holds = view.newest > 0 && run.claim(view.newest).target == run.sites[i];
            if holds || usize::from(view.read) >= state.voters[p].count(life) {
                break;
            }
            read(run, state, i, p, life);
        }
    }
}

fn hear(view: &mut View) {
    if !view.known {
        view.known = true;
        view.heard = 0;
    }
}

fn read(run: &Run, state: &mut State, i: usize, p: usize, life: usize) {
    let votes = state.voters[p].votes[life];
    let made = state.voters[p].count(life);
    let node = &mut state.nodes[i];
    let view = &mut node.views[p][life];
    hear(view);
    let last = if run.mutant == Mutant::BySite { made } else { usize::from(view.read) + 1 };
    let newest = votes[last - 1];
    let stays = run.mutant == Mutant::BySite
        && view.newest > 0
        && run.claim(view.newest).target == run.claim(newest).target;
    if !stays {
        view.since = 0;
    }
    (view.read, view.newest) = (small(last), newest);
    if run.mutant == Mutant::Settle {
        let known = |v: &View| v.newest == newest;
        if node.views.iter().flatten().filter(|v| known(v)).count() == 1 {
            node.first[usize::from(newest) - 1] = 0;
        }
    }
}

fn tick(run: &Run, state: &State, lost: u8) -> State {
    let mut next = *state;
    for (i, node) in next.nodes[..run.sites.len()].iter_mut().enumerate() {
        if lost & (1 << i) != 0 {
            node.steady = run.lost_every - 1;
            continue;
        }
        node.steady = node.steady.saturating_sub(1);
        let older = |age: u8, most: u8| (age + 1).min(most);
        if !(run.mutant == Mutant::GateOpen && node.dead) {
            node.gate = node.gate.map(|left| left.saturating_sub(1));
        }
        let frozen = node.dead && !run.times_survive;
        node.first = node.first.map(|age| older(age, run.wait));
        for view in node.views.iter_mut().flatten() {
            view.young = view.young.map(|age| older(age, run.lease));
            if view.known && !frozen {
                view.since = older(view.since, run.wait);
                view.heard = older(view.heard, run.wait);
            }
        }
        for slot in node.slots.iter_mut().filter(|s| s.used) {
            slot.age = older(slot.age, run.lease);
        }
    }
    next
}

/// Answers that are given at once; then ages are forgotten which no rule looks at any more.
fn settle(run: &Run, state: &mut State) {
    for i in run.nodes() {
        if !run.every_reading && !state.nodes[i].dead {
            (0..run.voters).for_each(|p| read_what_helps(run, state, i, p));
        }
        let node = &mut state.nodes[i];
        for p in 0..run.voters {
            let voter = &state.voters[p];
            let life = usize::from(voter.life);
            let is_off = state.off & (1 << p) != 0;
            if !node.dead && !run.has_messages(i) && voter.pending == 0 && !is_off {
                let view = &mut node.views[p][life];
                hear(view);
                let behind = run.mutant == Mutant::Replica;
                let least = if behind { 0 } else { voter.made() };
                view.young[least..=voter.made()].fill(0);
            }
            if !run.keeps_ages() {
                for life in 0..=life {
                    let view = &mut node.views[p][life];
                    forget(run, view, &voter.votes[life], run.sites[i]);
                }
            }
        }
    }
}

/// An answer counts for a claim only as long as its last vote is the newest read; only votes for
/// this site's claims can ever count here.
fn forget(run: &Run, view: &mut View, votes: &[ClaimNo; CLAIMS], site: u8) {
    let ours = |claim: ClaimNo| claim > 0 && run.claim(claim).target == site;
    for n in 0..=CLAIMS {
        if n == 0 || n < usize::from(view.read) || !ours(votes[n - 1]) {
            view.young[n] = run.lease;
        }
    }
    if !ours(view.newest) && run.alone.is_none() {
        view.since = run.wait;
    }
    if !run.confirm && view.known {
        view.heard = run.wait;
    }
}
