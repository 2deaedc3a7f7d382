//! A key is revoked at one site: every other one stops to hear it within seconds, whatever way it
//! speaks; what it did before stays, and it fills no log.

mod streams;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::services::{API, VAULT, WEB};
use nett_netns_tests::signed::{NOW, Signer};
use nett_netns_tests::story::{Operator, Traffic, tell};
use nett_netns_tests::topology::{SITES, Site};
use serde_json::{Value, json};
use streams::login::ask;

/// From the approval at one site until the other one refuses.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// What mira's own program is told, with her login at a site's server.
fn by_program(lab: &Lab, site: Site, service: &str) -> Result<Value> {
    let body = json!({"verb": "hold", "services": service});
    ask(lab, site, "mira", &Signer::of(lab, "mira")?.command(site.id, &body, NOW)?)
}

/// `nettctl` says that the key is revoked, since when and by whom.
fn refused_as_revoked(lab: &Lab, node: &str) -> Result<()> {
    let mira = Operator { lab, node, name: "mira" };
    let told = mira.order(&["failover", WEB.id, "--to", "svg"])?.must_be(4)?;
    let says = |words: &str| told.err.contains(words);
    let said = says("the key of mira was revoked at 20") && says(" by jon, with task osl.");
    ensure!(said, "at {node}: {}", told.err);
    Ok(())
}

#[test]
fn a_stolen_key_is_heard_at_no_site_any_more() -> Result<()> {
    tell("a_stolen_key_is_heard_at_no_site_any_more", |lab| {
        let [osl, svg] = SITES;
        let by = |name, node| Operator { lab, node, name };
        by("mira", "svg-b1").complete(&["failover", API.id, "--to", "svg"])?;
        let traffic = Traffic::to_vips(lab, &["osl-c1", "svg-c1"], API)?;
        let from = traffic.settles_on("svg")?;

        let task = by("jon", "osl-b1").propose(&["key", "revoke", "mira"])?;
        refused_by_four_eyes(lab, &task)?;
        by("kim", "osl-r1").approve(&task)?;
        let begun = Instant::now();
        by("jon", "osl-b1").wait_for(&task, "done")?;
        let within = HEARD_WITHIN.max(patience());
        for node in ["svg-b1", "svg-r1", "osl-b1", "osl-r1"] {
            // With another's key: what is not refused yet would be carried out.
            eventually(within, "the revocation is known", || {
                let state = by("jon", node).state_of(&task)?;
                ensure!(state == "done", "at {node}: {state}");
                Ok(())
            })?;
            refused_as_revoked(lab, node)?;
        }
        ensure!(begun.elapsed() < 4 * within, "after {:?}", begun.elapsed());
        let logs = |lab: &Lab| -> Result<Vec<_>> {
            SITES.into_iter().map(|site| streams::lengths(lab, site)).collect()
        };
        let (written, _) = eventually(within, "both sites have the same", || {
            let lengths = logs(lab)?;
            ensure!(lengths.windows(2).all(|two| two[0] == two[1]), "{lengths:?}");
            Ok(lengths)
        })?;
        for site in [svg, osl] {
            for service in [WEB.id, VAULT.id, API.id] {
                let answer = by_program(lab, site, service)?;
                ensure!(answer["refused_by"] == "revoked", "{}: {answer}", site.id);
            }
        }
        assert_eq!(written, logs(lab)?, "a stolen key fills no log");

        // Whoever starts anew reads it in its journal, without the bus.
        lab.take_process(&agent_name("svg-b1"))?.stop(patience())?;
        lab.start_agent("svg-b1")?;
        lab.wait_for_agent("svg-b1")?;
        let lab = &*lab;
        refused_as_revoked(lab, "svg-b1")?;
        let kim = Operator { lab, node: "svg-b1", name: "kim" };
        kim.complete(&["hold", WEB.id])?;
        let report = traffic.finish().since(from);
        let lost = (report.lost(), report.answers_of("osl"));
        assert_eq!(lost, (0, 0), "what she did stays: {}", report.summary());
        Ok(())
    })
}

/// Who proposes does not approve, nor does the person whose key it is.
fn refused_by_four_eyes(lab: &Lab, task: &str) -> Result<()> {
    for name in ["jon", "mira"] {
        let by = Operator { lab, node: "osl-b1", name };
        by.run(&["approve", task, "--reason", "please", "--yes"])?.must_be(4)?;
    }
    Ok(())
}
