//! The nft table: what nft itself says about it, and what a readback notices.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use nett_agent::kernel::purge::purge;
use nett_agent::kernel::{Kernel, LinuxKernel};
use nett_policy::fabric::Family;
use nett_policy::lower::object::{ClassNumber, Guard, GuardKind, GuardSet, NodeState};
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
        let (listed, json) = netns.inside(async || {
            let mut kernel = open();
            load(&mut kernel, &state::guard(kind)).await;
            // While the table has its owner: nft 1.0.6 writes broken JSON for a single flag.
            let json = netns.run(&["nft", "-j", "list", "ruleset"]);
            (netns.nft("list table inet nett").expect("nft"), json.expect("nft"))
        });
        // The words for the table's flags depend on the version of nft.
        let lines = listed.lines().filter(|l| !l.starts_with("\tflags"));
        // nft names the owner's process behind the table.
        let lines = lines.map(|l| l.split(" # progname").next().unwrap_or(l));
        let listed: String = lines.flat_map(|l| [l, "\n"]).collect();
        let path = format!("{}/tests/kernel_netns/{file}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("NETT_UPDATE").is_some() {
            std::fs::write(&path, &listed).expect("writable");
        }
        let golden = std::fs::read_to_string(&path).expect("the golden file");
        assert_eq!(listed, golden, "NETT_UPDATE=1 writes {file} anew");
        let json: serde_json::Value = serde_json::from_str(&json).expect("nft writes JSON");
        assert!(json["nftables"].as_array().expect("a list").len() > 30);
    }
}

#[test]
fn who_is_refused_changes_as_elements_alone() {
    let netns = Netns::border();
    let mut guard = state::guard(GuardKind::Border);
    netns.inside(async || {
        let mut kernel = open();
        load(&mut kernel, &guard).await;
        let before = kernel.read().await.expect("readable");
        let vips = ["198.51.100.1", "198.51.100.2", "fd99::1"];
        guard.refused = vips.map(|vip| state::element(GuardSet::Apart, vip)).into();
        guard.refused.extend(vips.map(|vip| state::element(GuardSet::Drained, vip)));
        let ops = plan(&with(guard.clone()), &before.state).ops;
        assert!(matches!(&ops[..], [Op::Elements { .. }, Op::Elements { .. }]), "{ops:?}");
        for op in ops.iter().flat_map(|op| [op, op]) {
            // Again, when it is done already.
            kernel.apply(op).await.expect("applies twice");
        }
        load(&mut kernel, &guard).await;
    });
    let set = netns.nft("list set inet nett drained4").expect("nft");
    assert!(set.contains("{ 198.51.100.1, 198.51.100.2 }"), "{set}");
    let set = netns.nft("list set inet nett apart6").expect("nft");
    assert!(set.contains("{ fd99::1 }"), "{set}");
}

