//! What a state means: who serves, by the product's own predicate, and whether that may be.

use std::time::Duration;

use nett_policy::id::Epoch;
use nett_policy::lease::rule::{
    Bid, Ground, Needed, Rules, Sight, Span, Verdict, Voters, all_read, all_withdrawn, best,
    counts, serves, stands, suffices,
};

use crate::runs::{Alone, Claim, Mutant, Run};
use crate::state::{CLAIMS, ClaimNo, Node, State, VOTERS};

/// Every node's clock, at every instant: ages are what differs.
const NOW: Duration = Duration::from_secs(1000);

/// What must never be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breach {
    TwoSites,
    /// An older claim serves after a newer one did, at another site.
    OlderReturns,
    TwoOfOneEpoch,
    /// The grouping of the kernel gate says something else than the predicate.
    Grouping,
}

fn ago(ticks: u8) -> Duration {
    NOW - Duration::from_secs(u64::from(ticks))
}

/// A question about one node and one claim.
struct Question<'a> {
    run: &'a Run,
    state: &'a State,
    node: usize,
    claim: ClaimNo,
    rules: Rules,
    ground: Ground,
    /// Beside the majority one of these has to count.
    with: Vec<Voters>,
    /// All that is left to a claim that was made without a majority.
    alone: Option<Voters>,
    /// No claim up to this epoch is served.
    above: Epoch,
}

/// The claims a node serves, as bits by place, and for how many ticks more.
pub(crate) fn serving(run: &Run, state: &State, node: usize) -> [Option<u8>; CLAIMS] {
    let mut served = [None; CLAIMS];
    for (place, claim) in run.claims.iter().enumerate() {
        let at = &state.nodes[node];
        if at.gate[place] > 0 {
            served[place] = Some(at.gate[place]);
        }
        if at.dead || run.sites[node] != claim.target {
            continue;
        }
        let no = u8::try_from(place + 1).expect("few claims");
        if let Verdict::Serves { until } = verdict(&question(run, state, node, no)) {
            let left = u8::try_from((until - NOW).as_secs()).expect("at most T");
            served[place] = served[place].max(Some(left));
        }
    }
    served
}

fn question<'a>(run: &'a Run, state: &'a State, node: usize, claim: ClaimNo) -> Question<'a> {
    let rules = Rules {
        lease: Duration::from_secs(u64::from(run.lease)),
        wait: Duration::from_secs(u64::from(run.wait)),
        quorum: match run.mutant {
            Mutant::OneVoter => 1,
            _ => run.voters_of(node) / 2 + 1,
        },
    };
    let ground = if is_confirmed(run, state, claim) { Ground::Confirmed } else { Ground::Wait };
    let (with, alone, above) = (Vec::new(), None, Epoch(0));
    let mut question = Question { run, state, node, claim, rules, ground, with, alone, above };
    if let Some(alone) = run.alone {
        bounds(&mut question, alone);
    }
    question
}

/// As [`nett_policy::lease::alone`] has it, for the one claim that was made without a majority.
fn bounds(q: &mut Question<'_>, alone: Alone) {
    let Question { run, node, claim, .. } = *q;
    let (here, theirs) = (&q.state.nodes[node], run.claim(alone.claim).epoch);
    let (left, epoch) = (run.left(alone), run.claim(claim).epoch);
    let voters = |bits: u8| Voters::of((0..8).filter(|p| bits & (1 << p) != 0));
    let last = |p: usize| here.views[p].iter().rfind(|view| view.known).copied();
    let newest = |p: usize| last(p).map_or(0, |view| view.newest);
    if claim == alone.claim {
        let higher = |p: usize| {
            let of = here.views[p].iter().filter(|view| view.newest > 0);
            of.map(|view| run.claim(view.newest).epoch).max().is_some_and(|e| e > theirs)
        };
        let all = (0..run.voters).filter(|p| left & (1 << p) != 0);
        let others = run.nodes().filter(|i| run.sites[*i] != run.claim(claim).target);
        let mut others = others.filter(|i| alone.without & (1 << run.sites[*i]) == 0);
        let is_known = others.all(|i| q.state.nodes[i].knows) || run.mutant == Mutant::OthersUnread;
        q.alone = (here.knows && is_known && !all.into_iter().any(higher)).then(|| voters(left));
        return;
    }
    if here.knows && run.mutant != Mutant::OlderGoOn {
        q.above = Epoch(u64::from(theirs));
    } else if (0..run.voters).any(|p| newest(p) == alone.claim) {
        q.above = Epoch(u64::from(theirs) - 1);
    }
    let is_over = (0..run.voters).filter(|p| left & (1 << p) != 0).any(|p| {
        let view = last(p).filter(|view| view.newest > 0 && view.since >= run.wait);
        view.is_some_and(|view| run.claim(view.newest).epoch > theirs)
    });
    if here.knows && epoch > theirs && !is_over && run.mutant != Mutant::NoneOfLeft {
        q.with.push(voters(left));
    }
}

