//! SIGKILL at one message after the other while an agent puts its forwarding back: whatever was
//! done, nothing leaks, and the next start completes it. And at one write to disk after the other
//! while it takes a command: what it has acknowledged, it knows at its next start.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nett_netns_tests::eventually::{eventually, eventually_true, patience};
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::process::Spec;
use nett_netns_tests::services::{API, VAULT};
use nett_netns_tests::story::{Operator, Traffic, tell};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const NODE: &str = "osl-b1";

/// At which of the agent's sends it dies: of one thread, as strace counts them.
const SENDS: [u32; 10] = [2, 4, 7, 11, 16, 22, 30, 40, 52, 70];

/// At which of its writes to disk it dies.
const SYNCS: [u32; 5] = [1, 2, 3, 4, 6];

/// Starts the agent so that it dies at one of its `calls`; returns the name of the process.
fn start_dying(lab: &mut Lab, calls: &str, at: u32) -> Result<String> {
    let trace = lab.layout().log("strace");
    let name = format!("dying-at-{at}");
    let args = [
        "-f",
        "-qq",
        "-o",
        &trace.display().to_string(),
        "-e",
        &format!("trace={calls}"),
        "-e",
        &format!("inject={calls}:signal=KILL:when={at}"),
        &lab.programs().agent.display().to_string(),
        "run",
        "--config",
        &lab.layout().agent_config(NODE).display().to_string(),
    ];
    let spec = Spec {
        name: name.clone(),
        program: PathBuf::from("strace"),
        args: args.map(str::to_owned).to_vec(),
        env: Vec::new(),
        log: lab.layout().log(&name),
    };
    lab.start_process(NODE, spec)?;
    Ok(name)
}

/// Ends what [`start_dying`] started; true when it had died already.
fn end_dying(lab: &mut Lab, name: &str, patience: Duration) -> Result<bool> {
    let mut process = lab.take_process(name)?;
    let gone = eventually_true(patience, "it dies", || Ok(process.check_alive().is_err()));
    // An agent that has not come that far is ended here: strace would let it go on.
    let pid = process.record().pid;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    for child in children.unwrap_or_default().split_whitespace() {
        kill(Pid::from_raw(child.parse()?), Signal::SIGKILL)?;
    }
    process.kill();
    Ok(gone.is_ok())
}

#[test]
fn an_agent_that_dies_at_any_message_leaves_nothing_open() -> Result<()> {
    tell("an_agent_that_dies_at_any_message_leaves_nothing_open", |lab| {
        let ns = lab.ns(NODE)?;
        let whole = Kernel::of(&ns)?;
        let leaks = lab.leaks()?;
        let traffic = Traffic::to_vips(lab, &["osl-c1"], VAULT)?;
        let mut died = 0;
        for send in SENDS {
            lab.take_process(&agent_name(NODE))?.kill();
            // Two tables and every nexthop are gone; rules and floors stand.
            ns.try_output("ip", &["nexthop", "flush"])?;
            ns.try_output("ip", &["route", "del", "10.99.0.50", "table", "7000"])?;
            let dying = start_dying(lab, "sendto,sendmsg", send)?;
            died += usize::from(end_dying(lab, &dying, Duration::from_secs(8))?);
            let leaked = lab.leaks()?.since(&leaks);
            ensure!(leaked.total() == 0, "after message {send}: {leaked:?}");
            lab.start_agent(NODE)?;
            lab.wait_for_agent(NODE)?;
            let what = format!("the next start completes what died at message {send}");
            eventually(patience() * 2, &what, || {
                let left = whole.changes(&Kernel::of(&ns)?);
                if left.is_empty() { Ok(()) } else { bail!("{}", left.join("\n")) }
            })?;
        }
        ensure!(died >= SENDS.len() / 2, "only {died} of them died");
        traffic.settles_on("svg")?;
        drop(traffic.finish());
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);
        Ok(())
    })
}

#[test]
fn an_agent_that_dies_at_any_write_forgets_nothing_it_acknowledged() -> Result<()> {
    tell("an_agent_that_dies_at_any_write_forgets_nothing_it_acknowledged", |lab| {
        let leaks = lab.leaks()?;
        let traffic = Traffic::to_vips(lab, &["svg-c1"], API)?;
        let (mut died, mut acknowledged) = (0, 0);
        for (sync, target) in SYNCS.into_iter().zip(["svg", "osl"].into_iter().cycle()) {
            lab.take_process(&agent_name(NODE))?.kill();
            let dying = start_dying(lab, "fsync,fdatasync", sync)?;
            // It may die before it answers, while it takes the command, or behind it.
            let mira = Operator { lab, node: NODE, name: "mira" };
            let up = || Ok(mira.run(&["status"])?.code == Some(0));
            let _ = eventually_true(Duration::from_secs(4), "it answers", up);
            let command = ["failover", API.id, "--to", target];
            let told = mira.order(&command)?;
            died += usize::from(end_dying(lab, &dying, Duration::from_secs(1))?);
            lab.start_agent(NODE)?;
            lab.wait_for_agent(NODE)?;
            let mira = Operator { lab, node: NODE, name: "mira" };
            if told.code == Some(0) {
                acknowledged += 1;
                let json = told.json()?;
                let task = json["task"].as_str().unwrap_or_default();
                mira.wait_for(task, "done")?;
            } else {
                // Whoever heard nothing asks again. It is refused where the first one is known.
                mira.order(&command)?;
            }
            traffic.settles_on(target).with_context(|| format!("after write {sync}"))?;
            mira.run(&["audit", "--verify"])?.must_be(0)?;
            eventually_true(patience() * 2, "no task is open", || {
                let tasks = mira.run(&["-o", "json", "task", "list"])?.must_be(0)?.out;
                Ok(!tasks.contains("\"running\""))
            })?;
        }
        show(&format!("of {} agents {died} died, {acknowledged} acknowledged", SYNCS.len()));
        ensure!(died >= SYNCS.len() / 2, "only {died} of them died");
        let report = traffic.finish();
        assert_eq!(report.lost(), 0, "{}", report.summary());
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);
        Ok(())
    })
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
