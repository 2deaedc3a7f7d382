//! The zone of this name server: its snapshots, their serial on disk, and the server over them.
//!
//! The serial is the number of the snapshot and never goes back: it is on disk before a snapshot
//! with it is served. Equal answers keep their serial over a restart, because the file also holds a
//! hash of them. A lost file starts from the clock, which is above any number of snapshots.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use nett_dns::explain::FoundBy;
use nett_dns::{Serial, Transfers, Zone, ZoneError, ZoneSource, publish};
use nett_policy::fabric::Fabric;
use nett_policy::id::{ServiceId, SiteId, WallMs, sha256_hex};
use nett_policy::lower::answers::ServiceAnswers;
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
    services: BTreeMap<ServiceId, ServiceAnswers>,
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
        let services = BTreeMap::new();
        let serial = Serial(kept.serial);
        let home = Some(home);
        let source = ZoneSource { zone: &fabric.zone, fabric, home, serial, services: &services };
        let zone = Arc::new(ArcSwap::from_pointee(Zone::build(source)?));
        Ok(Self { path, zone, kept, services, begun: false })
    }

    /// Lets secondaries copy the zone, and tells them of every snapshot from now on.
    pub fn copied_by(self, transfers: Arc<Transfers>) -> Self {
        let zone = self.zone.load_full();
        self.zone.store(Arc::new((*zone).clone().with_transfers(transfers)));
        self
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
    pub fn serve(
        &mut self,
        services: BTreeMap<ServiceId, ServiceAnswers>,
    ) -> Result<(), ZoneFault> {
        let gone = self.services.keys().filter(|id| !services.contains_key(*id));
        let mut changes: BTreeMap<ServiceId, Option<ServiceAnswers>> =
            gone.map(|id| (id.clone(), None)).collect();
        for (id, answers) in &services {
            if self.services.get(id) != Some(answers) {
                changes.insert(id.clone(), Some(answers.clone()));
            }
        }
        if changes.is_empty() && self.begun {
            return Ok(());
        }
        let hash = sha256_hex(format!("{services:?}").as_bytes());
        let current = self.zone.load_full();
        if !self.begun && hash == self.kept.answers {
            // As before the restart: the same snapshot, so the same serial.
            self.zone.store(Arc::new(current.with(&changes, Serial(self.kept.serial))?));
        } else {
            let serial = Serial(self.kept.serial).next();
            let next = current.with(&changes, serial)?;
            self.keep(Kept { serial: serial.0, answers: hash })?;
            publish(&self.zone, next)?;
        }
        self.begun = true;
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
