//! The task that has the gate in hand, over a gate that fails where it is told to.

use std::collections::BTreeSet;
use std::time::Duration;

use nett_agent::controller::event::Event;
use nett_agent::kernel::KernelError;
use nett_agent::lease::LeaseEvent;
use nett_agent::lease::gate::{FoundGate, Gate, GateJob, GateShape, Slot, run};
use tokio::sync::mpsc;

/// Refuses what it is told to, and counts what it opened.
struct Refusing {
    arms: std::vec::IntoIter<bool>,
    shapes: std::vec::IntoIter<bool>,
    opened: mpsc::UnboundedSender<BTreeSet<u32>>,
}

impl Gate for Refusing {
    async fn found(&mut self) -> Result<Option<FoundGate>, KernelError> {
        Ok(None)
    }

    async fn shape(&mut self, _: &GateShape) -> Result<(), KernelError> {
        next(&mut self.shapes)
    }

    async fn arm(&mut self, _: Slot, _: Duration) -> Result<(), KernelError> {
        next(&mut self.arms)
    }

    async fn open(&mut self, _: Slot, groups: &BTreeSet<u32>) -> Result<(), KernelError> {
        self.opened.send(groups.clone()).expect("the test listens");
        Ok(())
    }
}

fn next(answers: &mut impl Iterator<Item = bool>) -> Result<(), KernelError> {
    let refused = KernelError::Unanswered { object: "the gate".to_owned() };
    answers.next().expect("as many as are asked for").then_some(()).ok_or(refused)
}

fn shape(number: u64) -> GateJob {
    let none = BTreeSet::new;
    GateJob::Shape(Box::new(GateShape {
        number,
        all: none(),
        guarded: none(),
        members: Default::default(),
        open: None,
        reset: false,
    }))
}

/// A group may mean other services in the kernel than in the shape that it did not take.
#[tokio::test]
async fn nothing_is_opened_behind_a_shape_that_was_refused() {
    let (opened, mut seen) = mpsc::unbounded_channel();
    let gate = Refusing {
        arms: Vec::new().into_iter(),
        shapes: vec![true, false, true].into_iter(),
        opened,
    };
    let (jobs, work) = mpsc::channel(16);
    let (events, mut told) = mpsc::channel(16);
    let task = tokio::spawn(run(gate, work, events));
    let open = |group| GateJob::Open { slot: Slot::Even, groups: BTreeSet::from([group]) };
    for job in [shape(1), open(1), shape(2), open(2), shape(3), open(3)] {
        jobs.send(job).await.expect("the task runs");
    }
    drop(jobs);
    task.await.expect("it ends with its work");
    let mut all = Vec::new();
    while let Ok(groups) = seen.try_recv() {
        all.extend(groups);
    }
    assert_eq!(all, [1, 3]);
    let mut shaped = Vec::new();
    while let Ok(event) = told.try_recv() {
        if let Event::Lease(LeaseEvent::Shaped { number, result }) = event {
            shaped.push((number, result.is_ok()));
        }
    }
    assert_eq!(shaped, [(1, true), (2, false), (3, true)]);
}

/// Both slots are empty then, and whoever counts on one of them must know.
#[tokio::test]
async fn a_gate_that_was_made_anew_to_be_armed_is_told_of() {
    let (opened, _seen) = mpsc::unbounded_channel();
    let arms = vec![true, false, true, false].into_iter();
    let gate = Refusing { arms, shapes: vec![true, true, false].into_iter(), opened };
    let (jobs, work) = mpsc::channel(16);
    let (events, mut told) = mpsc::channel(16);
    let task = tokio::spawn(run(gate, work, events));
    let arm = |round| GateJob::Arm { round, slot: Slot::Odd, lease: Duration::from_secs(1) };
    for job in [shape(1), arm(1), arm(2), arm(3)] {
        jobs.send(job).await.expect("the task runs");
    }
    drop(jobs);
    task.await.expect("it ends with its work");
    let mut armed = Vec::new();
    while let Ok(event) = told.try_recv() {
        if let Event::Lease(LeaseEvent::Armed { round, anew, result }) = event {
            armed.push((round, anew, result.is_ok()));
        }
    }
    assert_eq!(armed, [(1, false, true), (2, true, true), (3, true, false)]);
}
