//! systemd-networkd beside Nett on a border: what it removes when it sets a link up once more comes
//! back at once, and with the shipped settings it removes nothing of ours but what goes with the
//! link's addresses, and nothing leaks.
//!
//! The real program runs in mount and PID namespaces of its own, on a D-Bus of its own, without
//! udev (`networkd/reconfigure.sh`). It touches the namespace's network alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::changes::PROTOCOL;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::observe::monitor::Monitor;
use nett_netns_tests::services::{VAULT, WEB};
use nett_netns_tests::story::{Traffic, tell};

const BORDER: &str = "osl-b1";
const FILES: [(&str, &str); 3] = [
    ("reconfigure.sh", include_str!("networkd/reconfigure.sh")),
    ("bus.xml", include_str!("networkd/bus.xml")),
    ("10-wan0.network", include_str!("networkd/10-wan0.network")),
];
const SHIPPED: &str = include_str!("../../packaging/systemd/50-nett-networkd.conf");
/// From the first removal to the last change of its repair, on a machine that does little else.
const REPAIR: Duration = Duration::from_secs(1);

/// What networkd removed of the agent's when it set `wan0` up once more, and how long until the
/// last change behind that.
struct Removed {
    rules: usize,
    floors: usize,
    /// Routes by `wan0` to somewhere.
    ways: usize,
    repaired: Duration,
}

fn reconfigure(lab: &Lab, files: &Path) -> Result<Removed> {
    let ns = lab.ns(BORDER)?;
    let before = Kernel::of(&ns)?;
    let name = files.file_name().context("a directory has a name")?.to_string_lossy();
    let monitor = Monitor::timed(&ns, lab.layout().log(&format!("monitor-{name}")))?;
    let script = files.join("reconfigure.sh").display().to_string();
    let dir = files.display().to_string();
    let own = ["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"];
    let args = [&own[..], &["--mount-proc", "sh", &script, &dir, "wan0"]].concat();
    let said = ns.try_output("timeout", &[&["60", "unshare"], &args[..]].concat())?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(said.status.success(), "{text}{}", String::from_utf8_lossy(&said.stderr));
    eventually(patience(), "the border has all of its forwarding state", || {
        let left = before.changes(&Kernel::of(&ns)?);
        ensure!(left.is_empty(), "{}", left.join("\n"));
        Ok(())
    })?;
    let events = monitor.finish_timed()?;
    let ours = format!("proto {PROTOCOL}");
    let gone: Vec<&(u64, String)> =
        events.iter().filter(|(_, event)| event.starts_with("Deleted")).collect();
    let count = |is: &dyn Fn(&str) -> bool| gone.iter().filter(|(_, event)| is(event)).count();
    let first = gone.first().map(|(at, _)| *at).context("networkd removed nothing at all")?;
    let last = events.iter().filter(|(_, event)| event.contains(&ours)).map(|(at, _)| *at).max();
    Ok(Removed {
        rules: count(&|event| event.contains("lookup") || event.contains("from all")),
        floors: count(&|event| event.contains(&ours) && event.contains("unreachable")),
        ways: count(&|event| event.contains(&ours) && event.contains("nhid")),
        repaired: Duration::from_nanos(last.unwrap_or(first).saturating_sub(first)),
    })
}

fn written(lab: &Lab, name: &str, settings: Option<&str>) -> Result<PathBuf> {
    let dir = lab.layout().host(BORDER).join(name);
    fs::create_dir_all(&dir)?;
    for (file, text) in FILES {
        fs::write(dir.join(file), text)?;
    }
    if let Some(settings) = settings {
        fs::write(dir.join("50-nett-networkd.conf"), settings)?;
    }
    Ok(dir)
}

#[test]
fn networkd_removes_what_comes_back_and_with_our_settings_leaves_it() -> Result<()> {
    tell("networkd_removes_what_comes_back_and_with_our_settings_leaves_it", |lab| {
        let before = lab.leaks()?;
        let away = Traffic::to_vips(lab, &["osl-c1"], VAULT)?;
        let home = Traffic::to_vips(lab, &["osl-c1"], WEB)?;
        away.settles_on("svg")?;

        let bare = reconfigure(lab, &written(lab, "networkd", None)?)?;
        let Removed { rules, floors, ways, repaired } = bare;
        show(&format!(
            "without the settings {rules} rules, {floors} floors and {ways} ways were removed; \
             repaired in {repaired:?}"
        ));
        ensure!(rules > 0 && floors > 0 && ways > 0, "the instrument is blind");
        ensure!(repaired <= REPAIR.max(patience() / 5), "{repaired:?}");
        away.settles_on("svg")?;
        // Without rules and floors packets follow the main table for that long, and the guard stops
        // those to VIPs.
        let leaks = lab.leaks()?;
        let meanwhile = leaks.since(&before);
        show(&format!("meanwhile by the default route: {meanwhile:?}"));
        let vips = meanwhile.0.iter().filter(|(name, _)| name.starts_with("vip_"));
        assert_eq!(vips.count(), 0, "{meanwhile:?}");

        let with = reconfigure(lab, &written(lab, "networkd-settings", Some(SHIPPED))?)?;
        let Removed { rules, floors, ways, repaired } = with;
        show(&format!(
            "with the settings {rules} rules, {floors} floors and {ways} ways were removed; \
             repaired in {repaired:?}"
        ));
        assert_eq!((rules, floors), (0, 0), "what does not hang on the link's addresses stays");
        away.settles_on("svg")?;
        home.settles_on("osl")?;
        show(&format!("to the other site: {}", away.finish().summary()));
        show(&format!("to the own site: {}", home.finish().summary()));
        let leaked = lab.leaks()?.since(&leaks);
        assert_eq!(leaked.total(), 0, "{leaked:?}");
        Ok(())
    })
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
