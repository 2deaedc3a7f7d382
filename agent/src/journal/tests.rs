//! The journal file after crashes and damage.

use proptest::prelude::*;

use super::line::{line, parse};
use super::{FileJournal, Journal, JournalError, Record, SimulatedDisk};

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

/// A journal on a disk in memory.
fn on(disk: &SimulatedDisk) -> FileJournal {
    FileJournal::on(Box::new(disk.clone()), "simulated".into(), "journal")
}

/// A journal of two generations: six records, of which four were kept, and two behind them.
fn two_generations() -> (SimulatedDisk, Vec<Record>, Vec<Record>) {
    let disk = SimulatedDisk::default();
    let all: Vec<Record> = (1..=8).map(|n| record(n, &format!("{{\"entry\":{n}}}"))).collect();
    let mut journal = on(&disk);
    journal.load().expect("loads");
    journal.append(&all[..6]).expect("appends");
    let kept = [&[record(0, "{\"checkpoint\":1}")], &all[3..6]].concat();
    journal.rewrite(&kept).expect("writes anew");
    journal.append(&all[6..]).expect("appends");
    let present = [&kept, &all[6..]].concat();
    (disk, all, present)
}

fn file(disk: &SimulatedDisk, name: &str) -> Vec<u8> {
    super::Disk::read(disk, name).expect("reads").unwrap_or_default()
}

#[test]
fn a_journal_written_anew_is_loaded_as_it_is() {
    let (disk, _, present) = two_generations();
    let loaded = on(&disk).load().expect("loads");
    assert_eq!(loaded.records, present);
    assert!(loaded.is_whole(), "{loaded:?}");
    // And again.
    let mut journal = on(&disk);
    journal.load().expect("loads");
    journal.rewrite(&present[..2]).expect("writes anew");
    let loaded = on(&disk).load().expect("loads");
    assert_eq!((loaded.records.as_slice(), loaded.is_whole()), (&present[..2], true));
}

/// Whatever is wrong with the present generation: nothing of the one before is lost, it is said,
/// and the next start finds a journal that goes on.
fn falls_back(disk: &SimulatedDisk, all: &[Record], what: &str) {
    let mut journal = on(disk);
    let loaded = journal.load().unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(!loaded.is_whole(), "{what}: {loaded:?}");
    for before in &all[..6] {
        assert!(loaded.records.contains(before), "{what}: {before:?} is lost");
    }
    let next = record(9, "next");
    journal.append(std::slice::from_ref(&next)).expect("appends");
    let again = on(disk).load().unwrap_or_else(|e| panic!("{what}, again: {e}"));
    assert_eq!(again.records.last(), Some(&next), "{what}");
    assert_eq!(again.records.len(), loaded.records.len() + 1, "{what}");
    assert_eq!(
        (again.torn, again.damaged.as_slice(), again.previous),
        (0, &[][..], false),
        "{what}"
    );
}

#[test]
fn without_the_present_generation_the_one_before_is_taken() {
    for what in ["gone", "empty", "garbage", "of another release"] {
        let (disk, all, _) = two_generations();
        let check = crc32c::crc32c(b"nett-journal 9");
        let other = format!("nett-journal 9 {check:08x}\nwhatever\n");
        match what {
            "gone" => disk.remove("journal"),
            "empty" => disk.put("journal", b""),
            "garbage" => disk.put("journal", &[0; 300]),
            _ => disk.put("journal", other.as_bytes()),
        }
        falls_back(&disk, &all, what);
        if what == "of another release" {
            assert_eq!(file(&disk, "journal.damaged"), other.as_bytes(), "left as it was");
        }
    }
}

/// Every byte of the present generation, flipped, and every length: what is damaged is taken from
/// the generation before where that has it; a torn tail costs the tail and nothing else.
#[test]
fn every_flipped_bit_and_every_cut_of_a_generation_is_survived() {
    let (disk, all, present) = two_generations();
    let (whole, count) = (file(&disk, "journal"), file(&disk, "journal.count"));
    let before = file(&disk, "journal.previous");
    let lay = |bytes: &[u8]| {
        let disk = SimulatedDisk::default();
        disk.put("journal", bytes);
        disk.put("journal.count", &count);
        disk.put("journal.previous", &before);
        disk
    };
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let disk = lay(&bytes);
        let loaded = on(&disk).load().unwrap_or_else(|e| panic!("byte {at}: {e}"));
        let lost = present.iter().filter(|r| !loaded.records.contains(r)).count();
        assert!(lost <= 2, "byte {at}: {lost} lost, at most a line and the break before it");
        assert!(lost == 0 || !loaded.is_whole(), "byte {at}: lost in silence");
        if loaded.previous {
            assert!(all[..6].iter().all(|r| loaded.records.contains(r)), "byte {at}");
        }
    }
    for length in 0..whole.len() {
        let disk = lay(&whole[..length]);
        let loaded = on(&disk).load().unwrap_or_else(|e| panic!("cut to {length}: {e}"));
        assert!(!loaded.is_whole(), "cut to {length}: {loaded:?}");
        let header = whole.iter().position(|b| *b == b'\n').expect("a header");
        if length < header {
            assert!(loaded.previous, "cut to {length}");
        }
    }
}

