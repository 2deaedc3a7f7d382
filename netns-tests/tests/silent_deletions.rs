//! What the kernel or another program takes away without asking comes back by itself, soon, and
//! nothing takes the way over the internet meanwhile.
//!
//! Times are those of `ip -ts monitor`: from the moment before the fault to the last change of the
//! repair. The nft table is looked for every 10 ms.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use nett_netns_tests::eventually::{eventually, eventually_true, patience};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::netns::Netns;
use nett_netns_tests::observe::changes::PROTOCOL;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::observe::monitor::Monitor;
use nett_netns_tests::services::{VAULT, WEB};
use nett_netns_tests::story::{Traffic, tell};
use nett_netns_tests::topology::LINKS;
use nett_netns_tests::traffic::now;

/// The same on a machine that does something else too.
const SLOW: Duration = Duration::from_secs(1);

/// From an event to the last change of its repair.
const REPAIR: Duration = Duration::from_millis(200);
/// From the return of a carrier or address to the same.
const RETURN: Duration = Duration::from_millis(300);
/// How often each fault is done; the median is asserted, so that one pause of a busy machine
/// decides nothing.
const TIMES: usize = 5;

/// The end of the first link at osl's border.
const WAN: &str = "wan0";

/// Fault and what undoes it, as `ip` commands on the border.
struct Fault {
    name: &'static str,
    inject: &'static [&'static str],
    /// Empty where the repair needs nobody.
    undo: &'static [&'static str],
    /// What is measured: the repair after the fault, or after its undoing.
    bound: Duration,
}

const FAULTS: [Fault; 5] = [
    Fault {
        name: "admin down",
        inject: &["link set wan0 down"],
        undo: &["link set wan0 up"],
        bound: RETURN,
    },
    Fault {
        name: "address removed",
        inject: &["address del 172.31.0.1/30 dev wan0"],
        undo: &["address add 172.31.0.1/30 dev wan0"],
        bound: RETURN,
    },
    Fault { name: "lo down", inject: &["link set lo down"], undo: &[], bound: REPAIR },
    Fault { name: "nexthop flush", inject: &["nexthop flush"], undo: &[], bound: REPAIR },
    Fault {
        name: "route flush",
        inject: &["route flush table 7000", "-6 route flush table 7000"],
        undo: &[],
        bound: REPAIR,
    },
];

#[expect(clippy::print_stderr, reason = "the numbers of the story, shown by --nocapture")]
fn check(name: &str, bound: Duration, mut times: Vec<Duration>) {
    times.sort();
    eprintln!("{name:24} {times:?}");
    // What the agent needs is seen where the machine does nothing else meanwhile.
    let (quick, median) = (times[1], times[times.len() / 2]);
    assert!(quick < bound, "{name}: {times:?}, of which two should be below {bound:?}");
    assert!(median < SLOW, "{name}: {times:?}, of which half should be below {SLOW:?}");
}

/// Does something to a border and measures the last change that follows in the kernel, once the
/// kernel is as `whole` again.
fn repaired(
    lab: &Lab,
    border: &Netns,
    whole: &Kernel,
    disturb: impl FnOnce() -> Result<()>,
) -> Result<Duration> {
    let log = lab.layout().log("repair-monitor");
    let monitor = Monitor::timed(border, log)?;
    let begun = now();
    disturb()?;
    eventually(patience(), "the kernel is as it was", || {
        // What `lo` has of its own comes back with `lo`.
        let mut changes = whole.changes(&Kernel::of(border)?);
        changes.retain(|line| line.contains("nft") || line.contains(PROTOCOL));
        if changes.is_empty() { Ok(()) } else { bail!("{changes:#?}") }
    })?;
    let ours = |line: &str| format!("{line} ").contains(&format!("proto {PROTOCOL} "));
    let events = monitor.finish_timed()?;
    let last = events.iter().filter(|(at, line)| *at >= begun && ours(line)).map(|(at, _)| *at);
    Ok(Duration::from_nanos(last.max().unwrap_or(begun) - begun))
}

/// All of `commands`, which may complain about what they find half done by others.
fn each(border: &Netns, commands: &[&str]) -> Result<()> {
    for command in commands {
        let words: Vec<&str> = command.split_whitespace().collect();
        border.try_output("ip", &words)?;
    }
    Ok(())
}

/// Until the kernel has no way over the first link any more.
fn given_up(border: &Netns) -> Result<Duration> {
    let gone = || Ok(!border.ip("nexthop show")?.contains("via 172.31.0.2 "));
    eventually_true(patience(), "the link is given up", gone)
}

