//! A process of the lab: started in a namespace, logged to a file, killed when dropped.
//!
//! Processes are killed by the id recorded for them and by nothing else, and only while the start
//! time of that id is still the recorded one: a number the kernel has given to somebody else since
//! is left alone.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::eventually::eventually_true;
use crate::netns::Netns;

/// What to start.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Unique in the lab, also the name of the log file.
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Standard output and standard error go here, appended.
    pub log: PathBuf,
}

/// Enough to find a process again, and to know that it is still the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub name: String,
    pub pid: i32,
    /// Clock ticks from boot to the process's start: field 22 of proc_pid_stat(5).
    pub started: u64,
}

/// A running process; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    spec: Spec,
    record: Record,
    child: Child,
    keep: bool,
}

// === impl Process ===

impl Process {
    /// Starts `spec` inside `ns`, in a process group of its own so that a terminal's interrupt
    /// reaches only the lab's program, which then ends this one by its id.
    pub fn start(ns: &Netns, spec: Spec) -> Result<Self> {
        let child = ns.run(|| {
            let log = File::options()
                .create(true)
                .append(true)
                .open(&spec.log)
                .with_context(|| format!("cannot open the log {}", spec.log.display()))?;
            // A child inherits the mask of the thread that starts it, and must hear SIGTERM
            // although the lab's own threads leave it to one of them.
            let masked = SigSet::empty().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
            let child = Command::new(&spec.program)
                .args(&spec.args)
                .envs(spec.env.iter().map(|(k, v)| (k, v)))
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .process_group(0)
                .spawn();
            masked.thread_set_mask()?;
            child.with_context(|| format!("cannot start {}", spec.program.display()))
        })?;
        let pid = i32::try_from(child.id()).context("process ids fit 31 bits on Linux")?;
        let started = start_time(pid).unwrap_or_default();
        let record = Record { name: spec.name.clone(), pid, started };
        Ok(Self { spec, record, child, keep: false })
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// An error with the end of the log when the process has ended by itself.
    pub fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "{} ended with {status}; the end of {}:\n{}",
                self.spec.name,
                self.spec.log.display(),
                log_tail(&self.spec.log, 15)
            );
        }
        Ok(())
    }

    /// Sends a signal to the process, for example STOP or CONT.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.record.pid), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.spec.name))
    }

    /// Asks with SIGTERM and waits for the end; an error when it takes longer than `patience`.
    pub fn stop(mut self, patience: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let what = format!("{} ends after SIGTERM", self.spec.name);
        eventually_true(patience, &what, || Ok(self.child.try_wait()?.is_some())).map(drop)
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    /// Lets the process live on after this value is dropped.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }

    fn end(&mut self) {
        // Both fail only when the process is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.keep {
            self.end();
        }
    }
}

// === impl Record ===

impl Record {
    /// Of a process that somebody else started.
    pub(crate) fn of(name: &str, pid: i32) -> Self {
        Self { name: name.to_owned(), pid, started: start_time(pid).unwrap_or_default() }
    }

    pub fn is_running(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// Kills the process if the id still belongs to it, and waits until it is gone.
    pub fn kill(&self) -> Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        // An error means that it ended between the two lines.
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        let what = format!("{} (pid {}) ends", self.name, self.pid);
        eventually_true(Duration::from_secs(5), &what, || Ok(!self.is_running())).map(drop)
    }
}

/// When a process started, or `None` when it is gone or only waits to be collected.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses that may hold blanks and parentheses itself.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The last `lines` lines of a log.
pub fn log_tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| format!("(no log: {e})"));
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_process_id_is_not_ours() {
        let me = i32::try_from(std::process::id()).expect("fits");
        let started = start_time(me).expect("this process runs");
        let mut record = Record { name: "self".into(), pid: me, started };
        assert!(record.is_running());
        record.started += 1;
        assert!(!record.is_running());
        record.kill().expect("another start time is nothing to kill");
    }
}
