//! A service that says when a site is drained: the last step of a move waits for the counters of
//! the site it leaves, says how much still comes, and ends soon after that does.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nett_netns_tests::eventually::eventually;
use nett_netns_tests::lab::Lab;
use nett_netns_tests::services::{Service, WEB};
use nett_netns_tests::story::{Operator, RATE, TASK, Traffic, tell_from_wires};
use nett_netns_tests::traffic::{Running, Target};
use serde_json::Value;

const DWELL: Duration = Duration::from_secs(1);

/// The service says when a site is drained.
fn measure(lab: &Lab, service: Service) -> Result<()> {
    let path = lab.layout().services();
    let text = fs::read_to_string(&path)?;
    let id = format!("id = \"{}\"\n", service.id);
    ensure!(text.contains(&id), "no {id} in {text}");
    let drain = format!("{id}drain = {{ pps = 1, dwell = \"{}s\" }}\n", DWELL.as_secs());
    Ok(fs::write(&path, text.replace(&id, &drain))?)
}

/// Somebody at svg's border who goes on sending over the link to osl, whatever Nett says.
fn stubborn(lab: &Lab) -> Result<Running> {
    let ns = lab.ns("svg-b1")?;
    let [vip, _] = WEB.vips();
    ns.ip("route add default via 172.31.0.1 table 99")?;
    ns.ip(&format!("rule add pref 99 iif lo to {vip} lookup 99"))?;
    let vip: IpAddr = vip.parse()?;
    Running::start(&ns, Target::new(vip, 50))
}

fn drained_step(shown: &Value) -> Result<&Value> {
    let steps = shown["ok"]["steps"].as_array().context("a task has steps")?;
    let last = steps.last().context("it has some")?;
    ensure!(last["kind"] == "drained", "the last step is {last}");
    Ok(last)
}

/// What nft itself lists as counted for the service, which stands apart from its class.
fn listed(lab: &Lab, node: &str) -> Result<u64> {
    let text = lab.ns(node)?.output("nft", &["list", "set", "inet", "nett", "count_to4"])?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let counts = words.windows(2).filter(|pair| pair[0] == "packets");
    Ok(counts.filter_map(|pair| pair[1].parse::<u64>().ok()).sum())
}

#[test]
fn a_move_ends_when_what_it_leaves_is_measured_to_be_quiet() -> Result<()> {
    tell_from_wires("a_move_ends_when_what_it_leaves_is_measured_to_be_quiet", |lab| {
        measure(lab, WEB)?;
        lab.start_nett()?;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        let traffic = Traffic::to_vips(lab, &["osl-c1", "svg-c1"], WEB)?;
        let comes = stubborn(lab)?;
        let told = mira.order(&["failover", WEB.id, "--to", "svg"])?.must_be(0)?.json()?;
        let task = told["task"].as_str().context("a task")?.to_owned();
        let show = || mira.run(&["-o", "json", "task", "show", &task])?.must_be(0)?.json();

        // Twice the dwell, and it still waits, because packets come.
        let (_, _) = eventually(TASK, "what still comes is told", || {
            let shown = show()?;
            let step = drained_step(&shown)?;
            let told = step["acknowledge"].to_string();
            ensure!(told.contains("/s to it"), "{step}");
            let rate = told.split("\"told\":[\"").filter_map(|part| part.split('/').next());
            let rates: Vec<u64> = rate.filter_map(|text| text.parse().ok()).collect();
            ensure!(rates.iter().any(|rate| (20..=100).contains(rate)), "{rates:?} in {told}");
            Ok(())
        })?;
        let before = listed(lab, "osl-b1")?;
        let since = Instant::now();
        eventually(TASK, "twice the dwell passes", || match since.elapsed() >= 2 * DWELL {
            true => Ok(()),
            false => bail!("not yet"),
        })?;
        ensure!(drained_step(&show()?)?["state"] == "started", "it ended while packets came");
        let grown = listed(lab, "osl-b1")? - before;
        ensure!(grown >= 50, "nft counted {grown} packets in {DWELL:?} twice");

        let sent = comes.finish();
        let silent = Instant::now();
        mira.wait_for(&task, "done")?;
        let took = silent.elapsed();
        // A look each second: the first may still see packets, and the dwell ends between two.
        let most = DWELL + Duration::from_secs(3);
        ensure!(took >= DWELL - Duration::from_millis(500) && took <= most, "{took:?}");
        let shown = show()?;
        let evidence = drained_step(&shown)?["evidence"].to_string();
        ensure!(evidence.contains("measured: what was left is quiet"), "{evidence}");
        ensure!(!shown["ok"]["times"]["drained"].is_null(), "{shown}");
        ensure!(shown["ok"]["outcome_reason"] == "", "{shown}");
        ensure!(sent.sent() > 100, "the instrument sent nothing");
        eventually(TASK, "nobody counts any more", || {
            let text =
                lab.ns("osl-b1")?.output("nft", &["list", "set", "inet", "nett", "counting"])?;
            ensure!(!text.contains("elements"), "{text}");
            Ok(())
        })?;
        traffic.settles_on("svg")?;
        let report = traffic.finish();
        ensure!(report.lost() == 0, "{} at {RATE}/s", report.summary());
        show_line(&format!("ended {took:?} after the last packet; {evidence}"));
        Ok(())
    })
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show_line(line: &str) {
    eprintln!("{line}");
}