fn is_confirmed(run: &Run, state: &State, claim: ClaimNo) -> bool {
    let wanted = run.claim(claim);
    let others = run.nodes().filter(|n| run.sites[*n] != wanted.target);
    let said = |n: usize| Some(state.nodes[n].said).filter(|e| *e > 0).map(|e| Epoch(u64::from(e)));
    let epoch = Epoch(u64::from(wanted.epoch));
    match (run.confirm, run.mutant) {
        (false, _) => false,
        (true, Mutant::ConfirmOne) => others.map(said).any(|s| all_withdrawn(epoch, [s])),
        (true, _) => all_withdrawn(epoch, others.map(said)),
    }
}

fn bid(q: &Question<'_>) -> Bid {
    let claim = q.run.claim(q.claim);
    let fence = Epoch(u64::from(q.state.nodes[q.node].fence));
    let here = q.run.sites[q.node] == claim.target;
    Bid { here, epoch: Epoch(u64::from(claim.epoch)), fence: Some(fence), above: q.above }
}

fn verdict(q: &Question<'_>) -> Verdict {
    let spans: [Option<Span>; VOTERS] = std::array::from_fn(|p| {
        let sights = sights(q, p).map(|(_, sight)| sight);
        let wanted = match q.run.mutant {
            Mutant::BySite => q.run.claim(q.claim).target,
            _ => q.claim,
        };
        best(sights.filter_map(|s| counts(&q.rules, &s, &wanted, q.ground)), NOW)
    });
    let spans = &spans[..q.run.voters_of(q.node)];
    let by = |needed| serves(&q.rules, needed, bid(q), spans, NOW);
    let protected = by(Needed::Majority { with: &q.with });
    match q.alone {
        None => protected,
        Some(left) if q.run.mutant == Mutant::OneOfLeft => {
            let each = (0..8).map(|p| Voters::of([p])).filter(|one| left.has(*one));
            each.map(|one| by(Needed::All(one))).fold(protected, Verdict::or)
        }
        Some(left) => by(Needed::All(left)).or(protected),
    }
}

/// Every answer of a voter that a node holds, with its life.
fn sights<'a>(q: &'a Question<'a>, p: usize) -> impl Iterator<Item = (usize, Sight<u8>)> + 'a {
    let node = &q.state.nodes[q.node];
    let lives = 0..=usize::from(q.state.voters[p].life);
    lives.flat_map(move |life| {
        let view = &node.views[p][life];
        let stated = (1..=CLAIMS).filter(move |n| view.young[*n] < q.run.lease);
        stated.map(move |n| (life, sight(q, p, life, n)))
    })
}

fn sight(q: &Question<'_>, p: usize, life: usize, stated: usize) -> Sight<u8> {
    let node = &q.state.nodes[q.node];
    let view = &node.views[p][life];
    let (newest, since) = match q.run.mutant {
        Mutant::Keep => uncontested(q, node, p, life),
        Mutant::Settle => (view.newest, node.first[usize::from(q.claim) - 1]),
        _ => (view.newest, view.since),
    };
    let newest = match q.run.mutant {
        Mutant::BySite if newest > 0 => Some(q.run.claim(newest).target),
        _ => Some(newest).filter(|n| *n > 0),
    };
    let (age, stated) = match q.run.mutant {
        Mutant::Unread => (view.young[1..].iter().copied().min().unwrap_or(u8::MAX), 0),
        _ => (view.young[stated], stated),
    };
    Sight {
        asked: ago(age),
        stated: u64::try_from(stated).expect("few votes"),
        read: u64::from(view.read),
        newest,
        since: ago(since),
        heard: match q.run.mutant {
            Mutant::ConfirmAtOnce => ago(q.run.wait),
            _ => ago(view.heard),
        },
    }
}

