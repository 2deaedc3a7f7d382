//! What is said of ways: of a packet's, hop by hop, and of what would follow from a loss.

use std::collections::{BTreeMap, BTreeSet};

use nett_policy::document::{SourceFile, compile};
use nett_policy::explain::{Fate, Hop, Packet, entry, path};
use nett_policy::fabric::Fabric;
use nett_policy::log::intent::{Intent, World};
use nett_policy::lower::object::{Layout, NodeState};
use nett_policy::lower::{LinksUp, Neighbours, Place, all_links, lower};
use nett_policy::place::place;
use nett_policy::service::Catalog;
use nett_policy::simulate::{Lost, Outcome, Ways, simulate};

fn ground(name: &str) -> (Fabric, Catalog) {
    let file = |file: &str| {
        let text = nett_fixtures::fabric_file(name, file).expect("a fixture");
        SourceFile::new(text.name, text.text)
    };
    compile(&file("fabric.toml"), &file("services.toml")).expect("the fixture is valid")
}

fn states(
    (fabric, catalog): &(Fabric, Catalog),
    up: &LinksUp,
) -> BTreeMap<nett_policy::id::NodeId, NodeState> {
    let world = World { fabric, catalog };
    let placement = place(world, &Intent::default());
    let (layout, neighbours) = (&Layout::default(), &Neighbours::default());
    let of = |node: &nett_policy::fabric::Node| {
        let at = Place { world, layout, node, links_up: up, neighbours };
        (node.id.clone(), lower(at, &placement))
    };
    fabric.nodes.iter().map(of).collect()
}

fn walk(ground: &(Fabric, Catalog), from: &str, to: &str, up: &LinksUp) -> Vec<Hop> {
    let fabric = &ground.0;
    let (from, to) = (from.parse().expect("an address"), to.parse().expect("an address"));
    let start = entry(fabric, from).expect("a node");
    let packet = Packet { from, to, interface: Some(start.core.clone()), mark: 0, sender: None };
    path(fabric, &states(ground, up), &start.id, packet)
}

fn nodes(hops: &[Hop]) -> Vec<&str> {
    hops.iter().map(|hop| hop.node.as_str()).collect()
}

#[test]
fn a_packet_to_a_service_of_the_own_site_meets_one_node() {
    let ground = ground("two-sites");
    let up = all_links(World { fabric: &ground.0, catalog: &ground.1 });
    let hops = walk(&ground, "10.1.40.2", "10.99.0.10", &up);
    assert_eq!(nodes(&hops), ["osl-r1"]);
    assert_eq!(hops[0].fate, Fate::Delivered);
    assert_eq!((hops[0].guard.counter, hops[0].guard.passes), ("local", true));
    let (route, _) = hops[0].route.expect("a route");
    assert_eq!(route.table, Layout::default().table_svc);
}

#[test]
fn a_packet_to_a_service_of_the_other_site_is_followed_to_its_backend() {
    let ground = ground("two-sites");
    let up = all_links(World { fabric: &ground.0, catalog: &ground.1 });
    for (from, to) in [("10.2.40.2", "10.99.0.10"), ("fd00:b:40::2", "fd00:99::10")] {
        let hops = walk(&ground, from, to, &up);
        assert_eq!(nodes(&hops), ["svg-r1", "svg-b1", "osl-b1", "osl-r1"]);
        let counted: Vec<&str> = hops.iter().map(|hop| hop.guard.counter).collect();
        assert_eq!(counted, ["steered", "steered", "arrived", "arrived"]);
        assert_eq!(hops[2].packet.interface.as_deref(), Some("wan0"));
        assert_eq!(hops[2].packet.mark, 0x2001, "the first link marks what comes over it");
        assert_eq!(hops[3].fate, Fate::Delivered);
    }
}

