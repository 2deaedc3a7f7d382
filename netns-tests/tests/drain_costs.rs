//! What a site drain costs the kernels, counted by `ip monitor`. The switch of traffic costs the
//! same for few services and for many, since those that move together share their groups. What a
//! site no longer accepts from others costs it one route for each VIP, behind the switch.

use std::fs;
use std::io::Write;

use anyhow::{Result, ensure};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::monitor::Monitor;
use nett_netns_tests::services::WEB;
use nett_netns_tests::story::{Operator, Traffic, tell_from_wires};
use nett_netns_tests::topology::{NET_SERVICE, SITES};

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
}

/// What a site drain changes on the border and the route node of osl.
fn changes(count: usize) -> Result<[Changes; 2]> {
    let mut found = [Changes::default(); 2];
    tell_from_wires("the_switch_of_a_site_drain_costs_the_same_for_few_and_many", |lab| {
        add_services(lab, count)?;
        lab.start_nett()?;
        let nodes = ["osl-b1", "osl-r1"];
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        let jon = Operator { name: "jon", ..mira };
        let traffic = Traffic::to_vips(lab, &["osl-c1"], WEB)?;
        let task = mira.propose(&["drain", "site", "osl"])?;
        let mut monitors = Vec::new();
        for node in nodes {
            let log = lab.layout().log(&format!("drain-{node}"));
            monitors.push(Monitor::start(&lab.ns(node)?, log)?);
        }
        jon.approve(&task)?;
        mira.wait_for(&task, "done")?;
        traffic.settles_on("svg")?;
        let report = traffic.finish();
        assert_eq!(report.lost(), 0, "{}", report.summary());
        for (monitor, found) in monitors.into_iter().zip(&mut found) {
            let lines = monitor.finish()?;
            let ours = || lines.iter().filter(|line| line.contains("proto 217"));
            found.groups = ours().filter(|line| line.contains(" group ")).count();
            found.routes = ours().filter(|line| line.contains("10.99.")).count();
        }
        let last = format!("bulk/prod/s{:04}", count - 1);
        let shown = mira.run(&["-o", "json", "service", "show", &last])?.must_be(0)?.out;
        ensure!(shown.contains("svg"), "{shown}");
        Ok(())
    })?;
    Ok(found)
}

#[test]
fn the_switch_of_a_site_drain_costs_the_same_for_few_and_many() -> Result<()> {
    let (few, many) = (changes(5)?, changes(300)?);
    show(&format!("changes on osl-b1 and osl-r1: {few:?} with 5 more services, {many:?} with 300"));
    for (few, many) in few.into_iter().zip(many) {
        ensure!(few.groups > 0, "the monitor saw nothing: {few:?}");
        assert_eq!(few.groups, many.groups);
        // FIXME: the end of a drain should cost as little as its switch.
        assert_eq!(many.routes - few.routes, 300 - 5);
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
