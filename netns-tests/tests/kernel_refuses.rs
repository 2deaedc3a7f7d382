//! A running agent meets a kernel that refuses: all that needs CAP_NET_ADMIN, or one object alone.
//! What is there stays and carries its traffic, the operator reads the kernel's own words, and all
//! is mended once the kernel takes it again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::eventually;
use nett_netns_tests::faulty::{Fault, Faulty};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::netns::Netns;
use nett_netns_tests::observe::http::metric;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::observe::monitor::Monitor;
use nett_netns_tests::services::{API, VAULT, WEB};
use nett_netns_tests::story::{Operator, TASK, Traffic, tell};

const NODE: &str = "osl-b1";
/// The longest pause of an agent between two tries, and what the try takes.
const RETRY: Duration = Duration::from_secs(12);
const UNREAD: &str = "nett_kernel_resync_total{reason=\"unreadable\"}";
const REFUSED: &str = "nett_kernel_ops_total{object=\"nexthop\",op=\"add\",result=\"refused\"}";

fn count(ns: &Netns, name: &str) -> Result<f64> {
    Ok(metric(ns, name)?.unwrap_or(0.0))
}

/// What `node show` and `status` say is wrong with the node, asked of `at`.
fn told(lab: &Lab, at: &str) -> Result<[String; 2]> {
    let mira = Operator { lab, node: at, name: "mira" };
    let show = mira.run(&["node", "show", NODE])?.must_be(0)?.out;
    let status = mira.run(&["-o", "wide", "status"])?.must_be(0)?.out;
    Ok([show, status])
}

