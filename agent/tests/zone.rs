//! The zone over restarts, and behind it the thread that signs.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nett_agent::config::{Loaded, load, read_zone_keys};
use nett_agent::zone::ZoneKeeper;
use nett_dns::dnssec::SigningStats;
use nett_policy::id::{Epoch, SiteId, WallMs};
use nett_policy::log::intent::{Intent, World};
use nett_policy::lower::answers::Answers;
use nett_policy::place::place;
use nett_policy::traffic::Spread;
use tempfile::TempDir;

const NOW: WallMs = WallMs(1_800_000_000_000);
const KEY: &str = "Ksteer.example.+013+";

/// The two-site fabric, signed with a new key.
fn directory() -> TempDir {
    let made = tempfile::tempdir().expect("a directory");
    for name in ["fabric.toml", "services.toml", "agent.toml", "osl-b1.seed"] {
        let from = nett_fixtures::fabric_dir("two-sites").join(name);
        std::fs::copy(from, made.path().join(name)).expect("a fixture");
    }
    let key = std::process::Command::new("dnssec-keygen")
        .args(["-q", "-a", "ECDSAP256SHA256", "-f", "KSK", "-K"])
        .arg(made.path())
        .arg("steer.example")
        .output()
        .expect("dnssec-keygen is installed (package bind9-utils)");
    let key = String::from_utf8(key.stdout).expect("text");
    assert!(key.starts_with(KEY), "{key}");
    let signed = format!("dnssec = {{ csk = \"{}\" }}\nhostmaster", key.trim());
    edit(made.path(), "fabric.toml", "hostmaster", &signed);
    edit(made.path(), "agent.toml", "threads = 2", "threads = 2\nkey_dir = \".\"");
    made
}

fn edit(directory: &Path, name: &str, find: &str, put: &str) {
    let path = directory.join(name);
    let text = std::fs::read_to_string(&path).expect("readable");
    std::fs::write(path, text.replacen(find, put, 1)).expect("writable");
}

fn answers(loaded: &Loaded) -> Answers {
    let world = World { fabric: &loaded.fabric, catalog: &loaded.catalog };
    nett_policy::lower::answers(world, &place(world, &Intent::default()))
}

fn keeper(loaded: &Loaded, state: &Path, stats: &Arc<SigningStats>) -> ZoneKeeper {
    let home: SiteId = "osl".parse().expect("a site");
    let keeper = ZoneKeeper::open(&loaded.fabric, &home, state, NOW).expect("a zone");
    let directory = loaded.config.dns.key_dir.as_ref().map(|d| d.value.as_path());
    let keys = read_zone_keys(directory, &loaded.fabric.zone, stats).expect("keys");
    keeper.signed_with(Arc::new(keys.expect("a signed zone"))).expect("a thread")
}

#[test]
fn answers_are_served_at_once_and_signed_behind() {
    let made = directory();
    let loaded = load(&made.path().join("agent.toml")).expect("valid");
    let stats = Arc::<SigningStats>::default();
    let mut keeper = keeper(&loaded, made.path(), &stats);
    let mut services = answers(&loaded);
    keeper.serve(services.clone()).expect("served");
    // The first answers are all signed before they are served.
    assert!(!keeper.zone().load().is_behind());
    let first = keeper.serial();
    let signed = stats.signatures();
    assert!(signed > 50, "{signed}");

    let (_, moved) = services.iter_mut().find(|(_, a)| a.fixed.sites.len() > 1).expect("two sites");
    let last = moved.fixed.sites.last().expect("two").site.clone();
    let weight = nett_policy::id::Weight::new(1).expect("a weight");
    Arc::make_mut(&mut moved.standing).spread =
        Spread::Weighted([(last, weight)].into_iter().collect());
    moved.epoch = Epoch(9);
    let service = moved.fixed.service.clone();
    keeper.serve(services.clone()).expect("served");
    let at_once = keeper.zone().load_full();
    assert_eq!(at_once.answers(&service).map(|a| a.epoch), Some(Epoch(9)));
    let begun = Instant::now();
    while keeper.zone().load().is_behind() {
        assert!(begun.elapsed() < Duration::from_secs(20), "never signed");
        std::thread::yield_now();
    }
    assert_eq!(keeper.serial(), first + 2);
    assert!(stats.signatures() > signed);
    drop(keeper);

    // After a restart everything is signed anew, so it is another snapshot.
    let kept = std::fs::read_to_string(made.path().join("zone.json")).expect("kept");
    assert!(kept.contains(&(first + 2).to_string()), "{kept}");
    let mut keeper = self::keeper(&loaded, made.path(), &stats);
    keeper.serve(services).expect("served");
    assert_eq!(keeper.serial(), first + 3);
}

#[test]
fn a_zone_without_keys_keeps_its_serial_over_a_restart() {
    let made = directory();
    let loaded = load(&made.path().join("agent.toml")).expect("valid");
    let home: SiteId = "osl".parse().expect("a site");
    let open = || ZoneKeeper::open(&loaded.fabric, &home, made.path(), NOW).expect("a zone");
    let mut keeper = open();
    keeper.serve(answers(&loaded)).expect("served");
    let serial = keeper.serial();
    drop(keeper);
    let mut keeper = open();
    keeper.serve(answers(&loaded)).expect("served");
    assert_eq!(keeper.serial(), serial);
}
