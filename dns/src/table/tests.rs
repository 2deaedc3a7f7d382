//! The table beside a map of the standard library, through growth, removal and sharing.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::sample::{answers, fabric, weighted};
use crate::topology::Topology;

fn entry(n: u32, epoch: u64) -> Entry {
    let mut answers = answers(&format!("p/e{}/s{n}", n % 3), weighted(&[("osl", 1)]));
    answers.epoch = nett_policy::id::Epoch(epoch);
    Entry::new(&answers, &Topology::new(&fabric(), None)).expect("a valid name")
}

fn view(table: &Table) -> BTreeMap<Box<[u8]>, u64> {
    table.entries().map(|e| (e.key().into(), e.answers().epoch.0)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    #[test]
    fn it_is_a_map_whose_snapshots_do_not_change(
        steps in prop::collection::vec((0u32..60, prop::bool::weighted(0.6)), 1..300),
    ) {
        let mut table = Table::new();
        let mut model: BTreeMap<Box<[u8]>, u64> = BTreeMap::new();
        let mut earlier = None;
        for (at, (n, put)) in steps.iter().enumerate() {
            let epoch = at as u64;
            let new = entry(*n, epoch);
            let key: Box<[u8]> = new.key().into();
            if *put {
                table.insert(new);
                model.insert(key, epoch);
            } else {
                table.remove(&key);
                model.remove(&key);
            }
            if at == steps.len() / 2 {
                earlier = Some((table.clone(), model.clone()));
            }
        }
        prop_assert_eq!(table.len(), model.len());
        for n in 0..60 {
            let key: Box<[u8]> = entry(n, 0).key().into();
            let found = table.get(&key).map(|e| e.answers().epoch.0);
            prop_assert_eq!(found, model.get(&key).copied());
        }
        let (old, old_model) = earlier.expect("half way");
        prop_assert_eq!(view(&old), old_model);
        prop_assert_eq!(view(&table), model);
    }
}

/// All in one part: growth, wrapping round the end and removal from the middle of a run.
#[test]
fn a_full_part_grows_and_a_removal_leaves_no_hole_in_a_run() {
    let entries: Vec<Entry> = (0..100).map(|n| entry(n, 0)).collect();
    for low in [0, 6, u32::MAX] {
        let mut part = Part::with_room(0);
        for (count, entry) in entries.iter().enumerate() {
            assert!(part.put(low, entry.clone()));
            assert!(!part.put(low, entry.clone()));
            assert!(part.slots.iter().any(Option::is_none), "a search must end");
            assert_eq!(part.taken, count + 1);
        }
        assert!(!part.take(low, b"\x01x"));
        for gone in (0..100).step_by(3) {
            assert!(part.take(low, entries[gone].key()));
        }
        for (n, entry) in entries.iter().enumerate() {
            let at = find(&part.slots, low, entry.key());
            let key = part.slots[at].as_ref().map(|(_, e)| e.key());
            assert_eq!(key, (n % 3 != 0).then_some(entry.key()));
        }
    }
}