#[test]
fn vips_change_their_class_and_chains_come_and_go_with_them() {
    let netns = Netns::border();
    let mut guard = state::guard(GuardKind::Border);
    netns.inside(async || {
        let mut kernel = open();
        load(&mut kernel, &guard).await;
        let before = kernel.read().await.expect("readable");
        let mut classes = (*guard.classes).clone();
        classes.remove(&state::address("198.51.100.3"));
        let new = ClassNumber::new(77, Family::V4);
        classes.insert(state::address("198.51.100.1"), new);
        guard.classes = Arc::new(classes);
        let ops = plan(&with(guard.clone()), &before.state).ops;
        assert!(matches!(&ops[..], [Op::Classes { .. }]), "{ops:?}");
        kernel.apply(&ops[0]).await.expect("applies");
        kernel.apply(&ops[0]).await.expect("applies twice");
        let read = kernel.read().await.expect("readable");
        assert_eq!(read.state.guard.as_ref(), Some(&guard));
    });
    let listed = netns.nft("list table inet nett").expect("nft");
    assert!(listed.contains("198.51.100.1 : jump class_268"), "{listed}");
    assert!(listed.contains("chain class_268 {") && !listed.contains("chain class_10 {"));
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
    let changes: [Change; 12] = [
        ("has 13 rules, not 14", &|| {
            format!("delete rule inet nett fwd_guard handle {}", hairpin())
        }),
        ("has 15 rules, not 14", &|| "insert rule inet nett fwd_guard accept".to_owned()),
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
        ("map steered_by has other counters", &|| {
            "delete element inet nett steered_by { \"wan1\" }".to_owned()
        }),
        ("map of classes has elements", &|| {
            "add chain inet nett other; add element inet nett class4 { 198.51.100.77 : jump other }"
                .to_owned()
        }),
        ("chain class_0 has 10 rules, not 11", &|| {
            let handle = handle("class_0", "not delivered here");
            format!("delete rule inet nett class_0 handle {handle}")
        }),
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
        "add element inet nett shut_out { 0x8 }",
        "delete element inet nett class6 { fd99::1 : jump class_1 }",
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
fn a_replacement_that_was_interrupted_is_made_good_and_a_strangers_twin_stays() {
    let netns = Netns::border();
    let mut guard = state::guard(GuardKind::Border);
    let comment = |listed: &str| {
        let line = listed.lines().find(|line| line.trim_start().starts_with("comment"));
        line.expect("a comment").trim().to_owned()
    };
    netns.inside(async || load(&mut open(), &guard).await);
    let ours = comment(&netns.nft("list table inet nett").expect("nft"));
    let refuses = "chain fwd_guard {\ntype filter hook forward priority 0\ndrop\n}";
    for (words, is_ours) in [(ours.as_str(), true), ("", false)] {
        netns.nft(&format!("table inet nett_next {{\n{words}\n{refuses}\n}}")).expect("nft");
        netns.inside(async || {
            let mut kernel = open();
            let read = kernel.read().await.expect("readable");
            let damage = read.guard_damage.is_some_and(|text| text.contains("interrupted"));
            assert_eq!(damage, is_ours, "{words}");
            // The same again, and another one.
            load(&mut kernel, &guard).await;
            assert_eq!(netns.nft("list tables").expect("nft").contains("nett_next"), !is_ours);
            guard.remote = BTreeSet::new();
            load(&mut kernel, &guard).await;
            let read = kernel.read().await.expect("readable");
            assert_eq!((read.guard_damage, read.state.guard.as_ref()), (None, Some(&guard)));
        });
        let tables = netns.nft("list tables").expect("nft");
        assert_eq!(tables.contains("nett_next"), !is_ours, "{tables}");
    }
    // What is to have no guard at all is left without the twin as well.
    netns.nft("delete table inet nett_next").expect("nft");
    netns.nft(&format!("table inet nett_next {{\n{ours}\n{refuses}\n}}")).expect("nft");
    netns.inside(async || {
        reach(&mut open(), &NodeState::default()).await;
    });
    assert_eq!(netns.nft("list tables").expect("nft"), "");
    // And a purge takes a twin that is alone.
    netns.nft(&format!("table inet nett_next {{\n{ours}\n{refuses}\n}}")).expect("nft");
    netns.inside(async || {
        purge(&mut open()).await.expect("readable");
    });
    assert_eq!(netns.nft("list tables").expect("nft"), "");
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
        let plain = ["hairpin", "leak", "local", "refused", "stray"];
        let of_wan0 = ["arrived.wan0", "intersite.wan0", "return.wan0", "steered.wan0"];
        for name in plain.iter().chain(&of_wan0) {
            assert!(names.contains(name), "{name} in {names:?}");
        }
        assert_eq!(names.len(), plain.len() + 2 * of_wan0.len(), "{names:?}");
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

/// A host behind `core0` whose default route is the border.
fn host(netns: &Netns) -> Netns {
    let host = Netns::new();
    netns.move_link("core0p", &host);
    host.ip("addr add 192.0.2.10/30 dev core0p");
    host.ip("addr add fd00:2::2/64 dev core0p nodad");
    host.ip("link set core0p up");
    host.ip("route add default via 192.0.2.9");
    host.ip("-6 route add default via fd00:2::1");
    host
}

/// One packet that would leave over `wan0` for no reason.
fn stray_packet(netns: &Netns) {
    let host = host(netns);
    host.run(&["ping", "-c", "1", "-W", "1", "203.0.113.1"]).expect_err("it is rejected");
}

#[test]
fn a_new_connection_to_nowhere_is_reset_at_once_and_others_are_not() {
    let netns = Netns::border();
    let guard = state::guard(GuardKind::Border);
    netns.inside(async || load(&mut open(), &guard).await);
    for setting in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
        netns.run(&["sysctl", "-qw", setting]).expect("sysctl");
    }
    // Without a route the border answers with ICMP; a reset can only come from the sets.
    for vip in ["198.51.100.0/24", "fd99::/48"] {
        netns.ip(&format!("route add blackhole {vip}"));
    }
    let host = host(&netns);
    let connect = |target: &str| {
        let target: SocketAddr = target.parse().expect("an address");
        let patience = Duration::from_millis(900);
        host.inside(async || TcpStream::connect_timeout(&target, patience))
            .expect_err("nobody listens")
            .kind()
    };
    let drained = ["198.51.100.9:80", "[fd99::9]:80"];
    let unreachable = ["198.51.100.7:80", "[fd99::7]:80"];
    for nowhere in drained.into_iter().chain(unreachable) {
        assert_eq!(connect(nowhere), ErrorKind::ConnectionRefused, "{nowhere}");
    }
    for other in ["198.51.100.8:80", "[fd99::8]:80"] {
        assert_ne!(connect(other), ErrorKind::ConnectionRefused, "{other}");
    }
    // Each of the four once, and nothing else.
    let counter = netns.nft("list counter inet nett refused").expect("nft");
    assert!(counter.contains("packets 4 "), "{counter}");
}

/// A flow that came in over `wan1` is marked so that its replies can go back there, and bits of
/// other software in the marks stay as they are.
#[test]
fn marks_are_kept_per_link_and_only_in_our_bits() {
    let netns = Netns::border();
    netns.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]).expect("sysctl");
    let far = Netns::new();
    netns.move_link("wan1p", &far);
    far.ip("addr add 192.0.2.6/30 dev wan1p");
    far.ip("link set wan1p up");
    far.ip("route add default via 192.0.2.5");
    let host = host(&netns);
    netns.inside(async || load(&mut open(), &state::guard(GuardKind::Border)).await);
    let other = "table inet other {
        counter reply { }
        chain before { type filter hook prerouting priority -160;
            ct mark set ct mark or 0x00a40000; meta mark set 0x00150000; }
        chain after { type filter hook prerouting priority -100;
            iifname core0 ct mark 0x00a42002 meta mark 0x00152002 counter name reply; }
    }";
    netns.nft(other).expect("nft");
    far.run(&["ping", "-c", "1", "-W", "2", "192.0.2.10"]).expect("the host answers");
    let counter = netns.nft("list counter inet other reply").expect("nft");
    assert!(counter.contains("packets 1"), "{counter}");
    drop(host);
}
