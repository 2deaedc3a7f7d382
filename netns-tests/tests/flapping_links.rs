//! A carrier that comes and goes: the first returns are used at once; then
//! the link is held down, and the kernel's groups are left alone until it has stayed up. Where it
//! is the only way, it is used each time.
//!
//! Times are those of `ip -ts monitor` and of packets, a thousand a second of each family.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::netns::Netns;
use nett_netns_tests::observe::changes::PROTOCOL;
use nett_netns_tests::observe::http::metric;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::observe::monitor::Monitor;
use nett_netns_tests::services::VAULT;
use nett_netns_tests::story::{Traffic, tell};
use nett_netns_tests::topology::LINKS;
use nett_netns_tests::traffic::now;

/// What a link has to stay up after it was held down for the first time.
const HELD: Duration = Duration::from_secs(5);
/// Its end is known to the millisecond; how late the machine is, is not.
const LATE: Duration = Duration::from_secs(2);
/// A link that is the only way is used so soon after its carrier.
const ONLY_WAY: Duration = Duration::from_secs(1);
/// The most packets that the loss of a carrier may cost: what was on its way, and what the kernel
/// sent there until it knew. Usually one; thirty milliseconds of a busy machine.
const LOST: usize = 60;
/// Flaps after which the link is held down on any machine: the third is enough.
const BELIEVED: usize = 4;
/// The most changes of groups for a return that is believed: two for each family, and as many again
/// where one of them comes later.
const GROUPS: usize = 8;

#[expect(clippy::print_stderr, reason = "the numbers of the story, shown by --nocapture")]
fn show(line: &str) {
    eprintln!("{line}");
}

/// The kernel has all that is ours again.
fn is_whole(border: &Netns, whole: &Kernel, within: Duration) -> Result<Duration> {
    let looked = eventually(within, "the kernel is as it was", || {
        let mut changes = whole.changes(&Kernel::of(border)?);
        changes.retain(|line| line.contains("nft") || line.contains(PROTOCOL));
        ensure!(changes.is_empty(), "{changes:#?}");
        Ok(())
    });
    looked.map(|((), took)| took)
}

/// What the end of the first link at the border is said to be, by its own agent.
fn shown(lab: &Lab) -> Result<serde_json::Value> {
    let args = ["-o", "json", "link", "show", LINKS[0].id];
    let told = lab.nettctl("osl-b1", "mira", &args)?.must_be(0)?.json()?;
    Ok(told["ok"]["links"][0]["a"].clone())
}

fn of_link(border: &Netns, name: &str) -> Result<f64> {
    let name = format!("{name}{{link=\"{}\"}} ", LINKS[0].id);
    Ok(metric(border, &name)?.unwrap_or(0.0))
}

