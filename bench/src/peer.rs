//! The servers that are measured: how each is configured for this task, started and ended.
//!
//! Each gets one thread or process for questions and answers, no logging of them, and the same
//! address form. A server is ended by its own process group when it is dropped.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::data::{ZONE, zone_file};
use crate::probe::{Probe, Question};

/// How long a server may take to read its zone.
const START: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Floor,
    Nett,
    Gdnsd,
    Nsd,
    Knot,
    Bind,
}

/// A started server.
pub(crate) struct Running {
    pub(crate) peer: Peer,
    pub(crate) address: SocketAddr,
    pub(crate) directory: PathBuf,
    child: Child,
    pub(crate) commands: Option<ChildStdin>,
    pub(crate) replies: Option<ChildStdout>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Floor => "recv/send",
            Self::Nett => "Nett",
            Self::Gdnsd => "gdnsd",
            Self::Nsd => "NSD",
            Self::Knot => "Knot",
            Self::Bind => "BIND",
        })
    }
}

// === impl Peer ===

impl Peer {
    /// The version as the program tells it.
    pub(crate) fn version(self) -> anyhow::Result<String> {
        let (program, argument) = match self {
            Self::Floor => return Ok("two system calls".to_owned()),
            Self::Nett => return Ok(env!("CARGO_PKG_VERSION").to_owned()),
            Self::Gdnsd => ("dpkg-query", "-f=${Version} -W gdnsd"),
            Self::Nsd => ("dpkg-query", "-f=${Version} -W nsd"),
            Self::Knot => ("dpkg-query", "-f=${Version} -W knot"),
            Self::Bind => ("dpkg-query", "-f=${Version} -W bind9"),
        };
        let output = Command::new(program).args(argument.split(' ')).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Starts the server with `names` names, pinned to the first processor, and waits for its
    /// first answer.
    pub(crate) fn start(self, below: &Path, names: u32) -> anyhow::Result<Running> {
        self.start_with(below, names, None)
    }

    /// The same, with a zone that is signed by the key in `keys`.
    pub(crate) fn start_signed(
        self,
        below: &Path,
        names: u32,
        keys: &Path,
    ) -> anyhow::Result<Running> {
        self.start_with(below, names, Some(keys))
    }

    fn start_with(self, below: &Path, names: u32, keys: Option<&Path>) -> anyhow::Result<Running> {
        let directory = below.join(format!("{self:?}-{names}"));
        std::fs::create_dir_all(directory.join("zones"))?;
        let address = free_port()?;
        if !matches!(self, Self::Floor | Self::Nett) {
            let zone = zone_file(names, 0, 1);
            let file = directory.join("zones").join(self.zone_name());
            std::fs::write(&file, zone)?;
            if let Some(keys) = keys {
                sign(&file, keys)?;
            }
        }
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]);
        if self == Self::Nett {
            // As packaging/systemd/nett-agent.service has it.
            command.env("MIMALLOC_PURGE_DELAY", "10000");
        }
        self.configure(&directory, address, names, &mut command)?;
        if let (Self::Nett, Some(keys)) = (self, keys) {
            command.arg("--keys").arg(keys);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(std::fs::File::create(directory.join("stderr"))?);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().with_context(|| format!("cannot start {self}"))?;
        let (commands, replies) = (child.stdin.take(), child.stdout.take());
        let running = Running { peer: self, address, directory, child, commands, replies };
        running.wait()?;
        Ok(running)
    }

