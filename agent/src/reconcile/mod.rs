//! The one writer of the kernel: brings it to what is wanted, and keeps it there.
//!
//! What is wanted, what this agent has put there ([`Receipt`]) and what is read back are three
//! separate sets. The loop plans the difference of the first and the last, carries it out, reads
//! what it touched again, and only then says that a generation is in place. An object that fails
//! holds up only what needs it ([`round`]) and gets a time for its next try ([`ledger`]); one that
//! another program changes again and again is left alone and told. It never deletes because of an
//! incomplete read or without a receipt, never touches what is not ours, and does nothing at all
//! when it ends: the kernel goes on forwarding.
//!
//! Crash story: nothing is kept. The next start reads the kernel and plans from there.

mod counting;
mod flaps;
mod ledger;
mod links;
mod receipt;
mod report;
mod returns;
mod round;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use nett_policy::fabric::Family;
use nett_policy::lower::object::{Layout, NexthopId, NodeState, Table};
use nett_policy::lower::resilient::left_over;
use nett_policy::plan::{Object, Op, Plan, plan_kernel};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::controller::event::{Event, News};
use crate::kernel::{Kernel, KernelError, KernelEvent, Monitor, Origin, Parts, Readback};
use crate::probe::bfd::{Presence, Views};
use crate::rng::Rng;
use crate::telemetry::Metrics;
use crate::telemetry::event::{KernelDrift, KernelRound, Resync};
use crate::watchdog::Pulse;
use ledger::Ledger;
pub use ledger::{LEFT_ALONE, REPAIRS, WINDOW};
pub use links::OwnLink;
use links::Seen;
use receipt::Receipt;
use returns::Returns;
use round::Round;

/// A desired state with its number; `None` until the controller has one.
pub type Wanted = Option<(u64, Arc<NodeState>)>;

/// Where news of the kernel comes from.
pub trait Changes: Send {
    /// The next change. Must be cancel safe.
    fn next(&mut self) -> impl Future<Output = Option<KernelEvent>> + Send;

    /// Who else wrote to the object last, as far as known.
    fn writer(&self, _object: &Object) -> Option<String> {
        None
    }

    /// What was known about writers is dealt with.
    fn forget_writers(&mut self) {}
}

impl Changes for Monitor {
    async fn next(&mut self) -> Option<KernelEvent> {
        Monitor::next(self).await
    }

    fn writer(&self, object: &Object) -> Option<String> {
        self.writers().of(object)
    }

    fn forget_writers(&mut self) {
        self.writers().clear();
    }
}

/// Everything the reconciler is given.
pub struct Reconciler<K, C> {
    pub kernel: K,
    pub changes: C,
    pub wanted: watch::Receiver<Wanted>,
    /// Whether somebody waits for what buckets lead to.
    pub looks: watch::Receiver<bool>,
    pub events: mpsc::Sender<Event>,
    pub links: Vec<OwnLink>,
    /// What the BFD sessions of the links say; never changes where there are none.
    pub paths: watch::Receiver<Views>,
    /// Told over which interfaces packets can be sent.
    pub presence: watch::Sender<Presence>,
    pub layout: Layout,
    /// Plans and logs, and changes nothing.
    pub dry_run: bool,
    pub metrics: Metrics,
    pub rng: Rng,
    /// Packets by counter at the last look; empty before the first.
    pub counted: BTreeMap<String, u64>,
    /// Answered between looks and operations: a kernel that does not answer is not one that hangs.
    pub pulse: Pulse,
}

/// A read without a reason, in case a notification never came.
const BACKSTOP: Duration = Duration::from_secs(30);
/// The backstop is this many times what a look takes, if that is more.
const BACKSTOP_SHARE: u32 = 400;
/// The least time between two reads of the kernel that news of others cause.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How often the kernel's packet counters are read.
const COUNT: Duration = Duration::from_secs(5);
/// How often what is counted for a drain is read, while anything is.
const WATCH: Duration = Duration::from_secs(1);
/// Or so many times what reading it takes, if that is more: with very many elements it would keep
/// the kernel's only writer busy.
const WATCH_SHARE: u32 = 9;
/// How often one wish is planned again at once because the readback still differs.
const ROUNDS: usize = 3;
/// How often the pause between two looks doubles while the kernel cannot be read: to 1.6 s. What
/// could not be read may be wrong, and a look that fails changes nothing.
const UNREAD: u32 = 4;
/// A table with more routes is not read back because of a few operations: their acknowledgements
/// count, and the next look.
const LARGE: usize = 4096;
const FEW: usize = 64;
/// Lines of one kind in a report.
const LINES: usize = 20;

