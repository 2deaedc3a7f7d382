//! The journal file after crashes and damage.

use proptest::prelude::*;

use super::file::{line, parse};
use super::{FileJournal, Journal, JournalError, Record};

fn record(stream_seq: u64, text: &str) -> Record {
    Record { stream_seq, bytes: text.as_bytes().to_vec() }
}

#[test]
fn what_was_appended_is_loaded() {
    let dir = tempfile::tempdir().expect("a directory");
    let records = vec![record(1, "{\"a\":1}"), record(2, "{}")];
    let mut journal = FileJournal::open(dir.path()).expect("opens");
    assert_eq!(journal.load().expect("loads").records, []);
    records.iter().for_each(|r| journal.append(r).expect("appends"));
    let mut again = FileJournal::open(dir.path()).expect("opens");
    assert_eq!(again.load().expect("loads").records, records);
}

#[test]
fn a_torn_tail_is_cut_and_appending_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut journal = FileJournal::open(dir.path()).expect("opens");
    journal.load().expect("loads");
    journal.append(&record(1, "one")).expect("appends");
    journal.append(&record(2, "two")).expect("appends");
    let path = dir.path().join("journal");
    let whole = std::fs::read(&path).expect("reads");
    std::fs::write(&path, &whole[..whole.len() - 2]).expect("writes");

    let mut torn = FileJournal::open(dir.path()).expect("opens");
    let loaded = torn.load().expect("loads");
    assert_eq!(loaded.records, [record(1, "one")]);
    assert!(loaded.torn > 0);
    torn.append(&record(2, "two again")).expect("appends");
    let mut again = FileJournal::open(dir.path()).expect("opens");
    let loaded = again.load().expect("loads");
    assert_eq!(loaded.records, [record(1, "one"), record(2, "two again")]);
    assert_eq!((loaded.torn, loaded.damaged), (0, vec![]));
}

#[test]
fn another_format_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("journal");
    std::fs::write(&path, "nett-journal 2\nwhatever\n").expect("writes");
    let mut journal = FileJournal::open(dir.path()).expect("opens");
    assert!(matches!(journal.load(), Err(JournalError::Header { .. })));
    assert_eq!(std::fs::read(&path).expect("reads"), b"nett-journal 2\nwhatever\n");
}

proptest! {
    /// One flipped bit anywhere loses at most the line it is in, and never invents a record.
    #[test]
    fn a_flipped_bit_loses_one_line(at in 0usize..200, bit in 0u8..8) {
        let records: Vec<Record> =
            (1..=5).map(|n| record(n, &format!("{{\"entry\":{n},\"text\":\"abcdef\"}}"))).collect();
        let mut body: Vec<u8> = records.iter().flat_map(line).collect();
        let at = at % body.len();
        body[at] ^= 1 << bit;
        let loaded = parse(&body);
        prop_assert!(loaded.records.len() >= 3, "a broken line break joins two lines");
        for found in &loaded.records {
            prop_assert!(records.contains(found));
        }
        prop_assert!(!loaded.damaged.is_empty() || loaded.torn > 0 || loaded.records == records);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        parse(&bytes);
    }
}
