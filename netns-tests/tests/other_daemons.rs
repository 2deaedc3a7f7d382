//! Nett beside a routing daemon or two, keepalived and a firewall on one box: nobody loses
//! anything, whoever is restarted. And beside one that wants the same as Nett: nobody's object is
//! overwritten, and a fight ends.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nett_netns_tests::eventually::{eventually, eventually_true, patience};
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::netns::Netns;
use nett_netns_tests::observe::changes::PROTOCOL;
use nett_netns_tests::observe::http::metric;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::process::Spec;
use nett_netns_tests::services::{API, WEB};
use nett_netns_tests::story::{Operator, TASK, tell};

const NODE: &str = "osl-b1";

/// What the daemons of others are to have in the kernel, and how it is looked for.
const THEIRS: [(&str, &str); 5] = [
    ("route show 10.66.0.0/24 proto bird", "10.66.0.0/24"),
    ("-6 route show fd00:66::/64 proto bird", "fd00:66::/64"),
    ("route show 10.67.0.0/24", "10.67.0.0/24"),
    ("route show table 98", "10.68.0.0/24"),
    ("rule show pref 2000", "10.68.0.0/24"),
];

const BIRD: &str = "router id 10.1.1.2;
protocol device { scan time 1; }
protocol kernel { scan time 1; ipv4 { export all; import none; }; }
protocol kernel { scan time 1; ipv6 { export all; import none; }; }
protocol static { ipv4; route 10.66.0.0/24 via 10.1.1.3; }
protocol static { ipv6; route fd00:66::/64 via fd00:a:1::3; }
";

/// BIRD made to believe that a VIP in Nett's table is its own.
const GREEDY_BIRD: &str = "router id 10.1.1.2;
ipv4 table svc;
log stderr all;
protocol device { scan time 1; }
protocol kernel { kernel table 7000; scan time 1; metric 100; ipv4 { table svc; export all; }; }
protocol static { ipv4 { table svc; }; route 10.99.0.30/32 unreachable; }
";

const KEEPALIVED: &str = "vrrp_instance V1 {
  state MASTER
  interface core
  virtual_router_id 51
  priority 100
  advert_int 1
  virtual_ipaddress { 10.1.1.66/32 }
  virtual_routes { 10.68.0.0/24 via 10.1.1.3 dev core table 98 }
  virtual_rules { from 10.68.0.0/24 table 98 priority 2000 }
}
";

/// As distributions write it: everything away, then the own table.
const FIREWALL: &str = "flush ruleset
table inet firewall {
  set admins { type ipv4_addr; elements = { 10.1.40.2 } }
  chain forward { type filter hook forward priority 0; policy accept; ct state invalid counter; }
  chain input { type filter hook input priority 0; policy accept; ip saddr @admins accept; }
}
";

/// A directory for a daemon, with its configuration in it.
fn place(lab: &Lab, name: &str, text: &str) -> Result<PathBuf> {
    let dir = lab.layout().host(NODE).join(name);
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("conf"), text)?;
    Ok(dir)
}

fn start(lab: &mut Lab, name: &str, program: &str, args: &[&str], dir: &Path) -> Result<()> {
    let at = |arg: &&str| arg.replace("DIR", &dir.display().to_string());
    let spec = Spec {
        name: name.to_owned(),
        program: program.into(),
        args: args.iter().map(at).collect(),
        env: Vec::new(),
        log: lab.layout().log(name),
    };
    lab.start_process(NODE, spec)
}

fn start_bird(lab: &mut Lab, text: &str) -> Result<()> {
    let dir = place(lab, "bird", text)?;
    start(lab, "bird", "bird", &["-f", "-c", "DIR/conf", "-s", "DIR/s", "-P", "DIR/pid"], &dir)
}

/// In a directory that FRR's own user can get into, unlike the lab's.
fn start_frr(lab: &mut Lab, dir: &Path) -> Result<()> {
    let common = ["-f", "DIR/conf", "-z", "DIR/z", "-P", "0", "--vty_socket", "DIR"];
    let own = |name: &'static str| ["-i", name];
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777))?;
    std::fs::write(dir.join("conf"), "hostname zebra\n")?;
    let args = [&common[..], &own("DIR/pid")].concat();
    // An earlier one leaves its socket behind, and staticd tries again only after ten seconds.
    let socket = dir.join("z");
    let _ = std::fs::remove_file(&socket);
    start(lab, "zebra", "/usr/lib/frr/zebra", &args, dir)?;
    eventually_true(patience(), "zebra listens", || Ok(socket.exists()))?;
    std::fs::write(dir.join("static"), "ip route 10.67.0.0/24 10.1.1.3\n")?;
    let args = [&common[2..], &own("DIR/pid2"), &["-f", "DIR/static"]].concat();
    start(lab, "staticd", "/usr/lib/frr/staticd", &args, dir)
}

