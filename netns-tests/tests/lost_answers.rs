//! The kernel's answers get lost on their way to an agent: it asks what became of its messages
//! before it sends them again, and its forwarding is whole all the same.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::process::Spec;
use nett_netns_tests::services::VAULT;
use nett_netns_tests::story::{Traffic, tell};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const NODE: &str = "osl-b1";
/// Every which receive of each thread fails.
const NTH: u32 = 9;
/// How often others take objects away meanwhile.
const ROUNDS: usize = 6;

/// Starts the agent so that its receives fail as a netlink socket's do that was overrun: what was
/// to be read is gone. Returns where they are written down, with the kind of socket.
fn start_deaf(lab: &mut Lab) -> Result<PathBuf> {
    let trace = lab.layout().log("strace-deaf");
    let calls = "recvfrom,recvmsg";
    let args = [
        "-f",
        "-qq",
        "-yy",
        "--seccomp-bpf",
        "-o",
        &trace.display().to_string(),
        "-e",
        &format!("trace={calls}"),
        "-e",
        &format!("inject={calls}:error=ENOBUFS:when={NTH}+{NTH}"),
        &lab.programs().agent.display().to_string(),
        "run",
        "--config",
        &lab.layout().agent_config(NODE).display().to_string(),
    ];
    let spec = Spec {
        name: agent_name(NODE),
        program: PathBuf::from("strace"),
        args: args.map(str::to_owned).to_vec(),
        env: Vec::new(),
        log: lab.layout().log("deaf"),
    };
    lab.start_process(NODE, spec)?;
    Ok(trace)
}

/// The agent below strace, which would let it go on when it is ended itself.
struct Traced(Pid);

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

impl Traced {
    fn of(lab: &mut Lab) -> Result<Self> {
        let strace = lab.process(&agent_name(NODE))?.record().pid;
        let path = format!("/proc/{strace}/task/{strace}/children");
        let (pid, _) = eventually(patience(), "strace has started the agent", || {
            let children = std::fs::read_to_string(&path)?;
            let child = children.split_whitespace().next().context("no child yet")?;
            Ok(Pid::from_raw(child.parse()?))
        })?;
        Ok(Self(pid))
    }
}

/// Row 13 of the faults.
#[test]
fn lost_answers_of_the_kernel_are_asked_for_again() -> Result<()> {
    tell("lost_answers_of_the_kernel_are_asked_for_again", |lab| {
        let ns = lab.ns(NODE)?;
        let whole = Kernel::of(&ns)?;
        let leaks = lab.leaks()?;
        let traffic = Traffic::to_vips(lab, &["osl-c1"], VAULT)?;
        lab.take_process(&agent_name(NODE))?.stop(patience())?;
        let trace = start_deaf(lab)?;
        let traced = Traced::of(lab)?;
        lab.wait_for_agent(NODE)?;
        for round in 0..ROUNDS {
            ns.try_output("ip", &["nexthop", "flush"])?;
            ns.try_output("ip", &["-6", "rule", "del", "pref", "4430"])?;
            let what = format!("all is there again, round {round}");
            eventually(patience() * 3, &what, || {
                let left = whole.changes(&Kernel::of(&ns)?);
                if left.is_empty() { Ok(()) } else { bail!("{}", left.join("\n")) }
            })?;
            lab.process(&agent_name(NODE))?.check_alive()?;
        }
        let told = std::fs::read_to_string(&trace).context("strace has written")?;
        let lost = told.lines().filter(|l| l.contains("NETLINK") && l.contains("(INJECTED)"));
        let lost = lost.count();
        ensure!(lost >= ROUNDS, "only {lost} answers were lost:\n{told}");
        traffic.settles_on("svg")?;
        drop(traced);
        drop(traffic.finish());
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);
        Ok(())
    })
}
