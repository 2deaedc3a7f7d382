//! Rows 5 and 6: how soon a change is seen, and how long answers pause meanwhile.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::process::{ChildStdin, ChildStdout, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::RunArguments;
use crate::data::{Mix, Side, ZONE, name, questions, v4, zone_file};
use crate::load::{Load, median, micros};
use crate::peer::{Peer, Running};
use crate::probe::{Probe, Question, wire_name};

use super::print_row;

const NAMES: u32 = 10_000;
/// As many as the largest fabric has.
const VERY_MANY: u32 = 100_000;
const PATIENCE: Duration = Duration::from_secs(20);

/// What one change did to the questions asked meanwhile.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// From the start of the change to the first new answer.
    after: Duration,
    /// The longest time between two answers.
    gap: Duration,
}

pub(crate) fn one_name(arguments: &RunArguments) -> anyhow::Result<()> {
    println!("Row 5: one placement change, until a question sees it, of {NAMES} names");
    compare(arguments, &[Peer::Nett, Peer::Bind], 1, arguments.rounds * 20)
}

pub(crate) fn many_names(arguments: &RunArguments) -> anyhow::Result<()> {
    println!("Row 6: {NAMES} names changed, until a question sees the last, and the longest pause");
    compare(arguments, &[Peer::Nett, Peer::Gdnsd, Peer::Knot], NAMES, arguments.rounds * 4)?;
    dip(arguments)
}

/// What a large change costs those who ask: as many questions as get answers, with all names
/// changed every second and without.
fn dip(arguments: &RunArguments) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("questions");
    std::fs::write(&file, questions(VERY_MANY, Mix::Usual, 2 * VERY_MANY))?;
    let server = Peer::Nett.start(directory.path(), VERY_MANY)?;
    let mut changer = Changer::new(server);
    changer.command("second all")?;
    let load = Load { questions: &file, seconds: arguments.seconds, rate: None, signed: false };
    let (mut calm, mut changed, mut took) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        calm.push(load.on(&changer.server)?.per_second);
        let Changer { server, line } = &mut changer;
        let line = line.as_mut().context("no input")?;
        let cost = std::thread::scope(|scope| {
            let loaded = scope.spawn(|| load.on(server));
            let mut due = Instant::now();
            for _ in 1..arguments.seconds.max(2) {
                due += Duration::from_secs(1);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                // Each is the way back of the one before, so nothing is prepared meanwhile.
                took.push(line.carry_out("apply all")?.parse::<f64>()?);
            }
            loaded.join().expect("the load does not panic")
        })?;
        changed.push(cost.per_second);
    }
    let (calm, changed, took) = (median(&calm), median(&changed), median(&took) / 1e3);
    // The load is one second longer than there are changes.
    let (seconds, changes) =
        (f64::from(arguments.seconds), f64::from(arguments.seconds.max(2) - 1));
    let lost = (1.0 - changed / calm) * seconds / changes;
    println!(
        "  Nett, {VERY_MANY} names changed in {took:.0} ms under load, the median: {:.1} % fewer \
         answers in that second ({calm:.0} in calm)",
        lost * 100.0
    );
    Ok(())
}

fn compare(
    arguments: &RunArguments,
    peers: &[Peer],
    changed: u32,
    changes: u32,
) -> anyhow::Result<()> {
    let _ = arguments;
    let directory = tempfile::tempdir()?;
    let mut rows = Vec::new();
    for peer in peers {
        let server = peer.start(directory.path(), NAMES)?;
        rows.push((*peer, Changer::new(server), Vec::new()));
    }
    for round in 0..changes {
        let side = if round % 2 == 0 { Side::Second } else { Side::First };
        for (_, changer, seen) in &mut rows {
            seen.push(changer.change(changed, side, round + 2)?);
        }
    }
    let of = |seen: &[Seen]| {
        let after: Vec<f64> = seen.iter().map(|s| micros(s.after)).collect();
        let gap: Vec<f64> = seen.iter().map(|s| micros(s.gap)).collect();
        (median(&after), median(&gap), gap.iter().copied().fold(0.0, f64::max))
    };
    // The first peer behind Nett is the one that the goal names.
    let (reference, ..) = of(&rows[1].2);
    for (peer, _, seen) in &rows {
        let (after, gap, worst) = of(seen);
        let text = format!("{after:.0} us, gap {gap:.0}, worst {worst:.0} ({})", peer.version()?);
        print_row(peer, &text, after / reference);
    }
    Ok(())
}

/// A server and the means to change its names.
struct Changer {
    server: Running,
    line: Option<Line>,
}

