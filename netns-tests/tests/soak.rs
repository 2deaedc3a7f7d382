//! Weeks of trouble in minutes: random faults of links, addresses, other programs and the agents
//! themselves, one after the other from one seed, with probes all the while.
//!
//! `make test` runs a part of a minute, `make soak MINUTES=n` longer, `make soak FAULTS=n` so many
//! faults. A failure names its seed; the same seed gives the same faults (`NETT_SEED`), though not
//! the same times.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::services::{VAULT, WEB};
use nett_netns_tests::story::{Traffic, tell};
use nix::sys::signal::Signal;

const NODES: [&str; 4] = ["osl-b1", "osl-r1", "svg-b1", "svg-r1"];
const BORDERS: [&str; 2] = ["osl-b1", "svg-b1"];
/// So long without anything said.
const SECONDS: u64 = 25;
/// The kernel is compared with the beginning once in so many faults.
const BETWEEN_CHECKS: usize = 60;
/// Foreign writes to one node within [`WINDOW`]: an agent gives way to who changes one object more
/// than 20 times in a minute, and a soak is no such fight.
const FOREIGN: usize = 15;
const WINDOW: Duration = Duration::from_secs(60);
/// How often the agents' sizes are looked at, beside the beginning.
const SAMPLES: f64 = 12.0;
/// What an agent may hold more, in KiB, in the last third of a soak than in the one before, on the
/// average: agents that begin anew are up to 3 MiB smaller or greater than they were.
const MOST_GROWTH: f64 = 6.0 * 1024.0;

#[test]
fn nothing_is_left_of_many_faults() -> Result<()> {
    let number = |name: &str, default| {
        std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(default)
    };
    let length = match number("NETT_SOAK_FAULTS", 0) {
        0 => Length::Time(Duration::from_secs(number("NETT_SOAK_SECONDS", SECONDS))),
        faults => Length::Faults(usize::try_from(faults).expect("a number of faults")),
    };
    let seed = number("NETT_SEED", u64::from(std::process::id()) * 7919 + 1);
    tell("nothing_is_left_of_many_faults", |lab| {
        show(&format!("seed {seed}, {length:?}"));
        let mut soak = Soak::begin(lab, seed)?;
        let result = soak.run(length);
        result.with_context(|| format!("NETT_SEED={seed} gives the same faults"))
    })
}

/// When a soak ends.
#[derive(Debug, Clone, Copy)]
enum Length {
    Time(Duration),
    Faults(usize),
}

/// The longest time for which a link is held down that has flapped.
const HELD_DOWN: Duration = Duration::from_secs(120);

/// Resident memory in KiB and open files of every agent.
type Sizes = BTreeMap<&'static str, (u64, usize)>;

/// The agents' sizes at one moment.
struct Sample {
    faults: usize,
    at: Duration,
    sizes: Sizes,
}

struct Soak<'a> {
    lab: &'a mut Lab,
    state: u64,
    whole: BTreeMap<&'static str, Kernel>,
    foreign: BTreeMap<&'static str, VecDeque<Instant>>,
    counts: BTreeMap<&'static str, usize>,
}

