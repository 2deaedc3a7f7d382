//! The table beside a map of the standard library, through growth, removal and sharing.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::sample::{answers, fabric, weighted};
use crate::topology::Topology;

type Model = BTreeMap<Box<[u8]>, (u64, Option<usize>)>;

fn topology() -> Topology {
    Topology::new(&fabric(), None)
}

/// What becomes of a name in a test.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// To the site at this place.
    Put(usize),
    /// As `Put`, with other records than before.
    Anew(usize),
    Remove,
}

/// The answers of name number N at the site at this place.
fn at(n: u32, site: usize, epoch: u64) -> ServiceAnswers {
    let site = ["osl", "sto", "fra"][site];
    let mut answers = answers(&format!("p/e{}/s{n}", n % 3), weighted(&[(site, 1)]));
    answers.epoch = nett_policy::id::Epoch(epoch);
    answers
}

fn key(n: u32) -> Box<[u8]> {
    let mut key = Vec::new();
    crate::name::push_key(&at(n, 0, 0).fixed.service, &mut key);
    key.into()
}

fn view(table: &Table) -> Model {
    table.entries().map(|e| (e.key().into(), (e.epoch().0, e.only()))).collect()
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0usize..3).prop_map(Step::Put),
        1 => (0usize..3).prop_map(Step::Anew),
        2 => Just(Step::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn it_is_a_map_whose_snapshots_do_not_change(
        steps in prop::collection::vec(
            prop::collection::btree_map(0u32..60, step(), 1..20),
            1..20,
        ),
    ) {
        let (mut table, topology) = (Table::new(), topology());
        let (mut model, mut fixed) = (Model::new(), BTreeMap::new());
        let mut earlier = Vec::new();
        for (epoch, step) in (0u64..).zip(&steps) {
            earlier.push((table.clone(), model.clone()));
            let (mut bytes, mut changes) = (Vec::new(), Vec::new());
            let mut steerings = Steerings::default();
            for (n, step) in step {
                let (key, slot) = (key(*n), fixed.entry(*n));
                let (Step::Put(site) | Step::Anew(site)) = *step else {
                    changes.push(table.remove((table.hash(&key), &key), &mut bytes));
                    model.remove(&key);
                    continue;
                };
                let mut answers = at(*n, site, epoch);
                match step {
                    Step::Anew(_) => drop(slot.insert_entry(answers.fixed)),
                    _ => drop(slot.or_insert(answers.fixed)),
                }
                answers.fixed = Arc::clone(&fixed[n]);
                let (named, with) = ((table.hash(&key), &*key), (&mut steerings, &topology));
                changes.push(table.put(named, &answers, with, &mut bytes));
                model.insert(key, (epoch, Some(site)));
            }
            table.apply(changes, &bytes);
        }
        prop_assert_eq!(table.len(), model.len());
        for n in 0..60 {
            let found = table.get(&key(n)).map(|e| (e.epoch().0, e.only()));
            prop_assert_eq!(found, model.get(&key(n)).copied());
        }
        for (old, old_model) in earlier {
            prop_assert_eq!(view(&old), old_model);
        }
        prop_assert_eq!(view(&table), model);
    }
}

/// All in one run: growth, wrapping round the end and removal from the middle.
#[test]
fn names_of_one_hash_are_told_apart() {
    let (mut bytes, topology) = (Vec::new(), topology());
    let put = |n: u32| {
        let (begin, answers) = (bytes.len(), at(n, 0, 0));
        let (table, key) = (Table::new(), key(n));
        let with = (&mut Steerings::default(), &topology);
        let made = table.put((table.hash(&key), &key), &answers, with, &mut bytes);
        let What::Put { at: _, fixed, bearing } = made.what else { panic!("a new name") };
        (begin, fixed, bearing)
    };
    let all: Vec<(usize, Arc<FixedAnswers>, Bearing)> = (0..100).map(put).collect();
    for low in [0, 6, u32::MAX] {
        let change = |n: usize, put: bool| {
            let (at, fixed, bearing) = all[n].clone();
            let hash = Hash { group: 0, part: 0, low };
            let what = match put {
                true => What::Put { at, fixed, bearing },
                false => What::Remove { at },
            };
            Change { hash, what }
        };
        let mut part = Part::of(&[], &[]);
        for n in 0..100 {
            part = part.with(&[change(n, true)], &bytes);
            part = part.with(&[change(n, true)], &bytes);
            assert!(part.slots.iter().any(|s| s.at().is_none()), "a search must end");
            assert_eq!(part.slots.iter().filter(|s| s.at().is_some()).count(), n + 1);
        }
        let gone: Vec<Change> = (0..100).step_by(3).map(|n| change(n, false)).collect();
        part = part.with(&gone, &bytes);
        for (n, (at, ..)) in all.iter().enumerate() {
            let key = Packed::at(&bytes[*at..]).key();
            let slot = find(&part.slots, &part.bytes, low, key);
            assert_eq!(part.slots[slot].at().is_some(), n % 3 != 0);
        }
    }
}
