//! The link between two sites is lost, and the third site lets their traffic through, or does not:
//! counted by nft tables of somebody else on the borders, packet by packet.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::netns::Netns;
use nett_netns_tests::observe::{counters, http};
use nett_netns_tests::services::{API, PORT};
use nett_netns_tests::story::{Operator, TASK, Traffic, tell_of_wires};
use nett_netns_tests::topology::{OUTSIDE, Shape, Site};
use serde_json::Value;

const SVG: &str = "svg-b1";
/// Which site lets the traffic of which others through.
type Pass = (&'static str, [&'static str; 2]);
const THROUGH_SVG: Pass = ("svg", ["osl", "trd"]);
const ALL: [Pass; 3] = [THROUGH_SVG, ("osl", ["svg", "trd"]), ("trd", ["osl", "svg"])];
/// The hops that a packet must have more of to go through, and has then.
const HOPS: u8 = 32;

/// A story in a lab of three sites whose fabric says so much of transit.
fn tell(name: &str, passes: &[Pass], story: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    tell_of_wires(name, Shape::THREE, |lab| {
        let mut fabric = OpenOptions::new().append(true).open(lab.layout().fabric())?;
        for (via, between) in passes {
            writeln!(fabric, "\n[[transit]]\nvia = \"{via}\"\nbetween = {between:?}")?;
        }
        lab.start_nett()?;
        story(lab)
    })
}

/// Counts what comes in by each link of a border to the service and from it.
fn watch(lab: &Lab, border: &str) -> Result<()> {
    let mut objects = String::new();
    let mut rules = String::new();
    for interface in ["wan0", "wan1", "wan2", "wan3"] {
        for (way, address) in [("to", "daddr"), ("from", "saddr")] {
            let name = format!("{way}_{interface}");
            objects += &format!("counter {name} {{ }}\n");
            let port = if way == "to" { "dport" } else { "sport" };
            for (ip, vip) in ["ip", "ip6"].iter().zip(API.vips()) {
                rules += &format!(
                    "iifname \"{interface}\" {ip} {address} {vip} udp {port} {PORT} \
                     counter name {name}\n"
                );
            }
        }
    }
    lab.ns(border)?.nft(&format!(
        "table inet seen {{\n{objects}chain arrives {{ type filter hook prerouting priority -400\n\
         {rules} }}\n}}"
    ))
}

fn seen(lab: &Lab, border: &str) -> Result<BTreeMap<String, u64>> {
    let mut all = counters::named(&lab.ns(border)?, "seen")?;
    all.retain(|_, count| *count > 0);
    Ok(all)
}

/// What a guard has counted under names that begin like this.
fn counted(ns: &Netns, beginning: &str) -> Result<u64> {
    let all = counters::named(ns, "nett")?;
    Ok(all.iter().filter(|(name, _)| name.starts_with(beginning)).map(|(_, n)| n).sum())
}

/// Waits until everything is lost, with an error that says so for some.
fn is_refused(traffic: &Traffic) -> Result<()> {
    eventually(TASK, "nothing is answered any more", || {
        let from = nett_netns_tests::traffic::now();
        traffic.run_for(50)?;
        let since = traffic.so_far().since(from);
        ensure!(since.received() == 0 && since.errors().count() > 0, "{}", since.summary());
        Ok(())
    })
    .map(drop)
}

#[test]
fn without_a_word_nothing_goes_through_a_third_site() -> Result<()> {
    tell("without_a_word_nothing_goes_through_a_third_site", &[], |lab| {
        let (leaks, svg) = (lab.leaks()?, lab.ns(SVG)?);
        watch(lab, SVG)?;
        let traffic = Traffic::to_vips(lab, &["trd-c1"], API)?;
        traffic.settles_on("osl")?;
        lab.cut("osl-trd-1")?;
        is_refused(&traffic)?;
        traffic.run_for(300)?;
        assert_eq!(seen(lab, SVG)?, BTreeMap::new(), "nothing came to svg");
        let table = svg.output("nft", &["list", "table", "inet", "nett"])?;
        for word in ["through", "transit", "carried", "spent"] {
            ensure!(!table.contains(word), "the table knows of `{word}`");
        }
        lab.restore("osl-trd-1")?;
        traffic.settles_on("osl")?;
        drop(traffic.finish());
        assert_eq!(counted(&svg, "hairpin")?, 0);
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0, "{:?}", lab.leaks()?);
        Ok(())
    })
}

