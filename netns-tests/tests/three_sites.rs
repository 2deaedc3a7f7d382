//! Three sites: a service goes around, and a site that is cut off from both others serves what it
//! had and comes back.

use anyhow::Result;
use nett_netns_tests::services::{API, VAULT, WEB};
use nett_netns_tests::story::{Operator, Traffic, tell_of};
use nett_netns_tests::topology::Shape;

const CLIENTS: [&str; 2] = ["osl-c1", "trd-c1"];

#[test]
fn a_service_goes_around_three_sites_and_loses_nothing() -> Result<()> {
    tell_of("a_service_goes_around_three_sites_and_loses_nothing", Shape::THREE, |lab| {
        let leaks = lab.leaks()?;
        let traffic = Traffic::to_vips(lab, &CLIENTS, API)?;
        traffic.settles_on("osl")?;
        let mira = Operator { lab, node: "svg-r1", name: "mira" };
        for site in ["svg", "trd"] {
            mira.complete(&["failover", API.id, "--to", site])?;
            traffic.settles_on(site)?;
        }
        mira.complete(&["failback", API.id])?;
        traffic.settles_on("osl")?;
        let report = traffic.finish();
        assert_eq!(report.lost(), 0, "{}", report.summary());
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0, "{:?}", lab.leaks()?);
        Ok(())
    })
}

#[test]
fn a_site_cut_off_from_two_serves_its_own_and_comes_back() -> Result<()> {
    tell_of("a_site_cut_off_from_two_serves_its_own_and_comes_back", Shape::THREE, |lab| {
        let [osl, _, _] = *lab.shape().sites else { unreachable!("three sites") };
        let leaks = lab.leaks()?;
        let own = Traffic::to_vips(lab, &["osl-c1"], WEB)?;
        let others = Traffic::to_vips(lab, &["trd-c1"], VAULT)?;
        own.settles_on("osl")?;
        others.settles_on("svg")?;
        lab.isolate(osl)?;
        let trd = Operator { lab, node: "trd-b1", name: "mira" };
        // What the cut-off site has a part in waits for it; what it has none in does not.
        trd.complete(&["drain", "service", VAULT.id, "--at", "trd"])?;
        lab.rejoin(osl)?;
        trd.complete(&["undrain", "service", VAULT.id, "--at", "trd"])?;
        let (own, others) = (own.finish(), others.finish());
        assert_eq!((own.lost(), others.lost()), (0, 0), "{} {}", own.summary(), others.summary());
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0, "{:?}", lab.leaks()?);
        Ok(())
    })
}
