//! Knot and NSD as processes of their own, serving what the sample zone has for everybody alike.
//!
//! Each gets an address of its own in 127.0.0.0/8, drawn from this process's number, so that a
//! fixed port collides with nobody. They end with the test, also when it fails.

#![allow(dead_code, reason = "every test crate uses a part of it")]

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use nett_policy::lower::answers::{SiteAnswers, SiteState};
use tempfile::TempDir;

use super::sample;
use super::serve::query;

const PORT: u16 = 5353;
const PATIENCE: Duration = Duration::from_secs(30);
/// The secret of `serve::profile`.
const SECRET: &str = "30313233343536373839616263646566";

pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    process: Child,
    directory: TempDir,
}

/// Names whose addresses depend on who asks, or that no zone file can say.
pub(crate) const STEERED: [&str; 4] = ["near", "ramp", "refuse", "reflect"];

impl Peer {
    pub(crate) fn knot() -> Self {
        Self::start("knotd", "knot", |directory, address| {
            let at = directory.display();
            format!(
                "server:\n  rundir: {at}\n  listen: {}@{}\n  udp-workers: 1\n  tcp-workers: 1\n  \
                 background-workers: 1\n\
                 database:\n  storage: {at}\n\
                 mod-cookies:\n  - id: shared\n    secret: 0x{SECRET}\n    badcookie-slip: 1\n\
                 zone:\n  - domain: {}\n    storage: {at}\n    file: zone\n    \
                 journal-content: none\n    zonefile-sync: -1\n    module: mod-cookies/shared\n",
                address.ip(),
                address.port(),
                sample::ZONE
            )
        })
    }

    pub(crate) fn nsd() -> Self {
        Self::start("nsd", "nsd", |directory, address| {
            let at = directory.display();
            format!(
                "server:\n ip-address: {}@{}\n username: \"\"\n zonesdir: {at}\n database: \"\"\n \
                 pidfile: {at}/pid\n xfrdir: {at}\n xfrdfile: {at}/xfrd\n \
                 zonelistfile: {at}/list\n \
                 minimal-responses: yes\n rrl-ratelimit: 0\n server-count: 1\n \
                 answer-cookie: yes\n cookie-secret: {SECRET}\n\
                 remote-control:\n control-enable: no\n\
                 zone:\n name: {}\n zonefile: zone\n",
                address.ip(),
                address.port(),
                sample::ZONE
            )
        })
    }

    fn start(
        program: &'static str,
        package: &str,
        configuration: impl Fn(&Path, SocketAddr) -> String,
    ) -> Self {
        static STARTED: AtomicU8 = AtomicU8::new(1);
        let [_, _, a, b] = std::process::id().to_be_bytes();
        // Numbers of processes end far below 2^22, and no address here ends in 0.
        let last = STARTED.fetch_add(1, Ordering::Relaxed);
        let ip = IpAddr::V4(Ipv4Addr::new(127, a | 0x80, b, last));
        let address = SocketAddr::new(ip, PORT);
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("configuration");
        std::fs::write(directory.path().join("zone"), zone_file()).expect("writable");
        std::fs::write(&file, configuration(directory.path(), address)).expect("writable");
        let mut command = Command::new(program);
        // A daemon's path is not everybody's.
        command.env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin");
        if program == "nsd" {
            command.arg("-d");
        }
        let log = std::fs::File::create(directory.path().join("log")).expect("writable");
        let process = command
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{program} is not installed (package {package}): {e}"));
        let mut peer = Self { name: program, address, process, directory };
        peer.wait();
        peer
    }

    fn wait(&mut self) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.connect(self.address).expect("connected");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let packet = query(sample::ZONE, RecordType::SOA, None);
        let started = Instant::now();
        loop {
            let mut answer = [0; 512];
            let _ = socket.send(&packet);
            // No error, and an answer section.
            if socket.recv(&mut answer).is_ok() && answer[3] & 15 == 0 && answer[7] == 1 {
                return;
            }
            let ended = self.process.try_wait().expect("a child");
            let log = || std::fs::read_to_string(self.directory.path().join("log"));
            assert!(ended.is_none(), "{} ended: {:?}", self.name, log());
            assert!(started.elapsed() < PATIENCE, "{} does not answer: {:?}", self.name, log());
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // NSD has children that end when it is asked to end, and not when it is killed.
        let pid = self.process.id().to_string();
        let _ = Command::new("kill").arg(&pid).status();
        let started = Instant::now();
        while let Ok(None) = self.process.try_wait() {
            if started.elapsed() > PATIENCE {
                let _ = self.process.kill();
            }
            std::thread::yield_now();
        }
    }
}

/// The sample zone as a zone file, written from the description of the names in `docs/DNS.md`.
fn zone_file() -> String {
    let mut text = String::from(
        "$ORIGIN steer.example.\n\
         @ 60 SOA ns1 dns.example. 100 60 15 1209600 10\n\
         @ 3600 NS ns1\n@ 3600 NS ns2.dc\n@ 3600 NS ns.elsewhere.example.\n\
         ns1 3600 A 192.0.2.53\nns1 3600 AAAA 2001:db8::53\nns2.dc 3600 A 192.0.2.54\n",
    );
    let mut addresses = |name: &str, list: &[IpAddr]| {
        for address in list {
            let kind = if address.is_ipv4() { "A" } else { "AAAA" };
            writeln!(text, "{name} 30 {kind} {address}").expect("a string takes all");
        }
    };
    for (id, answers) in sample::usual() {
        let name = id.dns_name();
        let short = name.split('.').next().expect("a label");
        let of_all = match short {
            "fallback" => vec![sample::ip("203.0.113.9")],
            "drained" => answers.fixed.sites[1].addresses.clone(),
            _ => answers.fixed.sites[0].addresses.clone(),
        };
        if !STEERED.contains(&short) {
            addresses(&name, &of_all);
        }
        for site in answers.sites() {
            addresses(&format!("{}.site.{name}", site.site), site.addresses);
            if site.state != SiteState::Drained {
                addresses(&format!("all.site.{name}"), site.addresses);
            }
        }
    }
    for (id, answers) in sample::usual() {
        let name = id.dns_name();
        let line = |site: SiteAnswers<'_>| {
            let SiteAnswers { site, addresses: _, state, weight, health: _ } = site;
            format!("\"site={site} state={} weight={weight} health=up epoch=7\"", state.as_str())
        };
        let lines: Vec<String> = answers.sites().map(line).collect();
        writeln!(text, "{name} 30 TXT {}", lines.join(" ")).expect("a string takes all");
        let mut eligible = Vec::new();
        for (site, line) in answers.sites().zip(&lines) {
            writeln!(text, "{}.site.{name} 30 TXT {line}", site.site).expect("a string");
            if site.state != SiteState::Drained {
                eligible.push(line.as_str());
            }
        }
        writeln!(text, "all.site.{name} 30 TXT {}", eligible.join(" ")).expect("a string");
    }
    text
}
