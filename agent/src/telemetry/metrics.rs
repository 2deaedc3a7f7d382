//! Handles of everything that is counted where it happens. Made once, registered with a registry
//! that is passed in, cloned to whoever counts.
//!
//! It never reads a clock and never asks anybody: what others own (the controller's view, the name
//! server's counters) is turned into numbers at scrape time, in [`super::scrape`].
//!
//! Crash story: everything starts from zero with the process, which Prometheus takes for a reset.
//! Traffic is the exception: it starts from what the kernel has counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use super::event::Emit;
use super::metric_name::{self as name, Metric};
use super::ready::Duty;
use super::seldom::Seldom;
use crate::kernel::Count;

/// Cheap to clone; all clones count the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    ready: IntGaugeVec,
    pub(super) loop_lag: Gauge,
    pub(super) kernel_ops: IntCounterVec,
    pub(super) kernel_apply: Histogram,
    pub(super) kernel_drift: IntCounterVec,
    pub(super) kernel_resync: IntCounterVec,
    kernel_foreign: IntGauge,
    kernel_contested: IntGauge,
    pub(super) netlink_overruns: IntCounter,
    traffic: Traffic,
    pub(super) neighbour_up: IntGaugeVec,
    pub(super) bfd_transitions: IntCounterVec,
    pub(super) link_losses: IntCounterVec,
    pub(super) separation_alarms: IntCounterVec,
    pub(super) entries: IntCounterVec,
    pub(super) entries_refused: IntCounterVec,
    pub(super) journal_fsync: Histogram,
    pub(super) journal_degraded: IntGauge,
    pub(super) seldom: Arc<Lines>,
}

/// Lines of the log that others can cause.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) entry: Seldom,
    pub(super) report: Seldom,
}

#[derive(Debug, Clone)]
struct Traffic {
    packets: IntCounterVec,
    bytes: IntCounterVec,
    /// What the kernel had at the last look.
    last: Arc<Mutex<BTreeMap<String, Count>>>,
}

/// Seconds: a few netlink messages take under a millisecond, ten thousand routes a second.
const APPLY_BUCKETS: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];
/// Seconds: flash takes under a millisecond, a loaded disk tens, a dying one seconds.
const FSYNC_BUCKETS: [f64; 10] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 1.0, 5.0];

// === impl Metrics ===

impl Metrics {
    /// # Errors
    /// When a metric of the same name is in `registry` already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let build = IntGaugeVec::new(opts(&name::BUILD_INFO), name::BUILD_INFO.labels)?;
        registry.register(Box::new(build.clone()))?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let ready = IntGaugeVec::new(opts(&name::READY), name::READY.labels)?;
        registry.register(Box::new(ready.clone()))?;
        for duty in Duty::ALL {
            ready.with_label_values(&[duty.as_str()]).set(0);
        }
        let loop_lag = Gauge::with_opts(opts(&name::EVENT_LOOP_LAG_SECONDS))?;
        registry.register(Box::new(loop_lag.clone()))?;
        let journal_degraded = IntGauge::with_opts(opts(&name::JOURNAL_DEGRADED))?;
        registry.register(Box::new(journal_degraded.clone()))?;
        let netlink_overruns = IntCounter::with_opts(opts(&name::NETLINK_OVERRUNS_TOTAL))?;
        registry.register(Box::new(netlink_overruns.clone()))?;
        Ok(Self {
            ready,
            loop_lag,
            kernel_ops: counters(registry, &name::KERNEL_OPS_TOTAL)?,
            kernel_apply: histogram(registry, &name::KERNEL_APPLY_SECONDS, &APPLY_BUCKETS)?,
            kernel_drift: counters(registry, &name::KERNEL_DRIFT_TOTAL)?,
            kernel_resync: counters(registry, &name::KERNEL_RESYNC_TOTAL)?,
            kernel_foreign: gauge(registry, &name::KERNEL_FOREIGN)?,
            kernel_contested: gauge(registry, &name::KERNEL_CONTESTED)?,
            netlink_overruns,
            traffic: Traffic {
                packets: counters(registry, &name::TRAFFIC_PACKETS_TOTAL)?,
                bytes: counters(registry, &name::TRAFFIC_BYTES_TOTAL)?,
                last: Arc::default(),
            },
            separation_alarms: counters(registry, &name::SEPARATION_ALARMS_TOTAL)?,
            neighbour_up: gauges(registry, &name::NEIGHBOUR_UP)?,
            link_losses: counters(registry, &name::LINK_LOSSES_TOTAL)?,
            bfd_transitions: counters(registry, &name::BFD_TRANSITIONS_TOTAL)?,
            entries: counters(registry, &name::ENTRIES_TOTAL)?,
            entries_refused: counters(registry, &name::ENTRIES_REFUSED_TOTAL)?,
            journal_fsync: histogram(registry, &name::JOURNAL_FSYNC_SECONDS, &FSYNC_BUCKETS)?,
            journal_degraded,
            seldom: Arc::default(),
        })
    }

    /// Logs and counts.
    pub fn emit(&self, event: impl Emit) {
        event.emit(self);
    }

    /// Latches a duty: from here on it counts as fulfilled.
    pub fn fulfil(&self, duty: Duty) {
        self.ready.with_label_values(&[duty.as_str()]).set(1);
    }

    pub fn is_fulfilled(&self, duty: Duty) -> bool {
        self.ready.with_label_values(&[duty.as_str()]).get() == 1
    }

    /// How many objects of others stand in our place, and how many of ours are fought over.
    pub fn kernel_trouble(&self, foreign: usize, contested: usize) {
        let number = |n| i64::try_from(n).unwrap_or(i64::MAX);
        self.kernel_foreign.set(number(foreign));
        self.kernel_contested.set(number(contested));
    }

    /// Adds what the kernel has counted since the last look, by `CLASS` or `CLASS.SITE`. A value
    /// below the last one is that of a new table, so all of it is new.
    pub fn traffic(&self, counters: &BTreeMap<String, Count>) {
        let Traffic { packets, bytes, last } = &self.traffic;
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, now) in counters {
            let (class, peer) = name.split_once('.').unwrap_or((name, ""));
            let before = last.insert(name.clone(), *now).unwrap_or_default();
            let replaced = now.packets < before.packets || now.bytes < before.bytes;
            let before = if replaced { Count::default() } else { before };
            packets.with_label_values(&[class, peer]).inc_by(now.packets - before.packets);
            bytes.with_label_values(&[class, peer]).inc_by(now.bytes - before.bytes);
        }
    }
}

