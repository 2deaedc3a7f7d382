//! Many VIPs in few steering classes: what a whole site drain costs the kernel, and what installing
//! them costs, beside a bare loop of the same messages, `ip -batch` and BIRD.
//!
//! `NETT_VIPS` sets how many there are per family (2000 in a plain test run, 100000 for a
//! measurement, see `make classes`); the times are printed. At any size a drain takes fewer than
//! three round trips per class with everything that is read back.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nett_agent::kernel::{Kernel, LinuxKernel, Parts, Readback};
use nett_policy::fabric::Family;
use nett_policy::lower::object::{
    ClassNumber, GuardElement, GuardSet, Layout, NexthopId, NodeState, RouteTarget, Subject,
};
use nett_policy::plan::{Op, plan_kernel};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use crate::bare::Bare;
use crate::forks::spawn;
use crate::netns::Netns;
use crate::reconcile::open;
use crate::rival;
use crate::state;

const CLASSES: u32 = 20;
/// The classes have numbers of their own beside those of the border.
const FIRST: u32 = 100;
/// Drains of each kind; the medians are compared.
const ROUNDS: usize = 5;

fn vips() -> u32 {
    let number = std::env::var("NETT_VIPS").ok().and_then(|n| n.parse().ok());
    number.unwrap_or(2000)
}

pub(crate) fn address(family: Family, n: u32) -> String {
    match family {
        Family::V4 => format!("10.{}.{}.{}", 100 + n / 65536, n / 256 % 256, n % 256),
        Family::V6 => format!("fd99::7:{:x}:{:x}", n / 65536, n % 65536),
    }
}

/// How far a site drain is.
#[derive(Debug, Clone, Copy)]
struct Stage {
    /// The links over which the VIPs are reached.
    ways: &'static [u8],
    accepts: bool,
}

const BEFORE: Stage = Stage { ways: &[1, 2], accepts: true };
const SHIFTED: Stage = Stage { ways: &[2], accepts: true };
const DRAINED: Stage = Stage { ways: &[2], accepts: false };

fn slots() -> std::ops::Range<u32> {
    FIRST..FIRST + CLASSES
}

/// `count` VIPs per family in `nett-svc` and `nett-in`.
fn state_of(count: u32, stage: Stage) -> NodeState {
    let layout = Layout::default();
    let mut desired = state::border();
    let guard = desired.guard.as_mut().expect("a border has one");
    guard.vips = state::nets(&["10.96.0.0/11", "fd99::/48"]);
    let mut classes = BTreeMap::new();
    for family in Family::BOTH {
        let over = |ways: &[u8]| {
            let members = ways.iter().map(|way| (NexthopId::link(*way, family), 1));
            state::group(family, &members.collect::<Vec<_>>())
        };
        for slot in slots() {
            desired.nexthops.insert(NexthopId::class(slot, family), over(stage.ways));
            let inside = if stage.accepts { over(BEFORE.ways) } else { state::shut(family) };
            desired.nexthops.insert(NexthopId::class_in(slot, family), inside);
            if !stage.accepts {
                let subject = Subject::Class(ClassNumber::new(slot, family));
                guard.refused.insert(GuardElement { set: GuardSet::ShutIn, subject });
            }
        }
        for n in 0..count {
            let (slot, vip) = (FIRST + n % CLASSES, address(family, n));
            classes.insert(state::address(&vip), ClassNumber::new(slot, family));
            let net = ipnet::IpNet::from(state::address(&vip)).to_string();
            for (table, group) in [
                (layout.table_svc, NexthopId::class(slot, family)),
                (layout.table_in, NexthopId::class_in(slot, family)),
            ] {
                let key = state::route(table, &net, Layout::METRIC_ACTIVE);
                desired.routes.insert(key, RouteTarget::Nexthop(group));
            }
        }
    }
    guard.classes = Arc::new(classes);
    desired
}

#[expect(clippy::print_stderr, reason = "the numbers of the measurement, shown by --nocapture")]
fn say(what: &str, number: impl std::fmt::Debug) {
    eprintln!("{what:48} {number:?}");
}

/// As many routes by nexthop id, added by iproute2 to tables of its own.
fn batch(netns: &Netns, count: u32) -> Duration {
    let mut lines = String::new();
    for table in [900, 901] {
        for family in Family::BOTH {
            for n in 0..count {
                let id = NexthopId::class(FIRST + n % CLASSES, family).0;
                let to = address(family, n);
                lines += &format!("route add {to} table {table} metric 100 nhid {id}\n");
            }
        }
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), lines).expect("written");
    let begun = Instant::now();
    netns.ip(&format!("-batch {}", file.path().display()));
    begun.elapsed()
}

