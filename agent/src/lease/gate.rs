//! The gate: traffic of leased services passes the kernel only while a slot lives that was armed
//! before the voters were asked.
//!
//! [`Gate`] is the seam; the real one is nft ([`crate::kernel`]), where time runs without us. The
//! task here owns it and does one thing after the other, in the order asked. It never opens
//! anything by itself, and touches nothing when it ends: that is what the gate is for.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc;

use super::LeaseEvent;
use crate::controller::event::Event;
use crate::kernel::KernelError;

/// One of the two that take turns: while one is armed and asked for, the other one lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    #[default]
    Even,
    Odd,
}

/// What the gate should be, apart from its slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GateShape {
    pub number: u64,
    /// VIPs that this node's site may ever serve: what its backends send under them is let out only
    /// as long as the site serves.
    pub all: BTreeSet<IpAddr>,
    /// VIPs that this node might deliver now: shut unless a group lets them pass.
    pub guarded: BTreeSet<IpAddr>,
    /// The group that each of them passes with.
    pub members: BTreeMap<IpAddr, u32>,
    /// The groups that are open in the present round, and its slot.
    pub open: Option<(Slot, BTreeSet<u32>)>,
    /// Numbers of groups that another process gave mean nothing: empty both slots first.
    pub reset: bool,
}

/// What a process finds in the kernel when it begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundGate {
    /// The VIPs that are guarded.
    pub guarded: BTreeSet<IpAddr>,
    /// A slot that lives has open groups: what a former process served goes on.
    pub open: bool,
}

/// The kernel's side of the lease, real or simulated. Each call is one transaction.
pub trait Gate: Send {
    /// What there is; `None` when there is no gate.
    ///
    /// # Errors
    /// When the kernel does not say.
    fn found(&mut self) -> impl Future<Output = Result<Option<FoundGate>, KernelError>> + Send;

    /// Done, and read back.
    ///
    /// # Errors
    /// The gate is as it was, or shut.
    fn shape(&mut self, shape: &GateShape) -> impl Future<Output = Result<(), KernelError>> + Send;

    /// Empties the slot's groups and lets it live for `lease`, counted from before this returns.
    ///
    /// # Errors
    /// Nobody may be asked then.
    fn arm(
        &mut self,
        slot: Slot,
        lease: Duration,
    ) -> impl Future<Output = Result<(), KernelError>> + Send;

    /// Lets groups pass for as long as the slot lives.
    ///
    /// # Errors
    /// They stay as they were.
    fn open(
        &mut self,
        slot: Slot,
        groups: &BTreeSet<u32>,
    ) -> impl Future<Output = Result<(), KernelError>> + Send;
}

/// Work for the gate's task.
#[derive(Debug)]
pub enum GateJob {
    Shape(Box<GateShape>),
    Arm { round: u64, slot: Slot, lease: Duration },
    Open { slot: Slot, groups: BTreeSet<u32> },
}

// === impl Slot ===

impl Slot {
    pub fn other(self) -> Self {
        match self {
            Self::Even => Self::Odd,
            Self::Odd => Self::Even,
        }
    }

    /// 0 or 1.
    pub fn index(self) -> usize {
        usize::from(self == Self::Odd)
    }
}

/// Runs until nobody gives it work any more.
pub async fn run<G: Gate>(
    mut gate: G,
    mut jobs: mpsc::Receiver<GateJob>,
    events: mpsc::Sender<Event>,
) {
    let tell = |event| {
        let events = events.clone();
        async move { events.send(Event::Lease(event)).await.is_ok() }
    };
    let found = match gate.found().await {
        Ok(found) => found,
        Err(error) => {
            tracing::error!(%error, "The gate cannot be read; it counts as missing.");
            None
        }
    };
    let mut shape: Option<GateShape> = None;
    // The last shape was not taken: what groups mean in the kernel is not what was meant.
    let mut is_doubtful = false;
    if !tell(LeaseEvent::GateFound(found)).await {
        return;
    }
    while let Some(job) = jobs.recv().await {
        let told = match job {
            GateJob::Shape(wanted) => {
                let result = gate.shape(&wanted).await.map_err(|error| error.to_string());
                is_doubtful = result.is_err();
                let number = wanted.number;
                shape = Some(GateShape { reset: true, open: None, ..*wanted });
                tell(LeaseEvent::Shaped { number, result }).await
            }
            GateJob::Arm { round, slot, lease } => {
                let mut result = gate.arm(slot, lease).await;
                let anew = result.is_err();
                if let (Err(error), Some(shape)) = (&result, &shape) {
                    // It is gone, or was changed: shut first, then armed again.
                    tracing::error!(%error, "The gate is not as it was left; it is made anew.");
                    result = gate.shape(shape).await;
                    is_doubtful = result.is_err();
                    if !is_doubtful {
                        result = gate.arm(slot, lease).await;
                    }
                }
                let result = result.map_err(|error| error.to_string());
                tell(LeaseEvent::Armed { round, anew, result }).await
            }
            GateJob::Open { groups, .. } if is_doubtful => {
                tracing::warn!(?groups, "The gate does not open: it did not take its shape.");
                true
            }
            GateJob::Open { slot, groups } => {
                if let Err(error) = gate.open(slot, &groups).await {
                    tracing::error!(%error, "The gate does not open.");
                }
                true
            }
        };
        if !told {
            return;
        }
    }
}
