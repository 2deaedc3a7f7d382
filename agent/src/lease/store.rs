//! What of the lease is on this node's disk, as records of a journal of its own (`lease`).
//!
//! A voter's promises and a node's fences are synced before anybody hears of them; votes that were
//! read and when are kept so that a restart costs no wait. Times count from the start of the
//! machine and mean something only within the boot that is named beside them.
//!
//! Crash story: the journal is [`crate::journal`]'s. Where it is not provably whole, the voter is a
//! new incarnation and the node does not know its fences; neither is guessed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nett_policy::fabric::Lease;
use nett_policy::id::{Epoch, Generation, IdError, NodeId, ServiceId, SiteId};
use nett_policy::lease::electorate::Terms;
use nett_policy::lease::generation::Running;
use nett_policy::lease::knowledge::Times;
use nett_policy::lease::vote::Incarnation;
use nett_policy::roster::Rosters;
use serde::{Deserialize, Serialize};

use crate::bus::wire::{OpenError, SealedVote};
use crate::journal::Loaded;

/// One thing to remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseRecord {
    /// The own voter begins anew, and has these others to read.
    Begun { incarnation: Incarnation, pending: BTreeSet<SiteId> },
    /// A vote of the own voter.
    Made(SealedVote),
    /// What the own voter read of others, and whom it still has to read.
    Floor { floor: BTreeMap<ServiceId, Epoch>, pending: BTreeSet<SiteId> },
    /// A vote of anybody, with when it was first read here.
    Read { vote: SealedVote, times: Times, boot: String },
    /// An incarnation, with when it was first heard of.
    Heard { voter: SiteId, incarnation: Incarnation, at: Duration, boot: String },
    /// Nothing up to these epochs is served here again.
    Fence(BTreeMap<ServiceId, Epoch>),
    /// The fences are known: somebody who knows has told them.
    Told,
    /// What a generation of the voters is; on the disk before this node asks or answers in it.
    Terms(Terms),
    /// The generation in which the own voter answers.
    Runs { running: Running, boot: String },
}

/// What a start finds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    pub records: Vec<LeaseRecord>,
    /// False when something that was recorded may be missing, or nothing ever was.
    pub whole: bool,
    /// The machine's boot, as it names it.
    pub boot: String,
    /// Random, and never used by another process.
    pub seed: u128,
}

