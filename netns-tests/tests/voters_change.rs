//! The set of voters changes while a service under a lease is in use: a fourth voter is added and
//! one of the first three removed, node by node, and no packet is lost.
//!
//! Every node has a fabric file of its own here, as on machines of their own; an agent reads it
//! when it is told to (SIGHUP).

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::bus;
use nett_netns_tests::eventually::eventually;
use nett_netns_tests::files::{Node, Role};
use nett_netns_tests::lab::{Lab, Told, agent_name};
use nett_netns_tests::services::LEDGER;
use nett_netns_tests::story::{Operator, TASK, Traffic, tell_of_wires};
use nett_netns_tests::topology::{Shape, Site};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Clients at three sites: that of the holder, that of another voter, and that which is to vote.
const CLIENTS: [&str; 3] = ["osl-c1", "svg-c1", "bgo-c1"];
/// The wait of the lab's leases, in seconds, and how long a voter may take that has to wait for it.
const WAIT: f64 = 9.0;
const RISES: Duration = Duration::from_secs(30);
/// A lease of the lab, and somewhat more, in milliseconds, which are packets of each probe.
const LEASE: usize = 7000;

fn own_file(lab: &Lab, node: &str) -> PathBuf {
    lab.layout().host(node).join("fabric.toml")
}

/// Gives every node a copy of the fabric file.
fn own_files(lab: &Lab) -> Result<String> {
    let shared = lab.layout().fabric();
    for node in lab.nodes() {
        let config = lab.layout().agent_config(&node.name);
        let text = fs::read_to_string(&config)?;
        let own = own_file(lab, &node.name);
        fs::copy(&shared, &own)?;
        let [before, after] = [&shared, &own].map(|path| format!("fabric = {path:?}\n"));
        ensure!(text.contains(&before), "{text}");
        fs::write(&config, text.replace(&before, &after))?;
    }
    Ok(fs::read_to_string(&shared)?)
}

/// The file as another generation of the fabric, with more lines in `[fabric]`.
fn as_generation(text: &str, generation: u64, lines: &str) -> Result<String> {
    let first = "generation = 1\n";
    ensure!(text.contains(first), "{text}");
    Ok(text.replacen(first, &format!("generation = {generation}\n{lines}"), 1))
}

fn with_voter(text: &str, node: &str) -> Result<String> {
    let id = format!("id = \"{node}\"\n");
    ensure!(text.contains(&id), "{text}");
    Ok(text.replacen(&id, &format!("{id}voter = true\n"), 1))
}

fn without_voter(text: &str, node: &str) -> Result<String> {
    let (before, table) = text.split_once(&format!("id = \"{node}\"\n")).context("its table")?;
    let (own, after) = table.split_once("voter = true\n").context("it votes")?;
    ensure!(!own.contains("[["), "{node} does not vote");
    Ok(format!("{before}id = \"{node}\"\n{own}{after}"))
}

/// A node's agent reads another file, and works by it.
fn give(lab: &mut Lab, node: &str, text: &str) -> Result<()> {
    fs::write(own_file(lab, node), text)?;
    let wanted = text.lines().find_map(|line| line.strip_prefix("generation = "));
    let wanted: u64 = wanted.context("a generation")?.parse()?;
    lab.process(&agent_name(node))?.signal(Signal::SIGHUP)?;
    let what = format!("{node} has read generation {wanted} of the fabric");
    eventually(TASK, &what, || {
        let status = status(lab, node)?;
        ensure!(status["generation"] == wanted, "{}", status["generation"]);
        Ok(())
    })?;
    lab.wait_for_agent(node).map(drop)
}

fn status(lab: &Lab, node: &str) -> Result<Value> {
    let told = lab.nettctl(node, "mira", &["-o", "json", "status"])?.must_be(0)?;
    Ok(told.json()?["ok"].clone())
}

fn leases(lab: &Lab, node: &str) -> Result<Value> {
    Ok(status(lab, node)?["leases"].clone())
}

/// What a person reads about leases.
fn told(lab: &Lab, node: &str) -> Result<String> {
    Ok(lab.nettctl(node, "mira", &["status"])?.must_be(0)?.out)
}

/// A node's voter answers in this generation.
fn runs(lab: &Lab, node: &str, generation: u64) -> Result<()> {
    let what = format!("{node} runs generation {generation} of the voters");
    eventually(RISES, &what, || {
        let leases = leases(lab, node)?;
        ensure!(leases["runs"] == generation, "{leases}");
        Ok(())
    })
    .map(drop)
}

/// A node counts by this generation.
fn counts(lab: &Lab, node: &str, generation: u64) -> Result<()> {
    let what = format!("{node} counts in generation {generation} of the voters");
    eventually(TASK, &what, || {
        let leases = leases(lab, node)?;
        ensure!(leases["counts"] == generation, "{leases}");
        Ok(())
    })
    .map(drop)
}

