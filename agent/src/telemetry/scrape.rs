//! One page of metrics: what was counted where it happened, and what is read off its owners now.
//!
//! Series made here hold only names that are configured now; one that is gone vanishes with the
//! next scrape. Nothing is kept between scrapes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nett_dns::{AnswerSeconds, Stats};
use nett_policy::id::{LinkId, SiteId};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, Bucket, Histogram, MetricFamily};
use prometheus::{GaugeVec, IntCounterVec, Registry, TextEncoder};

use super::metric_name::{self as name, Metric};
use super::metrics::{Metrics, opts};
use crate::bus::intake::Door;
use crate::bus::intake::ledger::{Fate, Ledger};
use crate::controller::{ServiceSnapshot, Snapshot};
use nett_policy::task::times::Cost;

/// The media type of [`Scrape::text`].
pub const TEXT_FORMAT: &str = prometheus::TEXT_FORMAT;

/// Everything that a page of metrics is made from.
#[derive(Debug, Clone)]
pub struct Scrape {
    pub registry: Registry,
    pub metrics: Metrics,
    pub dns: Arc<Stats>,
    pub intake: Arc<Ledger>,
}

/// The controller's answer to a scrape; none when it had none in time.
#[derive(Debug)]
pub struct Answer {
    pub snapshot: Option<Snapshot>,
    /// How long it took, or how long it was waited for.
    pub after: Duration,
}

// === impl Scrape ===

impl Scrape {
    /// The page in the text format. Without a snapshot the controller's families are left out:
    /// old values would look like new ones.
    pub fn text(&self, answer: &Answer) -> String {
        self.metrics.loop_lag.set(answer.after.as_secs_f64());
        let fresh = Registry::new();
        dns(&fresh, &self.dns);
        let intake = self.intake.totals().into_iter();
        let labels = |door: Door, fate: Fate| [door.as_str(), fate.as_str()].map(str::to_owned);
        let rows = intake.map(|(door, fate, n)| (labels(door, fate).into(), n));
        counters(&fresh, &name::INTAKE_TOTAL, rows);
        if let Some(snapshot) = &answer.snapshot {
            present(&fresh, snapshot);
        }
        let mut families = self.registry.gather();
        families.extend(fresh.gather());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        TextEncoder::new()
            .encode_to_string(&families)
            .expect("every family has a name and a metric")
    }
}

/// A gauge with these rows: label values and value.
fn gauges(fresh: &Registry, metric: &Metric, rows: impl IntoIterator<Item = (Vec<String>, f64)>) {
    let gauges = GaugeVec::new(opts(metric), metric.labels).expect("a valid name and labels");
    for (labels, value) in rows {
        gauges.with_label_values(&labels).set(value);
    }
    fresh.register(Box::new(gauges)).expect("every name is made once");
}

fn counters(fresh: &Registry, metric: &Metric, rows: impl IntoIterator<Item = (Vec<String>, u64)>) {
    let counters =
        IntCounterVec::new(opts(metric), metric.labels).expect("a valid name and labels");
    for (labels, value) in rows {
        counters.with_label_values(&labels).inc_by(value);
    }
    fresh.register(Box::new(counters)).expect("every name is made once");
}

fn single(fresh: &Registry, metric: &Metric, value: impl Into<f64>) {
    gauges(fresh, metric, [(Vec::new(), value.into())]);
}

fn dns(fresh: &Registry, stats: &Stats) {
    let label = |text: &str| text.to_owned();
    let site = |site: Option<SiteId>| site.map_or_else(|| label("none"), |s| s.to_string());
    let queries = stats.queries().map(|(rcode, via, n)| (vec![label(rcode), label(via)], n));
    let answers = stats.answers().into_iter();
    let answers = answers.map(|(client, target, n)| (vec![site(client), site(target)], n));
    let dropped = stats.dropped().map(|(reason, n)| (vec![label(reason)], n));
    counters(fresh, &name::DNS_QUERIES_TOTAL, queries);
    counters(fresh, &name::DNS_ANSWERS_TOTAL, answers);
    counters(fresh, &name::DNS_DROPPED_TOTAL, dropped);
    let by_result = |(result, n)| (vec![label(result)], n);
    let copies = &stats.transfers;
    counters(fresh, &name::DNS_TRANSFERS_TOTAL, copies.transfers().map(by_result));
    counters(fresh, &name::DNS_NOTIFIES_TOTAL, copies.notifies().map(by_result));
    let bad = [(Vec::new(), copies.bad_signatures())];
    counters(fresh, &name::DNS_BAD_SIGNATURES_TOTAL, bad);
    let made = [(Vec::new(), stats.signing.signatures())];
    counters(fresh, &name::DNS_SIGNATURES_TOTAL, made);
    if let Some(expires) = stats.signing.earliest_expiry() {
        single(fresh, &name::DNS_SIGNATURE_EXPIRES_SECONDS, exact(expires));
        single(fresh, &name::DNS_UNSIGNED_SERVICES, exact(stats.signing.waiting()));
    }
    let times = Counted { metric: &name::DNS_ANSWER_SECONDS, times: stats.answer_seconds() };
    fresh.register(Box::new(times)).expect("every name is made once");
}

