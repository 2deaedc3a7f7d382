//! A checkpoint and the rest are as good as the whole.

use std::collections::{BTreeMap, BTreeSet};

use nett_policy::id::{EntryId, SiteId, WallMs};
use nett_policy::log::checkpoint::{Checkpoint, Spent, kept, spent};
use nett_policy::log::conflict::{Claims, Conflict};
use nett_policy::log::entry::{Change, Entry, Object, Subject};
use nett_policy::log::fold::Fold;
use nett_policy::log::intent::Intent;
use nett_policy::place::{Placement, place};
use nett_policy::task::view::{TaskState, is_open, state};
use proptest::prelude::*;
use proptest::sample::Index;

use super::desk::{Nodes, Order};
use super::fold_laws::{Act, acts, fold, history, history_of};
use super::ground::Ground;

/// Long after every command has expired.
const LATE: WallMs = WallMs(u64::MAX / 2);

/// How much of each log there is.
type Cut = BTreeMap<SiteId, u64>;

fn heads(entries: &[Entry]) -> Cut {
    let mut heads = Cut::new();
    for entry in entries {
        let head = heads.entry(entry.site.clone()).or_default();
        *head = entry.position.seq.max(*head);
    }
    heads
}

/// Any part of a cut.
fn part(of: &Cut, picks: &[Index]) -> Cut {
    let pick = |(n, (site, head)): (usize, (&SiteId, &u64))| {
        let picked = picks[n % picks.len()].index(usize::try_from(*head).expect("short") + 1);
        (site.clone(), picked as u64)
    };
    of.iter().enumerate().map(pick).collect()
}

fn within(cut: &Cut, entry: &Entry) -> bool {
    cut.get(&entry.site).is_some_and(|head| entry.position.seq <= *head)
}

/// A checkpoint over a cut that forgets whatever tasks it is told to.
fn careless(entries: &[Entry], cut: &Cut, forget: &[Index]) -> Fold {
    let mut fold = fold(entries.iter().filter(|e| within(cut, e)));
    let known: Vec<EntryId> = fold.verdicts().map(|v| v.what.request().id.clone()).collect();
    let tasks = forget.iter().filter(|_| !known.is_empty()).map(|i| i.get(&known).clone());
    let checkpoint = Checkpoint { covers: cut.clone(), floors: BTreeMap::new() };
    let tasks = tasks.collect();
    fold.forget(&Spent { checkpoint, tasks });
    fold
}

fn merged<'a>(folds: impl IntoIterator<Item = &'a Fold>) -> Fold {
    let mut all = Fold::default();
    folds.into_iter().for_each(|fold| all.merge(fold));
    all
}

/// Everything that anybody asks of a fold, of what is not forgotten.
#[derive(Debug, PartialEq)]
struct Meaning {
    placement: Placement,
    conflicts: Vec<Conflict>,
    values: Vec<Change>,
    told: Vec<String>,
    open: BTreeMap<EntryId, TaskState>,
}

fn meaning(ground: &Ground, fold: &Fold) -> Meaning {
    let intent = Intent::read(fold);
    let (services, sites) = (&ground.catalog, &ground.fabric.sites);
    let mut subjects: Vec<Subject> = Vec::new();
    let mut told = Vec::new();
    for service in services.iter().map(|s| &s.id) {
        subjects.extend([Subject::Service(service.clone()), Subject::Held(service.clone())]);
        let at = |site: &SiteId| Object::ServiceAt(service.clone(), site.clone());
        subjects.extend(sites.iter().map(|s| Subject::Drained(at(&s.id))));
        let mut rivals: Vec<_> = intent.rivals(service);
        rivals.sort();
        let (mover, epoch) = (intent.mover(service), intent.answered_epoch(service));
        told.push(format!("{service} {epoch:?} {rivals:?} {mover:?}"));
    }
    subjects.extend(sites.iter().map(|s| Subject::Drained(Object::Site(s.id.clone()))));
    told.extend(subjects.iter().map(|s| format!("{:?}", intent.held(s))));
    let open = fold.commands().map(|(id, ..)| id).filter(|id| is_open(fold, id));
    Meaning {
        placement: place(ground.world(), &intent),
        conflicts: Claims::of(fold).conflicts(),
        values: subjects.iter().map(|s| intent.value(s)).collect(),
        told,
        open: open.map(|id| (id.clone(), state(fold, id))).collect(),
    }
}

