//! The serial of the zone over changes and restarts: never lower, and not higher without a reason.

use std::sync::Arc;

use nett_agent::zone::ZoneKeeper;
use nett_policy::document::{SourceFile, compile};
use nett_policy::fabric::Fabric;
use nett_policy::id::{Epoch, SiteId, WallMs};
use nett_policy::log::intent::{Intent, World};
use nett_policy::lower::answers::{Answers, ServiceAnswers};
use nett_policy::place::place;
use nett_policy::service::Catalog;

const FABRIC: &str = include_str!("../../fixtures/fabrics/two-sites/fabric.toml");
const SERVICES: &str = include_str!("../../fixtures/fabrics/two-sites/services.toml");

fn fixture() -> (Fabric, Answers) {
    let file = |name: &str, text: &str| SourceFile::new(name.to_owned(), text.to_owned());
    let (fabric, model) = compile(&file("fabric.toml", FABRIC), &file("services.toml", SERVICES))
        .expect("the fixture is valid");
    let model = model.iter().next().expect("a service").clone();
    let catalog = Catalog::new((0..500).map(|n| {
        let mut service = model.clone();
        service.id = format!("shop/prod/s{n}").parse().expect("an id");
        service
    }));
    let world = World { fabric: &fabric, catalog: &catalog };
    let answers = nett_policy::lower::answers(world, &place(world, &Intent::default()));
    (fabric, answers)
}

/// The same answers, with one service at another epoch.
fn moved(answers: &Answers, n: u32, epoch: u64) -> Answers {
    let mut next = answers.clone();
    let id = format!("shop/prod/s{n}").parse().expect("an id");
    next.get_mut(&id).expect("a service").epoch = Epoch(epoch);
    next
}

#[test]
fn serials_only_go_up_and_a_restart_with_the_same_answers_keeps_them() {
    let (fabric, answers) = fixture();
    let directory = tempfile::tempdir().expect("a directory");
    let home: SiteId = "osl".parse().expect("an id");
    let open = || {
        ZoneKeeper::open(&fabric, &home, directory.path(), WallMs(1_795_253_400_000))
            .expect("a readable directory")
    };
    let mut keeper = open();
    keeper.serve(answers.clone()).expect("served");
    let first = keeper.serial();
    keeper.serve(answers.clone()).expect("served");
    assert_eq!(keeper.serial(), first, "nothing changed");
    let one = moved(&answers, 7, 2);
    keeper.serve(one.clone()).expect("served");
    let two = moved(&one, 8, 2);
    keeper.serve(two.clone()).expect("served");
    let mut less = two.clone();
    less.pop_first();
    keeper.serve(less.clone()).expect("served");
    assert_eq!(keeper.serial(), first + 3);

    // The same answers in fresh memory, and reached in one step: the same zone.
    let fresh = |answers: &Answers| -> Answers {
        let fresh = |a: &ServiceAnswers| ServiceAnswers {
            fixed: Arc::new((*a.fixed).clone()),
            epoch: a.epoch,
            standing: Arc::new((*a.standing).clone()),
        };
        answers.iter().map(|(id, a)| (id.clone(), fresh(a))).collect()
    };
    let mut again = open();
    again.serve(fresh(&less)).expect("served");
    assert_eq!(again.serial(), first + 3);
    let zone = again.zone().load_full();
    assert_eq!(zone.len(), less.len());
    for (id, expected) in &less {
        assert_eq!(zone.answers(id).as_ref(), Some(expected));
    }
    // Answers of long ago are a new snapshot, not the old one.
    again.serve(answers.clone()).expect("served");
    assert_eq!(again.serial(), first + 4);
    // And so are others after a restart, also when nothing was served in between.
    drop(again);
    let mut other = open();
    assert_eq!(other.serial(), first + 4);
    other.serve(less).expect("served");
    assert_eq!(other.serial(), first + 5);
}

/// The fabric with a third site, as far from the first as the second is.
fn with_a_third_site(mut fabric: Fabric) -> Fabric {
    let mut third = fabric.sites[1].clone();
    (third.id, third.rank, third.prefixes) = ("ber".parse().expect("an id"), 9, Vec::new());
    let mut node = fabric.node(&fabric.links[0].b.node).expect("a node").clone();
    (node.id, node.site) = ("ber-b1".parse().expect("an id"), third.id.clone());
    let mut link = fabric.links[0].clone();
    (link.id, link.b.node) = ("osl-ber-1".parse().expect("an id"), node.id.clone());
    link.cost = fabric.link_cost(&fabric.sites[0].id, &fabric.sites[1].id).expect("a link");
    fabric.sites.push(third);
    fabric.nodes.push(node);
    fabric.links.push(link);
    fabric
}

#[test]
fn round_trips_make_a_snapshot_only_where_they_change_an_order() {
    let (fabric, answers) = fixture();
    let fabric = with_a_third_site(fabric);
    let directory = tempfile::tempdir().expect("a directory");
    let home: SiteId = "osl".parse().expect("an id");
    let open = || {
        ZoneKeeper::open(&fabric, &home, directory.path(), WallMs(1_795_253_400_000))
            .expect("a readable directory")
    };
    let times = |svg: u64, ber: u64| {
        let time = |to: &str, ms| {
            let pair = (home.clone(), to.parse::<SiteId>().expect("an id"));
            (pair, std::time::Duration::from_millis(ms))
        };
        [time("svg", svg), time("ber", ber)].into()
    };
    let order = |keeper: &ZoneKeeper| -> Vec<String> {
        let zone = keeper.zone().load_full();
        zone.topology().order_from(&home).iter().map(|(site, _)| site.to_string()).collect()
    };
    let mut keeper = open();
    // Known before there is anything to serve, it counts from the first snapshot on.
    keeper.order(times(20, 10)).expect("noted");
    keeper.serve(answers.clone()).expect("served");
    assert_eq!(order(&keeper), ["osl", "ber", "svg"]);
    let first = keeper.serial();
    for (svg, ber) in [(20, 10), (90, 11), (12, 10)] {
        keeper.order(times(svg, ber)).expect("the same order");
        assert_eq!((keeper.serial(), order(&keeper)[1].as_str()), (first, "ber"));
    }
    keeper.order(times(11, 10)).expect("served");
    assert_eq!(order(&keeper), ["osl", "svg", "ber"], "within a tenth rank decides");
    assert_eq!(keeper.serial(), first + 1);
    keeper.order(times(20, 10)).expect("served");
    assert_eq!(keeper.serial(), first + 2);
    drop(keeper);
    // Started anew it goes by rank again, which is another snapshot.
    let mut again = open();
    again.serve(answers).expect("served");
    assert_eq!(order(&again), ["osl", "svg", "ber"]);
    assert_eq!(again.serial(), first + 3);
}
