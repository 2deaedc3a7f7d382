//! Two of three sites are dead, agents and servers: a service under a lease comes back at the third
//! only by `--without-quorum` and two people, is marked everywhere until the others are back, and
//! no packet of it is served by two sites.

use std::time::Duration;

use anyhow::{Result, ensure};
use nett_netns_tests::bus;
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::files::Node;
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::observe::dig::dig;
use nett_netns_tests::observe::http;
use nett_netns_tests::services::LEDGER;
use nett_netns_tests::story::{Operator, TASK, Traffic, tell_of};
use nett_netns_tests::topology::{Shape, Site};
use nett_netns_tests::traffic::Report;

/// Two that are dead, and the one that is left.
fn sites(lab: &Lab) -> ([Site; 2], Site) {
    let all = lab.shape().sites;
    ([all[0], all[1]], all[2])
}

fn die(lab: &mut Lab, site: Site) -> Result<()> {
    for node in Node::of_site(site) {
        lab.take_process(&agent_name(&node.name))?.kill();
    }
    lab.take_process(&bus::process_name(site))?.kill();
    Ok(())
}

/// Behind a gate that is shut, where it hears no majority.
fn begins_anew(lab: &mut Lab, site: Site) -> Result<()> {
    for node in Node::of_site(site) {
        lab.take_process(&agent_name(&node.name))?.kill();
        lab.start_agent(&node.name)?;
    }
    Node::of_site(site).iter().try_for_each(|node| lab.wait_for_agent(&node.name).map(drop))
}

/// At one moment: two of them are a majority that has not read the log.
fn come_back(lab: &mut Lab, sites: [Site; 2]) -> Result<()> {
    for site in sites {
        let config = lab.layout().host(&site.bus_host()).join("nats.conf");
        bus::start(lab, site, &config)?;
    }
    let nodes = || sites.into_iter().flat_map(Node::of_site);
    nodes().try_for_each(|node| lab.start_agent(&node.name).map(drop))?;
    nodes().try_for_each(|node| lab.wait_for_agent(&node.name).map(drop))
}

fn one_at_a_time(report: &Report) -> Result<()> {
    for (one, other) in [("osl", "trd"), ("svg", "trd"), ("osl", "svg")] {
        let both = report.overlap(one, other);
        ensure!(both == Duration::ZERO, "{one} and {other} for {both:?}: {}", report.summary());
    }
    Ok(())
}

/// What every place says of the service.
fn marked(lab: &Lab, who: Operator<'_>, site: Site, is: bool) -> Result<()> {
    let said = |args: &[&str]| Ok::<_, anyhow::Error>(who.run(args)?.must_be(0)?.out);
    let places = [
        ("service show", said(&["service", "show", LEDGER.id])?.contains("UNPROTECTED")),
        ("service list", said(&["service", "list"])?.contains("UNPROTECTED")),
        ("status", said(&["status"])?.contains("UNPROTECTED")),
    ];
    for (place, told) in places {
        ensure!(told == is, "{place}: {told}");
    }
    let ns = lab.ns(who.node)?;
    let name = format!("nett_lease_unprotected{{service=\"{}\"}}", LEDGER.id);
    let metric = http::metric(&ns, &name)?;
    ensure!(metric == is.then_some(1.0), "{name} {metric:?}");
    let server = Node::of_site(site)[0].addresses();
    let text = dig(&lab.ns(&site.client())?, server[0].parse()?, &LEDGER.dns_name(), "TXT")?;
    let text = text.data.join(" ");
    ensure!(text.contains("lease=unprotected") == is, "{text}");
    Ok(())
}

#[test]
fn two_sites_are_dead_and_the_third_serves_by_the_word_of_two_people() -> Result<()> {
    let name = "two_sites_are_dead_and_the_third_serves_by_the_word_of_two_people";
    tell_of(name, Shape::THREE, |lab| {
        let (dead, left) = sites(lab);
        let border = left.border();
        let all = Traffic::to_vips(lab, &["osl-c1", "svg-c1", "trd-c1"], LEDGER)?;
        let here = Traffic::to_vips(lab, &[&left.client()], LEDGER)?;
        all.settles_on("osl")?;
        dead.into_iter().try_for_each(|site| die(lab, site))?;
        begins_anew(lab, left)?;
        let task = taken(lab, &border, dead)?;
        // Nobody serves before somebody else has approved it.
        let mira = Operator { lab, node: &border, name: "mira" };
        ensure!(mira.state_of(&task)? == "waiting-approval", "it does not wait");
        ensure!(all.so_far().answers_of("trd") == 0, "{}", all.so_far().summary());
        Operator { name: "kim", ..mira }.approve(&task)?;
        mira.wait_for(&task, "done")?;
        here.settles_on("trd")?;
        one_at_a_time(&all.so_far())?;
        eventually(TASK, "all places say so", || marked(lab, mira, left, true))?;
        let shown = mira.run(&["task", "show", &task])?.must_be(0)?.out;
        ensure!(shown.contains("UNPROTECTED") && shown.contains("osl, svg"), "{shown}");
        let audit = mira.run(&["audit"])?.must_be(0)?.out;
        ensure!(audit.contains("override without-quorum: osl, svg said to be off"), "{audit}");
        come_back(lab, dead)?;
        let mira = Operator { lab, node: &border, name: "mira" };
        eventually(patience() * 4, "the mark is gone", || marked(lab, mira, left, false))?;
        lab.nodes().iter().try_for_each(|node| lab.wait_for_contact(&node.name))?;
        all.settles_on("trd")?;
        all.run_for(3000)?;
        one_at_a_time(&all.finish())?;
        here.finish();
        // It is a service like any other again.
        let osl = Operator { lab, node: "osl-b1", name: "mira" };
        let traffic = Traffic::to_vips(lab, &["osl-c1", "svg-c1", "trd-c1"], LEDGER)?;
        osl.complete_quietly(&["failover", LEDGER.id, "--to", "osl"])?;
        traffic.settles_on("osl")?;
        one_at_a_time(&traffic.finish())
    })
}

/// Refused as long as a majority, or one of the sites, was heard a moment ago; without the sites'
/// names and without the option always.
fn taken(lab: &Lab, node: &str, dead: [Site; 2]) -> Result<String> {
    let mira = Operator { lab, node, name: "mira" };
    let failover = ["failover", LEDGER.id, "--to", "trd"];
    let [one, other] = dead.map(|site| site.id);
    let alone = ["--without-quorum", "--without", one, "--without", other];
    let alone = [failover.as_slice(), &alone].concat();
    let early = mira.order(&alone)?.must_be(4)?;
    let word = "without-quorum";
    ensure!(early.out.contains(word) || early.err.contains(word), "{early:?}");
    let (task, _) = eventually(patience() * 4, "it is accepted", || mira.propose(&alone))?;
    let plain = [failover.as_slice(), &["--supersede"]].concat();
    let plain = mira.order(&plain)?.must_be(4)?;
    ensure!(
        plain.out.contains("lease-majority") || plain.err.contains("lease-majority"),
        "{plain:?}"
    );
    let unnamed = [failover.as_slice(), &["--without-quorum"]].concat();
    let unnamed = mira.order(&unnamed)?.must_be(2)?;
    ensure!(unnamed.err.contains("--without osl --without svg"), "{unnamed:?}");
    Ok(task)
}
