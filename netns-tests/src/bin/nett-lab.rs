//! `nett-lab`: the lab behind `make lab` and `make demo`.
//!
//! Exit status: 0 done, 1 something failed or a claim of the demo did not hold, 2 usage.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::netns::missing_privilege;
use nett_netns_tests::topology::Shape;
use nett_netns_tests::{demo, map, services, state, traffic};
use nix::sys::signal::{SigSet, Signal};

#[derive(Parser)]
#[command(name = "nett-lab", about = "Sites in network namespaces, with Nett in them.")]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(clap::Args)]
struct Place {
    /// Directory of the lab: files, keys, logs, state.
    #[arg(long, default_value = ".lab")]
    dir: PathBuf,
    /// First part of the lab's namespace names; labs with different prefixes can coexist.
    #[arg(long, default_value = "nett")]
    prefix: String,
}

#[derive(Subcommand)]
enum Verb {
    /// Build the lab, start everything, print a line to source, and leave it running.
    Up {
        #[command(flatten)]
        place: Place,
        /// Namespaces, wires and echo servers only: no nats-server, no agent.
        #[arg(long)]
        wires_only: bool,
        /// How many sites: 2 or 3.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=3))]
        sites: u8,
        /// How many borders, and how many route nodes, at each site: 1, or 2 with two sites.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
        borders: u8,
    },
    /// Remove a lab, also one whose program died.
    Down {
        #[arg(long, default_value = ".lab")]
        dir: PathBuf,
    },
    /// Build the lab, tell the story with measured numbers, remove the lab.
    Demo {
        #[command(flatten)]
        place: Place,
    },
    /// Answer echo requests (started by the lab on its service hosts).
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        name: String,
        #[arg(long)]
        ready: PathBuf,
        #[arg(long, default_value_t = services::PORT)]
        port: u16,
        addresses: Vec<IpAddr>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // A closed standard error leaves only the exit status.
            let _ = writeln!(std::io::stderr(), "nett-lab: {problem:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    let mut out = std::io::stdout();
    match verb {
        Verb::Up { place, wires_only, sites, borders } => {
            require_privilege()?;
            remove_on_interrupt(&place.dir)?;
            let shape = Shape::of(sites, borders);
            let shape = shape.context("a lab has 2 or 3 sites; with --borders 2 it has 2")?;
            let mut lab = Lab::create(shape, &place.prefix, &place.dir)?;
            if !wires_only {
                lab.start_nett()?;
            }
            out.write_all(map::describe(&lab)?.as_bytes())?;
            lab.keep();
        }
        Verb::Down { dir } => {
            let removed = state::down(&dir)?;
            writeln!(
                out,
                "Removed {} processes and {} namespaces.",
                removed.processes, removed.namespaces
            )?;
        }
        Verb::Demo { place } => {
            require_privilege()?;
            remove_on_interrupt(&place.dir)?;
            demo::run(&place.prefix, &place.dir, &mut out)?;
        }
        Verb::Serve { name, ready, port, addresses } => {
            traffic::server::serve(&name, &addresses, port, &ready)?;
        }
    }
    Ok(())
}

fn require_privilege() -> Result<()> {
    match missing_privilege() {
        None => Ok(()),
        Some(why) => bail!("{why}"),
    }
}

/// SIGINT and SIGTERM remove the lab before the program ends. The signals are blocked in every
/// thread and taken by one; programs the lab starts begin with an empty mask.
fn remove_on_interrupt(dir: &Path) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGHUP);
    signals.thread_block().context("cannot block signals")?;
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            // What could not be removed is still in the state file, for `nett-lab down`.
            let _ = state::down_while_creating(&dir);
            std::process::exit(128 + signal as i32);
        }
    });
    Ok(())
}
