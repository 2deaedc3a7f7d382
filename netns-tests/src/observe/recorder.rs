//! Everything that changes on a node while something is done: as the kernel reports it, and as
//! the agent asked for it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::calls::Calls;
use super::changes::{Change, Known};
use super::monitor::Monitor;
use crate::eventually::eventually_true;
use crate::lab::{Lab, agent_name};
use crate::netns::Netns;
use crate::process::{Process, Spec};

/// The table the recorder makes and removes as its mark.
const MARK: &str = "record_mark";

/// A recording of one node.
#[derive(Debug)]
pub struct Recorder {
    known: Known,
    routes: Monitor,
    nft: NftMonitor,
    calls: Calls,
}

/// What was recorded. Nothing is left out, whoever caused it.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Reported by the kernel: routes, rules and nexthops in their order, then nft.
    pub reported: Vec<Change>,
    /// Asked for by the agent, each thread's in order.
    pub asked: Vec<Change>,
}

// === impl Recorder ===

impl Recorder {
    /// Starts on a node whose agent runs, and returns once nothing is missed any more.
    pub fn start(lab: &mut Lab, node: &str) -> Result<Self> {
        let ns = lab.ns(node)?;
        let pid = lab.process(&agent_name(node))?.record().pid;
        // A recording begins with empty files.
        let prefix = format!("record-{node}-");
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in(&lab.layout().root)?.keep();
        let file = |kind: &str| dir.join(kind);
        let routes = Monitor::timed(&ns, file("routes"))?;
        let nft = NftMonitor::start(&ns, file("nft"))?;
        let known = Known::of(&ns)?;
        let calls = Calls::start(&ns, pid, file("calls"))?;
        Ok(Self { known, routes, nft, calls })
    }

    pub fn finish(self) -> Result<Record> {
        let Self { mut known, routes, nft, calls } = self;
        let mut reported = Vec::new();
        for (_, line) in routes.finish_timed()? {
            reported.push(known.hear(&line)?);
        }
        for line in nft.finish()? {
            reported.extend(known.hear_nft(&line));
        }
        Ok(Record { reported, asked: calls.finish()? })
    }
}

/// `nft monitor` of a namespace.
#[derive(Debug)]
struct NftMonitor {
    ns: Netns,
    log: PathBuf,
    process: Process,
}

// === impl NftMonitor ===

impl NftMonitor {
    fn start(ns: &Netns, log: PathBuf) -> Result<Self> {
        let spec = Spec {
            name: format!("nft-monitor-{}", ns.name()),
            program: "nft".into(),
            args: vec!["monitor".into()],
            env: Vec::new(),
            log: log.clone(),
        };
        let monitor = Self { ns: ns.clone(), log, process: Process::start(ns, spec)? };
        monitor.mark(1)?;
        Ok(monitor)
    }

    /// The lines between start and now, without the monitor's own.
    fn finish(self) -> Result<Vec<String>> {
        self.mark(self.marks()? + 1)?;
        let text = self.text()?;
        self.process.kill();
        let lines = text.lines().filter(|l| !l.contains(MARK) && !l.starts_with('#'));
        Ok(lines.map(str::to_owned).collect())
    }

    fn mark(&self, at_least: usize) -> Result<()> {
        eventually_true(Duration::from_secs(5), "nft monitor sees events", || {
            self.ns.nft(&format!("add table inet {MARK}\ndelete table inet {MARK}"))?;
            Ok(self.marks()? >= at_least)
        })
        .map(drop)
    }

    fn marks(&self) -> Result<usize> {
        Ok(self.text()?.lines().filter(|l| l.contains(MARK)).count())
    }

    fn text(&self) -> Result<String> {
        std::fs::read_to_string(&self.log).context("cannot read what nft monitor wrote")
    }
}
