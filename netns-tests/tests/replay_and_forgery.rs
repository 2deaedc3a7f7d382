//! Nobody moves traffic without the right key, twice with one signature, or with an old message.

use anyhow::Result;
use nett_netns_tests::keys::Keys;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::services::{API, PAY};
use nett_netns_tests::story::{Operator, Traffic, tell};

#[test]
fn a_key_the_fabric_does_not_know_moves_nothing() -> Result<()> {
    tell("a_key_the_fabric_does_not_know_moves_nothing", |lab| {
        let dir = lab.layout().root.join("stranger");
        let stranger = Keys::generate(&dir, ["mallory".to_owned()])?;
        let node = lab.ns("osl-b1")?;
        let before = Kernel::of(&node)?;
        let traffic = Traffic::to_vips(lab, &["osl-c1"], API)?;
        let args = [
            "--socket",
            &lab.layout().socket("osl-b1").display().to_string(),
            "--key",
            &stranger.seed("mallory").display().to_string(),
            "failover",
            API.id,
            "--to",
            "svg",
            "--reason",
            "forged",
            "--yes",
        ];
        let told = lab.nettctl_in("osl-b1", &args.map(str::to_owned))?;
        told.must_be(4)?;
        traffic.run_for(300)?;
        let report = traffic.finish();
        assert_eq!((report.lost(), report.answers_of("svg")), (0, 0), "{}", report.summary());
        assert_eq!(before.changes(&Kernel::of(&node)?), Vec::<String>::new());
        Ok(())
    })
}

#[test]
fn nobody_approves_an_own_task_and_no_operator_without_the_role() -> Result<()> {
    tell("nobody_approves_an_own_task_and_no_operator_without_the_role", |lab| {
        let by = |name| Operator { lab, node: "osl-b1", name };
        let task = by("jon").propose(&["failover", PAY.id, "--to", "svg"])?;
        for name in ["jon", "mira"] {
            let args = ["approve", &task, "--reason", "please", "--yes"];
            by(name).run(&args)?.must_be(4)?;
        }
        assert_eq!(by("jon").state_of(&task)?, "waiting");
        Ok(())
    })
}
