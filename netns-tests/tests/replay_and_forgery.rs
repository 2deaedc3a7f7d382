//! Nobody moves traffic without the right key, twice with one signature, or with an old message.

#![allow(clippy::print_stdout, reason = "a story tells what it said again")]

mod streams;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::keys::Keys;
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::http::metric;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::observe::monitor::Monitor;
use nett_netns_tests::services::{API, EDGE, PAY, VAULT, WEB};
use nett_netns_tests::signed::{NOW, Signer};
use nett_netns_tests::story::{Operator, Traffic, reading, tell};
use nett_netns_tests::topology::SITES;
use serde_json::{Value, json};
use streams::login::ask;
use streams::recording::while_recorded;

/// What a message of osl's log becomes before it is stored a second time.
type Change = fn(&str) -> Option<String>;

/// Stores every message of osl's log again, each as `change` makes it, with the admin's key and
/// without the ids by which the server would recognise it. Returns how many.
fn store_again(lab: &Lab, change: Change) -> Result<usize> {
    let [osl, _] = SITES;
    streams::at(lab, osl, async move |client, context| {
        let stream = context.get_stream(streams::log(osl)).await?;
        let state = stream.cached_info().state.clone();
        let mut stored = 0;
        for sequence in state.first_sequence..=state.last_sequence {
            let message = stream.get_raw_message(sequence).await?;
            let body = String::from_utf8_lossy(&message.payload).into_owned();
            if let Some(body) = change(&body) {
                let mut headers = message.headers.clone();
                for name in ["Nats-Msg-Id", "Nats-Expected-Last-Sequence"] {
                    // An empty value is as good as none to the server.
                    headers.insert(name, "");
                }
                let subject = message.subject.clone();
                client.publish_with_headers(subject, headers, body.into()).await?;
                stored += 1;
            }
        }
        client.flush().await?;
        Ok(stored)
    })
}

/// Moves API to svg and WEB there and back, stores the log again, and asserts that nothing moves.
fn nothing_moves_when_stored_again(lab: &Lab, change: Change) -> Result<()> {
    let mira = Operator { lab, node: "osl-b1", name: "mira" };
    mira.complete(&["failover", API.id, "--to", "svg"])?;
    mira.complete(&["failover", WEB.id, "--to", "svg"])?;
    mira.complete(&["failback", WEB.id])?;
    let traffic = Traffic::to_vips(lab, &["osl-c1", "svg-c1"], WEB)?;
    traffic.settles_on("osl")?;
    let from = nett_netns_tests::traffic::now();
    let nodes = ["osl-b1", "svg-r1"].map(|n| lab.ns(n));
    let [osl, svg] = nodes;
    let (osl, svg) = (osl?, svg?);
    let before = (Kernel::of(&osl)?, Kernel::of(&svg)?);
    let stored = store_again(lab, change)?;
    assert!(stored > 3, "only {stored} messages were stored again");
    traffic.run_for(1500)?;
    let report = traffic.finish().since(from);
    assert_eq!((report.lost(), report.answers_of("svg")), (0, 0), "{}", report.summary());
    assert_eq!(before.0.changes(&Kernel::of(&osl)?), Vec::<String>::new());
    assert_eq!(before.1.changes(&Kernel::of(&svg)?), Vec::<String>::new());
    let conflicts = metric(&osl, "nett_conflicts")?.context("the metric is there")?;
    assert_eq!(conflicts, 0.0, "a repeated log is no split decision");
    // The site still takes orders.
    mira.complete(&["failback", API.id]).map(drop)
}

#[test]
fn a_log_stored_twice_moves_nothing() -> Result<()> {
    tell("a_log_stored_twice_moves_nothing", |lab| {
        nothing_moves_when_stored_again(lab, |body| Some(body.to_owned()))
    })
}

#[test]
fn a_log_with_changed_words_moves_nothing() -> Result<()> {
    tell("a_log_with_changed_words_moves_nothing", |lab| {
        nothing_moves_when_stored_again(lab, |body| Some(body.replace("svg", "osl")))
    })
}

/// What people do in a busy hour, with `nettctl` and with programs of their own: moves there and
/// back, drains, holds, an approval, a rejection.
fn a_busy_hour(lab: &Lab) -> Result<()> {
    let by = |name, node| Operator { lab, node, name };
    let (mira, jon) = (by("mira", "osl-b1"), by("jon", "svg-r1"));
    let [osl, svg] = SITES;
    for (site, name, service) in [(osl, "mira", WEB), (svg, "jon", VAULT)] {
        let signer = Signer::of(lab, name)?;
        for verb in ["hold", "release", "hold", "release"] {
            let body = json!({"verb": verb, "services": service.id});
            let answer = ask(lab, site, name, &signer.command(site.id, &body, NOW)?)?;
            ensure!(answer["accepted"] == true, "{verb}: {answer}");
        }
    }
    std::thread::scope(|scope| {
        let at_osl = scope.spawn(|| mira.complete(&["failover", API.id, "--to", "svg"]));
        jon.complete(&["drain", "service", EDGE.id, "--at", "svg"])?;
        at_osl.join().expect("no panic")
    })?;
    let refused = mira.propose(&["failover", PAY.id, "--to", "svg"])?;
    jon.reject(&refused)?;
    mira.wait_for(&refused, "rejected")?;
    let moved = mira.propose(&["failover", PAY.id, "--to", "svg"])?;
    jon.approve(&moved)?;
    mira.wait_for(&moved, "done").map(drop)
}