/// Waits until both agents say all of this of the node.
fn is_told(lab: &Lab, words: &[&str]) -> Result<()> {
    for at in [NODE, "svg-b1"] {
        eventually(TASK, "the operator is told", || {
            let texts = told(lab, at)?;
            let lacks = words.iter().find(|word| texts.iter().any(|text| !text.contains(**word)));
            ensure!(lacks.is_none(), "{at} does not say {lacks:?}: {texts:#?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn is_quiet(lab: &Lab) -> Result<()> {
    eventually(TASK, "the alarm ends", || {
        let [show, _] = told(lab, NODE)?;
        ensure!(!show.contains("kernel"), "{show}");
        Ok(())
    })
    .map(drop)
}

/// Waits until the kernel is as it was, and says for how long.
fn becomes_whole(ns: &Netns, whole: &Kernel) -> Result<Duration> {
    let (_, took) = eventually(2 * RETRY, "the kernel is as it was", || {
        let left = whole.changes(&Kernel::of(ns)?);
        ensure!(left.is_empty(), "{}", left.join("\n"));
        Ok(())
    })?;
    Ok(took)
}

#[test]
fn an_agent_without_its_capability_says_so_and_mends_all_when_it_has_it_back() -> Result<()> {
    tell("an_agent_without_its_capability_says_so_and_mends_all_when_it_has_it_back", |lab| {
        let ns = lab.ns(NODE)?;
        let faulty = Faulty::agent(lab, NODE)?;
        let whole = Kernel::of(&ns)?;
        let leaks = lab.leaks()?;
        let far = Traffic::to_vips(lab, &["osl-c1", "outside"], VAULT)?;
        let near = Traffic::to_vips(lab, &["svg-c1"], WEB)?;

        faulty.set(Fault::Powerless)?;
        let monitor = Monitor::start(&ns, lab.layout().log("monitor-powerless"))?;
        ns.ip("route del 10.99.0.10 table 7000")?;
        is_told(lab, &["could not be read", "EPERM", "CAP_NET_ADMIN"])?;
        let before = count(&ns, UNREAD)?;
        far.run_for(5000)?;
        let looks = count(&ns, UNREAD)? - before;
        // After 100, 200, 400, 800 and every 1600 ms, each less by up to a quarter.
        ensure!((1.0..15.0).contains(&looks), "{looks} looks in five seconds");
        ensure!(!ns.ip("route show table 7000")?.contains("10.99.0.10 "), "nothing was written");
        let log = std::fs::read_to_string(lab.layout().log("agent-osl-b1"))?;
        ensure!(log.contains("Cannot read the kernel.") && log.contains("EPERM"), "{log}");

        faulty.none()?;
        let took = becomes_whole(&ns, &whole)?;
        is_quiet(lab)?;
        let mut events = monitor.finish()?;
        events.retain(|line| line.contains("proto 217") && !line.contains("10.99.0.10 "));
        show(&format!("told by {looks} looks, whole {took:?} after it may again: {events:?}"));
        ensure!(events.is_empty(), "{events:?}");
        for report in [far.finish(), near.finish()] {
            assert_eq!(report.lost(), 0, "{}", report.summary());
        }
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);
        // And it is obeyed as before.
        let mira = Operator { lab, node: "svg-b1", name: "mira" };
        mira.complete(&["failover", API.id, "--to", "svg"]).map(drop)
    })
}

#[test]
fn one_object_that_is_refused_stops_no_other_and_comes_when_it_is_taken() -> Result<()> {
    tell("one_object_that_is_refused_stops_no_other_and_comes_when_it_is_taken", |lab| {
        let ns = lab.ns(NODE)?;
        let whole = Kernel::of(&ns)?;
        let leaks = lab.leaks()?;
        let far = Traffic::start(lab, &["osl-c1"], &VAULT.vips(), 16)?;
        let near = Traffic::to_vips(lab, &["osl-c1", "svg-c1"], WEB)?;
        let nexthop = nexthop(&ns, "via 172.31.0.6 dev wan1")?;
        let other = self::nexthop(&ns, "via fd00:f1::2 dev wan1")?;
        let before = count(&ns, REFUSED)?;

        let used = || -> Result<bool> {
            let groups = ns.ip("nexthop show")?;
            let member = |line: &str| line.contains(" group ") && line.contains(&other.to_string());
            Ok(groups.lines().any(member))
        };
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        let drain = mira.complete(&["drain", "link", "osl-svg-2"])?;
        ensure!(!used()?, "the second link is for want of another one");

        // By mistake the node has the address of that link's far end, and somebody deletes the way
        // there: the kernel takes no gateway that is its own.
        ns.ip("address add 172.31.0.6/32 dev wan1")?;
        ns.ip(&format!("nexthop del id {nexthop}"))?;
        let object = format!("nexthop id {nexthop} via 172.31.0.6 dev wan1");
        is_told(lab, &[&object, "EINVAL (Nexthop has invalid gateway)"])?;
        for node in [NODE, "svg-b1"] {
            eventually(TASK, "the ends miss each other", || {
                let text = mira.run(&["node", "show", node])?.must_be(0)?.out;
                ensure!(text.contains("osl-svg-2: its IPv4 BFD session is down"), "{text}");
                Ok(())
            })?;
        }
        mira.complete(&["revert", &drain])?;
        ensure!(used()?, "IPv6 goes by both links, meanwhile");
        far.run_for(3000)?;
        let tries = count(&ns, REFUSED)? - before;
        ensure!((2.0..30.0).contains(&tries), "{tries} tries");
        let log = std::fs::read_to_string(lab.layout().log("agent-osl-b1"))?;
        ensure!(log.contains("Nexthop has invalid gateway"), "{log}");

        ns.ip("address del 172.31.0.6/32 dev wan1")?;
        let took = becomes_whole(&ns, &whole)?;
        is_quiet(lab)?;
        show(&format!("{tries} tries, whole {took:?} after the kernel takes it"));
        for report in [far.finish(), near.finish()] {
            assert_eq!(report.lost(), 0, "{}", report.summary());
        }
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);
        Ok(())
    })
}

/// The id of the nexthop that is listed so.
fn nexthop(ns: &Netns, listed: &str) -> Result<u32> {
    let all = ns.ip("nexthop show")?;
    let line = all.lines().find(|line| line.contains(listed));
    let id = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    id.with_context(|| format!("no {listed} in {all}"))
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
