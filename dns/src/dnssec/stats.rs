//! Counters of signing: plain atomics, as all counters of the name server.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct SigningStats {
    signatures: AtomicU64,
    waiting: AtomicU64,
    earliest_expiry: AtomicU64,
}

impl SigningStats {
    pub(super) fn signed(&self) {
        self.signatures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn waiting_for(&self, services: usize) {
        self.waiting.store(u64::try_from(services).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Notes when the first signature runs out, in seconds since 1970.
    pub fn expires(&self, at: u64) {
        self.earliest_expiry.store(at, Ordering::Relaxed);
    }

    /// Signatures made since the process began.
    pub fn signatures(&self) -> u64 {
        self.signatures.load(Ordering::Relaxed)
    }

    /// Services whose newest records are not signed yet.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// When the first signature runs out, in seconds since 1970; `None` in an unsigned zone.
    pub fn earliest_expiry(&self) -> Option<u64> {
        Some(self.earliest_expiry.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }
}
