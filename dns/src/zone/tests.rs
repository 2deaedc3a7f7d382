//! Snapshots: what is found in them, and what two of them share.

use nett_policy::fabric::Family;

use super::*;
use crate::sample::{answers, fabric, services, usual, weighted};

fn build(services: &Answers, serial: u32) -> Zone {
    let fabric = fabric();
    Zone::build(ZoneSource {
        zone: &fabric.zone,
        fabric: &fabric,
        home: None,
        serial: Serial(serial),
        services,
    })
    .expect("valid names")
}

fn kind(zone: &Zone, name: &str) -> String {
    let name = format!("{name}.steer.example.");
    match zone.find(&LowerName::parse(name.trim_start_matches('.')).expect("a name")) {
        Found::Apex(_) => "apex".to_owned(),
        Found::Host(addresses) => format!("host {}", addresses.len()),
        Found::Reflect => "reflect".to_owned(),
        Found::Service(entry) => entry.answers().fixed.service.to_string(),
        Found::Site(entry, at) => {
            format!("{} {}", entry.answers().fixed.service, entry.answers().fixed.sites[at].site)
        }
        Found::AllSites(entry) => format!("{} all", entry.answers().fixed.service),
        Found::Port(entry, at, form) => {
            let form = if form == PortName::Srv { "srv" } else { "svcb" };
            format!(
                "{} {form} {}",
                entry.answers().fixed.service,
                entry.answers().fixed.ports[at].name
            )
        }
        Found::Empty => "empty".to_owned(),
        Found::Missing => "missing".to_owned(),
        Found::Outside => "outside".to_owned(),
    }
}

#[test]
fn names_have_places() {
    let zone = build(&usual(), 1);
    for (name, expected) in [
        ("", "apex"),
        ("ns1", "host 2"),
        ("ns2.dc", "host 1"),
        ("dc", "empty"),
        ("other.dc", "missing"),
        ("reflect", "reflect"),
        ("x.reflect", "missing"),
        ("shop", "empty"),
        ("prod.shop", "empty"),
        ("api.prod.shop", "shop/prod/api"),
        ("API.Prod.SHOP", "shop/prod/api"),
        ("nope.prod.shop", "missing"),
        ("test.shop", "missing"),
        ("site.api.prod.shop", "empty"),
        ("site.nope.prod.shop", "missing"),
        ("other.api.prod.shop", "missing"),
        ("sto.site.api.prod.shop", "shop/prod/api sto"),
        ("lon.site.api.prod.shop", "missing"),
        ("all.site.api.prod.shop", "shop/prod/api all"),
        ("x.all.site.api.prod.shop", "missing"),
        ("_https._tcp.ports.prod.shop", "shop/prod/ports srv https"),
        ("_SMTP._tcp.ports.prod.shop", "shop/prod/ports srv smtp"),
        ("_smtp.ports.prod.shop", "shop/prod/ports svcb smtp"),
        ("_tcp.ports.prod.shop", "empty"),
        ("_http._tcp.ports.prod.shop", "missing"),
        ("_smtp._udp.ports.prod.shop", "missing"),
        ("smtp._tcp.ports.prod.shop", "missing"),
        ("_.ports.prod.shop", "missing"),
        ("x._smtp._tcp.ports.prod.shop", "missing"),
        ("_tcp.api.prod.shop", "missing"),
        ("_https._tcp.api.prod.shop", "missing"),
        ("sto.other.api.prod.shop", "missing"),
    ] {
        assert_eq!(kind(&zone, name), expected, "{name}");
    }
    let outside = LowerName::parse("example.").expect("a name");
    assert!(matches!(zone.find(&outside), Found::Outside));
}

#[test]
fn changes_make_a_new_snapshot_and_leave_the_old_one_alone() {
    let old = build(&usual(), 1);
    let api: ServiceId = "shop/prod/api".parse().expect("an id");
    let new: ServiceId = "web/test/one".parse().expect("an id");
    let moved = answers("shop/prod/api", weighted(&[("sto", 1)]));
    let changes = Changes::from([
        (api.clone(), Some(Arc::new(moved.clone()))),
        (new.clone(), Some(Arc::new(answers("web/test/one", weighted(&[("osl", 1)]))))),
    ]);
    let next = old.with(&changes, Serial(2));
    assert_eq!((old.serial(), next.serial()), (Serial(1), Serial(2)));
    assert_eq!(next.answers(&api), Some(&moved));
    assert_ne!(old.answers(&api), Some(&moved));
    assert_eq!((kind(&old, "web"), kind(&next, "web")), ("missing".into(), "empty".into()));
    assert_eq!((old.len(), next.len()), (10, 11));
    // Parts that nothing changed in are the very same.
    assert_eq!(old.services.shared_with(&next.services), old.services.parts() - 2);

    let gone = Changes::from([(new.clone(), None), (api, None)]);
    let last = next.with(&gone, Serial(3));
    assert_eq!(kind(&last, "test.web"), "missing");
    assert_eq!(kind(&last, "web"), "missing");
    assert_eq!(kind(&last, "shop"), "empty");
    assert_eq!(last.with(&gone, Serial(4)).len(), 9);
}

#[test]
fn incremental_equals_full() {
    let api: ServiceId = "shop/prod/api".parse().expect("an id");
    let mut all = usual();
    let first = build(&services([]), 1);
    let changes = all.iter().map(|(id, a)| (id.clone(), Some(a.clone())));
    let filled = first.with(&changes.collect(), Serial(2));
    let without = filled.with(&Changes::from([(api.clone(), None)]), Serial(3));
    all.remove(&api);
    let full = build(&all, 3);
    assert_eq!(without.services.parents(), full.services.parents());
    let view = |zone: &Zone| -> BTreeMap<Box<[u8]>, String> {
        let row = |e: Entry<'_>| {
            let (answers, plan) = (e.answers(), e.plan());
            let columns: Vec<_> =
                (0..4).flat_map(|at| Family::BOTH.map(|family| e.addresses(at, family))).collect();
            (e.key().into(), format!("{answers:?} {plan:?} {columns:?}"))
        };
        zone.services.entries().map(row).collect()
    };
    assert_eq!(view(&without), view(&full));
}

#[test]
fn only_newer_snapshots_are_published() {
    let current = ArcSwap::from_pointee(build(&usual(), 5));
    for serial in [5, 4, 5u32.wrapping_add(1 << 31)] {
        assert_eq!(
            publish(&current, build(&usual(), serial)),
            Err(StaleSerial { current: Serial(5), offered: Serial(serial) })
        );
    }
    assert_eq!(publish(&current, build(&usual(), 6)), Ok(()));
    assert_eq!(current.load().serial(), Serial(6));
}

#[test]
fn bad_names_are_errors_that_say_which() {
    let fabric = fabric();
    let build = |zone: &fabric::Zone| {
        let services = BTreeMap::new();
        Zone::build(ZoneSource {
            zone,
            fabric: &fabric,
            home: None,
            serial: Serial(1),
            services: &services,
        })
    };
    let mut bad = fabric.zone.clone();
    bad.name = "a..b.".to_owned();
    assert!(matches!(build(&bad), Err(ZoneError::Name { .. })));
    let mut bad = fabric.zone.clone();
    bad.hostmaster = "x".repeat(64);
    assert!(matches!(build(&bad), Err(ZoneError::Hostmaster { .. })));
    let mut bad = fabric.zone.clone();
    bad.ns[1].name = "..".to_owned();
    assert!(matches!(build(&bad), Err(ZoneError::NameServer { .. })));
}
