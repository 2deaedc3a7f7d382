//! The rows of `docs/PERFORMANCE.md`, one module for each group that shares its servers.

mod answering;
mod changing;
mod signing;
mod size;

use anyhow::ensure;

use crate::RunArguments;

pub(crate) fn run(arguments: &RunArguments) -> anyhow::Result<()> {
    let processors = std::thread::available_parallelism()?.get();
    ensure!(processors >= 2, "a server and a load generator need a processor each");
    let wanted = |row: u8| arguments.row.is_none_or(|only| only == row);
    if wanted(1) {
        answering::saturated(arguments)?;
    }
    if wanted(2) {
        answering::steady(arguments)?;
    }
    if wanted(3) {
        size::misses_and_many_names(arguments)?;
    }
    if wanted(4) {
        signing::signed_answers(arguments)?;
    }
    if wanted(5) {
        changing::one_name(arguments)?;
    }
    if wanted(6) {
        changing::many_names(arguments)?;
    }
    Ok(())
}

/// One line of results.
fn print_row(who: impl std::fmt::Display, text: &str, ratio: f64) {
    println!("  {who:<10} {text:<44} {ratio:>6.2} x");
}
