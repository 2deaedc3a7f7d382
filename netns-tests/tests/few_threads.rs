//! The system refuses threads, as it does where a limit on memory or on processes is reached: an
//! agent that begins says so and ends, and one that runs fails the probes it cannot make. And it
//! refuses memory.
//!
//! `strace` lets clone and clone3 fail with EAGAIN, which is what pthread_create(3) then says. It
//! counts the calls of each thread for itself.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use nett_netns_tests::eventually::{eventually, eventually_true, patience};
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::observe::http;
use nett_netns_tests::process::Spec;
use nett_netns_tests::services::{API, VAULT};
use nett_netns_tests::story::{Operator, TASK, tell};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const NODE: &str = "osl-b1";
/// More threads than the main thread of an agent starts.
const MANY: usize = 40;

/// What an agent says that goes on without its name server.
const UNANSWERED: &str = "The name server does not listen; tried again.";

/// strace that refuses every new thread from each thread's `from`-th on, for `whom`.
fn refusing(lab: &Lab, name: &str, from: usize, whom: &[String]) -> Spec {
    let own = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=clone,clone3", "-e"];
    let inject = format!("inject=clone,clone3:error=EAGAIN:when={from}+");
    let args = own.into_iter().map(str::to_owned).chain([inject]).chain(whom.iter().cloned());
    Spec {
        name: name.to_owned(),
        program: PathBuf::from("strace"),
        args: args.collect(),
        env: Vec::new(),
        log: lab.layout().log(name),
    }
}

/// How a start fared that gets no thread any more from one on; `None`: it got all it wanted, or
/// goes on without its name server, for which alone it tries again.
fn start_refused(lab: &mut Lab, from: usize) -> Result<Option<String>> {
    let ns = lab.ns(NODE)?;
    let name = format!("no-thread-from-{from}");
    let program = lab.programs().agent.display().to_string();
    let config = lab.layout().agent_config(NODE).display().to_string();
    let spec = refusing(lab, &name, from, &[program, "run".into(), "--config".into(), config]);
    let log = spec.log.clone();
    lab.start_process(NODE, spec)?;
    let mut process = lab.take_process(&name)?;
    let fared = eventually(patience() * 2, "it ends or is ready", || match process.check_alive() {
        Err(ended) => Ok(Some(format!("{ended:#}"))),
        Ok(()) => match std::fs::read_to_string(&log)?.contains(UNANSWERED) {
            true => Ok(None),
            false => http::ready(&ns).map(|()| None),
        },
    });
    // strace would let a hanging or a ready agent go on.
    let pid = process.record().pid;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    for child in children.unwrap_or_default().split_whitespace() {
        kill(Pid::from_raw(child.parse()?), Signal::SIGKILL)?;
    }
    process.kill();
    let said = std::fs::read_to_string(log)?;
    let (fared, _) = fared.with_context(|| said.clone())?;
    ensure!(!said.contains("panicked"), "{said}");
    let Some(ended) = fared else { return Ok(None) };
    ensure!(ended.contains("exit status: 1"), "{ended}");
    let last = said.lines().rfind(|line| line.starts_with("nett-agent: "));
    Ok(Some(last.with_context(|| format!("it says nothing: {said}"))?.to_owned()))
}

#[test]
fn an_agent_that_gets_no_thread_at_its_start_says_so_and_ends() -> Result<()> {
    tell("an_agent_that_gets_no_thread_at_its_start_says_so_and_ends", |lab| {
        lab.take_process(&agent_name(NODE))?.kill();
        let mut ends = 0;
        for from in 1..MANY {
            let fared = start_refused(lab, from).with_context(|| format!("thread {from}"))?;
            let Some(said) = fared else { break };
            show(&format!("without thread {from}: {said}"));
            ensure!(said.contains("thread"), "{said}");
            ends += 1;
        }
        ensure!(ends > 3 && ends < MANY - 1, "{ends} starts failed");
        lab.start_agent(NODE)?;
        lab.wait_for_agent(NODE).map(drop)
    })
}

#[test]
fn a_probe_that_gets_no_thread_fails_its_step() -> Result<()> {
    tell("a_probe_that_gets_no_thread_fails_its_step", |lab| {
        let pid = lab.process(&agent_name(NODE))?.record().pid;
        let spec = refusing(lab, "refusing", 1, &["-p".to_owned(), pid.to_string()]);
        lab.start_process(NODE, spec)?;
        let traced = || {
            Ok(!std::fs::read_to_string(format!("/proc/{pid}/status"))?.contains("TracerPid:\t0"))
        };
        eventually_true(patience(), "strace holds the agent", traced)?;
        // At the other site, whose route node says what becomes of the task.
        let mira = Operator { lab, node: "osl-r1", name: "mira" };
        let told = mira.order(&["failover", API.id, "--to", "svg"])?.must_be(0)?.json()?;
        let task = told["task"].as_str().context("a task")?.to_owned();
        let why = "cannot start a thread";
        let ended = eventually(TASK, "the step fails and says why", || {
            let shown = mira.run(&["-o", "json", "task", "show", &task])?.must_be(0)?.out;
            if shown.contains(why) { Ok(shown) } else { bail!("{shown}") }
        });
        let (shown, _) = ended?;
        ensure!(mira.state_of(&task)? != "done", "{shown}");
        lab.take_process("refusing")?.stop(patience())?;
        lab.process(&agent_name(NODE))?.check_alive()?;
        Ok(())
    })
}

#[test]
fn an_agent_under_a_limit_that_is_too_low_goes_on_with_what_it_has() -> Result<()> {
    tell("an_agent_under_a_limit_that_is_too_low_goes_on_with_what_it_has", |lab| {
        let pid = lab.process(&agent_name(NODE))?.record().pid.to_string();
        let ns = lab.ns(NODE)?;
        // Far below what it has reserved, so that the system gives it nothing more; the colon
        // leaves the hard limit alone.
        ns.output("prlimit", &["--as=167772160:", "--pid", &pid])?;
        let mira = Operator { lab, node: NODE, name: "mira" };
        for target in ["osl", "svg"] {
            let told = mira.order(&["failover", VAULT.id, "--to", target]);
            show(&format!("under the limit: {:?}", told?.code));
            mira.run(&["status"])?.must_be(0)?;
        }
        ns.output("prlimit", &["--as=unlimited:", "--pid", &pid])?;
        lab.process(&agent_name(NODE))?.check_alive()?;
        let mira = Operator { lab, node: NODE, name: "mira" };
        mira.complete(&["failover", API.id, "--to", "svg"]).map(drop)
    })
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
