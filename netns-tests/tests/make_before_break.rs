//! A planned move of a category C service loses and doubles nothing, wherever the client stands.

use anyhow::Result;
use nett_netns_tests::services::{API, VAULT};
use nett_netns_tests::story::{Operator, Traffic, tell};

#[test]
fn a_move_there_and_back_loses_no_packet_of_any_client() -> Result<()> {
    tell("a_move_there_and_back_loses_no_packet_of_any_client", |lab| {
        let leaks = lab.leaks()?;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        let hosts = ["osl-c1", "svg-c1", "outside"];
        let traffic = Traffic::to_vips(lab, &hosts, API)?;
        let bystander = Traffic::to_vips(lab, &["osl-c1"], VAULT)?;
        mira.complete(&["failover", API.id, "--to", "svg"])?;
        let moved = traffic.settles_on("svg")?;
        mira.complete(&["failback", API.id])?;
        let back = traffic.settles_on("osl")?;
        assert!(moved < back);
        for report in traffic.finish_each() {
            assert_eq!((report.lost(), report.duplicates()), (0, 0), "{}", report.summary());
            assert!(report.answers_of("svg") > 0 && report.answers_of("osl") > 0);
        }
        let untouched = bystander.finish();
        assert_eq!(untouched.lost(), 0, "{}", untouched.summary());
        assert_eq!(untouched.answers_of("svg"), untouched.sent(), "another service moved");
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);
        Ok(())
    })
}

#[test]
fn a_steer_shares_the_flows_and_loses_none() -> Result<()> {
    tell("a_steer_shares_the_flows_and_loses_none", |lab| {
        let mira = Operator { lab, node: "svg-r1", name: "mira" };
        let traffic = Traffic::start(lab, &["osl-c1"], &API.vips(), 64)?;
        mira.complete(&["steer", API.id, "--to", "osl=70,svg=30"])?;
        let from = nett_netns_tests::traffic::now();
        traffic.run_for(500)?;
        let split = traffic.so_far().since(from);
        let share = split.answers_of("svg") * 100 / split.received();
        assert!((10..=50).contains(&share), "svg answered {share} %");
        let report = traffic.finish();
        assert_eq!(report.lost(), 0, "{}", report.summary());
        Ok(())
    })
}
