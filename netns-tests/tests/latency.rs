//! How long things take, with bounds a loaded two-core machine keeps.

use std::time::{Duration, Instant};

use anyhow::Result;
use nett_netns_tests::services::{VAULT, WEB};
use nett_netns_tests::story::{Operator, Traffic, tell};
use nett_netns_tests::traffic::now;

#[test]
fn a_command_moves_the_first_packet_within_a_second() -> Result<()> {
    tell("a_command_moves_the_first_packet_within_a_second", |lab| {
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        let traffic = Traffic::to_vips(lab, &["osl-c1"], WEB)?;
        let mut first = Vec::new();
        for to in ["svg", "osl", "svg", "osl"] {
            let given = now();
            mira.complete(&["failover", WEB.id, "--to", to])?;
            traffic.settles_on(to)?;
            let served = traffic.so_far().since(given).served().get(to).map(|s| s.first);
            let took = served.unwrap_or(u64::MAX).saturating_sub(given);
            first.push(Duration::from_nanos(took));
        }
        first.sort();
        assert!(first[first.len() / 2] < Duration::from_secs(1), "{first:?}");
        assert_eq!(traffic.finish().lost(), 0);
        Ok(())
    })
}

#[test]
fn carrier_loss_is_repaired_within_a_tenth_of_a_second() -> Result<()> {
    tell("carrier_loss_is_repaired_within_a_tenth_of_a_second", |lab| {
        let mut outages = Vec::new();
        for link in ["osl-svg-1", "osl-svg-2", "osl-svg-1", "osl-svg-2", "osl-svg-1"] {
            let traffic = Traffic::start(lab, &["osl-c1"], &VAULT.vips(), 16)?;
            lab.cut(link)?;
            traffic.settles_on("svg")?;
            outages.push(traffic.finish().longest_outage());
            lab.restore(link)?;
            let again = Instant::now();
            let steady = Traffic::start(lab, &["osl-c1"], &VAULT.vips(), 16)?;
            steady.settles_on("svg")?;
            steady.run_for(1000)?;
            drop(steady.finish());
            assert!(again.elapsed() < Duration::from_secs(10));
        }
        outages.sort();
        assert!(outages[2] < Duration::from_millis(100), "{outages:?}");
        Ok(())
    })
}
