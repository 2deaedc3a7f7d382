//! What is searched: bounds, and which rule is taken away.

use crate::judge::Breach;
use crate::state::{CLAIMS, ClaimNo, LIVES, View};
use crate::steps::Step;

/// The claim that gives the service to `target` in `epoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) epoch: u8,
    pub(crate) target: u8,
}

/// A rule that is taken away, or [`Mutant::Whole`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    Whole,
    /// One voter is a majority.
    OneVoter,
    /// An answer's age counts from when it came.
    Receipt,
    /// An answer counts for the last ask, whichever it answered.
    NoNonce,
    /// Votes may count before they are read.
    Unread,
    /// Another node of the voter's site answers, from how far *it* has read.
    Replica,
    /// A vote is published before it is on disk.
    NoFsync,
    /// A lost journal keeps its incarnation.
    SameLife,
    /// One wait for each claim instead of one for each vote and incarnation.
    Settle,
    /// The winner is a site.
    BySite,
    /// A contest leaves everybody what they have.
    Keep,
    /// The gate of a dead agent stays open.
    GateOpen,
    /// One node's confirmation is enough.
    ConfirmOne,
    /// A restart forgets the fence.
    ConfirmForget,
    /// A confirmed claim need not have known the voter's incarnation for W.
    ConfirmAtOnce,
    /// Two nodes count different voters.
    TwoSets,
    /// A voter votes for anything.
    Lower,
    /// A voter votes twice in one epoch.
    Revote,
    /// A rejoining voter is not told the floors of others.
    FloorUntold,
    /// The sites that were said to be off are not.
    NotOff,
    /// Nodes come back without having read the log.
    BackUnread,
    /// The others need not have read that somebody goes without a majority.
    OthersUnread,
    /// Whoever has read it goes on serving older claims.
    OlderGoOn,
    /// A newer claim needs none of the voters that it had left.
    NoneOfLeft,
    /// One of the voters that are left is enough.
    OneOfLeft,
}

/// A claim that is made without a majority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Alone {
    pub(crate) claim: ClaimNo,
    /// The sites that are said to be off, as bits; the voter of a site has the site's number.
    pub(crate) without: u8,
}

/// Bounds and rules of one search.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) name: &'static str,
    pub(crate) voters: usize,
    /// The site of each serving node.
    pub(crate) sites: &'static [u8],
    pub(crate) claims: &'static [Claim],
    /// T in ticks, at most 15.
    pub(crate) lease: u8,
    /// W in ticks, at most 15.
    pub(crate) wait: u8,
    /// A clock may lose one tick in this many; none when 0.
    pub(crate) lost_every: u8,
    /// Agents may die this often in all.
    pub(crate) deaths: u8,
    /// `since` and what goes with it survive a restart of the agent.
    pub(crate) times_survive: bool,
    /// Journals of voters may be lost this often in all.
    pub(crate) losses: u8,
    /// A voter without its journal votes at once.
    pub(crate) no_rejoin: bool,
    /// Nodes may confirm withdrawals.
    pub(crate) confirm: bool,
    /// Nodes that ask and are answered by messages, as bits; the others are answered at once.
    pub(crate) messages: u8,
    /// Only mutual exclusion is looked at.
    pub(crate) only_mutex: bool,
    /// The grouping of the gate is compared with the predicate in every state.
    pub(crate) grouped: bool,
    /// Readings that only help are not put off, readings that only hurt are left out, unless this.
    pub(crate) every_reading: bool,
    pub(crate) alone: Option<Alone>,
    /// The search begins after these steps.
    pub(crate) prefix: &'static [Step],
    pub(crate) mutant: Mutant,
    /// The search ends here, and is then not complete.
    pub(crate) most_states: usize,
}

const fn claim(epoch: u8, target: u8) -> Claim {
    Claim { epoch, target }
}

const TWO: &[Claim] = &[claim(1, 0), claim(2, 1)];
const BACK: &[Claim] = &[claim(1, 0), claim(2, 1), claim(3, 0)];
const EQUAL: &[Claim] = &[claim(2, 0), claim(2, 1)];
const HELD_EQUAL: &[Claim] = &[claim(1, 0), claim(2, 1), claim(2, 2)];
const THIRD: &[Claim] = &[claim(1, 0), claim(2, 1), claim(3, 2)];

/// Three voters, a node at each of two sites, 1/a and 2/b, T = W = 1 tick, no drift.
const BASE: Run = Run {
    name: "base",
    voters: 3,
    sites: &[0, 1],
    claims: TWO,
    lease: 1,
    wait: 1,
    lost_every: 0,
    deaths: 0,
    times_survive: false,
    losses: 0,
    no_rejoin: false,
    confirm: false,
    messages: 0,
    only_mutex: false,
    grouped: false,
    every_reading: false,
    alone: None,
    prefix: &[],
    mutant: Mutant::Whole,
    most_states: 150_000_000,
};

