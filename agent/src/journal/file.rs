//! The journal as a file.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{Journal, Loaded, Record};

/// First words of the file; a check over them follows.
const HEADER: &str = "nett-journal 2";
/// What every release's header begins with.
const NAME: &str = "nett-journal ";

/// All of these are for the operator: the disk, the path or its permissions.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("cannot {action} the journal {path}: is the state directory writable and not full?")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "{path} begins with `{found}`: another release wrote it; move it away, or use that one"
    )]
    Header { path: PathBuf, found: String },
    #[error("the journal's writer is gone")]
    Closed,
}

pub struct FileJournal {
    path: PathBuf,
    file: File,
    /// Bytes of whole records, the header included.
    length: u64,
    /// How many records were ever synced, in a file of its own.
    count: Count,
}

/// The first line of a journal.
#[derive(Debug, PartialEq, Eq)]
enum Head {
    /// Ours; so many bytes.
    Good(usize),
    /// Nothing, or the beginning of ours: nothing was ever recorded.
    Empty,
    /// Whole, and of another release.
    Other(String),
    Damaged,
}

// === impl FileJournal ===

impl FileJournal {
    /// Opens or creates `journal` in the state directory.
    pub fn open(state_dir: &Path) -> Result<Self, JournalError> {
        Self::open_named(state_dir, "journal")
    }

    /// Opens or creates a journal of that name.
    pub fn open_named(state_dir: &Path, name: &str) -> Result<Self, JournalError> {
        let path = state_dir.join(name);
        let io = |action| {
            let path = path.clone();
            move |source| JournalError::Io { action, path, source }
        };
        fs::create_dir_all(state_dir).map_err(io("create the directory of"))?;
        let file = open(&path).map_err(io("open"))?;
        sync_dir(&path).map_err(io("sync the directory of"))?;
        let count = Count { path: path.with_extension("count"), value: 0, floor: 0 };
        Ok(Self { path, file, length: 0, count })
    }

    fn io(&self, action: &'static str, source: std::io::Error) -> JournalError {
        JournalError::Io { action, path: self.path.clone(), source }
    }

    fn read_all(&mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write_synced(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)?;
        self.file.sync_data()
    }

    /// A journal with the header alone.
    fn begin(&mut self) -> Result<(), JournalError> {
        self.file.set_len(0).map_err(|e| self.io("truncate", e))?;
        let header = header();
        self.write_synced(header.as_bytes()).map_err(|e| self.io("write", e))?;
        self.length = size(header.len());
        Ok(())
    }

    /// Puts the damaged file aside, for whoever wants to look at it, and what is whole of it in its
    /// place.
    fn begin_anew(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let aside = self.path.with_extension("damaged");
        fs::copy(&self.path, &aside).map_err(|e| self.io("put aside", e))?;
        let beside = self.path.with_extension("new");
        let mut bytes = header().into_bytes();
        bytes.extend(records.iter().flat_map(line));
        let write = || -> std::io::Result<File> {
            let mut file = File::create(&beside)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&beside, &self.path)?;
            sync_dir(&self.path)?;
            open(&self.path)
        };
        self.file = write().map_err(|e| self.io("write anew", e))?;
        self.length = size(bytes.len());
        Ok(())
    }

    fn cut(&mut self, loaded: &Loaded, whole: usize) -> Result<(), JournalError> {
        self.length = size(whole) - loaded.torn;
        if loaded.torn > 0 {
            self.file.set_len(self.length).map_err(|e| self.io("truncate", e))?;
            self.file.sync_data().map_err(|e| self.io("sync", e))?;
        }
        Ok(())
    }
}

impl Journal for FileJournal {
    fn load(&mut self) -> Result<Loaded, JournalError> {
        let bytes = self.read_all().map_err(|e| self.io("read", e))?;
        let counted = self.count.read();
        let mut loaded = match head(&bytes) {
            Head::Empty => {
                self.begin()?;
                Loaded { fresh: true, ..Loaded::default() }
            }
            Head::Other(found) => {
                return Err(JournalError::Header { path: self.path.clone(), found });
            }
            Head::Good(length) => {
                let loaded = parse(&bytes[length..]);
                self.cut(&loaded, bytes.len())?;
                loaded
            }
            Head::Damaged => {
                let mut loaded = parse(&bytes);
                loaded.damaged.insert(0, 1);
                // What looks like a torn tail may be anything here.
                loaded.torn = 0;
                self.begin_anew(&loaded.records)?;
                loaded
            }
        };
        let found = size(loaded.records.len()) + size(loaded.damaged.len());
        loaded.missing = counted.saturating_sub(found);
        self.count.write(size(loaded.records.len()));
        Ok(loaded)
    }

    fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let lines: Vec<u8> = records.iter().flat_map(line).collect();
        if let Err(error) = self.write_synced(&lines) {
            // A part of them must not stand before the next one. When the disk does not even
            // take that, the next start finds a damaged line, and says so.
            let _ = self.file.set_len(self.length);
            // The agent may act on it all the same: a start before it is kept must know.
            self.count.owe();
            return Err(self.io("write", error));
        }
        self.length += size(lines.len());
        self.count.write(self.count.value + size(records.len()));
        Ok(())
    }

    fn records(&mut self) -> Result<Vec<Record>, JournalError> {
        let bytes = self.read_all().map_err(|e| self.io("read", e))?;
        Ok(match head(&bytes) {
            Head::Good(length) => parse(&bytes[length..]).records,
            Head::Empty | Head::Other(_) | Head::Damaged => Vec::new(),
        })
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).open(path)
}

