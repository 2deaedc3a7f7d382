//! Between the sites there is a line of 64 kbit/s, on which a full packet takes a fifth of a
//! second: decisions come late and are the same everywhere, questions are answered as ever, and
//! what stays inside a site notices nothing.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nett_netns_tests::eventually::eventually;
use nett_netns_tests::lab::Lab;
use nett_netns_tests::services::{API, EDGE, WEB};
use nett_netns_tests::story::{Operator, Traffic, reading, tell};

const SHAPER: &str = "root tbf rate 64kbit burst 4kb latency 3s";
/// Of a step, before it fails by name: what the promise is that a slow line keeps.
const STEP: Duration = Duration::from_secs(30);
/// Of a question to an agent at either end.
const ANSWERED: Duration = Duration::from_secs(2);

fn by<'a>(lab: &'a Lab, node: &'a str) -> Operator<'a> {
    Operator { lab, node, name: "mira" }
}

/// What has become of a task, as a node says at once.
fn ended_as(lab: &Lab, node: &str, task: &str, state: &str) -> Result<()> {
    let asked = Instant::now();
    let found = by(lab, node).state_of(task)?;
    ensure!(asked.elapsed() < ANSWERED, "{node} took {:?}", asked.elapsed());
    ensure!(found == state, "{found} at {node}");
    Ok(())
}

/// Moves API to svg. A step for which the line is too slow fails by name, and whoever gives the
/// command again loses nothing by it.
fn moved(lab: &Lab) -> Result<String> {
    for _ in 0..3 {
        let told = by(lab, "osl-b1").order(&["failover", API.id, "--to", "svg"])?.must_be(0)?;
        let task = told.json()?["task"].as_str().unwrap_or_default().to_owned();
        let (done, _) = eventually(2 * STEP, "the move ends", || {
            match ended_as(lab, "osl-b1", &task, "done") {
                Ok(()) => Ok(true),
                Err(_) => ended_as(lab, "osl-b1", &task, "failed").map(|()| false),
            }
        })?;
        if done {
            return Ok(task);
        }
        let shown = by(lab, "osl-b1").run(&["task", "show", &task])?.out;
        ensure!(shown.contains("svg-") || shown.contains("osl-"), "no node is named: {shown}");
    }
    anyhow::bail!("the line is slow, not dead")
}

#[test]
fn a_slow_line_between_sites_delays_decisions_and_nothing_else() -> Result<()> {
    tell("a_slow_line_between_sites_delays_decisions_and_nothing_else", |lab| {
        for node in ["osl-b1", "svg-b1"] {
            let border = lab.ns(node)?;
            for interface in ["wan0", "wan1"] {
                let words = format!("qdisc add dev {interface} {SHAPER}");
                border.output("tc", &words.split(' ').collect::<Vec<_>>())?;
            }
        }
        let lab = &*lab;
        let local = Traffic::to_vips(lab, &["osl-c1"], WEB)?;
        let from = local.settles_on("osl")?;

        let moved = moved(lab)?;
        let ended = |node: &str, task: &str| ended_as(lab, node, task, "done");
        // What needs nobody at the other site does not wait for it.
        let begun = Instant::now();
        let held = by(lab, "svg-b1").complete(&["hold", EDGE.id])?;
        ensure!(begun.elapsed() < STEP / 6, "it took {:?}", begun.elapsed());

        for (node, task) in [("svg-r1", &moved), ("osl-r1", &held)] {
            eventually(STEP, "the other site knows", || ended(node, task))?;
        }
        let first = reading(lab, "osl-b1")?;
        for node in ["osl-r1", "svg-b1", "svg-r1"] {
            eventually(STEP, "all read the same", || {
                let other = reading(lab, node)?;
                ensure!(other == first, "{node}: {other:?}\n{first:?}");
                Ok(())
            })?;
        }
        let report = local.finish().since(from);
        ensure!((report.lost(), report.answers_of("svg")) == (0, 0), "{}", report.summary());
        Ok(())
    })
}
