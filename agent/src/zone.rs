//! The zone of this name server: its snapshots, their serial on disk, and the server over them.
//!
//! The serial is the number of the snapshot and never goes back: it is on disk before a snapshot
//! with it is served. Equal answers keep their serial over a restart, because the file also holds a
//! hash of them. A lost file starts from the clock, which is above any number of snapshots.

use std::cmp::Ordering;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use nett_dns::explain::FoundBy;
use nett_dns::{Changes, Serial, Zone, ZoneError, ZoneSource, publish};
use nett_policy::fabric::Fabric;
use nett_policy::id::{SiteId, WallMs};
use nett_policy::lower::answers::{Answers, ServiceAnswers};
use serde::{Deserialize, Serialize};

use crate::api::types::{ExplainDoc, Payload};

/// Why a snapshot is not served. The one before it stays.
#[derive(Debug, thiserror::Error)]
pub enum ZoneFault {
    #[error("cannot keep the zone's serial in {path}")]
    Serial {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Build(#[from] ZoneError),
    #[error(transparent)]
    Stale(#[from] nett_dns::StaleSerial),
}

pub struct ZoneKeeper {
    path: PathBuf,
    zone: Arc<ArcSwap<Zone>>,
    kept: Kept,
    services: Answers,
    /// Of `services`, as [`hash_after`] makes it.
    hash: u64,
    begun: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    serial: u32,
    /// Hash of the answers that were served with it.
    answers: String,
}

// === impl ZoneKeeper ===

impl ZoneKeeper {
    /// An empty zone with the serial that was last served here.
    pub fn open(
        fabric: &Fabric,
        home: &SiteId,
        state_dir: &Path,
        now: WallMs,
    ) -> Result<Self, ZoneFault> {
        let path = state_dir.join("zone.json");
        let kept = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let kept: Kept = kept.unwrap_or_else(|| Kept {
            serial: Serial::of_snapshot(now.0 / 1000).0,
            answers: String::new(),
        });
        let services = Answers::new();
        let serial = Serial(kept.serial);
        let home = Some(home);
        let source = ZoneSource { zone: &fabric.zone, fabric, home, serial, services: &services };
        let zone = Arc::new(ArcSwap::from_pointee(Zone::build(source)?));
        Ok(Self { path, zone, kept, services, hash: 0, begun: false })
    }

    pub fn zone(&self) -> &Arc<ArcSwap<Zone>> {
        &self.zone
    }

    /// True once answers were handed in.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    pub fn serial(&self) -> u32 {
        self.zone.load().serial().0
    }

    /// Serves these answers from now on, in one step.
    pub fn serve(&mut self, services: Answers) -> Result<(), ZoneFault> {
        let changes = differences(&self.services, &services);
        if changes.is_empty() && self.begun {
            return Ok(());
        }
        let hash = hash_after(self.hash, &self.services, &changes);
        let text = format!("{hash:016x}");
        let current = self.zone.load_full();
        if !self.begun && text == self.kept.answers {
            // As before the restart: the same snapshot, so the same serial.
            self.zone.store(Arc::new(current.with(&changes, Serial(self.kept.serial))?));
        } else {
            let serial = Serial(self.kept.serial).next();
            let next = current.with(&changes, serial)?;
            self.keep(Kept { serial: serial.0, answers: text })?;
            publish(&self.zone, next)?;
        }
        self.begun = true;
        self.hash = hash;
        self.services = services;
        Ok(())
    }

    fn keep(&mut self, kept: Kept) -> Result<(), ZoneFault> {
        write_synced(&self.path, &kept)
            .map_err(|source| ZoneFault::Serial { path: self.path.clone(), source })?;
        self.kept = kept;
        Ok(())
    }
}

/// What must become of `before` to be `after`: the union of both, name by name.
fn differences(before: &Answers, after: &Answers) -> Changes {
    let mut changes = Changes::new();
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return changes,
        };
        let was = if order == Ordering::Greater { None } else { old.next() };
        let is = if order == Ordering::Less { None } else { new.next() };
        match (was, is) {
            // Shared answers are equal without a look at them.
            (Some((_, a)), Some((_, b))) if Arc::ptr_eq(a, b) || a == b => {}
            (_, Some((id, answers))) => {
                changes.insert(id.clone(), Some(Arc::clone(answers)));
            }
            (Some((id, _)), None) => {
                changes.insert(id.clone(), None);
            }
            (None, None) => return changes,
        }
    }
}

/// The hash of all answers, from the one before the changes: a sum over services, so that a change
/// costs by its size. Releases and machines may differ in it; then the serial goes on by one.
fn hash_after(before: u64, services: &Answers, changes: &Changes) -> u64 {
    let of = |answers: &Arc<ServiceAnswers>| {
        let mut hasher = DefaultHasher::new();
        answers.hash(&mut hasher);
        hasher.finish()
    };
    changes.iter().fold(before, |sum, (id, answers)| {
        let was = services.get(id).map_or(0, of);
        let is = answers.as_ref().map_or(0, of);
        sum.wrapping_sub(was).wrapping_add(is)
    })
}

/// Writes beside the file and renames, so that a crash leaves the old or the new one.
fn write_synced(path: &Path, kept: &Kept) -> std::io::Result<()> {
    let beside = path.with_extension("json.new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(&serde_json::to_vec(kept).map_err(std::io::Error::other)?)?;
    file.sync_data()?;
    std::fs::rename(&beside, path)?;
    match path.parent() {
        Some(directory) => std::fs::File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Explains a name from the present snapshot; the error says which argument cannot be read.
pub fn explain(
    zone: &ArcSwap<Zone>,
    name: &str,
    client: Option<&str>,
    subnet: Option<&str>,
) -> Result<Payload, String> {
    let bad = |what: &str, text: &str| format!("`{text}` is no {what}");
    let client = client.map(|text| text.parse().map_err(|_| bad("address", text)));
    let subnet = subnet.map(|text| text.parse().map_err(|_| bad("prefix", text)));
    let told = zone.load().explain(name, client.transpose()?, subnet.transpose()?);
    let found_by = match told.found_by {
        FoundBy::Subnet(subnet) => Some(subnet.to_string()),
        FoundBy::Source(address) => Some(address.to_string()),
        FoundBy::Nothing => None,
    };
    let mut why = Vec::new();
    if let Some((site, prefix)) = &told.client_site {
        why.push(format!("the client belongs to {site}: it is in {prefix}"));
    }
    why.extend(told.spread.iter().map(|spread| format!("the service is answered from {spread}")));
    why.push(told.why);
    Ok(Payload::Explain(ExplainDoc {
        name: told.name,
        service: told.service.map(|s| s.to_string()),
        client: found_by,
        client_site: told.client_site.map(|(site, _)| site.to_string()),
        target_site: told.target.map(|s| s.to_string()),
        answers: told.addresses.iter().map(ToString::to_string).collect(),
        ttl_s: u64::from(told.ttl),
        serial: told.serial.0,
        why,
    }))
}
