//! `make bench`: Nett beside its peers, as ratios of medians taken in one run.
//!
//! The rows are those of `docs/PERFORMANCE.md`. Every server is a process of its own, pinned to one
//! processor while the load comes from another; rounds of all servers are interleaved, so that a
//! machine that slows down slows all of them. Absolute numbers hold for one machine only.
//!
//! Nothing is kept: servers live in a temporary directory and end with this process. After a crash
//! of it, `nett-bench` and the peers may be left running; their directory is below `/tmp`.
#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

mod cpu;
mod data;
mod load;
mod peer;
mod probe;
mod rows;
mod subject;

use std::net::SocketAddr;

use clap::{Parser, Subcommand};

/// The one of the agent.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Run the benchmarks and print their rows.
    Run(RunArguments),
    /// Nett's name server over a generated zone: what the rows measure.
    #[command(hide = true)]
    NameServer {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        names: u32,
        /// Directory of the one key that signs the zone.
        #[arg(long)]
        keys: Option<std::path::PathBuf>,
    },
    /// Returns every datagram to its sender: the floor of any name server.
    #[command(hide = true)]
    Floor {
        #[arg(long)]
        listen: SocketAddr,
    },
}

/// What to run, and for how long.
#[derive(Debug, clap::Args)]
struct RunArguments {
    /// Only this row of docs/PERFORMANCE.md.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=6))]
    row: Option<u8>,
    /// Interleaved rounds; medians are taken over them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Seconds of load in each round and for each server.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Names of the large zone of row 3.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    many: u32,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().what {
        What::Run(arguments) => rows::run(&arguments),
        What::NameServer { listen, names, keys } => {
            subject::name_server(listen, names, keys.as_deref())
        }
        What::Floor { listen } => subject::floor(listen),
    }
}
