//! Leased services with real packets: whoever dies or is stopped, no packet is ever served
//! by two sites, and another site takes over in time. What borders announce follows the lease,
//! but for a border whose agent is dead.
//!
//! One lab for all of it: most of the time would go into labs and first leases otherwise. Between
//! two chapters the service goes home, which is a chapter of its own.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::eventually;
use nett_netns_tests::files::Node;
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::observe::changes::PROTOCOL;
use nett_netns_tests::observe::counters;
use nett_netns_tests::observe::dig::dig;
use nett_netns_tests::observe::monitor::Monitor;
use nett_netns_tests::services::{LEDGER, PORT};
use nett_netns_tests::story::{Operator, TASK, Traffic, tell_of_wires};
use nett_netns_tests::topology::{Shape, Site};
use nett_netns_tests::traffic::{Report, now, tcp};
use nix::sys::signal::Signal;

/// Clients at every site: those of the holder's own site must lose it, too.
const CLIENTS: [&str; 3] = ["osl-c1", "svg-c1", "trd-c1"];
/// The lease and the wait that labs have, and those of this one: the shortest that the
/// configuration check takes.
const LEASES: [&str; 2] =
    ["{ duration = \"6s\", wait = \"9s\" }", "{ duration = \"5s\", wait = \"6100ms\" }"];
/// This lab's lease and wait, with what a round, the log and the kernel take.
const TAKEN_OVER: Duration = Duration::from_millis(5000 + 6100 + 6000);
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

/// By nobody's command but an operator's, and with the word of everybody: without a wait.
fn moves_at_once(lab: &Lab, from: &str, to: &str) -> Result<()> {
    let traffic = Traffic::to_vips(lab, &CLIENTS, LEDGER)?;
    traffic.settles_on(from)?;
    let mira = Operator { lab, node: "trd-b1", name: "mira" };
    mira.complete_quietly(&["failover", LEDGER.id, "--to", to])?;
    traffic.settles_on(to)?;
    let report = traffic.finish();
    assert_one_at_a_time(&report);
    let away = report.longest_outage();
    assert!(away < Duration::from_secs(5), "away for {away:?}: {}", report.summary());
    Ok(())
}

/// The next chapter begins where the first one did.
fn goes_home(lab: &Lab) -> Result<()> {
    let osl = Operator { lab, node: "osl-b1", name: "mira" };
    eventually(TASK, "the holder of before knows of the move", || {
        let told = osl.run(&["-o", "json", "task", "list"])?.must_be(0)?.json()?;
        let open = |task: &serde_json::Value| task["state"] == "running";
        let tasks = told["ok"]["tasks"].as_array();
        ensure!(!tasks.into_iter().flatten().any(open), "{told}");
        Ok(())
    })?;
    moves_at_once(lab, "svg", "osl")?;
    eventually(TASK, "osl alone announces it", || announced_by(lab, "osl")).map(drop)
}

/// The families in which a border announces the service: by table 250, which is imported by a
/// routing daemon.
fn announced(lab: &Lab, node: &str) -> Result<usize> {
    let ns = lab.ns(node)?;
    let table = ns.ip("route show table 250")? + &ns.ip("-6 route show table 250")?;
    let vips = LEDGER.vips();
    Ok(vips.iter().filter(|vip| table.contains(&format!("unreachable {vip} "))).count())
}

fn announced_by(lab: &Lab, holder: &str) -> Result<()> {
    for site in lab.shape().sites {
        let families = announced(lab, &site.border())?;
        let wanted = if site.id == holder { 2 } else { 0 };
        ensure!(families == wanted, "{} announces it in {families} families", site.id);
    }
    Ok(())
}