#[test]
fn a_lost_link_is_gone_around_through_the_site_that_allows_it() -> Result<()> {
    let story = "a_lost_link_is_gone_around_through_the_site_that_allows_it";
    tell(story, &[THROUGH_SVG], |lab| {
        let (leaks, svg) = (lab.leaks()?, lab.ns(SVG)?);
        let trd = Site::named("trd").context("a site")?;
        for border in ["osl-b1", SVG, "trd-b1"] {
            watch(lab, border)?;
        }
        // The client on the internet comes in at trd, and its answers must leave there.
        lab.route_vips_over(trd)?;
        let own = Traffic::to_vips(lab, &["trd-c1"], API)?;
        let outside = Traffic::to_vips(lab, &[OUTSIDE], API)?;
        for traffic in [&own, &outside] {
            traffic.settles_on("osl")?;
        }
        assert_eq!(seen(lab, SVG)?, BTreeMap::new(), "the direct link comes first");

        lab.cut("osl-trd-1")?;
        for traffic in [&own, &outside] {
            traffic.settles_on("osl")?;
        }
        goes_through(lab, &svg, &own)?;
        hops_are_counted(lab, &svg)?;
        is_told(lab, &svg)?;

        lab.restore("osl-trd-1")?;
        eventually(TASK, "svg carries nothing any more", || {
            let before = seen(lab, SVG)?;
            own.run_for(300)?;
            let after = seen(lab, SVG)?;
            ensure!(before == after, "{before:?} became {after:?}");
            Ok(())
        })?;
        let settled = own.settles_on("osl")?;
        own.run_for(300)?;
        // Not before the end: of a record so far the newest packets are on their way and count as
        // lost, and so does what Linux discards of IPv6 when a group is replaced.
        let (own, _) = (own.finish(), outside.finish());
        let after = own.since(settled);
        ensure!(after.lost() == 0, "{}", after.summary());
        assert_eq!(counted(&svg, "hairpin")?, 0);
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0, "{:?}", lab.leaks()?);
        Ok(())
    })
}

/// Every packet goes in at svg from trd and out to osl, once on each link, and its answer back.
fn goes_through(lab: &Lab, svg: &Netns, traffic: &Traffic) -> Result<()> {
    let before = (counted(svg, "transit.")?, seen(lab, SVG)?, seen(lab, "osl-b1")?);
    let sent = traffic.so_far().sent();
    traffic.run_for(1000)?;
    let sent = u64::try_from(traffic.so_far().sent() - sent)?;
    let grown = |name: &str, old: &BTreeMap<String, u64>, new: &BTreeMap<String, u64>| {
        let of = |all: &BTreeMap<String, u64>| all.get(name).copied().unwrap_or(0);
        of(new) - of(old)
    };
    let after = (counted(svg, "transit.")?, seen(lab, SVG)?, seen(lab, "osl-b1")?);
    let carried = after.0 - before.0;
    ensure!(carried >= 2 * sent * 9 / 10, "{carried} of {sent} and their answers are counted");
    let to = grown("to_wan3", &before.1, &after.1);
    ensure!(to >= sent * 9 / 10, "{to} of {sent} came to svg from trd");
    let from: u64 =
        ["wan0", "wan1"].map(|i| grown(&format!("from_{i}"), &before.1, &after.1)).iter().sum();
    ensure!(from >= sent * 9 / 10, "{from} of {sent} answers came to svg from osl");
    for name in ["to_wan0", "to_wan1", "from_wan3"] {
        assert_eq!(grown(name, &BTreeMap::new(), &after.1), 0, "{name}: somebody turned around");
    }
    let arrived: u64 =
        ["wan0", "wan1"].map(|i| grown(&format!("to_{i}"), &before.2, &after.2)).iter().sum();
    // Other traffic goes there, too; what svg got is what osl got.
    ensure!(arrived.abs_diff(to) * 10 <= to, "{to} came to svg, {arrived} to osl");
    Ok(())
}

/// A packet with too few hops left is refused and counted; one with one more is let through, with
/// so many left that no other site would let it through.
fn hops_are_counted(lab: &Lab, svg: &Netns) -> Result<()> {
    let client = lab.ns("trd-c1")?;
    let osl = Site::named("osl").context("a site")?;
    lab.ns("osl-b1")?.nft(&format!(
        "table inet hops {{\ncounter v4 {{ }}\ncounter v6 {{ }}\n\
         chain arrives {{ type filter hook prerouting priority -400\n\
         iifname {{ \"wan0\", \"wan1\" }} icmp type echo-request ip ttl {HOPS} counter name v4\n\
         iifname {{ \"wan0\", \"wan1\" }} icmpv6 type echo-request ip6 hoplimit {HOPS} \
         counter name v6\n}}\n}}"
    ))?;
    // The route node and the border of trd, and svg itself, count down before svg looks.
    for to in osl.addresses(nett_netns_tests::topology::NET_CLIENT, 2) {
        for (hops, passes) in [(HOPS + 3, false), (HOPS + 4, true)] {
            let before = counted(svg, "spent")?;
            let hops = hops.to_string();
            let told = client
                .try_output("ping", &["-c", "3", "-i", "0.2", "-W", "2", "-t", &hops, &to])?;
            let said = String::from_utf8_lossy(&told.stdout).into_owned();
            assert_eq!(told.status.success(), passes, "{to} with {hops} hops: {said}");
            let spent = counted(svg, "spent")? - before;
            assert_eq!(spent, if passes { 0 } else { 3 }, "{to} with {hops} hops: {said}");
        }
    }
    let arrived = counters::named(&lab.ns("osl-b1")?, "hops")?;
    assert_eq!((arrived["v4"], arrived["v6"]), (3, 3), "they arrive with {HOPS} hops left");
    Ok(())
}