/// The site of the first node serves under the first claim, by two voters.
const HELD_READ: &[Step] = &[
    Step::Vote { p: 0, claim: 1 },
    Step::Vote { p: 1, claim: 1 },
    Step::Read { i: 0, p: 0, life: 0 },
    Step::Read { i: 0, p: 1, life: 0 },
    Step::Tick(0),
];
/// The third site takes the service while the first two are off; it may go back.
const ALONE: Run = Run {
    claims: &[claim(1, 0), claim(2, 2)],
    sites: &[0, 2],
    alone: Some(Alone { claim: 2, without: 0b011 }),
    every_reading: true,
    ..BASE
};
const ALONE_BACK: Run = Run { claims: &[claim(1, 0), claim(2, 2), claim(3, 0)], ..ALONE };
/// Two of five sites are left, each with a node, and the claim before was that of the other.
const ALONE_FIVE: Run = Run {
    voters: 5,
    claims: &[claim(1, 4), claim(2, 3)],
    sites: &[3, 4],
    alone: Some(Alone { claim: 2, without: 0b00111 }),
    every_reading: true,
    prefix: FIVE_HELD,
    ..BASE
};
/// The last site serves under the first claim, by the voters that will be off; then both that are
/// left have voted for the other one, and its node has read that.
const FIVE_HELD: &[Step] = &[
    Step::Vote { p: 0, claim: 1 },
    Step::Vote { p: 1, claim: 1 },
    Step::Vote { p: 2, claim: 1 },
    Step::Read { i: 1, p: 0, life: 0 },
    Step::Read { i: 1, p: 1, life: 0 },
    Step::Read { i: 1, p: 2, life: 0 },
    Step::Tick(0),
    Step::Assert,
    Step::Learn { i: 0 },
    Step::Vote { p: 3, claim: 2 },
    Step::Vote { p: 4, claim: 2 },
    Step::Read { i: 0, p: 3, life: 0 },
    Step::Read { i: 0, p: 4, life: 0 },
];
/// One of the two that are left votes for a claim without a majority, the other one, with those
/// that have come back, for a newer claim.
const FIVE_SPLIT: &[Step] = &[
    Step::Assert,
    Step::Learn { i: 0 },
    Step::Learn { i: 1 },
    Step::Vote { p: 3, claim: 2 },
    Step::Read { i: 0, p: 3, life: 0 },
    Step::Return { p: 0 },
    Step::Return { p: 1 },
    Step::Vote { p: 0, claim: 1 },
    Step::Vote { p: 1, claim: 1 },
    Step::Vote { p: 4, claim: 1 },
    Step::Read { i: 1, p: 0, life: 0 },
    Step::Read { i: 1, p: 1, life: 0 },
    Step::Read { i: 1, p: 4, life: 0 },
];

/// The rules as specified, in searches that are small enough for every `make test`.
pub(crate) const SMALL: &[Run] = &[
    Run { name: "witness", lease: 2, wait: 3, lost_every: 3, grouped: true, ..BASE },
    Run { name: "witness-every", wait: 2, lost_every: 2, every_reading: true, ..BASE },
    Run { name: "witness-crash", wait: 2, lost_every: 2, deaths: 2, ..BASE },
    Run { name: "witness-keep", wait: 2, lost_every: 2, deaths: 2, times_survive: true, ..BASE },
    Run { name: "wide", lease: 3, wait: 4, lost_every: 4, ..BASE },
    Run { name: "two-nodes", wait: 2, lost_every: 2, sites: &[0, 0, 1], ..BASE },
    Run { name: "back", claims: BACK, grouped: true, ..BASE },
    Run { name: "equal", claims: EQUAL, ..BASE },
    Run { name: "equal-held", claims: HELD_EQUAL, sites: &[0, 1, 2], ..BASE },
    Run { name: "third-crash", claims: THIRD, sites: &[0, 1, 2], deaths: 1, ..BASE },
    Run { name: "five", voters: 5, ..BASE },
    Run { name: "confirm-two", sites: &[0, 0, 1], confirm: true, deaths: 1, ..BASE },
    Run { name: "confirm-am", confirm: true, losses: 1, ..BASE },
    Run { name: "amnesia-two", losses: 1, grouped: true, ..BASE },
    Run { name: "amnesia-eq", claims: EQUAL, losses: 1, ..BASE },
    Run { name: "amnesia-later", losses: 2, ..BASE },
    Run { name: "amnesia-mutex", losses: 2, no_rejoin: true, only_mutex: true, ..BASE },
    Run {
        name: "confirm-mutex",
        confirm: true,
        losses: 1,
        no_rejoin: true,
        only_mutex: true,
        ..BASE
    },
    Run { name: "alone", grouped: true, ..ALONE },
    Run { name: "alone-equal", claims: &[claim(2, 0), claim(2, 2)], grouped: true, ..ALONE },
    Run { name: "alone-higher", claims: &[claim(3, 0), claim(2, 2)], grouped: true, ..ALONE },
];

