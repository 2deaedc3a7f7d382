//! What is printed, byte for byte.

use serde_json::{Value, json};

use crate::harness::{Ran, TASK, World, canned, golden, nettctl};

#[test]
fn every_question_has_its_golden_answer() {
    let world = World::new();
    let lines: [(&str, &[&str]); 19] = [
        ("status", &["status"]),
        ("status_all", &["status", "--all-sites"]),
        ("status_site", &["status", "--site", "svg"]),
        ("status_wide", &["status", "-o", "wide"]),
        ("service_list", &["service", "list"]),
        ("service_list_wide", &["service", "list", "-o", "wide"]),
        ("service_show", &["service", "show", "shop/prod/api"]),
        ("site_list", &["site", "list"]),
        ("site_show", &["site", "show", "osl"]),
        ("node_list", &["node", "list"]),
        ("node_show", &["node", "show", "svg-b1"]),
        ("link_list_wide", &["link", "list", "-o", "wide"]),
        ("link_show", &["link", "show", "osl-svg-1"]),
        ("task_list", &["task", "list"]),
        ("task_show", &["task", "show", TASK]),
        ("plan", &["plan", "failover", "shop/prod/*", "--to", "svg"]),
        (
            "explain",
            &["explain", "name", "api.prod.shop.steer.example.", "--client", "198.51.100.7"],
        ),
        ("audit", &["audit"]),
        ("audit_wide", &["audit", "-o", "wide"]),
    ];
    for (name, line) in lines {
        let ran = world.run(line);
        assert_eq!((ran.exit, ran.err.as_str()), (0, ""), "{line:?}");
        golden(&format!("{name}.txt"), &ran.out);
    }
}

#[test]
fn json_and_yaml_are_the_answer_itself() {
    let world = World::new();
    let lines: [(&str, &[&str]); 6] = [
        ("status", &["status"]),
        ("services", &["service", "list"]),
        ("service", &["service", "show", "shop/prod/api"]),
        ("task", &["task", "show", TASK]),
        ("plan", &["plan", "failback", "shop/prod/api"]),
        ("audit", &["audit"]),
    ];
    for (op, line) in lines {
        let ran = world.run(&[line, &["-o", "json"]].concat());
        ran.exits(0);
        let printed: Value = serde_json::from_str(&ran.out).expect("JSON");
        assert_eq!(printed, canned(op), "{line:?}");
    }
    let ran = world.run(&["link", "list", "-o", "yaml"]);
    ran.exits(0);
    golden("link_list.yaml", &ran.out);
}

#[test]
fn a_plan_that_would_be_refused_says_by_what_and_how_to_pass() {
    let world = World::new();
    world.queue("plan", vec![canned("plan-refused")]);
    let plan = ["plan", "drain", "site", "osl"];
    let ran = world.run(&plan);
    ran.exits(4);
    golden("plan_refused.txt", &ran.out);
    // One of the two rules has no way past it.
    let passed = [&plan[..], &["--override", "keep-one-nordic"]].concat();
    world.run(&passed).exits(4);
    let mut one = canned("plan-refused");
    one["ok"]["refusals"].as_array_mut().expect("a list").pop();
    world.queue("plan", vec![one]);
    world.run(&passed).exits(0);
    world.run(&plan).exits(4);
}

#[test]
fn an_isolated_or_old_view_says_so_first() {
    let world = World::new();
    let mut old = canned("tasks");
    old["age_ms"] = json!(15_000);
    let mut isolated = old.clone();
    isolated["isolated_since"] = json!("2026-11-21T09:00:00Z");
    let mut both = isolated.clone();
    both["age_ms"] = json!(10);
    world.queue("tasks", vec![old, isolated, both]);
    let first = || {
        let ran = world.run(&["task", "list"]);
        ran.out.lines().next().expect("a line").to_owned()
    };
    assert_eq!(first(), "VIEW: 15 s old");
    assert_eq!(first(), "VIEW: isolated since 2026-11-21T09:00:00Z, 15 s old");
    assert_eq!(first(), "VIEW: isolated since 2026-11-21T09:00:00Z");
}

#[test]
fn what_others_wrote_cannot_command_the_terminal() {
    let world = World::new();
    let mut task = canned("task");
    task["ok"]["reason"] = json!("ok\u{1b}[2J\nstate  done");
    world.queue("task", vec![task]);
    let ran = world.run(&["task", "show", TASK]);
    ran.exits(0);
    assert!(!ran.out.contains('\u{1b}'), "{}", ran.out);
    assert!(ran.out.contains("ok?[2J?state  done"), "{}", ran.out);
}

#[test]
fn a_step_that_failed_waits_for_nobody() {
    let world = World::new();
    let mut task = canned("task");
    let why = "not acknowledged within 30 s by svg-b1";
    task["ok"]["steps"][1]["state"] = json!("failed");
    task["ok"]["steps"][1]["failure"] = json!(why);
    world.queue("task", vec![task]);
    let ran = world.run(&["task", "show", TASK]);
    ran.exits(0);
    assert!(ran.out.contains(&format!("step 2 failed: {why}\n")), "{}", ran.out);
    assert!(!ran.out.contains("waits for"), "{}", ran.out);
    let line = ran.out.lines().find(|line| line.starts_with("2 ")).expect("a line of the step");
    assert!(line.trim_end().ends_with(" -"), "{line}");
    let mut task = canned("task");
    task["ok"]["state"] = json!("cancelled");
    task["ok"]["ended_at"] = json!("2026-11-21T09:40:00.000Z");
    world.queue("task", vec![task]);
    let ran = world.run(&["task", "show", TASK]);
    ran.exits(0);
    assert!(!ran.out.contains("waits for"), "{}", ran.out);
}

#[test]
fn a_node_that_hears_nobody_is_shown_with_the_reason() {
    let world = World::new();
    let mut nodes = canned("nodes");
    let all = nodes["ok"]["nodes"].as_array_mut().expect("a list");
    let why = "the nats-server refuses nett.l.cmd.osl.>";
    all[0]["unheard"] = json!(why);
    let id = all[0]["id"].as_str().expect("a name").to_owned();
    world.queue("nodes", vec![nodes]);
    let ran = world.run(&["node", "show", &id]);
    ran.exits(0);
    let line = format!("connected; commands and questions are not heard: {why}\n");
    assert!(ran.out.contains(&line), "{}", ran.out);
}

#[test]
fn help_is_as_documented() {
    let mut help = String::new();
    for line in [
        &["--help"][..],
        &["failover", "--help"],
        &["drain", "--help"],
        &["plan", "--help"],
        &["task", "--help"],
        &["bus", "--help"],
    ] {
        let mut command = nettctl();
        command.args(line);
        let ran = Ran::of(command);
        ran.exits(0);
        help += &format!("$ nettctl {}\n{}\n", line.join(" "), ran.out);
    }
    golden("help.txt", &help);
}

#[test]
fn completions_know_the_commands_and_not_the_later_ones() {
    for shell in ["bash", "zsh", "fish"] {
        let mut command = nettctl();
        command.args(["completions", shell]);
        let ran = Ran::of(command);
        ran.exits(0);
        assert!(ran.out.contains("failover"), "{shell}");
        assert!(!ran.out.contains("support-bundle"), "{shell}");
    }
}