/// What the loop knows.
#[derive(Default)]
struct Memory {
    actual: Option<Readback>,
    receipt: Receipt,
    /// Once the kernel was read whole: what was there is taken over.
    adopted: bool,
    ledger: Ledger,
    /// The present wish, once it was seen.
    wish: Option<(u64, Arc<NodeState>)>,
    /// Its groups with backends that no bucket is meant for.
    left_over: BTreeSet<NexthopId>,
    /// The last wish that was in place, apart from what stood wrong before it.
    before: Option<Arc<NodeState>>,
    /// What was not in place at the last report on the present wish.
    left: Option<BTreeSet<Object>>,
    seen: Option<Seen>,
    returns: Returns,
    foreign: BTreeSet<String>,
    /// Looks in a row that were not whole, and when the next one is due.
    torn: u32,
    again: Option<Instant>,
    /// Why the last look gave nothing.
    unread: Option<String>,
    news: Vec<News>,
}

/// When the counters are read next.
struct Ticks {
    count: Instant,
    /// Of what services leave; only while anything is counted.
    watch: Instant,
}

/// What there is to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Nothing: a new wish, and the last readback still holds.
    Nothing,
    /// What is in use.
    Used { reason: Resync, foreign: bool },
    /// Everything.
    Whole(Resync),
}

// === impl Reconciler ===

impl<K: Kernel, C: Changes> Reconciler<K, C> {
    /// Runs until the controller is gone.
    pub async fn run(mut self) {
        let mut memory = Memory::default();
        let mut look = Look::Whole(Resync::Start);
        let mut looked = Instant::now();
        let mut unread = 0;
        let mut ticks = Ticks { count: Instant::now(), watch: Instant::now() };
        loop {
            self.pulse.answer();
            if look != Look::Nothing {
                // News come in bursts; one read serves a whole burst.
                sleep_until(looked + LOOK_INTERVAL).await;
                let Some(merged) = self.drain(look) else { return };
                look = merged;
                looked = Instant::now();
            }
            if !self.look(&mut memory, look).await {
                self.tell_unread(&memory).await;
                tokio::time::sleep(ledger::pause(unread, &mut self.rng)).await;
                unread = (unread + 1).min(UNREAD);
                look = Look::Whole(Resync::Unreadable);
                continue;
            }
            unread = 0;
            let cost = looked.elapsed();
            // Also where one event follows another and nothing is ever waited for.
            if memory.returns.next().is_some_and(|at| at <= Instant::now()) {
                self.settle(&mut memory.returns).await;
            }
            if !self.tell_links(&mut memory).await {
                return;
            }
            let foreign = matches!(look, Look::Used { foreign: true, .. });
            self.converge(&mut memory, foreign).await;
            let backstop = Instant::now() + BACKSTOP.max(cost * BACKSTOP_SHARE);
            let retry = self.retry(&mut memory);
            look = match self.wait(&mut memory, backstop, retry, &mut ticks).await {
                Some(look) if memory.actual.is_none() => whole(look),
                // What was not read at the start may be in tables that nothing else names.
                Some(Look::Used {
                    reason: reason @ (Resync::Retry | Resync::Backstop), ..
                }) if !memory.adopted => Look::Whole(reason),
                Some(look) => look,
                None => return,
            };
            self.wake(&mut memory, look);
        }
    }

    /// Takes the events that are waiting already into the same look. `None` when the end has come.
    fn drain(&mut self, mut look: Look) -> Option<Look> {
        while let Some(event) = self.changes.next().now_or_never() {
            look = merged(look, look_for(event?));
        }
        Some(look)
    }

