//! Stopping, killing and starting agents changes nothing in the kernel and loses no packet.

use anyhow::{Result, ensure};
use nett_netns_tests::eventually::eventually;
use nett_netns_tests::files::Node;
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::observe::{kernel::Kernel, monitor::Monitor};
use nett_netns_tests::services::{API, VAULT};
use nett_netns_tests::story::{TASK, Traffic, tell};

/// Restarts every agent by `end` and asserts that no kernel noticed.
fn restart(lab: &mut Lab, end: impl Fn(&mut Lab, &str) -> Result<()>) -> Result<()> {
    let local = Traffic::to_vips(lab, &["osl-c1"], API)?;
    let remote = Traffic::to_vips(lab, &["osl-c1"], VAULT)?;
    for node in Node::all() {
        let ns = lab.ns(&node.name)?;
        let before = Kernel::of(&ns)?;
        let log = lab.layout().log(&format!("monitor-{}", node.name));
        let monitor = Monitor::start(&ns, log)?;
        end(lab, &node.name)?;
        lab.start_agent(&node.name)?;
        lab.wait_for_agent(&node.name)?;
        assert_eq!(monitor.finish()?, Vec::<String>::new(), "{}", node.name);
        let changes = before.changes(&Kernel::of(&ns)?);
        assert_eq!(changes, Vec::<String>::new(), "{}", node.name);
    }
    for report in [local.finish(), remote.finish()] {
        assert_eq!(report.lost(), 0, "{}", report.summary());
    }
    Ok(())
}

#[test]
fn a_clean_restart_of_every_agent_is_silent() -> Result<()> {
    tell("a_clean_restart_of_every_agent_is_silent", |lab| {
        restart(lab, |lab, node| lab.take_process(&agent_name(node))?.stop(TASK))
    })
}

#[test]
fn a_kill_of_every_agent_is_silent() -> Result<()> {
    tell("a_kill_of_every_agent_is_silent", |lab| {
        restart(lab, |lab, node| {
            lab.take_process(&agent_name(node))?.kill();
            Ok(())
        })
    })
}

/// Somebody else's chain in the table makes the agent load it anew, as another release does.
#[test]
fn a_table_that_is_replaced_loses_no_packet() -> Result<()> {
    tell("a_table_that_is_replaced_loses_no_packet", |lab| {
        let local = Traffic::to_vips(lab, &["osl-c1"], API)?;
        let remote = Traffic::to_vips(lab, &["osl-c1"], VAULT)?;
        for node in Node::all().iter().cycle().take(20) {
            let ns = lab.ns(&node.name)?;
            lab.take_process(&agent_name(&node.name))?.stop(TASK)?;
            ns.nft("add chain inet nett of_another")?;
            lab.start_agent(&node.name)?;
            lab.wait_for_agent(&node.name)?;
            eventually(TASK, "the table is loaded anew", || {
                let tables = ns.output("nft", &["list", "ruleset"])?;
                let is_old = tables.contains("of_another") || tables.contains("nett_next");
                ensure!(!is_old, "{}: {tables}", node.name);
                Ok(())
            })?;
        }
        for report in [local.finish(), remote.finish()] {
            assert_eq!(report.lost(), 0, "{}", report.summary());
        }
        Ok(())
    })
}
