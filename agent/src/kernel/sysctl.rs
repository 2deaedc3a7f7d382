//! The sysctls that steering needs: what they are, what they should be, and setting them.
//!
//! They are read and written under `/proc/sys/net` of the network namespace of the calling
//! thread. A former value is never restored by itself.

use std::fs;
use std::io;

use super::preflight::{Finding, Severity};

/// The interfaces whose settings matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// Where traffic from outside the node's part of the site arrives.
    pub outer: Vec<String>,
    /// Towards the site.
    pub core: Vec<String>,
    /// Of the outer ones, those by which the traffic of other sites comes in and goes on.
    pub through: Vec<String>,
}

/// One setting that should have one of some values.
struct Wanted {
    name: String,
    /// The first one is what is written.
    good: &'static [&'static str],
    severity: Severity,
    why: &'static str,
}

fn wanted(interfaces: &Interfaces) -> Vec<Wanted> {
    let one =
        |name: &str, good, severity, why| Wanted { name: name.to_owned(), good, severity, why };
    let mut all = vec![
        one("ipv4/ip_forward", &["1"], Severity::Refuse, "the node forwards IPv4"),
        one("ipv6/conf/all/forwarding", &["1"], Severity::Refuse, "the node forwards IPv6"),
        one(
            "ipv4/nexthop_compat_mode",
            &["0"],
            Severity::Warn,
            "else each group replace costs time and a notification for every route",
        ),
        one(
            "ipv4/fib_multipath_hash_policy",
            &["1"],
            Severity::Warn,
            "else links are shared by address and not by flow",
        ),
        one(
            "ipv6/fib_multipath_hash_policy",
            &["1"],
            Severity::Warn,
            "else links are shared by address and not by flow",
        ),
        one(
            "ipv4/conf/all/send_redirects",
            &["0"],
            Severity::Warn,
            "a redirect would take hosts around the steering",
        ),
    ];
    for name in &interfaces.core {
        let name = format!("ipv4/conf/{}/send_redirects", name);
        let why = "a redirect would take hosts around the steering";
        all.push(one(&name, &["0"], Severity::Warn, why));
    }
    for name in &interfaces.outer {
        let at = |key| format!("ipv6/conf/{}/{key}", name);
        let why = "else losing the link loses its IPv6 addresses for good";
        all.push(one(&at("keep_addr_on_down"), &["1"], Severity::Warn, why));
        let why = "a router advertisement would change routes on an inter-site link";
        all.push(one(&at("accept_ra"), &["0"], Severity::Warn, why));
    }
    all
}

fn read(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(format!("/proc/sys/net/{name}"))?.trim().to_owned())
}

fn number(name: &str) -> Option<u64> {
    read(name).ok()?.parse().ok()
}

/// Ports below this one take CAP_NET_BIND_SERVICE.
pub(super) fn first_unprivileged_port() -> u16 {
    let set = number("ipv4/ip_unprivileged_port_start").and_then(|n| u16::try_from(n).ok());
    // The kernel's own (PROT_SOCK of net/sock.h).
    set.unwrap_or(1024)
}

/// One finding per setting; nothing is changed.
pub fn check(interfaces: &Interfaces) -> Vec<Finding> {
    let mut findings: Vec<Finding> = wanted(interfaces).iter().map(judge).collect();
    let both = interfaces.outer.iter().chain(&interfaces.core);
    findings.extend(both.map(|name| reverse_path(interfaces, name)));
    findings.extend(reported());
    findings
}

fn judge(wanted: &Wanted) -> Finding {
    let Wanted { name, good, severity, why } = wanted;
    let dotted = name.replace('/', ".");
    let place = format!("sysctl net.{dotted}");
    match read(name) {
        Ok(value) if good.contains(&value.as_str()) => Finding::ok(format!("is {value}"), place),
        Ok(value) => Finding {
            severity: *severity,
            what: format!("is {value}: {why}"),
            where_: place,
            fix: format!("sysctl -w net.{dotted}={}, or manage_sysctl = true", good[0]),
        },
        Err(error) => Finding {
            severity: Severity::Warn,
            what: format!("cannot be read ({error}): {why}"),
            where_: place,
            fix: "check that the interface and the protocol exist".to_owned(),
        },
    }
}