#[test]
fn without_links_the_border_is_where_it_ends() {
    let ground = ground("two-sites");
    let hops = walk(&ground, "10.2.40.2", "10.99.0.10", &LinksUp::default());
    assert_eq!(nodes(&hops), ["svg-r1", "svg-b1"]);
    assert_eq!(hops[1].fate, Fate::Unreachable);
    let hops = walk(&ground, "10.2.40.2", "192.0.2.10", &LinksUp::default());
    assert_eq!(hops.last().map(|hop| hop.fate.clone()), Some(Fate::Unreachable));
}

#[test]
fn what_is_no_part_of_the_fabric_is_for_the_main_table() {
    let ground = ground("two-sites");
    let up = all_links(World { fabric: &ground.0, catalog: &ground.1 });
    let hops = walk(&ground, "10.1.40.2", "192.0.32.8", &up);
    assert_eq!(hops[0].fate, Fate::Main);
    let hops = walk(&ground, "10.1.40.2", "10.1.20.2", &up);
    assert_eq!((nodes(&hops), &hops[0].fate), (vec!["osl-r1"], &Fate::Delivered));
}

fn lose(name: &str, what: &str) -> Outcome {
    let (fabric, catalog) = ground(name);
    let world = World { fabric: &fabric, catalog: &catalog };
    let up: BTreeSet<_> = fabric.links.iter().map(|l| l.id.clone()).collect();
    let lost: Lost = what.parse().expect("a loss");
    simulate(world, &Intent::default(), &up, &Layout::default(), &lost).expect("it is there")
}

#[test]
fn one_link_of_two_narrows_the_way_and_stops_nothing() {
    let outcome = lose("two-sites", "link:osl-svg-1");
    assert!(outcome.services.is_empty(), "{:?}", outcome.services);
    let pair = &outcome.pairs[0];
    assert_eq!(pair.before, Ways { links: 2, bps: 11_000_000_000 });
    assert_eq!(pair.after, Ways { links: 1, bps: 1_000_000_000 });
    let said = outcome.findings.join("\n");
    assert!(said.contains("one link left") && said.contains("9 % of their capacity"), "{said}");
    let repaired: Vec<&str> = outcome.repairs.keys().map(|n| n.as_str()).collect();
    assert_eq!(repaired, ["osl-b1", "svg-b1"]);
    assert_eq!(lose("two-sites", "risk:duct-7").links_lost, outcome.links_lost);
}

#[test]
fn a_site_that_is_lost_stops_what_it_serves_until_somebody_moves_it() {
    let outcome = lose("two-sites", "site:osl");
    let api = outcome.services.iter().find(|s| s.service.as_str() == "shop/prod/api");
    let api = api.expect("it is served at osl");
    assert_eq!(api.stops_at.iter().map(|s| s.as_str()).collect::<Vec<_>>(), ["osl"]);
    assert_eq!(api.next.as_ref().map(|s| s.as_str()), Some("svg"));
    assert!(outcome.findings.iter().any(|f| f.contains("would stop until somebody moves them")));
}

#[test]
fn the_only_border_of_a_site_takes_it_along_and_one_of_two_does_not() {
    let services = |outcome: Outcome| outcome.services.len();
    assert!(services(lose("two-sites", "node:osl-b1")) > 0);
    let outcome = lose("pairs", "node:osl-b1");
    assert!(outcome.services.is_empty(), "{:?}", outcome.services);
    assert!(outcome.findings.iter().any(|f| f == "osl would have 1 of 2 borders"));
    assert!(outcome.repairs.contains_key(&"osl-r1".parse().expect("an id")));
}

#[test]
fn names_that_say_nothing_are_refused() {
    for text in ["osl", "site:", "planet:mars", "risk:", "link:A B"] {
        assert!(text.parse::<Lost>().is_err(), "{text}");
    }
    let (fabric, catalog) = ground("two-sites");
    let world = World { fabric: &fabric, catalog: &catalog };
    let lost: Lost = "site:ber".parse().expect("a name");
    let outcome = simulate(world, &Intent::default(), &BTreeSet::new(), &Layout::default(), &lost);
    assert_eq!(outcome.expect_err("no such site").to_string(), "the fabric has no site:ber");
}