/// What a node says of the next file, which it does not read.
fn checked(lab: &Lab, node: &str, text: &str) -> Result<Told> {
    let next = lab.layout().root.join("next.toml");
    fs::write(&next, text)?;
    lab.nettctl(node, "mira", &["fabric", "check", &next.display().to_string()])
}

/// Nobody but osl serves meanwhile, and nothing is lost.
fn unharmed(
    lab: &mut Lab,
    what: &str,
    meanwhile: impl FnOnce(&mut Lab) -> Result<()>,
) -> Result<()> {
    served_by(lab, "osl", what, meanwhile)
}

fn served_by(
    lab: &mut Lab,
    site: &str,
    what: &str,
    meanwhile: impl FnOnce(&mut Lab) -> Result<()>,
) -> Result<()> {
    let traffic = Traffic::to_vips(lab, &CLIENTS, LEDGER)?;
    traffic.settles_on(site)?;
    let begun = nett_netns_tests::traffic::now();
    meanwhile(lab).with_context(|| what.to_owned())?;
    let report = traffic.finish().since(begun);
    let told = || format!("{what}: {}", report.summary());
    ensure!(report.answers_of(site) == report.received(), "{}", told());
    ensure!(report.received() > 0 && report.lost() == 0, "{}", told());
    show(&told());
    Ok(())
}

/// Nodes that do not vote, and need the file before the voters rise.
fn others(lab: &Lab) -> Vec<Node> {
    lab.nodes().into_iter().filter(|node| node.role == Role::Route).collect()
}

fn site(lab: &Lab, id: &str) -> Result<Site> {
    lab.shape().sites.iter().copied().find(|site| site.id == id).context("a site")
}

#[test]
fn a_voter_is_added_and_one_removed_and_no_packet_is_lost() -> Result<()> {
    let name = "a_voter_is_added_and_one_removed_and_no_packet_is_lost";
    tell_of_wires(name, Shape::FOUR, |lab| {
        let first = own_files(lab)?;
        lab.start_nett()?;
        serves_for_some_rounds(lab)?;
        // Without the role that kim has for facts.
        let roles = "roles = [\"operator\", \"approver\", \"gate\"]";
        ensure!(first.contains(roles), "{first}");
        let plain = first.replace(roles, "roles = [\"operator\", \"approver\"]");
        another_change_goes_round(lab, &as_generation(&plain, 2, "")?)?;

        let four = with_voter(&plain, "bgo-b1")?;
        let added = "voters = { generation = 2, added = \"bgo-b1\" }\n";
        let second = as_generation(&four, 3, added)?;
        let three = without_voter(&four, "trd-b1")?;
        let removed = "voters = { generation = 3, removed = \"trd-b1\" }\n";
        let third = as_generation(&three, 4, removed)?;

        lets_the_new_voter_in(lab, &second)?;
        the_new_voter_begins(lab, &second, &third)?;
        the_others_follow(lab, &second)?;
        // Generation 2 again, with others.
        let other = "voters = { generation = 2, removed = \"trd-b1\" }\n";
        another_set_of_that_number_is_refused(lab, &second, &as_generation(&three, 4, other)?)?;
        one_is_removed(lab, &third)?;
        the_new_voter_counts(lab)
    })
}

/// An agent that begins anew empties one slot of the gate, and only with the second round after the
/// first serving the other one is open, too.
fn serves_for_some_rounds(lab: &Lab) -> Result<()> {
    let traffic = Traffic::to_vips(lab, &["osl-c1"], LEDGER)?;
    traffic.settles_on("osl")?;
    traffic.run_for(LEASE)?;
    traffic.finish();
    Ok(())
}

fn another_change_goes_round(lab: &mut Lab, text: &str) -> Result<()> {
    unharmed(lab, "a change that is not of the voters", |lab| {
        let told = checked(lab, "osl-b1", text)?.must_be(0)?.out;
        ensure!(told.contains("generation 1") && told.contains("no change"), "{told}");
        lab.nodes().iter().try_for_each(|node| give(lab, &node.name, text))
    })
}

/// The server of its site lets it publish votes and be asked.
fn lets_the_new_voter_in(lab: &mut Lab, text: &str) -> Result<()> {
    fs::write(lab.layout().fabric(), text)?;
    let site = site(lab, "bgo")?;
    bus::render(lab, site)?;
    lab.process(&bus::process_name(site))?.signal(Signal::SIGHUP)
}

