//! The zone as a list of records: what a secondary copies.
//!
//! Answers of the zone depend on the client, a copy does not. So the copy is what the clients of
//! one site are told; where clients of a block share a service between sites by weight, it is the
//! site with the greatest weight. `reflect` is an answer about its asker and is in no copy.
//!
//! Everything here is computed from one snapshot; nothing is kept.

use std::net::IpAddr;

use hickory_proto::rr::RecordType;
use nett_policy::fabric::Family;
use nett_policy::lower::answers::{SiteAnswers, SiteState, Standing};

use crate::client::Client;
use crate::entry::Details;
use crate::ports::{HTTPS_PORT, OWNER};
use crate::serial::Serial;
use crate::steer::{Plan, Target};
use crate::topology::{Located, SiteIndex, Topology};
use crate::write::service_binding;
use crate::zone::{Apex, NS_TTL, SOA_TTL, Zone};

/// One record of class IN.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    /// Labels below the apex in wire form, without a root label; empty at the apex.
    pub(crate) owner: Box<[u8]>,
    pub(crate) kind: u16,
    /// Seconds.
    pub(crate) ttl: u32,
    pub(crate) data: Box<[u8]>,
}

impl Record {
    pub(crate) fn new(
        owner: &[u8],
        kind: RecordType,
        ttl: u32,
        data: impl Into<Box<[u8]>>,
    ) -> Self {
        Self { owner: owner.into(), kind: kind.into(), ttl, data: data.into() }
    }

    fn address(owner: &[u8], ttl: u32, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => Self::new(owner, RecordType::A, ttl, a.octets()),
            IpAddr::V6(a) => Self::new(owner, RecordType::AAAA, ttl, a.octets()),
        }
    }
}

/// The SOA record, with which a copy begins and ends.
pub(crate) fn soa(apex: &Apex, serial: Serial) -> Record {
    Record::new(&[], RecordType::SOA, SOA_TTL, apex.soa(serial))
}

/// The records of the fabric except SOA: name servers and their addresses.
pub(crate) fn of_apex(apex: &Apex) -> Vec<Record> {
    let ns = apex.ns.iter().map(|n| Record::new(&[], RecordType::NS, NS_TTL, n.clone()));
    let mut records: Vec<Record> = ns.collect();
    for (name, addresses) in apex.hosts() {
        push_addresses(&mut records, name, NS_TTL, addresses.iter().copied());
    }
    records.sort();
    records.dedup();
    records
}

/// All records of one service, whose own name is `key`, for clients of `site`; sorted.
pub(crate) fn of_service(
    zone: &Zone,
    key: &[u8],
    entry: &Details,
    site: Option<SiteIndex>,
) -> Vec<Record> {
    let mut records = Vec::new();
    let ttl = entry.ttls().steered;
    match target(entry.plan(), zone.topology(), site) {
        Target::Site(at) => {
            let addresses = entry.fixed().sites.get(at).map(|s| &s.addresses);
            let addresses = addresses.into_iter().flatten().copied();
            push_addresses(&mut records, key, ttl, addresses);
        }
        Target::Address(address) => records.push(Record::address(key, ttl, address)),
        Target::Refused => {}
    }
    records.extend(apart_from_addresses(zone, key, entry));
    records.sort();
    records
}

/// All records of one service but the addresses of its own name, which are steered.
pub(crate) fn apart_from_addresses(zone: &Zone, key: &[u8], entry: &Details) -> Vec<Record> {
    let mut records = Vec::new();
    let ttls = entry.ttls();
    push_sites(&mut records, key, entry, &|_| true, None);
    let below = below_sites(key);
    for (at, site) in entry.fixed().sites.iter().enumerate() {
        let name = child(site.site.as_str().as_bytes(), &below);
        push_sites(&mut records, &name, entry, &|other| other == at, Some(ttls.lasting));
    }
    let eligible = |at: usize| entry.site(at).is_some_and(|site| site.state != SiteState::Drained);
    push_sites(&mut records, &child(b"all", &below), entry, &eligible, Some(ttls.told));
    push_ports(&mut records, zone, key, entry);
    records
}

/// `site.SERVICE`, under which each site has a name.
pub(crate) fn below_sites(key: &[u8]) -> Vec<u8> {
    child(b"site", key)
}

