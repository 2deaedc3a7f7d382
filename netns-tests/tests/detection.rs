//! How soon packets take the other link when one fails, beside BIRD 2 with the same timers in a lab
//! of the same wires: in silence, which BFD has to notice, and with the carrier lost.
//!
//! Both have two links of equal cost and share flows over them, and watch each link with BFD in
//! both families. Cuts take turns, Nett and BIRD. A silent cut is a rule of the kernel that is
//! loaded at both ends before its time and drops everything from a certain moment on, so that the
//! moment is known and both directions end together; where it falls between two BFD packets is
//! chance. The new way begins with the first packet that `tcpdump` sees come in over the other
//! link, by the kernel's time stamps, and counts once both families have it; `ip monitor` tells
//! when the first route or group changed in the kernel that sends. A carrier is lost when
//! `ip monitor` sees it: while the far end is taken down it drops packets before that.
//!
//! `make detection` cuts each 20 times and compares; `make test` cuts once, in silence.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually, eventually_true, patience};
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::netns::Netns;
use nett_netns_tests::observe::counters::interface;
use nett_netns_tests::observe::monitor::Monitor;
use nett_netns_tests::process::{Process, Spec};
use nett_netns_tests::services::{PORT, VAULT};
use nett_netns_tests::story::{TASK, tell_from_wires};
use nett_netns_tests::topology::{LINKS, Shape};
use nett_netns_tests::traffic::{Running, Target, now};

/// Where packets to the VIP leave, and where they come in.
const NEAR: &str = "osl-b1";
const FAR: &str = "svg-b1";
const CLIENT: &str = "osl-c1";
/// Packets per second of each family.
const RATE: u32 = 1000;
/// Packets after which it is clear which link a flow takes.
const TRIAL: usize = 200;
/// The longest that a cut may take packets away, whatever else the machine does.
const LONGEST: Duration = Duration::from_secs(10);

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Time between two BFD packets in milliseconds, and how many must be missing.
#[derive(Debug, Clone, Copy)]
struct Pace {
    interval: u32,
    multiplier: u32,
}

impl Pace {
    /// The least time from a silent cut to the end of the detection time: the last packet may have
    /// come a whole interval before the cut.
    fn least(self) -> Duration {
        Duration::from_millis(u64::from(self.interval * (self.multiplier - 1)))
    }
}

/// One of the two that are compared.
struct Side<'a> {
    lab: &'a mut Lab,
    nett: bool,
    cuts: Vec<Cut>,
}

/// What was seen of one cut.
struct Cut {
    /// To the first packet over the other link, of the family that took longer.
    moved: Duration,
    /// To the first route, group or nexthop that changed in the kernel that sends.
    changed: Option<Duration>,
    /// Packets of both families sent since then and not answered.
    lost: usize,
}

// --- the two labs

fn bird(lab: &mut Lab, pace: Pace) -> Result<()> {
    let Pace { interval, multiplier } = pace;
    for (host, [to4, to6], end) in
        [(NEAR, ["10.99.0.0/16", "fd00:99::/48"], 1), (FAR, ["10.1.0.0/16", "fd00:a::/32"], 0)]
    {
        let ways = |family: usize| {
            let via = |link: &nett_netns_tests::topology::Link| {
                let (address, _) = link.ends[end].1[family].split_once('/').expect("a length");
                format!(" via {address} bfd")
            };
            LINKS.iter().map(via).collect::<String>()
        };
        let text = format!(
            "router id 10.0.0.{};\nprotocol device {{ scan time 1; }}\n\
             protocol bfd {{ strict bind; interface \"wan*\" {{ interval {interval} ms; \
             multiplier {multiplier}; }}; }}\n\
             protocol kernel {{ ipv4 {{ export all; import none; }}; }}\n\
             protocol kernel {{ ipv6 {{ export all; import none; }}; }}\n\
             protocol static {{ ipv4; check link yes; route {to4}{}; }}\n\
             protocol static {{ ipv6; check link yes; route {to6}{}; }}\n",
            end + 1,
            ways(0),
            ways(1)
        );
        let dir = lab.layout().host(host).join("bird");
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("conf"), text)?;
        let at = |name: &str| dir.join(name).display().to_string();
        let args = ["-f", "-c", &at("conf"), "-s", &at("ctl"), "-P", &at("pid")];
        let spec = Spec {
            name: format!("bird-{host}"),
            program: PathBuf::from("bird"),
            args: args.map(str::to_owned).to_vec(),
            env: Vec::new(),
            log: lab.layout().log(&format!("bird-{host}")),
        };
        lab.start_process(host, spec)?;
    }
    // Where the service is, behind the far border: in Nett's lab its agents know.
    for (vip, [border, router]) in
        VAULT.vips().iter().zip([["10.2.1.3", "10.2.20.2"], ["fd00:b:1::3", "fd00:b:20::2"]])
    {
        lab.ns(FAR)?.ip(&format!("route add {vip} via {border}"))?;
        lab.ns("svg-r1")?.ip(&format!("route add {vip} via {router}"))?;
    }
    Ok(())
}

