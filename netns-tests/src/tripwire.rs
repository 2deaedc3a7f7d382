//! SIGKILL for a running process at a system call that is counted over all of its threads.
//!
//! `strace` holds each call for a moment, at its entry or at its return, and has said so by then:
//! whoever reads along counts, and kills the process while the call is held. strace's own injected
//! signals count each thread for itself, which says nothing of a program whose tasks wander from
//! one thread to another.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::eventually::eventually_true;
use crate::netns::Netns;
use crate::process::{Process, Record, Spec};

/// How long a call is held: many looks at the trace, and little of the second that an agent gives
/// the kernel for an answer.
const HELD: Duration = Duration::from_millis(60);
/// The same for a process that begins with the wire, of which every send is held and not those
/// over netlink alone. Who looks late kills it a few calls later.
const HELD_AT_START: Duration = Duration::from_millis(2);
/// Between two looks at the trace.
const LOOK: Duration = Duration::from_millis(1);

/// The calls that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// fsync and fdatasync.
    Disk,
    /// Netlink messages that change something; one send may carry many.
    Kernel,
}

/// Whether the call that it dies at has been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Before,
    Behind,
}

/// A strace that counts the calls of a process.
#[derive(Debug)]
pub struct Tripwire {
    calls: Calls,
    moment: Option<Moment>,
    pid: i32,
    trace: PathBuf,
    strace: Process,
    /// Whom strace began, who would outlive a strace that is killed.
    begun: Option<Begun>,
}

/// A process that ends with this value.
#[derive(Debug)]
struct Begun(Record);

/// A [`Tripwire`] that somebody watches.
#[derive(Debug)]
pub struct Armed {
    wire: Tripwire,
    at: usize,
    stop: Arc<AtomicBool>,
    watcher: JoinHandle<Result<()>>,
}

/// How a process fared that was to die at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It never came that far, and goes on.
    Lives,
    AtItsCall,
    /// It was killed when the call was not held any more: the watcher did not come to look.
    Later,
}

/// Calls of one kind, as a trace tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Seen {
    begun: usize,
    returned: usize,
}

// === impl Calls ===

impl Calls {
    fn names(self) -> &'static str {
        match self {
            Self::Disk => "fsync,fdatasync",
            Self::Kernel => "sendto,sendmsg",
        }
    }

    /// What a trace says of them so far; its last line may be unfinished. `call` is what a thread
    /// has begun: whether it counts is said at its entry only.
    fn seen(self, trace: &str) -> Seen {
        let mut seen = Seen::default();
        let mut open: BTreeMap<&str, bool> = BTreeMap::new();
        for line in trace.split_inclusive('\n') {
            let Some((thread, said)) = line.trim_start().split_once(' ') else { continue };
            let said = said.trim_start();
            let resumed = said.starts_with("<...");
            if !resumed {
                let counts = self.counts(said);
                open.insert(thread, counts);
                seen.begun += usize::from(counts);
            }
            let returned = said.ends_with('\n')
                && said.rsplit_once(" = ").is_some_and(|(_, value)| !value.starts_with('?'));
            if returned && open.remove(thread) == Some(true) {
                seen.returned += 1;
            }
        }
        seen
    }

    fn counts(self, said: &str) -> bool {
        let Some((name, arguments)) = said.split_once('(') else { return false };
        match self {
            Self::Disk => matches!(name, "fsync" | "fdatasync"),
            Self::Kernel => {
                let first = arguments.split_once("nlmsg_type=").map(|(_, rest)| rest);
                let kind = first.and_then(|rest| rest.split([',', '}']).next());
                // RTM_GETNEXTHOP and RTM_GETNEXTHOPBUCKET have no names in strace 6.1.
                let asks = |kind: &str| {
                    kind.contains("GET") || kind.starts_with("0x6a ") || kind.starts_with("0x76 ")
                };
                matches!(name, "sendto" | "sendmsg") && kind.is_some_and(|kind| !asks(kind))
            }
        }
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disk => "write to disk",
            Self::Kernel => "write to the kernel",
        })
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before",
            Self::Behind => "behind",
        })
    }
}

// === impl Tripwire ===

