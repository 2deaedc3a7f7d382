//! What a plan announces is what the kernel of every node reports afterwards and what the agent
//! asked of it: object by object, kind by kind, no more and no less.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::files::Node;
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::changes::{Change, planned};
use nett_netns_tests::observe::recorder::Recorder;
use nett_netns_tests::services::{API, EDGE, PAY};
use nett_netns_tests::story::{Operator, tell};

/// Takes the plan of `command`, gives the command (and an approval, when the plan asks for one),
/// and holds every node's record against the plan. Returns the number of operations.
fn follow(lab: &mut Lab, command: &[&str]) -> Result<usize> {
    let mut recorders = BTreeMap::new();
    for node in Node::all() {
        recorders.insert(node.name.clone(), Recorder::start(lab, &node.name)?);
    }
    let mira = Operator { lab, node: "osl-b1", name: "mira" };
    let words = [&["-o", "json", "plan"], command].concat();
    let plan = mira.run(&words)?.must_be(0)?.json()?;
    let approvals = plan["ok"]["approvals_needed"].as_u64().context("a number")?;
    let order = mira.order(command)?.must_be(if approvals == 0 { 0 } else { 5 })?.json()?;
    assert_eq!(order["plan_hash"], plan["ok"]["plan_hash"]);
    let task = order["task"].as_str().context("a task")?;
    if approvals > 0 {
        Operator { lab, node: "svg-b1", name: "jon" }.approve(task)?;
    }
    mira.wait_for(task, "done")?;
    let mut count = 0;
    for (node, recorder) in recorders {
        let record = recorder.finish()?;
        let plan = sorted(planned(&plan, &node)?);
        count += plan.len();
        let what = format!("{command:?} on {node}");
        same(&format!("{what}, reported by the kernel"), &plan, &sorted(record.reported))?;
        let plan = sorted(plan.into_iter().map(without_interface).collect());
        same(&format!("{what}, asked for by the agent"), &plan, &sorted(record.asked))?;
    }
    Ok(count)
}

fn sorted(mut changes: Vec<Change>) -> Vec<Change> {
    changes.sort();
    changes
}

/// A request names an interface by a number.
fn without_interface(mut change: Change) -> Change {
    if let Some((value, _)) = change.value.split_once(" dev ") {
        change.value = value.to_owned();
    }
    change
}

fn same(what: &str, plan: &[Change], found: &[Change]) -> Result<()> {
    let lines = |list: &[Change]| list.iter().map(|c| format!("  {c}\n")).collect::<String>();
    ensure!(plan == found, "{what}, planned:\n{}found:\n{}", lines(plan), lines(found));
    Ok(())
}

#[expect(clippy::print_stderr, reason = "the numbers of the story, shown by --nocapture")]
fn tell_count(command: &[&str], count: usize) {
    eprintln!("{}: {count} planned, {count} reported, {count} asked for", command.join(" "));
}

fn follow_all(lab: &mut Lab, commands: &[&[&str]]) -> Result<()> {
    for command in commands {
        let count = follow(lab, command)?;
        assert!(count > 0, "{command:?} planned nothing");
        tell_count(command, count);
    }
    Ok(())
}

#[test]
fn a_move_made_before_broken_does_what_its_plan_says() -> Result<()> {
    tell("a_move_made_before_broken_does_what_its_plan_says", |lab| {
        follow_all(lab, &[&["failover", API.id, "--to", "svg"], &["failback", API.id]])
    })
}

#[test]
fn an_approved_move_broken_before_made_does_what_its_plan_says() -> Result<()> {
    tell("an_approved_move_broken_before_made_does_what_its_plan_says", |lab| {
        follow_all(lab, &[&["failover", PAY.id, "--to", "svg"], &["failback", PAY.id]])
    })
}

#[test]
fn a_steer_and_a_drain_of_a_service_do_what_their_plans_say() -> Result<()> {
    tell("a_steer_and_a_drain_of_a_service_do_what_their_plans_say", |lab| {
        follow_all(
            lab,
            &[
                &["steer", EDGE.id, "--to", "osl=70,svg=30"],
                &["steer", EDGE.id, "--to", "osl=30,svg=70"],
                &["drain", "service", EDGE.id, "--at", "svg"],
                &["undrain", "service", EDGE.id, "--at", "svg"],
            ],
        )
    })
}

#[test]
fn a_drain_of_a_site_does_what_its_plan_says() -> Result<()> {
    tell("a_drain_of_a_site_does_what_its_plan_says", |lab| {
        // With the category B service there, its moves are a part of the plan.
        let there = ["failover", PAY.id, "--to", "svg"];
        follow_all(lab, &[&there, &["drain", "site", "svg"], &["undrain", "site", "svg"]])
    })
}
