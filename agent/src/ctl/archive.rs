//! The file that `nettctl backup` writes: one text with a SHA-256 over all of it.
//!
//! ```text
//! nett-backup 1
//! {"fabric":"lab","generation":3,"site":"osl","node":"osl-b1","at":"2026-11-21T09:30:00Z", ...}
//! log 17 {"v":1,"id":"osl.01jd..", ...}
//! audit {"at":1795253400000, ...}
//! sha256 9f86d081...
//! ```
//! Whatever is changed in it, or cut off, is noticed before any of it is used. It is written beside
//! its place and moved there, so a crash leaves the file that was there before, or the new one.

use std::path::Path;

use nett_policy::id::sha256_hex;
use serde::{Deserialize, Serialize};

use super::exit::CtlError;

const FIRST: &str = "nett-backup 1";
const NAME: &str = "nett-backup ";

/// A node's log and audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Archive {
    pub(super) fabric: String,
    pub(super) generation: u64,
    pub(super) site: String,
    pub(super) node: String,
    /// When, by the agent's clock.
    pub(super) at: String,
    /// Records, one a line.
    pub(super) log: String,
    /// Lines of the trail as they stood in its file.
    pub(super) audit: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    fabric: String,
    generation: u64,
    site: String,
    node: String,
    at: String,
    log_lines: usize,
    audit_lines: usize,
}

impl Archive {
    pub(super) fn to_text(&self) -> String {
        let Self { fabric, generation, site, node, at, log, audit } = self;
        let about = About {
            fabric: fabric.clone(),
            generation: *generation,
            site: site.clone(),
            node: node.clone(),
            at: at.clone(),
            log_lines: log.lines().count(),
            audit_lines: audit.lines().count(),
        };
        let about = serde_json::to_string(&about).expect("keys are strings");
        let mut text = format!("{FIRST}\n{about}\n");
        text.extend(log.lines().flat_map(|line| ["log ", line, "\n"]));
        text.extend(audit.lines().flat_map(|line| ["audit ", line, "\n"]));
        let hash = sha256_hex(text.as_bytes());
        text + &format!("sha256 {hash}\n")
    }

    /// Reads a file, all of it or nothing.
    pub(super) fn read(path: &Path) -> Result<Self, CtlError> {
        let bytes = std::fs::read(path).map_err(|source| CtlError::File {
            path: path.to_owned(),
            hint: "name a file that `nettctl backup` has written",
            source,
        })?;
        let bad = |what: &str| {
            CtlError::usage(
                format!("{}: {what}", path.display()),
                "nothing was changed; use another copy of the backup",
            )
        };
        let text = String::from_utf8(bytes).map_err(|_| bad("it is damaged: not text"))?;
        Self::parse(&text).map_err(|what| bad(&what))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let damaged = |why: &str| format!("the backup is damaged: {why}");
        let first = text.lines().next().unwrap_or_default();
        if !first.starts_with(NAME) {
            return Err("it is no backup of nettctl".to_owned());
        }
        let whole = text.strip_suffix('\n').and_then(|text| text.rsplit_once('\n'));
        let (body, last) = whole.ok_or_else(|| damaged("it is cut off"))?;
        let hash = last.strip_prefix("sha256 ");
        let hash = hash.ok_or_else(|| damaged("it is cut off before its SHA-256"))?;
        let body = &text[..=body.len()];
        if sha256_hex(body.as_bytes()) != hash {
            return Err(damaged("its SHA-256 does not fit"));
        }
        if first != FIRST {
            return Err(format!("it begins with `{first}`: use the nettctl that wrote it"));
        }
        let mut lines = body.lines().skip(1);
        let about = lines.next().and_then(|line| serde_json::from_str(line).ok());
        let about: About = about.ok_or_else(|| damaged("its second line is not readable"))?;
        let About { fabric, generation, site, node, at, log_lines, audit_lines } = about;
        let (mut log, mut audit) = (String::new(), String::new());
        for line in lines {
            match line.split_once(' ') {
                Some(("log", line)) => log.extend([line, "\n"]),
                Some(("audit", line)) => audit.extend([line, "\n"]),
                Some(_) | None => return Err(damaged("a line is neither of the log nor audit")),
            }
        }
        if (log.lines().count(), audit.lines().count()) != (log_lines, audit_lines) {
            return Err(damaged("lines are missing"));
        }
        Ok(Self { fabric, generation, site, node, at, log, audit })
    }

    /// What it is, in a line.
    pub(super) fn summary(&self) -> String {
        let Self { fabric, generation, site, node, at, log, audit } = self;
        let (log, audit) = (log.lines().count(), audit.lines().count());
        format!(
            "backup of {node} ({site}), fabric {fabric} generation {generation}, {at}: {log} \
             records of the log, {audit} lines of the audit trail"
        )
    }
}
