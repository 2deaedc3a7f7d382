//! What is signed and sent, who is asked before, and how a task is followed.

use std::process::Command;

use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::harness::{Ran, TASK, World, canned, golden};

const REASON: [&str; 3] = ["--yes", "--reason", "drill"];

/// What was sent for a line, after its signature was checked.
fn sent(line: &[&str]) -> (String, Value) {
    let world = World::new();
    let ran = world.run_signed(&[line, &REASON].concat());
    ran.exits(0);
    let (subject, mut envelope) = world.command().expect("a command was sent");
    let sig = envelope.as_object_mut().expect("an object").remove("sig");
    let sig = &sig.expect("signed")[0];
    assert_eq!(sig["key"], world.key.public_key());
    let value = sig["value"].as_str().expect("text").as_bytes();
    let value = data_encoding::BASE64URL_NOPAD.decode(value).expect("base64url");
    let bytes = serde_json_canonicalizer::to_vec(&envelope).expect("canonical");
    let key = KeyPair::from_public_key(&world.key.public_key()).expect("a key");
    key.verify(&bytes, &value).expect("the signature is good");
    assert_eq!(envelope["subject"], subject);
    assert_eq!(envelope["site"], "osl");
    assert_eq!(envelope["operator"]["name"], "mira");
    assert_eq!(envelope["operator"]["reason"], "drill");
    (subject, envelope)
}

#[test]
fn every_verb_is_signed_for_its_subject() {
    let cases: [(&[&str], &str, Value); 10] = [
        (
            &["failover", "shop/prod/api", "--to", "svg"],
            "nett.l.cmd.osl.failover.service.shop~prod~api",
            json!({"verb": "failover", "services": "shop/prod/api", "to": "svg"}),
        ),
        (
            &["failback", "shop/prod/*"],
            "nett.l.cmd.osl.failback.service.many",
            json!({"verb": "failback", "services": "shop/prod/*"}),
        ),
        (
            &["steer", "shop/prod/api", "--to", "osl=70,svg=30"],
            "nett.l.cmd.osl.steer.service.shop~prod~api",
            json!({"verb": "steer", "services": "shop/prod/api", "to": {"osl": 70, "svg": 30}}),
        ),
        (
            &["drain", "site", "svg", "--override", "keep-one"],
            "nett.l.cmd.osl.drain.site.svg",
            json!({"verb": "drain", "object": {"site": "svg"}, "overrides": ["keep-one"]}),
        ),
        (
            &["drain", "service", "shop/prod/api", "--at", "svg"],
            "nett.l.cmd.osl.drain.service.shop~prod~api",
            json!({"verb": "drain", "object": {"site": "svg", "service": "shop/prod/api"}}),
        ),
        (
            &["undrain", "site", "svg"],
            "nett.l.cmd.osl.undrain.site.svg",
            json!({"verb": "undrain", "object": {"site": "svg"}}),
        ),
        (
            &["revert", TASK],
            "nett.l.cmd.osl.revert.task.osl-01jd3m5w7r8v3qyb2s9t4k6e1h",
            json!({"verb": "revert", "task": TASK}),
        ),
        (
            &["task", "revert", "osl-01JD3M5W7R8V3QYB2S9T4K6E1H"],
            "nett.l.cmd.osl.revert.task.osl-01jd3m5w7r8v3qyb2s9t4k6e1h",
            json!({"verb": "revert", "task": TASK}),
        ),
        (
            &["approve", TASK],
            "nett.l.cmd.osl.approve.task.osl-01jd3m5w7r8v3qyb2s9t4k6e1h",
            json!({
                "wish": "approve", "task": TASK,
                "plan_hash": canned("task")["ok"]["plan_hash"],
            }),
        ),
        (
            &["task", "reject", TASK],
            "nett.l.cmd.osl.reject.task.osl-01jd3m5w7r8v3qyb2s9t4k6e1h",
            json!({"wish": "reject", "task": TASK}),
        ),
    ];
    for (line, subject, body) in cases {
        let (found, envelope) = sent(line);
        assert_eq!(found, subject, "{line:?}");
        assert_eq!(envelope["body"], body, "{line:?}");
        let lifetime = if body["wish"].is_null() { 60 } else { 900 };
        let time = |field: &str| {
            let text = envelope[field].as_str().expect("text");
            text.parse::<jiff::Timestamp>().expect("a time").as_millisecond()
        };
        assert_eq!(time("expires_at") - time("issued_at"), lifetime * 1000);
    }
}

#[test]
fn two_commands_never_have_one_id() {
    let line = ["undrain", "site", "svg"];
    let (_, first) = sent(&line);
    let (_, second) = sent(&line);
    assert_ne!(first["id"], second["id"]);
    assert!(first["id"].as_str().expect("text").starts_with("osl."));
}