impl Tripwire {
    /// Begins to count the calls of the process `pid` in `ns`, and to hold each at `moment`;
    /// without one nothing is held. The trace is written to a new file at `trace`.
    pub fn lay(
        ns: &Netns,
        pid: i32,
        calls: Calls,
        moment: Option<Moment>,
        trace: PathBuf,
    ) -> Result<Self> {
        let mut which = Vec::new();
        if calls == Calls::Kernel {
            let sockets = netlink_sockets(pid)?;
            which.extend(sockets.into_iter().flat_map(|socket| ["-P".to_owned(), socket]));
        }
        which.extend(["-p".to_owned(), pid.to_string()]);
        let held = moment.map(|moment| (moment, HELD));
        let strace = strace(ns, calls, held, &trace, which)?;
        let mut wire = Self { calls, moment, pid, trace, strace, begun: None };
        let log = wire.trace.with_extension("strace");
        eventually_true(Duration::from_secs(5), "strace attaches", || {
            wire.strace.check_alive()?;
            Ok(std::fs::read_to_string(&log)?.contains("attached"))
        })?;
        Ok(wire)
    }

    /// As [`Self::lay`], from the first call on of a process that begins now: `spec` says what it
    /// would be without strace. It ends with the wire.
    pub fn begin(
        ns: &Netns,
        spec: &Spec,
        calls: Calls,
        moment: Option<Moment>,
        trace: PathBuf,
    ) -> Result<Self> {
        let program = spec.program.display().to_string();
        let which = [program].into_iter().chain(spec.args.iter().cloned()).collect();
        let held = moment.map(|moment| (moment, HELD_AT_START));
        let strace = strace(ns, calls, held, &trace, which)?;
        let tracer = strace.record().pid;
        let mut wire = Self { calls, moment, pid: 0, trace, strace, begun: None };
        let program = spec.program.canonicalize()?;
        // strace has children of its own for a moment, to try things out.
        eventually_true(Duration::from_secs(5), "strace begins the program", || {
            wire.strace.check_alive()?;
            let children = format!("/proc/{tracer}/task/{tracer}/children");
            let children = std::fs::read_to_string(children)?;
            for child in children.split_whitespace() {
                let runs = std::fs::read_link(format!("/proc/{child}/exe"));
                if wire.pid == 0 && runs.is_ok_and(|path| path == program) {
                    wire.pid = child.parse()?;
                    wire.begun = Some(Begun(Record::of(&spec.name, wire.pid)));
                }
            }
            Ok(wire.pid != 0 && wire.trace.exists())
        })?;
        Ok(wire)
    }

    /// Calls that have returned.
    pub fn count(&self) -> Result<usize> {
        Ok(look(&self.trace, self.calls)?.returned)
    }

    /// Lets the process go on without being counted; one that began with the wire ends.
    pub fn end(self) -> Result<()> {
        // A strace that began somebody hears no SIGTERM, and ends behind it.
        drop(self.begun);
        self.strace.stop(Duration::from_secs(5))
    }

    /// Kills the process at call number `at`, counted from 1.
    pub fn arm(self, at: usize) -> Result<Armed> {
        let moment = self.moment.context("calls that are not held cannot be died at")?;
        let (calls, trace, pid) = (self.calls, self.trace.clone(), self.pid);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let watcher = std::thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                let seen = look(&trace, calls)?;
                let reached = match moment {
                    Moment::Before => seen.begun,
                    Moment::Behind => seen.returned,
                };
                if reached >= at {
                    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
                    break;
                }
                std::thread::sleep(LOOK);
            }
            Ok(())
        });
        Ok(Armed { wire: self, at, stop, watcher })
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // Usually it is gone already.
        let _ = self.0.kill();
    }
}

// === impl Armed ===

impl Armed {
    /// Whether the process has been killed, or nobody watches any more.
    pub fn has_fired(&self) -> bool {
        self.watcher.is_finished()
    }

    /// Ends the watch, and says how it went.
    pub fn finish(self) -> Result<Ended> {
        let Self { mut wire, at, stop, watcher } = self;
        let fired = watcher.is_finished();
        stop.store(true, Ordering::Release);
        watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))??;
        if !fired {
            wire.end()?;
            return Ok(Ended::Lives);
        }
        eventually_true(Duration::from_secs(5), "strace ends with whom it watched", || {
            Ok(wire.strace.check_alive().is_err())
        })?;
        let seen = look(&wire.trace, wire.calls)?;
        let in_time = match wire.moment {
            // Another thread may have begun one meanwhile.
            Some(Moment::Behind) => seen.begun <= at + 1,
            Some(Moment::Before) | None => seen.returned < at,
        };
        Ok(if in_time { Ended::AtItsCall } else { Ended::Later })
    }
}

