//! What agents with very many VIPs hold in memory and use of the processor while nothing happens,
//! as `/proc` counts it: `make idle` has 100,000 VIPs and a release build, `make test` few.

use std::fs;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::story::tell_from_wires;
use nett_netns_tests::topology::{NET_SERVICE, SITES};

/// Steering classes, told apart by the weights of their backends.
const CLASSES: usize = 20;
const NODES: [&str; 2] = ["osl-b1", "osl-r1"];
/// The most that an agent may hold resident, in thousands of bytes.
const MEMORY: u64 = 250 * 1000;
/// The most of one processor that an agent may use while nothing happens: in a release build, and
/// in one for tests.
const SHARE: f64 = if cfg!(debug_assertions) { 0.05 } else { 0.005 };

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Services with a VIP of each family, most of them at osl.
fn add_services(lab: &Lab, count: usize) -> Result<()> {
    let mut text = String::new();
    for n in 0..count {
        let (class, high, low) = (n % CLASSES, n / 250 + 1, n % 250 + 1);
        let (primary, standby) = if class < 14 { ("osl", "svg") } else { ("svg", "osl") };
        text += &format!(
            "[[service]]\nid = \"bulk/prod/s{n:06}\"\ncategory = \"C\"\nprimary = \"{primary}\"\n\
             standby = [\"{standby}\"]\nvips = [\"10.99.{high}.{low}\", \
             \"fd00:99::{high:x}:{low:x}\"]\n"
        );
        for site in SITES {
            let weight = class + 1;
            let backends = site.addresses(NET_SERVICE, 2);
            let backends = backends.map(|a| format!("{{ address = \"{a}\", weight = {weight} }}"));
            text += &format!("backends.{} = [{}]\n", site.id, backends.join(", "));
        }
    }
    let mut file = fs::File::options().append(true).open(lab.layout().services())?;
    Ok(file.write_all(text.as_bytes())?)
}

/// The time on a processor of all threads so far (`schedstat`, in nanoseconds).
fn used(pid: i32) -> Result<Duration> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        let own = text.split(' ').next().and_then(|n| n.parse::<u64>().ok());
        total += own.context("a thread has used some time")?;
    }
    Ok(Duration::from_nanos(total))
}

/// A size in KiB of `/proc/PID/status`.
fn memory(pid: i32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let size = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    size.with_context(|| format!("a process has a {name}"))
}

/// Until the kernel has a route for every VIP of both families.
fn installed(lab: &Lab, node: &str, count: usize) -> Result<()> {
    let ns = lab.ns(node)?;
    eventually(patience() * 6, "every VIP has a route", || {
        for family in ["-4", "-6"] {
            let routes = ns.ip(&format!("{family} route show table 7000 metric 100"))?;
            let there = routes.lines().count();
            ensure!(there >= count, "{node} has {there} routes ({family})");
        }
        Ok(())
    })
    .map(drop)
}

#[test]
fn very_many_vips_cost_little_while_nothing_happens() -> Result<()> {
    let services = number("NETT_VIPS", 2000) / 2;
    let time = Duration::from_secs(number("NETT_IDLE_SECONDS", 2) as u64);
    tell_from_wires("very_many_vips_cost_little_while_nothing_happens", |lab| {
        add_services(lab, services)?;
        lab.start_nett()?;
        for node in NODES {
            installed(lab, node, services)?;
            let pid = lab.process(&agent_name(node))?.record().pid;
            // What is left of the start is not idle; what lasts is seen in every window.
            let (share, _) = eventually(patience() * 6, "nothing happens", || {
                let before = used(pid)?;
                // The time over which is measured, not a wait for anything.
                std::thread::sleep(time);
                // A thread that ended in between takes its time along.
                let spent = used(pid)?.checked_sub(before).context("a thread has ended")?;
                let share = spent.as_secs_f64() / time.as_secs_f64();
                ensure!(share < SHARE, "{node} uses {:.2} % of a processor", share * 100.0);
                Ok(share)
            })?;
            let (rss, most) = (memory(pid, "VmRSS")?, memory(pid, "VmHWM")?);
            show(&format!(
                "{node} with {} VIPs in {CLASSES} classes: {} MB resident ({} MB at its start), \
                 {:.2} % of a processor over {time:?}",
                2 * services,
                rss * 1024 / 1_000_000,
                most * 1024 / 1_000_000,
                share * 100.0
            ));
            ensure!(rss * 1024 / 1000 < MEMORY, "{node} holds {rss} KiB");
        }
        Ok(())
    })
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
