//! A link of 1 Mbit/s with a queue that knows classes, and a flood over it:
//! its sessions stay up, it is told as full, at both ends and in no quiet time; and one direction
//! that is cut under the flood is noticed all the same.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually_true, patience};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::netns::Netns;
use nett_netns_tests::observe::http::metric;
use nett_netns_tests::services::VAULT;
use nett_netns_tests::story::{TASK, tell_from_wires};
use nett_netns_tests::topology::LINKS;
use nett_netns_tests::traffic::{Running, Target};

const ENDS: [&str; 2] = ["osl-b1", "svg-b1"];
const LINK: &str = LINKS[0].id;
const WAN: &str = LINKS[0].interface;
/// Packets a second of each flood and family: four megabits in all, each way.
const FLOOD: u32 = 2500;
/// From the cut of a direction until both ends know it: 900 ms of detection, three times that for
/// a busy machine.
const LEFT: Duration = Duration::from_millis(2700);

fn of_link(ns: &Netns, name: &str) -> Result<Option<f64>> {
    metric(ns, &format!("{name}{{link=\"{LINK}\"}} "))
}

fn is(ns: &Netns, name: &str) -> Result<bool> {
    Ok(of_link(ns, name)? == Some(1.0))
}

/// Sessions of the link that went down, at both ends.
fn downs(ends: &[Netns; 2]) -> Result<f64> {
    let name = format!("nett_bfd_transitions_total{{link=\"{LINK}\",to=\"down\"}} ");
    let each = ends.iter().map(|end| Ok(metric(end, &name)?.unwrap_or(0.0)));
    each.sum()
}

fn ups(ends: &[Netns; 2]) -> Result<f64> {
    let name = format!("nett_bfd_transitions_total{{link=\"{LINK}\",to=\"up\"}} ");
    let each = ends.iter().map(|end| Ok(metric(end, &name)?.unwrap_or(0.0)));
    each.sum()
}

/// The fabric says what the links take.
fn with_capacity(lab: &Lab) -> Result<()> {
    let path = lab.layout().fabric();
    let text = fs::read_to_string(&path)?;
    ensure!(text.contains("capacity = \"10G\""), "{text}");
    Ok(fs::write(&path, text.replace("capacity = \"10G\"", "capacity = \"1M\""))?)
}

fn narrow(ns: &Netns) -> Result<()> {
    let tc = |line: String| ns.output("tc", &line.split_whitespace().collect::<Vec<_>>());
    tc(format!("qdisc add dev {WAN} root handle 1: tbf rate 1mbit burst 10kb latency 400ms"))?;
    tc(format!("qdisc replace dev {WAN} parent 1:1 handle 10: pfifo_fast"))?;
    Ok(())
}

fn flood(lab: &Lab) -> Result<Vec<Running>> {
    let from = lab.ns("osl-c1")?;
    let vips = VAULT.vips();
    let target = |vip: &String| -> Result<Target> {
        let vip: IpAddr = vip.parse()?;
        Ok(Target::new(vip, FLOOD).with_flows(16))
    };
    vips.iter().map(|vip| Running::start(&from, target(vip)?)).collect()
}

