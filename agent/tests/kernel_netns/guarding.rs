//! Monitor, purge, preflight and sysctls on a real kernel.

use std::time::Duration;

use nett_agent::kernel::preflight::{Interfaces, Severity, capabilities, preflight};
use nett_agent::kernel::purge::purge;
use nett_agent::kernel::sysctl::{self, apply_sysctls};
use nett_agent::kernel::{Kernel, KernelEvent, Monitor, Origin};
use nett_policy::lower::object::{Layout, NodeState};
use nett_policy::plan::plan;

use crate::netns::Netns;
use crate::reconcile::{open, reach};
use crate::state;

/// The events until the wanted one.
async fn until(monitor: &mut Monitor, wanted: KernelEvent) -> Vec<KernelEvent> {
    let mut seen = Vec::new();
    let patience = Duration::from_secs(10);
    loop {
        let event = tokio::time::timeout(patience, monitor.next()).await;
        let event = event.unwrap_or_else(|_| panic!("no {wanted:?}, only {seen:?}"));
        let event = event.expect("the monitor runs");
        seen.push(event);
        if event == wanted {
            return seen;
        }
    }
}

#[test]
fn the_monitor_tells_own_changes_from_those_of_others() {
    let netns = Netns::border();
    netns.inside(async || {
        let mut kernel = open();
        let mut monitor = Monitor::open(&Layout::default(), &kernel.ports()).expect("opens");
        reach(&mut kernel, &state::border()).await;
        let seen = until(&mut monitor, KernelEvent::Objects(Origin::Own)).await;
        assert!(!seen.contains(&KernelEvent::Objects(Origin::Other)), "{seen:?}");

        for command in [
            "route del 198.51.100.1 table 7000 metric 100",
            "-6 rule del pref 4460",
            "nexthop flush proto 217",
        ] {
            netns.ip(command);
            until(&mut monitor, KernelEvent::Objects(Origin::Other)).await;
        }
        netns.ip("link set wan0p down");
        until(&mut monitor, KernelEvent::Interfaces).await;
        netns.ip("addr del 192.0.2.5/30 dev wan1");
        until(&mut monitor, KernelEvent::Interfaces).await;
    });
    netns.inside(async || {
        let mut kernel = open().into_inner().unprotected();
        let mut monitor = Monitor::open(&Layout::default(), &kernel.ports()).expect("opens");
        let guard = kernel.read().await.expect("readable").state.guard;
        assert!(guard.is_some());
        netns.nft("add table inet other").expect("nft");
        netns.nft("flush ruleset").expect("nft");
        until(&mut monitor, KernelEvent::Objects(Origin::Other)).await;
        assert_eq!(kernel.read().await.expect("readable").state.guard, None);
    });
}

#[test]
fn routes_of_others_elsewhere_are_no_event() {
    let netns = Netns::border();
    netns.inside(async || {
        let kernel = open();
        let mut monitor = Monitor::open(&Layout::default(), &kernel.ports()).expect("opens");
        netns.ip("route add 203.0.113.0/24 via 192.0.2.2");
        netns.ip("link set wan1p down");
        // Both were queued in this order on one socket.
        let seen = until(&mut monitor, KernelEvent::Interfaces).await;
        assert_eq!(seen, [KernelEvent::Interfaces]);
    });
}

#[test]
fn an_overrun_is_reported_and_the_monitor_goes_on() {
    let netns = Netns::border();
    netns.inside(async || {
        let kernel = open();
        let small = Monitor::with_buffer(&Layout::default(), &kernel.ports(), 4096);
        let mut monitor = small.expect("opens");
        let batch: String = (0..2000)
            .map(|n| format!("route add 10.9.{}.{}/32 dev core0 table 7000\n", n / 250, n % 250))
            .collect();
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), batch).expect("written");
        // The runtime has one thread, so nothing is read while the batch runs.
        netns.ip(&format!("-batch {}", file.path().display()));
        until(&mut monitor, KernelEvent::Overrun).await;
        netns.ip("route add 10.8.0.0/32 dev core0 table 7000");
        until(&mut monitor, KernelEvent::Objects(Origin::Other)).await;
    });
}

