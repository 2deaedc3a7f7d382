//! What a site drain costs the kernels, as they report it and as the agents ask for it. From its
//! start to its end it costs the same for few services and for many, since those that move together
//! share their groups, and what is refused to them.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use nett_netns_tests::eventually::patience;
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::changes::Change;
use nett_netns_tests::observe::recorder::Recorder;
use nett_netns_tests::services::{PORT, WEB};
use nett_netns_tests::story::{Operator, Traffic, tell_from_wires};
use nett_netns_tests::topology::{NET_SERVICE, SITES};
use nett_netns_tests::traffic::tcp::connect;

/// `count` services of one class at osl, which the echo hosts answer pings for.
fn add_services(lab: &Lab, count: usize) -> Result<()> {
    let mut text = String::new();
    let mut addresses = Vec::new();
    for n in 0..count {
        let (high, low) = (n / 200 + 1, n % 200 + 1);
        let vips = [format!("10.99.{high}.{low}"), format!("fd00:99::{high}:{low}")];
        text += &format!(
            "[[service]]\nid = \"bulk/prod/s{n:04}\"\ncategory = \"C\"\nprimary = \"osl\"\n\
             standby = [\"svg\"]\nvips = {vips:?}\nsticky = \"1s\"\n"
        );
        for site in SITES {
            let backends = site.addresses(NET_SERVICE, 2);
            text += &format!("backends.{} = {backends:?}\n", site.id);
        }
        text += "\n";
        addresses.push(format!("address add {}/32 dev lo", vips[0]));
        addresses.push(format!("address add {}/128 dev lo nodad", vips[1]));
    }
    let mut file = fs::File::options().append(true).open(lab.layout().services())?;
    file.write_all(text.as_bytes())?;
    for site in SITES {
        lab.ns(&site.service_host())?.ip_batch(&addresses)?;
    }
    Ok(())
}

/// What a site drain changes on one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Changes {
    groups: usize,
    routes: usize,
    elements: usize,
    other: usize,
}

impl Changes {
    fn of(record: &[Change]) -> Self {
        let mut found = Self::default();
        for change in record {
            match change.object.split(' ').next() {
                Some("nexthop") => found.groups += 1,
                Some("route") => found.routes += 1,
                Some("drained" | "shut_in" | "shut_out") => found.elements += 1,
                _ => found.other += 1,
            }
        }
        found
    }
}

const NODES: [&str; 4] = ["osl-b1", "osl-r1", "svg-b1", "svg-r1"];

/// What a whole site drain changes on every node, from its start to its end.
fn changes(count: usize) -> Result<[Changes; 4]> {
    let mut found = [Changes::default(); 4];
    tell_from_wires("a_site_drain_costs_the_same_for_few_and_many_from_start_to_end", |lab| {
        add_services(lab, count)?;
        lab.start_nett()?;
        let mut recorders = Vec::new();
        for node in NODES {
            recorders.push(Recorder::start(lab, node)?);
        }
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        let jon = Operator { name: "jon", ..mira };
        let traffic = Traffic::to_vips(lab, &["osl-c1"], WEB)?;
        let task = mira.propose(&["drain", "site", "osl"])?;
        jon.approve(&task)?;
        mira.wait_for(&task, "done")?;
        traffic.settles_on("svg")?;
        let report = traffic.finish();
        assert_eq!(report.lost(), 0, "{}", report.summary());
        for (recorder, found) in recorders.into_iter().zip(&mut found) {
            let record = recorder.finish()?;
            *found = Changes::of(&record.reported);
            assert_eq!(Changes::of(&record.asked), *found, "{:#?}", record.asked);
        }
        let last = format!("bulk/prod/s{:04}", count - 1);
        let shown = mira.run(&["-o", "json", "service", "show", &last])?.must_be(0)?.out;
        ensure!(shown.contains("svg"), "{shown}");
        // Who still comes to osl over the link for one of them is told so by osl's border, at once.
        let vip = SocketAddr::new("10.99.1.1".parse()?, PORT);
        lab.ns("svg-b1")?.ip(&format!("route add {} via 172.31.0.1 table 99", vip.ip()))?;
        lab.ns("svg-b1")?.ip(&format!("rule add pref 99 to {} lookup 99", vip.ip()))?;
        let attempt = connect(&lab.ns("svg-b1")?, vip, patience())?;
        assert_eq!(attempt.server, Err(ErrorKind::ConnectionRefused), "{attempt:?}");
        Ok(())
    })?;
    Ok(found)
}

#[test]
fn a_site_drain_costs_the_same_for_few_and_many_from_start_to_end() -> Result<()> {
    let (few, many) = (changes(5)?, changes(300)?);
    show(&format!("changes on {NODES:?}: {few:?} with 5 more services, {many:?} with 300"));
    for (few, many) in few.into_iter().zip(many) {
        assert!(few.groups > 0, "the monitor saw nothing: {few:?}");
        assert_eq!(few, many);
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
