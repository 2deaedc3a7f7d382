//! Late, doubled, replayed and reordered entries change nothing.

use std::collections::{BTreeMap, BTreeSet};

use nett_policy::fabric::Fabric;
use nett_policy::id::{EntryId, Epoch, SiteId};
use nett_policy::log::chain::followed;
use nett_policy::log::conflict::Claims;
use nett_policy::log::entry::{Body, Change, Entry, Slot, StepFact, StepState, Subject, WishKind};
use nett_policy::log::fold::Fold;
use nett_policy::log::intent::Intent;
use nett_policy::place::place;
use proptest::prelude::*;

use super::desk::{Desk, Nodes, Order, orders};
use super::ground::Ground;

#[derive(Debug, Clone)]
pub(crate) enum Act {
    Order {
        at: usize,
        operator: usize,
        order: Order,
        supersede: bool,
    },
    Turn {
        at: usize,
        task: usize,
        kind: WishKind,
    },
    Wish {
        at: usize,
        operator: usize,
        task: usize,
        approve: bool,
    },
    Advance {
        at: usize,
        nodes: Nodes,
    },
    /// The other site's entries arrive, up to so many.
    Deliver {
        to: usize,
        at_most: usize,
    },
    /// Each reads everything of the other.
    Meet,
}

/// The entries of a history.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) entries: Vec<Entry>,
    /// How much of each log there was when everybody last had read everything.
    pub(crate) met: Option<BTreeMap<SiteId, u64>>,
}

pub(crate) fn acts() -> impl Strategy<Value = Act> {
    let site = || 0..2usize;
    let nodes = prop_oneof![
        6 => Just(Nodes::Done),
        1 => Just(Nodes::Failing),
        1 => Just(Nodes::Silent),
    ];
    let kind = prop_oneof![
        1 => Just(WishKind::Cancel),
        2 => Just(WishKind::Pause),
        3 => Just(WishKind::Resume),
        1 => Just(WishKind::Adopt { asserted: BTreeSet::new() }),
    ];
    prop_oneof![
        3 => (site(), site(), orders(), prop::bool::weighted(0.2)).prop_map(
            |(at, operator, order, supersede)| Act::Order { at, operator, order, supersede }
        ),
        2 => (site(), 0..4usize, kind).prop_map(|(at, task, kind)| Act::Turn { at, task, kind }),
        3 => (site(), site(), 0..4usize, prop::bool::weighted(0.8)).prop_map(
            |(at, operator, task, approve)| Act::Wish { at, operator, task, approve }
        ),
        6 => (site(), nodes).prop_map(|(at, nodes)| Act::Advance { at, nodes }),
        3 => (site(), 1..8usize).prop_map(|(to, at_most)| Act::Deliver { to, at_most }),
    ]
}

/// Two sites that act on what each has read so far; all entries of both logs.
pub(crate) fn history(ground: &Ground, acts: &[Act]) -> Vec<Entry> {
    history_of(ground, acts).entries
}

pub(crate) fn history_of(ground: &Ground, acts: &[Act]) -> Told {
    let mut met = None;
    let mut desks = [Desk::new(ground, 0), Desk::new(ground, 1)];
    let mut delivered = [0usize; 2];
    for act in acts {
        match act {
            Act::Order { at, operator, order, supersede } => {
                drop(desks[*at].order(*operator, order, *supersede));
            }
            Act::Turn { at, task, kind } => drop(desks[*at].turn(*at, *task, kind.clone())),
            Act::Wish { at, operator, task, approve } => {
                drop(desks[*at].wish(*operator, *task, *approve));
            }
            Act::Advance { at, nodes } => drop(desks[*at].advance(*nodes)),
            Act::Deliver { to, at_most } => deliver(&mut desks, &mut delivered, *to, *at_most),
            Act::Meet => {
                (0..2).for_each(|to| deliver(&mut desks, &mut delivered, to, usize::MAX));
                let length = |n: usize| (ground.site(n), desks[n].log.len() as u64);
                met = Some((0..2).map(length).collect());
            }
        }
    }
    Told { entries: desks.into_iter().flat_map(|d| d.log).collect(), met }
}

