//! The set of voters changes: a model of its own, since what matters is another thing.
//!
//! There are three generations of voters, each one step from the next, and a voter goes from one
//! to another when `may_rise` says so. A node serves if *any* generation has a majority that
//! counts for a claim by answers in that generation: nodes of a file count two of them, and choose,
//! so this is more than any node does. Answers are given at once and every order of reading is
//! tried. A voter whose file is newer than what it answers in is silent, which is what it also is
//! when its messages are lost, so files are no part of the state.
//!
//! No journal is lost here, no clock is slow and no agent dies: that these are as harmless with
//! several generations as with one rests on the proof (adr/0062).

use std::time::Duration;

use nett_policy::id::Epoch;
use nett_policy::lease::generation::Answered;
use nett_policy::lease::generation::{
    Behind, Mark, Peer, Riser, covers, may_enter, may_rise, uses_former,
};
use nett_policy::lease::rule::{
    Bid, Bound, Ground, Needed, Rules, Sight, Span, Verdict, counts, may_vote, quorum_of, serves,
};

use crate::explore::{Found, search};
use crate::judge::{Breach, among};
use crate::runs::Claim;
use crate::state::fingerprint_of;

const VOTERS: usize = 4;
const NODES: usize = 2;
const GENERATIONS: usize = 3;
const CLAIMS: usize = 3;

/// Every clock: ages are what differs.
const NOW: Duration = Duration::from_secs(1000);

/// A rule that is taken away, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Without {
    Nothing,
    /// (i) Nobody waits for a majority to have run the generation before.
    Steady,
    /// (ii) Nobody catches up.
    CaughtUp,
    /// Answers count whatever generation they are of.
    OneGeneration,
    /// A voter never goes down.
    OnlyUp,
    /// Of (i) it does not matter what the others run.
    Whatever,
}

/// Bounds of one search.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) name: &'static str,
    /// The voters of each generation, as bits.
    pub(crate) sets: [u8; GENERATIONS],
    /// Whose node `i` is of site `i`.
    pub(crate) claims: &'static [Claim],
    /// T and W in ticks.
    pub(crate) lease: u8,
    pub(crate) wait: u8,
    pub(crate) without: Without,
    /// Nothing is left out: nodes may put off reading what helps them and read what hurts them,
    /// and what a riser knows of votes may be older than what is so now.
    pub(crate) thorough: bool,
    /// The voter that generation 2 adds has begun, has nothing to read and runs it for long.
    pub(crate) begun: bool,
    pub(crate) most_states: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    voters: [Voter; VOTERS],
    views: [[View; VOTERS]; NODES],
    served: u8,
}

#[derive(Debug, Clone, Copy, Default)]
struct Voter {
    /// Claims by place plus one, in the order of their numbers.
    votes: [u8; CLAIMS],
    /// 0 before it begins.
    runs: u8,
    entered: bool,
    /// An epoch.
    floor: u8,
    /// Voters still to be read, as bits.
    pending: u8,
    lagging: bool,
    /// Ticks since it began with what it runs, and since it last answered in anything older than
    /// the generation before that.
    steady: u8,
    past: u8,
    /// Voters with which it had caught up when they answered, for the next generation.
    caught: u8,
}

/// What a node knows of a voter.
#[derive(Debug, Clone, Copy, Default)]
struct View {
    read: u8,
    /// Age of the reading of the newest.
    since: u8,
    /// By generation: age of the youngest answer that spoke of as many votes as are read. W is not
    /// less than T, so no other one can be of use.
    young: [u8; GENERATIONS],
}

/// Places of voters (`p`, `q`) and nodes (`i`), and claims by place plus one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Vote {
        p: u8,
        claim: u8,
    },
    Read {
        i: u8,
        p: u8,
    },
    /// A voter begins with an empty journal and a file of that generation.
    Begin {
        p: u8,
        generation: u8,
    },
    /// `p` reads all votes of `q`.
    Rejoin {
        p: u8,
        q: u8,
    },
    Enter {
        p: u8,
    },
    /// `p` has an answer of `q` with which it has caught up.
    Catch {
        p: u8,
        q: u8,
    },
    Rise {
        p: u8,
        to: u8,
    },
    Fall {
        p: u8,
    },
    Tick,
}

