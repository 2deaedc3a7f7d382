//! A client on the internet gets its answers back the way it came in, wherever the service is.

use anyhow::Result;
use nett_netns_tests::services::{API, WEB};
use nett_netns_tests::story::{Operator, Traffic, tell};
use nett_netns_tests::topology::{OUTSIDE, SITES};

#[test]
fn an_outside_client_is_served_by_the_other_site_through_either_uplink() -> Result<()> {
    let story = "an_outside_client_is_served_by_the_other_site_through_either_uplink";
    tell(story, |lab| {
        let leaks = lab.leaks()?;
        for uplink in SITES {
            lab.route_vips_over(uplink)?;
            let traffic = Traffic::to_vips(lab, &[OUTSIDE], WEB)?;
            traffic.run_for(300)?;
            let report = traffic.finish();
            assert_eq!(report.lost(), 0, "over {}: {}", uplink.id, report.summary());
            assert_eq!(report.answers_of("osl"), report.sent(), "{}", report.summary());
        }
        lab.route_vips_over(SITES[0])?;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        let traffic = Traffic::to_vips(lab, &[OUTSIDE], API)?;
        mira.complete(&["failover", API.id, "--to", "svg"])?;
        traffic.settles_on("svg")?;
        let report = traffic.finish();
        assert_eq!(report.lost(), 0, "{}", report.summary());
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);
        Ok(())
    })
}

/// A border that once got a flow over a link remembers that, and forgets it when the flow comes
/// from the internet again: else two such borders send the answers to each other.
#[test]
fn answers_leave_by_the_uplink_the_flow_comes_by_now() -> Result<()> {
    tell("answers_leave_by_the_uplink_the_flow_comes_by_now", |lab| {
        let [osl, svg] = SITES;
        lab.route_vips_over(osl)?;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        let traffic = Traffic::to_vips(lab, &[OUTSIDE], API)?;
        for (to, uplink) in [("svg", svg), ("osl", osl)] {
            mira.complete(&["failover", API.id, "--to", to])?;
            traffic.settles_on(to)?;
            lab.route_vips_over(uplink)?;
            traffic.settles_on(to)?;
        }
        let report = traffic.finish();
        assert_eq!(report.lost(), 0, "{}", report.summary());
        Ok(())
    })
}
