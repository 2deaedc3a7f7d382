//! The table beside a map of the standard library, through growth, removal and sharing.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::sample::{answers, fabric, weighted};
use crate::topology::Topology;

type Model = BTreeMap<Box<[u8]>, u64>;

/// The bytes of name number N.
fn prepared(n: u32, epoch: u64, bytes: &mut Vec<u8>) -> Arc<Details> {
    let mut answers = answers(&format!("p/e{}/s{n}", n % 3), weighted(&[("osl", 1)]));
    answers.epoch = nett_policy::id::Epoch(epoch);
    Details::prepare(&Arc::new(answers), &Topology::new(&fabric(), None), bytes)
        .expect("a valid name")
}

fn key(n: u32) -> Box<[u8]> {
    let mut bytes = Vec::new();
    prepared(n, 0, &mut bytes);
    Packed::at(&bytes).key().into()
}

fn view(table: &Table) -> Model {
    table.entries().map(|e| (e.key().into(), e.answers().epoch.0)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn it_is_a_map_whose_snapshots_do_not_change(
        steps in prop::collection::vec(
            prop::collection::btree_map(0u32..60, prop::bool::weighted(0.6), 1..20),
            1..20,
        ),
    ) {
        let mut table = Table::new();
        let mut model = Model::new();
        let mut earlier = Vec::new();
        for (epoch, step) in (0u64..).zip(&steps) {
            earlier.push((table.clone(), model.clone()));
            let (mut bytes, mut changes) = (Vec::new(), Vec::new());
            for (n, put) in step {
                let at = bytes.len();
                let details = prepared(*n, epoch, &mut bytes);
                changes.push(table.change(&bytes, at, put.then_some(details)));
                match put {
                    true => model.insert(key(*n), epoch),
                    false => model.remove(&key(*n)),
                };
            }
            table.apply(changes, &bytes);
        }
        prop_assert_eq!(table.len(), model.len());
        for n in 0..60 {
            let found = table.get(&key(n)).map(|e| e.answers().epoch.0);
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
    let mut bytes = Vec::new();
    let all: Vec<(usize, Arc<Details>)> =
        (0..100).map(|n| (bytes.len(), prepared(n, 0, &mut bytes))).collect();
    for low in [0, 6, u32::MAX] {
        let change = |n: usize, put: bool| {
            let (at, details) = &all[n];
            let hash = Hash { group: 0, part: 0, low };
            Change { hash, at: *at, details: put.then(|| Arc::clone(details)) }
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
        for (n, (at, _)) in all.iter().enumerate() {
            let key = Packed::at(&bytes[*at..]).key();
            let slot = find(&part.slots, &part.bytes, low, key);
            assert_eq!(part.slots[slot].at().is_some(), n % 3 != 0);
        }
    }
}
