//! The zone of this name server: its snapshots, their serial on disk, and the server over them.
//!
//! The serial is the number of the snapshot and never goes back: it is on disk before a snapshot
//! with it is served. Equal answers keep their serial over a restart, because the file also holds a
//! hash of them. A lost file starts from the clock, which is above any number of snapshots.

use std::cmp::Ordering;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use nett_dns::dnssec::Keys;
use nett_dns::explain::FoundBy;
use nett_dns::{Changes, Serial, Transfers, Zone, ZoneError, ZoneSource, publish};
use nett_policy::fabric::Fabric;
use nett_policy::id::{SiteId, WallMs};
use nett_policy::lower::answers::{Answers, ServiceAnswers};
use nett_policy::nearness::RoundTrips;
use serde::{Deserialize, Serialize};

use crate::api::types::{ExplainDoc, Payload};
use crate::zone_signer::Signer;

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

/// Services that are signed in one snapshot.
const PORTION: usize = 500;

pub struct ZoneKeeper {
    shared: Arc<Shared>,
    services: Answers,
    /// Of `services`, as [`hash_after`] makes it.
    hash: u64,
    begun: bool,
    near: RoundTrips,
    /// True once clients were sent by what was measured: files alone do not give these answers.
    by_time: bool,
    signer: Option<Signer>,
}

/// What the keeper and the signer have in common. Whoever publishes holds the lock of `kept`.
pub(crate) struct Shared {
    path: PathBuf,
    zone: Arc<ArcSwap<Zone>>,
    kept: Mutex<Kept>,
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
        let shared = Arc::new(Shared { path, zone, kept: Mutex::new(kept) });
        let (near, by_time) = (RoundTrips::new(), false);
        Ok(Self { shared, services, hash: 0, begun: false, near, by_time, signer: None })
    }

    /// Lets secondaries copy the zone, and tells them of every snapshot from now on.
    pub fn copied_by(self, transfers: Arc<Transfers>) -> Self {
        let zone = (*self.shared.zone.load_full()).clone();
        self.shared.zone.store(Arc::new(zone.with_transfers(transfers)));
        self
    }

    /// Signs the zone with these keys from the first snapshot on.
    ///
    /// # Errors
    /// The thread that signs cannot be started.
    pub fn signed_with(mut self, keys: Arc<Keys>) -> Result<Self, std::io::Error> {
        let zone = (*self.shared.zone.load_full()).clone();
        self.shared.zone.store(Arc::new(zone.with_keys(keys, unix_time())));
        self.signer = Some(Signer::start(Arc::clone(&self.shared))?);
        Ok(self)
    }

    /// Looks at these limits with every question from now on.
    pub fn limited_by(self, deadlines: Arc<nett_dns::Deadlines>) -> Self {
        let zone = (*self.shared.zone.load_full()).clone();
        self.shared.zone.store(Arc::new(zone.with_deadlines(deadlines)));
        self
    }

    pub fn zone(&self) -> &Arc<ArcSwap<Zone>> {
        &self.shared.zone
    }

    /// True once answers were handed in.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    pub fn serial(&self) -> u32 {
        self.shared.zone.load().serial().0
    }

    /// Serves these answers from now on, in one step. In a signed zone a portion of the first ones
    /// is signed here, which is all of a small zone; the rest follows, as that of later ones.
    pub fn serve(&mut self, services: Answers) -> Result<(), ZoneFault> {
        let changes = differences(&self.services, &services);
        if changes.is_empty() && self.begun {
            // The order may not have been taken over when the answers were.
            return self.turn();
        }
        let hash = hash_after(self.hash, &self.services, &changes);
        let text = self.text(hash);
        let mut kept = self.shared.lock();
        let current = self.shared.zone.load_full();
        if !self.begun && text == kept.answers && self.signer.is_none() {
            // As before the restart: the same snapshot, so the same serial. Signatures differ.
            self.shared.zone.store(Arc::new(current.with(&changes, Serial(kept.serial))));
        } else {
            let serial = Serial(kept.serial).next();
            let mut next = current.with(&changes, serial);
            if !self.begun {
                next = next.caught_up(serial, PORTION, unix_time());
            }
            self.shared.publish(&mut kept, next, Some(text))?;
        }
        drop(kept);
        if let Some(signer) = &self.signer {
            signer.wake();
        }
        let first = !std::mem::replace(&mut self.begun, true);
        self.hash = hash;
        self.services = services;
        if first { self.turn() } else { Ok(()) }
    }

    /// Sends clients to the nearest by these times from now on. A new snapshot is made only where
    /// that is another site for somebody.
    pub fn order(&mut self, near: RoundTrips) -> Result<(), ZoneFault> {
        self.near = near;
        if self.begun { self.turn() } else { Ok(()) }
    }

    /// The times by which clients are sent.
    pub fn near(&self) -> &RoundTrips {
        &self.near
    }

    fn turn(&mut self) -> Result<(), ZoneFault> {
        let mut kept = self.shared.lock();
        let next = self.shared.zone.load().with_rtts(&self.near, Serial(kept.serial).next());
        let Some(next) = next else { return Ok(()) };
        self.by_time = true;
        let text = self.text(self.hash);
        self.shared.publish(&mut kept, next, Some(text))
    }

    /// What stands beside the serial for these answers.
    fn text(&self, hash: u64) -> String {
        format!("{hash:016x}{}", if self.by_time { " by time" } else { "" })
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the serial on disk, then serves the snapshot.
    fn publish(
        &self,
        kept: &mut Kept,
        next: Zone,
        answers: Option<String>,
    ) -> Result<(), ZoneFault> {
        let answers = answers.unwrap_or_else(|| kept.answers.clone());
        let new = Kept { serial: next.serial().0, answers };
        write_synced(&self.path, &new)
            .map_err(|source| ZoneFault::Serial { path: self.path.clone(), source })?;
        *kept = new;
        publish(&self.zone, next)?;
        Ok(())
    }

    /// Signs a portion of what waits or grows old. False when there was nothing to do.
    pub(crate) fn sign(&self, thoroughly: bool) -> Result<bool, ZoneFault> {
        /// How often answers may come in between before they have to wait.
        const TRIES: u32 = 3;
        for tried in 1.. {
            let held = (tried > TRIES).then(|| self.lock());
            let zone = self.zone.load_full();
            let now = unix_time();
            let has_work = zone.is_behind() || (thoroughly && zone.has_signing_work(now));
            if !has_work {
                return Ok(false);
            }
            let next = zone.caught_up(zone.serial().next(), PORTION, now);
            let mut kept = held.unwrap_or_else(|| self.lock());
            // Answers that were served meanwhile are not in it.
            if self.zone.load().serial() == zone.serial() {
                return self.publish(&mut kept, next, None).map(|()| true);
            }
        }
        unreachable!("with the lock held nothing comes in between")
    }
}

