//! `nettctl`: asks an agent, signs what an operator wants, and shows what became of it.
//!
//! It holds no state and decides nothing: rules, plans and approvals are the agents'. One file per
//! subcommand in [`cmd`]; [`render`] alone prints; [`submit`] is the one way to change something.
//!
//! Crash story: a command is one signed message with an id of its own. A `nettctl` that dies
//! before it is sent has done nothing; one that dies after it leaves a task that goes on.

mod archive;
mod args;
mod cmd;
mod duration;
mod env;
mod exit;
mod follow;
mod key;
mod later;
mod provision;
mod render;
mod session;
mod sign;
mod submit;

use std::process::ExitCode;

use clap::FromArgMatches;

pub use exit::Exit;

use args::Cli;
use exit::CtlError;
use render::Out;
use session::Session;

/// The whole program, from the process's arguments to its exit status.
pub fn main() -> ExitCode {
    let matches = match args::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version are no errors; everything else is a mistake in the usage.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            let _ = error.print();
            return exit.into();
        }
    };
    let plain = Out::new(render::Format::Table);
    if let Some(name) = later::asked_for(&matches) {
        return plain.error(&CtlError::Later { name }).into();
    }
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return Exit::Usage.into();
        }
    };
    let out = Out::new(cli.global.output);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => return out.error(&CtlError::Runtime { source }).into(),
    };
    let mut session = Session::new(cli.global, out);
    let exit = match runtime.block_on(cmd::run(cli.command, &mut session)) {
        Ok(exit) => exit,
        Err(error) => session.out.error(&error),
    };
    exit.into()
}
