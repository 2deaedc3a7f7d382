//! Which paths are doubted, kept in a file: an agent that begins anew must not send into a link of
//! which it knew that it is dead, and a session that never came up says nothing.
//!
//! One line for each path, link and family. It is never needed: without it, or with a line that
//! cannot be read, the path counts as it would on a new machine.
//!
//! Crash story: written beside and renamed. Not synced: after a loss of power the links may have
//! changed anyway.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use nett_policy::fabric::Family;
use tokio::sync::watch;

use super::{PathId, Views};

/// Inside the state directory.
const FILE: &str = "doubted-links";
const FAMILIES: [(&str, Family); 2] = [("v4", Family::V4), ("v6", Family::V6)];

/// What was doubted when the agent last ran here.
pub fn recall(dir: &Path) -> BTreeSet<PathId> {
    let text = std::fs::read_to_string(dir.join(FILE)).unwrap_or_default();
    let line = |line: &str| {
        let (link, family) = line.split_once(' ')?;
        let (_, family) = FAMILIES.into_iter().find(|(name, _)| *name == family)?;
        Some((link.parse().ok()?, family))
    };
    text.lines().filter_map(line).collect()
}

/// Keeps the file as the views say, until there are no more of them.
pub async fn keep(dir: PathBuf, mut views: watch::Receiver<Views>) {
    let mut kept = recall(&dir);
    while views.changed().await.is_ok() {
        let doubted = doubted(&views.borrow_and_update());
        if doubted == kept {
            continue;
        }
        kept.clone_from(&doubted);
        let dir = dir.clone();
        let written = tokio::task::spawn_blocking(move || write(&dir, &doubted)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "Cannot keep which links are doubted.");
        }
    }
}

fn doubted(views: &Views) -> BTreeSet<PathId> {
    views.iter().filter(|(_, view)| view.belief.is_doubt()).map(|(id, _)| id.clone()).collect()
}

fn write(dir: &Path, doubted: &BTreeSet<PathId>) -> io::Result<()> {
    let line = |(link, family): &PathId| {
        let name = FAMILIES.into_iter().find(|(_, f)| f == family).map_or("", |(name, _)| name);
        format!("{link} {name}\n")
    };
    let text: String = doubted.iter().map(line).collect();
    let new = dir.join(format!("{FILE}.new"));
    std::fs::write(&new, text)?;
    std::fs::rename(new, dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_recalled_and_what_is_torn_is_passed_over() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(recall(dir.path()), BTreeSet::new());
        let link = |name: &str| name.parse().expect("an id");
        let doubted = BTreeSet::from([
            (link("osl-svg-1"), Family::V4),
            (link("osl-svg-1"), Family::V6),
            (link("osl-ber-1"), Family::V6),
        ]);
        write(dir.path(), &doubted).expect("written");
        assert_eq!(recall(dir.path()), doubted);
        std::fs::write(dir.path().join(FILE), "osl-svg-1 v4\nosl-svg-1 v\n\0").expect("written");
        assert_eq!(recall(dir.path()), BTreeSet::from([(link("osl-svg-1"), Family::V4)]));
        write(dir.path(), &BTreeSet::new()).expect("written");
        assert_eq!(recall(dir.path()), BTreeSet::new());
    }
}
