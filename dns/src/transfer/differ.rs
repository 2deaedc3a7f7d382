//! What a secondary must take away and add to get from one snapshot to another.

use crate::dnssec::Signed;
use crate::records::{Record, of_apex, of_service};
use crate::topology::SiteIndex;
use crate::zone::{Delta, Zone};

/// Records without SOA; both lists are sorted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) gone: Vec<Record>,
    pub(crate) new: Vec<Record>,
}

impl Difference {
    /// Takes time by what changed, which `delta` says.
    pub(crate) fn between(old: &Zone, new: &Zone, delta: &Delta, site: Option<SiteIndex>) -> Self {
        let (before, after) = (some(old, delta, site), some(new, delta, site));
        Self { gone: without(&before, &after), new: without(&after, &before) }
    }

    pub(crate) fn len(&self) -> usize {
        self.gone.len() + self.new.len()
    }
}

/// The records of a zone that `delta` speaks of, sorted.
fn some(zone: &Zone, delta: &Delta, site: Option<SiteIndex>) -> Vec<Record> {
    let Delta { base: _, services, links, fixed } = delta;
    let mut records = Vec::new();
    match zone.signed() {
        None => {
            let entries = services.iter().filter_map(|key| zone.services().get(key));
            let details = entries.map(|e| (e.key(), e.details()));
            records.extend(details.flat_map(|(key, d)| of_service(zone, key, &d, site)));
        }
        Some(signed) => {
            if *fixed {
                signed.fixed_records(zone, &mut records);
            }
            let mut links = links.clone();
            for key in services {
                signed.service_records(zone, key, site, &mut records);
                // Its types may depend on where the service is.
                links.insert(Signed::link_of_service(key));
            }
            links.iter().for_each(|key| signed.link_records(zone, key, site, &mut records));
            signed.soa_records(&mut records);
            // The SOA record itself frames the difference; its signature is a part of it.
            records.retain(|r| r.kind != u16::from(hickory_proto::rr::RecordType::SOA));
        }
    }
    records.sort();
    records
}

/// The records of `all` that are not in `others`; both are sorted.
fn without(all: &[Record], others: &[Record]) -> Vec<Record> {
    let missing = |record: &&Record| others.binary_search(record).is_err();
    all.iter().filter(missing).cloned().collect()
}

/// The records of the whole zone, in pieces; without SOA but with its signature.
#[derive(Debug)]
pub(crate) struct Pieces {
    /// The parts of an unsigned zone, or the keys of a signed one.
    state: State,
}

#[derive(Debug)]
enum State {
    Plain { part: Option<usize> },
    Signed { begun: bool, services: Vec<Box<[u8]>>, links: Vec<Box<[u8]>> },
}

/// Keys of a piece.
const PIECE: usize = 128;

impl Pieces {
    pub(crate) fn new(zone: &Zone) -> Self {
        let state = match zone.signed() {
            None => State::Plain { part: None },
            Some(signed) => State::Signed {
                begun: false,
                services: signed.service_keys(),
                links: signed.link_keys(),
            },
        };
        Self { state }
    }

    /// The next piece, which may be empty; `None` behind the last one.
    pub(crate) fn next(&mut self, zone: &Zone, site: Option<SiteIndex>) -> Option<Vec<Record>> {
        let mut records = Vec::new();
        match (&mut self.state, zone.signed()) {
            (State::Plain { part }, _) => {
                let Some(at) = part else {
                    *part = Some(0);
                    return Some(of_apex(zone.apex()));
                };
                let details = zone.services().entries_of(*at)?.map(|e| (e.key(), e.details()));
                *at += 1;
                records.extend(details.flat_map(|(key, d)| of_service(zone, key, &d, site)));
            }
            (State::Signed { begun, services, links }, Some(signed)) => {
                if !*begun {
                    *begun = true;
                    signed.soa_records(&mut records);
                    records.retain(|r| r.kind != u16::from(hickory_proto::rr::RecordType::SOA));
                    signed.fixed_records(zone, &mut records);
                } else if !services.is_empty() {
                    let rest = services.len().saturating_sub(PIECE);
                    for key in services.drain(rest..) {
                        signed.service_records(zone, &key, site, &mut records);
                    }
                } else if !links.is_empty() {
                    let rest = links.len().saturating_sub(PIECE);
                    for key in links.drain(rest..) {
                        signed.link_records(zone, &key, site, &mut records);
                    }
                } else {
                    return None;
                }
            }
            (State::Signed { .. }, None) => return None,
        }
        Some(records)
    }
}
