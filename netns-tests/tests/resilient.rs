//! Shares change under flows that are in use: none of them moves, and once they are idle all do.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nett_netns_tests::eventually::eventually;
use nett_netns_tests::lab::Lab;
use nett_netns_tests::services::WEB;
use nett_netns_tests::story::{Operator, TASK, Traffic, tell_from_wires};
use nett_netns_tests::traffic::now;

const FLOWS: usize = 256;
/// Flows of a family send four packets a second each.
const IDLE: Duration = Duration::from_secs(2);
/// Where the client's packets come first.
const ENTRY: &str = "osl-r1";

/// The service keeps flows where they are, and the site that it leaves open for longer than this
/// story takes.
fn keep_flows(lab: &Lab) -> Result<()> {
    let path = lab.layout().services();
    let text = fs::read_to_string(&path)?;
    let tables = text.split_inclusive("[[service]]\n").map(|table| {
        if !table.contains(&format!("id = \"{}\"\n", WEB.id)) {
            return table.to_owned();
        }
        let kind = format!("shift = {{ kind = \"resilient\", idle = \"{}s\" }}", IDLE.as_secs());
        table.replace("sticky = \"1s\"\n", &format!("sticky = \"1h\"\n{kind}\n"))
    });
    let tables: String = tables.collect();
    ensure!(tables.contains("resilient"), "no {} in {text}", WEB.id);
    Ok(fs::write(&path, tables)?)
}

/// The resilient groups of the entry, and for each how many buckets lead to each of its members.
fn buckets(lab: &Lab) -> Result<Vec<Vec<usize>>> {
    let ns = lab.ns(ENTRY)?;
    let shown = ns.output("ip", &["nexthop", "show"])?;
    let groups = shown.lines().filter(|line| line.contains("type resilient"));
    let id = |line: &str| line.split_whitespace().nth(1).map(str::to_owned).context("an id");
    let mut all = Vec::new();
    for group in groups.map(id).collect::<Result<Vec<_>>>()? {
        let text = ns.output("ip", &["nexthop", "bucket", "show", "id", &group])?;
        let of = |line: &str| line.split_once("nhid ").map(|(_, id)| id.trim().to_owned());
        let ways: Vec<String> = text.lines().filter_map(of).collect();
        let members: BTreeSet<&String> = ways.iter().collect();
        let count = |member| ways.iter().filter(|way| *way == member).count();
        all.push(members.into_iter().map(count).collect());
    }
    Ok(all)
}

/// Who answers each flow of each family, which is one server.
fn servers(traffic: &Traffic, since: u64) -> Result<Vec<Vec<String>>> {
    let each = traffic.each_so_far();
    let one = |flow: (usize, BTreeSet<&str>)| {
        let (number, servers) = flow;
        let names: Vec<&str> = servers.into_iter().collect();
        let [server] = names[..] else { bail!("flow {number} is answered by {names:?}") };
        Ok(server.to_owned())
    };
    let family = |report: &nett_netns_tests::traffic::Report| {
        report.by_flow(FLOWS, since).into_iter().enumerate().map(one).collect()
    };
    each.iter().map(family).collect()
}

#[test]
fn flows_in_use_stay_when_shares_change() -> Result<()> {
    tell_from_wires("flows_in_use_stay_when_shares_change", |lab| {
        keep_flows(lab)?;
        lab.start_nett()?;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        mira.complete(&["steer", WEB.id, "--to", "osl=50,svg=50"])?;
        let halves = buckets(lab)?;
        ensure!(halves == [[64, 64], [64, 64]], "{halves:?}");

        let begun = now();
        let traffic = Traffic::start(lab, &["osl-c1"], &WEB.vips(), FLOWS)?;
        traffic.run_for(2 * FLOWS)?;
        let before = servers(&traffic, begun)?;
        for family in &before {
            let home = family.iter().filter(|server| *server == "osl").count();
            ensure!((64..=192).contains(&home), "{home} of {FLOWS} are at osl");
        }

        let told = mira.order(&["steer", WEB.id, "--to", "osl=100"])?.must_be(0)?.json()?;
        let task = told["task"].as_str().context("a task")?.to_owned();
        let (shifted, _) = eventually(TASK, "the shares have changed", || {
            let shown = mira.run(&["-o", "json", "task", "show", &task])?.must_be(0)?.json()?;
            let steps = shown["ok"]["steps"].as_array().context("steps")?.clone();
            let shift = steps.iter().find(|step| step["kind"] == "shift").context("a shift")?;
            ensure!(shift["state"] == "done", "{shift}");
            Ok(now())
        })?;
        // Several packets of each flow behind the change.
        traffic.run_for(4 * FLOWS)?;
        let after = servers(&traffic, shifted)?;
        let pairs = before.iter().flatten().zip(after.iter().flatten());
        let moved = pairs.filter(|(before, after)| before != after).count();
        ensure!(moved == 0, "{moved} of {} flows moved", 2 * FLOWS);
        let report = traffic.finish();
        ensure!(report.lost() == 0, "{}", report.summary());

        eventually(IDLE + Duration::from_secs(5), "idle buckets move", || {
            let all = buckets(lab)?;
            ensure!(all == [[128], [128]], "{all:?}");
            Ok(())
        })?;
        let fresh = Traffic::start(lab, &["osl-c1"], &WEB.vips(), FLOWS)?;
        fresh.run_for(FLOWS)?;
        let report = fresh.finish();
        ensure!(report.answers_of("osl") == report.sent(), "{}", report.summary());
        Ok(())
    })
}
