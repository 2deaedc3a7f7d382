//! Row 4: answers with signatures, from a signed zone.

use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::RunArguments;
use crate::data::{Mix, ZONE, questions};
use crate::load::{Load, median};
use crate::peer::Peer;

use super::print_row;

const NAMES: u32 = 10_000;
const QUESTIONS: u32 = 200_000;

pub(crate) fn signed_answers(arguments: &RunArguments) -> anyhow::Result<()> {
    println!("Row 4: the same as row 1 with DO, from a zone signed by one P-256 key, with NSEC");
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("questions");
    std::fs::write(&file, questions(NAMES, Mix::Usual, QUESTIONS))?;
    let keys = directory.path().join("keys");
    std::fs::create_dir(&keys)?;
    let mut command = Command::new("dnssec-keygen");
    command.args(["-q", "-a", "ECDSAP256SHA256", "-f", "KSK", "-K"]).arg(&keys).arg(ZONE);
    let made = command.output().context("cannot run dnssec-keygen")?;
    ensure!(made.status.success(), "dnssec-keygen failed");
    let peers = [Peer::Nett, Peer::Nsd, Peer::Knot];
    let mut servers = Vec::new();
    for peer in peers {
        servers.push(peer.start_signed(directory.path(), NAMES, &keys)?);
    }
    let load = Load { questions: &file, seconds: arguments.seconds, rate: None, signed: true };
    let mut costs = [const { Vec::new() }; 3];
    for _ in 0..arguments.rounds {
        for (costs, server) in costs.iter_mut().zip(&servers) {
            costs.push(load.on(server)?.per_question);
        }
    }
    let costs = costs.map(|all| median(&all));
    for (peer, cost) in peers.into_iter().zip(costs) {
        print_row(peer, &format!("{cost:.2} us ({})", peer.version()?), cost / costs[1]);
    }
    let signing = std::fs::read_to_string(servers[0].directory.join("stderr"))?;
    println!("  Nett before its first answer: {}", signing.trim());
    Ok(())
}
