//! A site without its nats-server: an operator at a node's own socket moves a service on that node
//! alone. When the server is back the command is one of the log, or it is refused and undone.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use nett_netns_tests::bus;
use nett_netns_tests::eventually::{eventually, eventually_true};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::services::{API, PAY, WEB};
use nett_netns_tests::story::{Operator, tell};
use nett_netns_tests::topology::{SITES, Site};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

fn kernels(lab: &Lab) -> Result<BTreeMap<String, Kernel>> {
    let one = |node: nett_netns_tests::files::Node| {
        let kernel = Kernel::of(&lab.ns(&node.name)?)?;
        Ok((node.name, kernel))
    };
    lab.nodes().into_iter().map(one).collect()
}

/// The nodes whose kernel is another one now.
fn changed(lab: &Lab, before: &BTreeMap<String, Kernel>) -> Result<Vec<String>> {
    let after = kernels(lab)?;
    let differs = |name: &&String| !before[*name].changes(&after[*name]).is_empty();
    Ok(before.keys().filter(differs).cloned().collect())
}

/// What a node says of commands that it took for itself.
fn local(lab: &Lab, node: &str) -> Result<Vec<Value>> {
    let told = lab.nettctl(node, "mira", &["-o", "json", "status"])?.must_be(0)?;
    Ok(told.json()?["ok"]["local"].as_array().cloned().unwrap_or_default())
}

fn stop_server(lab: &mut Lab, site: Site) -> Result<()> {
    lab.take_process(&bus::process_name(site))?.stop(PATIENCE)?;
    for node in lab.nodes().into_iter().filter(|node| node.site.id == site.id) {
        eventually_true(PATIENCE, "the agent notices", || {
            let told =
                lab.nettctl(&node.name, "mira", &["-o", "json", "node", "show", &node.name])?;
            Ok(told.json()?["ok"]["nodes"][0]["bus_connected"] == false)
        })?;
    }
    Ok(())
}

fn start_server(lab: &mut Lab, site: Site) -> Result<()> {
    let config = lab.layout().host(&site.bus_host()).join("nats.conf");
    bus::start(lab, site, &config)
}

#[test]
fn a_command_without_nats_is_for_one_node_and_joins_the_log_later() -> Result<()> {
    tell("a_command_without_nats_is_for_one_node_and_joins_the_log_later", |lab| {
        let [osl, _] = SITES;
        stop_server(lab, osl)?;
        let before = kernels(lab)?;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        // Nobody here knows that svg would take it.
        let there = ["failover", API.id, "--to", "svg"];
        let refused = mira.order(&there)?.must_be(4)?;
        ensure!(refused.json()?["refused_by"] == "unheard-target", "{}", refused.out);
        let over = ["--override", "unheard-target"];
        let taken = mira.order(&[&there[..], &over[..]].concat())?.must_be(0)?.json()?;
        ensure!(taken["state"] == "local", "{taken}");
        let task = taken["task"].as_str().unwrap_or_default().to_owned();
        let (moved, _) = eventually(PATIENCE, "osl-b1 sends it to svg", || {
            let moved = changed(lab, &before)?;
            ensure!(!moved.is_empty(), "no kernel has changed");
            Ok(moved)
        })?;
        assert_eq!(moved, ["osl-b1"], "this node only");
        let listed = mira.run(&["status"])?.must_be(0)?.out;
        assert!(listed.contains(&format!("LOCAL: {task}: failover")), "{listed}");
        assert!(local(lab, "osl-r1")?.is_empty() && local(lab, "svg-b1")?.is_empty());

        // The agent that took it dies; what it took does not.
        lab.take_process("agent-osl-b1")?.kill();
        lab.start_agent("osl-b1")?;
        lab.wait_for_agent("osl-b1")?;
        assert_eq!(local(lab, "osl-b1")?[0]["task"], *task);
        assert_eq!(changed(lab, &before)?, ["osl-b1"]);

        start_server(lab, osl)?;
        for node in ["osl-b1", "svg-b1"] {
            let jon = Operator { lab, node, name: "jon" };
            eventually(PATIENCE, "the task is in the log", || jon.state_of(&task))?;
            jon.wait_for(&task, "done")?;
        }
        eventually_true(PATIENCE, "the log has taken over", || {
            let said = local(lab, "osl-b1")?;
            Ok(said.len() == 1 && said[0]["state"] == "its task in the log has taken over")
        })?;
        eventually_true(PATIENCE, "every node has moved it", || {
            Ok(changed(lab, &before)?.len() == lab.nodes().len())
        })?;
        Ok(())
    })
}

#[test]
fn a_command_that_was_overtaken_is_refused_and_undone() -> Result<()> {
    tell("a_command_that_was_overtaken_is_refused_and_undone", |lab| {
        let [osl, _] = SITES;
        stop_server(lab, osl)?;
        let before = kernels(lab)?;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        // Where break comes before make one node's word opens nothing, and an approval is missing.
        let pay = mira.order(&["failover", PAY.id, "--to", "svg"])?.must_be(4)?;
        ensure!(pay.json()?["refused_by"] == "bus-away", "{}", pay.out);
        let hold = mira.order(&["hold", API.id])?.must_be(4)?;
        ensure!(hold.json()?["refused_by"] == "bus-away", "{}", hold.out);
        let there = ["failover", WEB.id, "--to", "svg", "--override", "unheard-target"];
        let taken = mira.order(&there)?.must_be(0)?.json()?;
        let task = taken["task"].as_str().unwrap_or_default().to_owned();
        eventually_true(PATIENCE, "osl-b1 has moved it", || {
            Ok(changed(lab, &before)? == ["osl-b1"])
        })?;

        // Meanwhile svg, whose own server runs, decides about the same service.
        let jon = Operator { lab, node: "svg-b1", name: "jon" };
        let steered = ["steer", WEB.id, "--to", "osl=3,svg=1", "--fencing", "asserted"];
        let theirs =
            jon.order(&[&steered[..], &["--off", "osl-b1", "--off", "osl-r1"]].concat())?;
        let theirs = theirs.must_be(0)?.json()?["task"].as_str().unwrap_or_default().to_owned();
        eventually_true(PATIENCE, "it is effective", || {
            Ok(jon.state_of(&theirs)? != "waiting-approval")
        })?;

        start_server(lab, osl)?;
        let (said, _) = eventually(PATIENCE, "it is refused and undone", || {
            let said = local(lab, "osl-b1")?;
            let state = said.first().and_then(|one| one["state"].as_str()).unwrap_or_default();
            ensure!(state.starts_with("refused by"), "{said:?}");
            Ok(said[0].clone())
        })?;
        assert_eq!(said["task"], *task);
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        let audit = mira.run(&["audit", "--limit", "200"])?.must_be(0)?.out;
        assert!(audit.contains("refused by"), "{audit}");
        Ok(())
    })
}
