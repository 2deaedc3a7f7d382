//! `nett-agent purge` removes what is ours, all of it, and nothing else.

use std::collections::BTreeMap;

use anyhow::Result;
use nett_netns_tests::files::Node;
use nett_netns_tests::lab::agent_name;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::story::{TASK, tell_from_wires};

/// Somebody else's objects, which look a little like ours.
const FOREIGN: [&str; 4] = [
    "rule add pref 4999 fwmark 0x4000/0x4000 lookup 99",
    "route add unreachable 10.99.5.0/24 table 99 proto static",
    "nexthop add id 77 dev core",
    "route add 10.77.0.0/24 nhid 77",
];

#[test]
fn a_purged_node_looks_as_before_the_agent_with_foreign_objects_in_place() -> Result<()> {
    let story = "a_purged_node_looks_as_before_the_agent_with_foreign_objects_in_place";
    tell_from_wires(story, |lab| {
        let border = lab.ns("osl-b1")?;
        for line in FOREIGN {
            border.ip(line)?;
        }
        border.nft("add table inet other\nadd counter inet other theirs")?;
        let mut before = BTreeMap::new();
        for node in Node::all() {
            before.insert(node.name.clone(), Kernel::of(&lab.ns(&node.name)?)?);
        }
        lab.start_nett()?;
        for node in Node::all() {
            let ns = lab.ns(&node.name)?;
            let ruled = before[&node.name].changes(&Kernel::of(&ns)?);
            assert!(ruled.len() > 20, "{}: the agent made nothing", node.name);
            lab.take_process(&agent_name(&node.name))?.stop(TASK)?;
            let agent = lab.programs().agent.display().to_string();
            let config = lab.layout().agent_config(&node.name);
            let config = config.display().to_string();
            ns.output(&agent, &["purge", "--config", &config])?;
            let left = before[&node.name].changes(&Kernel::of(&ns)?);
            assert_eq!(left, Vec::<String>::new(), "{}", node.name);
        }
        Ok(())
    })
}