pub(super) fn opts(metric: &Metric) -> Opts {
    Opts::new(metric.name, metric.help)
}

fn gauge(registry: &Registry, metric: &Metric) -> Result<IntGauge, prometheus::Error> {
    let gauge = IntGauge::with_opts(opts(metric))?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn gauges(registry: &Registry, metric: &Metric) -> Result<IntGaugeVec, prometheus::Error> {
    let gauges = IntGaugeVec::new(opts(metric), metric.labels)?;
    registry.register(Box::new(gauges.clone()))?;
    Ok(gauges)
}

fn counters(registry: &Registry, metric: &Metric) -> Result<IntCounterVec, prometheus::Error> {
    let counters = IntCounterVec::new(opts(metric), metric.labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

fn histogram(
    registry: &Registry,
    metric: &Metric,
    buckets: &[f64],
) -> Result<Histogram, prometheus::Error> {
    let opts = HistogramOpts::from(opts(metric)).buckets(buckets.to_vec());
    let histogram = Histogram::with_opts(opts)?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(packets: u64) -> BTreeMap<String, Count> {
        BTreeMap::from([("stray".to_owned(), Count { packets, bytes: packets * 100 })])
    }

    #[test]
    fn traffic_goes_on_over_a_new_table() {
        let metrics = Metrics::register(&Registry::new()).expect("an empty registry");
        let total = || {
            let Traffic { packets, bytes, last: _ } = &metrics.traffic;
            let of = |counters: &IntCounterVec| counters.with_label_values(&["stray", ""]).get();
            (of(packets), of(bytes))
        };
        for (kernel, sum) in [(5, 5), (7, 7), (7, 7), (3, 10), (4, 11), (0, 11), (2, 13)] {
            metrics.traffic(&count(kernel));
            assert_eq!(total(), (sum, sum * 100), "after {kernel}");
        }
        metrics.traffic(&BTreeMap::new());
        metrics.traffic(&count(2));
        assert_eq!(total().0, 13, "a table that was away for a moment kept its counters");
    }

    #[test]
    fn a_duty_stays_fulfilled() {
        let metrics = Metrics::register(&Registry::new()).expect("an empty registry");
        assert!(!metrics.is_fulfilled(Duty::Zone));
        metrics.fulfil(Duty::Zone);
        metrics.clone().fulfil(Duty::Zone);
        assert!(metrics.is_fulfilled(Duty::Zone) && !metrics.is_fulfilled(Duty::Kernel));
    }
}