impl<'a> Soak<'a> {
    fn begin(lab: &'a mut Lab, seed: u64) -> Result<Self> {
        let whole = NODES.iter().map(|node| Ok((*node, Kernel::of(&lab.ns(node)?)?)));
        let whole = whole.collect::<Result<_>>()?;
        // A state of zero would stay zero.
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let (foreign, counts) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { lab, state, whole, foreign, counts })
    }

    /// A number below `bound` (xorshift64).
    fn pick(&mut self, bound: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) % bound
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.pick(of.len() as u64)).expect("a place in a slice")]
    }

    fn run(&mut self, length: Length) -> Result<()> {
        let leaks = self.lab.leaks()?;
        let away = Traffic::to_vips(self.lab, &["osl-c1"], VAULT)?;
        let home = Traffic::to_vips(self.lab, &["osl-c1"], WEB)?;
        let begun = Instant::now();
        let mut faults = 0;
        let mut samples = vec![self.sample(faults, begun)?];
        loop {
            let done = length.done(faults, begun.elapsed());
            if done * SAMPLES >= samples.len() as f64 {
                samples.push(self.sample(faults, begun)?);
                show(&samples[samples.len() - 1].to_string());
            }
            if done >= 1.0 {
                break;
            }
            self.fault().context("a fault could not be made")?;
            faults += 1;
            if faults % BETWEEN_CHECKS == 0 {
                self.check(&format!("after {faults} faults"))?;
                let leaked = self.lab.leaks()?.since(&leaks);
                ensure!(leaked.total() == 0, "after {faults} faults: {leaked:?}");
            }
        }
        self.check("at the end")?;
        away.settles_on("svg")?;
        home.settles_on("osl")?;
        drop(away.finish());
        let home = home.finish();
        let leaked = self.lab.leaks()?.since(&leaks);
        show(&format!("{faults} faults in {:?}: {:?}", begun.elapsed(), self.counts));
        show(&format!("service of the own site: {}", home.summary()));
        assert_eq!(leaked.total(), 0, "{leaked:?}");
        grows_not(&samples)
    }

    fn sample(&mut self, faults: usize, begun: Instant) -> Result<Sample> {
        Ok(Sample { faults, at: begun.elapsed(), sizes: self.sizes()? })
    }

    /// Makes the IPv6 addresses of the links anew: Linux 6.18 now and then loses the local route
    /// of one whose interface goes up and down in quick succession, and nothing but this brings it
    /// back.
    fn heal_addresses(&self) -> Result<()> {
        for (border, own) in BORDERS.iter().zip(1..) {
            let of = |interface: u8| format!("fd00:f{interface}::{own}/64 dev wan{interface}");
            let lines = [0, 1]
                .map(of)
                .map(|at| [format!("address del {at}"), format!("address add {at} nodad")]);
            self.lab.ns(border)?.ip_batch(&lines.concat())?;
        }
        Ok(())
    }

    /// Waits until every node's kernel is as it was.
    fn check(&self, when: &str) -> Result<()> {
        self.heal_addresses()?;
        for (node, whole) in &self.whole {
            let ns = self.lab.ns(node)?;
            let what = format!("{node} has all of its forwarding state {when}");
            eventually(patience() * 3 + HELD_DOWN, &what, || {
                let left = whole.changes(&Kernel::of(&ns)?);
                if left.is_empty() { Ok(()) } else { bail!("{}", left.join("\n")) }
            })?;
        }
        Ok(())
    }

    fn sizes(&mut self) -> Result<Sizes> {
        let mut sizes = Sizes::new();
        for node in NODES {
            let pid = self.lab.process(&agent_name(node))?.record().pid;
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let memory = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
            let files = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
            sizes.insert(node, (memory.context("a process has memory")?, files));
        }
        Ok(sizes)
    }

    /// Whether one more foreign write to the node is within its budget.
    fn may_write(&mut self, node: &'static str) -> bool {
        let past = self.foreign.entry(node).or_default();
        while past.front().is_some_and(|at| at.elapsed() > WINDOW) {
            past.pop_front();
        }
        let may = past.len() < FOREIGN;
        if may {
            past.push_back(Instant::now());
        }
        may
    }

    fn fault(&mut self) -> Result<()> {
        let kind = self.pick(100);
        let name = match kind {
            0..35 => self.carrier()?,
            35..55 => self.interface()?,
            55..70 => self.address()?,
            70..74 => self.loopback()?,
            74..96 => self.foreign()?,
            96..98 => self.stop()?,
            _ => self.kill()?,
        };
        *self.counts.entry(name).or_default() += 1;
        Ok(())
    }

    /// Faults last some milliseconds; that is what is slept here, not a wait for anything.
    fn last(&mut self, most: u64) {
        let time = self.pick(most);
        std::thread::sleep(Duration::from_millis(time));
    }

    fn carrier(&mut self) -> Result<&'static str> {
        let link = self.one(&["osl-svg-1", "osl-svg-2"]);
        self.lab.cut(link)?;
        self.last(40);
        self.lab.restore(link)?;
        Ok("carrier")
    }

    fn interface(&mut self) -> Result<&'static str> {
        let (node, interface) = (self.one(&BORDERS), self.one(&["wan0", "wan1"]));
        let ns = self.lab.ns(node)?;
        ns.ip(&format!("link set dev {interface} down"))?;
        self.last(40);
        ns.ip(&format!("link set dev {interface} up"))?;
        Ok("interface")
    }

    fn address(&mut self) -> Result<&'static str> {
        let (node, interface) = (self.one(&BORDERS), self.one(&["wan0", "wan1"]));
        let own = u8::from(node != BORDERS[0]) + 1;
        let (low, net) = if interface == "wan0" { (own, 0) } else { (own + 4, 1) };
        let [v4, v6] = [format!("172.31.0.{low}/30"), format!("fd00:f{net}::{own}/64")];
        let (address, nodad) = match self.pick(2) {
            0 => (v4, ""),
            _ => (v6, " nodad"),
        };
        let ns = self.lab.ns(node)?;
        ns.ip(&format!("address del {address} dev {interface}"))?;
        self.last(40);
        ns.ip(&format!("address add {address} dev {interface}{nodad}"))?;
        Ok("address")
    }

    fn loopback(&mut self) -> Result<&'static str> {
        let node = self.one(&NODES);
        let ns = self.lab.ns(node)?;
        ns.ip("link set dev lo down")?;
        self.last(20);
        ns.ip("link set dev lo up")?;
        Ok("loopback")
    }

    /// What other programs do by mistake. Some find nothing to do, when the agent has not repaired
    /// the last fault yet: that is no failure.
    fn foreign(&mut self) -> Result<&'static str> {
        let node = self.one(&NODES);
        if !self.may_write(node) {
            return self.carrier();
        }
        let (name, program, line) = self.one(&[
            ("nexthop flush", "ip", "nexthop flush"),
            ("route flush", "ip", "route flush table 7000"),
            ("route flush", "ip", "-6 route flush table 7001"),
            ("route", "ip", "route del 10.99.0.50 table 7000"),
            ("rule", "ip", "rule del pref 4430"),
            ("rule", "ip", "-6 rule del pref 4440"),
            ("ruleset", "nft", "flush ruleset"),
            ("table", "nft", "delete table inet nett"),
            ("chain", "nft", "flush chain inet nett fwd_guard"),
            ("map", "nft", "flush map inet nett steered_by"),
        ]);
        let words: Vec<&str> = line.split_whitespace().collect();
        self.lab.ns(node)?.try_output(program, &words)?;
        self.last(30);
        Ok(name)
    }

    fn stop(&mut self) -> Result<&'static str> {
        let node = self.one(&NODES);
        self.lab.process(&agent_name(node))?.signal(Signal::SIGSTOP)?;
        self.carrier()?;
        self.last(300);
        self.lab.process(&agent_name(node))?.signal(Signal::SIGCONT)?;
        Ok("stopped agent")
    }

    fn kill(&mut self) -> Result<&'static str> {
        let node = self.one(&NODES);
        self.lab.take_process(&agent_name(node))?.kill();
        self.carrier()?;
        self.lab.start_agent(node)?;
        self.lab.wait_for_agent(node)?;
        Ok("killed agent")
    }
}

