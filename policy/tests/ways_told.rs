//! What is said of ways: of a packet's, hop by hop, and of what would follow from a loss.

use std::collections::{BTreeMap, BTreeSet};

use nett_policy::document::{SourceFile, compile};
use nett_policy::explain::{Fate, Hop, Packet, entry, path};
use nett_policy::fabric::{Fabric, Family};
use nett_policy::log::intent::{Intent, World};
use nett_policy::lower::object::{Layout, NexthopId, NodeState};
use nett_policy::lower::{LinksUp, Neighbours, Place, all_links, lower};
use nett_policy::place::place;
use nett_policy::service::Catalog;
use nett_policy::simulate::{Lost, Outcome, Ways, simulate};

fn ground(name: &str) -> (Fabric, Catalog) {
    with(name, "")
}

/// The fixture with more lines in its fabric file.
fn with(name: &str, lines: &str) -> (Fabric, Catalog) {
    let file = |file: &str| {
        let text = nett_fixtures::fabric_file(name, file).expect("a fixture");
        let more = if file == "fabric.toml" { lines } else { "" };
        SourceFile::new(text.name, text.text + more)
    };
    compile(&file("fabric.toml"), &file("services.toml")).expect("the fixture is valid")
}

const THROUGH_SVG: &str = "\n[[transit]]\nvia = \"svg\"\nbetween = [\"osl\", \"trd\"]\n";

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
    let packet = Packet {
        from,
        to,
        interface: Some(start.core.clone()),
        mark: 0,
        sender: None,
        went_through: false,
    };
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

/// pay is at trd, whose link to osl is gone.
#[test]
fn a_way_through_another_site_is_told_hop_by_hop() {
    let without = |ground: &(Fabric, Catalog)| -> LinksUp {
        let links = ground.0.links.iter().map(|l| l.id.clone());
        links.filter(|link| link.as_str() != "osl-trd-1").collect()
    };
    let allowed = with("three-sites", THROUGH_SVG);
    for to in ["10.99.0.20", "fd00:99::20", "10.3.40.2", "fd00:c:40::2"] {
        let from = if to.contains(':') { "fd00:a:40::2" } else { "10.1.40.2" };
        let hops = walk(&allowed, from, to, &without(&allowed));
        let way = ["osl-r1", "osl-b1", "svg-b1", "trd-b1", "trd-r1"];
        let counted: Vec<&str> = hops.iter().map(|hop| hop.guard.counter).collect();
        // A host is behind the route node of its site by the site's own routing.
        let through = &way[..counted.len()];
        assert_eq!(
            (nodes(&hops).as_slice(), counted[2]),
            (through, "transit"),
            "{to}: {counted:?}"
        );
        assert_eq!(hops.last().map(|hop| &hop.fate), Some(&Fate::Delivered), "{to}");
    }
    let refused = ground("three-sites");
    let hops = walk(&refused, "10.1.40.2", "10.99.0.20", &without(&refused));
    assert_eq!(
        (nodes(&hops).as_slice(), &hops[1].fate),
        (&["osl-r1", "osl-b1"][..], &Fate::Unreachable)
    );
    let stays = walk(&allowed, "10.1.40.2", "10.99.0.40", &without(&allowed));
    assert_eq!(stays.last().map(|hop| &hop.fate), Some(&Fate::Unreachable), "by its residency");
}

#[test]
fn a_cut_that_others_make_good_is_foretold() {
    let cut_off = |lines: &str, what: &str| {
        let ground = with("three-sites", lines);
        let outcome = lose_of(&ground, what);
        let cut = outcome.services.iter().filter(|s| !s.cut_off.is_empty());
        let cut: Vec<String> = cut.map(|s| s.service.to_string()).collect();
        (cut, outcome.findings.join("\n"))
    };
    let (cut, said) = cut_off("", "link:osl-trd-1");
    assert_eq!(cut, ["shop/prod/api", "shop/prod/pay", "tax/prod/register"]);
    assert!(
        said.contains("osl and trd would have no link left") && !said.contains("svg"),
        "{said}"
    );
    let (cut, said) = cut_off(THROUGH_SVG, "link:osl-trd-1");
    assert_eq!(cut, ["tax/prod/register"], "which may not leave its country");
    assert!(said.contains("osl and trd would have no link left, and go through svg"), "{said}");
    let (cut, _) = cut_off(THROUGH_SVG, "node:svg-b1");
    assert_eq!(cut, [""; 0], "the direct link is there");
}

/// Each family goes its own way, and needs it on both halves.
#[test]
fn what_lacks_a_family_on_one_half_does_not_go_through() {
    let cut_off = |families: [Family; 2]| {
        let (mut fabric, catalog) = with("three-sites", THROUGH_SVG);
        for (name, family) in ["osl-svg", "svg-trd"].into_iter().zip(families) {
            let links = fabric.links.iter_mut().filter(|link| link.id.as_str().starts_with(name));
            for end in links.flat_map(|link| [&mut link.a, &mut link.b]) {
                end.addresses.retain(|net| Family::of_net(*net) == family);
            }
        }
        let outcome = lose_of(&(fabric, catalog), "link:osl-trd-1");
        let cut = outcome.services.iter().filter(|s| !s.cut_off.is_empty()).count();
        (cut, outcome.findings.join("\n"))
    };
    let (cut, said) = cut_off([Family::V4, Family::V4]);
    assert_eq!(cut, 3, "each has a VIP of IPv6");
    assert!(said.contains("no link left, and go through svg with IPv4 alone"), "{said}");
    let (cut, said) = cut_off([Family::V4, Family::V6]);
    assert!(cut == 3 && said.contains("no link left") && !said.contains("through"), "{said}");
}

fn lose(name: &str, what: &str) -> Outcome {
    lose_of(&ground(name), what)
}

fn lose_of((fabric, catalog): &(Fabric, Catalog), what: &str) -> Outcome {
    let world = World { fabric, catalog };
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

/// What a report says of a link is of both families; that one is lacking is told as doubt.
#[test]
fn a_way_through_that_lacks_a_family_is_no_better_than_a_drained_link() {
    let group = |lines: &str, doubted: &[&str]| {
        let (fabric, catalog) = with("three-sites", lines);
        let world = World { fabric: &fabric, catalog: &catalog };
        let up = all_links(world);
        let mut placement = place(world, &Intent::default());
        placement.drained.links.insert("osl-trd-1".parse().expect("an id"));
        let mut neighbours = Neighbours::default();
        let beyond = neighbours.entry("svg-b1".parse().expect("an id"));
        let links = ["osl-svg-1", "osl-svg-2", "svg-trd-1"].map(|id| id.parse().expect("an id"));
        beyond.links = Some(BTreeSet::from(links));
        beyond.doubted = doubted.iter().map(|id| id.parse().expect("an id")).collect();
        let node = fabric.nodes.iter().find(|node| node.id.as_str() == "osl-b1").expect("a node");
        let (layout, neighbours) = (&Layout::default(), &neighbours);
        let state = lower(Place { world, layout, node, links_up: &up, neighbours }, &placement);
        Family::BOTH.map(|family| state.nexthops[&NexthopId::site(2, family)].clone())
    };
    let direct = group("", &[]);
    assert_ne!(group(THROUGH_SVG, &[]), direct, "a way through goes before a drained link");
    assert_eq!(group(THROUGH_SVG, &["svg-trd-1"]), direct);
}
