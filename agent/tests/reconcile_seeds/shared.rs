//! The stage as the reconciler sees it: a kernel, its monitor, and the process that it is itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use nett_agent::kernel::{Count, Filled, Kernel, KernelError, KernelEvent, Parts, Readback};
use nett_agent::reconcile::Changes;
use nett_policy::lower::object::{GuardElement, NexthopId};
use nett_policy::plan::{Object, Op};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::stage::{Answer, Stage, now};

/// The stage, for the reconciler and for those who disturb it.
#[derive(Clone)]
pub(crate) struct Shared {
    stage: Arc<Mutex<Stage>>,
    news: Arc<Notify>,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(stage: Stage) -> Self {
        Self { stage: Arc::new(Mutex::new(stage)), news: Arc::default() }
    }

    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Stage) -> T) -> T {
        f(&mut self.stage.lock().expect("nothing panics in here"))
    }

    pub(crate) fn tell(&self, event: KernelEvent) {
        self.with(|stage| stage.tell(event));
        self.news.notify_one();
    }

    async fn pause(&self) {
        let pause = self.with(Stage::pause);
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }

    /// Runs a process until it is killed; not while it is stopped.
    pub(crate) async fn live(&self, process: impl Future<Output = ()>) {
        let mut process = std::pin::pin!(process);
        let step = |cx: &mut Context<'_>| {
            let stopped = self.with(|stage| {
                stage.process.waker = Some(cx.waker().clone());
                stage.process.stopped
            });
            let over = |stage: &mut Stage| stage.process.over;
            if self.with(over) || (!stopped && process.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(());
            }
            // Killed by one of its own writes.
            if self.with(over) { Poll::Ready(()) } else { Poll::Pending }
        };
        std::future::poll_fn(step).await;
        self.with(|stage| stage.process.over = true);
    }
}

impl Kernel for Shared {
    async fn read(&mut self) -> Result<Readback, KernelError> {
        self.pause().await;
        self.with(Stage::read)
    }

    async fn refresh(&mut self, to: &mut Readback, parts: &Parts) -> Result<(), KernelError> {
        self.pause().await;
        self.with(|stage| stage.refresh(to, parts))
    }

    async fn counters(&mut self) -> Result<BTreeMap<String, Count>, KernelError> {
        self.with(|stage| now(stage.kernel.counters()))
    }

    async fn watched(
        &mut self,
        elements: &BTreeSet<GuardElement>,
    ) -> Result<BTreeMap<GuardElement, u64>, KernelError> {
        self.with(|stage| now(stage.kernel.watched(elements)))
    }

    async fn buckets(&mut self, groups: &BTreeSet<NexthopId>) -> Result<Filled, KernelError> {
        self.with(|stage| now(stage.kernel.buckets(groups)))
    }

    async fn knows(&mut self, neighbour: IpAddr, interface: &str) -> Result<bool, KernelError> {
        self.with(|stage| now(stage.kernel.knows(neighbour, interface)))
    }

    async fn apply(&mut self, op: &Op) -> Result<(), KernelError> {
        for op in self.with(|stage| stage.instead(op)) {
            let op = &op;
            match self.with(|stage| stage.apply(op)) {
                Answer::After(pause, result) => {
                    if !pause.is_zero() {
                        sleep(pause).await;
                    }
                    if let Err(error) = result {
                        return self.with(|stage| stage.instead_of(op, error));
                    }
                }
                Answer::Never => std::future::pending().await,
            }
        }
        self.news.notify_one();
        Ok(())
    }
}

impl Changes for Shared {
    async fn next(&mut self) -> Option<KernelEvent> {
        loop {
            if let Some(event) = self.with(Stage::take_news) {
                return Some(event);
            }
            self.news.notified().await;
        }
    }

    fn writer(&self, _object: &Object) -> Option<String> {
        Some("somebody".to_owned())
    }
}
