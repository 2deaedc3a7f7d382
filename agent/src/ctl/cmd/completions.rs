//! `nettctl completions`.

use clap_complete::Shell;

use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Args {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &Args, session: &Session) -> Result<Exit, CtlError> {
    // Without the names that are not in this release.
    let mut command = <crate::ctl::args::Cli as clap::CommandFactory>::command();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "nettctl", &mut script);
    session.out.raw(&script)?;
    Ok(Exit::Done)
}
