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
    journal.append(&records).expect("appends");
    let mut again = FileJournal::open(dir.path()).expect("opens");
    assert_eq!(again.load().expect("loads").records, records);
}

#[test]
fn a_torn_tail_is_cut_and_appending_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut journal = FileJournal::open(dir.path()).expect("opens");
    journal.load().expect("loads");
    journal.append(&[record(1, "one")]).expect("appends");
    journal.append(&[record(2, "two")]).expect("appends");
    let path = dir.path().join("journal");
    let whole = std::fs::read(&path).expect("reads");
    std::fs::write(&path, &whole[..whole.len() - 2]).expect("writes");

    let mut torn = FileJournal::open(dir.path()).expect("opens");
    let loaded = torn.load().expect("loads");
    assert_eq!(loaded.records, [record(1, "one")]);
    assert!(loaded.torn > 0);
    torn.append(&[record(2, "two again")]).expect("appends");
    let mut again = FileJournal::open(dir.path()).expect("opens");
    let loaded = again.load().expect("loads");
    assert_eq!(loaded.records, [record(1, "one"), record(2, "two again")]);
    assert_eq!((loaded.torn, loaded.damaged), (0, vec![]));
}

#[test]
fn another_format_is_refused_and_left_alone() {
    let check = format!("{:08x}", crc32c::crc32c(b"nett-journal 3"));
    for text in ["nett-journal 1\nwhatever\n".to_owned(), format!("nett-journal 3 {check}\nnew\n")]
    {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("journal");
        std::fs::write(&path, &text).expect("writes");
        let mut journal = FileJournal::open(dir.path()).expect("opens");
        assert!(matches!(journal.load(), Err(JournalError::Header { .. })), "{text}");
        assert_eq!(std::fs::read(&path).expect("reads"), text.as_bytes());
    }
}

/// A journal of four records in a directory of its own.
fn four() -> (tempfile::TempDir, Vec<Record>) {
    let dir = tempfile::tempdir().expect("a directory");
    let records: Vec<Record> = (1..=4).map(|n| record(n, &format!("{{\"entry\":{n}}}"))).collect();
    let mut journal = FileJournal::open(dir.path()).expect("opens");
    journal.load().expect("loads");
    journal.append(&records).expect("appends");
    (dir, records)
}

/// Loads whatever is there; it never loses anything without a word, never refuses to start, and
/// goes on from what is left.
fn survives(dir: &std::path::Path, records: &[Record], what: &str) {
    let mut journal = FileJournal::open(dir).expect("opens");
    let loaded = journal.load().unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut rest = records.iter();
    let in_order = loaded.records.iter().all(|found| rest.any(|r| r == found));
    assert!(in_order, "{what}: only what was recorded, in order: {loaded:?}");
    assert!(loaded.records == records || !loaded.is_whole(), "{what}: lost in silence: {loaded:?}");
    let next = record(9, "next");
    journal.append(std::slice::from_ref(&next)).expect("appends");
    let mut again = FileJournal::open(dir).expect("opens");
    let reloaded = again.load().unwrap_or_else(|e| panic!("{what}, again: {e}"));
    assert_eq!(reloaded.records.last(), Some(&next), "{what}");
    assert_eq!(reloaded.records.len(), loaded.records.len() + 1, "{what}");
}

#[test]
fn every_flipped_bit_is_noticed_and_survived() {
    let (dir, records) = four();
    let path = dir.path().join("journal");
    let count = std::fs::read(dir.path().join("journal.count")).expect("reads");
    let whole = std::fs::read(&path).expect("reads");
    for at in 0..whole.len() {
        // Two bits of each byte, others each time: eight would take too long.
        for bit in [at % 8, (at + 3) % 8] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            std::fs::write(&path, &bytes).expect("writes");
            std::fs::write(dir.path().join("journal.count"), &count).expect("writes");
            survives(dir.path(), &records, &format!("bit {bit} of byte {at}"));
        }
    }
}

#[test]
fn every_cut_is_noticed_and_survived_also_between_two_lines() {
    let (dir, records) = four();
    let path = dir.path().join("journal");
    let count = std::fs::read(dir.path().join("journal.count")).expect("reads");
    let whole = std::fs::read(&path).expect("reads");
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).expect("writes");
        std::fs::write(dir.path().join("journal.count"), &count).expect("writes");
        survives(dir.path(), &records, &format!("cut to {length}"));
    }
}

#[test]
fn a_journal_that_is_gone_is_not_a_new_node() {
    let (dir, _) = four();
    std::fs::remove_file(dir.path().join("journal")).expect("removes");
    let loaded = FileJournal::open(dir.path()).expect("opens").load().expect("loads");
    assert_eq!((loaded.fresh, loaded.missing), (true, 4));
    let again = FileJournal::open(dir.path()).expect("opens").load().expect("loads");
    assert_eq!(again.missing, 4, "until as many were read again");
    let new = tempfile::tempdir().expect("a directory");
    let loaded = FileJournal::open(new.path()).expect("opens").load().expect("loads");
    assert_eq!((loaded.fresh, loaded.missing), (true, 0));
}

#[test]
fn a_record_that_was_never_synced_is_not_missed() {
    let (dir, records) = four();
    let path = dir.path().join("journal");
    let mut bytes = std::fs::read(&path).expect("reads");
    bytes.extend_from_slice(&line(&record(5, "half"))[..7]);
    std::fs::write(&path, bytes).expect("writes");
    let loaded = FileJournal::open(dir.path()).expect("opens").load().expect("loads");
    assert!(loaded.torn > 0 && loaded.is_whole(), "{loaded:?}");
    assert_eq!(loaded.records, records);
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
