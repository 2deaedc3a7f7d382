//! A backup is taken in whole, or not at all and with a reason.

mod bus_fixture;

use bus_fixture::{OSL_B1, SVG_B1, command_body, draft, fabric, id, key};
use nett_agent::bus::wire::{Head, Sealed};
use nett_agent::journal::{FileJournal, Journal, JournalWriter, Record, Saved, SavedHead};
use nett_agent::rescue::{RestoreError, Restored, from_text, judge, to_text};
use nett_policy::id::{Generation, sha256_hex};
use nett_policy::roster::Rosters;

/// A log of so many entries of one site, each behind the one before, as a journal keeps it.
fn log(site: &str, boot: &str, length: u64) -> Vec<Record> {
    let (node, number) = if site == "osl" { ("osl-b1", OSL_B1) } else { ("svg-b1", SVG_B1) };
    let mut prev_hash = String::new();
    let mut records = Vec::new();
    for seq in 1..=length {
        let (body, verbatim) = command_body(site, u32::try_from(seq).expect("short"));
        let mut draft = draft(site, node, seq, body, Some(verbatim));
        draft.prev_hash.clone_from(&prev_hash);
        boot.clone_into(&mut draft.boot);
        let sealed = Sealed::seal(draft, &key(number)).expect("the node's key signs");
        prev_hash.clone_from(&sealed.entry.position.hash);
        records.push(Record { stream_seq: seq, bytes: sealed.bytes.to_vec() });
    }
    records
}

fn both(osl: u64, svg: u64) -> Vec<Record> {
    [log("osl", "a", osl), log("svg", "b", svg)].concat()
}

fn take(present: &[Record], backup: &[Record]) -> Result<Restored, RestoreError> {
    let text = to_text(backup);
    judge(present, (&text, &sha256_hex(text.as_bytes())), &Rosters::from(&fabric()))
}

#[test]
fn a_node_with_nothing_gets_everything() {
    let backup = both(5, 3);
    assert_eq!(from_text(&to_text(&backup)).expect("records"), backup);
    let restored = take(&[], &backup).expect("taken in");
    assert_eq!((restored.records, restored.new), (backup, 8));
    let heads: Vec<(String, u64)> =
        restored.heads.into_iter().map(|(site, seq)| (site.to_string(), seq)).collect();
    assert_eq!(heads, [("osl".to_owned(), 5), ("svg".to_owned(), 3)]);
}

#[test]
fn what_is_there_stays_and_is_not_doubled() {
    // Newer in one log and older in the other.
    let restored = take(&both(2, 6), &both(5, 3)).expect("osl is newer in it");
    assert_eq!(restored.new, 3);
    assert_eq!(restored.records.len(), 11);
    for record in both(5, 6) {
        assert!(restored.records.contains(&record));
    }
}

#[test]
fn an_older_backup_is_refused() {
    for present in [both(5, 3), both(6, 3), both(9, 9)] {
        let refused = take(&present, &both(5, 3)).expect_err("nothing is new");
        assert!(matches!(refused, RestoreError::Older { .. }), "{refused}");
        assert!(refused.to_string().contains("osl 5, svg 3"), "{refused}");
    }
}

#[test]
fn a_damaged_backup_is_refused() {
    let backup = both(5, 3);
    let text = to_text(&backup);
    let hash = sha256_hex(text.as_bytes());
    let rosters = Rosters::from(&fabric());
    let judge = |text: &str, hash: &str| judge(&[], (text, hash), &rosters).expect_err("damaged");
    for at in (0..text.len() - 1).step_by(97) {
        let Some(changed) =
            text.get(..at).and_then(|a| Some([a, "#", text.get(at + 1..)?].concat()))
        else {
            continue;
        };
        assert!(matches!(judge(&changed, &hash), RestoreError::Damaged(_)), "byte {at}");
        // Whoever makes a hash anew has to sign anew, too.
        let own = sha256_hex(changed.as_bytes());
        let refused = judge(&changed, &own);
        let named = matches!(refused, RestoreError::Damaged(_) | RestoreError::Entry { .. });
        assert!(named, "byte {at}: {refused}");
    }
    let mut hole = backup;
    hole.remove(2);
    assert!(matches!(take(&[], &hole), Err(RestoreError::Damaged(_))));
}

#[test]
fn another_fabric_or_another_log_is_refused() {
    let refused = take(&both(2, 2), &log("osl", "began anew", 9)).expect_err("another incarnation");
    assert!(matches!(&refused, RestoreError::Incarnation { site, .. } if *site == id("osl")));
    let mut other = fabric();
    (other.generation, other.hash) = (Generation(13), "another".to_owned());
    let text = to_text(&both(2, 2));
    let rosters = Rosters::from(&other);
    let refused = judge(&[], (&text, &sha256_hex(text.as_bytes())), &rosters);
    assert!(matches!(refused, Err(RestoreError::Entry { place: 1, .. })), "{refused:?}");
}

/// A backup of a journal that was made smaller is as good as the whole one.
#[test]
fn a_backup_with_a_checkpoint_is_taken_in() {
    let whole = both(5, 3);
    let last = Sealed::open_stored(&whole[3].bytes, &fabric()).expect("an entry").entry;
    let (boot, seq, hash) = ("a".to_owned(), 4, last.position.hash);
    let head = SavedHead { head: Head { boot, seq, hash }, stream_seq: 4 };
    let saved = Saved { heads: [(id("osl"), head)].into(), ..Saved::default() };
    // Of the covered entries the second one was kept.
    let small = [&[saved.record()], &whole[1..2], &whole[4..]].concat();
    let restored = take(&[], &small).expect("taken in");
    assert_eq!(restored.records, small);
    let restored = take(&both(2, 1), &small).expect("taken in");
    assert_eq!(restored.records[0], saved.record());
    assert_eq!(restored.heads[&id("osl")], 5);
    // What the checkpoint has forgotten would be open for ever: the end of it is nowhere.
    assert!(!restored.records.contains(&whole[0]), "the first one was forgotten");
    for record in [&whole[1], &whole[4], &both(2, 1)[2]] {
        assert!(restored.records.contains(record));
    }
    assert_eq!(restored.records.len(), small.len());
    // And the other way round: an old backup does not bring back what has ended here since.
    let [old, other] = [log("osl", "a", 3), log("svg", "b", 4)];
    let restored = take(&small, &[old.clone(), other.clone()].concat()).expect("svg is newer");
    assert!(!restored.records.contains(&old[0]) && !restored.records.contains(&old[2]));
    assert_eq!(restored.records.len(), small.len() + 1);
    assert!(matches!(take(&both(5, 3), &small), Err(RestoreError::Older { .. })));
}

#[tokio::test]
async fn a_restored_journal_is_not_taken_for_whole_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = || FileJournal::open(dir.path()).expect("opens");
    let mut journal = open();
    journal.load().expect("loads");
    let writer = JournalWriter::spawn(Box::new(journal)).expect("a thread");
    writer.append(both(2, 1)).await.expect("kept");
    let refused = writer.restore(|present| take(present, &both(1, 1))).await.expect("answers");
    assert!(matches!(refused, Err(RestoreError::Older { .. })));
    let restored = writer.restore(|present| take(present, &both(5, 3))).await.expect("answers");
    assert_eq!(restored.expect("taken in").new, 5);
    drop(writer);
    let loaded = open().load().expect("loads");
    assert_eq!(loaded.records.len(), 8);
    assert!(!loaded.is_whole(), "the logs may have gone on since");
}
