//! An agent that is stopped for half a minute, and goes on, takes nothing away and does nothing in
//! haste; and one without root does all that one with it does.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::files::Node;
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::observe::monitor::Monitor;
use nett_netns_tests::process::Spec;
use nett_netns_tests::services::{API, VAULT, WEB};
use nett_netns_tests::story::{Operator, Traffic, tell, tell_from_wires};
use nix::sys::signal::Signal;

#[test]
fn half_a_minute_without_agents_loses_no_packet_and_changes_nothing() -> Result<()> {
    tell("half_a_minute_without_agents_loses_no_packet_and_changes_nothing", |lab| {
        let nodes: Vec<String> = Node::all().into_iter().map(|n| n.name).collect();
        let traffic = [
            Traffic::to_vips(lab, &["osl-c1", "outside"], VAULT)?,
            Traffic::to_vips(lab, &["osl-c1"], WEB)?,
        ];
        let mut monitors = Vec::new();
        for node in &nodes {
            let log = lab.layout().log(&format!("changes-{node}"));
            monitors.push(Monitor::start(&lab.ns(node)?, log)?);
        }
        let signal = |lab: &mut Lab, signal| {
            nodes.iter().try_for_each(|node| lab.process(&agent_name(node))?.signal(signal))
        };
        signal(lab, Signal::SIGSTOP)?;
        traffic[0].run_for(30_000)?;
        signal(lab, Signal::SIGCONT)?;
        traffic[0].run_for(3000)?;
        for each in traffic {
            let report = each.finish();
            assert_eq!(report.lost(), 0, "{}", report.summary());
            ensure!(report.sent() > 30_000, "{}", report.summary());
        }
        for (monitor, node) in monitors.into_iter().zip(&nodes) {
            let changes = monitor.finish()?;
            // Neighbours age by themselves.
            let ours: Vec<&String> = changes.iter().filter(|l| l.contains("proto 217")).collect();
            assert!(ours.is_empty(), "{node}: {ours:?}");
        }
        // And they are awake.
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        mira.complete(&["failover", API.id, "--to", "svg"]).map(drop)
    })
}

/// The capabilities of the unit file, and nobody's user.
#[test]
fn three_capabilities_are_enough() -> Result<()> {
    tell_from_wires("three_capabilities_are_enough", |lab| {
        lab.start_nett()?;
        let node = "osl-b1";
        let before = Kernel::of(&lab.ns(node)?)?;
        lab.take_process(&agent_name(node))?.stop(Duration::from_secs(10))?;
        let unit = "packaging/systemd/nett-agent.service";
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a root")?;
        let unit = fs::read_to_string(root.join(unit))?;
        let line = unit.lines().find_map(|l| l.strip_prefix("CapabilityBoundingSet="));
        let names = line.context("the unit bounds capabilities")?;
        let caps: Vec<String> = names
            .split_whitespace()
            .map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()))
            .collect();
        assert_eq!(caps.len(), 3, "{names}");
        let caps = caps.join(",");
        // Nobody reads what root wrote: the lab's files become its own.
        let nobody = "65534";
        let lab_dir = lab.layout().root.display().to_string();
        lab.ns(node)?.output("chown", &["-R", nobody, &lab_dir])?;
        let spec = Spec {
            name: agent_name(node),
            program: "setpriv".into(),
            args: [
                &format!("--reuid={nobody}"),
                &format!("--regid={nobody}"),
                "--clear-groups",
                "--no-new-privs",
                &format!("--bounding-set=-all,{caps}"),
                &format!("--inh-caps=-all,{caps}"),
                &format!("--ambient-caps=-all,{caps}"),
                &lab.programs().agent.display().to_string(),
                "run",
                "--config",
                &lab.layout().agent_config(node).display().to_string(),
            ]
            .map(str::to_owned)
            .to_vec(),
            env: Vec::new(),
            log: lab.layout().log("agent-nobody"),
        };
        lab.start_process(node, spec)?;
        lab.wait_for_agent(node)?;
        let pid = lab.process(&agent_name(node))?.record().pid;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let uid = status.lines().find(|l| l.starts_with("Uid:")).context("a user")?;
        ensure!(uid.split_whitespace().skip(1).all(|id| id == nobody), "{uid}");
        assert_eq!(before.changes(&Kernel::of(&lab.ns(node)?)?), Vec::<String>::new());

        let ns = lab.ns(node)?;
        ns.ip("route del 10.99.0.50 table 7000")?;
        eventually(patience(), "it repairs", || {
            let left = before.changes(&Kernel::of(&ns)?);
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })?;
        let mira = Operator { lab, node: "svg-b1", name: "mira" };
        mira.complete(&["failover", API.id, "--to", "svg"]).map(drop)
    })
}
