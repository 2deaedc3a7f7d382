//! The predicate, on plain numbers and without collections.
//!
//! It stands alone so that one text is what the agent runs and what the model check explores: the
//! agent's side fills in a [`Sight`] from what it knows, the model from its small states. It never
//! looks anything up, and it never reads a clock: times are [`Duration`]s on the monotonic clock of
//! the node that decides. There is no state here, so a crash leaves nothing.

use std::time::Duration;

use crate::id::Epoch;

/// The numbers of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// T: for how long an answer counts, from when its ask was sent.
    pub lease: Duration,
    /// W: how long a vote must have been known where nobody confirmed. See [`wait_of`].
    pub wait: Duration,
    /// How many voters are a majority of all voters. A node knows it of those that count now, and
    /// sets it itself ([`super::knowledge::Knowledge::electorate`]).
    pub quorum: usize,
}

/// The largest error of a clock's rate, in parts per million; below one half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RateError(u32);

/// The rate error is not in 0 to 499 999 ppm: a clock that far off measures nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a clock error of {0} ppm is not in 0 to 499999: set the bound of the clocks' rate lower")]
pub struct RateOutOfRange(pub u32);

/// One answer of one voter, as a node sees it that considers one service. `C` names a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight<C> {
    /// Own clock when the ask was sent, never when the answer came: it may have been on its way for
    /// longer than T.
    pub asked: Duration,
    /// How many votes the voter had made when it answered.
    pub stated: u64,
    /// How many of them this node has read without a gap, in the answer's incarnation.
    pub read: u64,
    /// The newest of the votes read that names the service.
    pub newest: Option<C>,
    /// Own clock when that vote was first read.
    pub since: Duration,
    /// Own clock when this node first heard of the answer's incarnation. Not later than `since`.
    pub heard: Duration,
}

/// What condition (4) may rest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// Nobody confirmed: the newest vote must have been known for W.
    Wait,
    /// Every other candidate node confirmed: the incarnation must have been known for W.
    Confirmed,
    /// `exclusive` and not confirmed: waiting never suffices.
    Nothing,
}

/// When a voter counts: from `from` on, while the clock is below `until`. Where `from` is not below
/// `until` it never does, but later answers may move `until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub from: Duration,
    pub until: Duration,
}

/// A node's own side of the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bid {
    /// The claim's target is this node's site.
    pub here: bool,
    pub epoch: Epoch,
    /// No claim up to this epoch is served; `None` when the node lost what it had promised.
    pub fence: Option<Epoch>,
    /// No *other* claim up to this epoch is served, because of what the node has read since: see
    /// [`super::alone`]. 0 when there is nothing.
    pub above: Epoch,
}

/// Some of the voters, each by its place among all of them in the order of their names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Voters(u128);

/// Which voters have to count for a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed<'a> {
    /// A majority of all, and of each of these sets one voter at least: what an older claim that
    /// was made without a majority may be served by.
    Majority { with: &'a [Voters] },
    /// Every one of these, of which there is one at least: what is left to a claim that was made
    /// without a majority (adr/0061).
    All(Voters),
}

/// Whether a node serves, and until when that holds if nothing else is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Serves while the clock is below `until`.
    Serves {
        until: Duration,
    },
    /// A majority stands behind the claim and some of it has not been known for W: serves from
    /// `from` on, if answers keep coming.
    Waits {
        from: Duration,
    },
    Shut(Why),
}

/// Why a node does not serve and waits for nothing that time alone brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The claim is another site's.
    Elsewhere,
    /// The node confirmed its withdrawal from this epoch or a higher one.
    Fenced,
    /// The node lost its journal and does not know what it confirmed.
    FenceUnknown,
    /// Another claim of this epoch or a newer one is known, of which this node cannot know whether
    /// the voters it has heard decide.
    Overruled,
    /// Fewer voters than a majority stand behind the claim.
    NoMajority { behind: usize },
    /// A majority did, but too few of its answers are young enough.
    Expired { counting: usize },
}

/// What a voter has bound itself to, for one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// It still has to read other voters.
    pub rejoining: bool,
    /// The epoch of its newest vote; 0 when it has none.
    pub newest: Epoch,
    /// The highest epoch it read when it came back without its journal; 0 otherwise.
    pub floor: Epoch,
    /// The claim has the newest votes of a majority without this voter, in each generation of
    /// voters that the file knows.
    pub decided: bool,
}

