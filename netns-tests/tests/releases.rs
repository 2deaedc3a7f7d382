//! Neighbouring releases work together: one at each site, then one site upgraded under traffic and
//! the other taken back.
//!
//! `make releases REV=revision` builds the other release and names its directory in
//! `NETT_OTHER_RELEASE`. Without that both sites run the present one, which says that the story
//! itself is sound.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::eventually;
use nett_netns_tests::files::Node;
use nett_netns_tests::lab::{Lab, Programs, agent_name};
use nett_netns_tests::services::{API, PAY, VAULT};
use nett_netns_tests::story::{Operator, TASK, Traffic, reading, tell_from_wires};
use nett_netns_tests::topology::{SITES, Site};
use nett_netns_tests::traffic::now;

fn other_release() -> Result<Option<Programs>> {
    let dir = std::env::var_os("NETT_OTHER_RELEASE");
    dir.map(|dir| Programs::of_release(Path::new(&dir)).context("NETT_OTHER_RELEASE")).transpose()
}

/// What every node has to agree on, whatever else its release says: the tasks with their states,
/// the split decisions, and where each service is.
fn agreed(lab: &Lab) -> Result<()> {
    let said = |node: &str| -> Result<Vec<BTreeMap<String, String>>> {
        let keys = ["id", "command", "task", "state", "primary", "subject"];
        let lists = reading(lab, node)?.into_iter().flatten();
        let told = lists.map(|line| {
            let values = keys.iter().filter_map(|key| Some((*key, line.get(*key)?)));
            values.map(|(key, value)| (key.to_owned(), value.to_string())).collect()
        });
        Ok(told.collect())
    };
    eventually(TASK, "every node says the same", || {
        let expected = said("osl-b1")?;
        ensure!(expected.iter().all(|line| !line.is_empty()), "{expected:?}");
        for node in Node::all() {
            let found = said(&node.name)?;
            ensure!(found == expected, "{}: {found:#?}, and not {expected:#?}", node.name);
        }
        Ok(())
    })
    .map(drop)
}

/// Tasks that each site begins, approves, and takes back for the other.
fn work_together(lab: &Lab) -> Result<()> {
    let [mira, jon] =
        [("osl-b1", "mira"), ("svg-b1", "jon")].map(|(node, name)| Operator { lab, node, name });
    mira.complete(&["failover", API.id, "--to", "svg"])?;
    let back = jon.complete(&["failover", API.id, "--to", "osl"])?;
    agreed(lab)?;
    mira.complete(&["revert", &back])?;
    jon.complete(&["failover", API.id, "--to", "osl"])?;
    for to in ["svg", "osl"] {
        let shared = mira.propose(&["failover", PAY.id, "--to", to])?;
        jon.approve(&shared)?;
        jon.wait_for(&shared, "done")?;
    }
    agreed(lab)
}

/// Ends each agent of a site in its turn and starts it as the lab's release of that site.
fn replace(lab: &mut Lab, site: Site) -> Result<()> {
    for node in Node::of_site(site) {
        lab.take_process(&agent_name(&node.name))?.stop(TASK)?;
        lab.start_agent(&node.name)?;
        lab.wait_for_agent(&node.name)?;
    }
    for node in Node::all() {
        lab.wait_for_contact(&node.name)?;
    }
    Ok(())
}

#[test]
fn neighbouring_releases_share_tasks_and_an_upgrade_loses_no_packet() -> Result<()> {
    let story = "neighbouring_releases_share_tasks_and_an_upgrade_loses_no_packet";
    tell_from_wires(story, |lab| {
        let [osl, svg] = SITES;
        let other = other_release()?;
        lab.set_release(svg, other.clone());
        lab.start_nett()?;
        let own = Traffic::to_vips(lab, &["svg-c1"], API)?;
        let across = Traffic::to_vips(lab, &["osl-c1"], VAULT)?;
        let from = [own.settles_on("osl")?, across.settles_on("svg")?];
        work_together(lab).context("the other release at svg")?;

        // The upgrade ends, and another is taken back.
        lab.set_release(svg, None);
        replace(lab, svg)?;
        work_together(lab).context("one release")?;
        let upgraded = now();
        lab.set_release(osl, other);
        replace(lab, osl)?;
        work_together(lab).context("the other release at osl, with a journal of this one")?;

        // What another release does to the kernel when it starts is its own affair.
        let is_own = std::env::var_os("NETT_OTHER_RELEASE").is_none();
        let until = if is_own { u64::MAX } else { upgraded };
        for (traffic, from) in [own, across].into_iter().zip(from) {
            let report = traffic.finish().between(from, until);
            ensure!(report.lost() == 0, "{}", report.summary());
        }
        Ok(())
    })
}