    async fn wait(
        &mut self,
        memory: &mut Memory,
        backstop: Instant,
        retry: Option<Instant>,
        ticks: &mut Ticks,
    ) -> Option<Look> {
        let (until, elapsed) = match retry {
            Some(at) if at < backstop => (at, Resync::Retry),
            Some(_) | None => (backstop, Resync::Backstop),
        };
        loop {
            tokio::select! {
                biased;
                changed = self.wanted.changed() => return changed.ok().map(|()| Look::Nothing),
                event = self.changes.next() => {
                    let look = look_for(event?);
                    if look != Look::Nothing {
                        return Some(look);
                    }
                }
                Ok(()) = self.paths.changed() => {
                    if self.has_other_links(memory) {
                        return Some(Look::Nothing);
                    }
                }
                () = sleep_until(memory.returns.next().unwrap_or(until)),
                    if memory.returns.next().is_some() =>
                {
                    self.settle(&mut memory.returns).await;
                    if self.has_other_links(memory) {
                        return Some(Look::Nothing);
                    }
                }
                () = sleep_until(until) => {
                    return Some(Look::Used { reason: elapsed, foreign: false });
                }
                () = self.pulse.asked() => self.pulse.answer(),
                () = sleep_until(ticks.count) => {
                    self.count().await;
                    ticks.count = Instant::now() + COUNT;
                }
                Ok(()) = self.looks.changed() => {}
                () = sleep_until(ticks.watch), if self.watches(memory) => {
                    let begun = Instant::now();
                    self.watch(memory).await;
                    ticks.watch = Instant::now() + WATCH.max(begun.elapsed() * WATCH_SHARE);
                }
            }
        }
    }

    /// Reads what is asked for; false when the kernel cannot be read.
    async fn look(&mut self, memory: &mut Memory, look: Look) -> bool {
        let is_whole = memory.actual.is_none() || matches!(look, Look::Whole(_));
        let result = match (look, memory.actual.take()) {
            (Look::Nothing, Some(actual)) => Ok(actual),
            (Look::Used { reason, foreign: _ }, Some(actual)) => {
                self.metrics.emit(reason);
                self.look_again(memory, actual, reason).await
            }
            (Look::Whole(reason) | Look::Used { reason, .. }, _) => {
                self.metrics.emit(reason);
                self.kernel.read().await
            }
            (Look::Nothing, None) => {
                self.metrics.emit(Resync::Unreadable);
                self.kernel.read().await
            }
        };
        match result {
            Ok(mut readback) => {
                // Until everything was read once, what is in use is not the whole.
                readback.complete &= memory.adopted || is_whole;
                if readback.complete && (memory.wish.is_none() || !memory.adopted) {
                    memory.receipt.adopt(&readback.state);
                    memory.adopted = true;
                }
                memory.unread = None;
                memory.torn = match (readback.complete, look) {
                    (true, _) => 0,
                    // Nothing was read.
                    (false, Look::Nothing) => memory.torn,
                    (false, _) => {
                        memory.again = None;
                        (memory.torn + 1).min(16)
                    }
                };
                memory.actual = Some(readback);
                true
            }
            Err(error) => {
                memory.unread = Some(chain(&error));
                tracing::error!(error = %chain(&error), "Cannot read the kernel.");
                false
            }
        }
    }

    /// Everything that is in use. After news of an interface the controller hears of the links
    /// first, and works while the rest is read.
    async fn look_again(
        &mut self,
        memory: &mut Memory,
        mut actual: Readback,
        reason: Resync,
    ) -> Result<Readback, KernelError> {
        actual.complete = true;
        let mut parts = Parts::in_use(self.tables(memory, &actual));
        if reason == Resync::Interfaces {
            let first = Parts { interfaces: true, nexthops: true, ..Parts::default() };
            self.kernel.refresh(&mut actual, &first).await?;
            let seen = self.see(&actual, &mut memory.returns);
            if memory.seen.as_ref().is_none_or(|before| before.up != seen.up) {
                let event = Event::Links { up: seen.up };
                // Told again, and waited for, after the look.
                let _ = self.events.try_send(event);
            }
            (parts.interfaces, parts.nexthops) = (false, false);
        }
        self.kernel.refresh(&mut actual, &parts).await?;
        Ok(actual)
    }

