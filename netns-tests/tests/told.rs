//! What Nett says of ways and counters, held against the kernel and against packets.

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::counters;
use nett_netns_tests::observe::http;
use nett_netns_tests::services::{API, VAULT};
use nett_netns_tests::story::{Operator, Traffic, tell, tell_of};
use nett_netns_tests::topology::Shape;
use serde_json::Value;

/// The counters of what no packet may do.
const ZEROS: [&str; 3] = ["hairpin", "leak", "stray"];

fn explained(lab: &Lab, node: &str, from: &str, to: &str) -> Result<Value> {
    let line = ["-o", "json", "explain", "path", from, to, "--from", node];
    let told = lab.nettctl(node, "mira", &line)?.must_be(0)?;
    Ok(told.json()?["ok"].clone())
}

/// Every node is asked about its own part, and its kernel about the same packet.
#[test]
fn a_path_is_as_the_kernels_have_it() -> Result<()> {
    tell_of("a_path_is_as_the_kernels_have_it", Shape::PAIRS, |lab| {
        let pairs = [("10.1.40.2", "10.99.0.50"), ("fd00:a:40::2", "fd00:99::50")];
        for (from, to) in pairs {
            let whole = explained(lab, "osl-r1", from, to)?;
            let hops = whole["hops"].as_array().context("a path has hops")?;
            let nodes: Vec<&str> = hops.iter().filter_map(|hop| hop["node"].as_str()).collect();
            assert_eq!(nodes, ["osl-r1", "osl-b1", "svg-b1", "svg-r1"]);
            let verdict = whole["verdict"].as_str().unwrap_or_default();
            ensure!(verdict.starts_with("delivered by svg-r1 to "), "{verdict}");
            for node in ["osl-r1", "osl-b1"] {
                let own = explained(lab, node, from, to)?;
                assert_eq!(own["hops"][0]["kernel"]["agrees"], true, "{node}: {own:#}");
            }
            // The way in is judged on the nodes that see it come in.
            let nodes = ["svg-b1", "svg-r1"];
            for (node, interface) in nodes.into_iter().zip(["wan0", "up"]) {
                let line = ["-o", "json", "explain", "path", from, to, "--from", "osl-r1"];
                let told = lab.nettctl(node, "mira", &line)?.must_be(0)?.json()?;
                let hops = told["ok"]["hops"].as_array().context("hops")?.clone();
                let own = hops.iter().find(|hop| hop["node"] == node).context("its hop")?;
                assert_eq!(own["interface"], interface);
                assert_eq!(own["kernel"]["agrees"], true, "{own:#}");
            }
        }
        // Once the kernel has something else, the two differ.
        let router = lab.ns("osl-r1")?;
        router.ip("rule add pref 4300 to 10.99.0.50 unreachable")?;
        let whole = explained(lab, "osl-r1", "10.1.40.2", "10.99.0.50")?;
        assert_eq!(whole["hops"][0]["kernel"]["agrees"], false, "{whole:#}");
        router.ip("rule del pref 4300 to 10.99.0.50 unreachable")?;
        Ok(())
    })
}

