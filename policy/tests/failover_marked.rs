//! What of the traffic between sites is failover traffic, where it is marked, and with what.

use std::collections::BTreeSet;
use std::sync::Arc;

use nett_policy::document::{SourceFile, compile};
use nett_policy::explain::{Packet, path};
use nett_policy::fabric::Fabric;
use nett_policy::id::{ServiceId, SiteId};
use nett_policy::log::intent::{Intent, World};
use nett_policy::lower::object::{Guard, GuardElement, GuardSet, Layout, NodeState, Subject};
use nett_policy::lower::{Neighbours, Place, all_links, lower};
use nett_policy::place::{Placement, place};
use nett_policy::plan::{Op, plan_kernel};
use nett_policy::service::Catalog;
use nett_policy::traffic::{Spread, Traffic, Weights};

type Ground = (Fabric, Catalog);

/// A third site with a border, and a link to each of the others.
const BER: &str = r#"
[[site]]
id = "ber"
rank = 3
prefixes = ["10.3.0.0/16", "fd00:c::/32"]

[[node]]
id = "ber-b1"
site = "ber"
role = "border"
addresses = ["10.3.1.2", "fd00:c:1::2"]
core = "core"
key = "UCER5Y3MTXWJULR6RUNJEVICL7ZCCYFJRFNJO35YTWR423QY4YDTWBIZ"

[[link]]
id = "osl-ber"
a = { node = "osl-b1", interface = "wan2", addresses = ["172.31.0.9/30", "fd00:f2::1/64"] }
b = { node = "ber-b1", interface = "wan2", addresses = ["172.31.0.10/30", "fd00:f2::2/64"] }

[[link]]
id = "svg-ber"
a = { node = "svg-b1", interface = "wan3", addresses = ["172.31.0.13/30", "fd00:f3::1/64"] }
b = { node = "ber-b1", interface = "wan3", addresses = ["172.31.0.14/30", "fd00:f3::2/64"] }
"#;

/// `count` services that live at osl, and one that is active at osl and svg.
fn services(count: usize) -> String {
    let backends = "backends.osl = [\"10.1.20.2\", \"fd00:a:20::2\"]\n\
                    backends.svg = [\"10.2.20.2\", \"fd00:b:20::2\"]\n";
    let one = |n: usize| {
        format!(
            "[[service]]\nid = \"a/b/s{n:04}\"\ncategory = \"C\"\nprimary = \"osl\"\n\
             standby = [\"svg\"]\nvips = [\"10.99.1.{n}\", \"fd00:99::1:{n:x}\"]\n{backends}"
        )
    };
    let both = format!(
        "[[service]]\nid = \"a/b/both\"\ncategory = \"C\"\nmode = \"active-active\"\n\
         active = [\"osl\", \"svg\"]\nvips = [\"10.99.2.1\", \"fd00:99::2:1\"]\n{backends}"
    );
    (1..=count).map(one).collect::<String>() + &both
}

fn ground(count: usize, fabric: &str, link: &str) -> Ground {
    let file = nett_fixtures::fabric_file("two-sites", "fabric.toml").expect("a fixture");
    let text = file.text.replacen("generation = 1\n", &format!("generation = 1\n{fabric}\n"), 1);
    let text = text.replacen("cost = 20\n", &format!("cost = 20\n{link}\n"), 1) + BER;
    let services = SourceFile::new("services.toml", services(count));
    compile(&SourceFile::new(file.name, text), &services).expect("valid")
}

const MARKED: &str = "failover = { dscp = \"AF11\", class = \"1:20\" }";

fn site(id: &str) -> SiteId {
    id.parse().expect("an id")
}

fn sites(ids: &[&str]) -> BTreeSet<SiteId> {
    ids.iter().map(|id| site(id)).collect()
}

fn state(node: &str, (fabric, catalog): &Ground, placement: &Placement) -> NodeState {
    let world = World { fabric, catalog };
    let node = fabric.nodes.iter().find(|n| n.id.as_str() == node).expect("a node");
    let (layout, links_up) = (&Layout::default(), &all_links(world));
    let neighbours = &Neighbours::default();
    lower(Place { world, layout, node, links_up, neighbours }, placement)
}

fn placed((fabric, catalog): &Ground) -> Placement {
    place(World { fabric, catalog }, &Intent::default())
}