pub(crate) fn explore(run: &Change) -> Found<Step> {
    search(
        start(run),
        run.most_states,
        |state| fingerprint_of(&bytes(run, state)),
        |state| {
            let now = serving(run, state);
            let breach = among(run.claims, now, state.served | now);
            state.served |= now;
            // That the last generation is reached is progress, as that all claims are served.
            let last = state.voters.iter().any(|voter| usize::from(voter.runs) == GENERATIONS);
            (now | u8::from(last) << run.claims.len(), breach)
        },
        |state, visit| successors(run, state, visit),
    )
}

fn small(n: usize) -> u8 {
    u8::try_from(n).expect("few of everything")
}

fn ticks(n: u8) -> Duration {
    Duration::from_secs(u64::from(n))
}

fn start(run: &Change) -> State {
    let mut state = State::default();
    for view in state.views.iter_mut().flatten() {
        *view = View { since: run.wait, young: [run.lease; GENERATIONS], ..View::default() };
    }
    for p in 0..VOTERS {
        let voter = &mut state.voters[p];
        (voter.steady, voter.past) = (run.wait, run.wait);
        voter.runs = match run.begun && run.has(2, p) {
            _ if run.has(1, p) => 1,
            true => 2,
            false => 0,
        };
        voter.entered = voter.runs > 0;
    }
    settle(run, &mut state);
    state
}

fn bytes(run: &Change, state: &State) -> Vec<u8> {
    let mut all = vec![state.served];
    for p in 0..run.voters() {
        let Voter { votes, runs, entered, floor, pending, lagging, steady, past, caught } =
            state.voters[p];
        all.extend(votes);
        all.push(runs << 4 | u8::from(entered) << 1 | u8::from(lagging));
        all.extend([floor, pending, steady << 4 | past, caught]);
        for views in &state.views {
            let View { read, since, young } = views[p];
            all.push(read << 4 | since);
            all.extend(young);
        }
    }
    all
}

/// Takes a step and what it does.
type Go<'a> = dyn FnMut(Step, &dyn Fn(&mut State)) + 'a;

fn successors(run: &Change, state: &State, visit: &mut dyn FnMut(Step, State)) {
    let mut go = |step: Step, change: &dyn Fn(&mut State)| {
        let mut next = *state;
        change(&mut next);
        settle(run, &mut next);
        visit(step, next);
    };
    for p in 0..run.voters() {
        let voter = state.voters[p];
        let at = small(p);
        for claim in 1..=small(run.claims.len()) {
            if voter.made() < run.claims.len() && votes(run, state, p, claim) {
                go(Step::Vote { p: at, claim }, &|next| {
                    next.voters[p].votes[voter.made()] = claim;
                });
            }
        }
        for i in 0..NODES {
            if is_worth_reading(run, state, i, p) {
                go(Step::Read { i: small(i), p: at }, &|next| next.views[i][p].read(run));
            }
        }
        generations(run, state, p, &mut go);
    }
    go(Step::Tick, &|next| {
        for voter in &mut next.voters {
            voter.steady = (voter.steady + 1).min(run.wait);
            voter.past = (voter.past + 1).min(run.wait);
        }
        for view in next.views.iter_mut().flatten() {
            view.since = (view.since + 1).min(run.wait);
            view.young = view.young.map(|age| (age + 1).min(run.lease));
        }
    });
}

