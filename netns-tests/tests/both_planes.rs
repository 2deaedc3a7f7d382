//! One move, two planes: the name servers turn after the new site was verified and before the old
//! one is closed, each of them once; and the traffic of a service that does not move never comes
//! near the links.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nett_netns_tests::files::Node;
use nett_netns_tests::lab::Lab;
use nett_netns_tests::netns::Netns;
use nett_netns_tests::observe::counters;
use nett_netns_tests::observe::monitor::moment;
use nett_netns_tests::observe::sampler::{Sample, sample};
use nett_netns_tests::services::{API, Service, WEB};
use nett_netns_tests::story::{Operator, Traffic, tell};
use nett_netns_tests::topology::{LINKS, SITES};
use serde_json::Value;

/// Times in the record of a task are whole milliseconds, cut off.
const CUT_OFF: u64 = 1_000_000;

/// How long after an answer a name server is asked again.
const PACE: Duration = Duration::from_millis(5);

/// The samples of each name server, by its node.
type Samples = Vec<(String, Vec<Sample>)>;

/// Moves API to svg while every name server is asked, and returns the task and each one's samples.
fn move_and_sample(lab: &Lab) -> Result<(Value, Samples)> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut samplers = Vec::new();
        for node in Node::all() {
            let ns = lab.ns(&node.site.client())?;
            let [server, _] = node.addresses();
            let stop = &stop;
            let server: IpAddr = server.parse()?;
            let ask = move || sample(&ns, server, &API.dns_name(), PACE, stop);
            samplers.push((node.name, scope.spawn(ask)));
        }
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        let task = mira.complete_quietly(&["failover", API.id, "--to", "svg"]);
        stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for (node, sampler) in samplers {
            all.push((node, sampler.join().expect("a sampler returns its errors")?));
        }
        Ok((task?, all))
    })
}

fn step_time(task: &Value, kind: &str, field: &str) -> Result<u64> {
    let steps = task["steps"].as_array().context("a task has steps")?;
    let step = steps.iter().find(|s| s["kind"] == kind);
    let time = step.and_then(|s| s[field].as_str());
    moment(time.with_context(|| format!("no {field} of {kind}: {task}"))?)
}

#[expect(clippy::print_stderr, reason = "the numbers of the story, shown by --nocapture")]
fn show(text: &str) {
    eprintln!("{text}");
}

fn after(from: u64, to: u64) -> Duration {
    Duration::from_nanos(to.saturating_sub(from))
}

#[test]
fn every_name_server_turns_once_between_verification_and_withdrawal() -> Result<()> {
    tell("every_name_server_turns_once_between_verification_and_withdrawal", |lab| {
        let [osl, svg] = SITES.map(|s| API.answers(s)[0].parse::<Ipv4Addr>());
        let (osl, svg) = ([osl?], [svg?]);
        let (task, all) = move_and_sample(lab)?;
        let verified = step_time(&task, "verify", "done_at")?;
        let closing = step_time(&task, "withdraw", "started_at")?;
        assert!(verified < closing, "{task}");
        for (node, samples) in all {
            let turn = samples.iter().position(|s| s.addresses == svg);
            let turn = turn.with_context(|| format!("{node} never turned"))?;
            let (old, new) = samples.split_at(turn);
            assert!(old.len() > 1 && new.len() > 20, "{node}: {} and {}", old.len(), new.len());
            assert!(old.iter().all(|s| s.addresses == osl), "{node}: an answer of neither site");
            assert!(new.iter().all(|s| s.addresses == svg), "{node}: turned back");
            let (last, first) = (&old[old.len() - 1], &new[0]);
            assert!(first.answered >= verified, "{node}: turned before the verification's end");
            assert!(last.asked < closing + CUT_OFF, "{node}: the old answer while it is closed");
            show(&format!(
                "{node}: {} samples, turned {:?} to {:?} after the verification, {:?} before the \
                 withdrawal",
                samples.len(),
                after(verified, last.asked),
                after(verified, first.answered),
                after(first.answered, closing),
            ));
        }
        Ok(())
    })
}

/// Counts on a border what crosses its links from or to the VIPs of a service.
fn count_crossings(ns: &Netns, services: &[(&str, Service)]) -> Result<()> {
    let links: Vec<String> = LINKS.iter().map(|l| format!("\"{}\"", l.interface)).collect();
    let links = format!("{{ {} }}", links.join(", "));
    let (mut counters, mut rules) = (String::new(), String::new());
    for (name, service) in services {
        counters += &format!("  counter {name} {{ }}\n");
        for (family, vip) in ["ip", "ip6"].iter().zip(service.vips()) {
            for end in ["saddr", "daddr"] {
                rules +=
                    &format!("    meta ACROSS {links} {family} {end} {vip} counter name {name}\n");
            }
        }
    }
    let chain = |name: &str, hook: &str, across: &str| {
        let rules = rules.replace("ACROSS", across);
        format!("  chain {name} {{\n    type filter hook {hook} priority 300;\n{rules}  }}\n")
    };
    // Before anything of Nett's may drop it on the way in, and after everything on the way out.
    let incoming = chain("incoming", "prerouting", "iifname").replace("300", "-400");
    let outgoing = chain("outgoing", "postrouting", "oifname");
    ns.nft(&format!("table inet crossing {{\n{counters}{incoming}{outgoing}}}\n"))
}

#[test]
fn traffic_that_stays_in_its_site_never_crosses_a_link() -> Result<()> {
    tell("traffic_that_stays_in_its_site_never_crosses_a_link", |lab| {
        let borders = SITES.map(|s| lab.ns(&s.border()));
        let borders = borders.into_iter().collect::<Result<Vec<_>>>()?;
        for border in &borders {
            count_crossings(border, &[("local", WEB), ("moved", API)])?;
        }
        let local = Traffic::to_vips(lab, &["osl-c1", "outside"], WEB)?;
        let moved = Traffic::to_vips(lab, &["osl-c1"], API)?;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        mira.complete(&["failover", API.id, "--to", "svg"])?;
        moved.settles_on("svg")?;
        mira.complete(&["failback", API.id])?;
        moved.settles_on("osl")?;
        let (local, moved) = (local.finish(), moved.finish());
        assert_eq!((local.lost(), local.answers_of("osl")), (0, local.sent()));
        assert_eq!(moved.lost(), 0, "{}", moved.summary());
        for (site, border) in SITES.iter().zip(&borders) {
            let counted = counters::named(border, "crossing")?;
            show(&format!("{}: {counted:?}; {} local packets", site.border(), local.sent()));
            assert_eq!(counted["local"], 0, "{}", site.border());
            assert!(counted["moved"] > 100, "{}: the instrument is blind", site.border());
        }
        Ok(())
    })
}