/// The other end of both links, with the first VIPs, and a host of the site behind `core0`.
pub(crate) fn neighbours(netns: &Netns) -> [Netns; 2] {
    let [far, host] = [Netns::new(), Netns::new()];
    // Neighbour discovery sends from link-local addresses, and waits for their checks.
    let link_local = |netns: &Netns, interface: &str, nth: usize| {
        netns.ip(&format!("link set {interface} addrgenmode none"));
        netns.ip(&format!("addr add fe80::{nth}/64 dev {interface} nodad"));
    };
    for (nth, interface) in ["wan0", "wan1", "core0"].into_iter().enumerate() {
        link_local(netns, interface, nth + 1);
    }
    for (nth, wan) in ["wan0p", "wan1p"].into_iter().enumerate() {
        netns.move_link(wan, &far);
        link_local(&far, wan, nth + 4);
        far.ip(&format!("addr add 192.0.2.{}/30 dev {wan}", 4 * nth + 2));
        far.ip(&format!("addr add fd00:{nth}::2/64 dev {wan} nodad"));
        far.ip(&format!("link set {wan} up"));
    }
    far.ip("route add default via 192.0.2.5");
    far.ip("-6 route add default via fd00:1::1");
    for family in Family::BOTH {
        far.ip(&format!("addr add {} dev lo", address(family, 1)));
    }
    netns.move_link("core0p", &host);
    link_local(&host, "core0p", 6);
    host.ip("addr add 192.0.2.10/30 dev core0p");
    host.ip("addr add fd00:2::2/64 dev core0p nodad");
    host.ip("link set core0p up");
    host.ip("route add default via 192.0.2.9");
    host.ip("-6 route add default via fd00:2::1");
    for netns in [netns, &far, &host] {
        for setting in
            ["ipv4.ip_forward=1", "ipv6.conf.all.forwarding=1", "ipv4.conf.all.rp_filter=0"]
        {
            netns.run(&["sysctl", "-qw", &format!("net.{setting}")]).expect("sysctl");
        }
    }
    [far, host]
}

/// Keeps this thread, and what it starts, on the processor that it runs on.
///
/// When an IPv6 group is replaced, Linux 6.18 takes the cached routes of its members away
/// (`fib6_nh_release_dsts`), whoever uses them: a packet that another processor has just looked up
/// such a route for is dropped (`dst_discard`), and nothing counts it but the tracepoint
/// `skb:kfree_skb`. `ip nexthop replace` in a loop and `ping -f` lose one of some hundred thousand
/// that way, and none on one processor.
fn on_one_processor() {
    let processor = sched_getcpu().expect("a thread runs somewhere");
    let mut only = CpuSet::new();
    only.set(processor).expect("a processor that runs this has a number");
    sched_setaffinity(Pid::from_raw(0), &only).expect("a thread may stay where it is");
}

/// `ping` to a VIP of each family, 500 a second.
fn ping(host: &Netns, count: u32) -> Vec<Child> {
    let start = |family| {
        let mut ping = Command::new("ip");
        ping.args(["netns", "exec", host.name(), "ping", "-q", "-i", "0.002", "-W", "2"]);
        ping.args(["-c", &count.to_string(), &address(family, 1)]);
        spawn(ping.stdout(Stdio::piped())).expect("the tests need ping")
    };
    Family::BOTH.map(start).into()
}

/// Of what `ping -q` says at its end.
fn lost(told: &str) -> u32 {
    let words: Vec<&str> = told.split_whitespace().collect();
    let before = |word: &str| {
        let at = words.iter().position(|w| *w == word).expect("ping has counted");
        words[at - 1].parse::<u32>().expect("a number")
    };
    let sent = words.iter().position(|w| *w == "packets").map(|at| words[at - 1]);
    let sent: u32 = sent.and_then(|n| n.parse().ok()).expect("a number");
    sent - before("received,")
}

#[derive(Default)]
struct Drain {
    planned: Duration,
    applied: Duration,
    read_back: Duration,
    round_trips: u64,
}

