//! `ip monitor` running beside something that must be silent.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::eventually::eventually_true;
use crate::netns::Netns;
use crate::process::{Process, Spec};

/// Lines `ip monitor` prints about the object the monitor itself makes and removes as its mark.
const MARK: &str = "198.18.255.255";

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
        let args = ["monitor", "route", "rule", "nexthop", "link"];
        let spec = Spec {
            name: format!("monitor-{}", ns.name()),
            program: "ip".into(),
            args: args.map(str::to_owned).to_vec(),
            env: Vec::new(),
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
        let lines = text.lines().filter(|l| !l.contains(MARK) && !l.trim().is_empty());
        Ok(lines.map(str::to_owned).collect())
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
