//! The nft table: what nft itself says about it, and what a readback notices.

use std::collections::BTreeSet;

use nett_agent::kernel::{Kernel, LinuxKernel};
use nett_policy::lower::object::{Guard, GuardKind, NodeState};
use nett_policy::plan::{Op, plan};

use crate::netns::Netns;
use crate::reconcile::{open, reach};
use crate::state;

fn with(guard: Guard) -> NodeState {
    NodeState { guard: Some(guard), ..NodeState::default() }
}

async fn load(kernel: &mut LinuxKernel, guard: &Guard) {
    reach(kernel, &with(guard.clone())).await;
}

#[test]
fn nft_prints_the_program_as_it_was_meant() {
    let netns = Netns::border();
    for (kind, file) in [(GuardKind::Border, "border.nft"), (GuardKind::Route, "route.nft")] {
        netns.inside(async || load(&mut open(), &state::guard(kind)).await);
        let listed = netns.nft("list table inet nett").expect("nft");
        // The words for the table's flags depend on the version of nft.
        let lines = listed.lines().filter(|l| !l.starts_with("\tflags"));
        let listed: String = lines.flat_map(|l| [l.trim_end(), "\n"]).collect();
        let path = format!("{}/tests/kernel_netns/{file}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("NETT_UPDATE").is_some() {
            std::fs::write(&path, &listed).expect("writable");
        }
        let golden = std::fs::read_to_string(&path).expect("the golden file");
        assert_eq!(listed, golden, "NETT_UPDATE=1 writes {file} anew");
        let json = netns.run(&["nft", "-j", "list", "ruleset"]).expect("nft");
        let json: serde_json::Value = serde_json::from_str(&json).expect("nft writes JSON");
        assert!(json["nftables"].as_array().expect("a list").len() > 30);
    }
}

#[test]
fn drained_addresses_change_as_elements_alone() {
    let netns = Netns::border();
    let mut guard = state::guard(GuardKind::Border);
    netns.inside(async || {
        let mut kernel = open();
        load(&mut kernel, &guard).await;
        let before = kernel.read().await.expect("readable");
        guard.drained = ["198.51.100.1", "198.51.100.2", "fd99::1"]
            .map(|a| a.parse().expect("an address"))
            .into();
        let ops = plan(&with(guard.clone()), &before.state).ops;
        assert!(matches!(&ops[..], [Op::Drained { .. }]), "{ops:?}");
        kernel.apply(&ops[0]).await.expect("applies");
        // Again, when some of it is done already.
        kernel.apply(&ops[0]).await.expect("applies twice");
        load(&mut kernel, &guard).await;
    });
    let set = netns.nft("list set inet nett drained4").expect("nft");
    assert!(set.contains("{ 198.51.100.1, 198.51.100.2 }"), "{set}");
    let set = netns.nft("list set inet nett drained6").expect("nft");
    assert!(set.contains("{ fd99::1 }"), "{set}");
}

#[test]
fn every_kind_of_damage_is_noticed_and_repaired() {
    let netns = Netns::border();
    let guard = state::guard(GuardKind::Border);
    let handle = |chain: &str, text: &str| {
        let listed = netns.run(&["nft", "-a", "list", "chain", "inet", "nett", chain]);
        let listed = listed.expect("nft");
        let line = listed.lines().find(|l| l.contains(text)).expect("the rule");
        line.rsplit(' ').next().expect("a handle").to_owned()
    };
    let hairpin = || handle("fwd_guard", "hairpin");
    type Change<'a> = (&'a str, &'a dyn Fn() -> String);
    let changes: [Change; 9] = [
        ("has 9 rules, not 10", &|| {
            format!("delete rule inet nett fwd_guard handle {}", hairpin())
        }),
        ("has 11 rules, not 10", &|| "insert rule inet nett fwd_guard accept".to_owned()),
        ("differs", &|| format!("replace rule inet nett fwd_guard handle {} accept", hairpin())),
        ("differs", &|| {
            format!(
                "replace rule inet nett fwd_guard handle {} iifname @outer counter name hairpin \
                 accept comment \"came from outside, must not go back\"",
                hairpin()
            )
        }),
        ("chain intruder is not", &|| "add chain inet nett intruder".to_owned()),
        ("set intruder is not", &|| "add set inet nett intruder { type ipv4_addr; }".to_owned()),
        ("set site4", &|| {
            "add element inet nett site4 { 172.16.0.0-172.16.0.7, 172.16.1.3-172.16.1.9 }"
                .to_owned()
        }),
        ("chain pre_mark has", &|| "flush chain inet nett pre_mark".to_owned()),
        ("another version", &|| {
            "delete table inet nett; add table inet nett { comment \"Nett 0\"; }".to_owned()
        }),
    ];
    for (damage, command) in changes {
        netns.inside(async || load(&mut open(), &guard).await);
        let command = command();
        netns.nft(&command).unwrap_or_else(|e| panic!("{command}: {e}"));
        netns.inside(async || {
            let mut kernel = open();
            let read = kernel.read().await.expect("readable");
            let found = read.guard_damage.unwrap_or_default();
            assert!(found.contains(damage), "{command}: found \"{found}\"");
            let ops = plan(&with(guard.clone()), &read.state).ops;
            assert!(matches!(&ops[..], [Op::LoadGuard { from: Some(_), .. }]));
            load(&mut kernel, &guard).await;
        });
    }
}

