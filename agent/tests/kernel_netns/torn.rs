//! Dumps of a real kernel that are not whole: nobody may take them for what was counted.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll};

use nett_agent::kernel::preflight::{Interfaces, preflight};
use nett_agent::kernel::{Kernel, KernelError, KernelWires, LinuxKernel, Wire, Wires};
use nett_policy::fabric::Family;
use nett_policy::lower::object::{GuardElement, GuardSet, Layout, NodeState, Subject};

use crate::classes::address;
use crate::counting::state_of;
use crate::forks;
use crate::netns::Netns;
use crate::reconcile::{open, reach};
use crate::state;

/// `NLM_F_DUMP_INTR` of linux/netlink.h.
const INTERRUPTED: u8 = 0x10;
/// `NFNL_MSG_TYPE` of elements: NFT_MSG_NEWSETELEM in the subsystem nf_tables.
const ELEMENTS: [u8; 2] = [12, 10];

/// More elements than one message of a dump holds.
const MANY: u32 = 2000;

/// What is done to the messages with elements that come.
const NOTHING: u8 = 0;
/// They say that the dump was interrupted.
const INTERRUPT: u8 = 1;
/// Every other one is of another generation of the ruleset than the one before.
const MOVE_ON: u8 = 2;
/// They do not come.
const DROP: u8 = 3;

/// Sockets of the kernel with somebody who changes the ruleset at every bad moment.
#[derive(Clone, Default)]
struct Meddling {
    what: Arc<AtomicU8>,
    /// How many more times.
    left: Arc<AtomicU32>,
}

struct MeddlingWire {
    inner: Option<Box<dyn Wire>>,
    meddling: Meddling,
    generation: u8,
}

impl Meddling {
    fn with(&self, what: u8, times: u32) {
        self.left.store(times, Ordering::Relaxed);
        self.what.store(what, Ordering::Relaxed);
    }

    fn is_due(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

impl Wires for Meddling {
    fn open(&self, protocol: isize) -> io::Result<(Box<dyn Wire>, u32)> {
        let (inner, port) = KernelWires.open(protocol)?;
        let (inner, meddling) = (Some(inner), self.clone());
        Ok((Box::new(MeddlingWire { inner, meddling, generation: 0 }), port))
    }
}

impl Wire for MeddlingWire {
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<()>> {
        self.inner.as_mut().expect("taken by drop alone").poll_send(cx, bytes)
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, buffer: &mut Vec<u8>) -> Poll<io::Result<()>> {
        let received = self.inner.as_mut().expect("taken by drop alone").poll_receive(cx, buffer);
        let what = self.meddling.what.load(Ordering::Relaxed);
        if !matches!(received, Poll::Ready(Ok(()))) || what == NOTHING {
            return received;
        }
        let mut at = 0;
        while let Some(header) = buffer.get(at..at + 20) {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            if header[4..6] == ELEMENTS && self.meddling.is_due() {
                match what {
                    INTERRUPT => buffer[at + 6] |= INTERRUPTED,
                    MOVE_ON => {
                        self.generation = self.generation.wrapping_add(1);
                        buffer[at + 18] = self.generation;
                    }
                    // Of another table: as if it had not come.
                    _ => buffer[at + 16] = 0,
                }
            }
            at += length.next_multiple_of(4).max(4);
        }
        received
    }
}

/// A table is owned until the last copy of its owner's socket is closed.
impl Drop for MeddlingWire {
    fn drop(&mut self) {
        let _alone = forks::alone();
        drop(self.inner.take());
    }
}

#[test]
fn what_was_read_in_part_is_not_what_was_counted() {
    let netns = Netns::border();
    let sets: Vec<_> = GuardSet::COUNTED.map(|set| (set, None)).into();
    let mut desired = state_of(&sets);
    let guard = desired.guard.as_mut().expect("a border has one");
    // More than one message of a dump holds.
    for n in 0..MANY {
        let vip = state::address(&address(Family::V4, n));
        let subject = Subject::Vip(vip);
        guard.refused.insert(GuardElement { set: GuardSet::CountTo, subject });
    }
    netns.inside(async || {
        reach(&mut open(), &desired).await;
        let meddling = Meddling::default();
        let wires = Arc::new(meddling.clone());
        let mut kernel = LinuxKernel::over(wires, Layout::default()).expect("sockets");
        let elements: BTreeSet<GuardElement> =
            desired.guard.iter().flat_map(|guard| guard.counted()).copied().collect();
        let watched = async |kernel: &mut LinuxKernel| kernel.watched(&elements).await;
        let all = BTreeMap::from_iter(elements.iter().map(|element| (*element, 0)));
        assert_eq!(watched(&mut kernel).await, Ok(all.clone()));

        for (what, times) in [(INTERRUPT, 1), (INTERRUPT, 4)] {
            meddling.with(what, times);
            assert_eq!(watched(&mut kernel).await, Ok(all.clone()), "read again");
        }
        meddling.with(MOVE_ON, 1);
        assert_eq!(watched(&mut kernel).await, Ok(all.clone()), "read again");
        for what in [INTERRUPT, MOVE_ON, DROP] {
            meddling.with(what, u32::MAX);
            let torn = watched(&mut kernel).await;
            assert!(matches!(torn, Err(KernelError::Stale { .. })), "{what}: {torn:?}");
        }
        meddling.with(NOTHING, 0);
        assert_eq!(watched(&mut kernel).await, Ok(all));

        // Nothing is there to be counted.
        reach(&mut open(), &NodeState::default()).await;
        let gone = watched(&mut kernel).await;
        assert!(matches!(gone, Err(KernelError::Stale { .. })), "{gone:?}");
    });
}

#[test]
fn preflight_says_that_the_kernel_was_not_read_whole() {
    let netns = Netns::border();
    let sets: Vec<_> = GuardSet::COUNTED.map(|set| (set, None)).into();
    let desired = state_of(&sets);
    netns.inside(async || {
        reach(&mut open(), &desired).await;
        let meddling = Meddling::default();
        let wires = Arc::new(meddling.clone());
        let mut kernel =
            LinuxKernel::over(wires, Layout::default()).expect("sockets").unprotected();
        let said = async |kernel: &mut LinuxKernel| {
            let findings = preflight(kernel, &Interfaces::default()).await.expect("readable");
            let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
            lines.into_iter().filter(|l| l.contains("could not be read whole")).count()
        };
        meddling.with(INTERRUPT, u32::MAX);
        assert_eq!(said(&mut kernel).await, 1);
        // Nothing has changed since, but what is said of a torn dump is not kept.
        meddling.with(NOTHING, 0);
        assert_eq!(said(&mut kernel).await, 0);
        // One that is torn once is read again.
        let wires = Arc::new(meddling.clone());
        let mut kernel =
            LinuxKernel::over(wires, Layout::default()).expect("sockets").unprotected();
        meddling.with(INTERRUPT, 1);
        assert_eq!(said(&mut kernel).await, 0);
        assert_eq!(meddling.left.load(Ordering::Relaxed), 0, "it was torn");
    });
}
