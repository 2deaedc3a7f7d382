//! `nett-agent check`: everything except touching the host.

use std::io::{self, Write};
use std::path::Path;

use super::{EXIT_CONFIG, load};

/// Writes every diagnostic, or one line that says what the files describe, and returns the exit
/// status: 0 or [`EXIT_CONFIG`]. Notes refuse nothing.
///
/// # Errors
/// `out` cannot be written to.
pub fn check(path: &Path, out: &mut dyn Write) -> io::Result<u8> {
    let loaded = match load(path) {
        Ok(loaded) => loaded,
        Err(refused) => {
            for diagnostic in &refused.diagnostics {
                writeln!(out, "{diagnostic}")?;
            }
            let count = refused.diagnostics.len();
            let s = if count == 1 { "" } else { "s" };
            writeln!(out, "{}: {count} mistake{s}", path.display())?;
            return Ok(EXIT_CONFIG);
        }
    };
    for note in &loaded.notes {
        writeln!(out, "{note}")?;
    }
    let fabric = &loaded.fabric;
    writeln!(
        out,
        "{}: valid: node {}, fabric {} generation {} ({} sites, {} nodes, {} links), {} services",
        path.display(),
        loaded.config.node,
        fabric.name,
        fabric.generation,
        fabric.sites.len(),
        fabric.nodes.len(),
        fabric.links.len(),
        loaded.catalog.len()
    )?;
    Ok(0)
}
