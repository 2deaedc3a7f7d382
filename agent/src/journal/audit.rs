//! The audit trail: a file of this node, one JSON line per event, each with the hash of the line
//! before. Entries of every site's log as this node first read them, and local events. Nothing is
//! ever decided from it. A torn last line is left where it is; the next line starts fresh and its
//! chain goes on from the last whole one.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use nett_policy::id::{WallMs, sha256_hex};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Milliseconds since the Unix epoch, by this node's clock.
    pub at: u64,
    pub node: String,
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Services it is about, for filtering.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
    pub text: String,
    /// The entry as signed, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<Value>,
    /// Hash of the line before; empty on the first.
    pub prev: String,
}

/// Lines with an entry whose ids are remembered when a trail is opened: twice what may have been
/// under way when the process before was killed.
const RECENT: usize = 2 * super::trail::WAITING;

pub struct Audit {
    path: PathBuf,
    file: File,
    last: String,
    /// Where the newest lines with an entry begin, at most [`RECENT`].
    recent: VecDeque<u64>,
}

/// What is wanted of a line to know which entry it has.
#[derive(Deserialize)]
struct Named {
    entry: Id,
}

#[derive(Deserialize)]
struct Id {
    id: String,
}

/// What a reader of the trail wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub since: Option<WallMs>,
    /// A service id.
    pub service: Option<String>,
    pub limit: usize,
}

// === impl Audit ===

impl Audit {
    pub fn open(state_dir: &Path) -> std::io::Result<Self> {
        let path = state_dir.join("audit.jsonl");
        let mut last = String::new();
        let mut ends_whole = true;
        let (mut recent, mut at) = (VecDeque::new(), 0);
        if let Ok(file) = File::open(&path) {
            let mut reader = BufReader::new(file);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line)? > 0 {
                ends_whole = line.ends_with(b"\n");
                if ends_whole {
                    last = sha256_hex(line.trim_ascii_end());
                    if has_entry(&line) {
                        recent.push_back(at);
                        recent.drain(..recent.len().saturating_sub(RECENT));
                    }
                }
                at += line.len() as u64;
                line.clear();
            }
        }
        let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
        if !ends_whole {
            file.write_all(b"\n")?;
        }
        Ok(Self { path, file, last, recent })
    }

    /// The ids of the newest entries that the trail had when it was opened, at most [`RECENT`].
    /// Lines that are damaged are passed over.
    pub fn recent(&self) -> std::io::Result<BTreeSet<String>> {
        let mut reader = BufReader::new(File::open(&self.path)?);
        let (mut ids, mut line) = (BTreeSet::new(), Vec::new());
        for from in &self.recent {
            reader.seek(SeekFrom::Start(*from))?;
            line.clear();
            reader.read_until(b'\n', &mut line)?;
            ids.extend(serde_json::from_slice::<Named>(&line).map(|named| named.entry.id));
        }
        Ok(ids)
    }

    /// Appends a record behind the last one; `prev` is set here.
    pub fn append(&mut self, record: AuditRecord) -> std::io::Result<()> {
        let record = AuditRecord { prev: self.last.clone(), ..record };
        let mut line = serde_json::to_vec(&record).map_err(std::io::Error::other)?;
        self.last = sha256_hex(&line);
        line.push(b'\n');
        self.file.write_all(&line)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// True when a line has an entry. A text that says so has a backslash before each quotation mark.
fn has_entry(line: &[u8]) -> bool {
    const KEY: &[u8] = b"\"entry\":{";
    line.windows(KEY.len()).any(|part| part == KEY)
}

/// The newest records that match, oldest first, and whether older ones were left out.
pub fn read(path: &Path, filter: &Filter) -> std::io::Result<(Vec<AuditRecord>, bool)> {
    let mut found: VecDeque<AuditRecord> = VecDeque::new();
    let mut left_out = false;
    for line in BufReader::new(File::open(path)?).lines() {
        let Ok(record) = serde_json::from_str::<AuditRecord>(&line?) else { continue };
        let recent = filter.since.is_none_or(|since| record.at >= since.0);
        let about = filter.service.as_ref().is_none_or(|s| record.services.contains(s));
        if recent && about {
            found.push_back(record);
            if found.len() > filter.limit {
                found.pop_front();
                left_out = true;
            }
        }
    }
    Ok((found.into(), left_out))
}

/// The largest part of the trail that is handed out at once, in bytes.
const PART: usize = 8 << 20;

/// Whole lines from a byte on, and where the next ones begin; nothing there, or half a line, is the
/// end.
pub fn part(path: &Path, from: u64) -> std::io::Result<(String, Option<u64>)> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let (mut reader, mut bytes) = (BufReader::new(file), Vec::new());
    loop {
        let before = bytes.len();
        let read = reader.read_until(b'\n', &mut bytes)?;
        if read == 0 || !bytes.ends_with(b"\n") {
            bytes.truncate(before);
            break Ok((lossy(bytes), None));
        }
        if bytes.len() > PART {
            let next = from + u64::try_from(bytes.len()).expect("what fits in memory");
            break Ok((lossy(bytes), Some(next)));
        }
    }
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// The entries of one site's log that the trail has, as they were signed, in no order.
pub fn entries(path: &Path, site: &str) -> std::io::Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for line in BufReader::new(File::open(path)?).split(b'\n') {
        let Ok(record) = serde_json::from_slice::<AuditRecord>(&line?) else { continue };
        let Some(entry) = record.entry.filter(|_| record.site.as_deref() == Some(site)) else {
            continue;
        };
        found.push(serde_json_canonicalizer::to_vec(&entry).map_err(std::io::Error::other)?);
    }
    Ok(found)
}