fn start_keepalived(lab: &mut Lab) -> Result<()> {
    let dir = place(lab, "keepalived", KEEPALIVED)?;
    let files = ["-f", "DIR/conf", "-p", "DIR/pid", "-r", "DIR/vrrp", "-c", "DIR/check"];
    start(lab, "keepalived", "keepalived", &[&["-n", "-l"], &files[..]].concat(), &dir)
}

fn theirs_are_there(ns: &Netns) -> Result<()> {
    for (command, text) in THEIRS {
        let seen = ns.ip(command)?;
        if !seen.contains(text) {
            bail!("ip {command}: {seen}");
        }
    }
    ns.output("nft", &["list", "chain", "inet", "firewall", "forward"]).map(drop)
}

/// What carries Nett's number or lies in its nft table. FRR's zebra puts its own number on
/// nexthops of others (here 1315241984 and above) when an address changes: they count as ours.
fn ours(ns: &Netns) -> Result<Vec<String>> {
    let number = format!("\"{PROTOCOL}\"");
    let own = format!("\"protocol\":{number}");
    let all = Kernel::of(ns)?.lines.into_iter();
    let all =
        all.map(|l| if l.contains(":1315") { l.replace("\"protocol\":\"11\"", &own) } else { l });
    let mine = |l: &String| {
        if l.starts_with("nft") { l.contains("\"nett\"") } else { l.contains(&number) }
    };
    // Rules are numbered by their place in the whole ruleset, which others share.
    let stripped = |l: String| match l.strip_prefix("nft ") {
        Some(rest) => rest.get(5..).unwrap_or_default().to_owned(),
        None => l,
    };
    let mut lines: Vec<String> = all.filter(mine).map(stripped).collect();
    lines.sort();
    Ok(lines)
}

fn all_is_well(ns: &Netns, whole: &[String], after: &str) -> Result<()> {
    let (_, took) = eventually(patience() * 2, after, || {
        theirs_are_there(ns)?;
        let now = ours(ns)?;
        let gone: Vec<_> = whole.iter().filter(|l| !now.contains(l)).collect();
        let new: Vec<_> = now.iter().filter(|l| !whole.contains(l)).collect();
        if gone.is_empty() && new.is_empty() { Ok(()) } else { bail!("-{gone:#?}\n+{new:#?}") }
    })?;
    assert!(took < Duration::from_secs(10), "{after}: {took:?}");
    Ok(())
}

#[test]
fn daemons_of_others_and_nett_leave_each_other_alone() -> Result<()> {
    tell("daemons_of_others_and_nett_leave_each_other_alone", |lab| {
        let ns = lab.ns(NODE)?;
        let frr = tempfile::tempdir()?;
        let whole = ours(&ns)?;
        assert!(whole.len() > 40, "only {} objects of ours", whole.len());
        start_bird(lab, BIRD)?;
        start_frr(lab, frr.path())?;
        start_keepalived(lab)?;
        ns.nft(FIREWALL)?;
        all_is_well(&ns, &whole, "the daemons start")?;

        let mira = Operator { lab, node: NODE, name: "mira" };
        mira.complete(&["failover", API.id, "--to", "svg"])?;
        mira.complete(&["failback", API.id])?;
        all_is_well(&ns, &whole, "a service goes and comes back")?;

        for name in ["keepalived", "staticd", "zebra", "bird"] {
            lab.take_process(name)?.stop(TASK)?;
        }
        start_bird(lab, BIRD)?;
        start_frr(lab, frr.path())?;
        start_keepalived(lab)?;
        ns.nft(FIREWALL)?;
        all_is_well(&ns, &whole, "every daemon starts again")?;

        lab.take_process(&agent_name(NODE))?.kill();
        lab.start_agent(NODE)?;
        lab.wait_for_agent(NODE)?;
        all_is_well(&ns, &whole, "the agent is killed and starts again")?;
        assert_eq!(metric(&ns, "nett_kernel_contested ")?, Some(0.0));
        assert_eq!(metric(&ns, "nett_kernel_foreign ")?, Some(0.0));
        Ok(())
    })
}

/// What a node says about itself.
fn degraded(lab: &Lab) -> Result<String> {
    let mira = Operator { lab, node: NODE, name: "mira" };
    Ok(mira.run(&["-o", "json", "node", "show", NODE])?.must_be(0)?.out)
}