/// A record that cannot be read. The journal counts as not whole then.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("a record of the lease is not JSON of the expected shape")]
    Json(#[from] serde_json::Error),
    #[error("a record of the lease has a bad id")]
    Id(#[from] IdError),
    #[error("a vote among the records of the lease is not believed")]
    Vote(#[from] OpenError),
    #[error("`{0}` is no incarnation")]
    Incarnation(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "lowercase", deny_unknown_fields)]
enum RecordDoc {
    Begun { incarnation: String, pending: Vec<String> },
    Made { vote: String },
    Floor { floor: BTreeMap<String, u64>, pending: Vec<String> },
    Read { vote: String, since_us: u64, heard_us: u64, boot: String },
    Heard { voter: String, incarnation: String, at_us: u64, boot: String },
    Fence { services: BTreeMap<String, u64> },
    Told {},
    Terms { generation: u64, voters: BTreeMap<String, String>, lease_us: u64, wait_us: u64 },
    Runs { generation: u64, since_us: u64, entered: bool, boot: String },
}

/// What was loaded, as far as it can be read.
pub fn restored(loaded: &Loaded, rosters: &Rosters, boot: String, seed: u128) -> Restored {
    let mut records = Vec::new();
    // A torn tail is no loss for a log that others have too; a promise may be in it.
    let mut whole = loaded.is_whole() && loaded.torn == 0;
    for record in &loaded.records {
        match LeaseRecord::decode(&record.bytes, rosters) {
            Ok(record) => records.push(record),
            Err(error) => {
                tracing::error!(%error, "A record of the lease cannot be read.");
                whole = false;
            }
        }
    }
    Restored { records, whole, boot, seed }
}

/// Names this boot of the machine; empty, which is no boot's name, where the system does not say.
pub fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn sites(list: Vec<String>) -> Result<BTreeSet<SiteId>, RecordError> {
    list.iter().map(|site| Ok(site.parse()?)).collect()
}

fn nodes(map: BTreeMap<String, String>) -> Result<BTreeMap<SiteId, NodeId>, RecordError> {
    map.into_iter().map(|(site, node)| Ok((site.parse()?, node.parse()?))).collect()
}

fn epochs(map: BTreeMap<String, u64>) -> Result<BTreeMap<ServiceId, Epoch>, RecordError> {
    map.into_iter().map(|(service, epoch)| Ok((service.parse()?, Epoch(epoch)))).collect()
}

fn write_epochs(map: &BTreeMap<ServiceId, Epoch>) -> BTreeMap<String, u64> {
    map.iter().map(|(service, epoch)| (service.to_string(), epoch.0)).collect()
}

fn incarnation(text: &str) -> Result<Incarnation, RecordError> {
    let number = u128::from_str_radix(text, 16);
    number.map(Incarnation).map_err(|_| RecordError::Incarnation(text.to_owned()))
}

// === impl LeaseRecord ===

impl LeaseRecord {
    /// One line, without its end.
    pub fn encode(&self) -> Vec<u8> {
        let names = |sites: &BTreeSet<SiteId>| sites.iter().map(SiteId::to_string).collect();
        let hex = |incarnation: &Incarnation| format!("{:032x}", incarnation.0);
        // Canonical JSON is text without line breaks.
        let text = |vote: &SealedVote| String::from_utf8_lossy(&vote.bytes).into_owned();
        let doc = match self {
            Self::Begun { incarnation, pending } => {
                RecordDoc::Begun { incarnation: hex(incarnation), pending: names(pending) }
            }
            Self::Made(vote) => RecordDoc::Made { vote: text(vote) },
            Self::Floor { floor, pending } => {
                RecordDoc::Floor { floor: write_epochs(floor), pending: names(pending) }
            }
            Self::Read { vote, times, boot } => RecordDoc::Read {
                vote: text(vote),
                since_us: micros(times.since),
                heard_us: micros(times.heard),
                boot: boot.clone(),
            },
            Self::Heard { voter, incarnation, at, boot } => RecordDoc::Heard {
                voter: voter.to_string(),
                incarnation: hex(incarnation),
                at_us: micros(*at),
                boot: boot.clone(),
            },
            Self::Fence(services) => RecordDoc::Fence { services: write_epochs(services) },
            Self::Told => RecordDoc::Told {},
            Self::Terms(Terms { generation, voters, lease }) => RecordDoc::Terms {
                generation: generation.0,
                voters: voters.iter().map(|(s, n)| (s.to_string(), n.to_string())).collect(),
                lease_us: micros(lease.duration),
                wait_us: micros(lease.wait),
            },
            Self::Runs { running: Running { generation, since, entered }, boot } => {
                RecordDoc::Runs {
                    generation: generation.0,
                    since_us: micros(*since),
                    entered: *entered,
                    boot: boot.clone(),
                }
            }
        };
        serde_json::to_vec(&doc).expect("keys are text")
    }

    /// # Errors
    /// It was written by another release, or damaged in a way that its check did not see.
    pub fn decode(bytes: &[u8], rosters: &Rosters) -> Result<Self, RecordError> {
        let open = |text: String| SealedVote::open(text.as_bytes(), rosters);
        Ok(match serde_json::from_slice(bytes)? {
            RecordDoc::Begun { incarnation: text, pending } => {
                Self::Begun { incarnation: incarnation(&text)?, pending: sites(pending)? }
            }
            RecordDoc::Made { vote } => Self::Made(open(vote)?),
            RecordDoc::Floor { floor, pending } => {
                Self::Floor { floor: epochs(floor)?, pending: sites(pending)? }
            }
            RecordDoc::Read { vote, since_us, heard_us, boot } => {
                let times = Times {
                    since: Duration::from_micros(since_us),
                    heard: Duration::from_micros(heard_us),
                };
                Self::Read { vote: open(vote)?, times, boot }
            }
            RecordDoc::Heard { voter, incarnation: text, at_us, boot } => Self::Heard {
                voter: voter.parse()?,
                incarnation: incarnation(&text)?,
                at: Duration::from_micros(at_us),
                boot,
            },
            RecordDoc::Fence { services } => Self::Fence(epochs(services)?),
            RecordDoc::Told {} => Self::Told,
            RecordDoc::Terms { generation, voters, lease_us, wait_us } => {
                let duration = Duration::from_micros(lease_us);
                let lease = Lease { duration, wait: Duration::from_micros(wait_us) };
                let (generation, voters) = (Generation(generation), nodes(voters)?);
                Self::Terms(Terms { generation, voters, lease })
            }
            RecordDoc::Runs { generation, since_us, entered, boot } => {
                let (generation, since) = (Generation(generation), Duration::from_micros(since_us));
                Self::Runs { running: Running { generation, since, entered }, boot }
            }
        })
    }
}