#[test]
fn a_site_elsewhere_is_not_signed_for() {
    let world = World::new();
    let line = ["undrain", "site", "svg", "--site", "svg"];
    let ran = world.run_signed(&[&line[..], &REASON].concat());
    ran.exits(2).says("of site osl, not svg").says("--nats");
    assert_eq!(world.command(), None);
}

#[test]
fn wait_follows_to_the_end_with_progress() {
    let world = World::new();
    let mut waiting = canned("task");
    waiting["ok"]["state"] = json!("waiting-approval");
    waiting["ok"]["approvals"] = json!([]);
    waiting["ok"]["steps"] = json!([]);
    waiting["ok"]["revision"] = json!(1);
    let running = canned("task");
    let mut done = canned("task");
    done["ok"]["state"] = json!("done");
    done["ok"]["revision"] = json!(9);
    for step in done["ok"]["steps"].as_array_mut().expect("a list") {
        step["state"] = json!("done");
    }
    world.queue("task", vec![waiting]);
    world.queue("watch-task", vec![running, done]);
    let line = ["failover", "shop/prod/api", "--to", "svg", "--wait"];
    let ran = world.run_signed(&[&line[..], &REASON].concat());
    ran.exits(0);
    golden("wait_progress.txt", &ran.err);
    assert!(ran.out.contains("state      done"), "{}", ran.out);
    // Each poll went on from the revision seen before.
    let seen = world.fake.seen.lock().expect("no panic holds it");
    let polls: Vec<u64> = seen
        .iter()
        .filter_map(|request| match request {
            nett_agent::api::types::ApiRequest::WatchTask { after_revision, .. } => {
                Some(*after_revision)
            }
            _ => None,
        })
        .collect();
    assert_eq!(polls, [1, 5]);
}

/// Runs a line on a terminal of its own (script, util-linux) and types `answer`.
fn on_terminal(world: &World, line: &str, answer: &str) -> Ran {
    use std::io::Write;
    let socket = world.socket();
    let key = world.dir.path().join("mira.nk");
    let text = format!(
        "{} --socket {} --key {} {line}",
        env!("CARGO_BIN_EXE_nettctl"),
        socket.display(),
        key.display()
    );
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &text, "/dev/null"]);
    let mut child = command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("script(1) of util-linux is there");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(answer.as_bytes()).expect("typed");
    let output = child.wait_with_output().expect("ended");
    drop(input);
    Ran {
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::new(),
        exit: output.status.code().expect("ended by itself"),
    }
}

#[test]
fn on_a_terminal_the_plan_is_shown_and_binds() {
    let world = World::new();
    let line = "failover 'shop/prod/*' --to svg --reason drill";
    let ran = on_terminal(&world, line, "y\n");
    ran.exits(0);
    assert!(ran.out.contains("failover shop/prod/* to svg: 2 services"), "{}", ran.out);
    assert!(ran.out.contains("shop/prod/web"), "{}", ran.out);
    let (_, envelope) = world.command().expect("it was sent");
    assert_eq!(envelope["body"]["plan_hash"], canned("plan")["ok"]["plan_hash"]);
}

#[test]
fn a_no_or_a_refusal_on_a_terminal_sends_nothing() {
    let world = World::new();
    let line = "failover 'shop/prod/*' --to svg --reason drill";
    for answer in ["n\n", "\n", "yess\n"] {
        let ran = on_terminal(&world, line, answer);
        ran.exits(2);
        assert!(ran.out.contains("nothing was sent"), "{}", ran.out);
    }
    world.queue("plan", vec![canned("plan-refused")]);
    let ran = on_terminal(&world, line, "y\n");
    ran.exits(4);
    assert!(ran.out.contains("refused by keep-one-nordic (owner netops)"), "{}", ran.out);
    assert!(ran.out.contains("--override keep-one-nordic"), "{}", ran.out);
    assert_eq!(world.command(), None);
}

#[test]
fn keygen_writes_a_seed_once_and_prints_the_public_key() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("new.nk");
    let run = || {
        let mut command = crate::harness::nettctl();
        command.args(["keygen", "--out"]).arg(&path);
        Ran::of(command)
    };
    let ran = run();
    ran.exits(0);
    let seed = std::fs::read_to_string(&path).expect("written");
    let pair = KeyPair::from_seed(seed.trim()).expect("a seed");
    assert_eq!(ran.out.trim(), pair.public_key());
    let mode = std::fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    run().exits(2).says("never overwritten");
    assert_eq!(std::fs::read_to_string(&path).expect("there"), seed);
}