#[test]
fn a_changed_input_element_is_a_difference_of_the_guard() {
    let netns = Netns::border();
    let guard = state::guard(GuardKind::Border);
    for command in [
        "delete element inet nett vip4 { 198.51.100.0/24 }",
        "add element inet nett remote6 { fd03::/32 }",
        "add element inet nett outer { core0 }",
        "delete element inet nett drained6 { fd99::9 }",
    ] {
        netns.inside(async || load(&mut open(), &guard).await);
        netns.nft(command).unwrap_or_else(|e| panic!("{command}: {e}"));
        netns.inside(async || {
            let mut kernel = open();
            let read = kernel.read().await.expect("readable");
            assert_ne!(read.state.guard.as_ref(), Some(&guard), "{command}");
            load(&mut kernel, &guard).await;
        });
    }
}

#[test]
fn the_table_is_protected_while_the_agent_runs_and_stays_afterwards() {
    let netns = Netns::border();
    let guard = state::guard(GuardKind::Border);
    netns.inside(async || {
        let mut kernel = open();
        load(&mut kernel, &guard).await;
        netns.nft("flush ruleset").expect("leaves it alone");
        netns.nft("delete table inet nett").expect_err("is refused");
        load(&mut kernel, &guard).await;
    });
    let listed = netns.nft("list table inet nett").expect("it stays");
    netns.inside(async || {
        let mut kernel = open();
        kernel.read().await.expect("readable");
        netns.nft("delete table inet nett").expect_err("taken again");
        load(&mut kernel, &guard).await;
        let gone = reach(&mut kernel, &NodeState::default()).await;
        assert_eq!(gone.state.guard, None);
    });
    assert!(listed.contains("chain fwd_guard"));
}

#[test]
fn counters_count_and_go_on_over_a_reload() {
    let netns = Netns::border();
    let mut guard = state::guard(GuardKind::Border);
    netns.ip("route add 203.0.113.0/24 via 192.0.2.2 dev wan0 onlink");
    netns.ip("neigh add 192.0.2.2 dev wan0 lladdr 02:00:00:00:00:01");
    netns.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]).expect("sysctl");
    netns.inside(async || {
        let mut kernel = open();
        load(&mut kernel, &guard).await;
        let before = kernel.counters().await.expect("readable");
        let names: Vec<&str> = before.keys().map(String::as_str).collect();
        assert_eq!(names, ["hairpin", "leak", "steered", "stray"]);
        assert_eq!(before["stray"].packets, 0);
    });
    stray_packet(&netns);
    netns.inside(async || {
        let mut kernel = open();
        let counted = kernel.counters().await.expect("readable")["stray"];
        assert_eq!(counted.packets, 1);
        guard.remote = BTreeSet::new();
        load(&mut kernel, &guard).await;
        assert_eq!(kernel.counters().await.expect("readable")["stray"], counted);
    });
}

/// One packet from a host behind `core0` that would leave over `wan0` for no reason.
fn stray_packet(netns: &Netns) {
    let host = Netns::new();
    netns.move_link("core0p", &host);
    host.ip("addr add 192.0.2.10/30 dev core0p");
    host.ip("link set core0p up");
    host.ip("route add default via 192.0.2.9");
    host.run(&["ping", "-c", "1", "-W", "1", "203.0.113.1"]).expect_err("it is rejected");
}