/// The services of a kind (`s` or `both`) in this state, and the others at home.
fn with(ground: &Ground, kind: &str, traffic: &Traffic) -> Placement {
    let mut placement = placed(ground);
    for (id, placed) in &mut placement.services {
        if id.as_str().starts_with(&format!("a/b/{kind}")) {
            placed.traffic = Arc::new(traffic.clone());
        }
    }
    placement
}

fn guard(node: &str, ground: &Ground, placement: &Placement) -> Guard {
    state(node, ground, placement).guard.expect("a node that forwards has one")
}

fn marks(guard: &Guard) -> Vec<&GuardElement> {
    let set =
        |e: &&GuardElement| matches!(e.set, GuardSet::FailoverTo(_) | GuardSet::FailoverFrom(_));
    guard.refused.iter().filter(set).collect()
}

/// The interfaces by which a node marks what goes to services, and what comes from them.
fn ways(node: &str, ground: &Ground, placement: &Placement) -> [Vec<String>; 2] {
    let guard = guard(node, ground, placement);
    let mut ways = [BTreeSet::new(), BTreeSet::new()];
    for element in marks(&guard) {
        match element.set {
            GuardSet::FailoverTo(out) => ways[0].insert(out.to_string()),
            GuardSet::FailoverFrom(out) => ways[1].insert(out.to_string()),
            _ => unreachable!("marks alone"),
        };
    }
    ways.map(|ways| ways.into_iter().collect())
}

fn is_marked(to: &[&str], from: &[&str]) -> [Vec<String>; 2] {
    [to, from].map(|ways| ways.iter().map(|way| (*way).to_owned()).collect())
}

const BORDERS: [&str; 3] = ["osl-b1", "svg-b1", "ber-b1"];
const ROUTE_NODES: [&str; 2] = ["osl-r1", "svg-r1"];

#[test]
fn without_the_setting_nothing_is_marked_wherever_services_are() {
    let ground = ground(3, "", "");
    let away = with(&ground, "s", &Traffic::settled(Spread::one(site("svg"))));
    for node in BORDERS.into_iter().chain(ROUTE_NODES) {
        let guard = guard(node, &ground, &away);
        assert!(guard.failover.is_empty() && marks(&guard).is_empty(), "{node}");
    }
}

#[test]
fn what_crosses_while_everything_is_at_home_is_not_marked() {
    let ground = ground(3, MARKED, "");
    for node in BORDERS.into_iter().chain(ROUTE_NODES) {
        assert_eq!(ways(node, &ground, &placed(&ground)), is_marked(&[], &[]), "{node}");
    }
    let osl = guard("osl-b1", &ground, &placed(&ground));
    let interfaces: Vec<&str> = osl.failover.keys().map(String::as_str).collect();
    assert_eq!(interfaces, ["wan0", "wan1", "wan2"]);
    assert!(osl.failover.values().all(|mark| mark.to_string() == "dscp 10 class 1:20"));
    assert!(guard("osl-r1", &ground, &placed(&ground)).failover.is_empty(), "no way to a site");
}

#[test]
fn away_from_home_it_is_marked_where_it_leaves_and_its_answers_where_they_do() {
    let ground = ground(3, MARKED, "");
    let away = with(&ground, "s", &Traffic::settled(Spread::one(site("svg"))));
    assert_eq!(ways("osl-b1", &ground, &away), is_marked(&["wan0", "wan1"], &[]));
    assert_eq!(ways("svg-b1", &ground, &away), is_marked(&[], &["wan0", "wan1", "wan3"]));
    assert_eq!(ways("ber-b1", &ground, &away), is_marked(&["wan3"], &[]));
    for node in ROUTE_NODES {
        assert_eq!(ways(node, &ground, &away), is_marked(&[], &[]), "{node}");
    }
}

#[test]
fn of_a_split_only_the_share_that_is_away_is_marked() {
    let ground = ground(3, MARKED, "");
    let weight = |n| nett_policy::id::Weight::new(n).expect("1 to 256");
    let shares: Weights =
        [(site("osl"), weight(7)), (site("svg"), weight(3))].into_iter().collect();
    let split = with(&ground, "s", &Traffic::settled(Spread::Weighted(shares)));
    assert_eq!(ways("osl-b1", &ground, &split), is_marked(&["wan0", "wan1"], &[]));
    // What svg and ber send to osl goes there in any case.
    assert_eq!(ways("svg-b1", &ground, &split), is_marked(&[], &["wan0", "wan1", "wan3"]));
    assert_eq!(ways("ber-b1", &ground, &split), is_marked(&["wan3"], &[]));
}