/// When a border began or ceased to announce the service, in nanoseconds since 1970, IPv4 first.
fn moments(events: &[(u64, String)], begins: bool) -> Result<Vec<u64>> {
    let moment = |vip: &String| {
        let route = format!("unreachable {vip} ");
        let is = |event: &str| {
            event.contains(&route)
                && event.contains(" table 250 ")
                && event.starts_with("Deleted ") != begins
        };
        let found = events.iter().find(|(_, event)| is(event)).map(|(at, _)| *at);
        found.with_context(|| format!("nothing of {vip}, begins {begins}: {events:#?}"))
    };
    LEDGER.vips().iter().map(moment).collect()
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
fn one_site_serves_whoever_dies_and_another_takes_over_in_time() -> Result<()> {
    let name = "one_site_serves_whoever_dies_and_another_takes_over_in_time";
    tell_of_wires(name, Shape::THREE, |lab| {
        let fabric = lab.layout().fabric();
        let text = fs::read_to_string(&fabric)?;
        ensure!(text.contains(LEASES[0]), "the lab's lease is another one");
        fs::write(&fabric, text.replace(LEASES[0], LEASES[1]))?;
        for site in lab.shape().sites {
            let config = lab.layout().agent_config(&site.border());
            let mut file = fs::File::options().append(true).open(config)?;
            writeln!(file, "\n[kernel]\nadvertise = true")?;
        }
        lab.start_nett()?;
        a_restart_of_the_holders_agents_moves_nothing(lab)?;
        moves_at_once(lab, "osl", "svg")?;
        goes_home(lab)?;
        stopped_agents_lose_the_lease_in_the_kernel(lab)?;
        goes_home(lab)?;
        killed_agents_lose_the_lease_in_the_kernel(lab)?;
        goes_home(lab)?;
        what_nobody_confirms_stops_until_it_is_claimed(lab)?;
        goes_home(lab)?;
        the_first_site_cut_off_stops_serving_and_another_takes_over(lab)
    })
}

fn a_restart_of_the_holders_agents_moves_nothing(lab: &mut Lab) -> Result<()> {
    let traffic = Traffic::to_vips(lab, &CLIENTS, LEDGER)?;
    traffic.settles_on("osl")?;
    let begun = now();
    for node in Node::of_site(osl(lab)) {
        lab.take_process(&agent_name(&node.name))?.kill();
        lab.start_agent(&node.name)?;
        lab.wait_for_agent(&node.name)?;
    }
    // Longer than a lease and a wait.
    traffic.run_for(11_500)?;
    let report = traffic.finish().since(begun);
    assert_eq!(report.answers_of("osl"), report.received(), "{}", report.summary());
    // A start that takes longer than what is left of the lab's short lease is seen.
    let away = report.longest_outage();
    assert!(away < Duration::from_secs(3), "away for {away:?}: {}", report.summary());
    Ok(())
}

fn stopped_agents_lose_the_lease_in_the_kernel(lab: &mut Lab) -> Result<()> {
    let traffic = taken_over(lab, TAKEN_OVER, |lab| signal(lab, Signal::SIGSTOP))?;
    // They wake up with everything that they knew, and with a gate that has ended.
    signal(lab, Signal::SIGCONT)?;
    traffic.settles_on("svg")?;
    traffic.run_for(3000)?;
    assert_one_at_a_time(&traffic.finish());
    Ok(())
}

fn killed_agents_lose_the_lease_in_the_kernel(lab: &mut Lab) -> Result<()> {
    let traffic = taken_over(lab, TAKEN_OVER, |lab| {
        for node in Node::of_site(osl(lab)) {
            lab.take_process(&agent_name(&node.name))?.kill();
        }
        Ok(())
    })?;
    a_dead_agents_border_announces_until_somebody_removes_it(lab)?;
    for node in Node::of_site(osl(lab)) {
        lab.start_agent(&node.name)?;
        lab.wait_for_agent(&node.name)?;
    }
    eventually(TASK, "svg alone announces it", || announced_by(lab, "svg"))?;
    traffic.settles_on("svg")?;
    traffic.run_for(3000)?;
    assert_one_at_a_time(&traffic.finish());
    Ok(())
}

/// Nothing in the kernel ends such a route: a neighbour goes on sending, and the gate refuses. What
/// OPERATING.md says of it is done here by hand.
fn a_dead_agents_border_announces_until_somebody_removes_it(lab: &Lab) -> Result<()> {
    let [border, router] = [lab.ns("osl-b1")?, lab.ns("osl-r1")?];
    ensure!(announced(lab, "svg-b1")? == 2, "svg announces it");
    ensure!(announced(lab, "osl-b1")? == 2, "osl has withdrawn it without an agent");
    lab.route_vips_over(osl(lab))?;
    let shut = || Ok::<_, anyhow::Error>(counters::named(&router, "nett_lease")?["shut"]);
    let before = shut()?;
    for vip in LEDGER.vips() {
        let to = SocketAddr::new(vip.parse()?, PORT);
        let attempt = tcp::connect(&lab.ns("outside")?, to, TASK)?;
        ensure!(attempt.server == Err(std::io::ErrorKind::ConnectionRefused), "{attempt:?}");
    }
    ensure!(shut()? >= before + 2, "whoever refused, it was not the gate");
    for family in ["-4", "-6"] {
        border.ip(&format!("{family} route flush table 250 proto {PROTOCOL}"))?;
    }
    ensure!(announced(lab, "osl-b1")? == 0, "it is removed");
    Ok(())
}

/// The site that had it before does not get it back: its old lease might have been somebody's.
fn what_nobody_confirms_stops_until_it_is_claimed(lab: &Lab) -> Result<()> {
    let traffic = Traffic::to_vips(lab, &CLIENTS, LEDGER)?;
    traffic.settles_on("osl")?;
    let mira = Operator { lab, node: "trd-b1", name: "mira" };
    let told = mira.order(&["failover", LEDGER.id, "--to", "svg", "--confirm-within", "2s"])?;
    let told = told.must_be(0)?.json()?;
    let task = told["task"].as_str().with_context(|| format!("no task: {told}"))?;
    mira.wait_for(task, "reverted")?;
    let asked = lab.ns("trd-c1")?;
    eventually(TASK, "nobody serves it", || {
        let from = now();
        traffic.run_for(50)?;
        let seen = traffic.so_far().between(from, now() - 10_000_000);
        ensure!(seen.sent() > 0 && seen.received() == 0, "{}", seen.summary());
        for site in lab.shape().sites {
            let server = site.addresses(1, 2)[0].parse()?;
            let answer = dig(&asked, server, &LEDGER.dns_name(), "A")?;
            ensure!(answer.data.is_empty(), "{}: {answer:?}", site.id);
            let node = site.border();
            let said = Operator { node: &node, ..mira }.run(&["status"])?.out;
            let asks = |line: &&str| line.contains("TO DO") && line.contains(LEDGER.id);
            ensure!(said.lines().any(|line| asks(&line)), "{node}: {said}");
        }
        Ok(())
    })?;
    // Longer than a lease and a wait: nothing that ran on begins again.
    let stopped = now();
    traffic.run_for(11_500)?;
    let report = traffic.so_far();
    let since = report.between(stopped, now() - 10_000_000);
    ensure!(since.received() == 0, "{}", since.summary());
    mira.complete_quietly(&["failover", LEDGER.id, "--to", "svg"])?;
    traffic.settles_on("svg")?;
    assert_one_at_a_time(&traffic.finish());
    Ok(())
}

/// The other two are joined by the bus of the one that is cut off.
fn the_first_site_cut_off_stops_serving_and_another_takes_over(lab: &mut Lab) -> Result<()> {
    let watch =
        |node: &str| Monitor::timed(&lab.ns(node)?, lab.layout().log(&format!("announced-{node}")));
    let [old, new] = [watch("osl-b1")?, watch("svg-b1")?];
    let traffic = taken_over(lab, TAKEN_OVER + JOINED, |lab| lab.isolate(osl(lab)))?;
    eventually(TASK, "svg alone announces it", || announced_by(lab, "svg"))?;
    let [old, new] = [old.finish_timed()?, new.finish_timed()?];
    for (ceased, began) in moments(&old, false)?.into_iter().zip(moments(&new, true)?) {
        let apart = Duration::from_nanos(began.saturating_sub(ceased));
        ensure!(ceased < began, "both announced it: {old:#?} {new:#?}");
        show(&format!("nobody announced it for {apart:?}"));
    }
    lab.rejoin(osl(lab))?;
    traffic.settles_on("svg")?;
    assert_one_at_a_time(&traffic.finish());
    Ok(())
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
