//! Counters of the name server: plain atomics that any thread adds to and the agent exports.
//!
//! They only go up, also over a change of the fabric, and live as long as the process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use hickory_proto::op::ResponseCode;
use nett_policy::id::SiteId;

use crate::answer::{DropReason, Outcome, Steered, Transport};
use crate::topology::{SiteIndex, Topology};

/// The response codes this server gives, with the names of the metric label.
const RCODES: [(ResponseCode, &str); 7] = [
    (ResponseCode::NoError, "noerror"),
    (ResponseCode::FormErr, "formerr"),
    (ResponseCode::NXDomain, "nxdomain"),
    (ResponseCode::NotImp, "notimp"),
    (ResponseCode::Refused, "refused"),
    (ResponseCode::BADVERS, "badvers"),
    (ResponseCode::BADCOOKIE, "badcookie"),
];

const TRANSPORTS: [(Transport, &str); 4] = [
    (Transport::Udp, "udp"),
    (Transport::Tcp, "tcp"),
    (Transport::Tls, "tls"),
    (Transport::Https, "https"),
];

const REASONS: [(DropReason, &str); 7] = [
    (DropReason::Short, "short"),
    (DropReason::Response, "response"),
    (DropReason::PortZero, "port_zero"),
    (DropReason::Send, "send"),
    (DropReason::Panic, "panic"),
    (DropReason::Connection, "connection_limit"),
    (DropReason::Rate, "rate_limit"),
];

/// All counters of one name server.
#[derive(Debug, Default)]
pub struct Stats {
    queries: [[AtomicU64; RCODES.len()]; TRANSPORTS.len()],
    dropped: [AtomicU64; REASONS.len()],
    truncated: AtomicU64,
    slipped: AtomicU64,
    /// Errors of accept(2), each followed by a pause.
    accept_errors: AtomicU64,
    /// Errors of recv(2) on UDP sockets.
    receive_errors: AtomicU64,
    connections: AtomicU64,
    pairs: ArcSwapOption<Pairs>,
    by_name: Mutex<BTreeMap<Pair, Arc<AtomicU64>>>,
}

/// Client site and target site; `None` is an unknown client, or no site as target.
type Pair = (Option<SiteId>, Option<SiteId>);

/// The counters of one topology, by index: what a question touches.
#[derive(Debug)]
struct Pairs {
    topology: Arc<Topology>,
    /// One more row and column than sites, for `None`.
    counters: Vec<Arc<AtomicU64>>,
}

// === impl Stats ===

impl Stats {
    /// Counts what became of one message.
    pub fn count(&self, transport: Transport, outcome: &Outcome, topology: &Arc<Topology>) {
        match *outcome {
            Outcome::Dropped(reason) => self.count_drop(reason),
            Outcome::Reply { rcode, truncated, steered, sender: _ } => {
                if let Some(at) = RCODES.iter().position(|(code, _)| *code == rcode) {
                    add(&self.queries[transport as usize][at]);
                }
                if truncated {
                    add(&self.truncated);
                }
                if let Some(steered) = steered {
                    self.steered(steered, topology);
                }
            }
        }
    }

    pub(crate) fn count_drop(&self, reason: DropReason) {
        add(&self.dropped[reason as usize]);
    }

    pub(crate) fn slip(&self) {
        add(&self.slipped);
    }

    pub(crate) fn accept_error(&self) {
        add(&self.accept_errors);
    }

    pub(crate) fn receive_error(&self) {
        add(&self.receive_errors);
    }

    pub(crate) fn connection(&self) {
        add(&self.connections);
    }

    fn steered(&self, steered: Steered, topology: &Arc<Topology>) {
        let pairs = self.pairs.load();
        match pairs.as_ref() {
            Some(pairs) if Arc::ptr_eq(&pairs.topology, topology) => pairs.add(steered),
            // The first question after a change of the fabric.
            _ => self.enter(topology).add(steered),
        }
    }

    /// Makes the counters of `topology` the current ones; pairs known by name go on counting.
    fn enter(&self, topology: &Arc<Topology>) -> Arc<Pairs> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let names = || topology.sites().iter().map(Some).chain([None]);
        let counters = names()
            .flat_map(|client| names().map(move |target| (client.cloned(), target.cloned())))
            .map(|pair| by_name.entry(pair).or_default().clone())
            .collect();
        let pairs = Arc::new(Pairs { topology: Arc::clone(topology), counters });
        self.pairs.store(Some(Arc::clone(&pairs)));
        pairs
    }

    /// `(rcode, transport, count)` for `nett_dns_queries_total`.
    pub fn queries(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        TRANSPORTS.into_iter().flat_map(move |(transport, label)| {
            let rows = RCODES.iter().zip(&self.queries[transport as usize]);
            rows.map(move |((_, rcode), count)| (*rcode, label, get(count)))
        })
    }

    /// `(reason, count)` for `nett_dns_dropped_total`.
    pub fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let rows = REASONS.iter().zip(&self.dropped);
        rows.map(|((_, reason), count)| (*reason, get(count)))
    }

    /// `(client site, target site, count)` for `nett_dns_answers_total`, without zeros.
    pub fn answers(&self) -> Vec<(Option<SiteId>, Option<SiteId>, u64)> {
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = by_name
            .iter()
            .map(|((client, target), count)| (client.clone(), target.clone(), get(count)));
        rows.filter(|(_, _, count)| *count > 0).collect()
    }

    /// Answers over UDP that said: ask again over TCP.
    pub fn truncated(&self) -> u64 {
        get(&self.truncated)
    }

    /// Answers that rate limiting replaced by: ask again over TCP.
    pub fn slipped(&self) -> u64 {
        get(&self.slipped)
    }

    pub fn accept_errors(&self) -> u64 {
        get(&self.accept_errors)
    }

    pub fn receive_errors(&self) -> u64 {
        get(&self.receive_errors)
    }

    /// TCP connections taken since start.
    pub fn connections(&self) -> u64 {
        get(&self.connections)
    }
}

impl Pairs {
    fn add(&self, steered: Steered) {
        let Steered { client, target } = steered;
        let sites = self.topology.sites().len();
        let at = |site: Option<SiteIndex>| site.map_or(sites, |s| usize::from(s.0));
        add(&self.counters[at(client) * (sites + 1) + at(target)]);
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_follow_the_order_of_their_enums() {
        for (at, (reason, _)) in REASONS.iter().enumerate() {
            assert_eq!(*reason as usize, at);
        }
        for (at, (transport, _)) in TRANSPORTS.iter().enumerate() {
            assert_eq!(*transport as usize, at);
        }
        let stats = Stats::default();
        stats.count_drop(DropReason::PortZero);
        let counted: Vec<_> = stats.dropped().filter(|(_, n)| *n > 0).collect();
        assert_eq!(counted, [("port_zero", 1)]);
    }
}
