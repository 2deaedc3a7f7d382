//! The journal as a file.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{Journal, Loaded, Record};

/// First line of the file.
const HEADER: &[u8] = b"nett-journal 1\n";

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
    #[error("{path} begins with `{found}`, not with a header this release reads: move it away")]
    Header { path: PathBuf, found: String },
    #[error("the journal's writer is gone")]
    Closed,
}

pub struct FileJournal {
    path: PathBuf,
    file: File,
    /// Bytes of whole records, the header included.
    length: u64,
}

// === impl FileJournal ===

impl FileJournal {
    /// Opens or creates `journal` in the state directory.
    pub fn open(state_dir: &Path) -> Result<Self, JournalError> {
        let path = state_dir.join("journal");
        let io = |action| {
            let path = path.clone();
            move |source| JournalError::Io { action, path, source }
        };
        std::fs::create_dir_all(state_dir).map_err(io("create the directory of"))?;
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        let file = options.open(&path).map_err(io("open"))?;
        let directory = File::open(state_dir).map_err(io("open the directory of"))?;
        directory.sync_all().map_err(io("sync the directory of"))?;
        Ok(Self { path, file, length: 0 })
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
}

impl Journal for FileJournal {
    fn load(&mut self) -> Result<Loaded, JournalError> {
        let bytes = self.read_all().map_err(|e| self.io("read", e))?;
        if HEADER.starts_with(&bytes) {
            // Empty, or torn within the header: nothing was ever recorded.
            self.file.set_len(0).map_err(|e| self.io("truncate", e))?;
            self.write_synced(HEADER).map_err(|e| self.io("write", e))?;
            self.length = u64::try_from(HEADER.len()).expect("a short header");
            return Ok(Loaded { fresh: true, ..Loaded::default() });
        }
        let Some(body) = bytes.strip_prefix(HEADER) else {
            let first = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
            let found = String::from_utf8_lossy(&first[..first.len().min(40)]).into_owned();
            return Err(JournalError::Header { path: self.path.clone(), found });
        };
        let loaded = parse(body);
        self.length = u64::try_from(bytes.len()).expect("a file in memory") - loaded.torn;
        if loaded.torn > 0 {
            self.file.set_len(self.length).map_err(|e| self.io("truncate", e))?;
            self.file.sync_data().map_err(|e| self.io("sync", e))?;
        }
        Ok(loaded)
    }

    fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let line = line(record);
        if let Err(error) = self.write_synced(&line) {
            // A part of the line must not stand before the next one. When the disk does not even
            // take that, the next start finds a damaged line, and says so.
            let _ = self.file.set_len(self.length);
            return Err(self.io("write", error));
        }
        self.length += u64::try_from(line.len()).expect("a line in memory");
        Ok(())
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
                tail_bytes += u64::try_from(piece.len()).expect("a line in memory");
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
