//! One network namespace, and how to do something inside it.
//!
//! A namespace belongs to a thread, so everything here happens on a thread of its own that enters
//! the namespace, does its job and ends: the caller's thread never changes namespace. Sockets
//! opened and processes started inside stay inside.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};

/// A namespace known to `ip netns` by `name`.
#[derive(Debug, Clone)]
pub struct Netns {
    name: String,
}

impl Netns {
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// The name `ip netns exec` takes.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Does `job` on a thread inside the namespace and waits for it.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let enter = || -> Result<T> {
            let file = File::open(self.path())
                .with_context(|| format!("namespace {} is not there", self.name))?;
            setns(file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter namespace {}", self.name))?;
            job()
        };
        std::thread::scope(|scope| match scope.spawn(enter).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Runs a program to its end and returns what it printed, whatever its exit status was.
    pub fn try_output(&self, program: &str, args: &[&str]) -> Result<Output> {
        self.run(|| {
            Command::new(program)
                .args(args)
                .stdin(Stdio::null())
                .output()
                .with_context(|| format!("cannot run {program}"))
        })
    }

    /// Runs a program that must succeed and returns its standard output.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self.try_output(program, args)?;
        if !output.status.success() {
            bail!(
                "in {}: `{program} {}` ended with {}: {}",
                self.name,
                args.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `ip ARGS` inside, the arguments given as one line.
    pub fn ip(&self, line: &str) -> Result<String> {
        self.output("ip", &line.split_whitespace().collect::<Vec<_>>())
    }

    /// Gives `lines` to one `ip -batch` inside; the first bad line ends it.
    pub fn ip_batch(&self, lines: &[String]) -> Result<()> {
        self.run(|| batch("ip", &["-batch", "-"], lines))
            .with_context(|| format!("in namespace {}", self.name))
    }

    /// Loads an nft script inside, in one transaction.
    pub fn nft(&self, script: &str) -> Result<()> {
        self.run(|| batch("nft", &["-f", "-"], &[script.to_owned()]))
            .with_context(|| format!("in namespace {}", self.name))
    }

    /// Writes sysctls: names with `/` below `/proc/sys/net`, which shows the writing thread's
    /// namespace.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (name, value) in settings {
                let path = PathBuf::from("/proc/sys/net").join(name);
                std::fs::write(&path, value)
                    .with_context(|| format!("cannot write {value} to {}", path.display()))?;
            }
            Ok(())
        })
        .with_context(|| format!("in namespace {}", self.name))
    }
}

/// Feeds `lines` to a program's standard input and fails with its complaint.
pub(crate) fn batch(program: &str, args: &[&str], lines: &[String]) -> Result<()> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}: is it installed? `make deps` tells"))?;
    let mut stdin = child.stdin.take().expect("asked for a pipe above");
    let fed = stdin.write_all((lines.join("\n") + "\n").as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let at = failed_line(&complaint, lines);
        bail!("{program} {}: {complaint}{at}", args.join(" "));
    }
    fed.with_context(|| format!("cannot feed {program}"))
}

/// `ip -batch` says only "Command failed -:7"; this adds the seventh line's text.
fn failed_line(complaint: &str, lines: &[String]) -> String {
    let number = complaint.rsplit_once("-:").and_then(|(_, n)| n.trim().parse::<usize>().ok());
    match number.and_then(|n| lines.get(n.checked_sub(1)?)) {
        Some(line) => format!(" (`{line}`)"),
        None => String::new(),
    }
}

/// Says why network namespaces cannot be made here, or nothing when they can.
pub fn missing_privilege() -> Option<String> {
    let attempt = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    match attempt {
        Ok(Ok(())) => None,
        Ok(Err(errno)) => Some(format!(
            "this process may not create network namespaces ({errno}): run as root, or inside \
             netns-tests/setup/as-root.sh"
        )),
        Err(_) => Some("the thread that tried a network namespace ended early".to_owned()),
    }
}
