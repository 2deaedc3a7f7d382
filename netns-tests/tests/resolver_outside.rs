//! Clients on the internet ask resolvers that reach every site, also one that the others do not:
//! whatever name server such a resolver picks, it is never told of a site that has withdrawn.

use std::time::Duration;

use anyhow::{Result, ensure};
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::files::Node;
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::dig::{Answer, dig};
use nett_netns_tests::observe::resolver::Resolver;
use nett_netns_tests::services::{API, ROOT, Service};
use nett_netns_tests::story::{Operator, tell_of};
use nett_netns_tests::topology::{OUTSIDE, Shape, Site, UPLINK_BORDER};

/// What the bus takes to join two sites that were joined by a third one, now cut off
/// (docs/adr/0031), with the round of questions that follows.
const JOINED: Duration = Duration::from_secs(30);

/// What the name server of a site's border tells the outside.
fn told_by(lab: &Lab, site: Site, service: Service, kind: &str) -> Result<Answer> {
    let [v4, _] = site.uplink(1, UPLINK_BORDER);
    dig(&lab.ns(OUTSIDE)?, v4.parse()?, &service.dns_name(), kind)
}

fn is(answer: &Answer, service: Service, site: Site) -> Result<()> {
    ensure!(answer.status == "NOERROR", "{answer:?}");
    ensure!(answer.data == [service.answers(site)[0].clone()], "{answer:?}");
    Ok(())
}

/// An answer that says something else; none at all may come of a machine that is slow.
fn is_wrong(answer: &Answer, service: Service, site: Site) -> Option<String> {
    let wrong = answer.status == "NOERROR" && is(answer, service, site).is_err();
    wrong.then(|| format!("{answer:?}"))
}

#[test]
fn a_resolver_is_never_told_of_a_site_that_has_withdrawn() -> Result<()> {
    tell_of("a_resolver_is_never_told_of_a_site_that_has_withdrawn", Shape::THREE, |lab| {
        let sites = lab.shape().sites;
        let (osl, svg) = (sites[0], sites[1]);
        let servers: Vec<String> =
            sites.iter().flat_map(|site| site.uplink(1, UPLINK_BORDER)).collect();
        let resolver = Resolver::start(lab, OUTSIDE, &servers)?;
        // Asked before, so that it knows answers which will be wrong.
        let at = |service: Service, site: Site| {
            is(&resolver.ask(lab, &service.dns_name(), "A")?, service, site)
        };
        eventually(patience() * 4, "svg holds the lease", || at(ROOT, svg))?;
        at(API, osl)?;

        lab.isolate(svg)?;
        let mut wrong = Vec::new();
        let withdrawn = || -> Result<()> {
            // The static service goes on being answered alike everywhere, all the while.
            for site in sites {
                wrong.extend(is_wrong(&told_by(lab, *site, API, "A")?, API, osl));
            }
            let resolved = resolver.ask(lab, &API.dns_name(), "A")?;
            wrong.extend(is_wrong(&resolved, API, osl));
            // The lease of svg ends: it names the next site that has addresses, and why.
            is(&told_by(lab, svg, ROOT, "A")?, ROOT, osl)?;
            let text = told_by(lab, svg, ROOT, "TXT")?.data.join(" ");
            ensure!(text.contains("view=isolated age="), "{text}");
            Ok(())
        };
        eventually(patience() * 4, "svg withdraws and says so", withdrawn)?;
        assert!(wrong.is_empty(), "{wrong:?}");

        let (mira, jon) = (Operator { lab, node: "osl-b1", name: "mira" }, "jon");
        let off: Vec<String> = Node::of_site(svg).iter().map(|n| n.name.clone()).collect();
        let command = ["failover", ROOT.id, "--to", "osl", "--fencing", "asserted"];
        let named = ["--off", &off[0], "--off", &off[1]];
        let command = [&command[..], &named[..]].concat();
        // Refused without a trace until the two that are left hear each other: where the third one
        // dialled svg at the start, because osl was not up yet, it has to notice first.
        let task = eventually(JOINED, "osl hears a majority", || mira.propose(&command))?.0;
        Operator { name: jon, ..mira }.approve(&task)?;
        mira.wait_for(&task, "done")?;
        // From now on nobody is told of svg, whom ever the resolver asks and whatever it kept.
        let everywhere = || {
            for site in sites {
                is(&told_by(lab, *site, ROOT, "A")?, ROOT, osl)?;
            }
            at(ROOT, osl)
        };
        eventually(patience(), "everybody says osl", everywhere)?;
        lab.rejoin(svg)?;
        let joined = || {
            everywhere()?;
            let text = told_by(lab, svg, ROOT, "TXT")?.data.join(" ");
            ensure!(!text.contains("view="), "{text}");
            Ok(())
        };
        eventually(patience() * 4, "svg is back and says osl", joined)?;
        Ok(())
    })
}
