//! Who was turned away, how often and why: for `nettctl status`, the metrics, and one line of the
//! log a second, whatever comes.
//!
//! It decides nothing, and it is bounded: of very many names only the last are told apart. A
//! process that starts begins with nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Door;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Passed,
    /// It was looked at and is not good.
    Refused,
    /// It was not looked at, or there were too many of its kind.
    Dropped,
}

/// Somebody of whom more was turned away than happens by mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flood {
    pub door: Door,
    /// In whose name it comes; whether that is true only a good signature says.
    pub from: String,
    /// Where the last of it wanted its answer: names the connection.
    pub reply_to: String,
    pub refused: u64,
    pub dropped: u64,
    /// One word about the last one.
    pub why: &'static str,
    /// Since the last one.
    pub age: Duration,
}

/// Refusals for the audit trail, since the last time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub reason: &'static str,
    pub message: String,
    pub count: u64,
}

/// One ledger is shared by all doors of an agent.
#[derive(Debug, Default)]
pub struct Ledger {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    accounts: BTreeMap<(Door, String), Account>,
    totals: [[u64; 3]; 4],
    said: Option<Instant>,
    recorded: Option<Instant>,
    unrecorded: u64,
}

#[derive(Debug)]
struct Account {
    refused: u64,
    dropped: u64,
    /// Of both, since the last line of the log.
    unsaid: u64,
    why: &'static str,
    reply_to: String,
    last: Instant,
}

/// Names that are told apart.
const ACCOUNTS: usize = 64;
/// After so long a silence an account begins anew.
const QUIET: Duration = Duration::from_secs(60);
/// So many refusals in a row are no flood yet.
const FEW: u64 = 10;
const SECOND: Duration = Duration::from_secs(1);

// === impl Fate ===

impl Fate {
    pub const ALL: [Self; 3] = [Self::Passed, Self::Refused, Self::Dropped];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }
}

// === impl Ledger ===

impl Ledger {
    pub(super) fn passed(&self, door: Door) {
        self.lock().totals[door as usize][Fate::Passed as usize] += 1;
    }

    pub(super) fn turned_away(
        &self,
        (door, from): (Door, String),
        (fate, why): (Fate, &'static str),
        reply_to: &str,
        now: Instant,
    ) {
        let mut inner = self.lock();
        inner.totals[door as usize][fate as usize] += 1;
        inner.make_room(now);
        let fresh = || Account::new(now);
        let account = inner.accounts.entry((door, from)).or_insert_with(fresh);
        if now.saturating_duration_since(account.last) > QUIET {
            *account = Account::new(now);
        }
        account.refused += u64::from(fate == Fate::Refused);
        account.dropped += u64::from(fate == Fate::Dropped);
        account.unsaid += 1;
        (account.why, account.last) = (why, now);
        if account.reply_to != reply_to {
            account.reply_to = reply_to.to_owned();
        }
        inner.say(now);
    }

    /// What goes into the audit trail for something that proved nothing; at most once a second.
    pub(super) fn record(
        &self,
        reason: &'static str,
        message: impl FnOnce() -> String,
        now: Instant,
    ) -> Option<Record> {
        let mut inner = self.lock();
        inner.unrecorded += 1;
        if inner.recorded.is_some_and(|at| now < at + SECOND) {
            return None;
        }
        inner.recorded = Some(now);
        let count = std::mem::take(&mut inner.unrecorded);
        Some(Record { reason, message: message(), count })
    }

    /// Who has sent too much within the last minute.
    pub fn floods(&self) -> Vec<Flood> {
        let (inner, now) = (self.lock(), Instant::now());
        let age = |account: &Account| now.saturating_duration_since(account.last);
        let much = |account: &Account| account.dropped > 0 || account.refused > FEW;
        let accounts = inner.accounts.iter();
        let shown = accounts.filter(|(_, account)| age(account) <= QUIET && much(account));
        let mut floods: Vec<Flood> = shown
            .map(|((door, from), account)| Flood {
                door: *door,
                from: from.clone(),
                reply_to: account.reply_to.clone(),
                refused: account.refused,
                dropped: account.dropped,
                why: account.why,
                age: age(account),
            })
            .collect();
        floods.sort_by_key(|flood| std::cmp::Reverse(flood.refused + flood.dropped));
        floods
    }

    /// Of all doors, since the process began.
    pub fn refused(&self) -> u64 {
        self.lock().totals.iter().map(|door| door[Fate::Refused as usize]).sum()
    }

    pub fn totals(&self) -> Vec<(Door, Fate, u64)> {
        let inner = self.lock();
        let of = |door: Door| {
            Fate::ALL.map(|fate| (door, fate, inner.totals[door as usize][fate as usize]))
        };
        Door::ALL.into_iter().flat_map(of).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Inner ===

impl Inner {
    fn make_room(&mut self, now: Instant) {
        if self.accounts.len() < ACCOUNTS {
            return;
        }
        self.accounts.retain(|_, a| now.saturating_duration_since(a.last) <= QUIET);
        if self.accounts.len() >= ACCOUNTS {
            let oldest = self.accounts.iter().min_by_key(|(_, a)| a.last).map(|(k, _)| k.clone());
            oldest.and_then(|key| self.accounts.remove(&key));
        }
    }

    /// One line a second, about whoever has most to be said of.
    fn say(&mut self, now: Instant) {
        if self.said.is_some_and(|at| now < at + SECOND) {
            return;
        }
        self.said = Some(now);
        let all: u64 = self.accounts.values().map(|account| account.unsaid).sum();
        let most = self.accounts.iter().max_by_key(|(_, account)| account.unsaid);
        if let Some(((door, from), account)) = most {
            let Account { refused: _, dropped: _, unsaid, why, reply_to, last: _ } = account;
            let (door, others) = (door.as_str(), all - unsaid);
            tracing::warn!(door, from, reply_to, count = unsaid, why, others, "Turned away.");
        }
        self.accounts.values_mut().for_each(|account| account.unsaid = 0);
    }
}

// === impl Account ===

impl Account {
    fn new(now: Instant) -> Self {
        Self { refused: 0, dropped: 0, unsaid: 0, why: "", reply_to: String::new(), last: now }
    }
}