#[test]
fn a_link_that_flaps_is_held_down_and_used_again_when_it_has_stayed_up() -> Result<()> {
    tell("a_link_that_flaps_is_held_down_and_used_again_when_it_has_stayed_up", |lab| {
        let border = lab.ns("osl-b1")?;
        let whole = Kernel::of(&border)?;
        let leaks = lab.leaks()?;
        let far = Traffic::start(lab, &["osl-c1"], &VAULT.vips(), 16)?;
        far.settles_on("svg")?;

        // Once, and for a second: used at once.
        lab.cut(LINKS[0].id)?;
        far.run_for(1000)?;
        lab.restore(LINKS[0].id)?;
        let took = is_whole(&border, &whole, patience())?;
        show(&format!("one flap of a second: whole after {took:?}"));
        ensure!(took < LATE, "{took:?}");

        let monitor = Monitor::timed(&border, lab.layout().log("flaps"))?;
        let begun = now();
        let (mut held, mut back) = (begun, begun);
        for flap in 0..20 {
            if flap > 0 {
                far.run_for(100)?;
            }
            if flap == BELIEVED {
                held = now();
            }
            lab.cut(LINKS[0].id)?;
            far.run_for(100)?;
            back = now();
            lab.restore(LINKS[0].id)?;
        }
        let end = shown(lab)?;
        ensure!(end["held"]["losses"].as_u64() >= Some(3), "{end}");
        ensure!(end["state"] == "down", "{end}");
        ensure!(of_link(&border, "nett_link_held")? == 1.0, "not in the metrics");
        ensure!(of_link(&border, "nett_link_up")? == 0.0, "not in the metrics");
        let losses = of_link(&border, "nett_link_losses_total")?;
        ensure!((18.0..=21.0).contains(&losses), "{losses} losses were counted");
        let text = lab.nettctl("osl-b1", "mira", &["link", "list"])?.must_be(0)?.out;
        ensure!(text.contains("held down, flapped"), "{text}");
        let text = lab.nettctl("svg-b1", "mira", &["status", "--all-sites"])?.must_be(0)?.out;
        ensure!(text.contains("held down, flapped"), "another site does not know it: {text}");

        is_whole(&border, &whole, HELD + patience())?;
        let events = monitor.finish_timed()?;
        let is_group = |(at, line): &&(u64, String)| {
            *at > begun && line.contains(" group ") && line.contains(PROTOCOL)
        };
        let groups = events.iter().filter(is_group);
        let (early, late): (Vec<&(u64, String)>, Vec<_>) = groups.partition(|(at, _)| *at < held);
        let again = late.first().context("it was never used again")?.0.saturating_sub(back);
        let again = Duration::from_nanos(again);
        let settled = far.settles_on("svg")?;
        let first = far.so_far().between(begun, held);
        let then = far.so_far().between(held, settled);
        show(&format!(
            "20 flaps of 100 ms: {} changes of groups until it was held down, {} when it was used \
             again, {again:?} after its last return; first {}, then {}",
            early.len(),
            late.len(),
            first.summary(),
            then.summary()
        ));
        ensure!(early.len() <= BELIEVED * GROUPS, "{early:#?}");
        ensure!(late.len() <= GROUPS, "{late:#?}");
        ensure!(again >= HELD && again < HELD + LATE, "used again after {again:?}");
        ensure!(first.lost() <= BELIEVED * LOST, "{}", first.summary());
        ensure!(then.lost() == 0, "held down, and packets are lost: {}", then.summary());
        ensure!(shown(lab)?["held"].is_null(), "{}", shown(lab)?);
        let audit = lab.nettctl("osl-b1", "mira", &["audit"])?.must_be(0)?.out;
        for line in ["held down until it has stayed up for 5 s", "is held down no more"] {
            ensure!(audit.contains(line), "no `{line}` in {audit}");
        }
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);
        drop(far.finish());
        Ok(())
    })
}

#[test]
fn the_only_way_is_used_each_time_however_often_it_flaps() -> Result<()> {
    tell("the_only_way_is_used_each_time_however_often_it_flaps", |lab| {
        let leaks = lab.leaks()?;
        lab.cut(LINKS[1].id)?;
        let far = Traffic::start(lab, &["osl-c1"], &VAULT.vips(), 16)?;
        far.settles_on("svg")?;
        let mut times = Vec::new();
        for _ in 0..8 {
            lab.cut(LINKS[0].id)?;
            far.run_for(100)?;
            let back = now();
            lab.restore(LINKS[0].id)?;
            let settled = far.settles_on("svg")?;
            times.push(Duration::from_nanos(settled.saturating_sub(back)));
        }
        let end = shown(lab)?;
        ensure!(end["held"]["losses"].as_u64() >= Some(6), "{end}");
        times.sort();
        show(&format!("used again after {times:?}"));
        // Packets are lost on a machine that is busy, too: half of them show what the agent needs.
        ensure!(times[times.len() / 2] < ONLY_WAY, "{times:?}");
        lab.restore(LINKS[1].id)?;
        far.settles_on("svg")?;
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);
        drop(far.finish());
        Ok(())
    })
}