    /// gdnsd reads the zone's name from the name of its file.
    pub(crate) fn zone_name(self) -> &'static str {
        match self {
            Self::Gdnsd => ZONE.trim_end_matches('.'),
            _ => "zone",
        }
    }

    fn configure(
        self,
        directory: &Path,
        address: SocketAddr,
        names: u32,
        command: &mut Command,
    ) -> anyhow::Result<()> {
        let at = directory.display();
        let (ip, port) = (address.ip(), address.port());
        let write = |name: &str, text: String| std::fs::write(directory.join(name), text);
        let own = std::env::current_exe()?;
        match self {
            Self::Floor => {
                command.arg(own).args(["floor", "--listen", &address.to_string()]);
            }
            Self::Nett => {
                command.arg(own).args(["name-server", "--listen", &address.to_string()]);
                command.args(["--names", &names.to_string()]);
            }
            Self::Gdnsd => {
                let text = format!(
                    "options => {{ listen => [\"{ip}\"], dns_port => {port}, udp_threads => 1, \
                     tcp_threads => 1, run_dir => {at}/run, state_dir => {at}/state, \
                     max_edns_response => 1232 }}\n"
                );
                write("config", text)?;
                command.args(["gdnsd", "-c"]).arg(directory).arg("start");
            }
            Self::Nsd => {
                let text = format!(
                    "server:\n server-count: 1\n ip-address: {ip}@{port}\n username: \"\"\n \
                     zonesdir: {at}/zones\n database: \"\"\n pidfile: {at}/pid\n \
                     xfrdfile: {at}/xfrd\n zonelistfile: {at}/list\n xfrdir: {at}\n \
                     ipv4-edns-size: 1232\n rrl-ratelimit: 0\n rrl-whitelist-ratelimit: 0\n\
                     remote-control:\n control-enable: no\n\
                     zone:\n name: {ZONE}\n zonefile: zone\n"
                );
                write("nsd.conf", text)?;
                command.args(["nsd", "-d", "-c"]).arg(directory.join("nsd.conf"));
            }
            Self::Knot => {
                let text = format!(
                    "server:\n  listen: {ip}@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  \
                     background-workers: 1\n  rundir: {at}\n  udp-max-payload: 1232\n\
                     database:\n  storage: {at}/db\n\
                     control:\n  listen: {at}/knot.sock\n\
                     log:\n  - target: stderr\n    any: warning\n\
                     zone:\n  - domain: {ZONE}\n    storage: {at}/zones\n    file: zone\n    \
                     zonefile-sync: -1\n    zonefile-load: whole\n    journal-content: none\n"
                );
                write("knot.conf", text)?;
                command.args(["knotd", "-c"]).arg(directory.join("knot.conf"));
            }
            Self::Bind => {
                let text = format!(
                    "options {{ directory \"{at}\"; listen-on port {port} {{ {ip}; }}; \
                     listen-on-v6 {{ none; }}; recursion no; pid-file none; \
                     session-keyfile none; notify no; allow-query {{ any; }}; \
                     managed-keys-directory \"{at}\"; }};\ncontrols {{ }};\n\
                     zone \"{ZONE}\" {{ type primary; file \"zones/zone\"; \
                     allow-update {{ {ip}; }}; }};\n"
                );
                write("named.conf", text)?;
                command.args(["named", "-f", "-n", "1", "-c"]).arg(directory.join("named.conf"));
            }
        }
        Ok(())
    }
}

/// Signs a zone file with the one key in `keys`, by NSEC, in place.
fn sign(file: &Path, keys: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("dnssec-signzone");
    command.args(["-q", "-S", "-z", "-o", ZONE, "-K"]).arg(keys);
    command.arg("-f").arg(file).arg(file).current_dir(keys);
    let output = command.output().context("cannot run dnssec-signzone")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "dnssec-signzone failed:\n{errors}");
    Ok(())
}

fn free_port() -> anyhow::Result<SocketAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(socket.local_addr()?)
}

// === impl Running ===

impl Running {
    /// The process group of the server: that of the first process, which `taskset` becomes.
    pub(crate) fn group(&self) -> u32 {
        self.child.id()
    }

    fn wait(&self) -> anyhow::Result<()> {
        let probe = Probe::new(self.address, Duration::from_millis(100))?;
        let until = Instant::now() + START;
        while probe.ask(Question::A(0)).is_err() {
            ensure!(
                Instant::now() < until,
                "{} did not answer within {START:?}: {}",
                self.peer,
                std::fs::read_to_string(self.directory.join("stderr")).unwrap_or_default()
            );
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The group is ours alone: taskset began it, and it became the server.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-TERM", "--", &group]).status();
        let until = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::yield_now();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
