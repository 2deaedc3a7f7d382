//! Counters of the name server: plain atomics that any thread adds to and the agent exports.
//!
//! They only go up, also over a change of the fabric, and live as long as the process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use hickory_proto::op::ResponseCode;
use ipnet::IpNet;
use nett_policy::id::SiteId;

use crate::answer::{DropReason, Outcome, Steered, Transport};
use crate::dnssec::SigningStats;
use crate::topology::{SiteIndex, Topology};
use crate::transfer::TransferStats;

/// The response codes this server gives, with the names of the metric label.
const RCODES: [(ResponseCode, &str); 9] = [
    (ResponseCode::NoError, "noerror"),
    (ResponseCode::FormErr, "formerr"),
    (ResponseCode::NXDomain, "nxdomain"),
    (ResponseCode::NotImp, "notimp"),
    (ResponseCode::Refused, "refused"),
    (ResponseCode::BADVERS, "badvers"),
    (ResponseCode::BADCOOKIE, "badcookie"),
    (ResponseCode::ServFail, "servfail"),
    (ResponseCode::NotAuth, "notauth"),
];

const TRANSPORTS: [(Transport, &str); 4] = [
    (Transport::Udp, "udp"),
    (Transport::Tcp, "tcp"),
    (Transport::Tls, "tls"),
    (Transport::Https, "https"),
];

const REASONS: [(DropReason, &str); 10] = [
    (DropReason::Short, "short"),
    (DropReason::Response, "response"),
    (DropReason::PortZero, "port_zero"),
    (DropReason::Send, "send"),
    (DropReason::Panic, "panic"),
    (DropReason::Connection, "connection_limit"),
    (DropReason::Evicted, "evicted"),
    (DropReason::Handshake, "handshake"),
    (DropReason::Rate, "rate_limit"),
    (DropReason::Rush, "rush"),
];

/// Upper ends of the classes of [`Stats::answer_seconds`], in microseconds. An answer takes a few;
/// what takes milliseconds lost its processor in between.
const ANSWER_MICROS: [u16; 10] = [2, 5, 10, 20, 50, 100, 250, 1000, 5000, 25_000];

/// How long answers took, from the question's arrival to the answer's departure.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerSeconds {
    /// Upper end of each class in seconds, and how many answers took at most so long.
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    pub sum: f64,
}

/// How many limited networks are remembered, and for how long.
const MOST_LIMITED: usize = 64;
const REMEMBERED: Duration = Duration::from_secs(60);

/// A network whose equal answers were limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// An IPv4 /24 or an IPv6 /56.
    pub network: IpNet,
    /// Answers not sent, or sent without records; at least so many.
    pub withheld: u64,
    pub last: Instant,
}

/// All counters of one name server.
#[derive(Debug, Default)]
pub struct Stats {
    limited: Mutex<BTreeMap<IpNet, Limited>>,
    /// One more class than ends.
    answer_classes: [AtomicU64; ANSWER_MICROS.len() + 1],
    answer_nanos: AtomicU64,
    queries: [[AtomicU64; RCODES.len()]; TRANSPORTS.len()],
    dropped: [AtomicU64; REASONS.len()],
    truncated: AtomicU64,
    slipped: AtomicU64,
    /// Errors of accept(2), each followed by a pause.
    accept_errors: AtomicU64,
    /// Errors of recv(2) on UDP sockets.
    receive_errors: AtomicU64,
    connections: AtomicU64,
    /// Copies of the zone.
    pub transfers: TransferStats,
    /// Signatures of the zone.
    pub signing: Arc<SigningStats>,
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
        self.count_drops(reason, 1);
    }

    pub(crate) fn count_drops(&self, reason: DropReason, how_many: u64) {
        self.dropped[reason as usize].fetch_add(how_many, Ordering::Relaxed);
    }

    /// Notes how long an answer over UDP took.
    pub(crate) fn answered_in(&self, time: Duration) {
        let within = |end: &u16| time <= Duration::from_micros(u64::from(*end));
        let class = ANSWER_MICROS.iter().position(within).unwrap_or(ANSWER_MICROS.len());
        add(&self.answer_classes[class]);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.answer_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Notes that a network was limited. Never waits: when two threads note at once, one does not.
    pub(crate) fn limit(&self, network: IpNet, now: Instant) {
        let Ok(mut limited) = self.limited.try_lock() else { return };
        if limited.len() >= MOST_LIMITED && !limited.contains_key(&network) {
            limited.retain(|_, l| now.saturating_duration_since(l.last) <= REMEMBERED);
            if limited.len() >= MOST_LIMITED {
                return;
            }
        }
        let one = limited.entry(network).or_insert(Limited { network, withheld: 0, last: now });
        let forgotten = now.saturating_duration_since(one.last) > REMEMBERED;
        one.withheld = if forgotten { 1 } else { one.withheld + 1 };
        one.last = now;
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

    /// Networks that were limited in the last minute, most first.
    pub fn limited(&self) -> Vec<Limited> {
        let mut limited = self.limited.lock().unwrap_or_else(PoisonError::into_inner);
        limited.retain(|_, l| l.last.elapsed() <= REMEMBERED);
        let mut rows: Vec<Limited> = limited.values().copied().collect();
        rows.sort_by_key(|l| std::cmp::Reverse(l.withheld));
        rows
    }

    /// For `nett_dns_answer_seconds`: answers over UDP.
    pub fn answer_seconds(&self) -> AnswerSeconds {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(ANSWER_MICROS.len());
        for (end, class) in ANSWER_MICROS.iter().zip(&self.answer_classes) {
            count += get(class);
            buckets.push((f64::from(*end) / 1e6, count));
        }
        count += get(&self.answer_classes[ANSWER_MICROS.len()]);
        let sum = Duration::from_nanos(get(&self.answer_nanos)).as_secs_f64();
        AnswerSeconds { buckets, count, sum }
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

    #[test]
    fn limited_networks_are_remembered_within_bounds() {
        let stats = Stats::default();
        let now = Instant::now();
        let network = |n: u8| format!("10.0.{n}.0/24").parse().expect("a network");
        for n in 0..200 {
            stats.limit(network(n), now);
        }
        stats.limit(network(3), now);
        let limited = stats.limited();
        assert_eq!((limited.len(), limited[0].network, limited[0].withheld), (64, network(3), 2));
    }

    #[test]
    fn answers_are_sorted_by_how_long_they_took() {
        let stats = Stats::default();
        for micros in [1, 2, 3, 40_000] {
            stats.answered_in(Duration::from_micros(micros));
        }
        let AnswerSeconds { buckets, count, sum } = stats.answer_seconds();
        assert_eq!((buckets[0], buckets[1], buckets[9]), ((2e-6, 2), (5e-6, 3), (0.025, 3)));
        assert_eq!((count, sum), (4, 0.040_006));
    }
}
