//! The demo.
use std::io::Write;
use std::path::Path;
pub fn run(_prefix: &str, _dir: &Path, _out: &mut dyn Write) -> anyhow::Result<()> {
    Ok(())
}