fn deliver(desks: &mut [Desk<'_>; 2], delivered: &mut [usize; 2], to: usize, at_most: usize) {
    let log = desks[1 - to].log.clone();
    for entry in log.iter().skip(delivered[to]).take(at_most) {
        desks[to].read(entry);
        delivered[to] += 1;
    }
}

pub(crate) fn fold<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Fold {
    let mut fold = Fold::default();
    entries.into_iter().for_each(|entry| {
        fold.join(entry);
    });
    fold
}

/// A history with a second writer for some of its facts: two agents of a site that both believed
/// the slot to be empty, of which a broken log server stored both.
fn with_rivals(mut entries: Vec<Entry>, picks: &[usize]) -> Vec<Entry> {
    let facts: Vec<Entry> =
        entries.iter().filter(|e| matches!(e.body, Body::Step(_))).cloned().collect();
    for (n, pick) in picks.iter().enumerate() {
        let Some(fact) = facts.get(pick % facts.len().max(1)) else { continue };
        let Body::Step(StepFact { slot, step, .. }) = &fact.body else { continue };
        let seq = fact.position.seq + u64::try_from(*pick).expect("small") % 3;
        let state = StepState::Failed { reason: format!("rival {n}") };
        let Slot { task, term, index } = slot.clone();
        let mut rival = fact.clone();
        rival.id = format!("{}.f{n:025}", fact.site).parse().expect("an entry id");
        rival.position.seq = seq;
        rival.body = Body::Step(StepFact { slot: Slot { task, term, index }, step: *step, state });
        entries.push(rival);
    }
    entries
}

/// The winner of every register, the long way round: all effects of all tasks, and the greatest.
fn winners(fold: &Fold) -> BTreeMap<Subject, (EntryId, Change)> {
    type Rank = (Epoch, std::cmp::Reverse<(u32, SiteId, EntryId)>);
    let mut best: BTreeMap<Subject, (Rank, EntryId, Change)> = BTreeMap::new();
    let effects = fold.commands().flat_map(|(task, ..)| {
        fold.effects(task).map(move |(written, effect)| (task, written, effect))
    });
    for (task, written, effect) in effects {
        for write in &effect.writes {
            let low = (effect.rank, written.site.clone(), task.clone());
            let rank = (write.epoch, std::cmp::Reverse(low));
            let subject = write.change.subject();
            let held = (rank, task.clone(), write.change.clone());
            match best.get(&subject) {
                Some((old, ..)) if *old >= held.0 => {}
                Some(_) | None => drop(best.insert(subject, held)),
            }
        }
    }
    best.into_iter().map(|(subject, (_, task, change))| (subject, (task, change))).collect()
}

fn rank_is_unique(fabric: &Fabric) -> bool {
    fabric.sites.iter().all(|a| fabric.sites.iter().all(|b| a.id == b.id || a.rank != b.rank))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn order_and_repetition_change_nothing(
        acts in prop::collection::vec(acts(), 1..40),
        rivals in prop::collection::vec(0..32usize, 0..4),
        shuffles in prop::collection::vec(any::<prop::sample::Index>(), 80),
        doubled in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let ground = Ground::two_sites();
        let entries = with_rivals(history(&ground, &acts), &rivals);
        prop_assume!(!entries.is_empty());
        let straight = fold(&entries);

        let mut shuffled: Vec<&Entry> = entries.iter().collect();
        shuffled.extend(doubled.iter().map(|i| i.get(&entries)));
        for (n, index) in shuffles.iter().enumerate() {
            let len = shuffled.len();
            shuffled.swap(n % len, index.index(len));
        }
        let other = fold(shuffled.iter().copied());
        prop_assert_eq!(&other, &straight);

        // Joining everything once more, backwards, moves nothing either.
        let mut again = other.clone();
        entries.iter().rev().for_each(|entry| {
            again.join(entry);
        });
        prop_assert_eq!(&again, &straight);

        // Following what is added gives what reading it all again gives.
        let mut followed = (Fold::default(), Intent::default(), Claims::default());
        for entry in shuffled {
            let (fold, intent, claims) = &mut followed;
            let added = fold.join(entry);
            match entry.about().filter(|_| added) {
                Some(task) => {
                    intent.update(fold, task);
                    claims.update(fold, task);
                }
                None => (*intent, *claims) = (Intent::read(fold), Claims::of(fold)),
            }
        }
        prop_assert_eq!(&followed.1, &Intent::read(&straight));
        prop_assert_eq!(followed.2.conflicts(), Claims::of(&straight).conflicts());

        let world = ground.world();
        let (a, b) = (Intent::read(&straight), Intent::read(&other));
        prop_assert_eq!(&a, &b);
        prop_assert_eq!(place(world, &a), place(world, &b));
        let conflicts = |fold: &Fold| Claims::of(fold).conflicts();
        prop_assert_eq!(conflicts(&straight), conflicts(&other));
    }

    #[test]
    fn a_register_keeps_the_greatest_of_all_effects(
        acts in prop::collection::vec(acts(), 1..60),
    ) {
        let ground = Ground::two_sites();
        prop_assert!(rank_is_unique(&ground.fabric));
        let fold = fold(&history(&ground, &acts));
        let intent = Intent::read(&fold);
        for (subject, (task, change)) in winners(&fold) {
            let held = intent.held(&subject).expect("an effect wrote it");
            prop_assert_eq!(&held.order.task, &task);
            prop_assert_eq!(&held.change, &change);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whoever has read both branches of a forked log follows the same one, in whatever order.
    #[test]
    fn a_fork_has_one_winner(
        acts in prop::collection::vec(acts(), 4..30),
        forks in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..4),
        shuffles in prop::collection::vec(any::<prop::sample::Index>(), 80),
    ) {
        let ground = Ground::two_sites();
        let mut entries = history(&ground, &acts);
        prop_assume!(!entries.is_empty());
        for (n, (pick, lower)) in forks.iter().enumerate() {
            let mut rival = pick.get(&entries).clone();
            let mark = if *lower { '0' } else { 'z' };
            rival.id = format!("{}.{mark}{n:025}", rival.site).parse().expect("an entry id");
            rival.position.hash = format!("rival-{n}");
            entries.push(rival);
        }
        let ids = |entries: &[Entry]| -> Vec<EntryId> {
            let followed = followed(entries, &BTreeMap::new()).into_iter();
            followed.map(|at| entries[at].id.clone()).collect()
        };
        let straight = ids(&entries);
        let mut shuffled = entries.clone();
        for (n, index) in shuffles.iter().enumerate() {
            let len = shuffled.len();
            shuffled.swap(n % len, index.index(len));
        }
        prop_assert_eq!(ids(&shuffled), straight.clone());
        // One entry per place, each behind the one before it.
        let chosen = followed(&entries, &BTreeMap::new()).into_iter();
        let chosen: Vec<&Entry> = chosen.map(|at| &entries[at]).collect();
        for pair in chosen.windows(2).filter(|pair| pair[0].site == pair[1].site) {
            prop_assert_eq!(&pair[1].position.prev_hash, &pair[0].position.hash);
            prop_assert_eq!(pair[1].position.seq, pair[0].position.seq + 1);
        }
    }
}

/// A split decision, followed with either side's task first.
#[test]
fn who_was_read_first_changes_nothing() {
    let ground = Ground::two_sites();
    let order = |at| {
        let order = Order::Failover { service: 0, to: 1 };
        Act::Order { at, operator: 1, order, supersede: false }
    };
    let mut acts = vec![order(0), order(1)];
    acts.extend([0, 1].map(|at| Act::Wish { at, operator: 0, task: 0, approve: true }));
    acts.extend([0, 1].map(|at| Act::Advance { at, nodes: Nodes::Done }));
    let fold = fold(&history(&ground, &acts));
    let tasks: Vec<&EntryId> = fold.commands().map(|(task, ..)| task).collect();
    assert!(tasks.iter().all(|task| fold.effects(task).next().is_some()), "{fold:#?}");
    assert_eq!(tasks.len(), 2);
    let mut backwards = Intent::default();
    tasks.iter().rev().for_each(|task| backwards.update(&fold, task));
    assert_eq!(backwards, Intent::read(&fold));
}

/// The generator is worth its laws only if its histories contain what the laws are about.
#[test]
fn histories_hold_conflicts_approvals_and_failures() {
    let ground = Ground::two_sites();
    let order = |at, order| Act::Order { at, operator: 1, order, supersede: false };
    let web = Order::Steer { service: 2, weights: (1, 3) };
    let pay = Order::Failover { service: 1, to: 1 };
    let mut acts = vec![order(0, web), order(1, Order::Failover { service: 2, to: 0 })];
    // Both commands took an override, so both wait for the other operator.
    acts.extend([0, 1].map(|at| Act::Wish { at, operator: 0, task: 0, approve: true }));
    acts.extend([0, 1].map(|at| Act::Advance { at, nodes: Nodes::Done }));
    acts.push(order(0, pay));
    acts.push(Act::Wish { at: 0, operator: 0, task: 0, approve: false });
    acts.extend((0..9).map(|_| Act::Advance { at: 0, nodes: Nodes::Failing }));
    let entries = history(&ground, &acts);
    let effective: Vec<&Entry> =
        entries.iter().filter(|e| matches!(e.body, Body::Effective(_))).collect();
    assert_eq!(effective.len(), 2, "{entries:#?}");
    let epochs = effective.iter().map(|e| match &e.body {
        Body::Effective(fact) => fact.effect.writes[0].epoch,
        _ => unreachable!("filtered"),
    });
    assert_eq!(epochs.collect::<Vec<_>>(), [Epoch(1), Epoch(1)], "a split decision");
    assert!(entries.iter().any(|e| matches!(e.body, Body::Wish(_))));
    let failed =
        |e: &Entry| matches!(&e.body, Body::Step(StepFact { state: StepState::Failed { .. }, .. }));
    assert!(entries.iter().any(failed));
    // Of equal epochs the site of the better rank wins.
    let intent = Intent::read(&fold(&entries));
    let web = Subject::Service("shop/prod/web".parse().expect("an id"));
    assert_eq!(intent.held(&web).expect("written").order.site.as_str(), "osl");
}
