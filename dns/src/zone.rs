//! The zone: an immutable, numbered snapshot of everything the name server says.
//!
//! A question loads the current snapshot once and reads nothing else, so an answer is never from
//! two versions. [`Zone::with`] makes the next one by copying only the part of the table that the
//! changed services live in; the rest is shared. Snapshots are never edited, and [`publish`] lets
//! the serial go only forward.
//!
//! Nothing here is stored: after a crash the agent builds the zone again, under a higher number.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use nett_policy::fabric::{self, Fabric};
use nett_policy::id::{ServiceId, SiteId};
use nett_policy::lower::answers::{Answers, ServiceAnswers};
use nett_policy::nearness::RoundTrips;
use nett_policy::service::FixedAnswers;

use crate::changes::Changes;
use crate::clock::unix_time;
use crate::deadline::Deadlines;
use crate::dnssec::{Keys, Signed};
use crate::entry::{Entry, Steerings};
use crate::name::{LowerName, NameError, Relative, push_key};
use crate::serial::Serial;
use crate::table::Table;
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
/// TTL of the SOA record beside a negative answer: the lesser of the two (RFC 2308 section 3).
pub(crate) const NEGATIVE_TTL: u32 = if SOA_TTL < MINIMUM { SOA_TTL } else { MINIMUM };
/// Changed services that are looked at together.
const AHEAD: usize = 64;
/// TTL of the NS records and of the addresses of name servers.
pub const NS_TTL: u32 = 3600;

/// What a whole zone is made of.
#[derive(Debug, Clone, Copy)]
pub struct ZoneSource<'a> {
    pub zone: &'a fabric::Zone,
    /// Sites with their prefixes, ranks and link costs, and the outside clients.
    pub fabric: &'a Fabric,
    /// The site this name server stands in.
    pub home: Option<&'a SiteId>,
    pub serial: Serial,
    pub services: &'a Answers,
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
    services: Table,
    /// The data of the SOA record, with this snapshot's serial.
    soa: Box<[u8]>,
    /// Who may copy the zone; nobody without it.
    transfers: Option<Arc<Transfers>>,
    history: History,
    delta: Delta,
    signed: Option<Signed>,
    /// Services that end by themselves.
    deadlines: Option<Arc<Deadlines>>,
}

/// What differs between a snapshot and the one it was made from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Delta {
    /// The serial of that one; unknown for the first.
    pub(crate) base: Option<Serial>,
    /// Keys of services.
    pub(crate) services: BTreeSet<Box<[u8]>>,
    /// Order keys of links of the NSEC chain.
    pub(crate) links: BTreeSet<Box<[u8]>>,
    /// Whether signatures changed of what the fabric names.
    pub(crate) fixed: bool,
}

/// What the fabric says about the zone itself.
pub(crate) struct Apex {
    pub(crate) name: LowerName,
    /// Names of the name servers in wire form.
    pub(crate) ns: Vec<Box<[u8]>>,
    pub(crate) hostmaster: Box<[u8]>,
    /// Addresses of name servers inside the zone, by name below the apex.
    hosts: BTreeMap<Box<[u8]>, Vec<IpAddr>>,
    /// The most labels below the apex that any of them has: most names asked for have more.
    host_labels: usize,
}

