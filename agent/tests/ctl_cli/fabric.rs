//! `nettctl fabric check`: the next file against the voters as an agent has them.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{Ran, World, canned};

/// What the agent knows: its file's generation, its voters, and for how many seconds each has run
/// what it runs.
fn status(generation: u64, lease_ms: u64, voters: &[(&str, u64, u64)]) -> Value {
    let mut status = canned("status");
    let nodes: serde_json::Map<String, Value> = ["osl", "svg", "trd"]
        .map(|site| (site.to_owned(), json!(format!("{site}-b1"))))
        .into_iter()
        .collect();
    let voter = |(site, runs, seconds): &(&str, u64, u64)| {
        json!({
            "site": site, "node": format!("{site}-b1"), "answered_ms": 900,
            "generation": runs, "steady_ms": seconds * 1000,
        })
    };
    status["ok"]["leases"] = json!({
        "duration_ms": lease_ms, "wait_ms": 90_000, "fences_known": true, "counts": generation,
        "voters": voters.iter().map(voter).collect::<Vec<_>>(),
        "terms": {
            "generation": generation, "voters": nodes, "duration_ms": lease_ms, "wait_ms": 90_000,
        },
    });
    status
}

/// A file of three voters with these lines in `[fabric]`.
fn file(world: &World, lines: &str) -> PathBuf {
    let text = nett_fixtures::fabric_file("three-sites", "fabric.toml").expect("there").text;
    let (core, first) = ("core = \"core\"\n", "generation = 1\n");
    let text = text.replace(core, &format!("{core}voter = true\n"));
    let text = text.replacen(first, &format!("generation = 13\n{lines}"), 1);
    let path = world.dir.path().join("next.toml");
    std::fs::write(&path, text).expect("written");
    path
}

fn check(status: Value, lines: &str) -> Ran {
    let world = World::new();
    world.queue("status", vec![status]);
    let path = file(&world, lines);
    world.run(&["fabric", "check", path.to_str().expect("text")])
}

const ALL: [(&str, u64, u64); 3] = [("osl", 1, 300), ("svg", 1, 200), ("trd", 1, 90)];
/// The lease was 50 s before.
const SECOND: &str =
    "voters = { generation = 2, lease_before = { duration = \"50s\", wait = \"90s\" } }\n";

fn shows(ran: &Ran, part: &str) {
    assert!(ran.out.contains(part), "no `{part}` in {ran:#?}");
}

#[test]
fn a_file_of_the_same_generation_changes_no_voters() {
    let ran = check(status(1, 60_000, &ALL), "");
    ran.exits(0);
    shows(&ran, "generation 1 as now: no change");
}

#[test]
fn the_next_step_is_named_and_waits_for_a_majority() {
    let ran = check(status(1, 50_000, &ALL), SECOND);
    ran.exits(0);
    shows(&ran, "generation 2 changes the lease from 50 s to 60 s");
    shows(&ran, "3 of 3 voters have run generation 1 for the wait");
    let young = [("osl", 1, 300), ("svg", 1, 89), ("trd", 0, 500)];
    let ran = check(status(1, 50_000, &young), SECOND);
    ran.exits(4).says("refused by voters-steady").says("by 1 of 3 voters");
    shows(&ran, "svg/svg-b1 has run generation 1 for 89 s of 90 s");
    // One is away: it may be done, and what that costs is said.
    let two = [("osl", 1, 300), ("svg", 1, 300), ("trd", 0, 0)];
    let ran = check(status(1, 50_000, &two), SECOND);
    ran.exits(0);
    shows(&ran, "with one of them missing");
}

#[test]
fn another_set_under_a_used_number_and_more_than_a_step_are_refused() {
    let refused = |status: Value, lines: &str, part: &str| {
        check(status, lines).exits(4).says("refused by voters-step").says(part);
    };
    refused(status(2, 40_000, &ALL), SECOND, "generation 2 of the voters was used");
    let jump = SECOND.replace("generation = 2", "generation = 3");
    refused(status(1, 50_000, &ALL), &jump, "one generation at a time");
    refused(status(2, 60_000, &ALL), "", "it has generation 1, and 2 is in use");
}

#[test]
fn a_file_with_mistakes_is_2_and_says_where() {
    let ran = check(status(1, 60_000, &ALL), "voters = { generation = 2 }\n");
    ran.exits(2).says("next.toml:").says("does not say what it changes");
}

/// Its own file is the one that is wrong: the other one is not to be blamed.
#[test]
fn by_a_refused_file_nothing_is_compared() {
    let mut status = status(2, 40_000, &ALL);
    status["ok"]["leases"]["refused"] = json!("generation 2 of the voters was used");
    check(status, SECOND).exits(4).says("refused by voters-refused");
}