#[test]
fn a_purge_removes_what_is_ours_and_nothing_else() {
    let netns = Netns::border();
    for command in [
        "nexthop add id 77 via 192.0.2.2 dev wan0 proto 217",
        "route add 203.0.113.0/24 via 192.0.2.2 table 900 proto 217",
        "route add 203.0.113.0/24 via 192.0.2.2 table 7000 proto static",
        "rule add pref 4499 to 203.0.113.0/24 lookup 900",
        "rule add pref 4000 to 203.0.113.0/24 lookup 900 proto 217",
    ] {
        netns.ip(command);
    }
    let picture = || {
        [
            netns.ip("nexthop list"),
            netns.ip("-4 route show table all"),
            netns.ip("-6 route show table all"),
            netns.ip("-4 rule"),
            netns.ip("-6 rule"),
            netns.nft("list ruleset").expect("nft"),
        ]
    };
    let before = picture();
    let desired = state::border();
    netns.inside(async || reach(&mut open(), &desired).await);
    netns.inside(async || {
        let purged = purge(&mut open()).await.expect("readable");
        assert!(purged.failed.is_empty(), "{:?}", purged.failed);
        let count = desired.rules.len() + desired.routes.len() + desired.nexthops.len() + 1;
        assert_eq!(purged.removed.len(), count, "{:#?}", purged.removed);
    });
    assert_eq!(before, picture());
}

#[test]
fn a_purge_beside_a_running_agent_leaves_the_table_and_says_why() {
    let netns = Netns::border();
    netns.inside(async || {
        let mut running = open();
        reach(&mut running, &state::border()).await;
        let purged = purge(&mut open()).await.expect("readable");
        assert_eq!(purged.failed.len(), 1);
        let text = purged.failed[0].to_string();
        assert!(text.contains("inet nett") && text.contains("EPERM"), "{text}");
    });
    assert!(netns.nft("list table inet nett").is_ok());
    assert!(!netns.ip("rule").contains("44"));
}

fn interfaces() -> Interfaces {
    let outer = vec!["wan0".to_owned(), "wan1".to_owned()];
    Interfaces { outer, core: vec!["core0".to_owned()], through: Vec::new() }
}

#[test]
fn preflight_names_what_is_wrong_and_sysctls_can_be_set() {
    let netns = Netns::border();
    for setting in ["net.ipv4.ip_forward=0", "net.ipv4.conf.wan0.rp_filter=1"] {
        netns.run(&["sysctl", "-qw", setting]).expect("sysctl");
    }
    netns.inside(async || {
        let mut kernel = open();
        let mut findings = preflight(&mut kernel, &interfaces()).await.expect("readable");
        findings.extend(sysctl::check(&interfaces()));
        let refused = |text: &str| {
            let of = |f: &&_| -> bool {
                let f: &nett_agent::kernel::preflight::Finding = f;
                f.severity == Severity::Refuse && f.to_string().contains(text)
            };
            findings.iter().filter(of).count()
        };
        assert_eq!(refused("net.ipv4.ip_forward"), 1, "{findings:#?}");
        assert_eq!(refused("rp_filter on wan0"), 1, "{findings:#?}");
        assert_eq!(refused("interface"), 1, "the one about rp_filter");
        let set = apply_sysctls(&interfaces());
        assert!(set.iter().all(|f| f.severity == Severity::Ok), "{set:#?}");
        assert!(!set.is_empty());
        let mut findings = preflight(&mut kernel, &interfaces()).await.expect("readable");
        findings.extend(sysctl::check(&interfaces()));
        let bad: Vec<_> = findings.iter().filter(|f| f.severity != Severity::Ok).collect();
        assert!(bad.is_empty(), "{bad:#?}");
        // All is well: nothing more to set.
        assert!(apply_sysctls(&interfaces()).is_empty());
    });
    let value = netns.run(&["sysctl", "-n", "net.ipv4.conf.wan0.rp_filter"]);
    assert_eq!(value.expect("sysctl").trim(), "2");
}

