//! The signed side of a snapshot: what questions with the DO bit are answered from.
//!
//! It is a value like the snapshot, and shares with the one before it all that did not change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::fast::RandomState;
use hickory_proto::rr::RecordType;
use ring::digest::{SHA256, digest};
use rpds::HashTrieMapSync;

use super::chain::{Chain, Types};
use super::key::{ALGORITHM, Keys};
use super::service::SignedService;
use super::set::{SignedSet, Unsigned};
use crate::records::{Record, of_apex, soa};
use crate::serial::Serial;
use crate::topology::SiteIndex;
use crate::zone::{Delta, NS_TTL, Zone};

/// SOA records are signed for so many snapshots to come.
const SOAS_AHEAD: u32 = 16;
/// The label of the name that tells a client about itself; see [`reflect`].
pub(super) const REFLECT: &[u8] = b"\x07reflect";

#[derive(Debug, Clone)]
pub(crate) struct Signed {
    keys: Arc<Keys>,
    /// Sets that the fabric names, by owner: the apex without SOA, and name servers.
    fixed: Arc<BTreeMap<Box<[u8]>, Vec<SignedSet>>>,
    soa: Arc<SignedSet>,
    /// SOA records of the next snapshots, by serial.
    ahead: Arc<BTreeMap<u32, Arc<SignedSet>>>,
    services: HashTrieMapSync<Box<[u8]>, Arc<SignedService>, RandomState>,
    chain: Chain,
    /// Services of which something is not signed.
    waiting: Arc<BTreeSet<Box<[u8]>>>,
    /// Everything was signed at some time. Before that the chain denies names that exist.
    was_complete: bool,
}

impl Signed {
    /// The apex is signed, and all services wait.
    pub(crate) fn new(zone: &Zone, keys: Arc<Keys>, now: u64) -> Self {
        let soa = Arc::new(keys.sign(soa_set(zone, zone.serial()), now));
        let mut new = Self {
            fixed: Arc::new(BTreeMap::new()),
            soa,
            ahead: Arc::default(),
            services: HashTrieMapSync::new_with_hasher_and_ptr_kind(RandomState::default()),
            chain: Chain::default(),
            waiting: Arc::new(zone.services().entries().map(|e| e.key().into()).collect()),
            was_complete: false,
            keys,
        };
        let mut delta = Delta::default();
        new.renew_fixed(zone, now, &mut delta);
        new.measure();
        new
    }

    pub(super) fn soa(&self) -> &SignedSet {
        &self.soa
    }

    pub(super) fn fixed(&self, owner: &[u8]) -> Option<&[SignedSet]> {
        self.fixed.get(owner).map(Vec::as_slice)
    }

    pub(super) fn service(&self, key: &[u8]) -> Option<&SignedService> {
        self.services.get(key).map(|s| &**s)
    }

