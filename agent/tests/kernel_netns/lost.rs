//! Answers of a real kernel that get lost, one at one place after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use nett_agent::controller::event::Event;
use nett_agent::kernel::preflight::{Interfaces, preflight};
use nett_agent::kernel::purge::purge;
use nett_agent::kernel::{KernelWires, LinuxKernel, Monitor, NftGate, Wire, Wires};
use nett_agent::lease::gate::{Gate, GateShape, Slot};
use nett_agent::probe::bfd::{Presence, Views};
use nett_agent::reconcile::{Reconciler, Wanted};
use nett_agent::rng::Rng;
use nett_agent::telemetry::Metrics;
use nett_agent::watchdog::Pulse;
use nett_policy::lower::object::{Layout, NodeState};
use nix::errno::Errno;
use tokio::sync::{mpsc, watch};

use crate::forks;
use crate::netns::Netns;
use crate::state;

/// At how many places an answer is lost without a word to do more.
const PLACES: usize = 9;
/// At how many of them nothing comes, instead of an error.
const SILENT: u64 = 1;

/// Sockets of the kernel that lose the answer at one place: it is gone as after an overrun, or it
/// never comes.
#[derive(Clone, Default)]
struct Losing {
    received: Arc<AtomicU64>,
    /// Counted from 1; 0 for none.
    at: u64,
    silent: bool,
}

struct LosingWire {
    inner: Option<Box<dyn Wire>>,
    losing: Losing,
    gone: bool,
}

