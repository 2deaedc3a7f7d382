//! A cluster of backends is drained: the other one of its site takes everything, no packet is lost
//! and none leaves the site; the last one stays.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::clusters;
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::services::API;
use nett_netns_tests::story::{Operator, Traffic, tell_from_wires};
use serde_json::Value;

/// The node that delivers at osl.
const ROUTER: &str = "osl-r1";

fn json(lab: &Lab, args: &[&str]) -> Result<Value> {
    let text = lab.ns(ROUTER)?.output("ip", &[&["-j"], args].concat())?;
    Ok(serde_json::from_str(&text)?)
}

/// The gateways behind a VIP where traffic enters the site's route node.
fn gateways(lab: &Lab, vip: &str) -> Result<BTreeSet<String>> {
    let family = if vip.contains(':') { "-6" } else { "-4" };
    let routes = json(lab, &[family, "route", "show", "table", "all", "to", "exact", vip])?;
    let all = json(lab, &["nexthop", "show"])?;
    let find = |id: &Value| all.as_array().into_iter().flatten().find(|one| one["id"] == *id);
    let mut found = BTreeSet::new();
    for route in routes.as_array().context("routes")? {
        let Some(group) = find(&route["nhid"]) else { continue };
        let members = group["group"].as_array().cloned().unwrap_or_default();
        for member in members.iter().map(|member| &member["id"]).chain([&group["id"]]) {
            let gateway = find(member).and_then(|one| one["gateway"].as_str());
            found.extend(gateway.map(str::to_owned));
        }
    }
    Ok(found)
}

#[test]
fn a_drained_cluster_leaves_its_share_to_the_other_and_the_last_one_stays() -> Result<()> {
    let name = "a_drained_cluster_leaves_its_share_to_the_other_and_the_last_one_stays";
    tell_from_wires(name, |lab| {
        let [first, second] = clusters::addresses();
        let (host, interface) = clusters::interface(lab)?;
        clusters::second_on(&host, &interface)?;
        clusters::two(lab)?;
        lab.start_nett()?;
        let lab = &*lab;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        let goes = |to: [&[String; 2]; 2]| -> Result<()> {
            for (n, vip) in API.vips().iter().enumerate() {
                let expected: BTreeSet<String> = to.iter().map(|pair| pair[n].clone()).collect();
                let found = gateways(lab, vip)?;
                ensure!(found == expected, "{vip}: {found:?}, and not {expected:?}");
            }
            Ok(())
        };
        eventually(patience(), "both clusters are used", || goes([&first, &second]))?;
        let before = Kernel::of(&lab.ns(ROUTER)?)?;
        let traffic = Traffic::to_vips(lab, &["osl-c1", "svg-c1"], API)?;
        let from = traffic.settles_on("osl")?;

        mira.complete(&["drain", "cluster", "osl/k1"])?;
        goes([&second, &second])?;
        let last = mira.order(&["drain", "cluster", "osl/k2"])?.must_be(4)?.json()?;
        ensure!(last["refused_by"] == "last-cluster", "{last}");
        traffic.run_for(500)?;
        mira.complete(&["undrain", "cluster", "osl/k1"])?;
        goes([&first, &second])?;
        let changes = before.changes(&Kernel::of(&lab.ns(ROUTER)?)?);
        ensure!(changes.is_empty(), "as before: {changes:#?}");
        let report = traffic.finish().since(from);
        ensure!((report.lost(), report.answers_of("svg")) == (0, 0), "{}", report.summary());
        Ok(())
    })
}
