//! The daemon: arguments, and an exit status for what became of them.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nett_agent::daemon;

/// A large change is many small pieces of memory: with this one it takes a third of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Moves traffic between datacenters on purpose: the agent of one border or route node.
#[derive(Debug, Parser)]
#[command(name = "nett-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent. SIGTERM ends it and leaves forwarding as it is; SIGHUP reads the files again.
    Run(WithConfig),
    /// Check the configuration files and nothing else.
    Check(WithConfig),
    /// Look at the host: privileges, interfaces, sysctls, objects of others in our place.
    Preflight(WithConfig),
    /// Remove from the kernel what is Nett's, and nothing else.
    Purge(WithConfig),
    /// Make a key pair: writes the seed to a new file, prints the public key.
    Keygen {
        /// The file to write; it must not exist.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Serve the steering zone from the files alone.
    Dns(daemon::DnsArguments),
}

#[derive(Debug, clap::Args)]
struct WithConfig {
    /// The agent's file.
    #[arg(long, value_name = "FILE", default_value = "/etc/nett/agent.toml")]
    config: PathBuf,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(with) => daemon::run(&with.config),
        Command::Check(with) => daemon::check(&with.config),
        Command::Preflight(with) => daemon::preflight(&with.config),
        Command::Purge(with) => daemon::purge(&with.config),
        Command::Keygen { out } => daemon::keygen(&out),
        Command::Dns(arguments) => daemon::dns(&arguments),
    }
}
