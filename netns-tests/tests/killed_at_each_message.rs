//! SIGKILL at one message after the other while an agent puts its forwarding back: whatever was
//! done, nothing leaks, and the next start completes it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use nett_netns_tests::eventually::{eventually, eventually_true, patience};
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::process::Spec;
use nett_netns_tests::services::VAULT;
use nett_netns_tests::story::{Traffic, tell};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const NODE: &str = "osl-b1";

/// At which of the agent's sends it dies: of one thread, as strace counts them.
const SENDS: [u32; 10] = [2, 4, 7, 11, 16, 22, 30, 40, 52, 70];

/// Starts the agent so that it dies when it sends for the given time; true when it did.
fn dies_at(lab: &mut Lab, send: u32) -> Result<bool> {
    let trace = lab.layout().log("strace");
    let name = format!("dying-{send}");
    let args = [
        "-f",
        "-qq",
        "-o",
        &trace.display().to_string(),
        "-e",
        "trace=sendto,sendmsg",
        "-e",
        &format!("inject=sendto,sendmsg:signal=KILL:when={send}"),
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
    let mut process = lab.take_process(&name)?;
    let gone =
        eventually_true(Duration::from_secs(8), "it dies", || Ok(process.check_alive().is_err()));
    // An agent that sent less often than that is ended here: strace would let it go on.
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
            died += usize::from(dies_at(lab, send)?);
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
