//! An agent that reads its kernel badly takes nothing away: dumps that the kernel refuses, that are
//! interrupted, or that hold what nobody can read, raise an alarm, and delete nothing. When they
//! are whole again the alarm ends, and what was to be deleted goes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually, eventually_true};
use nett_netns_tests::faulty::{Fault, Faulty, GET_NEXTHOP, GET_ROUTE, NEW_NEXTHOP, NEW_ROUTE};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::netns::Netns;
use nett_netns_tests::observe::http::metric;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::observe::monitor::Monitor;
use nett_netns_tests::services::{API, VAULT};
use nett_netns_tests::story::{Operator, TASK, Traffic, tell};

const NODE: &str = "osl-b1";
const INCOMPLETE: &str = "the kernel could not be read whole";
/// What goes wrong, and what the operator reads of it.
const FAULTS: [(Fault, &str); 5] = [
    (Fault::Refused(GET_ROUTE), "Invalid values in header for FIB dump request"),
    (Fault::Refused(GET_NEXTHOP), "Invalid values in header for nexthop dump request"),
    (Fault::Torn(NEW_ROUTE), INCOMPLETE),
    (Fault::Torn(NEW_NEXTHOP), INCOMPLETE),
    (Fault::Cut(NEW_NEXTHOP), INCOMPLETE),
];
/// Nexthops of another program, by which the kernel says by itself that a dump was interrupted.
const OTHERS: u32 = 400;

/// Makes the agent look at everything: an address that is nobody's business comes and goes.
fn look(ns: &Netns) -> Result<()> {
    ns.ip("address add 198.18.250.1/32 dev lo")?;
    ns.ip("address del 198.18.250.1/32 dev lo").map(drop)
}

fn shown(lab: &Lab, at: &str) -> Result<String> {
    let mira = Operator { lab, node: at, name: "mira" };
    Ok(mira.run(&["node", "show", NODE])?.must_be(0)?.out)
}

fn is_told(lab: &Lab, words: &str) -> Result<()> {
    for at in [NODE, "svg-b1"] {
        eventually(TASK, "the operator is told", || {
            let text = shown(lab, at)?;
            ensure!(text.contains(words), "{at} says: {text}");
            Ok(())
        })?;
    }
    Ok(())
}

fn is_quiet(lab: &Lab) -> Result<Duration> {
    let quiet = eventually(TASK, "the alarm ends", || {
        let text = shown(lab, NODE)?;
        ensure!(!text.contains("kernel"), "{text}");
        Ok(())
    });
    Ok(quiet?.1)
}

/// What happened to objects of ours.
fn ours(monitor: Monitor) -> Result<Vec<String>> {
    let mut events = monitor.finish()?;
    events.retain(|line| line.contains("proto 217"));
    Ok(events)
}

#[test]
fn dumps_that_are_not_whole_raise_an_alarm_and_change_nothing() -> Result<()> {
    tell("dumps_that_are_not_whole_raise_an_alarm_and_change_nothing", |lab| {
        let ns = lab.ns(NODE)?;
        let faulty = Faulty::agent(lab, NODE)?;
        let whole = Kernel::of(&ns)?;
        let traffic = Traffic::to_vips(lab, &["osl-c1", "outside"], VAULT)?;
        let resyncs = || {
            let of =
                |reason| metric(&ns, &format!("nett_kernel_resync_total{{reason={reason:?}}}"));
            Ok::<f64, anyhow::Error>(of("unreadable")?.unwrap_or(0.0) + of("retry")?.unwrap_or(0.0))
        };
        for (nth, (fault, words)) in FAULTS.into_iter().enumerate() {
            let monitor = Monitor::start(&ns, lab.layout().log(&format!("monitor-{nth}")))?;
            let before = resyncs()?;
            faulty.set(fault)?;
            look(&ns)?;
            is_told(lab, words).with_context(|| format!("{fault:?}"))?;
            traffic.run_for(1500)?;
            let looks = resyncs()? - before;
            ensure!((1.0..40.0).contains(&looks), "{fault:?}: {looks} looks");
            faulty.none()?;
            let quiet = is_quiet(lab).with_context(|| format!("{fault:?}"))?;
            show(&format!("{fault:?}: {looks} looks, quiet {quiet:?} after its end"));
            assert_eq!(ours(monitor)?, Vec::<String>::new(), "{fault:?}");
            assert_eq!(whole.changes(&Kernel::of(&ns)?), Vec::<String>::new(), "{fault:?}");
        }
        let report = traffic.finish();
        assert_eq!(report.lost(), 0, "{}", report.summary());
        Ok(())
    })
}

