//! Snapshots: what is found in them, and what two of them share.

use std::time::Duration;

use nett_policy::fabric::Family;
use nett_policy::lower::answers::Standing;
use nett_policy::service::{AllDown, Prefer, Ttl};
use nett_policy::traffic::Spread;
use proptest::prelude::*;

use super::*;
use crate::sample::{answers, fabric, nearest, services, usual, weighted};

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
        Found::Service(entry) => entry.fixed().service.to_string(),
        Found::Site(entry, at) => {
            format!("{} {}", entry.fixed().service, entry.fixed().sites[at].site)
        }
        Found::AllSites(entry) => format!("{} all", entry.fixed().service),
        Found::Port(entry, at, form) => {
            let form = if form == PortName::Srv { "srv" } else { "svcb" };
            format!("{} {form} {}", entry.fixed().service, entry.fixed().ports[at].name)
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
    let one = answers("web/test/one", weighted(&[("osl", 1)]));
    let changes = Changes::from([(&api, Some(&moved)), (&new, Some(&one))]);
    let next = old.with(&changes, Serial(2));
    assert_eq!((old.serial(), next.serial()), (Serial(1), Serial(2)));
    assert_eq!(next.answers(&api), Some(moved.clone()));
    assert_ne!(old.answers(&api), Some(moved));
    assert_eq!((kind(&old, "web"), kind(&next, "web")), ("missing".into(), "empty".into()));
    assert_eq!((old.len(), next.len()), (10, 11));
    // Parts that nothing changed in are the very same.
    assert_eq!(old.services.shared_with(&next.services), old.services.parts() - 2);

    let gone = Changes::from([(&new, None), (&api, None)]);
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
    let changes = all.iter().map(|(id, a)| (id, Some(a)));
    let filled = first.with(&changes.collect(), Serial(2));
    let without = filled.with(&Changes::from([(&api, None)]), Serial(3));
    all.remove(&api);
    let full = build(&all, 3);
    assert_eq!(without.services.parents(), full.services.parents());
    assert_eq!(view(&without), view(&full));
}

/// All that is answered about each service.
fn view(zone: &Zone) -> BTreeMap<Box<[u8]>, String> {
    let row = |e: Entry<'_>| {
        let (answers, plan, ttls, only) = (e.answers(), e.plan(), e.ttls(), e.only());
        let columns: Vec<_> =
            (0..4).flat_map(|at| Family::BOTH.map(|family| e.addresses(at, family))).collect();
        (e.key().into(), format!("{answers:?} {plan:?} {ttls:?} {only:?} {columns:?}"))
    };
    zone.services.entries().map(row).collect()
}

/// Service number N: no two of the first 36 are of one shape, and those behind them repeat them.
fn of_shape(n: usize) -> ServiceAnswers {
    let mut answers = answers(&format!("p/e/s{n}"), weighted(&[("osl", 1)]));
    let fixed = crate::sample::fixed(&mut answers);
    fixed.sites.rotate_left(n % 3);
    fixed.prefer = [Prefer::Nearest, Prefer::Primary][n / 3 % 2];
    let fallback = AllDown::Fallback(crate::sample::ip("203.0.113.9"));
    fixed.all_down = [AllDown::LastOrder, AllDown::Refuse, fallback][n / 6 % 3];
    let ceiling = Duration::from_secs([30, 300][n / 18 % 2]);
    fixed.ttl = Ttl { ceiling, floor: Duration::from_secs(5) };
    answers
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Services that stand alike share in memory what is chosen for them: never more than that.
    #[test]
    fn services_that_move_together_are_answered_as_if_each_were_alone(
        steps in prop::collection::vec(
            (prop::collection::btree_set(0usize..72, 1..72), 0usize..5, any::<bool>()),
            1..6,
        ),
    ) {
        let mut all: Vec<ServiceAnswers> = (0..72).map(of_shape).collect();
        let mut zone = build(&services(all.iter().cloned()), 1);
        for (services, spread, lowered) in steps {
            let spreads = [
                weighted(&[("osl", 1)]),
                weighted(&[("sto", 1)]),
                weighted(&[("sto", 2), ("fra", 1)]),
                nearest(&["osl", "fra"]),
                Spread::Nowhere,
            ];
            let standing = Standing {
                lowered,
                unprotected: false,
                spread: spreads[spread].clone(),
                drained: BTreeSet::new(),
                health: BTreeMap::new(),
            };
            let standing = Arc::new(standing);
            for n in &services {
                all[*n].standing = Arc::clone(&standing);
                all[*n].epoch.0 += 1;
            }
            let changed = services.iter().map(|n| (&all[*n].fixed.service, Some(&all[*n])));
            zone = zone.with(&changed.collect(), zone.serial().next());
        }
        let told = view(&zone);
        for alone in &all {
            let mut alone = alone.clone();
            alone.standing = Arc::new((*alone.standing).clone());
            let key = service_key(&alone.fixed.service);
            let expected = view(&build(&services([alone]), 1));
            prop_assert_eq!(told.get(&key), expected.get(&key));
        }
    }
}

#[test]
fn many_services_that_stand_alike_share_what_is_chosen() {
    let mut all: Vec<ServiceAnswers> = (0..360).map(of_shape).collect();
    let standing = Arc::clone(&all[0].standing);
    all.iter_mut().for_each(|a| a.standing = Arc::clone(&standing));
    let distinct = |zone: &Zone| {
        let plans = zone.services.entries().map(|e| std::ptr::from_ref(e.plan()).addr());
        plans.collect::<BTreeSet<usize>>().len()
    };
    let zone = build(&services(all.iter().cloned()), 1);
    assert_eq!(distinct(&zone), 36);
    let moved = Arc::new(Standing { spread: weighted(&[("fra", 1)]), ..(*standing).clone() });
    all.iter_mut().for_each(|a| a.standing = Arc::clone(&moved));
    let changes = all.iter().map(|a| (&a.fixed.service, Some(a))).collect();
    assert_eq!(distinct(&zone.with(&changes, Serial(2))), 36);
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