/// The mark that the strict check looks up is that of the link which a flow came by, and not of the
/// one which its answers come by: where these go through, no mark makes it right.
#[test]
fn strict_reverse_paths_are_refused_where_packets_go_through() {
    let netns = Netns::border();
    let set = |settings: [&str; 3]| {
        let names = ["all.rp_filter", "wan0.rp_filter", "wan1.rp_filter"];
        for (name, value) in names.iter().zip(settings) {
            netns.run(&["sysctl", "-qw", &format!("net.ipv4.conf.{name}={value}")]).expect("set");
        }
    };
    netns.run(&["sysctl", "-qw", "net.ipv4.conf.all.src_valid_mark=1"]).expect("sysctl");
    let refused = |through: &[&str]| {
        let through = through.iter().map(|name| (*name).to_owned()).collect();
        let interfaces = Interfaces { through, ..interfaces() };
        let findings = netns.inside(async || sysctl::check(&interfaces));
        let bad = findings.into_iter().filter(|f| f.refuses() && f.where_.contains("rp_filter"));
        bad.map(|finding| finding.where_).collect::<Vec<_>>()
    };
    let both = ["rp_filter on wan0", "rp_filter on wan1"];
    set(["0", "1", "1"]);
    assert_eq!(refused(&[]), [""; 0], "by the mark");
    assert_eq!(refused(&["wan0"]), both[..1]);
    set(["1", "0", "2"]);
    assert_eq!(refused(&["wan0", "wan1"]), both[..1], "the greater of both is in force");
    set(["2", "1", "1"]);
    assert_eq!(refused(&["wan0", "wan1"]), [""; 0]);
    set(["0", "1", "1"]);
    netns.inside(async || {
        let through = vec!["wan0".to_owned(), "wan1".to_owned()];
        apply_sysctls(&Interfaces { through, ..interfaces() });
    });
    assert_eq!(refused(&["wan0", "wan1"]), [""; 0], "manage_sysctl sets it");
}

#[test]
fn preflight_refuses_collisions_and_missing_interfaces() {
    let netns = Netns::border();
    for command in [
        "nexthop add id 77 via 192.0.2.2 dev wan0 proto 217",
        "route add 203.0.113.0/24 via 192.0.2.2 table 900 proto 217",
        "rule add pref 4000 to 203.0.113.0/24 lookup 900 proto 217",
        "rule add pref 4401 to 203.0.113.0/24 lookup 900",
        "link del wan1",
        "link set core0p down",
    ] {
        netns.ip(command);
    }
    netns.nft("add table inet nett").expect("nft");
    netns.inside(async || {
        let findings = preflight(&mut open(), &interfaces()).await.expect("readable");
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        for expected in [
            "refused: nexthop id 77 with our protocol outside our ids",
            "refused: route 203.0.113.0/24 table 900 metric 0 with our protocol",
            "refused: rule pref 4000 with our protocol outside our priorities",
            "refused: rule pref 4401 of protocol",
            "refused: nft table inet nett without Nett's comment",
            "refused: interface wan1: does not exist",
            "warning: interface core0: is down or has no carrier",
        ] {
            let found = lines.iter().any(|line| line.starts_with(expected));
            assert!(found, "no \"{expected}\" in {lines:#?}");
        }
        let allowed = |ports: &[u16]| -> Vec<String> {
            capabilities(ports).iter().map(ToString::to_string).collect()
        };
        let both = ["ok: the process: has CAP_NET_ADMIN", "ok: the process: has CAP_NET_RAW"];
        assert_eq!(allowed(&[1024, 0]), both);
        assert_eq!(allowed(&[9642, 53])[2], "ok: the process: has CAP_NET_BIND_SERVICE");
        let unplanned = plan(&NodeState::default(), &open().read().await.expect("ok").state);
        assert!(unplanned.is_empty(), "nothing of others is ever planned away");
    });
}