/// The two names of a port, below those of its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PortName {
    /// `_NAME._tcp` (RFC 2782).
    Srv,
    /// `_NAME` (RFC 9460 section 2.3, without a port of its own in front).
    Svcb,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Found<'a> {
    Apex(&'a [IpAddr]),
    Host(&'a [IpAddr]),
    Reflect,
    Service(Entry<'a>),
    /// The site at this position of the service.
    Site(Entry<'a>, usize),
    AllSites(Entry<'a>),
    /// The port at this position of the service.
    Port(Entry<'a>, usize, PortName),
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
    let (serial, whole) = (next.serial, next.can_be_copied());
    current.store(Arc::new(next));
    if let Some(transfers) = transfers.filter(|_| whole) {
        transfers.publish(serial);
    }
    Ok(())
}

// === impl Zone ===

impl Zone {
    pub fn build(source: ZoneSource<'_>) -> Result<Self, ZoneError> {
        let ZoneSource { zone, fabric, home, serial, services } = source;
        let apex = Apex::new(zone)?;
        let mut table = Table::new();
        for host in apex.hosts.keys() {
            table.count_parents(host, 1);
        }
        let mut built = Self {
            serial,
            soa: apex.soa(serial),
            apex: Arc::new(apex),
            topology: Arc::new(Topology::new(fabric, home)),
            services: table,
            transfers: None,
            history: History::default(),
            delta: Delta::default(),
            signed: None,
            deadlines: None,
        };
        built.set(services.iter().map(|(id, answers)| (id, Some(answers))));
        Ok(built)
    }

    /// The next snapshot: `changes` replace (or, as `None`, remove) the answers of single
    /// services. Takes time by the number of changes, not by the size of the zone.
    pub fn with(&self, changes: &Changes<'_>, serial: Serial) -> Self {
        let mut next = self.clone();
        next.serial = serial;
        next.soa = next.apex.soa(serial);
        next.set(changes.iter());
        // Nobody asks what changed in a zone that is neither copied nor signed.
        next.delta = Delta { base: Some(self.serial), ..Delta::default() };
        if self.transfers.is_some() || self.signed.is_some() {
            next.delta.services = changes.iter().map(|(id, _)| service_key(id)).collect();
        }
        if let Some(signed) = &self.signed {
            next.signed = Some(signed.after(&next, &next.delta.services, unix_time()));
        }
        next
    }

    /// The next snapshot, with other times between sites: see [`Topology::with_rtts`]. `None` when
    /// they make no difference to anybody. Services are prepared by places in the fabric, which do
    /// not change.
    pub fn with_rtts(&self, rtts: &RoundTrips, serial: Serial) -> Option<Self> {
        let topology = self.topology.with_rtts(rtts);
        if topology.has_order_of(&self.topology) {
            return None;
        }
        let mut next = self.clone();
        next.serial = serial;
        next.soa = next.apex.soa(serial);
        next.topology = Arc::new(topology);
        next.delta = Delta { base: Some(self.serial), ..Delta::default() };
        if self.transfers.is_some() {
            // Who is nearest may have changed for the site that a copy is made for.
            let nearest = self.services.entries().filter(|e| e.plan().is_by_distance());
            next.delta.services = nearest.map(|e| e.key().into()).collect();
        }
        next.signed = self.signed.as_ref().map(|s| s.renumbered(&next, unix_time()));
        Some(next)
    }

    pub fn serial(&self) -> Serial {
        self.serial
    }

    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// How many services have a name.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    pub fn is_empty(&self) -> bool {
        self.services.len() == 0
    }

    /// The answers of one service as this snapshot has them.
    pub fn answers(&self, service: &ServiceId) -> Option<ServiceAnswers> {
        Some(self.services.get(&service_key(service))?.answers())
    }

    /// The zone with its secondaries; all later snapshots have them too.
    pub fn with_transfers(mut self, transfers: Arc<Transfers>) -> Self {
        self.transfers = Some(transfers);
        self
    }

    /// The zone with limits to look at with every question; all later snapshots have them too.
    pub fn with_deadlines(mut self, deadlines: Arc<Deadlines>) -> Self {
        self.deadlines = Some(deadlines);
        self
    }

    /// True when what is known about a service was for a time that is over.
    pub(crate) fn is_over(&self, fixed: &FixedAnswers) -> bool {
        self.deadlines.as_ref().is_some_and(|deadlines| deadlines.is_over(&fixed.service))
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

    /// The zone, signed with these keys; later snapshots are too. Only the apex is signed yet:
    /// [`Zone::caught_up`] signs the services, and until it has signed them all once, questions
    /// with the DO bit get SERVFAIL where the answer is not signed yet. `now` is in seconds since
    /// 1970.
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

    /// Whether the zone can be copied: not while its first signatures are made.
    pub(crate) fn can_be_copied(&self) -> bool {
        self.signed.as_ref().is_none_or(Signed::was_complete)
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
        next.soa = next.apex.soa(serial);
        next.delta = Delta::default();
        if let Some(signed) = &self.signed {
            let (signed, delta) = signed.caught_up(&next, most, now);
            next.signed = Some(signed);
            next.delta = delta;
        }
        next.delta.base = Some(self.serial);
        next
    }

    /// What is not the same as in the snapshot before.
    pub(crate) fn delta(&self) -> &Delta {
        &self.delta
    }

    pub(crate) fn apex(&self) -> &Apex {
        &self.apex
    }

    pub(crate) fn services(&self) -> &Table {
        &self.services
    }

    /// The data of the SOA record (RFC 1035 section 3.3.13).
    pub(crate) fn soa(&self) -> &[u8] {
        &self.soa
    }

    fn set<'a>(
        &mut self,
        services: impl ExactSizeIterator<Item = (&'a ServiceId, Option<&'a ServiceAnswers>)>,
    ) {
        let mut changes = Vec::with_capacity(services.len());
        let mut services = services.peekable();
        let mut steerings = Steerings::default();
        let (mut bytes, mut keys) = (Vec::new(), Vec::new());
        let (mut named, mut ahead) = (Vec::with_capacity(AHEAD), Vec::with_capacity(AHEAD));
        while services.peek().is_some() {
            keys.clear();
            ahead.clear();
            // Each of these reads goes to a place in memory of its own. Without work between them
            // the processor waits for many at once.
            named.clear();
            named.extend(services.by_ref().take(AHEAD));
            for (service, _) in &named {
                black_box(service.as_str().as_bytes().first());
            }
            for (service, answers) in named.drain(..) {
                let from = keys.len();
                push_key(service, &mut keys);
                let hash = self.services.hash(&keys[from..]);
                ahead.push((from..keys.len(), hash, answers));
            }
            for (_, hash, _) in &ahead {
                black_box(self.services.peek(*hash));
            }
            for (key, hash, answers) in ahead.drain(..) {
                let key = (hash, &keys[key]);
                changes.push(match answers {
                    Some(answers) => {
                        let steerings = (&mut steerings, &*self.topology);
                        self.services.put(key, answers, steerings, &mut bytes)
                    }
                    None => self.services.remove(key, &mut bytes),
                });
            }
        }
        self.services.apply(changes, &bytes);
    }

    pub(crate) fn find(&self, name: &LowerName) -> Found<'_> {
        match name.below(&self.apex.name) {
            Some(below) => self.find_below(below),
            None => Found::Outside,
        }
    }

    /// As [`Zone::find`], for a name that is known to be in the zone.
    pub(crate) fn find_below(&self, below: Relative<'_>) -> Found<'_> {
        let host = self.apex.host(&below);
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
            None if self.services.is_above(below.key()) => Found::Empty,
            None => Found::Missing,
        }
    }

    /// Services are three labels deep, and `site` lies below each of them.
    fn find_service(&self, name: Relative<'_>) -> Option<Found<'_>> {
        match name.count() {
            3 => Some(Found::Service(self.services.get(name.key())?)),
            4 => {
                let entry = self.services.get(name.parent()?.key())?;
                match name.first() {
                    b"site" => Some(Found::Empty),
                    b"_tcp" if !entry.fixed().ports.is_empty() => Some(Found::Empty),
                    label => Some(Found::Port(entry, port(entry, label)?, PortName::Svcb)),
                }
            }
            5 if name.parent()?.first() == b"_tcp" => {
                let entry = self.services.get(name.parent()?.parent()?.key())?;
                Some(Found::Port(entry, port(entry, name.first())?, PortName::Srv))
            }
            5 => {
                let site = name.parent().filter(|p| p.first() == b"site")?;
                let entry = self.services.get(site.parent()?.key())?;
                if name.first() == b"all" {
                    return Some(Found::AllSites(entry));
                }
                let is_it = |s: &_| site_name(s) == name.first();
                let at = entry.fixed().sites.iter().position(is_it)?;
                Some(Found::Site(entry, at))
            }
            _ => None,
        }
    }
}

/// The port whose name the label is, with a `_` in front.
fn port(entry: Entry<'_>, label: &[u8]) -> Option<usize> {
    let name = label.strip_prefix(b"_")?;
    entry.fixed().ports.iter().position(|p| p.name.as_bytes() == name)
}

fn site_name(answers: &nett_policy::service::SiteAddresses) -> &[u8] {
    answers.site.as_str().as_bytes()
}

/// The service's key: its labels in wire form without a root label.
fn service_key(service: &ServiceId) -> Box<[u8]> {
    let mut key = Vec::new();
    push_key(service, &mut key);
    key.into()
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
        let mut host_labels = 0;
        for server in &zone.ns {
            let host = LowerName::parse(&server.name)
                .map_err(|source| ZoneError::NameServer { name: server.name.clone(), source })?;
            ns.push(host.wire().into());
            if let Some(below) = host.below(&name) {
                hosts.insert(below.key().into(), server.addresses.clone());
                host_labels = host_labels.max(below.count());
            }
        }
        Ok(Self { name, ns, hostmaster: hostmaster.wire().into(), hosts, host_labels })
    }

    /// The addresses of the name server with this name.
    fn host(&self, name: &Relative<'_>) -> Option<&[IpAddr]> {
        if name.count() > self.host_labels {
            return None;
        }
        self.hosts.get(name.key()).map(Vec::as_slice)
    }

    /// The name servers inside the zone, by name below the apex.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = (&[u8], &[IpAddr])> {
        self.hosts.iter().map(|(name, addresses)| (&**name, addresses.as_slice()))
    }

    /// The data of the SOA record of the snapshot with this serial.
    pub(crate) fn soa(&self, serial: Serial) -> Box<[u8]> {
        let mut data = [self.primary(), &self.hostmaster].concat();
        for number in [serial.0, REFRESH, RETRY, EXPIRE, MINIMUM] {
            data.extend(number.to_be_bytes());
        }
        data.into_boxed_slice()
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

#[cfg(test)]
mod tests;
