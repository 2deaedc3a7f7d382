//! Somebody else has the port of a name server: its agent says so everywhere, does the rest of its
//! work, and answers questions once the port is free.

use std::net::{IpAddr, SocketAddr, TcpListener};

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually, eventually_true, patience};
use nett_netns_tests::files::{DNS_PORT, Node};
use nett_netns_tests::lab::agent_name;
use nett_netns_tests::observe::dig::dig;
use nett_netns_tests::observe::http::{get, metric, ready};
use nett_netns_tests::services::VAULT;
use nett_netns_tests::story::{TASK, tell};
use nett_netns_tests::topology::Site;

const NODE: &str = "osl-b1";

#[test]
fn a_name_server_without_its_port_is_an_alarm_and_stops_nothing_else() -> Result<()> {
    tell("a_name_server_without_its_port_is_an_alarm_and_stops_nothing_else", |lab| {
        let ns = lab.ns(NODE)?;
        let [border, _] = Node::of_site(Site::named("osl").context("a site")?);
        let address: IpAddr = border.addresses()[0].parse()?;
        let asked = || dig(&ns, address, "steer.example.", "SOA");
        asked()?;

        lab.take_process(&agent_name(NODE))?.stop(TASK)?;
        let other = ns.run(|| Ok(TcpListener::bind(SocketAddr::new(address, DNS_PORT))?))?;
        lab.start_agent(NODE)?;
        let why = format!("cannot listen on {address}:{DNS_PORT}/tcp: Address already in use");
        // At its own site and at another one, in the words of the system.
        for (node, args) in [
            (NODE, &["status"][..]),
            (NODE, &["node", "show", NODE]),
            ("svg-b1", &["node", "show", NODE]),
        ] {
            eventually(TASK, "it is told", || {
                let text = lab.nettctl(node, "mira", args)?.must_be(0)?.out;
                ensure!(text.contains(&why), "{node}, {args:?}: {text}");
                Ok(())
            })?;
        }
        let (status, duties) = get(&ns, "/readyz")?;
        ensure!(status == 503 && duties.contains("zone: waiting"), "{status}: {duties}");
        ensure!(metric(&ns, "nett_dns_listening ")? == Some(0.0), "not in the metrics");
        ensure!(asked().is_err(), "nobody answers there");

        // The rest of its work goes on.
        let route = format!("table 7000 {}", VAULT.vips()[0]);
        let shown = || ns.ip(&format!("route show {route}"));
        ensure!(!shown()?.is_empty(), "no route");
        ns.ip(&format!("route del {route}"))?;
        eventually_true(patience(), "the route is back", || Ok(!shown()?.is_empty()))?;

        drop(other);
        eventually(TASK * 2, "it answers", asked)?;
        lab.wait_for_agent(NODE)?;
        ready(&ns)?;
        ensure!(metric(&ns, "nett_dns_listening ")? == Some(1.0), "not in the metrics");
        eventually(TASK, "the alarm is over", || {
            let text = lab.nettctl("svg-b1", "mira", &["node", "show", NODE])?.must_be(0)?.out;
            ensure!(!text.contains("cannot listen"), "{text}");
            Ok(())
        })?;
        let audit = lab.nettctl(NODE, "mira", &["audit"])?.must_be(0)?.out;
        for line in [why.as_str(), "the name server listens"] {
            ensure!(audit.contains(line), "no `{line}` in {audit}");
        }
        Ok(())
    })
}