/// A label in front of a name.
pub(crate) fn child(label: &[u8], parent: &[u8]) -> Vec<u8> {
    let length = u8::try_from(label.len()).expect("a label of ours");
    [&[length], label, parent].concat()
}

/// Who clients of `site` are sent to.
pub(crate) fn target(plan: &Plan, topology: &Topology, site: Option<SiteIndex>) -> Target {
    if let Plan::Shares(shares) = plan {
        // The first of the greatest.
        let greatest = shares.iter().rev().max_by_key(|share| share.weight);
        return greatest.map_or(Target::Refused, |share| Target::Site(share.position));
    }
    let client = Client::new(IpAddr::from([0; 4]), None);
    let found = site.map(|site| (site, client.network()));
    plan.choose(topology, &client, &Located { found, scope: 0 }).target
}

/// Text, and addresses with a TTL if asked for, of the sites of a service that `wanted` names by
/// place.
fn push_sites(
    records: &mut Vec<Record>,
    owner: &[u8],
    entry: &Details,
    wanted: &dyn Fn(usize) -> bool,
    addresses_ttl: Option<u32>,
) {
    let sites = || entry.sites().enumerate().filter(|(at, _)| wanted(*at));
    let mut text = Vec::new();
    for (_, site) in sites() {
        let line = line(entry, &site);
        text.push(u8::try_from(line.len()).expect("below 255: ids have 63 characters"));
        text.extend_from_slice(line.as_bytes());
    }
    if !text.is_empty() {
        records.push(Record::new(owner, RecordType::TXT, entry.ttls().told, text));
    }
    if let Some(ttl) = addresses_ttl {
        let addresses = sites().flat_map(|(_, s)| s.addresses.iter().copied());
        push_addresses(records, owner, ttl, addresses);
    }
}

/// What names a service's ports: SRV, SVCB and HTTPS, in the form that `ports.rs` answers with.
fn push_ports(records: &mut Vec<Record>, zone: &Zone, key: &[u8], entry: &Details) {
    let (ports, ttl) = (&entry.fixed().ports, entry.ttls().lasting);
    let target = [key, zone.apex().name.wire()].concat();
    for (at, port) in ports.iter().enumerate() {
        // Of two ports of one name the first is answered.
        if ports[..at].iter().any(|p| p.name == port.name) {
            continue;
        }
        let label = format!("_{}", port.name);
        let srv = [&[0; 4][..], &port.port.to_be_bytes(), &target].concat();
        let name = child(label.as_bytes(), &child(b"_tcp", key));
        records.push(Record::new(&name, RecordType::SRV, ttl, srv));
        let mut svcb = Vec::new();
        service_binding(&mut svcb, &target, Some(port.port));
        let name = child(label.as_bytes(), key);
        records.push(Record::new(&name, RecordType::SVCB, ttl, svcb));
    }
    if let Some(port) = ports.iter().find(|p| p.name == "https") {
        let mut https = Vec::new();
        service_binding(&mut https, OWNER, (port.port != HTTPS_PORT).then_some(port.port));
        records.push(Record::new(key, RecordType::HTTPS, ttl, https));
    }
}

/// A site's line of text.
pub(crate) fn line(entry: &Details, site: &SiteAnswers<'_>) -> String {
    let SiteAnswers { site, addresses: _, state, weight, health } = site;
    let (state, health) = (state.as_str(), health.as_str());
    let (epoch, mark) = (entry.epoch(), mark(entry.standing()));
    format!("site={site} state={state} weight={weight} health={health} epoch={epoch}{mark}")
}

/// What is behind each site's line where a lease was taken without a majority of the voters.
pub(crate) fn mark(standing: &Standing) -> &'static str {
    if standing.unprotected { " lease=unprotected" } else { "" }
}

/// Each address once: a set has no repeats (RFC 2181 section 5).
fn push_addresses(
    records: &mut Vec<Record>,
    owner: &[u8],
    ttl: u32,
    addresses: impl Iterator<Item = IpAddr>,
) {
    let from = records.len();
    for address in addresses {
        let record = Record::address(owner, ttl, address);
        if !records[from..].contains(&record) {
            records.push(record);
        }
    }
}

/// The addresses of one family, each once, in the order given.
pub(crate) fn of_family(addresses: &[IpAddr], family: Family) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for address in addresses.iter().filter(|a| Family::of(**a) == family) {
        if !found.contains(address) {
            found.push(*address);
        }
    }
    found
}