/// Planned, carried out and read back, in the steps of a task.
async fn drain(kernel: &mut LinuxKernel, readback: &mut Readback, stages: &[&NodeState]) -> Drain {
    let before = kernel.round_trips();
    let mut cost = Drain::default();
    for to in stages {
        let begun = Instant::now();
        let ops = plan_kernel(to, &readback.state).ops;
        cost.planned += begun.elapsed();
        let begun = Instant::now();
        for (op, result) in ops.iter().zip(kernel.apply_all(&ops).await) {
            result.unwrap_or_else(|e| panic!("{op}: {e}"));
        }
        cost.applied += begun.elapsed();
        let begun = Instant::now();
        let guard = ops.iter().any(|op| matches!(op, Op::Elements { .. }));
        let touched = Parts { nexthops: true, guard, ..Parts::default() };
        kernel.refresh(readback, &touched).await.expect("readable");
        cost.read_back += begun.elapsed();
        assert!(plan_kernel(to, &readback.state).is_empty());
    }
    Drain { round_trips: kernel.round_trips() - before, ..cost }
}

/// The messages of a drain to the groups, one by one, with nothing around them.
fn bare(socket: &mut Bare) -> Duration {
    let begun = Instant::now();
    for family in Family::BOTH {
        for slot in slots() {
            socket.group(NexthopId::class(slot, family), NexthopId::link(2, family));
        }
    }
    for family in Family::BOTH {
        for slot in slots() {
            socket.group(NexthopId::class_in(slot, family), NexthopId::blackhole(family));
        }
    }
    begun.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

async fn install(kernel: &mut LinuxKernel, to: &NodeState) -> Readback {
    let mut readback = kernel.read().await.expect("readable");
    let begun = Instant::now();
    let ops = plan_kernel(to, &readback.state).ops;
    for (op, result) in ops.iter().zip(kernel.apply_all(&ops).await) {
        result.unwrap_or_else(|e| panic!("{op}: {e}"));
    }
    say("install, 4 routes and a class for each VIP", begun.elapsed());
    let begun = Instant::now();
    readback = kernel.read().await.expect("readable");
    say("readback of everything", begun.elapsed());
    assert!(plan_kernel(to, &readback.state).is_empty());
    readback
}

#[test]
fn draining_classes_costs_a_group_each_however_many_vips_they_have() {
    let netns = Netns::border();
    netns.run(&["sysctl", "-q", "-w", "net.ipv4.nexthop_compat_mode=0"]).expect("sysctl");
    let [_far, host] = neighbours(&netns);
    let count = vips();
    let [before, shifted, drained] = [BEFORE, SHIFTED, DRAINED].map(|s| state_of(count, s));
    let (ours, alone) = netns.inside(async || {
        on_one_processor();
        let mut kernel = open();
        let mut readback = install(&mut kernel, &before).await;
        let mut socket = Bare::open();
        let pings = ping(&host, if count > 2000 { 5000 } else { 1000 });
        let (mut ours, mut alone) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let cost = drain(&mut kernel, &mut readback, &[&shifted, &drained]).await;
            assert!(cost.round_trips <= 3 * u64::from(CLASSES), "{}", cost.round_trips);
            ours.push(cost);
            drain(&mut kernel, &mut readback, &[&before]).await;
            alone.push(bare(&mut socket));
            // What the bare loop did is found and undone.
            let parts = Parts { nexthops: true, guard: true, ..Parts::default() };
            kernel.refresh(&mut readback, &parts).await.expect("readable");
            drain(&mut kernel, &mut readback, &[&before]).await;
        }
        for ping in pings {
            let out = ping.wait_with_output().expect("ping ends");
            let told = String::from_utf8_lossy(&out.stdout).into_owned();
            say("pings lost", lost(&told));
            assert_eq!(lost(&told), 0, "{told}");
        }
        (ours, alone)
    });
    let of = |part: fn(&Drain) -> Duration| median(ours.iter().map(part).collect());
    // The best of each: what a neighbour does to the kernel at a time hits one of them.
    let kernel = ours.iter().map(|drain| drain.applied + drain.read_back).min();
    let (kernel, alone) = kernel.zip(alone.into_iter().min()).expect("rounds");
    say("round trips of a whole drain, with readbacks", ours[0].round_trips);
    say("whole drain, plans", of(|drain| drain.planned));
    say("whole drain, operations", of(|drain| drain.applied));
    say("whole drain, readbacks", of(|drain| drain.read_back));
    say("the same groups in a bare loop", alone);
    say("operations and readbacks to bare loop", kernel.as_secs_f64() / alone.as_secs_f64());
    // What is around the messages costs the same however many VIPs there are.
    assert!(kernel <= 2 * alone + Duration::from_millis(50), "{kernel:?} beside {alone:?}");
    say("as many routes by ip -batch", batch(&netns, count));
    say("as many routes by BIRD", rival::bird(&netns, count));
}
