//! The fabric generations that this node has run, kept so that old entries stay readable.
//!
//! One small file per generation in `fabrics` of the state directory: who was who, nothing else.
//! The agent writes its present one before it reads the journal. A file is written beside its place
//! and moved there, so a crash leaves the old one or the new one. A file that cannot be read is
//! reported and passed over: entries of that generation then count as missing, and the kernel keeps
//! what it has until they were read from somewhere else.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use nett_policy::fabric::{Fabric, Operator, OperatorRole};
use nett_policy::id::{Generation, IdError, sha256_hex};
use nett_policy::log::entry::FabricRef;
use nett_policy::roster::{Roster, RosterNode, Rosters};
use serde::{Deserialize, Serialize};

/// Both are for the operator: the disk, or what stands on it.
#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    #[error("cannot {action} {path}: is the state directory writable and not full?")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is damaged ({why}): entries of that fabric generation cannot be read from it")]
    Damaged { path: PathBuf, why: String },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RosterDoc {
    generation: u64,
    hash: String,
    sites: Vec<String>,
    nodes: Vec<NodeDoc>,
    operators: Vec<OperatorDoc>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeDoc {
    id: String,
    site: String,
    key: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OperatorDoc {
    name: String,
    key: String,
    roles: Vec<RoleDoc>,
    services: Vec<String>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RoleDoc {
    Operator,
    Approver,
    Gate,
    Viewer,
}

/// Keeps the present generation and reads all that were kept before. What cannot be read comes
/// second, in words.
pub fn open(state_dir: &Path, fabric: &Fabric) -> Result<(Rosters, Vec<RosterError>), RosterError> {
    let dir = state_dir.join("fabrics");
    let io = |action| {
        let path = dir.clone();
        move |source| RosterError::Io { action, path, source }
    };
    fs::create_dir_all(&dir).map_err(io("make"))?;
    keep(&dir, &Roster::of(fabric))?;
    let (mut past, mut damaged) = (Vec::new(), Vec::new());
    for found in fs::read_dir(&dir).map_err(io("list"))? {
        let path = found.map_err(io("list"))?.path();
        if path.extension().is_none_or(|ext| ext != "json") {
            continue;
        }
        match load(&path) {
            Ok(roster) => past.push(roster),
            Err(error) => damaged.push(error),
        }
    }
    Ok((Rosters::new(fabric, past), damaged))
}

fn keep(dir: &Path, roster: &Roster) -> Result<(), RosterError> {
    let FabricRef { generation, hash } = &roster.fabric;
    let short: String = hash.chars().take(16).collect();
    let path = dir.join(format!("{generation}-{short}.json"));
    if load(&path).is_ok_and(|kept| kept == *roster) {
        return Ok(());
    }
    let text = serde_json::to_string(&RosterDoc::write(roster)).expect("keys are strings");
    let text = format!("{}\n{text}\n", sha256_hex(text.as_bytes()));
    let beside = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| RosterError::Io { action: "write", path: path.clone(), source })
}

fn load(path: &Path) -> Result<Roster, RosterError> {
    let damaged = |why: &str| RosterError::Damaged { path: path.to_owned(), why: why.to_owned() };
    let bytes = fs::read(path).map_err(|source| RosterError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let text = String::from_utf8(bytes).map_err(|_| damaged("not text"))?;
    let (check, text) = text.split_once('\n').ok_or_else(|| damaged("too short"))?;
    let text = text.strip_suffix('\n').ok_or_else(|| damaged("too short"))?;
    if sha256_hex(text.as_bytes()) != check {
        return Err(damaged("its check does not fit"));
    }
    let doc: RosterDoc = serde_json::from_str(text).map_err(|e| damaged(&e.to_string()))?;
    doc.read().map_err(|e| damaged(&e.to_string()))
}

// === impl RosterDoc ===

impl RosterDoc {
    fn write(roster: &Roster) -> Self {
        let Roster { fabric, sites, nodes, operators } = roster;
        let node = |node: &RosterNode| {
            let RosterNode { id, site, key } = node;
            NodeDoc { id: id.to_string(), site: site.to_string(), key: key.clone() }
        };
        let operator = |operator: &Operator| {
            let Operator { name, key, roles, services } = operator;
            OperatorDoc {
                name: name.clone(),
                key: key.clone(),
                roles: roles.iter().map(|role| RoleDoc::write(*role)).collect(),
                services: services.iter().map(ToString::to_string).collect(),
            }
        };
        Self {
            generation: fabric.generation.0,
            hash: fabric.hash.clone(),
            sites: sites.iter().map(ToString::to_string).collect(),
            nodes: nodes.iter().map(node).collect(),
            operators: operators.iter().map(operator).collect(),
        }
    }

    fn read(self) -> Result<Roster, IdError> {
        let Self { generation, hash, sites, nodes, operators } = self;
        let node = |NodeDoc { id, site, key }: NodeDoc| {
            Ok(RosterNode { id: id.parse()?, site: site.parse()?, key })
        };
        let operator = |OperatorDoc { name, key, roles, services }: OperatorDoc| {
            Ok(Operator {
                name,
                key,
                roles: roles.into_iter().map(RoleDoc::read).collect(),
                services: services.iter().map(|s| s.parse()).collect::<Result<_, IdError>>()?,
            })
        };
        Ok(Roster {
            fabric: FabricRef { generation: Generation(generation), hash },
            sites: sites.iter().map(|s| s.parse()).collect::<Result<_, IdError>>()?,
            nodes: nodes.into_iter().map(node).collect::<Result<_, IdError>>()?,
            operators: operators.into_iter().map(operator).collect::<Result<_, IdError>>()?,
        })
    }
}

impl RoleDoc {
    fn write(role: OperatorRole) -> Self {
        match role {
            OperatorRole::Operator => Self::Operator,
            OperatorRole::Approver => Self::Approver,
            OperatorRole::Gate => Self::Gate,
            OperatorRole::Viewer => Self::Viewer,
        }
    }

    fn read(self) -> OperatorRole {
        match self {
            Self::Operator => OperatorRole::Operator,
            Self::Approver => OperatorRole::Approver,
            Self::Gate => OperatorRole::Gate,
            Self::Viewer => OperatorRole::Viewer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fabric() -> Fabric {
        let text = |name: &str| {
            let file = nett_fixtures::fabric_file("two-sites", name).expect("a fixture");
            nett_policy::document::SourceFile::new(file.name, file.text)
        };
        let compiled = nett_policy::document::compile(&text("fabric.toml"), &text("services.toml"));
        compiled.expect("the fixture is valid").0
    }

    #[test]
    fn a_generation_before_this_one_is_still_known() {
        let dir = tempfile::tempdir().expect("a directory");
        let old = fabric();
        open(dir.path(), &old).expect("opens");
        let mut new = old.clone();
        new.generation = Generation(old.generation.0 + 1);
        new.hash = "another".to_owned();
        new.operators.remove(0);
        let (rosters, damaged) = open(dir.path(), &new).expect("opens");
        assert!(damaged.is_empty());
        let named = FabricRef { generation: old.generation, hash: old.hash.clone() };
        assert_eq!(rosters.of(&named), Some(&Roster::of(&old)), "with the operator who left");
        assert_eq!(rosters.now(), &Roster::of(&new));
    }

    #[test]
    fn no_flipped_bit_makes_another_roster() {
        let dir = tempfile::tempdir().expect("a directory");
        let fabric = fabric();
        open(dir.path(), &fabric).expect("opens");
        let found = fs::read_dir(dir.path().join("fabrics")).expect("lists").next();
        let path = found.expect("one file").expect("read").path();
        let whole = fs::read(&path).expect("reads");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).expect("writes");
            assert!(load(&path).is_err(), "byte {at}");
            fs::write(&path, &whole[..at]).expect("writes");
            assert!(load(&path).is_err(), "cut at {at}");
        }
        // The present one is written anew.
        open(dir.path(), &fabric).expect("opens");
        assert_eq!(load(&path).expect("whole"), Roster::of(&fabric));
    }
}
