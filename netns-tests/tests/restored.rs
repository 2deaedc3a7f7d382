//! A node that has lost its disk while NATS is away gets its log back from a backup, and its audit
//! trail says when somebody has changed it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::bus;
use nett_netns_tests::eventually::eventually;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::services::API;
use nett_netns_tests::story::{Operator, tell};
use nett_netns_tests::topology::SITES;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_node_without_its_disk_is_restored_from_another_ones_backup() -> Result<()> {
    tell("a_node_without_its_disk_is_restored_from_another_ones_backup", |lab| {
        let [osl, _] = SITES;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        let task = mira.complete(&["failover", API.id, "--to", "svg"])?;
        let file = lab.layout().host("osl-r1").join("osl-r1.nett");
        let file = file.to_str().context("a path")?.to_owned();
        // Any node's will do.
        lab.nettctl("osl-r1", "mira", &["backup", &file])?.must_be(0)?;
        let again = ["restore", file.as_str(), "--reason", "a story"];
        let refused = lab.nettctl("osl-r1", "mira", &again)?.must_be(2)?;
        ensure!(refused.err.contains("nothing in it is new"), "{}", refused.err);

        let before = Kernel::of(&lab.ns("osl-b1")?)?;
        lab.take_process(&bus::process_name(osl))?.stop(PATIENCE)?;
        lab.take_process("agent-osl-b1")?.kill();
        let state = lab.layout().host("osl-b1").join("state");
        fs::remove_dir_all(&state).with_context(|| state.display().to_string())?;
        lab.start_agent("osl-b1")?;
        let ask = ["-o", "json", "task", "show", task.as_str()];
        eventually(PATIENCE, "it knows nothing", || {
            lab.nettctl("osl-b1", "mira", &ask)?.must_be(2)
        })?;

        let told = lab.nettctl("osl-b1", "mira", &again)?.must_be(0)?;
        ensure!(told.out.contains("entries taken in"), "{}", told.out);
        let (known, _) = eventually(PATIENCE, "it knows the task", || {
            lab.nettctl("osl-b1", "mira", &ask)?.must_be(0)?.json()
        })?;
        assert_eq!(known["ok"]["state"], "done");
        let changes = before.changes(&Kernel::of(&lab.ns("osl-b1")?)?);
        assert!(changes.is_empty(), "the kernel was right all the time: {changes:#?}");

        let config = lab.layout().host(&osl.bus_host()).join("nats.conf");
        bus::start(lab, osl, &config)?;
        lab.wait_for_agent("osl-b1")?;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        eventually(PATIENCE, "commands are taken again", || {
            mira.complete(&["failover", API.id, "--to", "osl"])
        })?;

        // A byte of the trail, changed.
        mira.run(&["audit", "--verify"])?.must_be(0)?;
        let trail = state.join("audit.jsonl");
        let mut bytes = fs::read(&trail)?;
        let second = bytes.iter().position(|b| *b == b'\n').context("lines")? + 1;
        let text = b"\"text\":\"";
        let at = bytes[second..].windows(text.len()).position(|w| w == text).context("a text")?;
        bytes[second + at + text.len()] ^= 1;
        fs::write(&trail, bytes)?;
        let told = mira.run(&["audit", "--verify"])?.must_be(1)?;
        let broken = "does not follow the line before: line 3\n";
        ensure!(told.out.contains(broken), "the line behind it: {}", told.out);
        Ok(())
    })
}