fn generations(run: &Change, state: &State, p: usize, go: &mut Go<'_>) {
    let (voter, at) = (state.voters[p], small(p));
    if voter.runs == 0 {
        for generation in (2..=GENERATIONS).filter(|generation| run.has(*generation, p)) {
            let pending = (run.sets[generation - 1] | run.sets[generation - 2]) & !(1 << p);
            let generation = small(generation);
            go(Step::Begin { p: at, generation }, &|next| {
                next.voters[p] = Voter { runs: generation, pending, ..Voter::default() };
            });
        }
        return;
    }
    let near = |q: usize, to: u8| {
        let other = state.voters[q];
        other.entered && (other.runs == to || other.runs + 1 == to)
    };
    for q in (0..run.voters()).filter(|q| voter.pending & (1 << q) != 0 && near(*q, voter.runs)) {
        let told = state.voters[q].mark(run);
        go(Step::Rejoin { p: at, q: small(q) }, &|next| {
            let here = &mut next.voters[p];
            here.floor = here.floor.max(u8::try_from(told.epoch.0).expect("small"));
            here.pending &= !(1 << q);
            here.lagging |= state.voters[q].runs != here.runs;
            // Whoever was removed is not needed where all others answered in the present one.
            let removed =
                run.sets[usize::from(here.runs) - 2] & !run.sets[usize::from(here.runs) - 1];
            if !here.lagging && here.pending == removed {
                here.pending = 0;
            }
        });
    }
    if !voter.entered {
        let peers = peers(run, state, p, voter.runs);
        let riser = riser(run, state, p, voter.runs, &peers);
        if voter.pending == 0 && may_enter(&rules(run), riser).is_ok() {
            go(Step::Enter { p: at }, &|next| next.voters[p].entered = true);
        }
        return;
    }
    let to = voter.runs + 1;
    let others = (0..run.voters()).filter(|_| run.thorough);
    for q in others.filter(|q| *q != p && voter.caught & (1 << q) == 0) {
        let is_of_it = usize::from(to) <= GENERATIONS && run.has(usize::from(to) - 1, q);
        if is_of_it && near(q, to) && covers(&voter.mark(run), &state.voters[q].mark(run)) {
            go(Step::Catch { p: at, q: small(q) }, &|next| next.voters[p].caught |= 1 << q);
        }
    }
    for to in (to..=small(GENERATIONS)).filter(|to| run.has(usize::from(*to), p)) {
        let peers = peers(run, state, p, to);
        if rises(run, riser(run, state, p, to, &peers)) {
            go(Step::Rise { p: at, to }, &|next| {
                let here = &mut next.voters[p];
                here.past = if to == here.runs + 1 { here.steady } else { 0 };
                (here.runs, here.steady, here.caught) = (to, 0, 0);
            });
        }
    }
    if run.without == Without::OnlyUp && voter.runs > 1 && run.has(usize::from(voter.runs) - 1, p) {
        go(Step::Fall { p: at }, &|next| next.voters[p].runs -= 1);
    }
}

fn rises(run: &Change, riser: Riser<'_>) -> bool {
    let rules = rules(run);
    match run.without {
        Without::Steady => may_rise(&Rules { wait: Duration::ZERO, ..rules }, riser).is_ok(),
        Without::CaughtUp => may_enter(&rules, riser).is_ok(),
        _ => may_rise(&rules, riser).is_ok(),
    }
}

fn rules(run: &Change) -> Rules {
    Rules { lease: ticks(run.lease), wait: ticks(run.wait), quorum: 0 }
}

fn riser<'a>(run: &Change, state: &State, p: usize, to: u8, peers: &'a [Peer]) -> Riser<'a> {
    let voter = state.voters[p];
    let counts = voter.runs + 1 >= to && run.has(usize::from(to) - 1, p);
    Riser {
        quorum_before: quorum_of(run.sets[usize::from(to) - 2].count_ones() as usize),
        own: counts.then_some(ticks(voter.steady)),
        peers,
        is_told: true,
        added_works: true,
        there: 0,
        quorum: quorum_of(run.sets[usize::from(to) - 1].count_ones() as usize),
    }
}

/// What the riser can know at most. What it knows of votes may be older than what is so now.
fn peers(run: &Change, state: &State, p: usize, to: u8) -> Vec<Peer> {
    let before = usize::from(to) - 1;
    let others = (0..run.voters()).filter(|q| *q != p && run.has(before, *q));
    let peer = |q: usize| {
        let other = state.voters[q];
        let steady = match (other.runs, to) {
            _ if run.without == Without::Whatever && other.runs > 0 => Some(run.wait),
            (runs, to) if runs + 1 == to => Some(other.steady),
            (runs, to) if runs == to && other.entered => Some(other.past),
            (runs, to) if runs == to => Some(other.steady),
            _ => None,
        };
        let is_next = state.voters[p].runs + 1 == to;
        let near = other.entered && (other.runs == to || other.runs + 1 == to);
        let now = || near && covers(&state.voters[p].mark(run), &other.mark(run));
        let is_caught_up =
            if is_next && run.thorough { state.voters[p].caught & (1 << q) != 0 } else { now() };
        let caught_up = if is_caught_up { Ok(()) } else { Err(Behind::Unread) };
        Peer { steady: steady.map(ticks), caught_up }
    };
    others.map(peer).collect()
}