/// The same in larger bounds: `make model`.
pub(crate) const LARGE: &[Run] = &[
    Run { name: "back-every", claims: BACK, every_reading: true, ..BASE },
    Run { name: "five-every", voters: 5, every_reading: true, ..BASE },
    Run {
        name: "equal-held-every",
        claims: HELD_EQUAL,
        sites: &[0, 1, 2],
        every_reading: true,
        ..BASE
    },
    Run { name: "amnesia-every", losses: 1, every_reading: true, ..BASE },
    Run { name: "amnesia-eq-every", claims: EQUAL, losses: 1, every_reading: true, ..BASE },
    Run { name: "witness-msg", wait: 2, lost_every: 2, messages: 1, ..BASE },
    Run { name: "witness-msg2", wait: 2, lost_every: 2, messages: 2, ..BASE },
    Run { name: "back-drift", claims: BACK, lease: 2, wait: 3, lost_every: 3, ..BASE },
    Run {
        name: "third-drift",
        claims: THIRD,
        sites: &[0, 1, 2],
        wait: 2,
        lost_every: 2,
        deaths: 1,
        ..BASE
    },
    Run { name: "confirm", claims: BACK, confirm: true, deaths: 1, ..BASE },
    Run {
        name: "confirm-keep",
        claims: BACK,
        confirm: true,
        deaths: 1,
        times_survive: true,
        ..BASE
    },
    Run {
        name: "confirm-drift",
        wait: 2,
        lost_every: 2,
        confirm: true,
        deaths: 1,
        losses: 1,
        ..BASE
    },
    Run { name: "amnesia", claims: BACK, losses: 1, ..BASE },
    Run { name: "amnesia-drift", wait: 2, lost_every: 2, losses: 1, deaths: 1, ..BASE },
    Run { name: "amnesia-third", claims: THIRD, sites: &[0, 1, 2], losses: 1, ..BASE },
    Run { name: "amnesia-five", voters: 5, losses: 1, ..BASE },
    Run { name: "confirm-back", claims: BACK, confirm: true, losses: 1, ..BASE },
    Run { name: "alone-back", grouped: true, ..ALONE_BACK },
    Run { name: "alone-keep", times_survive: true, ..ALONE_BACK },
    Run { name: "alone-death", deaths: 1, ..ALONE },
    Run { name: "alone-drift", wait: 2, lost_every: 2, ..ALONE },
    Run { name: "alone-loss", losses: 1, ..ALONE },
];

/// A search that must end in a breach.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Broken {
    pub(crate) run: Run,
    pub(crate) breach: Breach,
}

const fn broken(name: &'static str, mutant: Mutant, breach: Breach, run: Run) -> Broken {
    Broken { run: Run { name, mutant, ..run }, breach }
}

const TWO_SITES: Breach = Breach::TwoSites;
const DRIFT: Run = Run { lease: 2, wait: 3, lost_every: 3, ..BASE };

