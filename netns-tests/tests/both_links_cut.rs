//! A partition: each site goes on with what it has, what is at the other fails with an error, and
//! nothing takes the way over the internet. Then both links come back.

use std::time::Duration;

use anyhow::Result;
use nett_netns_tests::observe::dig::dig;
use nett_netns_tests::services::{API, VAULT, WEB};
use nett_netns_tests::story::{Operator, Traffic, tell};
use nett_netns_tests::topology::LINKS;
use nett_netns_tests::traffic::now;

#[test]
fn a_partition_fails_closed_and_heals_by_itself() -> Result<()> {
    tell("a_partition_fails_closed_and_heals_by_itself", |lab| {
        let leaks = lab.leaks()?;
        let here = Traffic::to_vips(lab, &["osl-c1", "outside"], WEB)?;
        let there = Traffic::to_vips(lab, &["osl-c1"], VAULT)?;
        let cut = now();
        lab.cut_all()?;
        there.run_for(1500)?;
        let away = there.so_far().between(cut + 200_000_000, now());
        assert_eq!(away.received(), 0, "{}", away.summary());
        assert!(away.errors().count() > 0, "silence instead of an error");
        let client = lab.ns("osl-c1")?;
        let answer = dig(&client, "10.1.1.2".parse()?, &WEB.dns_name(), "A")?;
        assert_eq!(answer.data, [WEB.vips()[0].clone()]);
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);

        let healed = now();
        lab.restore_all()?;
        let back = Duration::from_nanos(there.settles_on("svg")?.saturating_sub(healed));
        assert!(back < Duration::from_secs(5), "came back only after {back:?}");
        let report = here.finish();
        assert_eq!(report.lost(), 0, "{}", report.summary());
        assert_eq!(report.answers_of("osl"), report.sent(), "{}", report.summary());
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);

        // The healed fabric takes orders again, given at the one site and read at the other.
        let mira = Operator { lab, node: "svg-b1", name: "mira" };
        mira.complete(&["failover", API.id, "--to", "svg"])?;
        Ok(())
    })
}

/// Replies to the site's own hosts come in over a link and must go into the site, or nowhere.
#[test]
fn a_border_that_lost_the_way_into_its_site_sends_nothing_out() -> Result<()> {
    tell("a_border_that_lost_the_way_into_its_site_sends_nothing_out", |lab| {
        let traffic = Traffic::to_vips(lab, &["osl-c1"], VAULT)?;
        traffic.settles_on("svg")?;
        let leaks = lab.leaks()?;
        let border = lab.ns("osl-b1")?;
        border.ip("route del 10.1.0.0/16")?;
        border.ip("-6 route del fd00:a::/32")?;
        let cut = now();
        traffic.run_for(1000)?;
        let away = traffic.so_far().between(cut + 100_000_000, now());
        assert_eq!(away.received(), 0, "{}", away.summary());
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);
        drop(traffic.finish());
        Ok(())
    })
}

#[test]
fn losing_one_link_of_two_is_repaired_without_anybody() -> Result<()> {
    tell("losing_one_link_of_two_is_repaired_without_anybody", |lab| {
        let traffic = Traffic::start(lab, &["osl-c1"], &VAULT.vips(), 16)?;
        for link in &LINKS {
            lab.cut(link.id)?;
            traffic.settles_on("svg")?;
            lab.restore(link.id)?;
            traffic.run_for(500)?;
            traffic.settles_on("svg")?;
        }
        let report = traffic.finish();
        let away = report.longest_outage();
        assert!(away < Duration::from_millis(500), "{away:?}: {}", report.summary());
        Ok(())
    })
}