#[test]
fn a_flood_is_told_as_a_full_link_and_takes_no_link_down() -> Result<()> {
    tell_from_wires("a_flood_is_told_as_a_full_link_and_takes_no_link_down", |lab| {
        with_capacity(lab)?;
        lab.start_nett()?;
        let ends = [lab.ns(ENDS[0])?, lab.ns(ENDS[1])?];
        eventually_true(TASK, "the sessions are up", || Ok(ups(&ends)? >= 4.0))?;
        lab.cut(LINKS[1].id)?;
        for end in &ends {
            narrow(end)?;
        }

        // Some hundred kbit/s, for longer than it takes to be told.
        let calm = Running::start(&lab.ns("osl-c1")?, Target::new(VAULT.vips()[0].parse()?, 100))?;
        let begun = Instant::now();
        eventually_true(TASK * 2, "calm traffic runs", || {
            for end in &ends {
                ensure!(of_link(end, "nett_link_saturated")? == Some(0.0), "told without a flood");
            }
            Ok(begun.elapsed() > Duration::from_secs(15))
        })?;
        drop(calm.finish());
        let before = downs(&ends)?;

        let floods = flood(lab)?;
        let begun = Instant::now();
        for end in &ends {
            eventually_true(TASK * 2, "it is told", || is(end, "nett_link_saturated"))?;
        }
        show(&format!("told after {:?} of the flood", begun.elapsed()));
        for (end, ns) in ENDS.iter().zip(&ends) {
            ensure!(is(ns, "nett_link_up")?, "{end} takes a full link for a dead one");
            for args in [&["link", "show", LINK][..], &["link", "list"], &["status"]] {
                let text = lab.nettctl(end, "mira", args)?.must_be(0)?.out;
                ensure!(text.contains("saturated: sends "), "{end}, {args:?}: {text}");
            }
            let args = ["-o", "json", "link", "show", LINK];
            let told = lab.nettctl(end, "mira", &args)?.must_be(0)?.json()?;
            let link = &told["ok"]["links"][0];
            let own = if link["a"]["node"] == *end { &link["a"] } else { &link["b"] };
            let sent = own["saturated"]["sent_bps"].as_u64().context("a rate")?;
            show(&format!("{end}: {}", own["saturated"]));
            ensure!((700_000..1_300_000).contains(&sent), "{end} sends {sent} bit/s of 1 Mbit/s");
        }
        let begun = Instant::now();
        eventually_true(TASK * 2, "the flood goes on", || {
            for end in &ends {
                ensure!(is(end, "nett_link_up")?, "a full link is taken for a dead one");
            }
            Ok(begun.elapsed() > Duration::from_secs(10))
        })?;
        ensure!(downs(&ends)? == before, "a session broke");
        floods.into_iter().for_each(|flood| drop(flood.finish()));
        let begun = Instant::now();
        for end in &ends {
            let over = || Ok(of_link(end, "nett_link_saturated")? == Some(0.0));
            eventually_true(TASK * 2, "it is over", over)?;
        }
        show(&format!("over {:?} after the flood", begun.elapsed()));
        let audit = lab.nettctl(ENDS[0], "mira", &["audit"])?.must_be(0)?.out;
        for line in ["saturated: sends ", "saturated no more"] {
            ensure!(audit.matches(line).count() == 1, "`{line}` is there once: {audit}");
        }
        one_way(lab, &ends)
    })
}

/// One direction is dead under a flood: what comes in from the other is no sign of life for it.
fn one_way(lab: &Lab, ends: &[Netns; 2]) -> Result<()> {
    let floods = flood(lab)?;
    eventually_true(TASK * 2, "it is told again", || is(&ends[0], "nett_link_saturated"))?;
    let cut = Instant::now();
    ends[1].nft(&format!(
        "add table netdev silent\n\
         add chain netdev silent in {{ type filter hook ingress device {WAN} priority 0; }}\n\
         add rule netdev silent in counter drop\n"
    ))?;
    for end in ends {
        let left = || Ok(!is(end, "nett_link_up")?);
        eventually_true(patience(), "both ends know that one direction is dead", left)?;
    }
    let took = cut.elapsed();
    show(&format!("one direction cut under the flood: known to both after {took:?}"));
    ensure!(took < LEFT, "{took:?}");
    let audit = lab.nettctl(ENDS[0], "mira", &["audit"])?.must_be(0)?.out;
    ensure!(audit.contains("the session broke while it was saturated"), "{audit}");
    ends[1].nft("delete table netdev silent")?;
    floods.into_iter().for_each(|flood| drop(flood.finish()));
    Ok(())
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