    /// The tables that have routes of ours, or are to have, or are looked into.
    fn tables(&self, memory: &Memory, actual: &Readback) -> BTreeSet<(Family, Table)> {
        let mut tables = actual.state.tables();
        if let Some((_, desired)) = &memory.wish {
            tables.extend(desired.tables());
        }
        tables.retain(|(_, table)| self.layout.owns_table(*table));
        tables
    }

    /// What failed because of something that may be different now is tried at once.
    fn wake(&self, memory: &mut Memory, look: Look) {
        let now = Instant::now();
        match look {
            Look::Used { reason: Resync::Interfaces, .. } => {
                memory.ledger.wake(now, |error| match error {
                    KernelError::Interface { .. } | KernelError::Stale { .. } => true,
                    other => other.is_retryable(),
                });
            }
            Look::Used { reason: Resync::Changed, .. } | Look::Whole(_) => {
                memory.ledger.wake(now, |error| {
                    matches!(error, KernelError::Foreign { .. } | KernelError::Stale { .. })
                });
            }
            Look::Used { .. } | Look::Nothing => {}
        }
    }

    fn retry(&mut self, memory: &mut Memory) -> Option<Instant> {
        let now = Instant::now();
        let Some(actual) = &memory.actual else { return Some(now) };
        // Whatever happens meanwhile puts that off no further.
        let again = now + ledger::pause(memory.torn, &mut self.rng);
        let torn = match actual.complete {
            true => {
                memory.again = None;
                None
            }
            false => Some(*memory.again.get_or_insert(again)),
        };
        [memory.ledger.next_due(), torn].into_iter().flatten().min()
    }

    /// Brings the kernel to the present wish as far as it goes, and reports. `foreign` when another
    /// program changed something since the last time.
    async fn converge(&mut self, memory: &mut Memory, foreign: bool) {
        let Some((generation, desired)) = self.wanted.borrow_and_update().clone() else {
            return;
        };
        if memory.wish.as_ref().is_none_or(|(old, _)| *old != generation) {
            let before = memory.wish.as_ref().map(|(_, state)| &**state);
            memory.ledger.wish(before, &desired, Instant::now());
            memory.left_over = left_over(&desired).into_keys().collect();
            memory.wish = Some((generation, desired.clone()));
            memory.left = None;
        }
        memory.receipt.want(&desired);
        let mut operations = 0;
        let mut still = true;
        let mut outdated = false;
        for _ in 0..ROUNDS {
            let Some(actual) = memory.actual.as_mut() else { break };
            let plan = self::plan(&desired, actual, &memory.receipt);
            if plan.is_empty() {
                still = false;
                break;
            }
            if operations == 0 {
                self.drift(&plan, memory, foreign);
            }
            let begun = Instant::now();
            let Some(mut actual) = memory.actual.take() else { break };
            let round = Round {
                kernel: &mut self.kernel,
                ledger: &mut memory.ledger,
                rng: &mut self.rng,
                metrics: &self.metrics,
                desired: &desired,
                model: &mut actual.state,
                dry_run: self.dry_run,
                pulse: &mut self.pulse,
            };
            let carried = round.carry_out(&plan).await;
            let idle = carried.done == 0 && !carried.failed;
            operations += carried.done;
            if self.dry_run || idle {
                memory.actual = Some(actual);
                still = false;
                break;
            }
            let lost = carried.unknown;
            memory.actual = self.read_back(memory, actual, &plan, carried).await;
            self.metrics.emit(KernelRound { took: begun.elapsed() });
            // That took a second: what is wanted by now counts, and is taken up at once.
            outdated = lost && self.wanted.has_changed().unwrap_or(false);
            if outdated {
                break;
            }
        }
        if !outdated {
            if still {
                self.not_in_place(memory, &desired);
            }
            self.report(memory, generation, operations, &desired).await;
        }
        memory.ledger.tidy(Instant::now());
        if foreign {
            self.changes.forget_writers();
        }
    }

