//! The audit trail: a file of this node, one JSON line per event, each with the hash of the line
//! before. Entries of every site's log as this node first read them, and local events. Nothing is
//! ever decided from it. A torn last line is left where it is; the next line starts fresh and its
//! chain goes on from the last whole one.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
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

pub struct Audit {
    path: PathBuf,
    file: File,
    last: String,
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
        if let Ok(file) = File::open(&path) {
            let mut reader = BufReader::new(file);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line)? > 0 {
                ends_whole = line.ends_with(b"\n");
                if ends_whole {
                    last = sha256_hex(line.trim_ascii_end());
                }
                line.clear();
            }
        }
        let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
        if !ends_whole {
            file.write_all(b"\n")?;
        }
        Ok(Self { path, file, last })
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

/// The newest records that match, oldest first, and whether older ones were left out.
pub fn read(path: &Path, filter: &Filter) -> std::io::Result<(Vec<AuditRecord>, bool)> {
    let mut found: std::collections::VecDeque<AuditRecord> = std::collections::VecDeque::new();
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
