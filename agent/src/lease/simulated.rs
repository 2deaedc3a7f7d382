//! A gate in memory, on a clock that whoever runs the simulation moves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::gate::{FoundGate, Gate, GateShape, Slot};
use crate::kernel::KernelError;

/// What the kernel would do with a packet at a given time.
#[derive(Debug, Clone, Default)]
pub struct SimulatedGate {
    /// There is a table.
    there: bool,
    guarded: BTreeSet<IpAddr>,
    members: BTreeMap<IpAddr, u32>,
    open: [BTreeSet<u32>; 2],
    until: [Option<Duration>; 2],
    /// The kernel's own clock, which nobody stops.
    pub now: Duration,
    /// The kernel takes nothing.
    pub failing: bool,
}

impl SimulatedGate {
    /// Whether a packet to this VIP is delivered, if the routes lead to a backend.
    pub fn passes(&self, vip: IpAddr) -> bool {
        if !self.guarded.contains(&vip) {
            return true;
        }
        let Some(group) = self.members.get(&vip) else { return false };
        (0..2).any(|slot| self.lives(slot) && self.open[slot].contains(group))
    }

    fn lives(&self, slot: usize) -> bool {
        self.until[slot].is_some_and(|until| self.now < until)
    }

    /// When the next slot ends that lives now.
    pub fn next_end(&self) -> Option<Duration> {
        self.until.iter().flatten().filter(|until| **until > self.now).min().copied()
    }

    fn check(&self) -> Result<(), KernelError> {
        match self.failing {
            true => Err(KernelError::Unanswered { object: "the gate".to_owned() }),
            false => Ok(()),
        }
    }
}

impl Gate for SimulatedGate {
    async fn found(&mut self) -> Result<Option<FoundGate>, KernelError> {
        self.check()?;
        let open = (0..2).any(|slot| self.lives(slot) && !self.open[slot].is_empty());
        Ok(self.there.then(|| FoundGate { guarded: self.guarded.clone(), open }))
    }

    async fn shape(&mut self, shape: &GateShape) -> Result<(), KernelError> {
        self.check()?;
        let GateShape { number: _, all: _, guarded, members, open, reset } = shape;
        if *reset {
            self.open = Default::default();
        }
        self.there = true;
        self.guarded.clone_from(guarded);
        self.members.clone_from(members);
        if let Some((slot, groups)) = open {
            self.open[slot.index()].extend(groups.iter().copied());
        }
        Ok(())
    }

    async fn arm(&mut self, slot: Slot, lease: Duration) -> Result<(), KernelError> {
        self.check()?;
        self.open[slot.index()].clear();
        self.until[slot.index()] = Some(self.now + lease);
        Ok(())
    }

    async fn open(&mut self, slot: Slot, groups: &BTreeSet<u32>) -> Result<(), KernelError> {
        self.check()?;
        self.open[slot.index()].extend(groups.iter().copied());
        Ok(())
    }
}
