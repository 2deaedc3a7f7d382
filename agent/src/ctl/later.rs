//! Commands that are named in the interface and do nothing yet.
//!
//! They are known to the parser, so that a script gets a clear answer and exit status 2 instead of
//! a guess at a spelling mistake.

use clap::{Arg, ArgMatches, Command};

/// Whole commands.
const COMMANDS: [&str; 8] =
    ["top", "member", "timeline", "support-bundle", "notify", "adopt", "drill", "man"];

/// Commands below one that exists.
const NESTED: [(&str, &[&str]); 2] =
    [("service", &["apply", "retire"]), ("fabric", &["show", "apply"])];

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
    command
}

/// The first name on the command line that is not in this release.
pub(super) fn asked_for(matches: &ArgMatches) -> Option<String> {
    let (name, below) = matches.subcommand()?;
    if COMMANDS.contains(&name) {
        return Some(name.to_owned());
    }
    let (_, names) = NESTED.iter().find(|(parent, _)| *parent == name)?;
    let child = below.subcommand_name().filter(|child| names.contains(child))?;
    Some(format!("{name} {child}"))
}

fn stub(name: &'static str) -> Command {
    Command::new(name)
        .hide(true)
        .disable_help_flag(true)
        .about("Not in this release")
        .arg(Arg::new("anything").num_args(0..).allow_hyphen_values(true).trailing_var_arg(true))
}
