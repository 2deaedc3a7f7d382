//! BIRD 2 beside the agent: the time in which it puts as many routes into the kernel.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nett_policy::fabric::Family;

use crate::classes::address;
use crate::forks::{output, spawn};
use crate::netns::Netns;

/// The tables that it fills; the agent has others.
const TABLES: [u32; 2] = [910, 911];

struct Bird {
    dir: tempfile::TempDir,
    process: Child,
}

impl Drop for Bird {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Bird {
    fn start(netns: &Netns, count: u32) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("bird.conf"), configuration(count)).expect("written");
        let mut bird = Command::new("ip");
        bird.args(["netns", "exec", netns.name(), "bird", "-f", "-c", &path("bird.conf")])
            .args(["-s", &path("socket"), "-P", &path("pid")])
            .stderr(Stdio::null());
        let process = spawn(&mut bird).expect("the tests need bird2");
        let bird = Self { dir, process };
        bird.until("ready", |told| told.contains("Daemon is up and running"), "show status");
        bird
    }

    fn ask(&self, command: &str) -> String {
        let socket = self.dir.path().join("socket");
        let mut birdc = Command::new("birdc");
        let out = output(birdc.arg("-s").arg(socket).args(command.split(' ')));
        String::from_utf8_lossy(&out.expect("the tests need birdc").stdout).into_owned()
    }

    fn until(&self, what: &str, is: impl Fn(&str) -> bool, command: &str) {
        let end = Instant::now() + Duration::from_secs(300);
        loop {
            let told = self.ask(command);
            if is(&told) {
                return;
            }
            assert!(Instant::now() < end, "BIRD is not {what}: {told}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn configuration(count: u32) -> String {
    let mut text = "router id 192.0.2.1;\nprotocol device {}\n".to_owned();
    for table in TABLES {
        for (family, gateway) in [(Family::V4, "192.0.2.6"), (Family::V6, "fd00:1::2")] {
            let (name, length) = match family {
                Family::V4 => ("ipv4", 32),
                Family::V6 => ("ipv6", 128),
            };
            text += &format!(
                "{name} table {name}_{table};\n\
                 protocol kernel k{name}_{table} {{ kernel table {table}; {name} {{ \
                 table {name}_{table}; import none; export all; }}; }}\n\
                 protocol static s{name}_{table} {{ disabled; {name} {{ table {name}_{table}; }};\n"
            );
            for n in 0..count {
                text += &format!("route {}/{length} via {gateway};\n", address(family, n));
            }
            text += "}\n";
        }
    }
    text
}

/// The time from enabling its routes until it says that all are exported to the kernel.
pub(crate) fn bird(netns: &Netns, count: u32) -> Duration {
    let bird = Bird::start(netns, count);
    let exported = |told: &str| {
        let lines = told.lines().filter(|line| line.contains("Export updates:"));
        // received, rejected, filtered, ignored, accepted
        let accepted = lines.filter_map(|line| line.split_whitespace().last()?.parse::<u32>().ok());
        accepted.sum::<u32>() == 4 * count
    };
    let begun = Instant::now();
    bird.ask("enable \"s*\"");
    bird.until("done", exported, "show protocols all \"k*\"");
    let took = begun.elapsed();
    for table in TABLES {
        for family in ["-4", "-6"] {
            let there = netns.ip(&format!("{family} route show table {table} proto bird"));
            assert_eq!(there.lines().count(), count as usize, "{family} table {table}");
        }
    }
    took
}
