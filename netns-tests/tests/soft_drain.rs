//! A soft drain: established connections stay at the site that is drained until they end, whoever
//! they are from, and new ones go to the other site at once; then the drained site is closed.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::services::{PORT, Service, WEB};
use nett_netns_tests::story::{Operator, RATE, TASK, Traffic, tell_from_wires};
use nett_netns_tests::traffic::tcp::{Session, connect};
use serde_json::Value;

/// From the end of a task to the error of everybody whose connection it ended.
const RESET: Duration = Duration::from_secs(1);
const DWELL: Duration = Duration::from_secs(1);
/// One in the drained site, one behind the borders of the other.
const CLIENTS: [&str; 2] = ["osl-c1", "svg-c1"];

/// The service says when a site is drained.
fn measure(lab: &Lab, service: Service) -> Result<()> {
    let path = lab.layout().services();
    let text = fs::read_to_string(&path)?;
    let id = format!("id = \"{}\"\n", service.id);
    ensure!(text.contains(&id), "no {id} in {text}");
    let drain = format!("{id}drain = {{ pps = 1, dwell = \"{}s\" }}\n", DWELL.as_secs());
    Ok(fs::write(&path, text.replace(&id, &drain))?)
}

fn vips() -> Result<Vec<SocketAddr>> {
    let address = |text: &String| Ok(SocketAddr::new(text.parse::<IpAddr>()?, PORT));
    WEB.vips().iter().map(address).collect()
}

/// One connection of each family from each client.
fn sessions(lab: &Lab) -> Result<Vec<Session>> {
    let mut all = Vec::new();
    for client in CLIENTS {
        for vip in vips()? {
            all.push(Session::open(&lab.ns(client)?, vip, patience())?);
        }
    }
    Ok(all)
}

/// Whoever goes on talking is told at once that the connection is over.
fn all_are_reset(sessions: Vec<Session>) -> Result<()> {
    for mut session in sessions {
        let begun = Instant::now();
        let error = session.ping().err().map(|error| error.kind());
        // The reset may have come before the next word.
        let told = [Some(ErrorKind::ConnectionReset), Some(ErrorKind::BrokenPipe)].contains(&error);
        ensure!(told && begun.elapsed() < RESET, "{error:?} after {:?}", begun.elapsed());
    }
    Ok(())
}

/// What becomes of new connections.
fn new_ones(lab: &Lab, expected: Result<&str, ErrorKind>) -> Result<()> {
    for client in CLIENTS {
        for vip in vips()? {
            let attempt = connect(&lab.ns(client)?, vip, patience())?;
            let server = attempt.server.as_deref().map_err(|kind| *kind);
            ensure!(server == expected, "{client} to {vip}: {attempt:?}");
            ensure!(attempt.took < Duration::from_millis(500), "{attempt:?}");
        }
    }
    Ok(())
}

/// The state of the task's step of a kind.
fn state(shown: &Value, kind: &str) -> Result<String> {
    let steps = shown["ok"]["steps"].as_array().context("a task has steps")?;
    let step = steps.iter().find(|step| step["kind"] == kind).context("it has this one")?;
    Ok(step["state"].as_str().context("a state")?.to_owned())
}

#[test]
fn established_connections_end_where_they_began() -> Result<()> {
    tell_from_wires("established_connections_end_where_they_began", |lab| {
        measure(lab, WEB)?;
        lab.start_nett()?;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        let traffic = Traffic::to_vips(lab, &CLIENTS, WEB)?;
        let mut sessions = sessions(lab)?;
        ensure!(sessions.iter().all(|s| s.server() == "osl"), "they begin at osl: {sessions:?}");

        let drain = ["drain", "service", WEB.id, "--at", "osl", "--soft"];
        let told = mira.order(&drain)?.must_be(0)?.json()?;
        let task = told["task"].as_str().context("a task")?.to_owned();
        let show = || mira.run(&["-o", "json", "task", "show", &task])?.must_be(0)?.json();
        eventually(TASK, "new connections were sent on", || {
            let is = state(&show()?, "drained")?;
            ensure!(is == "started", "{is}");
            Ok(())
        })?;
        new_ones(lab, Ok("svg"))?;
        let path = mira.run(&["explain", "path", "10.1.20.9", &WEB.vips()[0]])?.out;
        ensure!(path.contains("established connections stay at osl"), "{path}");
        let begun = Instant::now();
        eventually(TASK, "they are used for longer than a dwell", || {
            sessions.iter_mut().try_for_each(Session::ping)?;
            ensure!(begun.elapsed() > 2 * DWELL);
            Ok(())
        })?;
        let report = traffic.finish();
        ensure!(report.lost() == 0, "{} at {RATE}/s", report.summary());
        ensure!(report.answers_of("osl") == report.sent(), "flows stay: {}", report.summary());
        let waits = state(&show()?, "withdraw")?;
        ensure!(waits == "waiting", "osl is still open: {waits}");

        sessions.iter_mut().try_for_each(Session::ping)?;
        drop(sessions);
        let closed = Instant::now();
        mira.wait_for(&task, "done")?;
        let took = closed.elapsed();
        ensure!(took <= DWELL + Duration::from_secs(3), "{took:?} after the last of them");
        let shown = show()?;
        ensure!(shown["ok"]["outcome_reason"] == "", "{shown}");
        ensure!(shown["ok"]["times"]["drained"].is_string(), "{shown}");
        for client in CLIENTS {
            let attempt = connect(&lab.ns(client)?, vips()?[0], patience())?;
            ensure!(attempt.server.as_deref() == Ok("svg"), "{attempt:?}");
        }
        let rules = lab.ns("osl-b1")?.output("ip", &["rule"])?;
        ensure!(!rules.contains("4422:"), "{rules}");
        a_hard_one_resets(lab)
    })
}

/// By the site that does not know the connection; and where no site is left, by the nodes where
/// packets enter.
fn a_hard_one_resets(lab: &Lab) -> Result<()> {
    let mira = Operator { lab, node: "osl-b1", name: "mira" };
    let jon = Operator { name: "jon", ..mira };
    let last = ["drain", "service", WEB.id, "--at", "svg", "--override", "last-eligible-site"];
    let all = sessions(lab)?;
    ensure!(all.iter().all(|s| s.server() == "svg"), "they begin at svg: {all:?}");
    let task = mira.propose(&last)?;
    jon.approve(&task)?;
    mira.wait_for(&task, "done")?;
    all_are_reset(all).context("nobody serves")?;
    new_ones(lab, Err(ErrorKind::ConnectionRefused))?;

    mira.complete(&["undrain", "service", WEB.id, "--at", "osl"])?;
    mira.complete(&["undrain", "service", WEB.id, "--at", "svg"])?;
    let all = sessions(lab)?;
    ensure!(all.iter().all(|s| s.server() == "osl"), "they begin at osl: {all:?}");
    mira.complete(&["drain", "service", WEB.id, "--at", "osl"])?;
    all_are_reset(all).context("svg serves")?;
    new_ones(lab, Ok("svg"))?;
    Ok(())
}