/// With the file before its time it goes on as before and says why.
fn the_new_voter_begins(lab: &mut Lab, second: &str, third: &str) -> Result<()> {
    unharmed(lab, "the new voter alone has the file", |lab| {
        let what = "the voters have run generation 1 for a wait";
        eventually(RISES, what, || checked(lab, "osl-b1", second)?.must_be(0).map(drop))?;
        give(lab, "bgo-b1", second)?;
        runs(lab, "bgo-b1", 2)?;
        counts(lab, "bgo-b1", 1)?;
        let early = checked(lab, "bgo-b1", third)?.must_be(4)?;
        ensure!(early.err.contains("voters-steady"), "{early:?}");
        give(lab, "bgo-b1", third)?;
        let why = eventually(TASK, "it says why it does not rise", || {
            let leases = leases(lab, "bgo-b1")?;
            let why = leases["rises"].as_str().context("why")?.to_owned();
            ensure!(leases["runs"] == 2, "{leases}");
            Ok(why)
        })?;
        let shown = told(lab, "bgo-b1")?;
        ensure!(shown.contains(&why.0), "{shown}");
        show(&shown);
        give(lab, "bgo-b1", second)?;
        runs(lab, "bgo-b1", 2)
    })
}

/// Everybody who does not vote, then one voter after the other.
fn the_others_follow(lab: &mut Lab, second: &str) -> Result<()> {
    unharmed(lab, "the others follow", |lab| {
        for node in others(lab) {
            give(lab, &node.name, second)?;
        }
        for node in ["osl-b1", "svg-b1", "trd-b1"] {
            give(lab, node, second)?;
            runs(lab, node, 2)?;
        }
        lab.nodes().iter().try_for_each(|node| counts(lab, &node.name, 2))?;
        eventually(TASK, "a node hears all four in generation 2", || {
            let leases = leases(lab, "osl-r1")?;
            let voters = leases["voters"].as_array().context("voters")?;
            ensure!(voters.len() == 4, "{leases}");
            ensure!(voters.iter().all(|voter| voter["generation"] == 2), "{leases}");
            Ok(())
        })?;
        show(&told(lab, "osl-r1")?);
        Ok(())
    })
}

fn another_set_of_that_number_is_refused(lab: &mut Lab, good: &str, other: &str) -> Result<()> {
    unharmed(lab, "a node has another set of that number", |lab| {
        let refused = checked(lab, "trd-r1", other)?.must_be(4)?;
        ensure!(refused.err.contains("generation 2"), "{refused:?}");
        give(lab, "trd-r1", other)?;
        let refused = leases(lab, "trd-r1")?["refused"].clone();
        let text = refused.as_str().context("why it is refused")?;
        ensure!(text.contains("generation 2 of the voters") && text.contains("bgo-b1"), "{text}");
        let shown = told(lab, "trd-r1")?;
        ensure!(shown.contains(text), "{shown}");
        show(&shown);
        give(lab, "trd-r1", good)?;
        counts(lab, "trd-r1", 2)
    })
}

fn one_is_removed(lab: &mut Lab, third: &str) -> Result<()> {
    unharmed(lab, "one is removed", |lab| {
        let what = "the voters have run generation 2 for a wait";
        eventually(RISES, what, || checked(lab, "osl-b1", third)?.must_be(0).map(drop))?;
        for node in others(lab) {
            give(lab, &node.name, third)?;
        }
        for node in ["osl-b1", "svg-b1", "bgo-b1"] {
            give(lab, node, third)?;
            runs(lab, node, 3)?;
        }
        give(lab, "trd-b1", third)?;
        lab.nodes().iter().try_for_each(|node| counts(lab, &node.name, 3))?;
        let leases = leases(lab, "trd-b1")?;
        ensure!(leases["runs"].is_null(), "it votes: {leases}");
        ensure!(leases["wait_ms"] == WAIT * 1000.0, "{leases}");
        Ok(())
    })
}

/// Who was removed is dead, and one of the first three: the one that was added makes the majority.
fn the_new_voter_counts(lab: &mut Lab) -> Result<()> {
    eventually(TASK, "all are known to have one file", || {
        let status = status(lab, "osl-b1")?;
        let sites = status["sites"].as_array().into_iter().flatten();
        let mut nodes = sites.flat_map(|site| site["nodes"].as_array().into_iter().flatten());
        ensure!(nodes.all(|node| node["fabric_matches"] == true), "{status}");
        Ok(())
    })?;
    let mira = Operator { lab, node: "osl-b1", name: "mira" };
    mira.complete_quietly(&["failover", LEDGER.id, "--to", "bgo"])?;
    served_by(lab, "bgo", "by the new voter's vote", |lab| {
        for node in ["trd-b1", "svg-b1"] {
            lab.take_process(&agent_name(node))?.kill();
        }
        let traffic = Traffic::to_vips(lab, &["osl-c1"], LEDGER)?;
        traffic.run_for(2 * LEASE)?;
        traffic.finish();
        Ok(())
    })
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
