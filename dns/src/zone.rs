//! The zone: an immutable, numbered snapshot of everything the name server says.
//!
//! A question loads the current snapshot once and reads nothing else, so an answer is never from
//! two versions. [`Zone::with`] makes the next one by copying only the part of the table that the
//! changed services live in; the rest is shared. Snapshots are never edited, and [`publish`] lets
//! the serial go only forward.
//!
//! Nothing here is stored: after a crash the agent builds the zone again, under a higher number.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use nett_policy::fabric::{self, Fabric};
use nett_policy::id::{ServiceId, SiteId};
use nett_policy::lower::answers::ServiceAnswers;

use crate::clock::unix_time;
use crate::dnssec::{Keys, Signed};
use crate::name::{LowerName, NameError, Relative};
use crate::serial::Serial;
use crate::steer::Plan;
use crate::topology::Topology;
use crate::transfer::{History, Transfers};

/// SOA timers in seconds (RFC 1035 section 3.3.13). Secondaries ask often, and a name that does
/// not exist yet may exist soon: negative answers are kept for [`MINIMUM`] only (RFC 2308).
pub const REFRESH: u32 = 60;
pub const RETRY: u32 = 15;
pub const EXPIRE: u32 = 1_209_600;
pub const MINIMUM: u32 = 10;
/// TTL of the SOA record.
pub const SOA_TTL: u32 = 60;
/// TTL of the NS records and of the addresses of name servers.
pub const NS_TTL: u32 = 3600;

/// How many parts the table of services is cut into. Changing one service copies one part.
const PARTS: usize = 1024;

/// What a whole zone is made of.
#[derive(Debug, Clone, Copy)]
pub struct ZoneSource<'a> {
    pub zone: &'a fabric::Zone,
    /// Sites with their prefixes, ranks and link costs, and the outside clients.
    pub fabric: &'a Fabric,
    /// The site this name server stands in.
    pub home: Option<&'a SiteId>,
    pub serial: Serial,
    pub services: &'a BTreeMap<ServiceId, ServiceAnswers>,
}

/// Why a zone cannot be built: the operator must change a name in the fabric.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    #[error("zone.name `{name}` is not a domain name: {source}")]
    Name { name: String, source: NameError },
    #[error("zone.hostmaster `{name}` is not a domain name: {source}")]
    Hostmaster { name: String, source: NameError },
    #[error("the name server `{name}` in zone.ns is not a domain name: {source}")]
    NameServer { name: String, source: NameError },
    #[error("service `{service}` has no name in the zone: {source}")]
    Service { service: ServiceId, source: NameError },
}

/// A snapshot was published that is not newer than the current one: a bug of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the zone has serial {current} and cannot go to {offered}")]
pub struct StaleSerial {
    pub current: Serial,
    pub offered: Serial,
}

/// One snapshot.
#[derive(Debug, Clone)]
pub struct Zone {
    serial: Serial,
    apex: Arc<Apex>,
    topology: Arc<Topology>,
    parts: Vec<Arc<Part>>,
    /// Names that exist only because others lie below them, with how many do.
    empty: Arc<BTreeMap<Box<[u8]>, u32>>,
    /// Who may copy the zone; nobody without it.
    transfers: Option<Arc<Transfers>>,
    history: History,
    changes: Changes,
    signed: Option<Signed>,
}

/// What differs between a snapshot and the one it was made from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes {
    /// The serial of that one; unknown for the first.
    pub(crate) base: Option<Serial>,
    /// Keys of services.
    pub(crate) services: BTreeSet<Box<[u8]>>,
    /// Order keys of links of the NSEC chain.
    pub(crate) links: BTreeSet<Box<[u8]>>,
    /// Whether signatures changed of what the fabric names.
    pub(crate) fixed: bool,
}

type Part = HashMap<Box<[u8]>, Arc<Entry>>;

/// What the fabric says about the zone itself.
pub(crate) struct Apex {
    pub(crate) name: LowerName,
    /// Names of the name servers in wire form.
    pub(crate) ns: Vec<Box<[u8]>>,
    pub(crate) hostmaster: Box<[u8]>,
    /// Addresses of name servers inside the zone, by name below the apex.
    hosts: BTreeMap<Box<[u8]>, Vec<IpAddr>>,
}

