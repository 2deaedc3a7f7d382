//! DNS and placement are one: in every state between two placements, each client is told what the
//! state says, and never a site that would not take what the client sends.

mod naive;
mod sample;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use naive::{Question, State, Told};
use nett_dns::{Changes, Serial, Zone, ZoneSource};
use nett_policy::document::{SourceFile, compile};
use nett_policy::fabric::Fabric;
use nett_policy::id::{Epoch, SiteId, Weight};
use nett_policy::log::entry::Move;
use nett_policy::log::intent::{Progress, World};
use nett_policy::lower::{self, answers::Standings};
use nett_policy::place::{Placed, Reason};
use nett_policy::service::{AllDown, Catalog, Handover, Service};
use nett_policy::task::steps::{Manner, Outside, steps, traffic_at};
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
            let weights = [(osl.clone(), weight(a)), (svg.clone(), weight(b))];
            Spread::Weighted(weights.into_iter().collect())
        }),
        1 => Just(Spread::Nearest(both.into_iter().collect())),
    ]
}

/// All that a client may ask, and what it is told.
fn ask(zone: &Zone, fabric: &Fabric, service: &Service, client: IpAddr) -> Vec<(Question, Told)> {
    let ask = |question| (question, naive::ask(zone, fabric, &service.id, &question));
    Question::all_of(client).map(ask).collect()
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
            kept: [].into(),
        };
        let manner = Manner {
            world,
            in_waves: false,
            abandoned: None,
            gated: false,
            unhurried: false,
            ramp: None,
            soft: false,
            outside: Outside::Nobody,
        };
        let steps = steps(std::slice::from_ref(&a_move), manner);
        let told = |state: &Traffic, epoch: Epoch| {
            let placed = Placed {
                lowered: false,
                traffic: state.clone().into(),
                epoch,
                reason: Reason::UnderWay,
                drained: BTreeSet::new(),
                counted_for: None,
                left: BTreeSet::new(),
                kept: BTreeSet::new(),
            };
            let fixed = catalog.answers().next().expect("a service");
            lower::answers_of(fixed, &placed, &mut Standings::default())
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
        let asked = |zone: &Zone| -> Vec<_> {
            CLIENTS.iter().flat_map(|c| ask(zone, &fabric, &service, sample::ip(c))).collect()
        };
        let mut before = asked(&zone);
        for step in &steps {
            let (state, epoch) = traffic_at(&steps, &a_move, &Progress::begun(1..=step.number));
            let answers = told(&state, epoch);
            let changes = Changes::from([(&service.id, Some(&answers))]);
            zone = zone.with(&changes, zone.serial().next());
            let (fabric, service, spread) = (&fabric, &service, &state.answers);
            let at = State { fabric, home: None, service, spread, lowered: false, over: false };
            let now = asked(&zone);
            for (question, told) in &now {
                prop_assert_eq!(
                    &at.told(question), told,
                    "step {} {:?}: {:?} of {:?}", step.number, step.kind, question, state
                );
                // Who is told a site is told one that takes what it sends; while nobody takes
                // anything, between break and make, the old answer stays.
                let takes = |s: &SiteId| at.addresses(s, question.family) == told.addresses;
                let accepting = state.accept.iter().any(takes);
                let nobody_takes = state.spread == Spread::Nowhere;
                prop_assert!(accepting || nobody_takes, "{state:?} {told:?}");
            }
            // A client is told something else only when the state says so.
            prop_assert!(now == before || epoch == Epoch(2), "{state:?}");
            before = now;
        }
        // The last step is the placement that was asked for.
        let (last, _) = traffic_at(&steps, &a_move, &Progress::Done);
        prop_assert_eq!(&last.answers, &to.answers);
    }
}
