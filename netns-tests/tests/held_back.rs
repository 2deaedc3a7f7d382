//! When somebody takes all rules of a border away, and its agent does not put them back, packets to
//! VIPs follow the main table; the guard holds them back from ways that are none of ours.

use anyhow::{Result, ensure};
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::netns::Netns;
use nett_netns_tests::observe::counters;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::services::{EDGE, VAULT, WEB};
use nett_netns_tests::story::{Operator, TASK, Traffic, tell};
use nett_netns_tests::topology::SITES;
use nix::sys::signal::Signal;

const NODE: &str = "osl-b1";

/// Removes our rules of both families.
fn take_rules(ns: &Netns) -> Result<()> {
    for family in ["-4", "-6"] {
        let listed = ns.ip(&format!("{family} rule show"))?;
        let priorities = listed.lines().filter_map(|line| line.split(':').next()?.parse().ok());
        let ours = priorities.filter(|pref: &u32| (4400..4500).contains(pref));
        let gone: Vec<String> = ours.map(|pref| format!("{family} rule del pref {pref}")).collect();
        ensure!(!gone.is_empty(), "no rule of ours in {listed}");
        gone.iter().try_for_each(|line| ns.ip(line).map(drop))?;
    }
    Ok(())
}

fn leak(ns: &Netns) -> Result<u64> {
    Ok(counters::named(ns, "nett")?.get("leak").copied().unwrap_or(0))
}

#[test]
fn without_rules_no_packet_to_a_vip_takes_the_default_route() -> Result<()> {
    tell("without_rules_no_packet_to_a_vip_takes_the_default_route", |lab| {
        let ns = lab.ns(NODE)?;
        let whole = Kernel::of(&ns)?;
        let before = lab.leaks()?;
        let stopped = leak(&ns)?;
        // Served elsewhere, served here, and by clients that come in by the uplink.
        let away = Traffic::to_vips(lab, &["osl-c1"], VAULT)?;
        let home = Traffic::to_vips(lab, &["osl-c1"], WEB)?;
        lab.route_vips_over(SITES[0])?;
        let outside = Traffic::to_vips(lab, &["outside"], EDGE)?;
        outside.settles_on("osl")?;
        ensure!(leak(&ns)? == stopped, "all of that goes by our ways");

        lab.process(&agent_name(NODE))?.signal(Signal::SIGSTOP)?;
        take_rules(&ns)?;
        away.run_for(1000)?;
        home.run_for(1000)?;
        let held = leak(&ns)? - stopped;
        show(&format!("{held} packets were held back in the second without rules"));
        ensure!(held > 500, "{held}: the instrument is blind");
        let leaked = lab.leaks()?.since(&before);
        let vips: Vec<_> = leaked.0.iter().filter(|(name, _)| name.starts_with("vip_")).collect();
        assert_eq!(vips, Vec::<(&String, &u64)>::new(), "packets left by the uplink");

        lab.process(&agent_name(NODE))?.signal(Signal::SIGCONT)?;
        eventually(patience(), "the rules are back", || {
            let left = whole.changes(&Kernel::of(&ns)?);
            ensure!(left.is_empty(), "{}", left.join("\n"));
            Ok(())
        })?;
        away.settles_on("svg")?;
        let near = home.finish();
        assert_eq!(near.lost(), 0, "what stays in the site: {}", near.summary());
        // What was sent by the default route before is lost on purpose; it is served again.
        outside.settles_on("osl")?;
        drop((away.finish(), outside.finish()));
        is_alarmed(lab)
    })
}

/// That it had to hold them is an alarm.
fn is_alarmed(lab: &Lab) -> Result<()> {
    let mira = Operator { lab, node: "svg-b1", name: "mira" };
    eventually(TASK, "the operator is told", || {
        let out = mira.run(&["node", "show", NODE])?.must_be(0)?.out;
        ensure!(out.contains("(leak)"), "{out}");
        let proved = mira.run(&["prove", "separation"])?;
        ensure!(proved.code == Some(1), "{}", proved.out);
        Ok(())
    })
    .map(drop)
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