fn votes(run: &Change, state: &State, p: usize, claim: u8) -> bool {
    let voter = state.voters[p];
    let mark = voter.newest();
    let others = |set: u8| {
        let for_it =
            |q: &usize| *q != p && set & (1 << q) != 0 && state.voters[*q].newest() == claim;
        (0..run.voters()).filter(for_it).count() >= quorum_of(set.count_ones() as usize)
    };
    // With the file of what it runs or any newer one.
    let of = |file: usize| others(run.sets[file - 1]) && (file == 1 || others(run.sets[file - 2]));
    let files = usize::from(voter.runs.max(1))..=GENERATIONS;
    let bound = Bound {
        rejoining: !voter.entered,
        newest: Epoch(u64::from(run.epoch(mark))),
        floor: Epoch(u64::from(voter.floor)),
        decided: files.into_iter().any(of),
    };
    may_vote(bound, Epoch(u64::from(run.epoch(claim)))).is_ok()
}

/// Who holds a vote for its own site can only lose by reading on, unless it has a newer claim.
fn is_worth_reading(run: &Change, state: &State, i: usize, p: usize) -> bool {
    let (voter, read) = (&state.voters[p], usize::from(state.views[i][p].read));
    if read >= voter.made() {
        return false;
    }
    let next = run.claims[usize::from(voter.votes[read]) - 1].epoch;
    let again = |claim: &Claim| usize::from(claim.target) == i && claim.epoch >= next;
    run.thorough || run.claims.iter().any(again)
}

/// Whether the newest vote that a node has read of a voter is for a claim of its own site.
fn holds(run: &Change, state: &State, i: usize, p: usize) -> bool {
    let newest = usize::from(state.views[i][p].read).checked_sub(1);
    let claim = newest.map(|at| usize::from(state.voters[p].votes[at]) - 1);
    claim.is_some_and(|claim| usize::from(run.claims[claim].target) == i)
}

/// Answers that are given at once, and readings that only help. What a node holds of a voter that
/// is for another site is no part of who serves.
fn settle(run: &Change, state: &mut State) {
    for (i, p) in (0..NODES).flat_map(|i| (0..run.voters()).map(move |p| (i, p))) {
        let voter = state.voters[p];
        let left = |state: &State| usize::from(state.views[i][p].read) < voter.made();
        while !run.thorough && left(state) && !holds(run, state, i, p) {
            state.views[i][p].read(run);
        }
        let is_of_use = run.thorough || holds(run, state, i, p);
        let is_answered = voter.entered && !left(state);
        let view = &mut state.views[i][p];
        if !is_of_use {
            (view.since, view.young) = (run.wait, [run.lease; GENERATIONS]);
        } else if is_answered {
            view.young[usize::from(voter.runs) - 1] = 0;
        }
    }
}

/// The claims that are served somewhere, as bits by place.
fn serving(run: &Change, state: &State) -> u8 {
    let mut now = 0;
    for (place, claim) in run.claims.iter().enumerate() {
        let node = usize::from(claim.target);
        let any = (1..=GENERATIONS).any(|generation| {
            let set = run.sets[generation - 1];
            let voters = (0..run.voters()).filter(|p| set & (1 << p) != 0);
            let span = |p| span(run, state, (node, p), generation, small(place + 1));
            let spans: Vec<Option<Span>> = voters.map(span).collect();
            let rules = Rules { quorum: quorum_of(spans.len()), ..rules(run) };
            let bid = Bid {
                here: true,
                epoch: Epoch(u64::from(claim.epoch)),
                fence: Some(Epoch(0)),
                above: Epoch(0),
            };
            let verdict = serves(&rules, Needed::Majority { with: &[] }, bid, &spans, NOW);
            matches!(verdict, Verdict::Serves { .. })
        });
        now |= u8::from(any) << place;
    }
    now
}

fn span(
    run: &Change,
    state: &State,
    (node, p): (usize, usize),
    generation: usize,
    claim: u8,
) -> Option<Span> {
    let view = state.views[node][p];
    let age = match run.without {
        Without::OneGeneration => view.young.into_iter().min().expect("several"),
        _ => view.young[generation - 1],
    };
    if age >= run.lease || view.read == 0 {
        return None;
    }
    let sight = Sight {
        asked: NOW - ticks(age),
        stated: u64::from(view.read),
        read: u64::from(view.read),
        newest: Some(state.voters[p].votes[usize::from(view.read) - 1]),
        since: NOW - ticks(view.since),
        heard: NOW - ticks(run.wait),
    };
    counts(&rules(run), &sight, &claim, Ground::Wait)
}

