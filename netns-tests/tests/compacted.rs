//! Logs are made smaller while everything runs: what is left tells a node that has nothing, and one
//! whose disk is that of an hour ago, the same as everybody else knows.

mod streams;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::bus::{self, Server};
use nett_netns_tests::eventually::eventually;
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::services::{API, PAY, WEB};
use nett_netns_tests::signed::{Signer, Span};
use nett_netns_tests::story::{Operator, Traffic, tell_from_wires};
use nett_netns_tests::topology::{SITES, Site};
use serde_json::{Value, json};
use streams::login::ask_all;

/// As often as this goes, and as soon.
const JOURNAL: &str = "\n[journal]\ncompact_after = 16\nsettle = \"1s\"\nkeep = \"15s\"\n";

/// Expired, as far as clocks may differ: what is to be forgotten is old enough sooner.
const JUST_BEFORE: Span = Span { from: -50_000, to: -4_000 };

/// Until all is written anew: what is kept, and two rounds of reports.
const WRITTEN_ANEW: Duration = Duration::from_secs(60);

const PATIENCE: Duration = Duration::from_secs(30);

/// Asks to take a service in hold and to let it go again, so often.
fn back_and_forth(lab: &Lab, site: Site, times: usize) -> Result<()> {
    let mira = Signer::of(lab, "mira")?;
    let verbs = ["hold", "release"].into_iter().cycle().take(2 * times);
    let messages = verbs.map(|verb| {
        let body = json!({"verb": verb, "services": WEB.id});
        mira.command(site.id, &body, JUST_BEFORE)
    });
    for answer in ask_all(lab, site, "mira", messages)? {
        // One that comes while the task before it runs is refused, which is an entry, too.
        let by = answer["refused_by"].as_str().unwrap_or_default();
        let known = answer["accepted"] == true || ["task-open", "no-change"].contains(&by);
        ensure!(known, "{answer}");
    }
    Ok(())
}

/// How many messages a server has of a log.
fn messages(lab: &Lab, reader: Site, author: Site) -> Result<u64> {
    streams::at(lab, reader, async move |_, context| {
        Ok(context.get_stream(streams::log(author)).await?.cached_info().state.messages)
    })
}

fn lines(path: &Path) -> Result<usize> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    Ok(bytes.iter().filter(|byte| **byte == b'\n').count())
}

/// What a node says about every service, without what differs from node to node.
fn services(lab: &Lab, node: &str) -> Result<Value> {
    let told = lab.nettctl(node, "mira", &["-o", "json", "service", "list"])?.must_be(0)?;
    let mut list = told.json()?["ok"]["services"].take();
    for service in list.as_array_mut().context("a list")? {
        let service = service.as_object_mut().context("a service")?;
        for word in ["age_ms", "health"] {
            service.remove(word);
        }
    }
    Ok(list)
}

fn agree(lab: &Lab) -> Result<()> {
    let nodes = lab.nodes();
    eventually(PATIENCE, "all nodes say the same", || {
        let first = services(lab, &nodes[0].name)?;
        for node in &nodes[1..] {
            let other = services(lab, &node.name)?;
            ensure!(first == other, "{}: {first}\n{}: {other}", nodes[0].name, node.name);
        }
        Ok(())
    })
    .map(drop)
}

/// Puts a copy of one directory of files in the place of another.
fn replace(from: &Path, to: &Path) -> Result<()> {
    fs::remove_dir_all(to).with_context(|| to.display().to_string())?;
    copy(from, to)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn by<'a>(lab: &'a Lab, node: &'a str) -> Operator<'a> {
    Operator { lab, node, name: "mira" }
}

fn stop(lab: &mut Lab, node: &str) -> Result<()> {
    lab.take_process(&agent_name(node))?.stop(PATIENCE)
}

fn start(lab: &mut Lab, node: &str) -> Result<()> {
    lab.start_agent(node)?;
    lab.wait_for_agent(node).map(drop)
}

#[test]
fn a_log_that_was_made_smaller_tells_everybody_the_same() -> Result<()> {
    tell_from_wires("a_log_that_was_made_smaller_tells_everybody_the_same", |lab| {
        lab.set_server(Server::Newer);
        for node in lab.nodes() {
            let path = lab.layout().agent_config(&node.name);
            fs::OpenOptions::new().append(true).open(path)?.write_all(JOURNAL.as_bytes())?;
        }
        lab.start_nett()?;
        story(lab)
    })
}

fn story(lab: &mut Lab) -> Result<()> {
    let [osl, svg] = SITES;
    by(lab, "osl-b1").complete(&["failover", API.id, "--to", "svg"])?;
    // A task that has begun, as the old disk knows it.
    back_and_forth(lab, osl, 2)?;
    let old = lab.layout().host("osl-r1").join("old");
    stop(lab, "osl-r1")?;
    copy(&lab.layout().state("osl-r1"), &old)?;
    start(lab, "osl-r1")?;
    back_and_forth(lab, osl, 20)?;
    by(lab, "svg-b1").complete(&["hold", PAY.id])?;

    let before = [messages(lab, osl, osl)?, messages(lab, svg, osl)?];
    let journal = lab.layout().state("osl-b1").join("journal");
    let long = lines(&journal)?;
    eventually(WRITTEN_ANEW, "the logs are made smaller", || {
        for site in [osl, svg] {
            bus::manage(lab, site, &["compact"])?.must_be(0)?;
        }
        for (at, before) in [osl, svg].into_iter().zip(before) {
            let now = messages(lab, at, osl)?;
            ensure!(now * 2 < before, "{}: {now} of {before} messages", at.id);
        }
        let now = lines(&journal)?;
        ensure!(now * 2 < long, "{now} of {long} lines");
        Ok(())
    })?;
    agree(lab)?;

    // The disk of an hour ago, and one with nothing on it.
    let traffic = Traffic::to_vips(lab, &["osl-c1", "svg-c1"], API)?;
    let from = traffic.settles_on("svg")?;
    for node in ["osl-r1", "svg-r1"] {
        stop(lab, node)?;
    }
    replace(&old, &lab.layout().state("osl-r1"))?;
    fs::remove_dir_all(lab.layout().state("svg-r1"))?;
    for node in ["osl-r1", "svg-r1"] {
        start(lab, node)?;
    }
    agree(lab)?;
    let report = traffic.finish().since(from);
    ensure!((report.lost(), report.answers_of("osl")) == (0, 0), "{}", report.summary());
    for node in ["osl-r1", "svg-r1"] {
        let trail = fs::read_to_string(lab.layout().state(node).join("audit.jsonl"))?;
        ensure!(trail.contains("read on from its checkpoint"), "{node} read everything");
        let open = by(lab, node).run(&["-o", "json", "task", "list"])?.must_be(0)?.json()?;
        let running = |task: &&Value| task["state"] == "running";
        let open: Vec<&Value> =
            open["ok"]["tasks"].as_array().into_iter().flatten().filter(running).collect();
        ensure!(open.is_empty(), "{node} has tasks that nobody else has: {open:?}");
    }

    // A mirror made anew has what is left, and everybody takes orders.
    bus::manage(lab, svg, &["resync", "--owner", "osl"])?.must_be(0)?;
    let task = by(lab, "osl-r1").complete(&["failback", API.id])?;
    eventually(PATIENCE, "the other site reads it", || {
        ensure!(by(lab, "svg-r1").state_of(&task)? == "done");
        Ok(())
    })?;
    agree(lab)
}