/// What every node reads, and how much the streams of every server hold.
type Known = (Vec<[Vec<Value>; 3]>, Vec<std::collections::BTreeMap<String, u64>>);

fn known(lab: &Lab) -> Result<Known> {
    let readings = lab.nodes().into_iter().map(|node| reading(lab, &node.name));
    let lengths = SITES.into_iter().map(|site| streams::lengths(lab, site));
    Ok((readings.collect::<Result<_>>()?, lengths.collect::<Result<_>>()?))
}

#[test]
fn a_recorded_hour_said_again_changes_nothing() -> Result<()> {
    tell("a_recorded_hour_said_again_changes_nothing", |lab| {
        let lab = &*lab;
        let ((), recordings) = while_recorded(lab, &SITES, || a_busy_hour(lab))?;
        let traffic = Traffic::to_vips(lab, &["osl-c1", "svg-c1"], PAY)?;
        traffic.settles_on("svg")?;
        let from = nett_netns_tests::traffic::now();
        let mut watched = Vec::new();
        for node in lab.nodes() {
            let (ns, log) = (lab.ns(&node.name)?, lab.layout().log(&format!("ip-{}", node.name)));
            watched.push((node.name, Kernel::of(&ns)?, Monitor::start(&ns, log)?, ns));
        }
        let before = known(lab)?;
        for recording in &recordings {
            let kinds = ["nett.l.cmd", "nett.r.log", "nett.r.state", "_INBOX."];
            let counts = kinds.map(|kind| recording.count(kind));
            println!("{} messages, {kinds:?}: {counts:?}", recording.len());
            assert!(counts.iter().all(|count| *count > 0), "{counts:?} of {kinds:?}");
        }
        recordings.iter().try_for_each(|recording| recording.say_again(lab))?;
        traffic.run_for(1500)?;
        let report = traffic.finish().since(from);
        assert_eq!((report.lost(), report.answers_of("osl")), (0, 0), "{}", report.summary());
        let after = known(lab)?;
        assert_eq!(before.0, after.0, "tasks, conflicts and services with their epochs");
        assert_eq!(before.1, after.1, "lengths of the logs");
        for (node, kernel, monitor, ns) in watched {
            assert_eq!(monitor.finish()?, Vec::<String>::new(), "{node}");
            assert_eq!(kernel.changes(&Kernel::of(&ns)?), Vec::<String>::new(), "{node}");
        }
        // Both sites still take orders.
        let mira = Operator { lab, node: "svg-b1", name: "mira" };
        mira.complete(&["hold", VAULT.id])?;
        Operator { node: "osl-r1", ..mira }.complete(&["hold", WEB.id]).map(drop)
    })
}

#[test]
fn a_key_the_fabric_does_not_know_moves_nothing() -> Result<()> {
    tell("a_key_the_fabric_does_not_know_moves_nothing", |lab| {
        let dir = lab.layout().root.join("stranger");
        let stranger = Keys::generate(&dir, ["mallory".to_owned()])?;
        let node = lab.ns("osl-b1")?;
        let before = Kernel::of(&node)?;
        let traffic = Traffic::to_vips(lab, &["osl-c1"], API)?;
        let args = [
            "--socket",
            &lab.layout().socket("osl-b1").display().to_string(),
            "--key",
            &stranger.seed("mallory").display().to_string(),
            "--operator",
            "mira",
            "failover",
            API.id,
            "--to",
            "svg",
            "--reason",
            "forged",
            "--yes",
        ];
        let told = lab.nettctl_in("osl-b1", &args.map(str::to_owned))?;
        told.must_be(4)?;
        traffic.run_for(300)?;
        let report = traffic.finish();
        assert_eq!((report.lost(), report.answers_of("svg")), (0, 0), "{}", report.summary());
        assert_eq!(before.changes(&Kernel::of(&node)?), Vec::<String>::new());
        Ok(())
    })
}

#[test]
fn nobody_approves_an_own_task_and_no_operator_without_the_role() -> Result<()> {
    tell("nobody_approves_an_own_task_and_no_operator_without_the_role", |lab| {
        let by = |name| Operator { lab, node: "osl-b1", name };
        let task = by("jon").propose(&["failover", PAY.id, "--to", "svg"])?;
        for name in ["jon", "mira"] {
            let args = ["approve", &task, "--reason", "please", "--yes"];
            by(name).run(&args)?.must_be(4)?;
        }
        assert_eq!(by("jon").state_of(&task)?, "waiting-approval");
        Ok(())
    })
}