impl Losing {
    fn at(place: u64) -> Self {
        Self { at: place, ..Self::default() }
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Wires for Losing {
    fn open(&self, protocol: isize) -> io::Result<(Box<dyn Wire>, u32)> {
        let (inner, port) = KernelWires.open(protocol)?;
        let wire = LosingWire { inner: Some(inner), losing: self.clone(), gone: false };
        Ok((Box::new(wire), port))
    }
}

impl LosingWire {
    fn inner(&mut self) -> &mut dyn Wire {
        &mut **self.inner.as_mut().expect("taken by drop alone")
    }
}

impl Wire for LosingWire {
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<()>> {
        self.inner().poll_send(cx, bytes)
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, buffer: &mut Vec<u8>) -> Poll<io::Result<()>> {
        if self.gone {
            return Poll::Pending;
        }
        let received = self.inner().poll_receive(cx, buffer);
        if received.is_pending() {
            return received;
        }
        if self.losing.received.fetch_add(1, Ordering::Relaxed) + 1 != self.losing.at {
            return received;
        }
        buffer.clear();
        self.gone = self.losing.silent;
        if self.gone {
            return Poll::Pending;
        }
        Poll::Ready(Err(io::Error::from(Errno::ENOBUFS)))
    }
}

/// A table is owned until the last copy of its owner's socket is closed.
impl Drop for LosingWire {
    fn drop(&mut self) {
        let _alone = forks::alone();
        drop(self.inner.take());
    }
}

/// What `ip` and `nft` say.
fn picture(netns: &Netns) -> [String; 6] {
    [
        netns.ip("nexthop list"),
        netns.ip("-4 route show table all proto 217"),
        netns.ip("-6 route show table all proto 217"),
        netns.ip("-4 rule"),
        netns.ip("-6 rule"),
        netns.nft("list ruleset").expect("nft"),
    ]
}

/// As an agent lives: preflight, then a reconciler with one wish.
struct Life {
    reports: mpsc::Receiver<Event>,
    _wanted: watch::Sender<Wanted>,
    reconciler: tokio::task::JoinHandle<()>,
    /// What any report told of failures.
    failures: Vec<String>,
}

impl Life {
    async fn begin(losing: &Losing, desired: &NodeState) -> Self {
        let layout = Layout::default();
        let kernel = LinuxKernel::over(Arc::new(losing.clone()), layout.clone());
        let mut kernel = kernel.expect("sockets").unprotected();
        let changes = Monitor::open(&layout, &kernel.ports()).expect("sockets");
        let (outer, core) = (vec!["wan0".to_owned()], vec!["core0".to_owned()]);
        let interfaces = Interfaces { outer, core, through: Vec::new() };
        let findings = preflight(&mut kernel, &interfaces).await;
        findings.expect("one lost answer does not end a preflight");
        let (wanted, wishes) = watch::channel(Some((1, Arc::new(desired.clone()))));
        let (events, reports) = mpsc::channel(1024);
        let reconciler = Reconciler {
            kernel,
            changes,
            wanted: wishes,
            looks: watch::channel(false).1,
            events,
            links: Vec::new(),
            paths: watch::channel(Views::default()).1,
            presence: watch::channel(Presence::default()).0,
            layout,
            dry_run: false,
            metrics: Metrics::register(&prometheus::Registry::new()).expect("new"),
            rng: Rng::seeded(1),
            counted: BTreeMap::new(),
            pulse: Pulse::unasked(),
        };
        let reconciler = tokio::spawn(reconciler.run());
        Self { reports, _wanted: wanted, reconciler, failures: Vec::new() }
    }

    /// Reads reports until one finds nothing wrong and the kernel is as it should be.
    async fn until_whole(&mut self, netns: &Netns, whole: Option<&[String; 6]>) {
        let until = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let report = tokio::time::timeout_at(until, self.reports.recv()).await;
            let report = report.unwrap_or_else(|_| {
                let there = picture(netns);
                for (there, whole) in there.iter().zip(whole.into_iter().flatten()) {
                    assert_eq!(there, whole, "not in place");
                }
                panic!("no word that all is in place: {:?}", self.failures)
            });
            let Event::Applied(applied) = report.expect("the reconciler runs") else { continue };
            self.failures.extend(applied.failures.iter().chain(&applied.standing).cloned());
            let trouble = !applied.failures.is_empty() || !applied.standing.is_empty();
            if !trouble && whole.is_none_or(|whole| *whole == picture(netns)) {
                return;
            }
        }
    }
}

/// One answer is lost, wherever it is: the agent goes on, what is wanted is there, and nobody is
/// told of a failure. Every so many places, or with `NETT_LOST=all` each of them.
#[test]
fn one_lost_answer_at_any_place_changes_nothing_of_what_comes_about() {
    let netns = Netns::border();
    let desired = state::border();
    let mut whole = None;
    let mut live = |losing: Losing| {
        let begun = Instant::now();
        let failures = netns.inside(async || {
            let mut life = Life::begin(&losing, &desired).await;
            life.until_whole(&netns, whole.as_ref()).await;
            let whole = whole.get_or_insert_with(|| picture(&netns));
            netns.ip("nexthop flush");
            netns.ip("rule del pref 4430");
            life.until_whole(&netns, Some(whole)).await;
            life.reconciler.abort();
            let mut kernel = crate::reconcile::open();
            let purged = purge(&mut kernel).await.expect("readable");
            assert_eq!(purged.failed, Vec::new());
            life.failures
        });
        let (place, took) = (losing.at, begun.elapsed());
        assert_eq!(failures, Vec::<String>::new(), "answer {place}");
        assert!(took < Duration::from_secs(8), "answer {place}: {took:?}");
        losing.received()
    };
    let answers = live(Losing::default());
    assert!(answers > 100, "only {answers} answers");
    let stride = match std::env::var("NETT_LOST").as_deref() {
        Ok("all") => 1,
        _ => usize::try_from(answers).expect("few") / PLACES,
    };
    for place in (1..=answers).step_by(stride) {
        let received = live(Losing::at(place));
        assert!(received >= place, "only {received} answers, and {place} was to be lost");
    }
    // A deadline takes a second.
    for part in 1..=SILENT {
        live(Losing { silent: true, ..Losing::at(answers * part / (SILENT + 1)) });
    }
}

/// The gate of leased services: whoever asks again after a lost answer has it as wanted, and it is
/// nobody else's all the time.
#[test]
fn a_lost_answer_costs_the_gate_nothing_but_another_try() {
    let netns = Netns::new();
    let vips: BTreeSet<IpAddr> = [state::address("198.51.100.1"), state::address("fd99::1")].into();
    let shape = |number| GateShape {
        number,
        all: vips.clone(),
        guarded: vips.clone(),
        members: vips.iter().map(|vip| (*vip, 1)).collect(),
        open: Some((Slot::Even, [1].into())),
        reset: number == 1,
    };
    let live = |losing: Losing| {
        netns.inside(async || {
            let gate = NftGate::over(Arc::new(losing.clone()), "core0".to_owned());
            let mut gate = gate.expect("sockets");
            gate.found().await.expect("a question is asked again");
            let mut tries = 0;
            for number in [1, 2, 3] {
                while gate.shape(&shape(number)).await.is_err() {
                    tries += 1;
                }
            }
            assert!(tries < 2, "answer {}: {tries}", losing.at);
            let protected = gate.is_protected();
            let text = netns.nft("list table inet nett_lease").expect("nft");
            let removed = netns.nft("delete table inet nett_lease");
            assert_eq!(removed.is_err(), protected, "answer {}: {removed:?}", losing.at);
            if protected {
                gate.delete().await.expect("deleted");
            }
            (losing.received(), protected, text)
        })
    };
    let (answers, protected, text) = live(Losing::default());
    for place in 1..answers {
        let (_, still, found) = live(Losing::at(place));
        assert_eq!(still, protected, "answer {place}");
        assert_eq!(found, text, "answer {place}");
    }
}
