//! More questions than can be answered, and what becomes of the clients among them.
//!
//! Runs in a network namespace of its own, where every IPv4 address is local, so that sources can
//! be forged and answers to them go nowhere. `make test` runs a short flood and holds what cannot
//! depend on the machine; `NETT_FLOOD_SECONDS` runs long ones, holds the goals and prints a table.
#![expect(clippy::print_stderr, reason = "it measures, and says what")]

mod flood_parts;
mod sample;
mod serve;

use std::process::Command;
use std::time::{Duration, Instant};

use flood_parts::{Clients, Flood, Seen, pin, resident_kib};
use nett_dns::Limits;
use serve::Running;

const INSIDE: &str = "NETT_FLOOD_INSIDE";

/// Runs this test again in a namespace of its own, or goes on when it is there.
fn in_namespace(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let me = std::env::current_exe().expect("this test");
    let script = "ip link set lo up && ip route add local default dev lo && exec \"$0\" \"$@\"";
    let ended = Command::new("unshare")
        .args(["--net", "sh", "-c", script])
        .arg(me)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare is installed (package util-linux)");
    let required = std::env::var("NETT_NETNS").is_ok_and(|v| v == "required");
    // Permission denied is told apart by trying something that needs nothing else.
    let may = Command::new("unshare").args(["--net", "true"]).output();
    if !may.is_ok_and(|o| o.status.success()) && !required {
        eprintln!("SKIPPED {test}: no right to make a network namespace");
        return false;
    }
    assert!(ended.success(), "{test} failed in its namespace");
    false
}

fn long() -> Option<Duration> {
    let text = std::env::var("NETT_FLOOD_SECONDS").ok()?;
    Some(Duration::from_secs(text.parse().expect("NETT_FLOOD_SECONDS is a number")))
}

/// What the server answers to clients that wait for their answers, by dnsperf.
fn calm_capacity(server: &Running) -> f64 {
    let at = server.address;
    let questions = tempfile::NamedTempFile::new().expect("a file");
    let text = "api.prod.shop.steer.example A\nnear.prod.shop.steer.example AAAA\n";
    std::fs::write(&questions, text).expect("written");
    let output = Command::new("taskset")
        .args(["-c", "1", "dnsperf", "-e", "-T", "1", "-c", "8", "-q", "64", "-l", "5"])
        .args(["-s", &at.ip().to_string(), "-p", &at.port().to_string(), "-d"])
        .arg(questions.path())
        .output()
        .expect("dnsperf is installed (package dnsperf)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |label: &str| -> f64 {
        let line = text.lines().find_map(|l| l.trim().strip_prefix(label));
        let word =
            line.and_then(|l| l.split_whitespace().next()).unwrap_or_else(|| panic!("{text}"));
        word.parse().expect("a number")
    };
    let (sent, done) = (number("Queries sent:"), number("Queries completed:"));
    let dropped: Vec<_> = server.stats.dropped().filter(|d| d.1 > 0).collect();
    assert!(
        done >= sent * 0.9999,
        "{done} of {sent} clients that wait got an answer: {dropped:?}\n{text}"
    );
    number("Queries per second:")
}

fn row(title: &str, offered: f64, seen: &Seen, grown_kib: i64) {
    let Seen { asked, answered, .. } = seen;
    let share = 100.0 * *answered as f64 / *asked as f64;
    let (p50, p99) = (seen.percentile(50), seen.percentile(99));
    eprintln!(
        "| {title} | {offered:.0} | {asked} | {share:.2} % | {p50:.2?} | {p99:.2?} | \
         {grown_kib} KiB |"
    );
}

#[test]
fn clients_are_answered_in_a_flood() {
    if !in_namespace("clients_are_answered_in_a_flood") {
        return;
    }
    let lasts = long();
    let each = lasts.unwrap_or(Duration::from_secs(1));
    let server = Running::on("127.0.0.1:0".parse().expect("an address"), Limits::default());
    let at = server.address;
    let answered = || server.stats.queries().map(|q| q.2).sum::<u64>();

    pin("", 1);
    pin("nett-dns-udp", 0);
    // The clients become known in the first calm seconds.
    let clients = Clients::start(at);
    clients.collect(Duration::from_secs(12));
    let calm = clients.collect(each);
    let before = resident_kib();
    let capacity = match lasts {
        Some(_) => calm_capacity(&server),
        // Short of a load generator: what it answers while it gets all the sender can send.
        None => {
            let flood = Flood::start(at, None, flood_parts::forged);
            let (from, since) = (answered(), Instant::now());
            clients.collect(Duration::from_secs(1));
            flood.stop();
            (answered() - from) as f64 / since.elapsed().as_secs_f64()
        }
    };
    eprintln!("it can answer {capacity:.0} a second");
    eprintln!("| flood | offered a second | asked | answered | p50 | p99 | memory |");
    row("none", 0.0, &calm, 0);
    type Kind = (&'static str, fn(u64) -> flood_parts::Forged);
    let kinds: [Kind; 3] = [
        ("any source", flood_parts::forged),
        ("one /24", flood_parts::of_one_network),
        ("random names by a known resolver", flood_parts::random_names),
    ];
    let mut first = None;
    for (title, kind) in kinds {
        let flood = Flood::start(at, Some(2.0 * capacity), kind);
        // Half a second to find out that it is one.
        clients.collect(Duration::from_millis(500));
        let seen = clients.collect(each);
        let offered = flood.stop();
        let grown = resident_kib() - before;
        row(title, offered, &seen, grown);
        if lasts.is_some() {
            assert!(offered >= 1.95 * capacity, "{title}: the sender is too slow");
            assert!(seen.percentile(99) < Duration::from_millis(10), "{title}");
            // One of the fifty clients shares its network with the last flood.
            assert!(seen.answered * 100 >= seen.asked * 98, "{title}");
        }
        assert!(grown < 4096, "{title}: memory grew by {grown} KiB");
        // What the first one took is all there is.
        let more = grown - *first.get_or_insert(grown);
        assert!(more < 512, "{title}: memory grew by {more} KiB more");
        // How many depends on who else wants the processors.
        assert!(seen.answered > 0, "{title}: nobody of {} was answered", seen.asked);
    }
    let dropped: Vec<_> = server.stats.dropped().filter(|d| d.1 > 0).collect();
    eprintln!("not answered: {dropped:?}");
    assert!(dropped.iter().all(|d| ["rush", "rate_limit", "send"].contains(&d.0)), "{dropped:?}");
    // It is over as soon as it ends.
    clients.collect(Duration::from_millis(500));
    let after = clients.collect(Duration::from_secs(1));
    assert!(after.answered * 100 >= after.asked * 99, "{} of {}", after.answered, after.asked);
}
