//! The state file of a lab: what exists outside its directory, and how to remove it.
//!
//! Names are written before things are created, so a lab that died at any instruction leaves at
//! most names of things that never were, which [`down`] skips. The file is replaced by rename.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::netns::batch;
use crate::process::Record;

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct State {
    pub prefix: String,
    pub namespaces: Vec<String>,
    pub processes: Vec<Record>,
}

/// What [`down`] found and removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removed {
    pub processes: usize,
    pub namespaces: usize,
}

fn file(dir: &Path) -> PathBuf {
    dir.join("lab.json")
}

impl State {
    pub fn load(dir: &Path) -> Result<Option<Self>> {
        let path = file(dir);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not a lab's state file", path.display()))
            .map(Some)
    }

    pub fn save(&self, dir: &Path) -> Result<()> {
        let next = dir.join("lab.json.new");
        fs::write(&next, serde_json::to_string_pretty(self)?)
            .and_then(|()| fs::rename(&next, file(dir)))
            .with_context(|| format!("cannot write {}", file(dir).display()))
    }
}

/// The namespaces `ip netns` knows now.
pub fn existing_namespaces() -> BTreeSet<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten();
    let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
    names.collect()
}

/// Ends every process and deletes every namespace recorded in `dir`, then the state file. The
/// directory itself stays, with its logs. Goes on after an error and reports all of them.
pub fn down(dir: &Path) -> Result<Removed> {
    let Some(state) = State::load(dir)? else {
        return Ok(Removed::default());
    };
    let mut removed = Removed::default();
    let mut problems = Vec::new();
    for process in &state.processes {
        let was_running = process.is_running();
        match process.kill() {
            Ok(()) => removed.processes += usize::from(was_running),
            Err(e) => problems.push(format!("{e:#}")),
        }
    }
    let existing = existing_namespaces();
    let ours = state.namespaces.iter().filter(|n| existing.contains(*n));
    let lines: Vec<String> = ours.map(|n| format!("netns del {n}")).collect();
    removed.namespaces = lines.len();
    if !lines.is_empty()
        && let Err(e) = batch("ip", &["-force", "-batch", "-"], &lines)
    {
        problems.push(format!("{e:#}"));
    }
    if !problems.is_empty() {
        bail!("not everything could be removed: {}", problems.join("; "));
    }
    fs::remove_file(file(dir)).context("cannot remove the lab's state file")?;
    Ok(removed)
}

/// As [`down`], while another thread of this process may still be creating the lab: looks again
/// for everything the file has ever named until a look finds nothing.
pub fn down_while_creating(dir: &Path) -> Result<()> {
    let Some(named) = State::load(dir)? else {
        return Ok(());
    };
    while down(dir)? != Removed::default() {
        if State::load(dir)?.is_none() {
            named.save(dir)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn down_after_a_death_before_creation_removes_only_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = State {
            prefix: "never".into(),
            namespaces: vec!["never-created-osl-b1".into()],
            processes: vec![Record { name: "ghost".into(), pid: i32::MAX, started: 1 }],
        };
        state.save(dir.path()).expect("saved");
        assert_eq!(down(dir.path()).expect("down"), Removed::default());
        assert!(State::load(dir.path()).expect("readable").is_none());
        assert_eq!(down(dir.path()).expect("twice"), Removed::default());
    }
}