fn indices(most: usize) -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 1..most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever a checkpoint covers and forgets: entries, checkpoints and folds of them come to the
    /// same in any order, also with entries that it covers, and doubled.
    #[test]
    fn a_checkpoint_joins_as_entries_do(
        acts in prop::collection::vec(acts(), 1..40),
        (first, second) in (indices(3), indices(3)),
        (forget, forget_more) in (indices(4), indices(4)),
        doubled in indices(20),
        shuffles in indices(80),
    ) {
        let ground = Ground::two_sites();
        let entries = history(&ground, &acts);
        prop_assume!(!entries.is_empty());
        let (a, b) = (part(&heads(&entries), &first), part(&heads(&entries), &second));
        let one = careless(&entries, &a, &forget);
        let two = careless(&entries, &b, &forget_more);

        // The rest, late, in any order and doubled, with entries that the checkpoint covers.
        let mut late: Vec<&Entry> = entries.iter().filter(|e| !within(&a, e)).collect();
        late.extend(doubled.iter().map(|i| i.get(&entries)));
        for (n, index) in shuffles.iter().enumerate() {
            let len = late.len();
            late.swap(n % len, index.index(len));
        }
        let mut joined = one.clone();
        late.iter().for_each(|entry| {
            joined.join(entry);
        });
        let whole = fold(&entries);
        prop_assert_eq!(&joined, &merged([&one, &whole]));
        prop_assert_eq!(&joined, &merged([&whole, &one]));
        prop_assert_eq!(&joined, &merged([&joined, &one]));
        prop_assert_eq!(&joined, &merged([&fold(late), &one]));

        prop_assert_eq!(&one, &merged([&one, &one]));
        prop_assert_eq!(merged([&one, &two]), merged([&two, &one]));
        let left = merged([&merged([&one, &two]), &whole]);
        prop_assert_eq!(&left, &merged([&one, &merged([&two, &whole])]));
        prop_assert_eq!(&left, &merged([&whole, &two, &one, &two]));
    }

    /// What everybody has read can be forgotten where `spent` says so, at any cut below it: nobody
    /// can tell the checkpoint and the rest from the whole.
    #[test]
    fn a_checkpoint_and_the_rest_mean_the_whole(
        before in prop::collection::vec(acts(), 1..50),
        after in prop::collection::vec(acts(), 1..30),
        (cut, read) in (indices(3), indices(3)),
    ) {
        let ground = Ground::two_sites();
        let acts: Vec<Act> = everybody_reads(before).chain(after).collect();
        let all = history_of(&ground, &acts);
        let (entries, stable) = (all.entries, all.met.expect("everybody read once"));

        // A node has read what everybody had read then, and any part of what came after.
        let known = part(&heads(&entries), &read);
        let met = |e: &&Entry| within(&stable, e);
        let (here, later): (Vec<&Entry>, Vec<&Entry>) =
            entries.iter().partition(|e| met(e) || within(&known, e));
        let cut = part(&stable, &cut);
        let mut small = fold(here.iter().copied());
        let spent = spent(&small, &cut, LATE);
        small.forget(&spent);

        // What it keeps of the entries is all that it needs to start again.
        let places = kept(&small, here.iter().copied());
        let mut again = fold(places.iter().map(|at| here[*at]));
        again.cover(&spent.checkpoint);
        prop_assert_eq!(&again, &small);

        for entry in later {
            small.join(entry);
            again.join(entry);
        }
        prop_assert_eq!(&again, &small);
        let whole = fold(&entries);
        prop_assert_eq!(meaning(&ground, &small), meaning(&ground, &whole));
        prop_assert_eq!(&small, &merged([&whole, &small]));
        for task in &spent.tasks {
            prop_assert!(whole.knows(task) && !small.knows(task));
        }
    }
}

/// At the end of these acts both sites have read everything.
fn everybody_reads(acts: Vec<Act>) -> impl Iterator<Item = Act> {
    acts.into_iter().chain([Act::Meet])
}

/// A service that is moved to and fro leaves its last moves and nothing else.
#[test]
fn what_was_decided_anew_is_forgotten() {
    let ground = Ground::two_sites();
    let advance = || (0..12).map(|_| Act::Advance { at: 0, nodes: Nodes::Done });
    let mut acts = Vec::new();
    for turn in 0..20usize {
        let order = Order::Failover { service: 2, to: 1 - turn % 2 };
        acts.push(Act::Order { at: 0, operator: 1, order, supersede: false });
        acts.push(Act::Wish { at: 0, operator: 0, task: 0, approve: true });
        acts.extend(advance());
    }
    acts.push(Act::Meet);
    let all = history_of(&ground, &acts);
    let mut small = fold(&all.entries);
    let done = small.commands().count();
    assert!(done >= 15, "{done} moves");
    let early = spent(&small, &all.met.clone().expect("met"), WallMs(1_000_000));
    assert_eq!(early.tasks, BTreeSet::new(), "who sends a command again gets its answer");
    let spent = spent(&small, &all.met.expect("met"), LATE);
    small.forget(&spent);
    assert_eq!(small.commands().count(), 1, "the last of {done} moves counts");
    let places = kept(&small, &all.entries);
    assert!(places.len() * 8 < all.entries.len(), "{} of {}", places.len(), all.entries.len());
    assert_eq!(meaning(&ground, &small), meaning(&ground, &fold(&all.entries)));
}