fn nett(lab: &mut Lab, pace: Pace) -> Result<()> {
    let Pace { interval, multiplier } = pace;
    let path = lab.layout().fabric();
    let text = std::fs::read_to_string(&path)?;
    let timers = "tx = \"300ms\", rx = \"300ms\", multiplier = 3";
    ensure!(text.contains(timers), "the lab has other timers");
    let other = format!("tx = \"{interval}ms\", rx = \"{interval}ms\", multiplier = {multiplier}");
    std::fs::write(&path, text.replace(timers, &other))?;
    lab.start_nett()
}

/// Both labs, ready to be cut.
fn beside_bird(
    story: &str,
    pace: Pace,
    told: impl FnOnce(&mut [Side<'_>; 2]) -> Result<()>,
) -> Result<()> {
    tell_from_wires(story, |lab| {
        nett(lab, pace)?;
        let mut other = Lab::for_test(story, Shape::TWO)?.context("a second lab")?;
        bird(&mut other, pace)?;
        let ours = Side { lab, nett: true, cuts: Vec::new() };
        told(&mut [ours, Side { lab: &mut other, nett: false, cuts: Vec::new() }])
    })
}

// --- flows

/// Packets that have left over each link so far.
fn sent(near: &Netns) -> Result<[u64; 2]> {
    let [one, other] = LINKS.map(|link| interface(near, link.interface));
    Ok([one?.sent, other?.sent])
}

/// What leaves over each link while a probe sends [`TRIAL`] packets.
fn trial(near: &Netns, probe: &Running) -> Result<[u64; 2]> {
    let (before, goal) = (sent(near)?, probe.sent() + TRIAL);
    eventually_true(TASK, "packets are sent", || Ok(probe.sent() >= goal))?;
    let after = sent(near)?;
    Ok([after[0] - before[0], after[1] - before[1]])
}

/// A probe of each family over the same link, and the number of that link.
fn flows(lab: &Lab) -> Result<([Running; 2], usize)> {
    let (near, client) = (lab.ns(NEAR)?, lab.ns(CLIENT)?);
    let mut link = None;
    let probes = VAULT.vips().map(|vip| {
        let address: IpAddr = vip.parse()?;
        let over = || {
            let probe = Running::start(&client, Target::new(address, RATE))?;
            let counts = trial(&near, &probe)?;
            let quiet = |n: usize| counts[n] < TRIAL as u64 / 2;
            // Ports decide; another probe has another one.
            let there = [0, 1].into_iter().find(|n| quiet(1 - n) && !quiet(*n));
            let there = there.with_context(|| format!("{counts:?} packets"))?;
            ensure!(link.is_none_or(|link| link == there), "it takes the other link");
            Ok((probe, there))
        };
        let (found, _) = eventually(TASK, "a flow takes the link", over)?;
        link = Some(found.1);
        Ok(found.0)
    });
    let [v4, v6]: [Result<Running>; 2] = probes;
    Ok(([v4?, v6?], link.context("a link")?))
}

/// Until flows of both families are shared by both links.
fn both_carry(lab: &Lab) -> Result<()> {
    let (near, client) = (lab.ns(NEAR)?, lab.ns(CLIENT)?);
    for vip in VAULT.vips() {
        let probe = Running::start(&client, Target::new(vip.parse()?, RATE).with_flows(256))?;
        eventually(TASK * 2, "both links carry", || {
            let counts = trial(&near, &probe)?;
            // At the fastest pace 50 of them are BFD's own. Ports decide about the rest, and of so
            // many flows never more than two thirds take one link.
            ensure!(counts.iter().all(|n| *n > TRIAL as u64 * 3 / 10), "{counts:?} packets");
            let until = now() - 50_000_000;
            let seen = probe.report().between(until - 100_000_000, until);
            ensure!(seen.sent() > 0 && seen.lost() == 0, "{}", seen.summary());
            Ok(())
        })?;
    }
    Ok(())
}

/// Packets to the service that come in at the far border, recorded by the kernel's time.
struct Dump {
    ns: Netns,
    file: PathBuf,
    process: Process,
}

impl Dump {
    fn start(lab: &Lab) -> Result<Self> {
        let ns = lab.ns(FAR)?;
        let (file, log) = (lab.layout().root.join("pcap"), lab.layout().log("tcpdump"));
        let _ = std::fs::remove_file(&log);
        let filter = format!("udp and dst port {PORT}");
        let path = file.display().to_string();
        // What waits for more to come would be lost with the end.
        let at_once = "--immediate-mode";
        let args = [at_once, "-Z", "root", "-n", "-i", "any", "-Q", "in", "-w", &path, &filter];
        let spec = Spec {
            name: "tcpdump".to_owned(),
            program: "tcpdump".into(),
            args: args.map(str::to_owned).to_vec(),
            env: Vec::new(),
            log: log.clone(),
        };
        let process = Process::start(&ns, spec)?;
        let listens = || Ok(std::fs::read_to_string(&log)?.contains("listening on"));
        eventually_true(patience(), "tcpdump listens", listens)?;
        Ok(Self { ns, file, process })
    }

    /// Time, link and family (0: IPv4) of every packet.
    fn finish(self) -> Result<Vec<(u64, usize, usize)>> {
        self.process.stop(TASK)?;
        let path = self.file.display().to_string();
        let text = self.ns.output("tcpdump", &["-r", &path, "-n", "-tt"])?;
        let line = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [time, interface, "In", family, ..] = words[..] else { return None };
            let (seconds, micros) = time.split_once('.')?;
            let micros: u64 = format!("{seconds}{micros}").parse().ok()?;
            let link = LINKS.iter().position(|link| link.interface == interface)?;
            Some((micros * 1000, link, usize::from(family == "IP6")))
        };
        Ok(text.lines().filter_map(line).collect())
    }
}

// --- cuts

impl Side<'_> {
    fn name(&self) -> &'static str {
        if self.nett { "Nett" } else { "BIRD" }
    }

    /// Cuts the link of two running flows with `cut`, and mends it with `mend`. `cut` tells when
    /// it was, or nothing: then it was when the near end lost its carrier.
    fn cut(
        &mut self,
        cut: impl Fn(&Lab, usize) -> Result<Option<u64>>,
        mend: impl Fn(&Lab, usize) -> Result<()>,
    ) -> Result<()> {
        both_carry(self.lab)?;
        let (probes, link) = flows(self.lab)?;
        let dump = Dump::start(self.lab)?;
        let log = self.lab.layout().log("changes");
        let _ = std::fs::remove_file(&log);
        let monitor = Monitor::timed_with_links(&self.lab.ns(NEAR)?, log)?;
        let told = cut(self.lab, link)?;
        let after = told.unwrap_or_else(now);
        let answered = |probe: &Running| {
            let until = now() - 20_000_000;
            let seen = probe.report().between(until - 80_000_000, until);
            until > after + 100_000_000 && seen.sent() > 40 && seen.lost() == 0
        };
        eventually_true(TASK, "the other link is taken", || Ok(probes.iter().all(answered)))?;
        let (seen, events) = (dump.finish()?, monitor.finish_timed()?);
        let sent = probes.map(Running::finish);
        mend(self.lab, link)?;
        let gone =
            |event: &str| event.contains("NO-CARRIER") && event.contains(LINKS[link].interface);
        let lost_carrier = events.iter().find(|(_, event)| gone(event)).map(|(time, _)| *time);
        let at = told.or(lost_carrier).context("no carrier was lost")?;
        let mut moved = Duration::ZERO;
        for family in [0, 1] {
            let over = |one: usize| {
                let of_family = seen.iter().filter(move |seen| seen.2 == family);
                of_family.filter(move |seen| seen.1 == one).map(|seen| seen.0)
            };
            let last = over(link).max().context("nothing came over the link before")?;
            let first = over(1 - link).find(|time| *time > last);
            let first = first.context("nothing came over the other link")?;
            moved = moved.max(Duration::from_nanos(first.saturating_sub(at)));
        }
        ensure!(moved < LONGEST, "{}: packets were lost for {moved:?}", self.name());
        let change = events.iter().find(|(time, event)| *time > at && !event.contains("mtu"));
        let changed = change.map(|(time, _)| Duration::from_nanos(time - at));
        let lost = sent.into_iter().map(|report| report.since(at).lost()).sum();
        self.cuts.push(Cut { moved, changed, lost });
        Ok(())
    }

    /// Both ends hear nothing more of each other from the next second but one on.
    fn cut_silently(&mut self) -> Result<()> {
        let cut = |lab: &Lab, link: usize| {
            // A second and a half at least, to load the rules.
            let second = (now() + 1_500_000_000) / 1_000_000_000 + 1;
            for end in [NEAR, FAR] {
                lab.ns(end)?.nft(&format!(
                    "add table netdev silent\n\
                     add chain netdev silent in {{ type filter hook ingress device {} \
                     priority 0; }}\n\
                     add rule netdev silent in meta time >= {second} drop\n",
                    LINKS[link].interface
                ))?;
            }
            let at = second * 1_000_000_000;
            ensure!(now() < at, "the rules were loaded too late");
            Ok(Some(at))
        };
        let mend = |lab: &Lab, _: usize| {
            [NEAR, FAR].iter().try_for_each(|e| lab.ns(e)?.nft("delete table netdev silent"))
        };
        self.cut(cut, mend)?;
        self.forget()
    }

    /// A link that breaks again soon has to prove itself for twice as long each time, as far as
    /// its agents remember, and one whose carrier comes and goes has to stay up for longer.
    fn forget(&mut self) -> Result<()> {
        if self.nett {
            for end in [NEAR, FAR] {
                self.lab.take_process(&agent_name(end))?.stop(TASK)?;
                self.lab.start_agent(end)?;
            }
            for end in [NEAR, FAR] {
                self.lab.wait_for_agent(end)?;
            }
        }
        Ok(())
    }

    fn cut_carrier(&mut self) -> Result<()> {
        let cut = |lab: &Lab, link: usize| lab.cut(LINKS[link].id).map(|()| None);
        self.cut(cut, |lab, link| lab.restore(LINKS[link].id))?;
        self.forget()
    }
}