/// The kernel uses the greater of `all` and the device.
fn effective_rp_filter(interface: &str) -> Option<u64> {
    let of = |name: &str| number(&format!("ipv4/conf/{name}/rp_filter"));
    Some(of("all")?.max(of(interface)?))
}

/// With `src_valid_mark` the strict check knows the way back of a flow by its mark. What goes
/// through to another site fails all the same: an answer comes from there with the mark of the link
/// that the flow came by, and the check asks for the way to its sender by that link.
fn reverse_path(interfaces: &Interfaces, interface: &str) -> Finding {
    let place = format!("rp_filter on {interface}");
    let valid_mark = ["all", interface]
        .iter()
        .filter_map(|name| number(&format!("ipv4/conf/{name}/src_valid_mark")))
        .any(|value| value == 1);
    let through = interfaces.through.iter().any(|name| name == interface);
    let what = match through {
        true => "answers that go through to another site would be dropped, with src_valid_mark too",
        false => "packets of outside clients that another site forwards would be dropped",
    };
    match effective_rp_filter(interface) {
        Some(1) if valid_mark && !through => {
            Finding::ok("is 1 with src_valid_mark 1".to_owned(), place)
        }
        Some(1) => Finding {
            severity: Severity::Refuse,
            what: format!("is 1 (the greater of `all` and the interface): {what}"),
            where_: place,
            fix: format!(
                "set net.ipv4.conf.all.rp_filter and net.ipv4.conf.{interface}.rp_filter to 2 or \
                 0, or manage_sysctl = true; systemd sets them again, so also in /etc/sysctl.d"
            ),
        },
        Some(value) => Finding::ok(format!("is {value}"), place),
        None => Finding {
            severity: Severity::Warn,
            what: "cannot be read".to_owned(),
            where_: place,
            fix: format!("check that interface {interface} exists"),
        },
    }
}

/// Values that are only told.
fn reported() -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(limit) = number("ipv4/icmp_ratelimit") {
        let what = format!("is {limit} ms between errors to one host; left as it is");
        findings.push(Finding::ok(what, "sysctl net.ipv4.icmp_ratelimit".to_owned()));
    }
    let count = number("netfilter/nf_conntrack_count");
    if let (Some(count), Some(max)) = (count, number("netfilter/nf_conntrack_max")) {
        let place = "sysctl net.netfilter.nf_conntrack_max".to_owned();
        let what = format!("{count} of {max} connections in use");
        let full = count.saturating_mul(10) > max.saturating_mul(8);
        findings.push(if full {
            Finding {
                severity: Severity::Warn,
                what: format!("{what}: above 80 %"),
                where_: place,
                fix: "raise net.netfilter.nf_conntrack_max".to_owned(),
            }
        } else {
            Finding::ok(what, place)
        });
    }
    findings
}

/// Sets what [`check`] would find wrong; says what was changed and what could not be.
pub fn apply_sysctls(interfaces: &Interfaces) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Wanted { name, good, severity, why } in wanted(interfaces) {
        let is_good = read(&name).is_ok_and(|value| good.contains(&value.as_str()));
        if !is_good {
            findings.push(write(&name, good[0], severity, why));
        }
    }
    for name in interfaces.outer.iter().chain(&interfaces.core) {
        if reverse_path(interfaces, name).severity != Severity::Refuse {
            continue;
        }
        // 2 on the device is enough: the greater value is in force, and 2 is the loose check.
        let name = format!("ipv4/conf/{name}/rp_filter");
        let why = "packets from or to other sites would be dropped";
        findings.push(write(&name, "2", Severity::Refuse, why));
    }
    findings
}

fn write(name: &str, value: &str, severity: Severity, why: &str) -> Finding {
    let dotted = name.replace('/', ".");
    let before = read(name).unwrap_or_else(|_| "unreadable".to_owned());
    match fs::write(format!("/proc/sys/net/{name}"), value) {
        Ok(()) => {
            Finding::ok(format!("set from {before} to {value}"), format!("sysctl net.{dotted}"))
        }
        Err(error) => Finding {
            severity,
            what: format!("cannot be set from {before} to {value} ({error}): {why}"),
            where_: format!("sysctl net.{dotted}"),
            fix: format!("sysctl -w net.{dotted}={value} on the host, before the agent starts"),
        },
    }
}