/// One service, ready for questions.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) answers: ServiceAnswers,
    pub(crate) plan: Plan,
    /// Seconds.
    pub(crate) ttl: u32,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Found<'a> {
    Apex(&'a [IpAddr]),
    Host(&'a [IpAddr]),
    Reflect,
    Service(&'a Entry),
    /// The site at this position of the service.
    Site(&'a Entry, usize),
    AllSites(&'a Entry),
    /// There are names below, and nothing here (RFC 8020, RFC 4592 section 2.2.2).
    Empty,
    Missing,
    Outside,
}

/// Puts `next` in the place of the current snapshot, in one step. Readers never wait.
///
/// Only one task may publish to a zone; two would race between the check and the swap.
pub fn publish(current: &ArcSwap<Zone>, mut next: Zone) -> Result<(), StaleSerial> {
    let now = current.load();
    if !next.serial.is_newer_than(now.serial) {
        return Err(StaleSerial { current: now.serial, offered: next.serial });
    }
    let transfers = next.transfers.clone().filter(|t| t.has_secondaries());
    if transfers.is_some() {
        next.history = History::after(&now, &next);
    }
    let serial = next.serial;
    current.store(Arc::new(next));
    if let Some(transfers) = transfers {
        transfers.publish(serial);
    }
    Ok(())
}

// === impl Zone ===

impl Zone {
    pub fn build(source: ZoneSource<'_>) -> Result<Self, ZoneError> {
        let ZoneSource { zone, fabric, home, serial, services } = source;
        let apex = Apex::new(zone)?;
        let mut empty = BTreeMap::new();
        for host in apex.hosts.keys() {
            count_parents(&mut empty, host, 1);
        }
        // One empty part in all places: the first service of each makes its own.
        let no_services = Arc::new(Part::new());
        let mut built = Self {
            serial,
            apex: Arc::new(apex),
            topology: Arc::new(Topology::new(fabric, home)),
            parts: vec![no_services; PARTS],
            empty: Arc::new(empty),
            transfers: None,
            history: History::default(),
            changes: Changes::default(),
            signed: None,
        };
        for answers in services.values() {
            built.set(&answers.service, Some(answers))?;
        }
        Ok(built)
    }

    /// The next snapshot: `changes` replace (or, as `None`, remove) the answers of single
    /// services. Takes time by the number of changes, not by the size of the zone.
    pub fn with(
        &self,
        changes: &BTreeMap<ServiceId, Option<ServiceAnswers>>,
        serial: Serial,
    ) -> Result<Self, ZoneError> {
        let mut next = self.clone();
        next.serial = serial;
        let mut keys = Vec::with_capacity(changes.len());
        for (service, answers) in changes {
            next.set(service, answers.as_ref())?;
            keys.extend(service_key(service));
        }
        if let Some(signed) = &self.signed {
            next.signed = Some(signed.after(&next, &keys, unix_time()));
        }
        let services = keys.into_iter().collect();
        next.changes = Changes { base: Some(self.serial), services, ..Changes::default() };
        Ok(next)
    }

    pub fn serial(&self) -> Serial {
        self.serial
    }

    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// How many services have a name.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|p| p.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(|p| p.is_empty())
    }

    /// The answers of one service as this snapshot has them.
    pub fn answers(&self, service: &ServiceId) -> Option<&ServiceAnswers> {
        let key = service_key(service).ok()?;
        Some(&self.entry(&key)?.answers)
    }

    /// The zone with its secondaries; all later snapshots have them too.
    pub fn with_transfers(mut self, transfers: Arc<Transfers>) -> Self {
        self.transfers = Some(transfers);
        self
    }

    pub(crate) fn transfers(&self) -> Option<&Arc<Transfers>> {
        self.transfers.as_ref()
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// How many older snapshots differences can be given from.
    pub fn depth(&self) -> usize {
        self.history.len()
    }

    pub(crate) fn without_history(&self) -> Self {
        Self { history: History::default(), ..self.clone() }
    }

    pub(crate) fn apex(&self) -> &Apex {
        &self.apex
    }

    /// The services of one part of the table, or `None` behind the last part.
    pub(crate) fn entries_of(&self, part: usize) -> Option<impl Iterator<Item = (&[u8], &Entry)>> {
        Some(self.parts.get(part)?.iter().map(|(key, entry)| (&**key, &**entry)))
    }

    /// What is not the same as in the snapshot before.
    pub(crate) fn changes(&self) -> &Changes {
        &self.changes
    }

    /// The zone, signed with these keys; later snapshots are too. Only the apex is signed yet:
    /// [`Zone::caught_up`] signs the services. `now` is in seconds since 1970.
    pub fn with_keys(mut self, keys: Arc<Keys>, now: u64) -> Self {
        self.signed = Some(Signed::new(&self, keys, now));
        self
    }

    pub(crate) fn signed(&self) -> Option<&Signed> {
        self.signed.as_ref()
    }

    /// Whether something in a signed zone is not signed yet.
    pub fn is_behind(&self) -> bool {
        self.signed.as_ref().is_some_and(|s| !s.is_complete())
    }

    /// Whether [`Zone::caught_up`] would sign anything. Looks at every signature.
    pub fn has_signing_work(&self, now: u64) -> bool {
        self.signed.as_ref().is_some_and(|s| s.has_work(now))
    }

    /// The next snapshot, in which at most `most` services more are signed, or signed anew because
    /// their signatures grow old. Nothing else changes. `now` is in seconds since 1970.
    pub fn caught_up(&self, serial: Serial, most: usize, now: u64) -> Self {
        let mut next = self.clone();
        next.serial = serial;
        next.changes = Changes::default();
        if let Some(signed) = &self.signed {
            let (signed, changes) = signed.caught_up(&next, most, now);
            next.signed = Some(signed);
            next.changes = changes;
        }
        next.changes.base = Some(self.serial);
        next
    }

    pub(crate) fn entry_arc(&self, key: &[u8]) -> Option<&Arc<Entry>> {
        self.parts[part_of(key)].get(key)
    }

    pub(crate) fn entry(&self, key: &[u8]) -> Option<&Entry> {
        self.parts[part_of(key)].get(key).map(|e| &**e)
    }

    /// Snapshots share parts, so the first change to a part of a new snapshot copies it.
    fn set(
        &mut self,
        service: &ServiceId,
        answers: Option<&ServiceAnswers>,
    ) -> Result<(), ZoneError> {
        let key = service_key(service)
            .map_err(|source| ZoneError::Service { service: service.clone(), source })?;
        let part = Arc::make_mut(&mut self.parts[part_of(&key)]);
        let (before, after) = match answers {
            Some(answers) => {
                let entry = Entry::new(answers.clone(), &self.topology);
                (part.insert(key.clone(), Arc::new(entry)).is_some(), true)
            }
            None => (part.remove(&key).is_some(), false),
        };
        match (before, after) {
            (false, true) => count_parents(Arc::make_mut(&mut self.empty), &key, 1),
            (true, false) => count_parents(Arc::make_mut(&mut self.empty), &key, -1),
            (true, true) | (false, false) => {}
        }
        Ok(())
    }

    pub(crate) fn find(&self, name: &LowerName) -> Found<'_> {
        let Some(below) = name.below(&self.apex.name) else {
            return Found::Outside;
        };
        let host = self.apex.hosts.get(below.key()).map(Vec::as_slice);
        if below.count() == 0 {
            return Found::Apex(host.unwrap_or_default());
        }
        if let Some(addresses) = host {
            return Found::Host(addresses);
        }
        if below.count() == 1 && below.first() == b"reflect" {
            return Found::Reflect;
        }
        match self.find_service(below) {
            Some(found) => found,
            None if self.empty.contains_key(below.key()) => Found::Empty,
            None => Found::Missing,
        }
    }

    /// Services are three labels deep, and `site` lies below each of them.
    fn find_service(&self, name: Relative<'_>) -> Option<Found<'_>> {
        match name.count() {
            3 => Some(Found::Service(self.entry(name.key())?)),
            4 if name.first() == b"site" => {
                self.entry(name.parent()?.key())?;
                Some(Found::Empty)
            }
            5 => {
                let site = name.parent().filter(|p| p.first() == b"site")?;
                let entry = self.entry(site.parent()?.key())?;
                if name.first() == b"all" {
                    return Some(Found::AllSites(entry));
                }
                let is_it = |s: &_| site_name(s) == name.first();
                let at = entry.answers.sites.iter().position(is_it)?;
                Some(Found::Site(entry, at))
            }
            _ => None,
        }
    }
}

fn site_name(answers: &nett_policy::lower::answers::SiteAnswers) -> &[u8] {
    answers.site.as_str().as_bytes()
}

/// The service's key: its labels in wire form without a root label.
fn service_key(service: &ServiceId) -> Result<Box<[u8]>, NameError> {
    let name = LowerName::parse(&service.dns_name())?;
    let (_, labels) = name.wire().split_last().expect("a name ends in the root");
    Ok(labels.into())
}

/// FNV-1a; the tables inside the parts have their own keyed hash.
fn part_of(key: &[u8]) -> usize {
    let fold = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = key.iter().fold(0x811c_9dc5, fold);
    usize::try_from(hash ^ (hash >> 16)).expect("usize has 32 bits or more") % PARTS
}

/// Counts one name more or less below each of its parents, short of the apex.
fn count_parents(empty: &mut BTreeMap<Box<[u8]>, u32>, key: &[u8], change: i32) {
    let mut rest = key;
    while let Some((length, tail)) = rest.split_first() {
        rest = &tail[usize::from(*length)..];
        if rest.is_empty() {
            return;
        }
        let count = empty.entry(rest.into()).or_insert(0);
        *count = count.checked_add_signed(change).expect("no name leaves that did not come");
        if *count == 0 {
            empty.remove(rest);
        }
    }
}

// === impl Apex ===

impl Apex {
    fn new(zone: &fabric::Zone) -> Result<Self, ZoneError> {
        let name = LowerName::parse(&zone.name)
            .map_err(|source| ZoneError::Name { name: zone.name.clone(), source })?;
        let hostmaster = LowerName::parse(&zone.hostmaster)
            .map_err(|source| ZoneError::Hostmaster { name: zone.hostmaster.clone(), source })?;
        let mut ns = Vec::new();
        let mut hosts = BTreeMap::new();
        for server in &zone.ns {
            let host = LowerName::parse(&server.name)
                .map_err(|source| ZoneError::NameServer { name: server.name.clone(), source })?;
            ns.push(host.wire().into());
            if let Some(below) = host.below(&name) {
                hosts.insert(below.key().into(), server.addresses.clone());
            }
        }
        Ok(Self { name, ns, hostmaster: hostmaster.wire().into(), hosts })
    }

    /// The name servers inside the zone, by name below the apex.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = (&[u8], &[IpAddr])> {
        self.hosts.iter().map(|(name, addresses)| (&**name, addresses.as_slice()))
    }

    /// MNAME of the SOA record: the first name server.
    pub(crate) fn primary(&self) -> &[u8] {
        self.ns.first().map_or(self.name.wire(), |n| n)
    }

    /// The addresses of a name server of the zone, for the additional section.
    pub(crate) fn glue(&self, ns: &[u8]) -> &[IpAddr] {
        let below = ns.strip_suffix(self.name.wire());
        let addresses = below.and_then(|key| self.hosts.get(key));
        addresses.map(Vec::as_slice).unwrap_or_default()
    }
}

impl std::fmt::Debug for Apex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Apex").field("hosts", &self.hosts.len()).finish_non_exhaustive()
    }
}

// === impl Entry ===

impl Entry {
    fn new(answers: ServiceAnswers, topology: &Topology) -> Self {
        // RFC 2181 section 8: a TTL has 31 bits.
        const MAX_TTL: u64 = 0x7fff_ffff;
        let ttl = answers.ttl.as_secs().min(MAX_TTL);
        Self {
            plan: Plan::new(&answers, topology),
            ttl: u32::try_from(ttl).expect("31 bits"),
            answers,
        }
    }
}

#[cfg(test)]
mod tests;
