//! What comes a minute late has the outcome that the documents promise: a command that has expired
//! is refused and on record, a fact that has expired is worth nothing, and an entry counts
//! however late it is read, since only the site that accepts looks at a clock.

mod streams;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nett_netns_tests::bus;
use nett_netns_tests::eventually::{eventually, eventually_true, patience};
use nett_netns_tests::files::Node;
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::services::{API, WEB};
use nett_netns_tests::signed::{Measured, Signer, Span};
use nett_netns_tests::story::{reading, tell};
use nett_netns_tests::topology::SITES;
use serde_json::{Value, json};
use streams::login::{ask, say};

/// Signed for five seconds, and a minute on its way. Clocks may be 5 s apart.
const LATE: Span = Span { from: -65_000, to: -60_000 };
/// As long on its way, and good for as long again.
const SLOW: Span = Span { from: -60_000, to: 60_000 };
/// Good for a moment more.
const JUST: Span = Span { from: -60_000, to: 500 };

fn kinds(entries: &[Value]) -> Vec<&str> {
    entries.iter().filter_map(|entry| entry["kind"].as_str()).collect()
}

/// What a node knows of reporters' words.
fn facts(lab: &Lab, node: &str) -> Result<Vec<Value>> {
    let told = lab.nettctl(node, "mira", &["-o", "json", "fact", "list"])?.must_be(0)?;
    told.json()?["ok"]["facts"].as_array().cloned().context("a list of facts")
}

#[test]
fn what_comes_a_minute_late_has_its_documented_outcome() -> Result<()> {
    tell("what_comes_a_minute_late_has_its_documented_outcome", |lab| {
        let [osl, svg] = SITES;
        let (mira, kim) = (Signer::of(lab, "mira")?, Signer::of(lab, "kim")?);
        let nodes = Node::all();
        let kernels = |lab: &Lab| -> Result<Vec<Kernel>> {
            nodes.iter().map(|node| Kernel::of(&lab.ns(&node.name)?)).collect()
        };
        let before = kernels(lab)?;

        // A command: refused once, on record, and the same answer when it comes again.
        let failover = json!({"verb": "failover", "services": WEB.id, "to": "svg"});
        let late = mira.command(osl.id, &failover, LATE)?;
        for _ in 0..3 {
            let answer = ask(lab, osl, "mira", &late)?;
            assert_eq!(
                (&answer["accepted"], &answer["refused_by"]),
                (&false.into(), &"expired".into())
            );
        }
        assert_eq!(kinds(&streams::entries(lab, osl, osl)?), ["refused"], "once in the log");

        // A fact: worth nothing when it has expired; with its age when it has not.
        let lag = |value| Measured { service: API.id, name: "data-lag", value, unit: "s" };
        say(lab, osl, "kim", &kim.fact(osl.id, lag("0.5"), LATE)?)?;
        say(
            lab,
            osl,
            "kim",
            &kim.fact(osl.id, Measured { name: "slow-lag", ..lag("0.7") }, SLOW)?,
        )?;
        for node in Node::of_site(osl) {
            let (known, _) = eventually(patience(), "the later fact is known", || {
                let known = facts(lab, &node.name)?;
                ensure!(!known.is_empty(), "none");
                Ok(known)
            })?;
            let names: Vec<&str> = known.iter().filter_map(|fact| fact["name"].as_str()).collect();
            assert_eq!(names, ["slow-lag"], "{known:?}");
        }

        // Entries: svg's server stands still, and svg reads of a command when its time is over.
        lab.take_process(&bus::process_name(svg))?.stop(patience())?;
        let hold = mira.command(osl.id, &json!({"verb": "hold", "services": WEB.id}), JUST)?;
        let answer = ask(lab, osl, "mira", &hold)?;
        assert_eq!(answer["accepted"], true, "at the last moment: {answer}");
        let again = mira.command(osl.id, &json!({"verb": "hold", "services": API.id}), SLOW)?;
        assert_eq!(ask(lab, osl, "mira", &again)?["accepted"], true);
        let is_over = Instant::now() + Duration::from_millis(500);
        eventually_true(patience(), "its time is over", || Ok(Instant::now() > is_over))?;
        let config = lab.layout().host(&svg.bus_host()).join("nats.conf");
        bus::start(lab, svg, &config)?;
        eventually(patience() * 4, "everybody reads the same", || {
            let at_osl = reading(lab, "osl-b1")?;
            ensure!(at_osl[0].len() == 2, "two holds, no failover: {at_osl:?}");
            for node in &nodes {
                let here = reading(lab, &node.name)?;
                ensure!(here[..2] == at_osl[..2], "{} reads {here:?}, not {at_osl:?}", node.name);
            }
            Ok(())
        })?;
        for ((before, after), node) in before.iter().zip(&kernels(lab)?).zip(&nodes) {
            assert_eq!(before.changes(after), Vec::<String>::new(), "{}", node.name);
        }
        // A late repeat of what was accepted is answered as before.
        let repeated = ask(lab, osl, "mira", &hold)?;
        assert_eq!(repeated["task"], answer["task"], "{repeated}");
        Ok(())
    })
}