    /// What the operations did, as the kernel says.
    async fn read_back(
        &mut self,
        memory: &mut Memory,
        mut actual: Readback,
        plan: &Plan,
        carried: round::Carried,
    ) -> Option<Readback> {
        let mut parts = carried.touched;
        if carried.failed {
            parts = Parts::in_use(self.tables(memory, &actual));
        } else if plan.ops.len() <= FEW {
            let small = |(family, table): &(Family, Table)| {
                actual.state.routes_in(*family, *table).nth(LARGE).is_none()
            };
            parts.tables.retain(small);
        }
        match self.kernel.refresh(&mut actual, &parts).await {
            Ok(()) => Some(actual),
            Err(error) => {
                memory.unread = Some(chain(&error));
                tracing::error!(error = %chain(&error), "Cannot read the kernel.");
                None
            }
        }
    }

    /// What was carried out and acknowledged, and still is not there, is tried again later.
    fn not_in_place(&mut self, memory: &mut Memory, desired: &NodeState) {
        let Some(actual) = &memory.actual else { return };
        let now = Instant::now();
        for op in plan(desired, actual, &memory.receipt).ops {
            let Some(object) = op.object() else { continue };
            if memory.ledger.why(&object).is_none() {
                let reason = "it was acknowledged and is not in place".to_owned();
                let error = KernelError::Stale { object: object.to_string(), reason };
                memory.ledger.failed(object, error, now, &mut self.rng);
            }
        }
    }

    /// Counts what was in place for this wish and is no longer, and what it costs the budgets.
    fn drift(&mut self, plan: &Plan, memory: &mut Memory, foreign: bool) {
        let Some(left) = &memory.left else { return };
        let drifted = |op: &&Op| op.object().is_some_and(|object| !left.contains(&object));
        let plan = Plan { ops: plan.ops.iter().filter(drifted).cloned().collect() };
        if plan.is_empty() {
            return;
        }
        self.metrics.emit(KernelDrift { plan: &plan });
        let now = Instant::now();
        let mut lines = Vec::new();
        for op in &plan.ops {
            let Some(object) = op.object() else { continue };
            let writer = if foreign { self.changes.writer(&object) } else { None };
            let by = writer.as_ref().map(|w| format!(" (by {w})")).unwrap_or_default();
            lines.push(format!("{op}{by}"));
            if !foreign {
                continue;
            }
            if let Some(text) = memory.ledger.repair(&object, writer, now) {
                tracing::error!(%object, text, "Somebody else changes it again and again.");
                let text = format!("{object}: {text}");
                memory.news.push(News { kind: "contested", text });
            }
        }
        let text = report::bounded(lines).join("; ");
        memory.news.push(News { kind: "repair", text });
    }
}

/// The kernel's part of the difference, without what may not be deleted: nothing because of an
/// incomplete read, nothing that this agent has no receipt for.
fn plan(desired: &NodeState, actual: &Readback, receipt: &Receipt) -> Plan {
    let mut plan = plan_kernel(desired, &actual.state);
    plan.ops.retain(|op| {
        !op.deletes() || (actual.complete && op.object().is_some_and(|o| receipt.covers(&o)))
    });
    plan
}

fn look_for(event: KernelEvent) -> Look {
    let changed = |foreign| Look::Used { reason: Resync::Changed, foreign };
    match event {
        KernelEvent::Objects(Origin::Own) => Look::Nothing,
        KernelEvent::Objects(Origin::Kernel) => changed(false),
        KernelEvent::Objects(Origin::Other) => changed(true),
        KernelEvent::Interfaces => Look::Used { reason: Resync::Interfaces, foreign: false },
        KernelEvent::Overrun => Look::Whole(Resync::Overrun),
    }
}

/// One look for two reasons. What an interface takes with it is nobody's doing.
fn merged(one: Look, other: Look) -> Look {
    let rank = |look: &Look| match look {
        Look::Nothing => 0,
        Look::Used { reason: Resync::Interfaces, .. } => 3,
        Look::Used { foreign: true, .. } => 2,
        Look::Used { .. } => 1,
        Look::Whole(_) => 4,
    };
    if rank(&other) > rank(&one) { other } else { one }
}

fn whole(look: Look) -> Look {
    match look {
        Look::Nothing => Look::Whole(Resync::Unreadable),
        Look::Used { reason, foreign: _ } | Look::Whole(reason) => Look::Whole(reason),
    }
}

/// An error with everything beneath it, in one line.
fn chain(error: &KernelError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