/// ber is nearer to osl by its rank; when osl is lost it sends to svg, as osl does.
#[test]
fn of_a_service_at_several_sites_that_is_marked_which_a_loss_sends_elsewhere() {
    let ground = ground(1, MARKED, "");
    let lost = |id: &str| with(&ground, "both", &Traffic::settled(Spread::Nearest(sites(&[id]))));
    let osl_lost = lost("svg");
    assert_eq!(ways("osl-b1", &ground, &osl_lost), is_marked(&["wan0", "wan1"], &[]));
    assert_eq!(ways("ber-b1", &ground, &osl_lost), is_marked(&["wan3"], &[]));
    assert_eq!(ways("svg-b1", &ground, &osl_lost), is_marked(&[], &["wan0", "wan1", "wan3"]));
    let svg_lost = lost("osl");
    assert_eq!(ways("svg-b1", &ground, &svg_lost), is_marked(&["wan0", "wan1"], &[]));
    assert_eq!(ways("ber-b1", &ground, &svg_lost), is_marked(&[], &[]), "as with svg");
    assert_eq!(ways("osl-b1", &ground, &svg_lost), is_marked(&[], &["wan0", "wan1"]), "not to ber");
}

#[test]
fn connections_that_stay_at_the_other_site_are_marked_until_it_is_closed() {
    let ground = ground(3, MARKED, "");
    let spread = Spread::one(site("osl"));
    let accept = sites(&["osl", "svg"]);
    let back = with(&ground, "s", &Traffic { answers: spread.clone(), spread, accept });
    assert_eq!(ways("osl-b1", &ground, &back), is_marked(&["wan0", "wan1"], &[]));
    assert_eq!(ways("svg-b1", &ground, &back), is_marked(&[], &["wan0", "wan1", "wan3"]));
}

#[test]
fn a_link_has_its_own_mark_or_that_of_the_fabric() {
    let own = ground(1, MARKED, "failover = { dscp = 63 }");
    let marks = |ground: &Ground| {
        let guard = guard("osl-b1", ground, &placed(ground));
        guard.failover.iter().map(|(way, mark)| format!("{way} {mark}")).collect::<Vec<_>>()
    };
    let all = ["wan0 dscp 10 class 1:20", "wan1 dscp 63", "wan2 dscp 10 class 1:20"];
    assert_eq!(marks(&own), all);
    let alone = ground(1, "", "failover = { class = \"a:ff\" }");
    assert_eq!(marks(&alone), ["wan1 class a:ff"]);
    let away = with(&alone, "s", &Traffic::settled(Spread::one(site("svg"))));
    assert_eq!(ways("osl-b1", &alone, &away), is_marked(&["wan1"], &[]));
}

#[test]
fn a_class_costs_as_many_elements_however_many_services_it_has() {
    let mut costs = BTreeSet::new();
    for count in [1, 20, 200] {
        let ground = ground(count, MARKED, "");
        let away = with(&ground, "s", &Traffic::settled(Spread::one(site("svg"))));
        let guard = guard("osl-b1", &ground, &away);
        let marks = marks(&guard);
        assert!(marks.iter().all(|e| matches!(e.subject, Subject::Class(_))), "{marks:?}");
        costs.insert(marks.len());
    }
    // Two families over two links.
    assert_eq!(costs, BTreeSet::from([4]));
}

#[test]
fn it_is_marked_from_before_it_moves_until_it_has_moved_back() {
    let ground = ground(3, MARKED, "");
    let (home, away) =
        (placed(&ground), with(&ground, "s", &Traffic::settled(Spread::one(site("svg")))));
    let states = [&home, &away].map(|placement| state("osl-b1", &ground, placement));
    let moves = |op: &Op| matches!(op, Op::ReplaceNexthop { .. });
    let adds = |op: &Op| match op {
        Op::Elements { add, .. } => !marks_in(add).is_empty(),
        _ => false,
    };
    let deletes = |op: &Op| match op {
        Op::Elements { delete, .. } => !marks_in(delete).is_empty(),
        _ => false,
    };
    let there = plan_kernel(&states[1], &states[0]).ops;
    let first = there.iter().position(moves).expect("a group moves");
    assert!(there.iter().position(adds).expect("it is marked") < first, "{there:#?}");
    let back = plan_kernel(&states[0], &states[1]).ops;
    let last = back.iter().rposition(moves).expect("a group moves");
    assert!(back.iter().position(deletes).expect("no longer marked") > last, "{back:#?}");
    let said = there.iter().map(ToString::to_string).collect::<String>();
    assert!(said.contains(" . \"wan0\" }"), "{said}");
}