// === impl View ===

impl View {
    /// One vote more; what was answered before spoke of fewer.
    fn read(&mut self, run: &Change) {
        *self = Self { read: self.read + 1, since: 0, young: [run.lease; GENERATIONS] };
    }
}

// === impl Voter ===

impl Voter {
    fn made(&self) -> usize {
        self.votes.iter().take_while(|vote| **vote != 0).count()
    }

    fn newest(&self) -> u8 {
        self.votes.iter().copied().rfind(|vote| *vote != 0).unwrap_or(0)
    }

    fn mark(&self, run: &Change) -> Mark<u8> {
        let newest = Some(self.newest()).filter(|claim| *claim > 0);
        let newest = newest.map(|claim| (claim, Epoch(u64::from(run.epoch(claim)))));
        Mark::of(newest, Epoch(u64::from(self.floor)))
    }
}

// === impl Change ===

impl Change {
    fn voters(&self) -> usize {
        let all = self.sets.iter().fold(0, |all, set| all | set);
        (u8::BITS - all.leading_zeros()) as usize
    }

    fn has(&self, generation: usize, p: usize) -> bool {
        self.sets[generation - 1] & (1 << p) != 0
    }

    fn epoch(&self, claim: u8) -> u8 {
        if claim == 0 { 0 } else { self.claims[usize::from(claim) - 1].epoch }
    }
}

const fn claim(epoch: u8, target: u8) -> Claim {
    Claim { epoch, target }
}

/// One voter hands over to another: the smallest sets of which first and last are strangers.
const HANDED: Change = Change {
    name: "handed",
    sets: [0b01, 0b11, 0b10],
    claims: &[claim(1, 0), claim(2, 1)],
    lease: 1,
    wait: 1,
    without: Without::Nothing,
    thorough: true,
    begun: false,
    most_states: 30_000_000,
};
/// One of three is replaced by another one.
const REPLACED: Change = Change {
    name: "replaced",
    sets: [0b0111, 0b1111, 0b1110],
    thorough: false,
    begun: true,
    ..HANDED
};
pub(crate) const HOLD: &[Change] = &[
    HANDED,
    Change { name: "handed-equal", claims: &[claim(1, 0), claim(2, 1), claim(2, 0)], ..HANDED },
    Change { name: "handed-wide", lease: 2, wait: 2, ..HANDED },
    REPLACED,
];

pub(crate) const LARGE: &[Change] = &[
    Change { name: "handed-back", claims: &[claim(1, 0), claim(2, 1), claim(3, 0)], ..HANDED },
    Change { name: "replaced-equal", claims: &[claim(2, 0), claim(2, 1)], ..REPLACED },
    Change { name: "replaced-wide", lease: 2, wait: 2, ..REPLACED },
];

pub(crate) const MUTANTS: &[(Change, Breach)] = &[
    (Change { name: "m-change-steady", without: Without::Steady, ..HANDED }, Breach::TwoSites),
    (Change { name: "m-change-long", without: Without::Whatever, ..HANDED }, Breach::TwoSites),
    (
        Change { name: "m-change-behind", without: Without::CaughtUp, ..HANDED },
        Breach::OlderReturns,
    ),
    (
        Change { name: "m-change-generation", without: Without::OneGeneration, ..HANDED },
        Breach::TwoSites,
    ),
    (Change { name: "m-change-down", without: Without::OnlyUp, ..HANDED }, Breach::TwoSites),
    (
        Change { name: "m-change-forgotten", without: Without::CaughtUp, ..REPLACED },
        Breach::OlderReturns,
    ),
    (Change { name: "m-change-two", sets: [0b01, 0b10, 0b10], ..HANDED }, Breach::TwoSites),
];

/// A node's choice between two generations never takes away what the other one would not give.
#[test]
fn a_node_uses_the_generation_that_has_a_majority() {
    let answered = |count| Answered { count, quorum: 2 };
    for (present, former, is_former) in
        [(0, 0, false), (2, 2, false), (1, 2, true), (2, 0, false), (0, 1, true), (1, 1, false)]
    {
        assert_eq!(
            uses_former(answered(present), answered(former)),
            is_former,
            "{present} {former}"
        );
    }
}