fn unix_time() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// What must become of `before` to be `after`: the union of both, name by name.
fn differences<'a>(before: &'a Answers, after: &'a Answers) -> Changes<'a> {
    let mut changes = Vec::new();
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return Changes::in_order(changes),
        };
        let was = if order == Ordering::Greater { None } else { old.next() };
        let is = if order == Ordering::Less { None } else { new.next() };
        match (was, is) {
            // Shared answers are equal without a look at them.
            (Some((_, a)), Some((_, b))) if a == b => {}
            (_, Some((id, answers))) => changes.push((id, Some(answers))),
            (Some((id, _)), None) => changes.push((id, None)),
            (None, None) => {}
        }
    }
}

/// The hash of all answers, from the one before the changes: a sum over services, so that a change
/// costs by its size. Releases and machines may differ in it; then the serial goes on by one.
fn hash_after(before: u64, services: &Answers, changes: &Changes<'_>) -> u64 {
    let of = |answers: &ServiceAnswers| {
        let mut hasher = DefaultHasher::new();
        answers.hash(&mut hasher);
        hasher.finish()
    };
    changes.iter().fold(before, |sum, (id, answers)| {
        let was = services.get(id).map_or(0, of);
        let is = answers.map_or(0, of);
        sum.wrapping_sub(was).wrapping_add(is)
    })
}

/// "order from trd: svg (link cost 10, round trip 1.204 ms), osl (link cost 10, ...)"
fn order_from(zone: &Zone, near: &RoundTrips, from: &SiteId) -> String {
    let others = zone.topology().order_from(from).into_iter().filter(|(site, _)| *site != from);
    let told = others.map(|(site, cost)| {
        let cost = cost.map_or("no link".to_owned(), |cost| format!("link cost {cost}"));
        let rtt = near.get(&(from.clone(), site.clone())).map(|rtt| {
            let us = rtt.as_micros();
            format!(", round trip {}.{:03} ms", us / 1000, us % 1000)
        });
        format!("{site} ({cost}{})", rtt.unwrap_or_default())
    });
    let told: Vec<String> = told.collect();
    format!(
        "order from {from}: {}; by link cost, then a round trip shorter by more than a tenth, \
         then rank",
        told.join(", ")
    )
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
    near: &RoundTrips,
    name: &str,
    client: Option<&str>,
    subnet: Option<&str>,
) -> Result<Payload, String> {
    let bad = |what: &str, text: &str| format!("`{text}` is no {what}");
    let client = client.map(|text| text.parse().map_err(|_| bad("address", text)));
    let subnet = subnet.map(|text| text.parse().map_err(|_| bad("prefix", text)));
    let snapshot = zone.load();
    let told = snapshot.explain(name, client.transpose()?, subnet.transpose()?);
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
    why.extend(told.nearest_from.map(|from| order_from(&snapshot, near, &from)));
    if snapshot.is_behind() {
        why.push("the zone is signed; some of its newest records wait for signatures".to_owned());
    }
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