/// A histogram that somebody else has counted.
struct Counted {
    metric: &'static Metric,
    times: AnswerSeconds,
}

impl Collector for Counted {
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let AnswerSeconds { buckets, count, sum } = &self.times;
        let bucket = |(end, count): &(f64, u64)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*end);
            bucket.set_cumulative_count(*count);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.iter().map(bucket).collect());
        histogram.set_sample_count(*count);
        histogram.set_sample_sum(*sum);
        let mut metric = proto::Metric::default();
        metric.set_histogram(histogram);
        let mut family = MetricFamily::default();
        family.set_name(self.metric.name.to_owned());
        family.set_help(self.metric.help.to_owned());
        family.set_field_type(proto::MetricType::HISTOGRAM);
        family.set_metric(vec![metric]);
        vec![family]
    }
}

fn present(fresh: &Registry, snapshot: &Snapshot) {
    let Snapshot {
        bus_connected,
        bus_heard,
        sites_connected,
        peer_lag,
        links,
        held,
        saturated,
        rtts,
        tasks,
        services,
        dns_serial,
        dns_listening,
        conflicts,
        leases,
        unprotected,
        voters,
        facts,
        costs,
    } = snapshot;
    let lag = peer_lag.iter().map(|(site, lag)| (vec![site.to_string()], lag.as_secs_f64()));
    let flags = |of: &BTreeMap<LinkId, bool>| {
        let rows = of.iter().map(|(link, is)| (vec![link.to_string()], f64::from(*is)));
        rows.collect::<Vec<_>>()
    };
    let tasks = tasks.iter().map(|(state, n)| (vec![state.as_str().to_owned()], f64::from(*n)));
    let mut epochs = Vec::new();
    let mut shares = Vec::new();
    for (service, ServiceSnapshot { epoch, percent }) in services {
        epochs.push((vec![service.to_string()], exact(epoch.0)));
        shares.extend(percent.iter().map(|(site, percent)| {
            (vec![service.to_string(), site.to_string()], f64::from(*percent))
        }));
    }
    single(fresh, &name::BUS_CONNECTED, *bus_connected);
    if let Some(heard) = bus_heard {
        single(fresh, &name::BUS_HEARD, *heard);
    }
    single(fresh, &name::SITES_CONNECTED, *sites_connected);
    gauges(fresh, &name::PEER_LAG_SECONDS, lag);
    gauges(fresh, &name::LINK_UP, flags(links));
    gauges(fresh, &name::LINK_HELD, flags(held));
    gauges(fresh, &name::LINK_SATURATED, flags(saturated));
    let rtts = rtts.iter().map(|(link, rtt)| (vec![link.to_string()], rtt.as_secs_f64()));
    gauges(fresh, &name::LINK_RTT_SECONDS, rtts);
    gauges(fresh, &name::TASKS, tasks);
    gauges(fresh, &name::SERVICE_EPOCH, epochs);
    gauges(fresh, &name::SERVICE_WEIGHT, shares);
    single(fresh, &name::CONFLICTS, *conflicts);
    let left = leases.iter().map(|(service, left)| (vec![service.to_string()], left.as_secs_f64()));
    gauges(fresh, &name::LEASE_REMAINING_SECONDS, left);
    let unprotected = unprotected.iter().map(|service| (vec![service.to_string()], 1.0));
    gauges(fresh, &name::LEASE_UNPROTECTED, unprotected);
    let generation = |(of, number): (&&str, &u32)| (vec![(*of).to_owned()], f64::from(*number));
    let generations = voters.iter().map(generation);
    gauges(fresh, &name::VOTERS_GENERATION, generations);
    let fact = |(labels, value): (&[String; 3], &f64)| (labels.to_vec(), *value);
    gauges(fresh, &name::FACT_VALUE, facts.iter().map(fact));
    let seconds = |of: fn(&Cost) -> Option<Duration>| {
        let known = costs.iter().filter_map(move |(service, cost)| {
            Some((vec![service.to_string()], of(cost)?.as_secs_f64()))
        });
        known.collect::<Vec<_>>()
    };
    gauges(fresh, &name::TASK_RTO_SECONDS, seconds(|cost| cost.rto));
    gauges(fresh, &name::TASK_RPO_SECONDS, seconds(|cost| cost.rpo));
    if let Some(listening) = dns_listening {
        single(fresh, &name::DNS_LISTENING, *listening);
    }
    if let Some(serial) = dns_serial {
        single(fresh, &name::DNS_SERIAL, *serial);
    }
}

/// Epochs count moves: far below 2^53, where doubles begin to skip whole numbers.
#[expect(clippy::cast_precision_loss, reason = "see above; the text format has doubles only")]
fn exact(number: u64) -> f64 {
    number as f64
}
