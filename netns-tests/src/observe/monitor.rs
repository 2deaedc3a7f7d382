//! `ip monitor` running beside something that must be silent.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::eventually::eventually_true;
use crate::netns::Netns;
use crate::process::{Process, Spec};

/// Lines `ip monitor` prints about the object the monitor itself makes and removes as its mark.
const MARK: &str = "198.18.255.255";

/// What `ip` says at its start of a name in `/run/netns` that is not mounted yet, or no more: a
/// namespace somebody else is making or removing at that moment.
const HALF_MADE: &str = "Error: Peer netns reference is invalid.";

/// Records every route, rule, nexthop and link event of a namespace.
#[derive(Debug)]
pub struct Monitor {
    ns: Netns,
    log: PathBuf,
    process: Process,
}

impl Monitor {
    /// Starts and returns once events are seen for certain.
    pub fn start(ns: &Netns, log: PathBuf) -> Result<Self> {
        Self::with(ns, log, &["monitor", "route", "rule", "nexthop", "link"])
    }

    /// Without links, one line per event, and each line with its time: see [`Self::finish_timed`].
    pub fn timed(ns: &Netns, log: PathBuf) -> Result<Self> {
        Self::with(ns, log, &["-o", "-ts", "monitor", "route", "rule", "nexthop"])
    }

    /// As [`Self::timed`], links as well.
    pub fn timed_with_links(ns: &Netns, log: PathBuf) -> Result<Self> {
        Self::with(ns, log, &["-o", "-ts", "monitor", "route", "rule", "nexthop", "link"])
    }

    fn with(ns: &Netns, log: PathBuf, args: &[&str]) -> Result<Self> {
        let spec = Spec {
            name: format!("monitor-{}", ns.name()),
            program: "ip".into(),
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            // `-ts` speaks local time.
            env: vec![("TZ".into(), "UTC".into())],
            log: log.clone(),
        };
        let monitor = Self { ns: ns.clone(), log, process: Process::start(ns, spec)? };
        monitor.mark(1)?;
        Ok(monitor)
    }

    /// Ends the recording and returns the events between start and now.
    pub fn finish(self) -> Result<Vec<String>> {
        let seen = self.marks()?;
        self.mark(seen + 1)?;
        let text = self.text()?;
        self.process.kill();
        Ok(events(&text))
    }

    /// As [`Self::finish`] for a [`Self::timed`] one: nanoseconds since the Unix epoch, and the
    /// event. The time is when `ip` read the event, so never before the kernel's change.
    pub fn finish_timed(self) -> Result<Vec<(u64, String)>> {
        let timed = |line: String| {
            let (time, event) = line
                .strip_prefix('[')
                .and_then(|l| l.split_once("] "))
                .with_context(|| format!("no time: {line}"))?;
            Ok((moment(time)?, event.to_owned()))
        };
        self.finish()?.into_iter().map(timed).collect()
    }

    /// Makes and removes a route nobody uses until the log shows `at_least` of its lines: events
    /// come in order, so everything older is in the log too.
    fn mark(&self, at_least: usize) -> Result<()> {
        let route = format!("{MARK}/32 table 99");
        eventually_true(Duration::from_secs(5), "ip monitor sees events", || {
            self.ns.ip(&format!("route replace unreachable {route}"))?;
            self.ns.ip(&format!("route del unreachable {route}"))?;
            Ok(self.marks()? >= at_least)
        })
        .map(drop)
    }

    fn marks(&self) -> Result<usize> {
        Ok(self.text()?.lines().filter(|l| l.contains(MARK)).count())
    }

    fn text(&self) -> Result<String> {
        std::fs::read_to_string(&self.log).context("cannot read the monitor's log")
    }
}

/// The lines of a log that are events.
fn events(log: &str) -> Vec<String> {
    let event = |l: &&str| !l.contains(MARK) && !l.trim().is_empty() && *l != HALF_MADE;
    log.lines().filter(event).map(str::to_owned).collect()
}

/// `2026-11-21T13:54:29.257406` (microseconds) or `...29.257Z`, in UTC, as nanoseconds since the
/// Unix epoch.
pub fn moment(text: &str) -> Result<u64> {
    let numbers: Result<Vec<i64>, _> =
        text.trim_end_matches('Z').split(['-', 'T', ':', '.']).map(str::parse).collect();
    let fraction = text.trim_end_matches('Z').rsplit_once('.').map_or("", |(_, f)| f);
    let [year, month, day, hour, minute, second, part] = numbers.unwrap_or_default()[..] else {
        bail!("not a time: {text}");
    };
    // Days since 1970 in the calendar of years that begin in March, so that the leap day is last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let seconds = ((days - 719_468) * 24 + hour) * 3600 + minute * 60 + second;
    let nanos = part * 10i64.pow(9u32.saturating_sub(u32::try_from(fraction.len())?));
    u64::try_from(seconds * 1_000_000_000 + nanos).context("before 1970")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_half_made_namespaces_of_others_are_no_events() {
        let log = format!(
            "{HALF_MADE}\n[..] unreachable {MARK} table 99\n\n4444: from all lookup 7003\n\
             Error: another\n"
        );
        assert_eq!(events(&log), ["4444: from all lookup 7003", "Error: another"]);
    }

    #[test]
    fn times_of_both_forms_are_nanoseconds_since_1970() {
        let known = 1_795_269_269_257_000_000;
        assert_eq!(moment("2026-11-21T13:54:29.257Z").expect("a time"), known);
        assert_eq!(moment("2026-11-21T13:54:29.257406").expect("a time"), known + 406_000);
        assert_eq!(moment("1970-01-01T00:00:00.001Z").expect("a time"), 1_000_000);
        assert!(moment("yesterday").is_err());
    }
}
