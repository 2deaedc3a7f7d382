//! Counters of copies: plain atomics, as all counters of the name server.

use std::sync::atomic::{AtomicU64, Ordering};

/// What became of transfers and of notifications, since the process began.
#[derive(Debug, Default)]
pub struct TransferStats {
    counts: [AtomicU64; NAMES.len()],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    Whole,
    Difference,
    Unchanged,
    Refused,
    Busy,
    Broken,
    NotifySent,
    NotifyHeard,
    NotifyGivenUp,
    BadKey,
}

/// `(kind, result)` of each count, in the order of [`Count`].
const NAMES: [(&str, &str); 10] = [
    ("transfer", "whole"),
    ("transfer", "difference"),
    ("transfer", "unchanged"),
    ("transfer", "refused"),
    ("transfer", "busy"),
    ("transfer", "broken"),
    ("notify", "sent"),
    ("notify", "heard"),
    ("notify", "given_up"),
    ("signature", "failed"),
];

impl TransferStats {
    pub(crate) fn count(&self, what: Count) {
        self.counts[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A copy that was not finished.
    pub(crate) fn broken(&self) {
        self.count(Count::Broken);
    }

    fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'static str, u64)> + 'a {
        let rows = NAMES.iter().zip(&self.counts).filter(move |((k, _), _)| *k == kind);
        rows.map(|((_, result), count)| (*result, count.load(Ordering::Relaxed)))
    }

    /// `(result, count)` for `nett_dns_transfers_total`.
    pub fn transfers(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.of("transfer")
    }

    /// `(result, count)` for `nett_dns_notifies_total`.
    pub fn notifies(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.of("notify")
    }

    /// Messages whose transaction signature did not hold.
    pub fn bad_signatures(&self) -> u64 {
        self.counts[Count::BadKey as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_order_of_the_enum() {
        let stats = TransferStats::default();
        stats.count(Count::Busy);
        stats.count(Count::NotifyGivenUp);
        stats.count(Count::BadKey);
        let some = |rows: Vec<(&'static str, u64)>| {
            rows.into_iter().filter(|(_, n)| *n > 0).collect::<Vec<_>>()
        };
        assert_eq!(some(stats.transfers().collect()), [("busy", 1)]);
        assert_eq!(some(stats.notifies().collect()), [("given_up", 1)]);
        assert_eq!(stats.bad_signatures(), 1);
    }
}