/// Nett says what it does: `prove separation`, a metric, and the path hop by hop.
fn is_told(lab: &Lab, svg: &Netns) -> Result<()> {
    let mira = Operator { lab, node: "trd-r1", name: "mira" };
    eventually(patience() * 3, "separation holds, with what goes through", || {
        let told = mira.run(&["-o", "json", "prove", "separation"])?.must_be(0)?;
        let told = told.json()?;
        let rows = told["ok"]["rows"].as_array().context("rows")?.clone();
        let row = |peer: &str| {
            rows.iter().any(|row| {
                let of = row["node"] == SVG && row["class"] == "transit" && row["peer"] == peer;
                of && row["packets"].as_u64() > Some(0) && row["expected_zero"] == false
            })
        };
        ensure!(row("osl") && row("trd"), "{rows:#?}");
        for peer in ["osl", "trd"] {
            let labels = format!("{{class=\"transit\",peer=\"{peer}\"}}");
            let value = http::metric(svg, &format!("nett_traffic_packets_total{labels}"))?;
            ensure!(value.is_some_and(|value| value > 0.0), "{peer}: {value:?}");
        }
        Ok(())
    })?;
    for (from, to) in ["10.3.40.2", "fd00:c:40::2"].into_iter().zip(API.vips()) {
        // Each border says what it knows of its links; trd asks its own kernel.
        eventually(patience(), "the path is told", || {
            let line = ["-o", "json", "explain", "path", from, &to, "--from", "trd-r1"];
            let told = lab.nettctl("trd-b1", "mira", &line)?.must_be(0)?.json()?;
            let hops = told["ok"]["hops"].as_array().context("hops")?.clone();
            let nodes: Vec<&str> = hops.iter().filter_map(|hop| hop["node"].as_str()).collect();
            ensure!(nodes == ["trd-r1", "trd-b1", SVG, "osl-b1", "osl-r1"], "{nodes:?}");
            Ok(())
        })?;
        let line = ["-o", "json", "explain", "path", from, &to, "--from", "trd-r1"];
        let told: Value = lab.nettctl(SVG, "mira", &line)?.must_be(0)?.json()?;
        let hops = told["ok"]["hops"].as_array().context("hops")?;
        let own = hops.iter().find(|hop| hop["node"] == SVG).context("its hop")?;
        assert_eq!(own["kernel"]["agrees"], true, "{own:#}");
    }
    Ok(())
}

/// Every site lets the traffic of the two others through, and the last links of one go.
#[test]
fn a_site_that_nobody_reaches_is_refused_and_no_packet_is_seen_twice() -> Result<()> {
    tell("a_site_that_nobody_reaches_is_refused_and_no_packet_is_seen_twice", &ALL, |lab| {
        let mira = Operator { lab, node: "osl-r1", name: "mira" };
        mira.complete(&["failover", API.id, "--to", "trd"])?;
        for border in ["osl-b1", SVG] {
            watch(lab, border)?;
        }
        let traffic = Traffic::to_vips(lab, &["osl-c1"], API)?;
        traffic.settles_on("trd")?;
        lab.cut("osl-trd-1")?;
        traffic.settles_on("trd")?;
        lab.cut("svg-trd-1")?;
        is_refused(&traffic)?;
        traffic.run_for(300)?;
        let before = (seen(lab, "osl-b1")?, seen(lab, SVG)?);
        let sent = traffic.so_far().sent();
        traffic.run_for(1000)?;
        let after = (seen(lab, "osl-b1")?, seen(lab, SVG)?);
        let sent = u64::try_from(traffic.so_far().sent() - sent)?;
        let to = |all: &BTreeMap<String, u64>| -> u64 {
            all.iter().filter(|(name, _)| name.starts_with("to_")).map(|(_, count)| count).sum()
        };
        let crossed = (to(&after.0) - to(&before.0)) + (to(&after.1) - to(&before.1));
        // A few are sent between the looks; twice on a link would be twice as many.
        ensure!(crossed * 10 <= sent * 11, "{sent} packets crossed links {crossed} times");
        assert_eq!(to(&after.0), 0, "no packet came back to osl");
        lab.restore_all()?;
        traffic.settles_on("trd")?;
        drop(traffic.finish());
        for border in ["osl-b1", SVG, "trd-b1"] {
            assert_eq!(counted(&lab.ns(border)?, "hairpin")?, 0, "{border}");
        }
        Ok(())
    })
}