/// Counters go on over a move; a foreign route that would take local traffic over a link is
/// stopped, counted, told and alarmed.
#[test]
fn separation_is_proved_and_disproved() -> Result<()> {
    tell("separation_is_proved_and_disproved", |lab| {
        let mira = Operator { lab, node: "svg-r1", name: "mira" };
        let traffic = Traffic::to_vips(lab, &["osl-c1"], VAULT)?;
        traffic.run_for(1000)?;
        let border = lab.ns("osl-b1")?;
        let steered = || -> Result<u64> {
            let all = counters::named(&border, "nett")?;
            Ok(all.iter().filter(|(n, _)| n.starts_with("steered.")).map(|(_, c)| c).sum())
        };
        let before = steered()?;
        ensure!(before >= 1000, "{before}");
        mira.complete(&["failover", API.id, "--to", "svg"])?;
        lab.cut("osl-svg-1")?;
        traffic.run_for(200)?;
        lab.restore("osl-svg-1")?;
        ensure!(steered()? > before, "counters began anew");
        eventually(patience() * 2, "separation holds", || {
            let told = mira.run(&["prove", "separation"])?.must_be(0)?;
            ensure!(told.out.contains("osl-b1") && told.out.contains("separated"), "{}", told.out);
            ensure!(!told.out.contains("not told"), "{}", told.out);
            Ok(())
        })?;
        drop(traffic.finish());

        // Somebody sends a part of the own site over the link, and something else that has no
        // reason to leave it; and what came by one link out by the other.
        let [router, other] = [lab.ns("osl-r1")?, lab.ns("svg-b1")?];
        router.ip("route add 10.1.77.0/24 via 10.1.1.2 dev up")?;
        border.ip("route add 10.1.77.0/24 via 172.31.0.2 dev wan0")?;
        border.ip("route add 203.0.113.0/24 via 172.31.0.2 dev wan0")?;
        border.ip("route add 10.2.77.0/24 via 172.31.0.6 dev wan1 table 4077")?;
        border.ip("rule add pref 4300 iif wan0 to 10.2.77.0/24 lookup 4077")?;
        other.ip("route add 10.2.77.0/24 via 172.31.0.1 dev wan0")?;
        let client = lab.ns("osl-c1")?;
        let ways = [
            ("leak", &client, "10.1.77.7"),
            ("stray", &client, "203.0.113.7"),
            ("hairpin", &other, "10.2.77.7"),
        ];
        for (class, from, to) in ways {
            let before = counters::named(&border, "nett")?;
            from.try_output("ping", &["-c", "3", "-i", "0.2", "-W", "1", to])?;
            let mut counted = counters::named(&border, "nett")?;
            counted
                .retain(|class, count| ZEROS.contains(&class.as_str()) && *count > before[class]);
            let grown: Vec<&str> = counted.keys().map(String::as_str).collect();
            ensure!(grown == [class], "of packets to {to} {grown:?} grew");
        }
        eventually(patience() * 3, "all of it is told", || {
            let told = mira.run(&["prove", "separation"])?.must_be(1)?;
            ensure!(told.out.contains("NOT SEPARATED"), "{}", told.out);
            let shown = mira.run(&["node", "show", "osl-b1"])?.must_be(0)?;
            for class in ZEROS {
                let said = shown.out.contains("separation: the guard stopped");
                ensure!(said && shown.out.contains(&format!("({class})")), "{}", shown.out);
                let name = format!("nett_separation_alarms_total{{class=\"{class}\"}}");
                let alarms = http::metric(&border, &name)?;
                ensure!(alarms.is_some_and(|alarms| alarms >= 1.0), "{class}: {alarms:?}");
            }
            Ok(())
        })?;
        Ok(())
    })
}

/// What is foretold of a cut is what the cut does.
#[test]
fn a_simulated_loss_is_the_real_one() -> Result<()> {
    tell("a_simulated_loss_is_the_real_one", |lab| {
        let foretold = |what: &str| -> Result<Value> {
            let line = ["-o", "json", "simulate", "--lose", what];
            let told = lab.nettctl("osl-r1", "mira", &line)?.must_be(0)?;
            Ok(told.json()?["ok"].clone())
        };
        let one = foretold("link:osl-svg-1")?;
        assert_eq!(one["services"].as_array().map(Vec::len), Some(0), "{one:#}");
        let traffic = Traffic::to_vips(lab, &["osl-c1"], VAULT)?;
        lab.cut("osl-svg-1")?;
        traffic.settles_on("svg")?;
        // Now the other one is the last.
        eventually(patience(), "the cut is known", || {
            let other = foretold("link:osl-svg-2")?;
            let services = other["services"].as_array().context("a list")?;
            let vault = services.iter().find(|s| s["service"] == VAULT.id);
            let cut_off = &vault.context("nothing is said of the service")?["cut_off"];
            ensure!(cut_off.as_array().is_some_and(|all| all.contains(&"osl".into())), "{other:#}");
            Ok(())
        })?;
        lab.cut("osl-svg-2")?;
        traffic.run_for(500)?;
        let from = nett_netns_tests::traffic::now();
        traffic.run_for(200)?;
        assert_eq!(traffic.so_far().since(from).received(), 0);
        lab.restore_all()?;
        drop(traffic.finish());
        let told = lab.nettctl("osl-r1", "mira", &["simulate", "--lose", "site:ber"])?;
        ensure!(told.err.contains("the fabric has no site:ber"), "{}", told.err);
        Ok(())
    })
}
