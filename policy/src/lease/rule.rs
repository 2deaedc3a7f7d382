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
    /// How many voters are a majority of all voters.
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
    /// How many *other* voters' newest vote is for the claim.
    pub others: usize,
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

/// The verdict from one span for each voter that has one ([`best`]). The end is what the majority
/// allows: the quorum-th of the ends, from the last.
pub fn serves(rules: &Rules, bid: Bid, voters: &[Option<Span>], now: Duration) -> Verdict {
    if !bid.here {
        return Verdict::Shut(Why::Elsewhere);
    }
    match bid.fence {
        None => return Verdict::Shut(Why::FenceUnknown),
        Some(fence) if bid.epoch <= fence => return Verdict::Shut(Why::Fenced),
        Some(_) => {}
    }
    let behind = voters.iter().flatten().count();
    let counting = voters.iter().flatten().filter(|s| s.holds(now)).count();
    if counting >= rules.quorum {
        let mut ends: Vec<Duration> =
            voters.iter().flatten().filter(|s| s.holds(now)).map(|s| s.until).collect();
        ends.sort_unstable();
        return Verdict::Serves { until: ends[counting - rules.quorum] };
    }
    if behind < rules.quorum {
        return Verdict::Shut(Why::NoMajority { behind });
    }
    let mut starts: Vec<Duration> = voters.iter().flatten().map(|s| s.from).collect();
    starts.sort_unstable();
    match starts[rules.quorum - 1] {
        from if from > now => Verdict::Waits { from },
        _ => Verdict::Shut(Why::Expired { counting }),
    }
}

/// Transition V for one service: once per epoch and never lower. In the epoch of the floor only
/// for a claim that has a majority without this voter, so that its vote decides nothing which it
/// may have decided otherwise before.
pub fn may_vote(rules: &Rules, bound: Bound, epoch: Epoch) -> Result<(), NoVote> {
    if bound.rejoining {
        return Err(NoVote::Rejoining);
    }
    if epoch <= bound.newest {
        return Err(NoVote::NotHigher(bound.newest));
    }
    let settled = epoch == bound.floor && bound.others >= rules.quorum;
    if epoch > bound.floor || settled { Ok(()) } else { Err(NoVote::Floor(bound.floor)) }
}

/// Whether every one of these nodes withdrew from the epoch or a higher one. `None` is a node that
/// has said nothing.
pub fn all_withdrawn(epoch: Epoch, nodes: impl IntoIterator<Item = Option<Epoch>>) -> bool {
    nodes.into_iter().all(|withdrawn| withdrawn.is_some_and(|e| e >= epoch))
}

// === impl Verdict ===

impl Verdict {
    pub fn is_serving(self) -> bool {
        matches!(self, Self::Serves { .. })
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
