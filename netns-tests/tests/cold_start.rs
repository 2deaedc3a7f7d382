//! SIGKILL at each write to the kernel of an agent that starts where nothing of Nett is left, as
//! behind a boot: from its guard on no packet to a VIP leaves by the uplink, no site answers that
//! does not serve, a service under a lease is served by its holder alone although the disk is from
//! before it moved, and the next start completes it.
//!
//! `make kill-sweep` dies at all of them, `make test` at a few that a seed chooses.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually, eventually_true, patience};
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::netns::Netns;
use nett_netns_tests::observe::counters::Leaks;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::process::Spec;
use nett_netns_tests::services::{LEDGER, Service, VAULT, WEB};
use nett_netns_tests::story::{Operator, TASK, tell_of};
use nett_netns_tests::topology::{SITES, Shape};
use nett_netns_tests::traffic::{Report, Running, Target, now};
use nett_netns_tests::tripwire::{Calls, Ended, Moment, Tripwire};

/// Who is started, in this order: where the lease's gate is, and where the uplink is.
const NODES: [&str; 2] = ["osl-r1", "osl-b1"];
/// So many places of each node without anything said.
const FEW: usize = 1;
/// Packets per second of each probe: several run beside strace.
const RATE: u32 = 100;
/// How many of each probe's packets are looked at when an agent has died.
const LOOK: usize = 40;

/// Packets of one kind, and who alone may answer them.
struct Probe {
    what: String,
    running: Running,
    by: &'static str,
}

/// What an agent that died has left, by family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Left {
    guard: bool,
    rules: [usize; 2],
}

// === impl Probe ===

impl Probe {
    fn start(lab: &Lab, host: &str, service: Service, by: &'static str) -> Result<Vec<Self>> {
        let ns = lab.ns(host)?;
        let start = |vip: &String| {
            let running = Running::start(&ns, Target::new(vip.parse::<IpAddr>()?, RATE))?;
            Ok(Self { what: format!("{host} to {vip}"), running, by })
        };
        service.vips().iter().map(start).collect()
    }

    /// Nobody else has ever answered.
    fn is_right(&self) -> Result<Report> {
        let report = self.running.report();
        let right = report.answers_of(self.by) == report.received();
        ensure!(right, "{}: {}", self.what, report.summary());
        Ok(report)
    }
}

fn run_for(probes: &[Probe], packets: usize) -> Result<()> {
    let goals: Vec<_> = probes.iter().map(|p| (p, p.running.sent() + packets)).collect();
    eventually_true(patience() * 2, "packets are sent", || {
        Ok(goals.iter().all(|(probe, goal)| probe.running.sent() >= *goal))
    })
    .map(drop)
}

fn left(ns: &Netns) -> Result<Left> {
    let rules = |family: &str| -> Result<usize> {
        let listed = ns.ip(&format!("{family} rule show"))?;
        let priorities = listed.lines().filter_map(|line| line.split(':').next()?.parse().ok());
        Ok(priorities.filter(|pref: &u32| (4400..4500).contains(pref)).count())
    };
    let guard = ns.output("nft", &["list", "tables"])?.contains("inet nett\n");
    Ok(Left { guard, rules: [rules("-4")?, rules("-6")?] })
}

/// The kernel without the gate, whose timers are set anew in every round.
fn calm(ns: &Netns) -> Result<Kernel> {
    let mut kernel = Kernel::of(ns)?;
    kernel.lines.retain(|line| !line.contains("\"nett_lease\""));
    Ok(kernel)
}

fn agent(lab: &Lab, node: &str) -> Spec {
    let config = lab.layout().agent_config(node).display().to_string();
    let name = format!("cold-{node}");
    Spec {
        program: lab.programs().agent.clone(),
        args: ["run", "--config", &config].map(str::to_owned).to_vec(),
        env: Vec::new(),
        log: lab.layout().log(&name),
        name,
    }
}

/// Nothing of the agent is left but its disk.
fn switched_off(lab: &mut Lab, node: &str) -> Result<()> {
    if let Ok(running) = lab.take_process(&agent_name(node)) {
        running.kill();
    }
    let agent = lab.programs().agent.display().to_string();
    let config = lab.layout().agent_config(node).display().to_string();
    let ns = lab.ns(node)?;
    ns.output(&agent, &["purge", "--config", &config])?;
    let all = Left { guard: false, rules: [0, 0] };
    ensure!(left(&ns)? == all, "{node} is not empty: {:?}", left(&ns)?);
    Ok(())
}

fn trace(lab: &Lab, node: &str) -> PathBuf {
    lab.layout().log(&format!("tripwire-{node}"))
}

/// How often an agent writes to the kernel until it is ready, beginning with nothing.
fn count(lab: &mut Lab, node: &str) -> Result<usize> {
    switched_off(lab, node)?;
    let ns = lab.ns(node)?;
    let agent = agent(lab, node);
    let wire = Tripwire::begin(&ns, &agent, Calls::Kernel, None, trace(lab, node))?;
    eventually(patience() * 4, "it is ready", || nett_netns_tests::observe::http::ready(&ns))?;
    let count = wire.count()?;
    wire.end()?;
    Ok(count)
}

/// Begins the agent as a service manager would, and waits for it.
fn starts(lab: &mut Lab, node: &str) -> Result<()> {
    lab.start_agent(node)?;
    lab.wait_for_agent(node).map(drop)
}

