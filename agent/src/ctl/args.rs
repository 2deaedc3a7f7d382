//! The command line as clap reads it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser};

use super::cmd::Command;
use super::duration::duration;
use super::render::Format;
use super::{env, later};

/// Moves traffic between sites, on purpose and on record.
#[derive(Debug, Parser)]
#[command(
    name = "nettctl",
    version,
    arg_required_else_help = true,
    after_help = EXITS
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXITS: &str = "\
Exit status: 0 done; 1 the task failed; 2 usage or configuration; 3 cannot reach an agent or
site; 4 refused by a rule (named); 5 waits for approval; 6 timed out; 7 the state changed since
the plan.";

/// How to reach an agent, who asks, and how to show the answer.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Everywhere")]
pub(super) struct Global {
    /// Socket of the agent on this machine
    #[arg(long, global = true, value_name = "PATH", env = env::SOCKET, hide_env_values = true)]
    #[arg(default_value = "/run/nett/agent.sock")]
    pub(super) socket: PathBuf,
    /// Ask over NATS instead of the socket; needs --site
    #[arg(long, global = true, value_name = "URL", env = env::NATS, hide_env_values = true)]
    pub(super) nats: Option<String>,
    /// The site to ask, and to look at
    #[arg(long, global = true, value_name = "SITE", env = env::SITE, hide_env_values = true)]
    pub(super) site: Option<String>,
    /// Certificate authority of the nats-servers (PEM)
    #[arg(long, global = true, value_name = "FILE", env = env::TLS_CA, hide_env_values = true)]
    pub(super) tls_ca: Option<PathBuf>,
    /// Own certificate for NATS (PEM)
    #[arg(long, global = true, value_name = "FILE", env = env::TLS_CERT, hide_env_values = true)]
    pub(super) tls_cert: Option<PathBuf>,
    /// Key of that certificate (PEM)
    #[arg(long, global = true, value_name = "FILE", env = env::TLS_KEY, hide_env_values = true)]
    pub(super) tls_key: Option<PathBuf>,
    /// The operator's nkey seed: signs commands, logs in to NATS
    #[arg(long, global = true, value_name = "FILE", env = env::KEY, hide_env_values = true)]
    pub(super) key: Option<PathBuf>,
    /// The operator's name; found by the key when not given
    #[arg(long, global = true, value_name = "NAME", env = env::OPERATOR, hide_env_values = true)]
    pub(super) operator: Option<String>,
    /// How to show the answer
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    #[arg(default_value = "table")]
    pub(super) output: Format,
    /// Longest wait for an answer [default: 10s], or with --wait for the task's end [default: 30m]
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
}

/// What every command takes that is signed.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Every change")]
pub(super) struct Signing {
    /// Why, for the record (required)
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
    /// Send without asking; required where there is no terminal to ask on
    #[arg(short, long)]
    pub(super) yes: bool,
    /// Follow the task to its end
    #[arg(long)]
    pub(super) wait: bool,
    /// Until when the site may accept it, from now [default: 60s; approve and reject: 15m]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) expires: Option<Duration>,
    /// Do nothing (exit 7) if the plan has another hash
    #[arg(long, value_name = "HASH")]
    pub(super) plan_hash: Option<String>,
}

/// What every verb takes.
#[derive(Debug, Clone, Args)]
pub(super) struct Change {
    #[command(flatten)]
    pub(super) signing: Signing,
    /// Pass over a safety rule, by name; may be repeated
    #[arg(long = "override", value_name = "RULE", help_heading = "Every change")]
    pub(super) overrides: Vec<String>,
    /// Named in the interface; not in this release.
    #[arg(long, value_name = "DURATION", hide = true)]
    pub(super) confirm_within: Option<String>,
}

/// The parser, with the names that are not in this release.
pub(super) fn command() -> clap::Command {
    later::add(Cli::command())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_parser_is_consistent() {
        super::command().debug_assert();
    }
}