/// Why a voter does not vote for a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoVote {
    #[error("this voter lost its journal and has not read all other voters yet")]
    Rejoining,
    #[error("this voter has voted in epoch {0}, and votes only higher")]
    NotHigher(Epoch),
    #[error("this voter may have voted up to epoch {0} before it lost its journal")]
    Floor(Epoch),
}

// === impl Rules ===

impl Rules {
    /// The rules for a lease, clocks and a number of voters.
    pub fn of(lease: Duration, error: RateError, voters: usize) -> Self {
        Self { lease, wait: wait_of(lease, error), quorum: quorum_of(voters) }
    }
}

impl RateError {
    /// From parts per million. Errors: at one half or more.
    pub fn ppm(value: u32) -> Result<Self, RateOutOfRange> {
        if value < 500_000 { Ok(Self(value)) } else { Err(RateOutOfRange(value)) }
    }
}

/// The least number that is more than half.
pub fn quorum_of(voters: usize) -> usize {
    voters / 2 + 1
}

/// W = T (1 + rho) / (1 - rho) + 1 s, rounded up: a slow clock at the old holder makes its T last
/// longest, a fast one at the new holder makes its W pass soonest.
pub fn wait_of(lease: Duration, error: RateError) -> Duration {
    const MILLION: u128 = 1_000_000;
    const BILLION: u128 = 1_000_000_000;
    let rho = u128::from(error.0);
    let nanos = (lease.as_nanos() * (MILLION + rho)).div_ceil(MILLION - rho);
    let seconds = u64::try_from(nanos / BILLION).expect("at most three times a Duration's seconds");
    let rest = u32::try_from(nanos % BILLION).expect("below a billion");
    Duration::new(seconds, rest) + Duration::from_secs(1)
}

// === impl Span ===

impl Span {
    pub fn holds(self, now: Duration) -> bool {
        self.from <= now && now < self.until
    }
}

/// Conditions (3) and (4): from when on a voter stands behind a claim, if it does. A vote for
/// another claim of the same site is a vote against this one.
pub fn stands<C: PartialEq>(
    rules: &Rules,
    sight: &Sight<C>,
    claim: &C,
    ground: Ground,
) -> Option<Duration> {
    if sight.newest.as_ref() != Some(claim) {
        return None;
    }
    match ground {
        Ground::Wait => Some(sight.since + rules.wait),
        Ground::Confirmed => Some(sight.heard.min(sight.since) + rules.wait),
        Ground::Nothing => None,
    }
}

/// Condition (2): the node has read every vote that the answer speaks of.
pub fn all_read<C>(sight: &Sight<C>) -> bool {
    sight.stated <= sight.read
}

/// Conditions (1) to (4): when this answer makes its voter count.
pub fn counts<C: PartialEq>(
    rules: &Rules,
    sight: &Sight<C>,
    claim: &C,
    ground: Ground,
) -> Option<Span> {
    let from = stands(rules, sight, claim, ground)?;
    all_read(sight).then(|| Span { from, until: sight.asked + rules.lease })
}

/// Of several answers of one voter the one that carries furthest: of those that count now the last
/// to end, else the first to begin.
pub fn best(spans: impl IntoIterator<Item = Span>, now: Duration) -> Option<Span> {
    let key =
        |s: &Span| (s.holds(now), if s.holds(now) { s.until } else { Duration::MAX - s.from });
    spans.into_iter().max_by_key(key)
}

/// Whether these voters are enough.
pub fn suffices(rules: &Rules, needed: Needed<'_>, counting: Voters) -> bool {
    match needed {
        Needed::Majority { with } => {
            counting.len() >= rules.quorum && with.iter().all(|one| counting.meets(*one))
        }
        Needed::All(voters) => !voters.is_empty() && counting.has(voters),
    }
}

