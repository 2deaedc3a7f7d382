//! The answers of every name server follow the task, and say whose they are.

use anyhow::{Result, ensure};
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::files::{Node, ZONE};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::dig::{Answer, dig};
use nett_netns_tests::services::{API, EDGE, Service, WEB};
use nett_netns_tests::story::{Operator, tell};
use nett_netns_tests::topology::{SITES, Site};

/// Asks every name server of the client's own site for both families.
fn agree(lab: &Lab, service: Service, client: Site, expected: Site) -> Result<()> {
    let ns = lab.ns(&client.client())?;
    for node in Node::of_site(client) {
        for server in node.addresses() {
            for (kind, address) in ["A", "AAAA"].iter().zip(service.answers(expected)) {
                let answer = dig(&ns, server.parse()?, &service.dns_name(), kind)?;
                ensure!(answer.status == "NOERROR", "{server} {kind}: {answer:?}");
                ensure!(answer.data == [address.clone()], "{server} {kind}: {answer:?}");
                // The service says 5 s, and the zone 4 s at most.
                ensure!(answer.ttl == Some(4), "{server} {kind}: {answer:?}");
            }
        }
    }
    Ok(())
}

fn ask(lab: &Lab, name: &str, kind: &str) -> Result<Answer> {
    dig(&lab.ns("osl-c1")?, "10.1.1.2".parse()?, name, kind)
}

fn serial(lab: &Lab) -> Result<u32> {
    let soa = ask(lab, ZONE, "SOA")?;
    ensure!(soa.data.len() == 1, "{soa:?}");
    Ok(soa.data[0].split(' ').nth(2).unwrap_or_default().parse()?)
}

#[test]
fn every_name_server_answers_the_new_site_when_the_task_is_done() -> Result<()> {
    tell("every_name_server_answers_the_new_site_when_the_task_is_done", |lab| {
        let [osl, svg] = SITES;
        for client in SITES {
            agree(lab, API, client, osl)?;
            agree(lab, WEB, client, osl)?;
            agree(lab, EDGE, client, client)?;
        }
        let before = serial(lab)?;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        mira.complete(&["failover", API.id, "--to", "svg"])?;
        for client in SITES {
            eventually(patience(), "answers follow", || agree(lab, API, client, svg))?;
            agree(lab, WEB, client, osl)?;
        }
        assert!(serial(lab)? > before, "the serial did not grow");
        let text = ask(lab, &API.dns_name(), "TXT")?.data.join(" ");
        let of = |site: &str| text.split("site=").find(|t| t.starts_with(&format!("{site} ")));
        assert!(of("svg").is_some_and(|t| t.contains("state=active")), "{text:?}");
        assert!(of("osl").is_some_and(|t| !t.contains("state=active")), "{text:?}");
        Ok(())
    })
}

#[test]
fn names_of_one_site_and_unknown_names() -> Result<()> {
    tell("names_of_one_site_and_unknown_names", |lab| {
        for site in SITES {
            let name = format!("{}.site.{}", site.id, API.dns_name());
            assert_eq!(ask(lab, &name, "A")?.data, [site.public(API.number)[0].clone()]);
        }
        let missing = ask(lab, &format!("nothing.prod.shop.{ZONE}"), "A")?;
        assert_eq!((missing.status.as_str(), missing.data.len()), ("NXDOMAIN", 0));
        let refused = ask(lab, "example.org.", "A")?;
        assert_eq!(refused.status, "REFUSED");
        Ok(())
    })
}

#[test]
fn a_site_that_is_cut_off_answers_on_and_says_so() -> Result<()> {
    tell("a_site_that_is_cut_off_answers_on_and_says_so", |lab| {
        let [osl, svg] = SITES;
        let text = |site: Site| -> Result<String> {
            let (ns, server) = (lab.ns(&site.client())?, Node::of_site(site)[0].addresses());
            Ok(dig(&ns, server[0].parse()?, &API.dns_name(), "TXT")?.data.join(" "))
        };
        for site in SITES {
            ensure!(!text(site)?.contains("view="), "{}", text(site)?);
        }
        lab.cut_all()?;
        for site in SITES {
            // Answers go on all the while, and are those that both sites had agreed on.
            let said = || {
                agree(lab, API, site, osl)?;
                let text = text(site)?;
                ensure!(text.contains("view=isolated age="), "{text}");
                ensure!(text.contains("site=osl state=active"), "{text}");
                Ok(())
            };
            // A site counts as silent after 10 s.
            eventually(patience() * 4, "the site says that it is cut off", said)?;
        }
        lab.restore_all()?;
        let joined = || {
            let text = text(svg)?;
            ensure!(!text.contains("view="), "{text}");
            Ok(())
        };
        eventually(patience() * 2, "the site is joined again", joined)?;
        Ok(())
    })
}