/// To Nett, which carries out one line after the other.
struct Line {
    commands: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl Line {
    /// Has a line carried out, and gives its reply.
    fn carry_out(&mut self, command: &str) -> anyhow::Result<String> {
        writeln!(self.commands, "{command}")?;
        let mut reply = String::new();
        self.replies.read_line(&mut reply)?;
        Ok(reply.trim().to_owned())
    }
}

impl Changer {
    fn new(mut server: Running) -> Self {
        let pipes = server.commands.take().zip(server.replies.take());
        let line = pipes.map(|(commands, out)| Line { commands, replies: BufReader::new(out) });
        Self { server, line }
    }

    /// Changes the first `count` names, while another thread asks for the last of them.
    fn change(&mut self, count: u32, to: Side, serial: u32) -> anyhow::Result<Seen> {
        let (question, wanted) = (Question::A(count - 1), v4(count - 1, to));
        let probe = Probe::new(self.server.address, PATIENCE)?;
        ensure!(probe.ask(question)? != wanted, "{}: changed before", self.server.peer);
        self.prepare(count, to, serial)?;
        let begun = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| watch(&probe, question, wanted, &begun));
            while !begun.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            let started = Instant::now();
            self.apply(to)?;
            let (seen_at, gap) = watcher.join().expect("the watcher does not panic")?;
            Ok(Seen { after: seen_at.saturating_duration_since(started), gap })
        })
    }

    /// What is not part of the measured time: the new zone file, or the new placement.
    fn prepare(&mut self, count: u32, to: Side, serial: u32) -> anyhow::Result<()> {
        if self.server.peer == Peer::Nett {
            let word = if to == Side::Second { "second" } else { "first" };
            let which = if count == 1 { "one" } else { "all" };
            return self.command(&format!("{word} {which}"));
        }
        if matches!(self.server.peer, Peer::Gdnsd | Peer::Knot) {
            let moved = if to == Side::Second { count } else { 0 };
            let zones = self.server.directory.join("zones");
            let path = zones.join(self.server.peer.zone_name());
            std::fs::write(path, zone_file(NAMES, moved, serial))?;
        }
        Ok(())
    }

    /// Has Nett carry out a line, and waits for its reply.
    fn command(&mut self, line: &str) -> anyhow::Result<()> {
        self.line.as_mut().context("no input")?.carry_out(line)?;
        Ok(())
    }

    fn apply(&mut self, to: Side) -> anyhow::Result<()> {
        let directory = self.server.directory.clone();
        match self.server.peer {
            Peer::Nett => self.command("apply all"),
            Peer::Bind => update(&self.server, to),
            Peer::Gdnsd => {
                run(Command::new("gdnsdctl").arg("-c").arg(directory).arg("reload-zones"))
            }
            Peer::Knot => {
                let socket = directory.join("knot.sock");
                run(Command::new("knotc").arg("-s").arg(socket).args(["zone-reload", ZONE]))
            }
            Peer::Floor | Peer::Nsd => anyhow::bail!("no way to change {}", self.server.peer),
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// RFC 2136: the A record of name 0 is replaced, in one datagram and without starting a program.
fn update(server: &Running, to: Side) -> anyhow::Result<()> {
    let mut packet = vec![0x43, 0x21, 0x28, 0, 0, 1, 0, 0, 0, 2, 0, 0];
    packet.extend(wire_name(ZONE));
    packet.extend([0, 6, 0, 1]);
    let owner = wire_name(&format!("{}.{ZONE}", name(0)));
    packet.extend(&owner);
    // Delete the set: class ANY, TTL 0, no data. Then add one.
    packet.extend([0, 1, 0, 255, 0, 0, 0, 0, 0, 0]);
    packet.extend(&owner);
    packet.extend([0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
    packet.extend(v4(0, to).octets());
    let answer = Probe::new(server.address, PATIENCE)?.exchange(&packet)?;
    ensure!(answer.get(3).is_some_and(|b| b & 0x0f == 0), "BIND refused the update: {answer:?}");
    Ok(())
}

/// Asks without pause until the new answer is there; tells when, and the longest pause.
fn watch(
    probe: &Probe,
    question: Question,
    wanted: Ipv4Addr,
    begun: &AtomicBool,
) -> anyhow::Result<(Instant, Duration)> {
    let (mut last, mut gap) = (Instant::now(), Duration::ZERO);
    let until = last + PATIENCE;
    loop {
        let address = probe.ask(question)?;
        let now = Instant::now();
        gap = gap.max(now - last);
        last = now;
        begun.store(true, Ordering::Release);
        if address == wanted {
            return Ok((now, gap));
        }
        ensure!(now < until, "the change was not seen within {PATIENCE:?}");
    }
}
