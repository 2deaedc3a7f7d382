//! The kernel's answers get lost on their way to an agent, at its start and while it mends what
//! others took away: it goes on, and its forwarding is whole within moments.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nett_netns_tests::eventually::{eventually, eventually_true, patience};
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::netns::Netns;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::process::Spec;
use nett_netns_tests::services::VAULT;
use nett_netns_tests::story::{Traffic, tell};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const NODE: &str = "osl-b1";
/// Which answer is lost: the one with this number of each thread, as strace counts them. With
/// `NETT_LOST=all` every few of those that there are.
const AT_START: [usize; 3] = [3, 290, 560];
const IN_REPAIR: [usize; 4] = [1, 6, 17, 31];
/// In how much time everything has to be whole again.
const WHOLE: Duration = Duration::from_secs(5);

fn places(few: &[usize], all: usize, stride: usize) -> Vec<usize> {
    match std::env::var("NETT_LOST").as_deref() {
        Ok("all") => (1..all).step_by(stride).collect(),
        _ => few.to_vec(),
    }
}

/// strace that lets one receive of each thread fail, as that of an overrun socket does.
fn losing(lab: &Lab, name: &str, at: usize, whom: &[String]) -> Spec {
    let calls = "recvfrom,recvmsg";
    let trace = lab.layout().log(&format!("{name}-trace"));
    let own = [
        "-f",
        "-qq",
        "-yy",
        "-o",
        &trace.display().to_string(),
        "-e",
        &format!("trace={calls}"),
        "-e",
        &format!("inject={calls}:error=ENOBUFS:when={at}"),
    ];
    Spec {
        name: name.to_owned(),
        program: PathBuf::from("strace"),
        args: own.into_iter().map(str::to_owned).chain(whom.iter().cloned()).collect(),
        env: Vec::new(),
        log: lab.layout().log(name),
    }
}

/// Answers of the kernel that were lost, as strace wrote them down.
fn lost(trace: &Path) -> Result<usize> {
    let told = std::fs::read_to_string(trace)?;
    Ok(told.lines().filter(|l| l.contains("NETLINK") && l.contains("(INJECTED)")).count())
}

/// What a foreign `ip` takes away.
fn meddle(ns: &Netns) -> Result<()> {
    ns.try_output("ip", &["nexthop", "flush"])?;
    ns.try_output("ip", &["-6", "rule", "del", "pref", "4430"])?;
    ns.try_output("ip", &["route", "del", "10.99.0.50", "table", "7000"])?;
    Ok(())
}

fn becomes_whole(ns: &Netns, whole: &Kernel, what: &str) -> Result<Duration> {
    let (_, took) = eventually(patience() * 2, what, || {
        let left = whole.changes(&Kernel::of(ns)?);
        if left.is_empty() { Ok(()) } else { bail!("{}", left.join("\n")) }
    })?;
    ensure!(took < WHOLE, "{what}: it took {took:?}");
    Ok(took)
}

/// Lets a process go on that strace holds, by ending strace.
fn let_go(lab: &mut Lab, strace: &str) -> Result<usize> {
    lab.take_process(strace)?.stop(patience())?;
    lost(&lab.layout().log(&format!("{strace}-trace")))
}

/// A start in which one answer to each thread is lost, and its end.
fn start_losing(lab: &mut Lab, ns: &Netns, whole: &Kernel, at: usize) -> Result<usize> {
    lab.take_process(&agent_name(NODE))?.kill();
    meddle(ns)?;
    let name = format!("starts-without-{at}");
    let program = lab.programs().agent.display().to_string();
    let config = lab.layout().agent_config(NODE).display().to_string();
    let whom = [program, "run".to_owned(), "--config".to_owned(), config];
    let spec = losing(lab, &name, at, &whom);
    lab.start_process(NODE, spec)?;
    let process = lab.process(&name)?;
    let ready = || nett_netns_tests::observe::http::ready(ns);
    eventually(patience() * 4, "it is ready", || {
        process.check_alive()?;
        ready()
    })?;
    becomes_whole(ns, whole, &format!("a start without answer {at}"))?;
    let mut process = lab.take_process(&name)?;
    process.check_alive()?;
    let pid = process.record().pid;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    for child in children.split_whitespace() {
        kill(Pid::from_raw(child.parse()?), Signal::SIGKILL)?;
    }
    eventually_true(patience(), "strace ends", || Ok(process.check_alive().is_err()))?;
    let lost = lost(&lab.layout().log(&format!("{name}-trace")))?;
    lab.start_agent(NODE)?;
    lab.wait_for_agent(NODE)?;
    Ok(lost)
}

/// A repair in which one answer to each thread is lost.
fn repair_losing(lab: &mut Lab, ns: &Netns, whole: &Kernel, at: usize) -> Result<usize> {
    let name = format!("repairs-without-{at}");
    let agent = lab.process(&agent_name(NODE))?.record().pid;
    let spec = losing(lab, &name, at, &["-p".to_owned(), agent.to_string()]);
    lab.start_process(NODE, spec)?;
    let trace = lab.layout().log(&format!("{name}-trace"));
    eventually(patience(), "strace looks at the agent", || {
        ensure!(std::fs::metadata(&trace)?.len() > 0, "it has seen nothing yet");
        Ok(())
    })?;
    meddle(ns)?;
    becomes_whole(ns, whole, &format!("a repair without answer {at}"))?;
    lab.process(&agent_name(NODE))?.check_alive()?;
    let_go(lab, &name)
}

#[test]
fn one_lost_answer_of_the_kernel_stops_nothing() -> Result<()> {
    tell("one_lost_answer_of_the_kernel_stops_nothing", |lab| {
        let ns = lab.ns(NODE)?;
        let whole = Kernel::of(&ns)?;
        let leaks = lab.leaks()?;
        let traffic = Traffic::to_vips(lab, &["osl-c1"], VAULT)?;
        let (mut times, mut answers) = (0, 0);
        for at in places(&IN_REPAIR, 60, 3) {
            let lost = repair_losing(lab, &ns, &whole, at);
            (times, answers) = (times + 1, answers + lost.context("in a repair")?);
        }
        for at in places(&AT_START, 900, 40) {
            let lost = start_losing(lab, &ns, &whole, at);
            (times, answers) = (times + 1, answers + lost.context("at a start")?);
        }
        show(&format!("{times} times {answers} answers were lost"));
        ensure!(answers >= times / 2, "only {answers} answers were lost in {times} times");
        traffic.settles_on("svg")?;
        drop(traffic.finish());
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);
        Ok(())
    })
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