/// The newest vote of which no other voter's contradicts the epoch: what a holder goes by that
/// "keeps what it has" in a conflict.
fn uncontested(q: &Question<'_>, node: &Node, p: usize, life: usize) -> (ClaimNo, u8) {
    let read = |p: usize, life: usize| {
        let view = &node.views[p][life];
        q.state.voters[p].votes[life][..usize::from(view.read)].iter().copied()
    };
    let contested = |claim: ClaimNo| {
        let epoch = q.run.claim(claim).epoch;
        (0..q.run.voters).flat_map(|p| (0..q.run.lives()).map(move |l| (p, l))).any(|(p, l)| {
            read(p, l).any(|other| other != claim && q.run.claim(other).epoch == epoch)
        })
    };
    let view = &node.views[p][life];
    let kept = read(p, life).rfind(|c| !contested(*c)).unwrap_or(0);
    if kept == view.newest { (kept, view.since) } else { (kept, q.run.wait) }
}

/// Looks for a breach. Also says who serves, as bits by place.
pub(crate) fn judge(run: &Run, state: &State) -> (u8, Option<Breach>) {
    let mut now = 0u8;
    for node in run.nodes() {
        for (place, left) in serving(run, state, node).iter().enumerate() {
            now |= u8::from(left.is_some()) << place;
        }
        if run.grouped && !grouping_agrees(run, state, node) {
            return (now, Some(Breach::Grouping));
        }
    }
    if run.only_mutex {
        let breach = two_sites(run.claims, now).then_some(Breach::TwoSites);
        return (now, breach);
    }
    let is_alone = |place: usize| run.is_alone(claim_no(place));
    (now, among_but(run.claims, now, state.served | now, is_alone))
}

fn places(claims: &[Claim], bits: u8) -> impl Iterator<Item = usize> + Clone {
    (0..claims.len()).filter(move |place| bits & (1 << place) != 0)
}

fn two_sites(claims: &[Claim], now: u8) -> bool {
    let mut sites = places(claims, now).map(|place| claims[place].target);
    let first = sites.next();
    sites.any(|site| Some(site) != first)
}

/// What is wrong when these claims are served now and those have been ever.
pub(crate) fn among(claims: &[Claim], now: u8, ever: u8) -> Option<Breach> {
    among_but(claims, now, ever, |_| false)
}

/// What somebody says with an approval may be older by number than what the dead had.
fn among_but(
    claims: &[Claim],
    now: u8,
    ever: u8,
    is_alone: impl Fn(usize) -> bool,
) -> Option<Breach> {
    if two_sites(claims, now) {
        return Some(Breach::TwoSites);
    }
    for p in places(claims, now).filter(|p| !is_alone(*p)) {
        for q in places(claims, ever).filter(|q| *q != p) {
            let (mine, other) = (claims[p], claims[q]);
            if mine.epoch == other.epoch && !is_alone(q) {
                return Some(Breach::TwoOfOneEpoch);
            }
            if other.epoch > mine.epoch && other.target != mine.target {
                return Some(Breach::OlderReturns);
            }
        }
    }
    None
}

fn claim_no(place: usize) -> ClaimNo {
    ClaimNo::try_from(place + 1).expect("few claims")
}

/// The gate opens a group when enough of its voters answered in one round. With a round for every
/// age an answer can have, that must be exactly the predicate.
fn grouping_agrees(run: &Run, state: &State, node: usize) -> bool {
    if state.nodes[node].dead {
        return true;
    }
    (1u8..).zip(run.claims).all(|(no, _)| {
        let q = question(run, state, node, no);
        let bid = bid(&q);
        let may = bid.here && bid.fence.is_some_and(|f| bid.epoch > f.max(bid.above));
        let slot_open = |armed: Duration| {
            let voters = (0..run.voters_of(node)).filter(|p| {
                let open = |s: &Sight<u8>| {
                    let member = stands(&q.rules, s, &no, q.ground).is_some_and(|f| f <= NOW);
                    member && s.asked >= armed && all_read(s)
                };
                sights(&q, *p).any(|(_, s)| open(&s))
            });
            let voters = Voters::of(voters.map(|p| u32::try_from(p).expect("few voters")));
            suffices(&q.rules, Needed::Majority { with: &q.with }, voters)
                || q.alone.is_some_and(|left| suffices(&q.rules, Needed::All(left), voters))
        };
        let grouped = may && (0..run.lease).any(|age| slot_open(ago(age)));
        grouped == verdict(&q).is_serving()
    })
}
