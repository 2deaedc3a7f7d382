//! A start into a place that others have taken, or without a capability that it takes: it ends with
//! status 1, names what is in its way, and has changed nothing.

use std::io::Write;

use anyhow::{Context, Result};
use nett_netns_tests::files::DNS_PORT;
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::observe::monitor::Monitor;
use nett_netns_tests::story::tell_from_wires;

const NODE: &str = "osl-b1";

/// What others have put where Nett's objects go, as `ip` commands, and its name in a refusal.
const TAKEN: [(&str, &str); 7] = [
    (
        "route add unreachable 10.99.0.30 table 7000 metric 100 proto 12",
        "route 10.99.0.30/32 table 7000 metric 100 of protocol 12 (bird)",
    ),
    (
        "-6 route add unreachable fd00:99::30 table 7001 metric 100 proto 11",
        "route fd00:99::30/128 table 7001 metric 100 of protocol 11 (zebra)",
    ),
    (
        "rule add pref 4431 from 10.200.0.0/16 lookup 98 protocol 18",
        "rule pref 4431 of protocol 18 (keepalived)",
    ),
    (
        "nexthop add id 1315241990 via 172.31.0.2 dev wan0 proto 4",
        "nexthop id 1315241990 of protocol 4 (static)",
    ),
    (
        "route add 203.0.113.0/24 dev wan0 table 900 proto 217",
        "route 203.0.113.0/24 table 900 metric 0 with our protocol outside our tables",
    ),
    (
        "rule add pref 3000 from 10.200.0.0/16 lookup 98 protocol 217",
        "rule pref 3000 with our protocol outside our priorities",
    ),
    ("nexthop add id 77 dev wan0 proto 217", "nexthop id 77 with our protocol outside our ids"),
];

/// Nexthops are deleted by their id alone.
fn undo(command: &str) -> String {
    let words = if command.starts_with("nexthop") { 4 } else { usize::MAX };
    let words: Vec<&str> = command.split(' ').take(words).collect();
    words.join(" ").replace(" add ", " del ")
}

/// Runs the real `nett-agent`, by way of `through`, and returns its exit status and what it said.
/// One that starts after all is ended, and its status another.
fn told(lab: &Lab, through: &[&str], verb: &str) -> Result<(i32, String)> {
    let agent = lab.programs().agent.display().to_string();
    let config = lab.layout().agent_config(NODE).display().to_string();
    let own = [agent.as_str(), verb, "--config", &config];
    let line = [&["--signal=KILL", "20"], through, &own].concat();
    let output = lab.ns(NODE)?.try_output("timeout", &line)?;
    let said = [output.stdout, output.stderr].concat();
    let status = output.status.code().context("nobody killed it")?;
    Ok((status, String::from_utf8_lossy(&said).into_owned()))
}

/// Neither verb does anything but name all of `reasons`.
fn refused(lab: &Lab, through: &[&str], reasons: &[&str]) -> Result<()> {
    let ns = lab.ns(NODE)?;
    let before = Kernel::of(&ns)?;
    let log = lab.layout().log("refused");
    // The marks of an earlier one would pass for its own.
    let _ = std::fs::remove_file(&log);
    let monitor = Monitor::start(&ns, log)?;
    for verb in ["run", "preflight"] {
        let (status, said) = told(lab, through, verb)?;
        assert_eq!(status, 1, "{verb} {through:?}: {said}");
        for reason in reasons {
            let of = |line: &str| line.starts_with("refused: ") && line.contains(reason);
            assert!(said.lines().any(of), "{verb} {through:?}: no \"{reason}\" in {said}");
        }
    }
    assert_eq!(monitor.finish()?, Vec::<String>::new(), "{through:?}");
    let changes = before.changes(&Kernel::of(&ns)?);
    assert_eq!(changes, Vec::<String>::new(), "{through:?}");
    Ok(())
}

#[test]
fn a_start_into_the_place_of_others_is_refused_and_changes_nothing() -> Result<()> {
    let story = "a_start_into_the_place_of_others_is_refused_and_changes_nothing";
    tell_from_wires(story, |lab| {
        let ns = lab.ns(NODE)?;
        assert_eq!(told(lab, &[], "preflight")?.0, 0, "nobody is in the way yet");
        let mut config = std::fs::File::options()
            .append(true)
            .open(lab.layout().agent_config(NODE))
            .context("the agent's file")?;
        writeln!(config, "\n[kernel]\nmanage_sysctl = true")?;
        ns.sysctl(&[("ipv4/fib_multipath_hash_policy", "0")])?;
        for (command, _) in TAKEN {
            ns.ip(command)?;
        }
        ns.nft("add table inet nett")?;
        let mut names: Vec<&str> = TAKEN.iter().map(|(_, name)| *name).collect();
        names.push("nft table inet nett without Nett's comment");
        refused(lab, &[], &names)?;
        let policy = ns.output("sysctl", &["-n", "net.ipv4.fib_multipath_hash_policy"])?;
        assert_eq!(policy.trim(), "0", "a refused start sets nothing");
        // Each of them is reason enough.
        ns.nft("delete table inet nett")?;
        for (command, _) in TAKEN.iter().rev() {
            ns.ip(&undo(command))?;
        }
        for (command, name) in TAKEN {
            ns.ip(command)?;
            refused(lab, &[], &[name])?;
            ns.ip(&undo(command))?;
        }
        assert_eq!(told(lab, &[], "preflight")?.0, 0, "nobody is in the way any more");
        Ok(())
    })
}

#[test]
fn a_start_without_a_capability_is_refused_by_its_name_and_changes_nothing() -> Result<()> {
    let story = "a_start_without_a_capability_is_refused_by_its_name_and_changes_nothing";
    tell_from_wires(story, |lab| {
        let low = format!("listening at port {DNS_PORT} takes");
        for (capability, reason) in [
            ("net_admin", "no effective CAP_NET_ADMIN"),
            ("net_raw", "no effective CAP_NET_RAW"),
            ("net_bind_service", "no effective CAP_NET_BIND_SERVICE, which "),
        ] {
            let without = format!("--bounding-set=-{capability}");
            refused(lab, &["setpriv", &without], &[reason])?;
            let (_, said) = told(lab, &["setpriv", &without], "run")?;
            let others = said.matches("no effective").count();
            assert_eq!(others, 1, "only what is missing is called missing: {said}");
            assert_eq!(said.contains(&low), capability == "net_bind_service", "{said}");
        }
        // Who listens above 1023 needs no right to it.
        let config = lab.layout().agent_config(NODE);
        let text = std::fs::read_to_string(&config)?;
        std::fs::write(&config, text.replace(&format!(":{DNS_PORT}\""), ":5353\""))?;
        let without = ["setpriv", "--bounding-set=-net_bind_service"];
        let (status, said) = told(lab, &without, "preflight")?;
        assert_eq!(status, 0, "{said}");
        Ok(())
    })
}
