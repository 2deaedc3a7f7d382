//! The one writer of the kernel: brings it to what is wanted, and keeps it there.
//!
//! Wanted, last read back and what is done now are three separate things. The loop reads, plans the
//! difference, carries it out operation by operation, reads again, and only then says that a
//! generation is in place. Any change by somebody else makes it look again. It never deletes
//! because of an incomplete read, never touches what is not ours, and does nothing at all when it
//! ends: the kernel goes on forwarding.
//!
//! Crash story: nothing is kept. The next start reads the kernel and plans from there.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use nett_policy::id::LinkId;
use nett_policy::lower::object::NodeState;
use nett_policy::plan::{Op, Plan, plan};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::controller::event::{Applied, Event};
use crate::kernel::{Kernel, KernelError, KernelEvent, Monitor, Origin, Readback};
use crate::telemetry::event::{KernelDrift, KernelOp, KernelRound, Outcome, Resync};
use crate::telemetry::{Duty, Metrics};

/// A desired state with its number; `None` until the controller has one.
pub type Wanted = Option<(u64, NodeState)>;

/// Where news of the kernel comes from.
pub trait Changes: Send {
    fn next(&mut self) -> impl Future<Output = Option<KernelEvent>> + Send;
}

impl Changes for Monitor {
    async fn next(&mut self) -> Option<KernelEvent> {
        Monitor::next(self).await
    }
}

/// A link of this node by the interface that carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnLink {
    pub link: LinkId,
    pub interface: String,
}

pub struct Reconciler<K, C> {
    pub kernel: K,
    pub changes: C,
    pub wanted: watch::Receiver<Wanted>,
    pub events: mpsc::Sender<Event>,
    pub links: Vec<OwnLink>,
    /// Plans and logs, and changes nothing.
    pub dry_run: bool,
    pub metrics: Metrics,
}

/// A read without a reason, in case a notification never came.
const BACKSTOP: Duration = Duration::from_secs(30);
/// The least time between two reads of the kernel that news of others cause.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How often the kernel's packet counters are read.
const COUNT: Duration = Duration::from_secs(5);
/// How long the controller gets to want something else after a link changed, before the old wish
/// is repaired.
const LINK_PAUSE: Duration = Duration::from_millis(50);
/// First and longest pause before a failed operation is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often one wish is planned again at once because the readback still differs.
const ROUNDS: usize = 3;

/// What one run did.
#[derive(Debug, Default)]
struct Done {
    operations: usize,
    failures: Vec<String>,
}

// === impl Reconciler ===

impl<K: Kernel, C: Changes> Reconciler<K, C> {
    /// Runs until the controller is gone.
    pub async fn run(mut self) {
        let mut actual: Option<Readback> = None;
        let mut links_seen: Option<BTreeSet<LinkId>> = None;
        let mut looked = Instant::now();
        let mut pause = RETRY.0;
        let mut reason = Resync::Start;
        let mut settled: Option<u64> = None;
        let mut count_at = Instant::now();
        loop {
            if actual.is_none() {
                // News come in bursts; one read serves a whole burst.
                sleep_until(looked + LOOK_INTERVAL).await;
                looked = Instant::now();
                self.metrics.emit(reason);
                actual = self.look().await;
            }
            let Some(readback) = actual.as_ref() else {
                reason = Resync::Unreadable;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
                continue;
            };
            let up = self.links_up(readback);
            if links_seen.as_ref() != Some(&up) {
                if self.events.send(Event::Links { up: up.clone() }).await.is_err() {
                    return;
                }
                links_seen = Some(up);
                let changed = self.wanted.changed();
                if let Ok(Err(_)) = timeout(LINK_PAUSE, changed).await {
                    return;
                }
            }
            let failed = self.converge(&mut actual, &mut settled).await;
            let retry = failed.then(|| Instant::now() + pause);
            pause = if failed { (pause * 2).min(RETRY.1) } else { RETRY.0 };
            match self.wait(retry, &mut count_at).await {
                // Nothing is read for a wish, unless the last read failed.
                Wake::Wish => reason = Resync::Unreadable,
                Wake::Look(why) => {
                    reason = why;
                    actual = None;
                }
                Wake::End => return,
            }
        }
    }

    async fn wait(&mut self, retry: Option<Instant>, count_at: &mut Instant) -> Wake {
        let backstop = Instant::now() + BACKSTOP;
        let (until, elapsed) = match retry {
            Some(at) if at < backstop => (at, Resync::Retry),
            Some(_) | None => (backstop, Resync::Backstop),
        };
        loop {
            tokio::select! {
                biased;
                changed = self.wanted.changed() => {
                    return if changed.is_ok() { Wake::Wish } else { Wake::End };
                }
                event = self.changes.next() => match event {
                    Some(KernelEvent::Objects(Origin::Own)) => {}
                    Some(KernelEvent::Objects(Origin::Other)) => return Wake::Look(Resync::Changed),
                    Some(KernelEvent::Interfaces) => return Wake::Look(Resync::Interfaces),
                    Some(KernelEvent::Overrun) => return Wake::Look(Resync::Overrun),
                    None => return Wake::End,
                },
                () = sleep_until(until) => return Wake::Look(elapsed),
                () = sleep_until(*count_at) => {
                    self.count().await;
                    *count_at = Instant::now() + COUNT;
                }
            }
        }
    }

