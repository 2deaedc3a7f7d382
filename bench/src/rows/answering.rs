//! Rows 1 and 2: what one answer costs, saturated and at a steady rate.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::RunArguments;
use crate::data::{Mix, questions};
use crate::load::{Cost, Load, median};
use crate::peer::{Peer, Running};

use super::print_row;

const NAMES: u32 = 10_000;
const QUESTIONS: u32 = 200_000;
const STEADY: u32 = 10_000;

pub(crate) fn saturated(arguments: &RunArguments) -> anyhow::Result<()> {
    println!("Row 1: processor time per answer, {NAMES} names, 5 % NXDOMAIN, EDNS, saturated");
    compare(arguments, None)
}

pub(crate) fn steady(arguments: &RunArguments) -> anyhow::Result<()> {
    println!("Row 2: the same at {STEADY} questions a second");
    compare(arguments, Some(STEADY))
}

/// System calls for each question, as strace counts them. Timing under it means nothing.
fn system_calls(server: &Running, load: &Load<'_>) -> anyhow::Result<f64> {
    let file = server.directory.join("strace");
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "-q", "-U", "calls,name", "-p", &server.group().to_string(), "-o"])
        .arg(&file)
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run strace")?;
    let loaded = load.on(server);
    // On this signal it lets go of the server and writes what it counted.
    Command::new("kill").args(["-INT", &strace.id().to_string()]).status()?;
    strace.wait()?;
    let asked = loaded?.answered;
    let text = std::fs::read_to_string(&file)?;
    let total = text.lines().find(|l| l.trim_end().ends_with("total"));
    let total =
        total.and_then(|l| l.split_whitespace().next()).context("strace counted nothing")?;
    Ok(total.parse::<f64>()? / asked)
}

fn compare(arguments: &RunArguments, rate: Option<u32>) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("questions");
    std::fs::write(&file, questions(NAMES, Mix::Usual, QUESTIONS))?;
    let peers = [Peer::Floor, Peer::Nett, Peer::Gdnsd, Peer::Nsd, Peer::Knot];
    let mut servers = Vec::new();
    for peer in peers {
        servers.push(peer.start(directory.path(), NAMES)?);
    }
    let load = Load { questions: &file, seconds: arguments.seconds, rate, signed: false };
    let mut costs: BTreeMap<Peer, Vec<Cost>> = BTreeMap::new();
    for _ in 0..arguments.rounds {
        for server in &servers {
            costs.entry(server.peer).or_default().push(load.on(server)?);
        }
    }
    if let Some(nett) = servers.iter().find(|s| s.peer == Peer::Nett) {
        let calls = system_calls(nett, &Load { seconds: 2, rate: Some(STEADY / 2), ..load })?;
        println!("  Nett makes {calls:.2} system calls for each answer (strace)");
    }
    let of = |peer: &Peer| {
        let all = &costs[peer];
        let per_question: Vec<f64> = all.iter().map(|c| c.per_question).collect();
        let per_second: Vec<f64> = all.iter().map(|c| c.per_second).collect();
        (median(&per_question), median(&per_second))
    };
    let (knot, _) = of(&Peer::Knot);
    for peer in &peers {
        let (cost, rate) = of(peer);
        let text = format!("{cost:.2} us, {rate:.0}/s ({})", peer.version()?);
        print_row(peer, &text, cost / knot);
    }
    let (nett, _) = of(&Peer::Nett);
    println!(
        "  Nett / gdnsd {:.3}, Nett / NSD {:.3}",
        nett / of(&Peer::Gdnsd).0,
        nett / of(&Peer::Nsd).0
    );
    Ok(())
}