/// The kernel's own interruptions: another program's nexthops come and go without a pause while
/// the agent reads theirs and its own again and again. Whether a dump is hit is chance; that one
/// which is hit deletes nothing is shown by `Fault::Cut` above.
#[test]
fn dumps_under_which_others_change_the_kernel_delete_nothing() -> Result<()> {
    tell("dumps_under_which_others_change_the_kernel_delete_nothing", |lab| {
        let ns = lab.ns(NODE)?;
        let whole = Kernel::of(&ns)?;
        let traffic = Traffic::to_vips(lab, &["osl-c1", "outside"], VAULT)?;
        let monitor = Monitor::start(&ns, lab.layout().log("monitor-churn"))?;
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            let churn = scope.spawn(|| -> Result<usize> {
                let mut rounds = 0;
                while !ended.load(Ordering::Acquire) && rounds < 500 {
                    let each = |verb: &str, end: &str| -> Vec<String> {
                        let ids = 0x1000..0x1000 + OTHERS;
                        ids.map(|id| format!("nexthop {verb} id {id}{end}")).collect()
                    };
                    ns.ip_batch(&each("add", " blackhole"))?;
                    ns.ip_batch(&each("del", ""))?;
                    rounds += 1;
                }
                Ok(rounds)
            });
            let looked = (0..40).try_for_each(|_| {
                look(&ns)?;
                traffic.run_for(50)
            });
            ended.store(true, Ordering::Release);
            let rounds = churn.join().expect("it returns its errors")?;
            show(&format!("{rounds} times {OTHERS} nexthops came and went"));
            ensure!(rounds > 2, "{rounds} rounds");
            looked
        })?;
        is_quiet(lab)?;
        assert_eq!(ours(monitor)?, Vec::<String>::new());
        assert_eq!(whole.changes(&Kernel::of(&ns)?), Vec::<String>::new());
        let report = traffic.finish();
        assert_eq!(report.lost(), 0, "{}", report.summary());
        Ok(())
    })
}

/// Where a site sends shares of a service elsewhere, its border has routes for what a route node
/// has decided (`nett-core`). They are to go with the shares; not by a torn dump.
#[test]
fn what_is_to_be_deleted_waits_for_a_whole_dump() -> Result<()> {
    tell("what_is_to_be_deleted_waits_for_a_whole_dump", |lab| {
        let (ns, other) = (lab.ns(NODE)?, lab.ns("svg-b1")?);
        let faulty = Faulty::agent(lab, NODE)?;
        let shares = |ns: &Netns| -> Result<bool> {
            Ok(ns.ip("route show table 7004")?.contains(&API.vips()[0]))
        };
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        let task = mira.complete(&["steer", API.id, "--to", "osl=50,svg=50"])?;
        ensure!(shares(&ns)? && shares(&other)?, "both borders have routes for shares");

        faulty.set(Fault::Torn(NEW_ROUTE))?;
        look(&ns)?;
        is_told(lab, INCOMPLETE)?;
        mira.order(&["revert", &task])?.must_be(0)?;
        eventually_true(TASK, "the other border has none any more", || Ok(!shares(&other)?))?;
        let traffic = Traffic::to_vips(lab, &["osl-c1"], VAULT)?;
        traffic.run_for(2000)?;
        ensure!(shares(&ns)?, "deleted by a dump that was not whole");

        faulty.none()?;
        eventually_true(TASK, "this border has none", || Ok(!shares(&ns)?))?;
        is_quiet(lab)?;
        let report = traffic.finish();
        assert_eq!(report.lost(), 0, "{}", report.summary());
        Ok(())
    })
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
