//! Every exit status, and what is said with it.

use serde_json::json;

use crate::harness::{Ran, TASK, World, canned, nettctl};

const REASON: [&str; 3] = ["--yes", "--reason", "drill"];

fn failover() -> Vec<&'static str> {
    [&["failover", "shop/prod/api", "--to", "svg"], &REASON[..]].concat()
}

#[test]
fn done_and_accepted_are_0() {
    let world = World::new();
    let ran = world.run_signed(&failover());
    ran.exits(0);
    assert_eq!(ran.out, format!("{TASK} running plan 4be1c0de77aa\n"));
    assert_eq!(ran.err, "");
}

#[test]
fn a_task_that_ends_otherwise_is_1() {
    let world = World::new();
    for state in ["failed", "rejected", "expired", "reverted", "superseded"] {
        let mut end = canned("task");
        end["ok"]["state"] = json!(state);
        end["ok"]["outcome_reason"] = json!("step 2 failed");
        world.queue("task", vec![end]);
        let ran = world.run(&["task", "watch", TASK]);
        ran.exits(1).says(state);
        assert!(ran.out.contains("step 2 failed"), "{ran:#?}");
    }
}

#[test]
fn usage_and_configuration_are_2() {
    let world = World::new();
    let cases: [(&[&str], &str); 14] = [
        (&["failover", "shop/prod/api"], "--to"),
        (&["failover", "Shop", "--to", "svg"], "project/environment"),
        (&["steer", "shop/prod/api", "--to", "osl=0"], "leave out"),
        (&["steer", "shop/prod/api", "--to", "osl"], "SITE=WEIGHT"),
        (&["drain", "service", "shop/prod/api"], "--at"),
        (&["task", "show", "17"], "not a task id"),
        (&["status", "--timeout", "soon"], "not a duration"),
        (&["status", "--site", "ber"], "no site ber"),
        (&["node", "show", "gone"], "no node gone"),
        (&["link", "show", "gone"], "no link gone"),
        (&["frobnicate"], "unrecognized"),
        (&["failover", "shop/prod/api", "--to", "svg", "--yes"], "--reason"),
        (&["failback", "shop/prod/api", "--yes", "--reason", " "], "--reason"),
        (&["failback", "shop/prod/api", "--reason", "x"], "no terminal"),
    ];
    for (line, part) in cases {
        world.run_signed(line).exits(2).says(part);
    }
    assert_eq!(world.command(), None, "nothing was sent");
    let unsigned = ["failback", "shop/prod/api", "--yes", "--reason", "x"];
    world.run(&unsigned).exits(2).says("--key");
}

#[test]
fn an_unknown_object_is_2_with_the_agents_words() {
    let world = World::new();
    world.queue("service", vec![canned("error")]);
    let line = ["service", "show", "shop/prod/gone"];
    world
        .run(&line)
        .exits(2)
        .says("there is no service shop/prod/gone")
        .says("see nettctl service list");
    let json = world.run(&[&line[..], &["-o", "json"]].concat());
    json.exits(2);
    let printed: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(printed, canned("error"));
}

#[test]
fn a_bad_key_is_2_and_is_not_shown() {
    let world = World::new();
    let path = world.dir.path().join("bad.nk");
    let line = |path: &std::path::Path| {
        let mut command = nettctl();
        command.arg("--socket").arg(world.socket()).arg("--key").arg(path);
        command.args(failover());
        Ran::of(command)
    };
    line(&path).exits(2).says("bad.nk");
    for text in ["", "SUSECRETSECRET", "# only a comment\n"] {
        std::fs::write(&path, text).expect("written");
        let ran = line(&path);
        ran.exits(2).says("not an operator's nkey seed");
        assert!(!ran.err.contains("SECRET"), "{ran:#?}");
    }
}

#[test]
fn a_key_that_is_nobodys_is_2() {
    let world = World::new();
    let mut nobody = canned("identify");
    nobody["ok"]["operator"] = json!(null);
    world.queue("identify", vec![nobody]);
    world.run_signed(&failover()).exits(2).says("no operator of the fabric has the key U");
}

#[test]
fn names_of_later_releases_are_2() {
    let retire = ["service", "retire", "shop/prod/api", "--reason", "x"];
    let cases: [&[&str]; 3] = [&["top"], &retire, &["fabric", "show"]];
    for line in cases {
        let mut command = nettctl();
        command.args(line);
        Ran::of(command).exits(2).says("is not in this release");
    }
}

