//! The command line as clap reads it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser};
use nett_policy::id::{NodeId, SiteId, WallMs};
use nett_policy::log::entry::Ramp;

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
    /// How to show the answer; json and yaml have a schema (nettctl schema)
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
    /// Undo the task unless it is confirmed within this time of its last step
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Every change")]
    pub(super) confirm_within: Option<Duration>,
    /// End the open tasks that stand in the way
    #[arg(long, help_heading = "Every change")]
    pub(super) supersede: bool,
    /// What is to be known of nodes that must acknowledge and are silent
    #[arg(long, value_enum, value_name = "HOW", help_heading = "Every change")]
    #[arg(default_value = "confirmed")]
    pub(super) fencing: Fencing,
    /// With --fencing asserted: say that this node is off; may be repeated [default: every node
    /// that is silent]
    #[arg(long = "off", value_name = "NODE", help_heading = "Every change")]
    pub(super) off: Vec<NodeId>,
    /// What only some verbs take along.
    #[arg(skip)]
    pub(super) more: More,
}

/// Terms that belong to one verb.
#[derive(Debug, Clone, Default)]
pub(super) struct More {
    pub(super) ramp: Option<Ramp>,
    pub(super) until: Option<WallMs>,
    pub(super) soft: bool,
    /// The sites that are said to be off, where no majority is asked for.
    pub(super) without: Option<BTreeSet<SiteId>>,
}

/// Whom a task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Fencing {
    /// Every node acknowledges
    Confirmed,
    /// Not in this release: the lease of the site has run out
    #[value(hide = true)]
    Lease,
    /// You say that the silent nodes are off: nobody waits for them
    Asserted,
}

/// The parser, with the names that are not in this release.
pub(super) fn command() -> clap::Command {
    later::add(Cli::command())
}

#[cfg(test)]
mod tests {
    const OPERATING: &str = include_str!("../../../docs/OPERATING.md");

    #[test]
    fn the_parser_is_consistent() {
        super::command().debug_assert();
    }

    /// The example lines of the operators' manual, as words.
    fn examples() -> Vec<Vec<String>> {
        let lines = OPERATING.lines().filter(|line| line.starts_with("nettctl "));
        lines.map(words).collect()
    }

    /// Words as a shell splits them, as far as the manual needs it: single quotes, no escapes.
    fn words(line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut quoted = false;
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                other => words.last_mut().expect("never empty").push(other),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn every_example_of_the_manual_is_a_command() {
        assert!(examples().len() > 30, "{}", examples().len());
        for words in examples() {
            let matches = super::command().try_get_matches_from(&words);
            let matches = matches.unwrap_or_else(|e| panic!("{words:?}: {e}"));
            assert_eq!(super::later::asked_for(&matches), None, "{words:?}");
        }
    }

    #[test]
    fn every_command_has_an_example_in_the_manual() {
        use clap::CommandFactory;
        let examples = examples();
        let shown = |path: &[&str]| examples.iter().any(|words| words[1..].starts_with_path(path));
        for command in super::Cli::command().get_subcommands() {
            let name = command.get_name();
            let mut below = command.get_subcommands().peekable();
            if below.peek().is_none() {
                assert!(shown(&[name]), "{name}");
            }
            for child in below {
                assert!(shown(&[name, child.get_name()]), "{name} {}", child.get_name());
            }
        }
    }

    trait StartsWith {
        fn starts_with_path(&self, path: &[&str]) -> bool;
    }

    impl StartsWith for [String] {
        fn starts_with_path(&self, path: &[&str]) -> bool {
            self.len() >= path.len() && self.iter().zip(path).all(|(a, b)| a == b)
        }
    }
}
