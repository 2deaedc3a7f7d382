//! DNS and placement are one: in every state between two placements, each client is told what the
//! state says, and never a site that would not take what the client sends.

mod sample;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use nett_dns::{Ask, Changes, Outcome, Profile, Serial, Transport, Zone, ZoneSource, answer};
use nett_policy::document::{SourceFile, compile};
use nett_policy::fabric::{Fabric, Family};
use nett_policy::id::{Epoch, SiteId, Weight};
use nett_policy::log::entry::Move;
use nett_policy::log::intent::{Progress, World};
use nett_policy::lower;
use nett_policy::place::{Placed, Reason};
use nett_policy::service::{AllDown, Catalog, Handover, Service};
use nett_policy::task::steps::{Manner, steps, traffic_at};
use nett_policy::traffic::{Spread, Traffic};
use proptest::prelude::*;
use proptest::sample::select;

const FABRIC: &str = include_str!("../../fixtures/fabrics/two-sites/fabric.toml");
const SERVICES: &str = include_str!("../../fixtures/fabrics/two-sites/services.toml");
/// Of osl, of svg, and of nobody.
const CLIENTS: [&str; 4] = ["10.1.0.9", "203.0.113.7", "8.8.8.8", "2001:db8:b::9"];

fn fixture() -> (Fabric, Service) {
    let file = |name: &str, text: &str| SourceFile::new(name.to_owned(), text.to_owned());
    let (fabric, catalog) = compile(&file("fabric.toml", FABRIC), &file("services.toml", SERVICES))
        .expect("the fixture is valid");
    // The one with addresses of its own at each site, so that an answer tells the site.
    let pay = catalog.get(&"shop/prod/pay".parse().expect("an id")).expect("a service").clone();
    (fabric, pay)
}

fn spread() -> impl Strategy<Value = Spread> {
    let weight = |n: u32| Weight::new(n).expect("a weight");
    let (osl, svg) = (sample::site("osl"), sample::site("svg"));
    let both = [osl.clone(), svg.clone()];
    prop_oneof![
        1 => Just(Spread::Nowhere),
        3 => select(both.to_vec()).prop_map(Spread::one),
        3 => (1u32..=256, 1u32..=256).prop_map(move |(a, b)| {
            Spread::Weighted([(osl.clone(), weight(a)), (svg.clone(), weight(b))].into())
        }),
        1 => Just(Spread::Nearest(both.into_iter().collect())),
    ]
}

/// The addresses of one family for one client, who asks itself or through a resolver that is
/// nobody's and tells the client's block (RFC 7871); `None` is REFUSED.
fn ask_as(zone: &Zone, client: IpAddr, family: Family, resolved: bool) -> Option<BTreeSet<IpAddr>> {
    let mut packet = vec![0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(resolved)];
    packet.extend(b"\x03pay\x04prod\x04shop\x05steer\x07example\0\0");
    packet.extend([if family == Family::V4 { 1 } else { 28 }, 0, 1]);
    let (number, length, block) = match client {
        IpAddr::V4(a) => (1, 24, a.octets()[..3].to_vec()),
        IpAddr::V6(a) => (2, 56, a.octets()[..7].to_vec()),
    };
    if resolved {
        let long = u8::try_from(block.len()).expect("short") + 4;
        packet.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, long + 4, 0, 8, 0, long, 0, number]);
        packet.extend([length, 0]);
        packet.extend(block);
    }
    let client = if resolved { sample::ip("9.9.9.9") } else { client };
    let profile = &Profile::default();
    let asked = Ask { packet: &packet, source: client, transport: Transport::Udp, now: 0, profile };
    let mut out = Vec::new();
    let outcome = answer(zone, &asked, &mut out);
    assert!(matches!(outcome, Outcome::Reply { truncated: false, .. }), "{outcome:?}");
    let message = hickory_proto::op::Message::from_vec(&out).expect("a message");
    if message.metadata.response_code == hickory_proto::op::ResponseCode::Refused {
        return None;
    }
    let records = message.answers.iter().map(|r| match &r.data {
        hickory_proto::rr::RData::A(a) => IpAddr::V4(a.0),
        hickory_proto::rr::RData::AAAA(a) => IpAddr::V6(a.0),
        other => panic!("no address: {other:?}"),
    });
    Some(records.collect())
}

/// The A records for a client that asks itself.
fn ask(zone: &Zone, client: IpAddr) -> Option<BTreeSet<IpAddr>> {
    ask_as(zone, client, Family::V4, false)
}

/// What the same site answers in the other family: the sites are told apart by what they answer.
fn in_v6(service: &Service, told: Option<&BTreeSet<IpAddr>>) -> Option<BTreeSet<IpAddr>> {
    let told = told?;
    let sites = service.sites();
    let site = sites.iter().find(|s| addresses(service, s) == *told);
    let v6 = |site: &SiteId| service.addresses[site].iter().copied().filter(IpAddr::is_ipv6);
    // An address that stands in for all sites has one family.
    Some(site.map(|site| v6(site).collect()).unwrap_or_default())
}