fn marks_in(elements: &BTreeSet<GuardElement>) -> Vec<&GuardElement> {
    let set =
        |e: &&GuardElement| matches!(e.set, GuardSet::FailoverTo(_) | GuardSet::FailoverFrom(_));
    elements.iter().filter(set).collect()
}

/// The sets come with the table: nothing is put into them before.
#[test]
fn a_table_without_marks_takes_none_before_it_is_loaded_anew() {
    let plain = ground(3, "", "");
    let marked = ground(3, MARKED, "");
    let away = Traffic::settled(Spread::one(site("svg")));
    let of = |ground: &Ground, placement| state("osl-b1", ground, &placement);
    let before = [placed(&plain), with(&plain, "s", &away)];
    let after = [placed(&marked), with(&marked, "s", &away)];
    for from in before.map(|placement| of(&plain, placement)) {
        for to in after.clone().map(|placement| of(&marked, placement)) {
            for (to, from) in [(&to, &from), (&from, &to)] {
                let mut marks = from.guard.as_ref().is_some_and(|g| !g.failover.is_empty());
                for op in plan_kernel(to, from).ops {
                    match op {
                        Op::LoadGuard { from: _, to } => marks = !to.failover.is_empty(),
                        Op::Elements { add, delete } if !marks => {
                            let all = [marks_in(&add), marks_in(&delete)].concat();
                            assert!(all.is_empty(), "no such sets: {all:?}");
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}

#[test]
fn one_that_departs_from_its_class_is_marked_alone_and_the_way_of_a_packet_says_so() {
    let ground = ground(3, MARKED, "");
    let mut placement = placed(&ground);
    let id: ServiceId = "a/b/s0002".parse().expect("an id");
    placement.services.get_mut(&id).expect("defined").traffic =
        Arc::new(Traffic::settled(Spread::one(site("svg"))));
    let fabric = &ground.0;
    let states =
        fabric.nodes.iter().map(|n| (n.id.clone(), state(n.id.as_str(), &ground, &placement)));
    let states = states.collect();
    let walk = |node: &str, from: &str, to: &str| {
        let [from, to] = [from, to].map(|a| a.parse().expect("an address"));
        let node = fabric.nodes.iter().find(|n| n.id.as_str() == node).expect("a node");
        let interface = Some(node.core.clone());
        let (sender, went_through) = (None, false);
        let packet = Packet { from, to, interface, mark: 0, sender, went_through };
        let hops = path(fabric, &states, &node.id, packet);
        let told = hops.iter().map(|hop| {
            let mark = hop.failover.map_or("-".to_owned(), |mark| mark.to_string());
            format!("{} {mark}", hop.node)
        });
        told.collect::<Vec<_>>()
    };
    let marked = "dscp 10 class 1:20";
    for (from, to) in [("10.1.40.2", "10.99.1.2"), ("fd00:a:40::2", "fd00:99::1:2")] {
        let border = format!("osl-b1 {marked}");
        assert_eq!(walk("osl-r1", from, to), ["osl-r1 -", &border, "svg-b1 -", "svg-r1 -"]);
        // Its answers, on their way to the client.
        assert_eq!(walk("svg-b1", to, from)[0], format!("svg-b1 {marked}"));
    }
    assert_eq!(walk("osl-r1", "10.1.40.2", "10.99.1.1"), ["osl-r1 -"]);
    let at_home = walk("svg-r1", "10.2.40.2", "10.99.1.1");
    assert_eq!(at_home, ["svg-r1 -", "svg-b1 -", "osl-b1 -", "osl-r1 -"], "crosses in any case");
    assert!(walk("osl-b1", "10.1.40.2", "10.2.40.2")[0].ends_with(" -"), "no service");
}
