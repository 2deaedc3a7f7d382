//! What a server and all its children and threads have used of the processor.
//!
//! The scheduler's own count in nanoseconds (`schedstat`), not the ticks of `stat`: at a load of a
//! few percent ticks see nothing.

use std::time::Duration;

use anyhow::Context as _;

/// The time on a processor of all threads of the process group.
pub(crate) fn of_group(group: u32) -> anyhow::Result<Duration> {
    let mut total = 0;
    for entry in std::fs::read_dir("/proc").context("cannot read /proc")? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.bytes().all(|b| b.is_ascii_digit()) && group_of(name) == Some(group) {
            total += of_process(name);
        }
    }
    Ok(Duration::from_nanos(total))
}

/// The fifth field of `stat`; the second one, the command, may have any bytes in parentheses.
fn group_of(pid: &str) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(2)?.parse().ok()
}

/// Threads that ended in the meantime have none.
fn of_process(pid: &str) -> u64 {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let used = threads.flatten().filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    used.sum()
}

/// The resident memory of one process, in bytes.
pub(crate) fn memory(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}