#[test]
fn with_both_generations_bad_it_begins_anew_and_says_so() {
    for (journal, previous) in [(&b""[..], &b""[..]), (&[7; 90], &[9; 90]), (b"", &[0; 40])] {
        let (disk, _, _) = two_generations();
        disk.put("journal", journal);
        disk.put("journal.previous", previous);
        let mut journal = on(&disk);
        let loaded = journal.load().expect("starts all the same");
        assert_eq!(loaded.records, []);
        assert!(!loaded.is_whole(), "{loaded:?}");
        journal.append(&[record(1, "one")]).expect("appends");
        assert_eq!(on(&disk).load().expect("loads").records, [record(1, "one")]);
    }
}

/// Stops the process, or the machine, in each single operation on the disk: what was said to be
/// kept is there, and nothing that was never recorded.
#[test]
fn whatever_stops_it_what_was_kept_is_there() {
    let all: Vec<Record> = (1..=6).map(|n| record(n, &format!("{{\"entry\":{n}}}"))).collect();
    let small = vec![record(0, "{\"checkpoint\":1}"), all[2].clone()];
    for (power_lost, taken) in [(false, 0), (true, 0), (true, 60), (true, 100)] {
        for operation in 1.. {
            let disk = SimulatedDisk::default();
            disk.die_at(operation);
            // What was promised, and what was only tried.
            let (mut kept, mut tried) = (Vec::new(), Vec::new());
            let mut work = || -> Result<(), JournalError> {
                let mut journal = on(&disk);
                journal.load()?;
                for one in &all[..3] {
                    tried.push(one.clone());
                    journal.append(std::slice::from_ref(one))?;
                    kept.push(one.clone());
                }
                tried.extend(small.clone());
                journal.rewrite(&small)?;
                kept.clone_from(&small);
                for one in &all[3..] {
                    tried.push(one.clone());
                    journal.append(std::slice::from_ref(one))?;
                    kept.push(one.clone());
                }
                Ok(())
            };
            let finished = work().is_ok();
            disk.restart(power_lost, taken);
            let what = format!("operation {operation}, power lost {power_lost}, {taken} %");
            let loaded = on(&disk).load().unwrap_or_else(|e| panic!("{what}: {e}"));
            let has = |list: &[Record]| list.iter().all(|r| loaded.records.contains(r));
            // What is rewritten stands for what was before.
            assert!(has(&kept) || has(&small), "{what}: {:?} of {kept:?}", loaded.records);
            assert!(loaded.records.iter().all(|r| tried.contains(r)), "{what}: {loaded:?}");
            assert!(!loaded.previous, "{what}: there is always a whole one");
            if !loaded.is_whole() {
                // Only the very first operations leave something that looks like nothing.
                assert!(loaded.fresh || loaded.missing > 0, "{what}: {loaded:?}");
            }
            if finished {
                assert!(operation > 20, "{operation} operations are too few to be all");
                break;
            }
        }
    }
}

#[test]
fn a_record_that_the_disk_did_not_take_is_missing_after_a_restart() {
    let disk = SimulatedDisk::default();
    let mut journal = on(&disk);
    journal.load().expect("loads");
    journal.append(&[record(1, "{}")]).expect("the disk has room");
    disk.set_full(true);
    journal.append(&[record(2, "{}")]).expect_err("the disk is full");
    disk.set_full(false);

    let mut after = on(&disk);
    let loaded = after.load().expect("loads");
    assert_eq!((loaded.records.len(), loaded.missing), (1, 1));
    assert!(!loaded.is_whole());
    // Once it is there after all, nothing is missing any more.
    after.append(&[record(2, "{}")]).expect("the disk has room");
    assert!(on(&disk).load().expect("loads").is_whole());
}