/// Starts strace for what `which` says: the end of its arguments.
fn strace(
    ns: &Netns,
    calls: Calls,
    held: Option<(Moment, Duration)>,
    trace: &Path,
    which: Vec<String>,
) -> Result<Process> {
    let log = trace.with_extension("strace");
    for old in [trace, &log] {
        if old.exists() {
            std::fs::remove_file(old)?;
        }
    }
    let mut args: Vec<String> = ["-f", "-yy", "-o"].map(str::to_owned).to_vec();
    let names = calls.names();
    args.extend([trace.display().to_string(), "-e".to_owned(), format!("trace={names}")]);
    if let Some((moment, time)) = held {
        let delay = match moment {
            Moment::Before => "delay_enter",
            Moment::Behind => "delay_exit",
        };
        let inject = format!("inject={names}:{delay}={}", time.as_micros());
        args.extend(["-e".to_owned(), inject]);
    }
    args.extend(which);
    let name = format!("tripwire-{calls:?}");
    let spec = Spec { name, program: "strace".into(), args, env: Vec::new(), log };
    Process::start(ns, spec)
}

fn look(trace: &Path, calls: Calls) -> Result<Seen> {
    let text = std::fs::read(trace).with_context(|| format!("no trace {}", trace.display()))?;
    Ok(calls.seen(&String::from_utf8_lossy(&text)))
}

/// The netlink sockets of a process, as the links in its table of files name them.
fn netlink_sockets(pid: i32) -> Result<Vec<String>> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/netlink"))?;
    let known = table.lines().filter_map(|line| line.split_whitespace().nth(9));
    let known: Vec<String> = known.map(|inode| format!("socket:[{inode}]")).collect();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        // A file that was closed meanwhile is no socket that stays.
        let Ok(file) = std::fs::read_link(entry?.path()) else { continue };
        let file = file.display().to_string();
        if known.contains(&file) {
            found.push(file);
        }
    }
    ensure!(!found.is_empty(), "process {pid} has no netlink socket");
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_many_threads_are_told_apart() {
        let trace = "\
7  fdatasync(17</a/journal>) = 0
7  fdatasync(17</a/journal> <unfinished ...>
8  fsync(3</a>) = 0
7  <... fdatasync resumed>) = 0
8  fsync(3</a>";
        assert_eq!(Calls::Disk.seen(trace), Seen { begun: 4, returned: 3 });
        let killed = format!("{trace} <unfinished ...>\n7  +++ killed by SIGKILL +++\n");
        assert_eq!(Calls::Disk.seen(&killed), Seen { begun: 4, returned: 3 });
        assert_eq!(Calls::Disk.seen(&format!("{trace}) = ?\n")), Seen { begun: 4, returned: 3 });
    }

    #[test]
    fn questions_to_the_kernel_are_no_writes() {
        let trace = "\
9 sendto(12<NETLINK:[ROUTE:9]>, [{nlmsg_len=36, nlmsg_type=RTM_GETROUTE, x}], 36) = 36
9 sendto(12<NETLINK:[ROUTE:9]>, [{nlmsg_len=36, nlmsg_type=0x6a /* NLMSG_??? */, x}], 36) = 36
9 sendto(12<NETLINK:[ROUTE:9]>, [{nlmsg_len=36, nlmsg_type=0x68 /* NLMSG_??? */, x}], 36) = 36
9 sendto(13<NETLINK:[NETFILTER:9]>, [[{nlmsg_len=20, nlmsg_type=NFNL_MSG_BATCH_BEGIN, \
nlmsg_seq=1}, {x}], [{nlmsg_len=9, nlmsg_type=NFNL_SUBSYS_NFTABLES<<8|NFT_MSG_GETSET}], 180 \
<unfinished ...>
8 sendto(13<NETLINK:[NETFILTER:9]>, [{nlmsg_len=20, \
nlmsg_type=NFNL_SUBSYS_NFTABLES<<8|NFT_MSG_GETGEN, x}], 20) = 20
9 <... sendto resumed>) = 180 (DELAYED)
";
        assert_eq!(Calls::Kernel.seen(trace), Seen { begun: 2, returned: 2 });
    }
}
