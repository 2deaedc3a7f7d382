//! Commands and options that are named in the interface and do nothing yet.
//!
//! They are known to the parser, so that a script gets a clear answer and exit status 2 instead of
//! a guess at a spelling mistake.

use clap::{Arg, ArgMatches, Command};

/// Whole commands.
const COMMANDS: [&str; 9] =
    ["top", "fabric", "member", "timeline", "support-bundle", "notify", "adopt", "drill", "man"];

/// Commands below one that exists.
const NESTED: [(&str, &[&str]); 1] = [("service", &["apply", "retire"])];

/// Options of commands that exist.
const OPTIONS: [(&str, &[&str]); 1] = [("failover", &["without-quorum"])];

/// Adds the names to the parser, out of the help's sight.
pub(super) fn add(mut command: Command) -> Command {
    for name in COMMANDS {
        command = command.subcommand(stub(name));
    }
    for (parent, names) in NESTED {
        command = command.mut_subcommand(parent, |mut parent| {
            for name in names {
                parent = parent.subcommand(stub(name));
            }
            parent
        });
    }
    for (parent, names) in OPTIONS {
        command = command.mut_subcommand(parent, |mut parent| {
            for name in names {
                parent = parent.arg(option(name));
            }
            parent
        });
    }
    command
}

/// The first name on the command line that is not in this release.
pub(super) fn asked_for(matches: &ArgMatches) -> Option<String> {
    let (name, below) = matches.subcommand()?;
    if COMMANDS.contains(&name) {
        return Some(name.to_owned());
    }
    let nested = NESTED.iter().find(|(parent, _)| *parent == name);
    if let (Some((_, names)), Some(child)) = (nested, below.subcommand_name())
        && names.contains(&child)
    {
        return Some(format!("{name} {child}"));
    }
    let (_, options) = OPTIONS.iter().find(|(parent, _)| *parent == name)?;
    let given = |option: &&&str| given(below, option);
    let found = options.iter().find(given)?;
    Some(format!("{name} --{found}"))
}

/// True where the option stands on the line, at the command or at one below it.
fn given(matches: &ArgMatches, option: &str) -> bool {
    let here = matches.try_contains_id(option).is_ok_and(|present| present);
    here || matches.subcommand().is_some_and(|(_, below)| given(below, option))
}

fn stub(name: &'static str) -> Command {
    Command::new(name)
        .hide(true)
        .disable_help_flag(true)
        .about("Not in this release")
        .arg(Arg::new("anything").num_args(0..).allow_hyphen_values(true).trailing_var_arg(true))
}

fn option(name: &'static str) -> Arg {
    Arg::new(name).long(name).hide(true).global(true).num_args(0..=1).value_name("VALUE")
}