/// Each rule taken away, once.
pub(crate) const MUTANTS: &[Broken] = &[
    broken("m-no-wait", Mutant::Whole, TWO_SITES, Run { wait: 0, ..BASE }),
    broken("m-no-margin", Mutant::Whole, TWO_SITES, Run { wait: 2, ..DRIFT }),
    broken("m-rate", Mutant::Whole, TWO_SITES, Run { lost_every: 2, ..DRIFT }),
    broken("m-one-voter", Mutant::OneVoter, TWO_SITES, BASE),
    broken("m-receipt", Mutant::Receipt, TWO_SITES, Run { messages: 1, ..BASE }),
    broken("m-no-nonce", Mutant::NoNonce, TWO_SITES, Run { messages: 1, ..BASE }),
    broken("m-unread", Mutant::Unread, TWO_SITES, BASE),
    broken("m-replica", Mutant::Replica, TWO_SITES, BASE),
    broken("m-no-fsync", Mutant::NoFsync, TWO_SITES, Run { losses: 1, ..BASE }),
    broken("m-same-inc", Mutant::SameLife, TWO_SITES, Run { losses: 1, ..BASE }),
    broken("m-settle", Mutant::Settle, TWO_SITES, BASE),
    broken("m-by-site", Mutant::BySite, TWO_SITES, Run { claims: BACK, only_mutex: true, ..BASE }),
    broken(
        "m-keep",
        Mutant::Keep,
        TWO_SITES,
        Run {
            claims: HELD_EQUAL,
            sites: &[0, 1, 2],
            only_mutex: true,
            every_reading: true,
            prefix: HELD_READ,
            ..BASE
        },
    ),
    broken("m-gate-open", Mutant::GateOpen, TWO_SITES, Run { deaths: 1, ..BASE }),
    broken(
        "m-confirm-one",
        Mutant::ConfirmOne,
        TWO_SITES,
        Run { sites: &[0, 0, 1], confirm: true, ..BASE },
    ),
    broken(
        "m-conf-forget",
        Mutant::ConfirmForget,
        TWO_SITES,
        Run { confirm: true, deaths: 1, ..BASE },
    ),
    broken(
        "m-conf-at-once",
        Mutant::ConfirmAtOnce,
        TWO_SITES,
        Run { confirm: true, losses: 1, no_rejoin: true, only_mutex: true, ..BASE },
    ),
    broken("m-two-sets", Mutant::TwoSets, TWO_SITES, Run { voters: 5, ..BASE }),
    broken("m-lower", Mutant::Lower, Breach::OlderReturns, BASE),
    broken("m-revote", Mutant::Revote, Breach::TwoOfOneEpoch, Run { claims: EQUAL, ..BASE }),
    broken(
        "m-no-rejoin",
        Mutant::Whole,
        Breach::OlderReturns,
        Run { losses: 1, no_rejoin: true, ..BASE },
    ),
    broken("m-floor-untold", Mutant::FloorUntold, Breach::OlderReturns, Run { losses: 2, ..BASE }),
    broken("m-alone-not-off", Mutant::NotOff, TWO_SITES, ALONE),
    broken("m-alone-unread", Mutant::BackUnread, TWO_SITES, Run { times_survive: true, ..ALONE }),
    broken("m-alone-no-wait", Mutant::Whole, TWO_SITES, Run { wait: 0, ..ALONE }),
    broken("m-alone-older", Mutant::OlderGoOn, TWO_SITES, Run { times_survive: true, ..ALONE }),
    broken(
        "m-alone-none-left",
        Mutant::NoneOfLeft,
        TWO_SITES,
        Run { claims: &[claim(3, 0), claim(2, 2)], ..ALONE },
    ),
    broken("m-alone-others", Mutant::OthersUnread, TWO_SITES, ALONE_FIVE),
    broken(
        "m-alone-one-left",
        Mutant::OneOfLeft,
        TWO_SITES,
        Run { claims: &[claim(3, 4), claim(2, 3)], prefix: FIVE_SPLIT, ..ALONE_FIVE },
    ),
];

// === impl Run ===

impl Run {
    pub(crate) fn claim(&self, no: ClaimNo) -> Claim {
        self.claims[usize::from(no) - 1]
    }

    pub(crate) fn nodes(&self) -> std::ops::Range<usize> {
        0..self.sites.len()
    }

    pub(crate) fn lives(&self) -> usize {
        (usize::from(self.losses) + 1).min(LIVES)
    }

    pub(crate) fn has_messages(&self, node: usize) -> bool {
        self.messages & (1 << node) != 0
    }

    /// How many voters a node counts, from the first.
    pub(crate) fn voters_of(&self, node: usize) -> usize {
        if self.mutant == Mutant::TwoSets && node == 0 { 3 } else { self.voters }
    }

    /// True when voters differ in more than their number.
    pub(crate) fn fixed(&self) -> bool {
        self.mutant == Mutant::TwoSets || self.alone.is_some()
    }

    /// True for the claim that is made without a majority.
    pub(crate) fn is_alone(&self, claim: ClaimNo) -> bool {
        self.alone.is_some_and(|alone| alone.claim == claim)
    }

    /// The voters that it has left, as bits.
    pub(crate) fn left(&self, alone: Alone) -> u8 {
        ((1 << self.voters) - 1) & !alone.without
    }

    /// True when the mutant looks at ages that the rules do not look at.
    pub(crate) fn keeps_ages(&self) -> bool {
        matches!(
            self.mutant,
            Mutant::Unread
                | Mutant::NoFsync
                | Mutant::SameLife
                | Mutant::Settle
                | Mutant::BySite
                | Mutant::Keep
        )
    }

    pub(crate) fn unknown(&self) -> View {
        View { since: self.wait, young: [self.lease; CLAIMS + 1], ..View::default() }
    }
}