#[test]
fn a_daemon_in_our_table_is_named_and_never_overwritten() -> Result<()> {
    tell("a_daemon_in_our_table_is_named_and_never_overwritten", |lab| {
        let ns = lab.ns(NODE)?;
        let vip = "route show table 7000 10.99.0.30";
        let before = ns.ip(vip)?;
        ns.ip("route replace unreachable 10.99.0.30 table 7000 metric 100 proto bird")?;
        let named = || Ok(degraded(lab)?.contains("protocol 12 (bird)"));
        eventually_true(patience(), "it is told", named)?;
        let theirs = ns.ip(vip)?;
        assert_ne!(theirs, before);
        assert_eq!(metric(&ns, "nett_kernel_foreign ")?, Some(1.0));
        // A command for another service is not held up by it.
        let mira = Operator { lab, node: NODE, name: "mira" };
        mira.complete(&["failover", API.id, "--to", "svg"])?;
        assert_eq!(ns.ip(vip)?, theirs);
        ns.ip("route del unreachable 10.99.0.30 table 7000 metric 100 proto bird")?;
        eventually_true(patience(), "ours is back", || Ok(ns.ip(vip)? == before))?;
        start_bird(lab, GREEDY_BIRD)?;
        let log = lab.layout().log("bird");
        eventually_true(patience() * 2, "BIRD tries", || {
            let tried = std::fs::read_to_string(&log).is_ok_and(|t| t.contains("File exists"));
            Ok(tried || !ns.ip(vip)?.contains(&format!("proto {PROTOCOL}")))
        })?;
        // The VIP is in the kernel once, and whoever put it there is known.
        let now = ns.ip(vip)?;
        assert_eq!(now.lines().count(), 1, "{now}");
        if now != before {
            eventually_true(patience(), "BIRD is named", || {
                Ok(degraded(lab)?.contains("protocol 12 (bird)"))
            })?;
        }
        Ok(())
    })
}

#[test]
fn a_fight_ends_and_is_told_with_the_name_of_the_other() -> Result<()> {
    tell("a_fight_ends_and_is_told_with_the_name_of_the_other", |lab| {
        let ns = lab.ns(NODE)?;
        let vip = "route show table 7000 10.99.0.30";
        // Deletes the route whenever it is there; `ip -batch` is one process with one port.
        let script = "import subprocess, sys, time\n\
             p = subprocess.Popen(['ip', '-force', '-batch', '-'], stdin=subprocess.PIPE,\n\
             stderr=subprocess.DEVNULL)\n\
             while True:\n  \
             p.stdin.write(b'route del 10.99.0.30 table 7000 metric 100\\n')\n  \
             p.stdin.flush()\n  time.sleep(0.005)\n";
        let args = vec!["-c".to_owned(), script.to_owned()];
        let log = lab.layout().log("fighter");
        let (name, program) = ("fighter".to_owned(), "python3".into());
        lab.start_process(NODE, Spec { name, program, args, env: Vec::new(), log })?;
        let told = || Ok(metric(&ns, "nett_kernel_contested ")? == Some(1.0));
        eventually_true(patience() * 4, "the fight ends", told)?;
        eventually_true(patience(), "it is told", || Ok(degraded(lab)?.contains("left alone")))?;
        let said = degraded(lab)?;
        assert!(said.contains("changed again by ip (pid "), "{said}");
        assert_eq!(ns.ip(vip)?, "");
        let mira = Operator { lab, node: NODE, name: "mira" };
        let audit = mira.run(&["audit", "--limit", "1000"])?.must_be(0)?.out;
        for kind in ["repair", "contested"] {
            assert!(audit.contains(kind), "no {kind} on record:\n{audit}");
        }
        // Others are kept in place, and commands are carried out.
        ns.ip("route del table 7000 10.99.0.10 metric 100")?;
        let other = || Ok(ns.ip("route show table 7000 10.99.0.10")?.contains("proto 217"));
        eventually_true(patience(), "another route is repaired", other)?;
        mira.complete(&["failover", API.id, "--to", "svg"])?;
        lab.take_process("fighter")?.kill();
        // An operator who wants something else of it is obeyed at once.
        let mira = Operator { lab, node: NODE, name: "mira" };
        mira.complete(&["failover", WEB.id, "--to", "svg"])?;
        let back = ns.ip(vip)?;
        let first = back.lines().next().context("the route is there")?;
        assert!(first.contains("proto 217"), "{back}");
        Ok(())
    })
}
