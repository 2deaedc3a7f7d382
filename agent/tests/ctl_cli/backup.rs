//! `nettctl backup` and `restore`: the file between two agents.

use nett_agent::api::types::ApiRequest;
use serde_json::{Value, json};

use crate::harness::World;

fn answer(payload: &Value) -> Value {
    json!({
        "v": 1, "site": "osl", "node": "osl-b1", "as_of": "2026-11-21T09:30:00.000Z",
        "age_ms": 0, "ok": payload
    })
}

/// Enough for several pieces, with characters of several bytes.
fn log() -> String {
    (1..=3000).map(|n| format!("{n} {{\"v\":1,\"text\":\"entry {n} «æøå» \\\\n\"}}\n")).collect()
}

/// A world whose agent hands out a log and a trail of two parts.
fn world() -> World {
    let world = World::new();
    let backup = json!({
        "kind": "backup", "fabric": "nordic", "generation": 12, "fabric_hash": "9f3c",
        "log": log()
    });
    world.queue("backup", vec![answer(&backup)]);
    let parts = [
        json!({"kind": "audit-part", "text": "{\"at\":1}\n{\"at\":2}\n", "next": 18}),
        json!({"kind": "audit-part", "text": "{\"at\":3}\n"}),
    ];
    world.queue("audit-part", parts.iter().map(answer).collect());
    let done = json!({"kind": "restored", "received": 1, "new": 7, "heads": {"osl": 40, "svg": 3}});
    world.queue("restore", vec![answer(&done)]);
    world
}

#[test]
fn a_backup_comes_back_as_it_was() {
    let world = world();
    let file = world.dir.path().join("osl-b1.nett");
    let name = file.to_str().expect("a name");
    let told = world.run(&["backup", name]);
    told.exits(0).says("3000 records of the log, 3 lines of the audit trail");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&file).expect("written").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);

    let told = world.run(&["restore", name, "--reason", "its disk was lost"]);
    told.exits(0);
    assert_eq!(told.out, "7 entries taken in; the logs go to osl 40, svg 3 now\n");
    let seen = world.fake.seen.lock().expect("no panic holds it");
    let (mut sent, mut ends) = (String::new(), Vec::new());
    for request in seen.iter() {
        let ApiRequest::Restore { fabric, from, text, last, reason, .. } = request else {
            continue;
        };
        assert_eq!((fabric.as_str(), reason.as_str()), ("nordic", "its disk was lost"));
        assert_eq!(*from, sent.len() as u64);
        sent.push_str(text);
        ends.push(*last);
    }
    assert_eq!(sent, log());
    assert!(
        ends.len() > 1 && ends.iter().rev().skip(1).all(|last| !last) && ends.ends_with(&[true])
    );
    drop(seen);

    let trail = world.dir.path().join("trail.jsonl");
    world.run(&["restore", name, "--audit-to", trail.to_str().expect("a name")]).exits(0);
    let trail = std::fs::read_to_string(trail).expect("written");
    assert_eq!(trail, "{\"at\":1}\n{\"at\":2}\n{\"at\":3}\n");
}

/// Nothing of a file that is not as it was written reaches an agent.
#[test]
fn a_changed_or_cut_file_is_refused() {
    let world = world();
    let file = world.dir.path().join("osl-b1.nett");
    let name = file.to_str().expect("a name");
    world.run(&["backup", name]).exits(0);
    let whole = std::fs::read(&file).expect("reads");
    let refused = |bytes: &[u8], says: &str| {
        std::fs::write(&file, bytes).expect("writes");
        world.run(&["restore", name, "--reason", "a test"]).exits(2).says(says);
    };
    for at in [20, 60, 400, whole.len() / 2, whole.len() - 30] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        refused(&bytes, "damaged");
    }
    for length in [whole.len() - 1, whole.len() - 40, whole.len() / 2, 30] {
        refused(&whole[..length], "damaged");
    }
    let line = whole.iter().position(|b| *b == b'\n').expect("lines");
    refused(&whole[line + 1..], "no backup");
    refused(b"", "no backup");
    let restores = |r: &ApiRequest| matches!(r, ApiRequest::Restore { .. });
    assert!(!world.fake.seen.lock().expect("no panic holds it").iter().any(restores));
    world.run(&["restore", "/nonexistent", "--reason", "a test"]).exits(2);
    world.run(&["restore", name]).exits(2).says("--reason");
}

#[test]
fn what_the_agent_refuses_is_told() {
    let world = world();
    let file = world.dir.path().join("osl-b1.nett");
    let name = file.to_str().expect("a name");
    world.run(&["backup", name]).exits(0);
    let mut refusal = answer(&Value::Null);
    refusal.as_object_mut().expect("an object").remove("ok");
    refusal["error"] = json!({
        "code": "bad-request", "message": "the backup is refused: it is of the fabric `nordic`",
        "hint": "use a backup of a node of this fabric"
    });
    world.queue("restore", vec![refusal]);
    let told = world.run(&["restore", name, "--reason", "a test"]);
    told.exits(2).says("the backup is refused").says("use a backup of a node of this fabric");
}