impl Length {
    /// How much of it is over; 1 at its end.
    fn done(self, faults: usize, time: Duration) -> f64 {
        match self {
            Self::Time(all) => time.as_secs_f64() / all.as_secs_f64(),
            Self::Faults(all) => faults as f64 / all as f64,
        }
    }
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { faults, at, sizes } = self;
        write!(f, "{faults:6} faults, {:4} s:", at.as_secs())?;
        sizes.iter().try_for_each(|(node, (memory, files))| {
            write!(f, "  {node} {:.1} MiB {files} files", *memory as f64 / 1024.0)
        })
    }
}

/// Memory and files of the agents from the second third on: an agent that begins has yet to fill
/// what it keeps.
fn grows_not(samples: &[Sample]) -> Result<()> {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
        bail!("a soak has a beginning and an end");
    };
    let warm = &samples[samples.len() / 3..];
    for (node, (memory, files)) in &last.sizes {
        let opened = first.sizes[node].1;
        ensure!(*files <= opened + 8, "{node} has {files} files open, not {opened}");
        let points = warm.iter().map(|s| (s.faults as f64, s.sizes[node].0 as f64));
        let slope = slope(&points.collect::<Vec<_>>()) * 1000.0;
        show(&format!("{node}: {memory} KiB, {slope:+.0} KiB for each 1000 faults"));
        let mean = |part: &[Sample]| {
            part.iter().map(|s| s.sizes[node].0 as f64).sum::<f64>() / part.len() as f64
        };
        let (before, after) = warm.split_at(warm.len() / 2);
        let growth = mean(after) - mean(before);
        ensure!(growth < MOST_GROWTH, "{node} holds {growth:.0} KiB more in the last third");
    }
    Ok(())
}

/// Of the line with the least squares through these points.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let both: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let square: f64 = points.iter().map(|p| (p.0 - x) * (p.0 - x)).sum();
    if square > 0.0 { both / square } else { 0.0 }
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