#[test]
fn an_agent_out_of_reach_is_3() {
    let world = World::new();
    let dir = world.stop();
    let socket = dir.path().join("agent.sock");
    let ask = |path: &std::path::Path| {
        let mut command = nettctl();
        command.arg("--socket").arg(path).arg("status");
        Ran::of(command)
    };
    assert!(!socket.exists(), "a server that ended took its file along");
    ask(&socket).exits(3).says("there is no such socket");
    // The file of a dead agent.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("bound"));
    ask(&socket).exits(3).says("nobody listens");
}

#[test]
fn an_agent_that_does_not_answer_is_3_and_a_command_without_answer_6() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("agent.sock");
    // Takes connections into its backlog, and never says a word.
    let _mute = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
    let mut command = nettctl();
    command.arg("--socket").arg(&socket);
    command.args(["status", "--timeout", "100ms"]);
    Ran::of(command).exits(3).says("no answer within");

    // The agent that answers questions loses the connection of the command.
    let world = World::new();
    let call = std::time::Duration::from_millis(100);
    let limits = nett_agent::api::server::Limits { call, ..Default::default() };
    drop(world);
    let world = World::with_limits(limits);
    let mut timeout = canned("error");
    timeout["error"]["code"] = json!("timeout");
    world.queue("command", vec![timeout]);
    world.run_signed(&failover()).exits(6);
}

#[test]
fn a_refusal_is_4_and_names_the_rule() {
    let world = World::new();
    let mut refused = canned("command");
    refused["ok"] = json!({
        "kind": "command", "accepted": false, "task": null, "state": null,
        "refused_by": "last-eligible-site", "exit": 4, "plan_hash": null,
        "message": "shop/prod/api would be left without a site",
    });
    world.queue("command", vec![refused]);
    let ran = world.run_signed(&failover());
    ran.exits(4).says("refused by last-eligible-site: shop/prod/api would be left");
    assert_eq!(ran.out, "");
}

#[test]
fn a_command_that_the_agent_cannot_record_has_the_status_it_gave() {
    let world = World::new();
    let mut unreachable = canned("command");
    unreachable["ok"] = json!({
        "kind": "command", "accepted": false, "exit": 3,
        "message": "the log of site osl cannot be written",
    });
    world.queue("command", vec![unreachable]);
    world.run_signed(&failover()).exits(3).says("not accepted: the log of site osl");
}

#[test]
fn a_task_that_waits_for_approval_is_5() {
    let world = World::new();
    let mut waits = canned("command");
    waits["ok"]["state"] = json!("waiting-approval");
    waits["ok"]["exit"] = json!(5);
    world.queue("command", vec![waits]);
    let ran = world.run_signed(&failover());
    ran.exits(5);
    assert!(ran.out.contains("nettctl approve"), "{ran:#?}");
    // And with --wait, when nobody comes.
    let mut task = canned("task");
    task["ok"]["state"] = json!("waiting-approval");
    world.queue("task", vec![task.clone()]);
    world.queue("watch-task", vec![task]);
    let wait = ["--wait", "--timeout", "600ms"];
    let ran = world.run_signed(&[&failover()[..], &wait].concat());
    ran.exits(5).says("waiting-approval (1 of 1)");
}

#[test]
fn a_task_that_is_not_done_in_time_is_6() {
    let world = World::new();
    let ran = world.run(&["task", "watch", TASK, "--timeout", "600ms"]);
    ran.exits(6).says("step 2/3 shift started, waits for svg-b1");
}

#[test]
fn a_state_that_changed_since_the_plan_is_7() {
    let world = World::new();
    let mut changed = canned("command");
    changed["ok"]["accepted"] = json!(false);
    changed["ok"]["refused_by"] = json!("plan-hash");
    changed["ok"]["exit"] = json!(7);
    world.queue("command", vec![changed]);
    let hash = ["--plan-hash", "0123"];
    world.run_signed(&[&failover()[..], &hash].concat()).exits(7);
    let (_, envelope) = world.command().expect("it was sent");
    assert_eq!(envelope["body"]["plan_hash"], "0123");
    // An approval is not even sent.
    let world = World::new();
    let approve = [&["approve", TASK], &REASON[..], &hash].concat();
    world.run_signed(&approve).exits(7);
    assert_eq!(world.command(), None);
    let plan = ["plan", "failback", "shop/prod/api", "--plan-hash", "0123"];
    world.run(&plan).exits(7);
}
