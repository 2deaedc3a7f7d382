//! A dead site's services go elsewhere by one command with one approval, and come back by one:
//! `make evacuate` with 100,000 of them, `make test` with few.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::services::{ROOT, VAULT};
use nett_netns_tests::story::{Operator, Traffic, tell_of_wires};
use nett_netns_tests::topology::{NET_SERVICE, Shape};
use serde_json::Value;

/// One service in this many is defined for the dead site alone: it has nowhere to go.
const STUCK: usize = 50;

/// An agent has much else to do when a site with very many services comes or goes.
const LONG: &str = "2m";

fn services() -> usize {
    let given = std::env::var("NETT_MANY").ok().and_then(|text| text.parse().ok());
    given.unwrap_or(500)
}

/// Services whose primary is svg, of every category, each with a VIP.
fn add_services(lab: &Lab, count: usize) -> Result<()> {
    let mut text = String::new();
    for n in 0..count {
        let (category, next) = (["A", "B", "C"][n % 3], ["osl", "trd"][n % 2]);
        let standby = if n % STUCK == 0 { String::new() } else { format!("\"{next}\"") };
        text += &format!(
            "[[service]]\nid = \"bulk/prod/s{n:06}\"\ncategory = \"{category}\"\n\
             primary = \"svg\"\nstandby = [{standby}]\nsticky = \"1s\"\n\
             vips = [\"fd00:99::{:x}:{:x}\"]\n",
            n / 0xfff0 + 1,
            n % 0xfff0 + 1
        );
        for site in lab.shape().sites {
            if site.id == "svg" || (site.id == next && n % STUCK != 0) {
                let [_, v6] = site.addresses(NET_SERVICE, 2);
                text += &format!("backends.{} = [{{ address = \"{v6}\" }}]\n", site.id);
            }
        }
    }
    // To start an exclusive one elsewhere on somebody's word takes one approval more.
    let of_lab = fs::read_to_string(lab.layout().services())?;
    let kept: Vec<&str> = of_lab.split("[[service]]").filter(|s| !s.contains(ROOT.id)).collect();
    Ok(fs::write(lab.layout().services(), kept.join("[[service]]") + &text)?)
}

/// The servers answer for all of these VIPs; those of osl not for the first of them, whatever the
/// routers do.
fn serve(lab: &Lab, count: usize) -> Result<()> {
    for site in lab.shape().sites {
        let server = lab.ns(&site.service_host())?;
        server.ip("-6 route add local fd00:99::/48 dev lo")?;
        if site.id == "osl" {
            let broken = (count / 16).next_power_of_two().trailing_zeros();
            let length = 128 - broken;
            server.ip(&format!("-6 route add blackhole fd00:99::1:0/{length} table local"))?;
        }
    }
    Ok(())
}

/// How many of the services are served at each site now, and at none.
fn places(operator: &Operator<'_>) -> Result<BTreeMap<String, usize>> {
    let told = operator.run(&["-o", "json", "service", "list"])?.must_be(0)?;
    let told = told.json()?;
    let mut places = BTreeMap::new();
    for one in told["ok"]["services"].as_array().into_iter().flatten() {
        if one["id"].as_str().is_some_and(|id| id.starts_with("bulk/")) {
            let spread = one["spread"].as_str().context("a service is somewhere")?;
            *places.entry(spread.to_owned()).or_default() += 1;
        }
    }
    Ok(places)
}

/// Waits until the task has ended, and returns it as `task show` does.
fn ended(operator: &Operator<'_>, task: &str) -> Result<Value> {
    let (shown, took) = eventually(patience() * 12, &format!("task {task} ends"), || {
        let told = operator.run(&["-o", "json", "task", "show", task])?.must_be(0)?;
        let shown = told.json()?["ok"].take();
        let open = ["waiting-approval", "running"].map(Value::from);
        ensure!(!open.contains(&shown["state"]), "it is {}", shown["state"]);
        Ok(shown)
    })
    .or_else(|error| Err(error.context(operator.run(&["task", "show", task])?.out)))?;
    show(&format!("{} is {} after {took:?}", shown["verb"], shown["state"]));
    Ok(shown)
}

#[test]
fn a_dead_site_is_evacuated_by_one_command_and_reverted_by_one() -> Result<()> {
    let story = "a_dead_site_is_evacuated_by_one_command_and_reverted_by_one";
    let count = services();
    tell_of_wires(story, Shape::THREE, |lab| {
        add_services(lab, count)?;
        serve(lab, count)?;
        lab.start_nett()?;
        let [_, svg, _] = *lab.shape().sites else { unreachable!("three sites") };
        let traffic = Traffic::to_vips(lab, &["osl-c1", "trd-c1"], VAULT)?;
        traffic.settles_on("svg")?;
        lab.isolate(svg)?;
        for node in ["svg-b1", "svg-r1"] {
            lab.take_process(&agent_name(node))?.kill();
        }
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        let evacuate = ["evacuate", "svg", "--fencing", "asserted", "--timeout", LONG];
        // Until the two sites that are left hear each other without the third, leases refuse it.
        let order = || {
            let told = mira.order(&evacuate)?.must_be(4)?;
            ensure!(told.out.contains("last-eligible-site"), "{}", told.out);
            mira.propose(&[&evacuate[..], &["--override", "last-eligible-site"]].concat())
        };
        let begun = Instant::now();
        let (task, _) = eventually(patience() * 4, "the site is evacuated", order)?;
        show(&format!("{count} services: refused once and accepted in {:?}", begun.elapsed()));
        let jon = Operator { lab, node: "trd-b1", name: "jon" };
        eventually(patience() * 12, "the other site knows the task", || jon.state_of(&task))?;
        jon.approve(&task)?;
        let shown = ended(&mira, &task)?;
        // What does not answer where it went is listed, and holds up nothing else.
        let reason = shown["outcome_reason"].as_str().context("a reason")?;
        ensure!(shown["state"] == "failed" && reason.contains("no echo reply"), "{reason}");
        ensure!(reason.contains("bulk/prod/s000002 at osl"), "{reason}");
        traffic.settles_on("osl")?;
        let stuck = count.div_ceil(STUCK);
        // Those that are stuck have even numbers.
        let expected = [("nowhere", stuck), ("osl", count / 2 - stuck), ("trd", count / 2)];
        assert_eq!(places(&mira)?, expected.map(|(site, n)| (site.to_owned(), n)).into());
        lab.rejoin(svg)?;
        for node in ["svg-b1", "svg-r1"] {
            lab.start_agent(node)?;
        }
        for node in ["svg-b1", "svg-r1"] {
            lab.wait_for_agent(node)?;
        }
        for node in lab.nodes() {
            lab.wait_for_contact(&node.name)?;
        }
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        let told = mira.order(&["revert", &task, "--timeout", LONG])?.must_be(0)?.json()?;
        let shown = ended(&mira, told["task"].as_str().context("a task")?)?;
        ensure!(shown["state"] == "done", "{shown:#}");
        traffic.settles_on("svg")?;
        assert_eq!(places(&mira)?, BTreeMap::from([("svg".to_owned(), count)]));
        Ok(())
    })
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