    async fn look(&mut self) -> Option<Readback> {
        match self.kernel.read().await {
            Ok(readback) => Some(readback),
            Err(error) => {
                tracing::error!(error = %chain(&error), "Cannot read the kernel.");
                None
            }
        }
    }

    async fn count(&mut self) {
        match self.kernel.counters().await {
            Ok(counters) => self.metrics.traffic(&counters),
            Err(error) => tracing::debug!(error = %chain(&error), "Cannot read the counters."),
        }
    }

    fn links_up(&self, readback: &Readback) -> BTreeSet<LinkId> {
        let up = |link: &&OwnLink| {
            readback.interfaces.get(&link.interface).is_some_and(|interface| interface.up)
        };
        self.links.iter().filter(up).map(|link| link.link.clone()).collect()
    }

    /// Brings the kernel to the present wish. True when something is left to be tried again.
    /// `settled` is the generation that was last in place.
    async fn converge(&mut self, actual: &mut Option<Readback>, settled: &mut Option<u64>) -> bool {
        let Some((generation, desired)) = self.wanted.borrow_and_update().clone() else {
            return false;
        };
        let mut done = Done::default();
        for _ in 0..ROUNDS {
            let Some(readback) = actual.as_ref() else { return true };
            let plan = self.plan(&desired, readback);
            if plan.is_empty() {
                break;
            }
            if settled.take() == Some(generation) {
                self.metrics.emit(KernelDrift { plan: &plan });
            }
            done.failures.clear();
            let begun = Instant::now();
            self.carry_out(&plan, &mut done).await;
            if self.dry_run {
                break;
            }
            *actual = self.look().await;
            self.metrics.emit(KernelRound { took: begun.elapsed() });
            if !done.failures.is_empty() {
                break;
            }
        }
        if let Some(readback) = actual.as_ref() {
            let standing = self.report(generation, done, &desired, readback).await;
            *settled = (standing == Standing::InPlace).then_some(generation);
            standing == Standing::Failed
        } else {
            true
        }
    }

    /// The zone is not the kernel's, and what an incomplete read does not show may well be there.
    fn plan(&self, desired: &NodeState, readback: &Readback) -> Plan {
        let actual = NodeState { answers: desired.answers.clone(), ..readback.state.clone() };
        let mut plan = plan(desired, &actual);
        if !readback.complete {
            plan.ops.retain(|op| !deletes(op));
        }
        plan
    }

    async fn carry_out(&mut self, plan: &Plan, done: &mut Done) {
        for op in &plan.ops {
            // The order is safe to stop at, not to leave something out of: what a refused change
            // would have freed may still be in use.
            if !done.failures.is_empty() && deletes(op) {
                continue;
            }
            if self.dry_run {
                self.metrics.emit(KernelOp { op, outcome: Outcome::DryRun });
                continue;
            }
            match self.kernel.apply(op).await {
                Ok(()) => {
                    self.metrics.emit(KernelOp { op, outcome: Outcome::Done });
                    done.operations += 1;
                }
                Err(error) => {
                    let error = chain(&error);
                    self.metrics.emit(KernelOp { op, outcome: Outcome::Refused(&error) });
                    done.failures.push(format!("{op}: {error}"));
                }
            }
        }
    }

    async fn report(
        &mut self,
        generation: u64,
        done: Done,
        desired: &NodeState,
        readback: &Readback,
    ) -> Standing {
        let Done { operations, mut failures } = done;
        let mut standing = Standing::Unsure;
        if failures.is_empty() {
            let left = self.plan(desired, readback);
            if !readback.complete {
                failures.push("the kernel could not be read whole".to_owned());
            }
            if left.is_empty() && readback.complete {
                standing = Standing::InPlace;
                self.metrics.fulfil(Duty::Kernel);
            }
            if !self.dry_run {
                failures.extend(left.ops.iter().map(|op| format!("{op}: not in place")));
            }
        }
        if !failures.is_empty() {
            standing = Standing::Failed;
        }
        let foreign = readback.foreign.iter().map(ToString::to_string).collect();
        let applied = Applied { generation, operations, failures, foreign };
        // The controller is gone when the agent stops; the next wait sees that.
        let _ = self.events.send(Event::Applied(applied)).await;
        standing
    }
}

/// How the kernel compares with the present wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Read back whole, and equal.
    InPlace,
    /// Not read whole, or only planned.
    Unsure,
    Failed,
}

/// Why the loop goes round again.
enum Wake {
    Wish,
    Look(Resync),
    End,
}

fn deletes(op: &Op) -> bool {
    match op {
        Op::DeleteNexthop(..) | Op::DeleteRoute(..) | Op::DeleteRule(_) | Op::DeleteGuard(_) => {
            true
        }
        Op::AddNexthop(..)
        | Op::ReplaceNexthop { .. }
        | Op::AddRoute(..)
        | Op::ReplaceRoute { .. }
        | Op::AddRule(_)
        | Op::LoadGuard { .. }
        | Op::Elements { .. }
        | Op::Answers { .. } => false,
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
