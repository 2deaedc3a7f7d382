//! Leased services with real packets: whoever dies or is stopped, no packet is ever served
//! by two sites, and another site takes over in time.

use std::time::Duration;

use anyhow::Result;
use nett_netns_tests::files::Node;
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::services::LEDGER;
use nett_netns_tests::story::{Operator, Traffic, tell_of};
use nett_netns_tests::topology::{Shape, Site};
use nett_netns_tests::traffic::Report;
use nix::sys::signal::Signal;

/// Clients at every site: those of the holder's own site must lose it, too.
const CLIENTS: [&str; 3] = ["osl-c1", "svg-c1", "trd-c1"];
/// The lab's lease and wait, with what a round, the log and the kernel take.
const TAKEN_OVER: Duration = Duration::from_secs(6 + 9 + 6);
/// What the bus takes to join two sites again that were joined by a third one, now cut off: three
/// pings of the last site's server, its way out of a write, and its dials.
const JOINED: Duration = Duration::from_secs(15 + 5 + 4);

fn osl(lab: &Lab) -> Site {
    lab.shape().sites[0]
}

/// Signals both agents of the holder's site.
fn signal(lab: &mut Lab, signal: Signal) -> Result<()> {
    for node in Node::of_site(osl(lab)) {
        lab.process(&agent_name(&node.name))?.signal(signal)?;
    }
    Ok(())
}

fn assert_one_at_a_time(report: &Report) {
    assert_eq!(report.overlap("osl", "svg"), Duration::ZERO, "{}", report.summary());
    let both = report.answers_of("osl") > 0 && report.answers_of("svg") > 0;
    assert!(both, "{}", report.summary());
}

/// The agents of the holder's site end as `end` says; svg takes over without a word of theirs.
fn taken_over(
    lab: &mut Lab,
    within: Duration,
    end: impl Fn(&mut Lab) -> Result<()>,
) -> Result<Traffic> {
    let traffic = Traffic::to_vips(lab, &CLIENTS, LEDGER)?;
    traffic.settles_on("osl")?;
    end(lab)?;
    let mira = Operator { lab, node: "svg-b1", name: "mira" };
    mira.complete_quietly(&["failover", LEDGER.id, "--to", "svg"])?;
    traffic.run_for(500)?;
    let report = traffic.so_far();
    assert_one_at_a_time(&report);
    let away = report.longest_outage();
    assert!(away < within, "away for {away:?}: {}", report.summary());
    Ok(traffic)
}

#[test]
fn stopped_agents_lose_the_lease_in_the_kernel() -> Result<()> {
    tell_of("stopped_agents_lose_the_lease_in_the_kernel", Shape::THREE, |lab| {
        let traffic = taken_over(lab, TAKEN_OVER, |lab| signal(lab, Signal::SIGSTOP))?;
        // They wake up with everything that they knew, and with a gate that has ended.
        signal(lab, Signal::SIGCONT)?;
        traffic.settles_on("svg")?;
        traffic.run_for(3000)?;
        let report = traffic.finish();
        assert_one_at_a_time(&report);
        Ok(())
    })
}

#[test]
fn killed_agents_lose_the_lease_in_the_kernel() -> Result<()> {
    tell_of("killed_agents_lose_the_lease_in_the_kernel", Shape::THREE, |lab| {
        let traffic = taken_over(lab, TAKEN_OVER, |lab| {
            for node in Node::of_site(osl(lab)) {
                lab.take_process(&agent_name(&node.name))?.kill();
            }
            Ok(())
        })?;
        for node in Node::of_site(osl(lab)) {
            lab.start_agent(&node.name)?;
            lab.wait_for_agent(&node.name)?;
        }
        traffic.settles_on("svg")?;
        traffic.run_for(3000)?;
        let report = traffic.finish();
        assert_one_at_a_time(&report);
        Ok(())
    })
}

/// The other two are joined by the bus of the one that is cut off.
#[test]
fn the_first_site_cut_off_stops_serving_and_another_takes_over() -> Result<()> {
    let name = "the_first_site_cut_off_stops_serving_and_another_takes_over";
    tell_of(name, Shape::THREE, |lab| {
        let traffic = taken_over(lab, TAKEN_OVER + JOINED, |lab| lab.isolate(osl(lab)))?;
        lab.rejoin(osl(lab))?;
        traffic.settles_on("svg")?;
        let report = traffic.finish();
        assert_one_at_a_time(&report);
        Ok(())
    })
}

#[test]
fn a_planned_move_needs_no_wait() -> Result<()> {
    tell_of("a_planned_move_needs_no_wait", Shape::THREE, |lab| {
        let traffic = Traffic::to_vips(lab, &CLIENTS, LEDGER)?;
        traffic.settles_on("osl")?;
        let mira = Operator { lab, node: "trd-b1", name: "mira" };
        mira.complete_quietly(&["failover", LEDGER.id, "--to", "svg"])?;
        traffic.settles_on("svg")?;
        let report = traffic.finish();
        assert_one_at_a_time(&report);
        let away = report.longest_outage();
        assert!(away < Duration::from_secs(5), "away for {away:?}: {}", report.summary());
        Ok(())
    })
}

#[test]
fn a_restart_of_the_holders_agents_moves_nothing() -> Result<()> {
    tell_of("a_restart_of_the_holders_agents_moves_nothing", Shape::THREE, |lab| {
        let traffic = Traffic::to_vips(lab, &CLIENTS, LEDGER)?;
        traffic.settles_on("osl")?;
        let begun = nett_netns_tests::traffic::now();
        for node in Node::of_site(osl(lab)) {
            lab.take_process(&agent_name(&node.name))?.kill();
            lab.start_agent(&node.name)?;
            lab.wait_for_agent(&node.name)?;
        }
        traffic.run_for(8000)?;
        let report = traffic.finish().since(begun);
        assert_eq!(report.answers_of("osl"), report.received(), "{}", report.summary());
        // A start that takes longer than what is left of the lab's short lease is seen.
        let away = report.longest_outage();
        assert!(away < Duration::from_secs(3), "away for {away:?}: {}", report.summary());
        Ok(())
    })
}