    pub(super) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Whether nothing waits to be signed.
    pub(crate) fn is_complete(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether names may be denied, and copies given: not before all was signed once.
    pub(crate) fn was_complete(&self) -> bool {
        self.was_complete
    }

    /// The signed side of the next snapshot. Services whose addresses are signed already are moved
    /// at once; all changed ones wait for what is not signed.
    pub(crate) fn after(&self, next: &Zone, changed: &BTreeSet<Box<[u8]>>, now: u64) -> Self {
        let mut after = self.clone();
        after.number(next, now);
        let waiting = Arc::make_mut(&mut after.waiting);
        for key in changed {
            let (entry, service) = (next.services().get(key), after.services.get(key));
            if let (Some(entry), Some(service)) = (entry, service)
                && let Some(moved) = service.moved(key, &entry.details())
            {
                after.services.insert_mut(key.clone(), Arc::new(moved));
            }
            waiting.insert(key.clone());
        }
        after.measure();
        after
    }

    /// The same under the serial of the next snapshot, where nothing else is to be signed.
    pub(crate) fn renumbered(&self, next: &Zone, now: u64) -> Self {
        let mut after = self.clone();
        after.number(next, now);
        after
    }

    /// Takes the SOA record of the snapshot from those that are ready.
    fn number(&mut self, next: &Zone, now: u64) {
        let serial = next.serial();
        let ready = self.ahead.get(&serial.0).filter(|set| !self.keys.is_due(set, now));
        self.soa = match ready {
            Some(set) => Arc::clone(set),
            None => Arc::new(self.keys.sign(soa_set(next, serial), now)),
        };
    }

    /// Whether there is anything for [`Signed::caught_up`] to do. Looks at every signature, and
    /// notes which one runs out first.
    pub(crate) fn has_work(&self, now: u64) -> bool {
        let services = self.services.values().flat_map(|s| s.all_sets());
        let links = self.chain.iter().flat_map(|(_, link)| link.sets());
        let fixed = self.fixed.values().flatten().chain([&*self.soa]);
        let first = fixed.chain(services).chain(links).min_by_key(|set| set.expires());
        let first = first.expect("the SOA record is one");
        self.keys.stats().expires(first.expires());
        !self.waiting.is_empty() || self.keys.is_due(first, now)
    }

    /// Signs what waits and what grows old, of at most `most` services, for the next snapshot.
    pub(crate) fn caught_up(&self, next: &Zone, most: usize, now: u64) -> (Self, Delta) {
        let mut after = self.clone();
        let mut delta = Delta::default();
        after.number(next, now);
        after.renew_fixed(next, now, &mut delta);
        let due = |set: &SignedSet| self.keys.is_due(set, now);
        let mut work: Vec<Box<[u8]>> = self.waiting.iter().take(most).cloned().collect();
        let old = self.services.iter().filter(|(_, s)| s.all_sets().any(due));
        let old = old.filter(|(key, _)| !self.waiting.contains(*key)).map(|(key, _)| key.clone());
        work.extend(old.take(most - work.len()));
        let signed = in_parallel(&work, |key| {
            let entry = next.services().get(key)?.details();
            let old = self.services.get(key).map(|s| &**s);
            let with = (&*self.keys, now);
            Some(Arc::new(SignedService::sign(next, key, &entry, old, with)))
        });
        let (mut gone, mut new) = (BTreeSet::new(), BTreeMap::new());
        for (key, service) in work.iter().zip(signed) {
            let before = self.services.get(key).map(|s| s.names(key));
            gone.extend(before.into_iter().flatten().map(|(name, _)| name));
            match service {
                Some(service) => {
                    new.extend(service.names(key));
                    after.services.insert_mut(key.clone(), service);
                }
                None => drop(after.services.remove_mut(key)),
            }
        }
        let links = self.chain.iter().filter(|(_, link)| link.sets().iter().any(due));
        let links = links.map(|(key, _)| key.clone()).take(most).collect();
        let with = (&*self.keys, now);
        delta.links.extend(after.chain.change(&gone, new, &links, with));
        let waiting = Arc::make_mut(&mut after.waiting);
        for key in &work {
            waiting.remove(key);
        }
        after.was_complete |= after.waiting.is_empty();
        delta.services.extend(work);
        after.prepare(next, now);
        after.measure();
        (after, delta)
    }

    /// Signs SOA records of snapshots to come, and forgets those of the past.
    fn prepare(&mut self, next: &Zone, now: u64) {
        let mut ahead = BTreeMap::new();
        let mut serial = next.serial();
        for _ in 0..SOAS_AHEAD {
            serial = serial.next();
            let ready = self.ahead.get(&serial.0).filter(|set| !self.keys.is_due(set, now));
            let signed = || Arc::new(self.keys.sign(soa_set(next, serial), now));
            ahead.insert(serial.0, ready.cloned().unwrap_or_else(signed));
        }
        self.ahead = Arc::new(ahead);
    }

    /// Signs what the fabric says, where that is due.
    fn renew_fixed(&mut self, zone: &Zone, now: u64, delta: &mut Delta) {
        let due = |set: &SignedSet| self.keys.is_due(set, now);
        if !self.fixed.is_empty() && !self.fixed.values().flatten().any(due) {
            return;
        }
        let mut fixed: BTreeMap<Box<[u8]>, Vec<SignedSet>> = BTreeMap::new();
        for set in Unsigned::group(fixed_records(zone, &self.keys)) {
            // A delegation is not the zone's own (RFC 4035 section 2.2).
            if *set.owner == *REFLECT {
                continue;
            }
            let was = self.fixed.get(&set.owner).map_or(&[][..], Vec::as_slice);
            let same = was.iter().find(|s| *s.set() == set && !due(s)).cloned();
            let owner = set.owner.clone();
            let signed = same.unwrap_or_else(|| self.keys.sign(set, now));
            fixed.entry(owner).or_default().push(signed);
        }
        let mut names: BTreeMap<Box<[u8]>, Vec<Types>> = BTreeMap::new();
        for (owner, sets) in &fixed {
            let mut types: Types = sets.iter().map(SignedSet::kind).collect();
            if owner.is_empty() {
                types.push(RecordType::SOA.into());
            }
            types.sort_unstable();
            names.insert(owner.clone(), vec![types]);
        }
        names.insert(REFLECT.into(), vec![vec![RecordType::NS.into()]]);
        let with = (&*self.keys, now);
        let nothing = BTreeSet::new();
        delta.links.extend(self.chain.change(&nothing, names, &BTreeSet::new(), with));
        delta.fixed = true;
        self.fixed = Arc::new(fixed);
    }

    fn measure(&self) {
        self.keys.stats().waiting_for(self.waiting.len());
    }

    // What a secondary copies.

    pub(crate) fn soa_records(&self, into: &mut Vec<Record>) {
        self.soa.records(into);
    }

    pub(crate) fn fixed_records(&self, zone: &Zone, into: &mut Vec<Record>) {
        self.fixed.values().flatten().for_each(|set| set.records(into));
        into.extend(delegation(zone));
    }

    pub(crate) fn service_records(
        &self,
        zone: &Zone,
        key: &[u8],
        site: Option<SiteIndex>,
        into: &mut Vec<Record>,
    ) {
        if let Some(service) = self.services.get(key) {
            service.records(zone, site, into);
        }
    }

    /// The keys of all services, which are more than fit into a message.
    pub(crate) fn service_keys(&self) -> Vec<Box<[u8]>> {
        self.services.keys().cloned().collect()
    }

    pub(crate) fn link_keys(&self) -> Vec<Box<[u8]>> {
        self.chain.iter().map(|(key, _)| key.clone()).collect()
    }

    pub(crate) fn link_records(
        &self,
        zone: &Zone,
        key: &[u8],
        site: Option<SiteIndex>,
        into: &mut Vec<Record>,
    ) {
        let Some(link) = self.chain.by_key(key) else { return };
        let service = self.services.get(link.owner());
        let types = service.map(|s| s.copied_types(zone, link.owner(), site));
        link.set(types.as_deref()).records(into);
    }

    /// The name of a link's service, if it is one: its NSEC record depends on where that is.
    pub(crate) fn link_of_service(key: &[u8]) -> Box<[u8]> {
        super::names::order(key)
    }
}

fn soa_set(zone: &Zone, serial: Serial) -> Unsigned {
    let Record { owner, kind, ttl, data } = soa(zone.apex(), serial);
    Unsigned { owner, kind, ttl, data: vec![data] }
}

/// `reflect` is an answer about its asker, which nobody can sign beforehand. So it is a zone of its
/// own that is not signed, on the same servers; the delegation says so (RFC 4035 section 5.2).
fn delegation(zone: &Zone) -> impl Iterator<Item = Record> + '_ {
    zone.apex().ns.iter().map(|ns| Record::new(REFLECT, RecordType::NS, NS_TTL, ns.clone()))
}