#[test]
fn what_is_taken_away_comes_back_in_time_and_leaks_nothing() -> Result<()> {
    tell("what_is_taken_away_comes_back_in_time_and_leaks_nothing", |lab| {
        let border = lab.ns("osl-b1")?;
        let whole = Kernel::of(&border)?;
        let leaks = lab.leaks()?;
        let near = Traffic::to_vips(lab, &["osl-c1"], WEB)?;
        let far = Traffic::start(lab, &["osl-c1"], &VAULT.vips(), 16)?;
        for fault in FAULTS {
            let mut times = Vec::new();
            for _ in 0..TIMES {
                if fault.undo.is_empty() {
                    times.push(repaired(lab, &border, &whole, || each(&border, fault.inject))?);
                    each(&border, &["link set lo up"])?;
                } else {
                    each(&border, fault.inject)?;
                    given_up(&border)?;
                    // Errors that the border sends to the far end, for instance.
                    for far in ["172.31.0.2", "fd00:f0::2"] {
                        let way = border.try_output("ip", &["route", "get", far])?.stdout;
                        let way = String::from_utf8_lossy(&way).into_owned();
                        ensure!(!way.contains("up0"), "{}: {way}", fault.name);
                    }
                    times.push(repaired(lab, &border, &whole, || each(&border, fault.undo))?);
                }
            }
            check(fault.name, fault.bound, times);
            assert_eq!(lab.leaks()?.since(&leaks).total(), 0, "after {}", fault.name);
        }
        let mut times = Vec::new();
        for _ in 0..TIMES {
            lab.cut(LINKS[0].id)?;
            given_up(&border)?;
            times.push(repaired(lab, &border, &whole, || lab.restore(LINKS[0].id))?);
        }
        check("carrier returns", RETURN, times);
        check("nft flush", REPAIR, flushed(&border)?);
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);
        far.settles_on("svg")?;
        near.settles_on("osl")?;
        drop([far.finish(), near.finish()]);
        Ok(())
    })
}

/// How long the table is away after `nft flush ruleset`, [`TIMES`] times.
fn flushed(border: &Netns) -> Result<Vec<Duration>> {
    let table = || border.output("nft", &["list", "table", "inet", "nett"]);
    // Counters count on.
    let rules = |text: String| text.lines().filter(|l| !l.contains("packets")).count();
    let whole = rules(table()?);
    let mut times = Vec::new();
    for _ in 0..TIMES {
        border.nft("flush ruleset")?;
        times.push(eventually_true(patience(), "the table is back", || {
            Ok(table().is_ok_and(|text| rules(text) == whole))
        })?);
    }
    Ok(times)
}

#[test]
fn a_link_made_anew_is_used_again_and_ipv6_waits_for_its_address() -> Result<()> {
    tell("a_link_made_anew_is_used_again_and_ipv6_waits_for_its_address", |lab| {
        let (here, there) = (lab.ns("osl-b1")?, lab.ns("svg-b1")?);
        let far = Traffic::start(lab, &["osl-c1"], &VAULT.vips(), 16)?;
        let leaks = lab.leaks()?;
        let index = |text: &str| text.split(':').next().map(str::to_owned);
        let before = index(&here.ip(&format!("-o link show {WAN}"))?);
        here.ip(&format!("link del {WAN}"))?;
        given_up(&here)?;
        here.ip(&format!(
            "link add name {WAN} index 700 type veth peer name {WAN} index 701 netns {}",
            there.name()
        ))?;
        assert_ne!(before, index(&here.ip(&format!("-o link show {WAN}"))?));
        // This end looks for duplicates, as interfaces do unless told otherwise.
        here.sysctl(&[("ipv6/conf/wan0/accept_dad", "1")])?;
        let [(_, osl), (_, svg)] = LINKS[0].ends;
        for (ns, addresses, nodad) in [(&there, svg, " nodad"), (&here, osl, "")] {
            ns.ip(&format!("address add {} dev {WAN}", addresses[0]))?;
            ns.ip(&format!("address add {} dev {WAN}{nodad}", addresses[1]))?;
            ns.ip(&format!("link set {WAN} up"))?;
        }
        let has =
            |gateway: &str| -> Result<bool> { Ok(here.ip("nexthop show")?.contains(gateway)) };
        eventually_true(patience(), "IPv4 uses the link", || has("via 172.31.0.2 dev wan0 "))?;
        let tentative = || -> Result<bool> {
            Ok(!here.ip("-6 address show dev wan0 to fd00:f0::/64 tentative")?.trim().is_empty())
        };
        eventually_true(patience(), "IPv6 uses the link", || {
            let (waits, used) = (tentative()?, has("via fd00:f0::2 dev wan0 ")?);
            // Read in this order: whatever is used was not tentative any more.
            if waits && used {
                assert!(!tentative()?, "a tentative address is in use");
            }
            Ok(used)
        })?;
        far.settles_on("svg")?;
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);
        drop(far.finish());
        Ok(())
    })
}