/// The IPv4 addresses of a site, read from the definition and not from what was lowered.
fn addresses(service: &Service, site: &SiteId) -> BTreeSet<IpAddr> {
    service.addresses[site].iter().copied().filter(IpAddr::is_ipv4).collect()
}

/// What a client of `at` may be told in this state.
fn expected(
    service: &Service,
    spread: &Spread,
    at: Option<&SiteId>,
) -> Vec<Option<BTreeSet<IpAddr>>> {
    let of = |site: &SiteId| Some(addresses(service, site));
    match spread {
        Spread::Nowhere => match service.all_down {
            AllDown::LastOrder => vec![of(&service.sites()[0])],
            AllDown::Refuse => vec![None],
            AllDown::Fallback(address) => vec![Some([address].into())],
        },
        Spread::Weighted(weights) => weights.keys().map(of).collect(),
        // Both sites serve: a client's own, and for an unknown one the service's first.
        Spread::Nearest(_) => vec![of(at.unwrap_or(&service.sites()[0]))],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn each_step_of_a_move_is_what_clients_are_told(
        from in spread(),
        to in spread(),
        make_first: bool,
        all_down in select(vec![
            AllDown::LastOrder,
            AllDown::Refuse,
            AllDown::Fallback(sample::ip("192.0.2.200")),
        ]),
    ) {
        let (fabric, mut service) = fixture();
        service.all_down = all_down;
        service.sticky = Duration::ZERO;
        let catalog = Catalog::new([service.clone()]);
        let world = World { fabric: &fabric, catalog: &catalog };
        let handover = match make_first {
            true => Handover::MakeBeforeBreak,
            false => Handover::BreakBeforeMake,
        };
        let (from, to) = (Traffic::settled(from), Traffic::settled(to));
        let a_move = Move {
            service: service.id.clone(),
            epoch: Epoch(2),
            prev_epoch: Epoch(1),
            prev: None,
            from: from.clone(),
            to: to.clone(),
            handover,
        };
        let manner = Manner { world, in_waves: false, gated: false, unhurried: false, ramp: None };
        let steps = steps(std::slice::from_ref(&a_move), manner);
        let told = |state: &Traffic, epoch: Epoch| {
            let placed = Placed {
                lowered: false,
                traffic: state.clone().into(),
                epoch,
                reason: Reason::UnderWay,
                drained: BTreeSet::new(),
            };
            lower::answers_of(catalog.answers().next().expect("a service"), &placed)
        };
        let services = sample::services([told(&from, Epoch(1))]);
        let mut zone = Zone::build(ZoneSource {
            zone: &fabric.zone,
            fabric: &fabric,
            home: None,
            serial: Serial(1),
            services: &services,
        })
        .expect("valid names");
        let mut before: Vec<_> = CLIENTS.iter().map(|c| ask(&zone, sample::ip(c))).collect();
        for step in &steps {
            let (state, epoch) = traffic_at(&steps, &a_move, &Progress::begun(1..=step.number));
            let changes: Changes =
                [(service.id.clone(), Some(told(&state, epoch).into()))].into();
            zone = zone.with(&changes, zone.serial().next());
            for (at, client) in CLIENTS.iter().enumerate() {
                let client = sample::ip(client);
                let home = fabric.sites.iter().map(|s| &s.id);
                let home = [Some(0), Some(1), None, Some(1)][at].and_then(|n| home.clone().nth(n));
                let now = ask(&zone, client);
                // Asked through a resolver, and for the other family, it is the same site.
                prop_assert_eq!(&ask_as(&zone, client, Family::V4, true), &now);
                let v6 = in_v6(&service, now.as_ref());
                for resolved in [false, true] {
                    prop_assert_eq!(&ask_as(&zone, client, Family::V6, resolved), &v6);
                }
                prop_assert!(
                    expected(&service, &state.answers, home).contains(&now),
                    "step {} {:?}: {client} is told {now:?} of {:?}", step.number, step.kind, state
                );
                // Who is told a site is told one that takes what it sends; while nobody takes
                // anything, between break and make, the old answer stays.
                let accepting = state.accept.iter().any(|s| now == Some(addresses(&service, s)));
                let nobody_takes = state.spread == Spread::Nowhere;
                prop_assert!(accepting || nobody_takes, "{state:?} {now:?}");
                // A client is told something else only when the state says so.
                if now != before[at] {
                    prop_assert!(epoch == Epoch(2), "{state:?}");
                }
                before[at] = now;
            }
        }
        // The last step is the placement that was asked for.
        let (last, _) = traffic_at(&steps, &a_move, &Progress::Done);
        prop_assert_eq!(&last.answers, &to.answers);
    }
}