fn sync_dir(path: &Path) -> std::io::Result<()> {
    let dir = path.parent().expect("a file in a directory");
    File::open(dir)?.sync_all()
}

fn size(length: usize) -> u64 {
    u64::try_from(length).expect("what fits in memory")
}

/// The header with its check, as a line.
fn header() -> String {
    format!("{HEADER} {:08x}\n", crc32c::crc32c(HEADER.as_bytes()))
}

fn head(bytes: &[u8]) -> Head {
    let header = header();
    if bytes.starts_with(header.as_bytes()) {
        return Head::Good(header.len());
    }
    if header.as_bytes().starts_with(bytes) {
        return Head::Empty;
    }
    let first = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let text = String::from_utf8_lossy(first);
    let checked = text.rsplit_once(' ').is_some_and(|(words, check)| {
        words.starts_with(NAME) && check == format!("{:08x}", crc32c::crc32c(words.as_bytes()))
    });
    // The first format had no check.
    if checked || text == "nett-journal 1" {
        return Head::Other(text.chars().take(40).collect());
    }
    Head::Damaged
}

/// How many records the journal has ever taken. Written after each and not synced: what it says is
/// never more than what was synced, and mostly that. A journal with fewer was cut off cleanly, or
/// comes from a backup.
struct Count {
    path: PathBuf,
    value: u64,
    /// What was counted at the last start: while records are missing, their number stands.
    floor: u64,
}

impl Count {
    fn read(&mut self) -> u64 {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let counted = text.trim_end().split_once(' ').and_then(|(count, check)| {
            let good = check == format!("{:08x}", crc32c::crc32c(count.as_bytes()));
            count.parse().ok().filter(|_| good)
        });
        self.floor = counted.unwrap_or(0);
        self.floor
    }

    /// A record that the disk did not take counts as missing until it is there.
    fn owe(&mut self) {
        self.floor = self.floor.max(self.value + 1);
        self.write(self.value);
    }

    /// Without it a clean cut is not noticed; nothing else depends on it. Always of one length and
    /// written in place, which a full disk takes too.
    fn write(&mut self, value: u64) {
        self.value = value;
        let text = format!("{:020}", value.max(self.floor));
        let text = format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes()));
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&self.path);
        let _ = file.and_then(|mut file| file.write_all(text.as_bytes()));
    }
}

/// A record as one line, with its line break.
pub(super) fn line(record: &Record) -> Vec<u8> {
    let mut rest = record.stream_seq.to_string().into_bytes();
    rest.push(b' ');
    rest.extend_from_slice(&record.bytes);
    let mut line = format!("{:08x} ", crc32c::crc32c(&rest)).into_bytes();
    line.append(&mut rest);
    line.push(b'\n');
    line
}

/// The lines after the header. Only what follows the last good line may be torn.
pub(super) fn parse(body: &[u8]) -> Loaded {
    let mut loaded = Loaded::default();
    let mut tail_damage: Vec<u64> = Vec::new();
    let mut tail_bytes = 0u64;
    for (piece, number) in body.split_inclusive(|b| *b == b'\n').zip(2u64..) {
        match piece.strip_suffix(b"\n").and_then(record) {
            Some(record) => {
                loaded.damaged.append(&mut tail_damage);
                tail_bytes = 0;
                loaded.records.push(record);
            }
            None => {
                tail_damage.push(number);
                tail_bytes += size(piece.len());
            }
        }
    }
    loaded.torn = tail_bytes;
    loaded
}

fn record(line: &[u8]) -> Option<Record> {
    let (crc, rest) = (line.get(..8)?, line.get(9..)?);
    if line[8] != b' ' {
        return None;
    }
    let crc = u32::from_str_radix(std::str::from_utf8(crc).ok()?, 16).ok()?;
    if crc != crc32c::crc32c(rest) {
        return None;
    }
    let space = rest.iter().position(|b| *b == b' ')?;
    let stream_seq = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
    Some(Record { stream_seq, bytes: rest[space + 1..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_the_disk_did_not_take_is_missing_after_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let record = |stream_seq| Record { stream_seq, bytes: b"{}".to_vec() };
        let open = || FileJournal::open(dir.path()).expect("opens");
        let mut journal = open();
        journal.load().expect("loads");
        journal.append(&[record(1)]).expect("the disk has room");
        let good = std::mem::replace(
            &mut journal.file,
            File::open(dir.path().join("journal")).expect("opens"),
        );
        journal.append(&[record(2)]).expect_err("nothing can be written to it");
        drop(journal);

        let mut after = open();
        let loaded = after.load().expect("loads");
        assert_eq!((loaded.records.len(), loaded.missing), (1, 1));
        assert!(!loaded.is_whole());
        // Once it is there after all, nothing is missing any more.
        after.append(&[record(2)]).expect("the disk has room");
        drop((after, good));
        assert!(open().load().expect("loads").is_whole());
    }
}