/// What a look at the whole trail found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whole lines.
    pub lines: u64,
    /// Lines that are no record: torn by a crash, or damaged. A crash leaves the chain whole.
    pub damaged: Vec<u64>,
    /// Lines that do not follow the whole line before them: something was changed or taken out.
    pub breaks: Vec<u64>,
    /// Lines with a log entry that its signer did not sign so.
    pub unbelieved: Vec<u64>,
    /// Lines with a log entry of a fabric generation that is not known here.
    pub unknown: Vec<u64>,
    /// The hash of the last whole line: whoever keeps it notices when the end is taken away.
    pub last: String,
}

/// What can be said of an entry in the trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belief {
    Good,
    Forged,
    Unknown,
}

/// Follows the chain from the first line to the last; `believe` judges each entry, in its canonical
/// form.
pub fn verify(path: &Path, believe: impl Fn(&Value) -> Belief) -> std::io::Result<Verdict> {
    let mut verdict = Verdict::default();
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let whole = line.ends_with(b"\n");
        let bytes = line.trim_ascii_end();
        if bytes.is_empty() {
            continue;
        }
        let record = serde_json::from_slice::<AuditRecord>(bytes).ok().filter(|_| whole);
        let Some(record) = record else {
            verdict.damaged.push(number);
            continue;
        };
        if record.prev != verdict.last {
            verdict.breaks.push(number);
        }
        match record.entry.as_ref().map(&believe) {
            Some(Belief::Forged) => verdict.unbelieved.push(number),
            Some(Belief::Unknown) => verdict.unknown.push(number),
            Some(Belief::Good) | None => {}
        }
        verdict.lines += 1;
        verdict.last = sha256_hex(bytes);
    }
    Ok(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> AuditRecord {
        AuditRecord {
            at: 1,
            node: "osl-b1".to_owned(),
            kind: "drift".to_owned(),
            site: None,
            seq: None,
            id: None,
            person: None,
            reason: None,
            services: Vec::new(),
            text: text.to_owned(),
            entry: None,
            prev: String::new(),
        }
    }

    #[test]
    fn no_byte_of_the_trail_is_changed_unnoticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut audit = Audit::open(dir.path()).expect("opens");
        for text in ["one", "two", "three"] {
            audit.append(record(text)).expect("appends");
        }
        let path = audit.path().to_owned();
        let good = |_: &Value| Belief::Good;
        let whole = std::fs::read(&path).expect("reads");
        let verdict = verify(&path, good).expect("reads");
        assert_eq!((verdict.lines, verdict.damaged, verdict.breaks), (3, vec![], vec![]));
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).expect("writes");
            let changed = verify(&path, good).expect("reads");
            // The last line has nothing behind it; its hash is what tells.
            let noticed = !changed.breaks.is_empty()
                || !changed.damaged.is_empty()
                || changed.last != verdict.last;
            assert!(noticed, "byte {at}");
        }
        // A line taken out is a break; a line torn by a crash is not.
        let lines: Vec<&[u8]> = whole.split_inclusive(|b| *b == b'\n').collect();
        std::fs::write(&path, [lines[0], lines[2]].concat()).expect("writes");
        assert_eq!(verify(&path, good).expect("reads").breaks, [2]);
        std::fs::write(&path, [lines[0], &lines[1][..9]].concat()).expect("writes");
        Audit::open(dir.path()).expect("opens").append(record("after")).expect("appends");
        let torn = verify(&path, good).expect("reads");
        assert_eq!((torn.breaks, torn.damaged), (vec![], vec![2]));
    }

    #[test]
    fn a_trail_knows_its_newest_entries() {
        let dir = tempfile::tempdir().expect("a directory");
        let with = |n: usize| AuditRecord {
            entry: Some(serde_json::json!({ "id": format!("osl.{n}"), "body": {} })),
            ..record("an entry")
        };
        let mut audit = Audit::open(dir.path()).expect("opens");
        for n in 0..RECENT + 10 {
            audit.append(with(n)).expect("appends");
            audit.append(record(r#""entry":{"id":"osl.none"}"#)).expect("appends");
        }
        assert!(audit.recent().expect("reads").is_empty(), "only those before it was opened");
        let audit = Audit::open(dir.path()).expect("opens");
        let expected: BTreeSet<String> = (10..RECENT + 10).map(|n| format!("osl.{n}")).collect();
        assert_eq!(audit.recent().expect("reads"), expected);
    }
}