/// NS, addresses of name servers, and the key set with what the parent zone reads of it.
fn fixed_records(zone: &Zone, keys: &Keys) -> Vec<Record> {
    let mut records = of_apex(zone.apex());
    let push = |records: &mut Vec<Record>, kind, data: Vec<u8>| {
        records.push(Record::new(&[], kind, NS_TTL, data));
    };
    for key in keys.all() {
        push(&mut records, RecordType::DNSKEY, key.record());
    }
    for key in keys.entry_points() {
        let record = key.record();
        // RFC 7344, RFC 8078; the digest is of the owner and the record (RFC 4034 section 5.1.4).
        const SHA_256: u8 = 2;
        let hash = digest(&SHA256, &[keys.zone().wire(), &record].concat());
        let mut cds = key.tag().to_be_bytes().to_vec();
        cds.extend_from_slice(&[ALGORITHM, SHA_256]);
        cds.extend_from_slice(hash.as_ref());
        push(&mut records, RecordType::CDS, cds);
        push(&mut records, RecordType::CDNSKEY, record);
    }
    records
}

/// Maps on all processors; small lists on this one alone.
pub(super) fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    const WORTH_A_THREAD: usize = 64;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = items.len().div_ceil(threads).max(WORTH_A_THREAD);
    if items.len() <= share {
        return items.iter().map(work).collect();
    }
    let work = &work;
    std::thread::scope(|scope| {
        let parts: Vec<_> = items
            .chunks(share)
            .map(|part| scope.spawn(move || part.iter().map(work).collect::<Vec<R>>()))
            .collect();
        parts.into_iter().flat_map(|p| p.join().expect("signing does not panic")).collect()
    })
}
