//! Of two sites at equal cost clients are sent to the one that a packet reaches sooner, and a link
//! that becomes slow turns that order once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::dig::dig_for;
use nett_netns_tests::process::Spec;
use nett_netns_tests::services::EDGE;
use nett_netns_tests::story::{Operator, TASK, tell_of};
use nett_netns_tests::topology::{Shape, Site};

/// Where a name server at `at` sends clients of `of`.
fn sent(lab: &Lab, at: Site, of: Site) -> Result<Vec<String>> {
    let server = format!("10.{}.1.2", at.number).parse()?;
    let subnet = format!("10.{}.40.0/24", of.number);
    let ns = lab.ns(&format!("{}-b1", at.id))?;
    Ok(dig_for(&ns, server, &EDGE.dns_name(), "A", &subnet)?.data)
}

#[test]
fn a_slow_link_turns_the_order_once() -> Result<()> {
    tell_of("a_slow_link_turns_the_order_once", Shape::THREE, |lab| {
        let [osl, svg, trd] = *lab.shape().sites else { unreachable!("three sites") };
        let mira = Operator { lab, node: "svg-b1", name: "mira" };
        mira.complete(&["drain", "service", EDGE.id, "--at", "trd"])?;
        let goes = |lab: &Lab, to: Site| -> Result<()> {
            for at in [osl, svg, trd] {
                let found = sent(lab, at, trd)?;
                ensure!(found == [EDGE.answers(to)[0].clone()], "at {}: {found:?}", at.id);
            }
            Ok(())
        };
        // Both are a link of cost 10 away, and equally fast: rank decides.
        eventually(patience(), "clients of trd go to osl", || goes(lab, osl))?;
        let border = lab.ns("trd-b1")?;
        let shaper = "qdisc add dev wan2 root tbf rate 400kbit burst 4kb latency 100ms";
        border.output("tc", &shaper.split(' ').collect::<Vec<_>>())?;
        // What stands in the queue is what every packet waits for.
        let far = "172.31.0.9";
        // And little of it is dropped: the bus goes this way, too.
        let args = ["-q", "-i", "0.01", "-s", "560", far].map(str::to_owned).to_vec();
        let log = lab.layout().log("flood");
        let spec =
            Spec { name: "flood".to_owned(), program: "ping".into(), args, env: Vec::new(), log };
        lab.start_process("trd-b1", spec)?;
        eventually(TASK, "clients of trd go to svg", || goes(lab, svg))?;
        // The queue trembles; nobody is sent back.
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            goes(lab, svg)?;
        }
        let told = Operator { lab, node: "trd-b1", name: "mira" };
        let told = told.run(&["explain", "name", &EDGE.dns_name(), "--client", "10.3.40.2"])?;
        let text = told.must_be(0)?.out;
        ensure!(text.contains("order from trd: svg (link cost 10, round trip"), "{text}");
        let links = Operator { lab, node: "svg-b1", name: "mira" };
        let links = links.run(&["-o", "json", "link", "list"])?.must_be(0)?.json()?;
        let all = links["ok"]["links"].as_array().context("links")?.clone();
        let slow = all.iter().find(|l| l["id"] == "osl-trd-1").context("the link")?;
        let rtt = slow["b"]["rtt_us"].as_u64().context("a round trip")?;
        // The least of eight: one of them may have been asked before the queue was full.
        ensure!((500..500_000).contains(&rtt), "{slow}");
        Ok(())
    })
}
