//! Nobody moves traffic without the right key, twice with one signature, or with an old message.

mod streams;

use anyhow::{Context, Result};
use nett_netns_tests::keys::Keys;
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::http::metric;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::services::{API, PAY, WEB};
use nett_netns_tests::story::{Operator, Traffic, tell};
use nett_netns_tests::topology::SITES;

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