// --- what is told

/// In milliseconds: the value that half, nine tenths and all of them do not exceed.
struct Spread {
    median: f64,
    p90: f64,
    most: f64,
}

impl Spread {
    /// None of nothing.
    fn of(times: impl Iterator<Item = Duration>) -> Option<Self> {
        let mut all: Vec<f64> = times.map(|time| time.as_secs_f64() * 1e3).collect();
        all.sort_by(f64::total_cmp);
        let most = *all.last()?;
        let median = f64::midpoint(all[all.len() / 2], all[(all.len() - 1) / 2]);
        Some(Self { median, p90: all[(all.len() * 9).div_ceil(10) - 1], most })
    }

    fn show(&self) -> String {
        let Self { median, p90, most } = self;
        format!("median {median:7.2}  p90 {p90:7.2}  most {most:7.2}")
    }
}

/// Prints what was seen of all cuts so far, and forgets them.
fn compare(what: &str, sides: &mut [Side<'_>; 2], goals: [f64; 2]) -> Result<()> {
    show(&format!("{what}; {} cuts each, ms:", sides[0].cuts.len()));
    let mut spreads = Vec::new();
    for side in sides {
        let cuts = std::mem::take(&mut side.cuts);
        let version = if side.nett { nett_version(side.lab)? } else { bird_version()? };
        let spread = Spread::of(cuts.iter().map(|cut| cut.moved)).context("no cuts")?;
        let mut lost: Vec<usize> = cuts.iter().map(|cut| cut.lost).collect();
        lost.sort_unstable();
        show(&format!("  {:16} {} to the first packet", version.trim(), spread.show()));
        if let Some(changed) = Spread::of(cuts.iter().filter_map(|cut| cut.changed)) {
            show(&format!("  {:16} {} to the first change in the kernel", "", changed.show()));
        }
        show(&format!("  {:16} packets lost: {lost:?}", ""));
        spreads.push(spread);
    }
    let [ours, theirs] = &spreads[..] else { return Ok(()) };
    let ratio = |ours: f64, theirs: f64, goal: f64| {
        let met = if ours <= goal * theirs { "met" } else { "not met" };
        format!("{:.2} x BIRD (goal: at most {goal:.2}: {met})", ours / theirs)
    };
    show(&format!(
        "  median {}, p90 {}",
        ratio(ours.median, theirs.median, goals[0]),
        ratio(ours.p90, theirs.p90, goals[1])
    ));
    Ok(())
}

fn nett_version(lab: &Lab) -> Result<String> {
    let program = lab.programs().agent.display().to_string();
    lab.ns(NEAR)?.output(&program, &["--version"])
}

fn bird_version() -> Result<String> {
    let said = std::process::Command::new("bird").arg("--version").output()?;
    Ok(String::from_utf8(said.stderr)?.replace("version ", ""))
}

const STORY: &str = "a_failed_link_is_left_beside_bird";

#[test]
fn a_failed_link_is_left_beside_bird() -> Result<()> {
    let cuts = number("NETT_CUTS", 1);
    // Beside other work a session of 150 ms breaks off by itself now and then.
    let slow = Pace { interval: if cuts == 1 { 300 } else { 50 }, multiplier: 3 };
    beside_bird(STORY, slow, |sides| {
        silent_cuts(sides, slow, cuts)?;
        // What follows is a measurement, for which a machine that others use is too slow.
        if cuts == 1 {
            return Ok(());
        }
        for _ in 0..cuts {
            sides.iter_mut().try_for_each(Side::cut_carrier)?;
        }
        compare("row 12, carrier lost", sides, [1.5, 1.5])
    })?;
    if cuts == 1 {
        return Ok(());
    }
    let fast = Pace { interval: 10, multiplier: 3 };
    beside_bird(STORY, fast, |sides| silent_cuts(sides, fast, cuts))
}

fn silent_cuts(sides: &mut [Side<'_>; 2], pace: Pace, cuts: usize) -> Result<()> {
    for _ in 0..cuts {
        for side in sides.iter_mut() {
            side.cut_silently()?;
            let took = side.cuts.last().context("a cut")?.moved;
            // Otherwise something else than silence was noticed.
            ensure!(took >= pace.least(), "{}: only {took:?}", side.name());
        }
    }
    let Pace { interval, multiplier } = pace;
    let what = format!("row 11, silent cut, BFD {interval} ms x {multiplier}");
    compare(&what, sides, [1.05, 1.2])
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
