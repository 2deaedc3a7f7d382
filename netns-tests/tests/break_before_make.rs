//! A category B service is never served by two sites at one instant, and never moves unapproved.

use std::time::Duration;

use anyhow::Result;
use nett_netns_tests::services::PAY;
use nett_netns_tests::story::{Operator, Traffic, tell};

#[test]
fn an_approved_failover_never_has_two_sites_serving() -> Result<()> {
    tell("an_approved_failover_never_has_two_sites_serving", |lab| {
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        let jon = Operator { lab, node: "svg-b1", name: "jon" };
        let traffic = Traffic::to_vips(lab, &["osl-c1", "svg-c1", "outside"], PAY)?;
        let task = mira.propose(&["failover", PAY.id, "--to", "svg"])?;
        traffic.run_for(300)?;
        assert_eq!(traffic.so_far().answers_of("svg"), 0, "moved without approval");
        mira.run(&["approve", &task, "--reason", "my own", "--yes"])?.must_be(4)?;
        jon.approve(&task)?;
        mira.wait_for(&task, "done")?;
        traffic.settles_on("svg")?;
        let report = traffic.finish();
        assert_eq!(report.overlap("osl", "svg"), Duration::ZERO);
        assert!(report.answers_of("osl") > 0 && report.answers_of("svg") > 0);
        assert!(report.longest_outage() < Duration::from_secs(5), "{}", report.summary());
        Ok(())
    })
}

#[test]
fn a_rejected_failover_moves_nothing() -> Result<()> {
    tell("a_rejected_failover_moves_nothing", |lab| {
        let mira = Operator { lab, node: "osl-r1", name: "mira" };
        let jon = Operator { lab, node: "osl-b1", name: "jon" };
        let traffic = Traffic::to_vips(lab, &["osl-c1"], PAY)?;
        let task = mira.propose(&["failover", PAY.id, "--to", "svg"])?;
        let reject = ["reject", &task, "--reason", "not today", "--yes"];
        jon.run(&reject)?.must_be_done()?;
        mira.wait_for(&task, "rejected")?;
        traffic.run_for(300)?;
        let report = traffic.finish();
        assert_eq!((report.lost(), report.answers_of("svg")), (0, 0), "{}", report.summary());
        Ok(())
    })
}