/// The verdict from one span for each voter that has one ([`best`]), in the order of their places.
/// The end is what those that are needed allow: with a majority the quorum-th of the ends, from the
/// last.
pub fn serves(
    rules: &Rules,
    needed: Needed<'_>,
    bid: Bid,
    voters: &[Option<Span>],
    now: Duration,
) -> Verdict {
    if !bid.here {
        return Verdict::Shut(Why::Elsewhere);
    }
    match bid.fence {
        None => return Verdict::Shut(Why::FenceUnknown),
        Some(fence) if bid.epoch <= fence => return Verdict::Shut(Why::Fenced),
        Some(_) if bid.epoch <= bid.above => return Verdict::Shut(Why::Overruled),
        Some(_) => {}
    }
    let places = |is: &dyn Fn(Span) -> bool| {
        let all = (0..).zip(voters);
        Voters::of(all.filter_map(|(place, span)| span.filter(|s| is(*s)).map(|_| place)))
    };
    let spans = || voters.iter().flatten();
    let enough = |is: &dyn Fn(Span) -> bool| suffices(rules, needed, places(is));
    if enough(&|s| s.holds(now)) {
        let ends = spans().filter(|s| s.holds(now)).map(|s| s.until);
        let until = ends.filter(|end| enough(&|s| s.holds(now) && s.until >= *end)).max();
        return Verdict::Serves { until: until.expect("the earliest of them is one") };
    }
    let behind = places(&|_| true);
    if !suffices(rules, needed, behind) {
        return Verdict::Shut(Why::NoMajority { behind: behind.len() });
    }
    let starts = spans().map(|s| s.from);
    let from = starts.filter(|start| enough(&|s| s.from <= *start)).min();
    match from.expect("the last of them is one") {
        from if from > now => Verdict::Waits { from },
        _ => Verdict::Shut(Why::Expired { counting: places(&|s| s.holds(now)).len() }),
    }
}

/// Transition V for one service: once per epoch and never lower. In the epoch of the floor only
/// for a claim that has a majority without this voter, so that its vote decides nothing which it
/// may have decided otherwise before.
pub fn may_vote(bound: Bound, epoch: Epoch) -> Result<(), NoVote> {
    if bound.rejoining {
        return Err(NoVote::Rejoining);
    }
    if epoch <= bound.newest {
        return Err(NoVote::NotHigher(bound.newest));
    }
    let settled = epoch == bound.floor && bound.decided;
    if epoch > bound.floor || settled { Ok(()) } else { Err(NoVote::Floor(bound.floor)) }
}

/// Whether every one of these nodes withdrew from the epoch or a higher one. `None` is a node that
/// has said nothing.
pub fn all_withdrawn(epoch: Epoch, nodes: impl IntoIterator<Item = Option<Epoch>>) -> bool {
    nodes.into_iter().all(|withdrawn| withdrawn.is_some_and(|e| e >= epoch))
}

// === impl Voters ===

impl Voters {
    /// From places, each below 128: no fabric has that many sites with a voter.
    pub fn of(places: impl IntoIterator<Item = u32>) -> Self {
        let bit = |place: u32| 1u128.checked_shl(place).expect("fewer than 128 voters");
        Self(places.into_iter().map(bit).fold(0, |all, one| all | one))
    }

    pub fn len(self) -> usize {
        usize::try_from(self.0.count_ones()).expect("at most 128")
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// True when all of `others` are among these.
    pub fn has(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// True when one of `others` at least is among these.
    pub fn meets(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

// === impl Verdict ===

impl Verdict {
    pub fn is_serving(self) -> bool {
        matches!(self, Self::Serves { .. })
    }

    /// Of two ways to serve under one claim the better one: what serves longer, what begins sooner.
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Serves { until }, Self::Serves { until: later }) => {
                Self::Serves { until: until.max(later) }
            }
            (Self::Serves { .. }, _) => self,
            (_, Self::Serves { .. }) => other,
            (Self::Waits { from }, Self::Waits { from: other }) => {
                Self::Waits { from: from.min(other) }
            }
            (_, Self::Waits { .. }) => other,
            (Self::Waits { .. } | Self::Shut(_), Self::Shut(_)) => self,
        }
    }

    /// When the verdict has to be asked for again although nothing was heard.
    pub fn deadline(self) -> Option<Duration> {
        match self {
            Self::Serves { until } => Some(until),
            Self::Waits { from } => Some(from),
            Self::Shut(_) => None,
        }
    }
}
