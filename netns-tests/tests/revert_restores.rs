//! `nettctl revert` brings back what was: kernel objects, answers and the way of the packets. Two
//! nodes have `net.ipv4.nexthop_compat_mode = 1`, as kernels come: it is warned of, and nothing is
//! lost by it.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::files::Node;
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::{dig, kernel::Kernel};
use nett_netns_tests::services::API;
use nett_netns_tests::story::{Operator, Traffic, tell};

fn kernels(lab: &Lab) -> Result<BTreeMap<String, Kernel>> {
    let nodes = Node::all().into_iter();
    nodes.map(|n| Ok((n.name.clone(), Kernel::of(&lab.ns(&n.name)?)?))).collect()
}

/// A border and a route node, at different sites.
const COMPATIBLE: [&str; 2] = ["osl-b1", "svg-r1"];
const MODE: &str = "ipv4/nexthop_compat_mode";

/// What `preflight` says of the mode on a node.
fn said_of_the_mode(lab: &Lab, node: &str) -> Result<String> {
    let agent = lab.programs().agent.display().to_string();
    let config = lab.layout().agent_config(node).display().to_string();
    let told = lab.ns(node)?.try_output(&agent, &["preflight", "--config", &config])?;
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    Ok(text.lines().filter(|line| line.contains("nexthop_compat_mode")).collect())
}

#[test]
fn after_a_revert_every_node_has_the_kernel_state_it_had_before() -> Result<()> {
    let story = "after_a_revert_every_node_has_the_kernel_state_it_had_before";
    tell(story, |lab| {
        for node in COMPATIBLE {
            lab.ns(node)?.sysctl(&[(MODE, "1")])?;
            let said = said_of_the_mode(lab, node)?;
            ensure!(said.starts_with("warn"), "{node}: {said}");
        }
        let said = said_of_the_mode(lab, "osl-r1")?;
        ensure!(!said.contains("warn"), "osl-r1: {said}");
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        let client = lab.ns("osl-c1")?;
        let ask = || dig::dig(&client, "10.1.1.3".parse()?, &API.dns_name(), "AAAA");
        let traffic = Traffic::to_vips(lab, &["osl-c1", "svg-c1"], API)?;
        let (before, answer) = (kernels(lab)?, ask()?);
        let task = mira.complete(&["failover", API.id, "--to", "svg"])?;
        traffic.settles_on("svg")?;
        assert_ne!(before, kernels(lab)?, "the failover changed no kernel");
        assert_ne!(answer.data, ask()?.data);
        mira.complete(&["revert", &task])?;
        traffic.settles_on("osl")?;
        eventually(patience(), "every kernel is as before", || {
            for (node, kernel) in kernels(lab)? {
                let changes = before[&node].changes(&kernel);
                ensure!(changes.is_empty(), "{node}: {changes:#?}");
            }
            Ok(())
        })?;
        assert_eq!(answer.data, ask()?.data);
        let report = traffic.finish();
        assert_eq!(report.lost(), 0, "{}", report.summary());
        Ok(())
    })
}