/// Makes one directory a copy of another.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    let copied = Command::new("cp").arg("-a").args([from, to]).status()?;
    ensure!(copied.success(), "cannot copy {}", from.display());
    Ok(())
}

/// `NETT_KILLS`: `all`, a number of places, or words of the places meant.
fn chosen(node: &str, count: usize, seed: usize) -> Vec<usize> {
    let wish = std::env::var("NETT_KILLS").unwrap_or_else(|_| FEW.to_string());
    match wish.parse::<usize>() {
        Ok(few) => {
            // Of the last third: long before it there is neither guard nor rule, as without Nett.
            let third = count / 3;
            let few = few.min(third);
            (0..few).map(|n| (seed + n * third / few) % third + count - third + 1).collect()
        }
        Err(_) if wish == "all" => (1..=count).collect(),
        Err(_) => (1..=count).filter(|at| place(node, *at).contains(&wish)).collect(),
    }
}

fn place(node: &str, at: usize) -> String {
    format!("{node} dies before write {at} of a cold start")
}

/// What left by an uplink towards VIPs.
fn vips(mut leaks: Leaks) -> Leaks {
    leaks.0.retain(|kind, _| kind.starts_with("vip_"));
    leaks
}

/// One death. Returns whether it died where it should, and what it had made by then.
fn die(lab: &mut Lab, probes: &[Probe], node: &str, at: usize) -> Result<(Ended, Left)> {
    let ns = lab.ns(node)?;
    let agent = agent(lab, node);
    let wire = Tripwire::begin(&ns, &agent, Calls::Kernel, Some(Moment::Before), trace(lab, node))?;
    let wire = wire.arm(at)?;
    // One that never comes that far is ended, which is a place as well.
    let _ = eventually_true(patience() * 4, "it dies", || Ok(wire.has_fired()));
    let ended = wire.finish()?;
    let (made, leaks) = (left(&ns)?, lab.leaks()?);
    run_for(probes, LOOK)?;
    let leaked = vips(lab.leaks()?.since(&leaks));
    for probe in probes {
        probe.is_right()?;
    }
    // Before the first of them the node is as one without Nett.
    let bare = made == Left { guard: false, rules: [0, 0] };
    ensure!(bare || leaked.total() == 0, "{made:?}: {leaked:?} left by the uplink");
    Ok((ended, made))
}

#[test]
fn an_agent_that_dies_at_any_write_of_a_cold_start_lets_nothing_out() -> Result<()> {
    let seed = std::env::var("NETT_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| std::process::id() as usize);
    let name = "an_agent_that_dies_at_any_write_of_a_cold_start_lets_nothing_out";
    tell_of(name, Shape::THREE, |lab| {
        let [router, border] = NODES;
        let old = lab.layout().host(router).join("disk-of-before");
        switched_off(lab, router)?;
        let disk = lab.layout().state(router);
        copy(&disk, &old)?;
        // The machine is off, somebody says so, and the service goes without it.
        let mira = Operator { lab, node: "svg-b1", name: "mira" };
        let moved = ["failover", LEDGER.id, "--to", "svg", "--fencing", "asserted"];
        let moved = [&moved[..], &["--off", router]].concat();
        let order = || Ok(mira.order(&moved)?.must_be(0)?.json()?["task"].clone());
        let (task, _) = eventually(TASK, "a majority of voters is heard", order)?;
        mira.wait_for(task.as_str().context("a task")?, "done")?;
        starts(lab, router)?;
        lab.route_vips_over(SITES[0])?;

        let mut probes = Vec::new();
        for (host, service, by) in [
            ("osl-c1", WEB, "osl"),
            ("outside", WEB, "osl"),
            ("osl-c1", VAULT, "svg"),
            ("osl-c1", LEDGER, "svg"),
            ("svg-c1", LEDGER, "svg"),
        ] {
            probes.extend(Probe::start(lab, host, service, by)?);
        }
        let served = |from: u64| {
            for probe in &probes {
                let report = probe.is_right()?.since(from);
                ensure!(report.received() > 0, "{}: {}", probe.what, report.summary());
            }
            Ok(())
        };
        eventually(patience() * 2, "every probe is answered", || served(0))?;

        let (mut places, mut died) = (0, 0);
        for node in [router, border] {
            let ns = lab.ns(node)?;
            let whole = calm(&ns)?;
            let leaks = lab.leaks()?;
            let count = count(lab, node)?;
            let leaked = vips(lab.leaks()?.since(&leaks));
            ensure!(node == router || leaked.total() > 0, "nothing leaks without Nett");
            let chosen = chosen(node, count, seed);
            show(&format!("{node} writes {count} times; seed {seed}"));
            for at in chosen {
                let place = place(node, at);
                switched_off(lab, node)?;
                if node == router {
                    copy(&old, &disk)?;
                }
                let (ended, made) = die(lab, &probes, node, at).with_context(|| place.clone())?;
                places += 1;
                died += usize::from(ended != Ended::Lives);
                show(&format!("{place}: {ended:?}, {made:?}"));
                starts(lab, node)?;
                eventually(patience() * 2, "the next start completes it", || {
                    let left = whole.changes(&calm(&ns)?);
                    ensure!(left.is_empty(), "{}", left.join("\n"));
                    Ok(())
                })
                .with_context(|| place.clone())?;
                let from = now();
                eventually(patience() * 2, "every probe is answered", || served(from))
                    .with_context(|| place)?;
            }
        }
        ensure!(2 * died >= places, "only {died} of {places} died");
        Ok(())
    })
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
