//! Which of several borders, route nodes and links are used, by what is known of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nett_policy::document::{SourceFile, compile};
use nett_policy::fabric::{Fabric, Family, Role};
use nett_policy::id::{LinkId, NodeId};
use nett_policy::log::intent::{Intent, World};
use nett_policy::lower::object::{Layout, Mac, Nexthop, NodeState, RouteTarget, Table};
use nett_policy::lower::{LinksUp, Neighbours, Place, lower};
use nett_policy::place::{Drained, place};
use nett_policy::service::Catalog;

/// What a node has before it, all of it well.
struct Scene {
    fabric: Fabric,
    catalog: Catalog,
    links: LinksUp,
    neighbours: Neighbours,
    drained: Drained,
}

impl Scene {
    fn pairs() -> Self {
        let file = |name: &str| {
            let text = nett_fixtures::fabric_file("pairs", name).expect("a fixture");
            SourceFile::new(text.name, text.text)
        };
        let (fabric, catalog) =
            compile(&file("fabric.toml"), &file("services.toml")).expect("the fixture is valid");
        let links = fabric.links.iter().map(|l| l.id.clone()).collect();
        let (neighbours, drained) = (Neighbours::default(), Drained::default());
        Self { fabric, catalog, links, neighbours, drained }
    }

    fn state(&self, node: &str) -> NodeState {
        let world = World { fabric: &self.fabric, catalog: &self.catalog };
        let mut placement = place(world, &Intent::default());
        placement.drained = self.drained.clone();
        let node = self.fabric.node(&id(node)).expect("a node");
        let Self { links: links_up, neighbours, .. } = self;
        let layout = &Layout::default();
        lower(Place { world, layout, node, links_up, neighbours }, &placement)
    }

    /// The gateways that a node uses to the other site's 10.2.0.0/16.
    fn remote(&self, node: &str) -> BTreeSet<String> {
        ways(&self.state(node), Layout::default().table_xs, "10.2.0.0/16")
    }

    /// The gateways that a border delivers the VIP of a service of its own site to.
    fn local(&self, node: &str) -> BTreeSet<String> {
        ways(&self.state(node), Layout::default().table_in, "10.99.0.10/32")
    }

    fn only_links(&mut self, links: &[&str]) {
        let id = |l: &&str| l.parse::<LinkId>().expect("an id");
        self.links = links.iter().map(id).collect();
    }
}

fn id(text: &str) -> NodeId {
    text.parse().expect("an id")
}

/// The gateways of a route's group; `unreachable` when it is none.
fn ways(state: &NodeState, table: Table, destination: &str) -> BTreeSet<String> {
    let to: ipnet::IpNet = destination.parse().expect("a prefix");
    let active = Layout::METRIC_ACTIVE;
    let mut routes = state.routes.iter().filter(|(key, _)| key.table == table);
    let found = routes.find(|(key, _)| key.destination == to && key.metric == active);
    let Some((_, RouteTarget::Nexthop(group))) = found else { return set(&["unreachable"]) };
    let gateway = |id| match &state.nexthops[id] {
        Nexthop::Single { gateway, .. } => gateway.to_string(),
        Nexthop::Group { .. } => panic!("a group in a group"),
        Nexthop::Blackhole { .. } => "blackhole".to_owned(),
    };
    match &state.nexthops[group] {
        Nexthop::Single { .. } | Nexthop::Blackhole { .. } => BTreeSet::from([gateway(group)]),
        Nexthop::Group { members, .. } => members.keys().map(gateway).collect(),
    }
}

fn set(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|s| (*s).to_owned()).collect()
}

const B1: &str = "10.1.1.2";
const B2: &str = "10.1.1.4";

#[test]
fn all_that_are_well_share() {
    let scene = Scene::pairs();
    assert_eq!(scene.remote("osl-r1"), set(&[B1, B2]));
    assert_eq!(scene.local("osl-b1"), set(&["10.1.1.3", "10.1.1.5"]));
    assert_eq!(scene.remote("osl-b1"), set(&["172.31.0.2"]), "the cheaper one of its two links");
}

#[test]
fn who_is_silent_is_left_unless_all_are() {
    let mut scene = Scene::pairs();
    scene.neighbours.entry(id("osl-b1")).silent = true;
    scene.neighbours.entry(id("osl-r2")).silent = true;
    assert_eq!(scene.remote("osl-r1"), set(&[B2]));
    assert_eq!(scene.local("osl-b2"), set(&["10.1.1.3"]));
    scene.neighbours.entry(id("osl-b2")).silent = true;
    assert_eq!(scene.remote("osl-r1"), set(&[B1, B2]), "the last one is never withdrawn");
}

#[test]
fn a_border_without_links_is_left_unless_none_has_any() {
    let mut scene = Scene::pairs();
    scene.neighbours.entry(id("osl-b1")).links = Some(BTreeSet::new());
    assert_eq!(scene.remote("osl-r1"), set(&[B2]));
    scene.neighbours.entry(id("osl-b2")).links = Some(BTreeSet::new());
    assert_eq!(scene.remote("osl-r1"), set(&[B1, B2]));
}

#[test]
fn a_border_whose_best_link_costs_more_is_the_second_choice() {
    let mut scene = Scene::pairs();
    let dear = BTreeSet::from(["osl-svg-3".parse().expect("an id")]);
    scene.neighbours.entry(id("osl-b1")).links = Some(dear);
    assert_eq!(scene.remote("osl-r1"), set(&[B2]));
    scene.neighbours.entry(id("osl-b2")).links = Some(BTreeSet::new());
    assert_eq!(scene.remote("osl-r1"), set(&[B1]));
}

#[test]
fn a_border_never_sends_to_the_other_border() {
    let mut scene = Scene::pairs();
    scene.only_links(&["osl-svg-2", "osl-svg-4"]);
    assert_eq!(scene.remote("osl-b1"), set(&["unreachable"]));
    let others = [B2, "fd00:a:1::4"].map(|a| a.parse::<IpAddr>().expect("an address"));
    let state = scene.state("osl-b1");
    let to_other = state.nexthops.values().filter(|nexthop| match nexthop {
        Nexthop::Single { gateway, .. } => others.contains(gateway),
        Nexthop::Group { .. } | Nexthop::Blackhole { .. } => false,
    });
    assert_eq!(to_other.count(), 0);
}

#[test]
fn what_is_drained_is_used_when_nothing_else_is_left() {
    let mut scene = Scene::pairs();
    scene.drained.links.insert("osl-svg-1".parse().expect("an id"));
    assert_eq!(scene.remote("osl-b1"), set(&["172.31.0.10"]), "the dearer one instead");
    assert_eq!(scene.remote("osl-r1"), set(&[B2]), "whose best link costs less now");
    scene.only_links(&["osl-svg-1"]);
    assert_eq!(scene.remote("osl-b1"), set(&["172.31.0.2"]), "rather than nothing");
}

/// A far agent that is dead looks like a dead link, and its link works.
#[test]
fn a_doubted_link_comes_behind_all_others_and_before_nothing() {
    let mut scene = Scene::pairs();
    let link = |name: &str| name.parse::<LinkId>().expect("an id");
    scene.links.doubt(link("osl-svg-1"), Family::V4);
    assert_eq!(scene.remote("osl-b1"), set(&["172.31.0.10"]), "the dearer one instead");
    scene.drained.links.insert(link("osl-svg-3"));
    assert_eq!(scene.remote("osl-b1"), set(&["172.31.0.10"]), "even if it is drained");
    let back = ways(&scene.state("osl-b1"), Layout::default().table_return(1), "0.0.0.0/0");
    assert_eq!(back, set(&["172.31.0.2"]), "what came over it goes back over it");
    scene.links.doubt(link("osl-svg-3"), Family::V4);
    scene.drained = Drained::default();
    assert_eq!(scene.remote("osl-b1"), set(&["172.31.0.2"]), "the cheaper of those in doubt");
    scene.only_links(&[]);
    scene.links.doubt(link("osl-svg-3"), Family::V4);
    assert_eq!(scene.remote("osl-b1"), set(&["172.31.0.10"]), "rather than nothing");
    assert!(scene.links.may_carry(&link("osl-svg-3")) && !scene.links.contains(&link("osl-svg-3")));
    assert!(!scene.links.may_carry(&link("osl-svg-1")));
}

#[test]
fn a_border_whose_links_are_doubted_comes_before_one_without_links() {
    let mut scene = Scene::pairs();
    let doubted = BTreeSet::from(["osl-svg-1".parse().expect("an id")]);
    let none = Some(BTreeSet::new());
    let b1 = scene.neighbours.entry(id("osl-b1"));
    (b1.links, b1.doubted) = (none.clone(), doubted);
    assert_eq!(scene.remote("osl-r1"), set(&[B2]));
    scene.neighbours.entry(id("osl-b2")).links = none;
    assert_eq!(scene.remote("osl-r1"), set(&[B1]));
}

#[test]
fn a_border_whose_links_lack_a_family_comes_after_a_whole_one_and_before_a_drained_one() {
    let mut scene = Scene::pairs();
    let links = ["osl-svg-1", "osl-svg-3"].map(|id| id.parse().expect("an id"));
    let b1 = scene.neighbours.entry(id("osl-b1"));
    (b1.links, b1.doubted) = (Some(BTreeSet::from(links.clone())), BTreeSet::from(links));
    assert_eq!(scene.remote("osl-r1"), set(&[B2]));
    scene.drained.nodes.insert(id("osl-b2"));
    assert_eq!(scene.remote("osl-r1"), set(&[B1]));
    scene.neighbours.entry(id("osl-b1")).links = Some(BTreeSet::new());
    assert_eq!(scene.remote("osl-r1"), set(&[B2]), "what carries nothing for certain is the last");
}

#[test]
fn a_drained_border_is_left_at_both_sites_and_goes_on_itself() {
    let mut scene = Scene::pairs();
    scene.drained.nodes.insert(id("svg-b1"));
    assert_eq!(scene.remote("osl-b1"), set(&["172.31.0.10"]), "its link to the other border");
    assert_eq!(scene.remote("osl-r1"), set(&[B2]), "whose best link costs less now");
    scene.drained.nodes = BTreeSet::from([id("osl-b1")]);
    assert_eq!(scene.remote("osl-r1"), set(&[B2]));
    assert_eq!(scene.remote("osl-b1"), set(&["172.31.0.2"]), "what still arrives is carried on");
    scene.drained.nodes = BTreeSet::from([id("osl-r1")]);
    assert_eq!(scene.local("osl-b1"), set(&["10.1.1.5"]));
}

#[test]
fn a_route_node_knows_borders_by_their_ethernet_addresses() {
    let mut scene = Scene::pairs();
    let marks = |scene: &Scene| scene.state("osl-r1").guard.expect("a guard").marks;
    assert!(marks(&scene).is_empty(), "nothing is marked by guessing");
    scene.neighbours.entry(id("osl-b2")).mac = Some(Mac([2, 0, 0, 0, 0, 9]));
    let marks = marks(&scene);
    let seen: Vec<_> = marks.iter().map(|m| (m.index, m.source)).collect();
    assert_eq!(seen, [(5, Some(Mac([2, 0, 0, 0, 0, 9])))]);
}

#[test]
fn answers_take_another_border_while_theirs_is_silent() {
    let mut scene = Scene::pairs();
    let back = |scene: &Scene| {
        let state = scene.state("osl-r1");
        ways(&state, Layout::default().table_return(1), "0.0.0.0/0")
    };
    assert_eq!(back(&scene), set(&[B1]));
    scene.neighbours.entry(id("osl-b1")).silent = true;
    assert_eq!(back(&scene), set(&[B2]));
    scene.neighbours.entry(id("osl-b2")).silent = true;
    assert_eq!(back(&scene), set(&[B1]));
}

/// The backends of one service at osl that is in two clusters, as a route node delivers it.
#[test]
fn a_drained_cluster_is_used_where_nothing_else_is_left() {
    let mut scene = Scene::pairs();
    let web: nett_policy::id::ServiceId = "shop/prod/web".parse().expect("an id");
    let mut services: Vec<_> = scene.catalog.iter().cloned().collect();
    let service = services.iter_mut().find(|s| s.id == web).expect("the fixture has it");
    let backends = std::sync::Arc::make_mut(&mut service.backends);
    let osl: nett_policy::id::SiteId = "osl".parse().expect("an id");
    let k2: nett_policy::id::ClusterId = "osl/k2".parse().expect("an id");
    let here = backends.get_mut(&osl).expect("it has some there");
    here[1].cluster = Some(k2.clone());
    let [first, second] = [&here[0], &here[1]].map(|backend| backend.address.to_string());
    let k1 = here[0].cluster.clone().expect("the fixture says so");
    scene.catalog = Catalog::new(services);
    let delivered = |scene: &Scene| {
        let vip = "10.99.0.30/32";
        ways(&scene.state("osl-r1"), Layout::default().table_svc, vip)
    };
    assert_eq!(delivered(&scene), set(&[&first, &second]));
    scene.drained.clusters.insert(k1);
    assert_eq!(delivered(&scene), set(&[&second]));
    scene.drained.clusters.insert(k2);
    assert_eq!(delivered(&scene), set(&[&first, &second]), "it is a preference, and no wall");
    scene.drained.clusters.pop_first();
    assert_eq!(delivered(&scene), set(&[&first]));
}

/// The guard holds VIPs back from every other interface.
#[test]
fn every_way_of_a_node_is_one_by_which_its_guard_lets_vips_leave() {
    let mut scene = Scene::pairs();
    for nobody_delivers in [false, true] {
        if nobody_delivers {
            // Sites without route nodes: their borders deliver.
            scene.fabric.nodes.retain(|node| node.role == Role::Border);
        }
        for node in &scene.fabric.nodes {
            let state = scene.state(node.id.as_str());
            let guard = state.guard.as_ref().expect("every node has one");
            let by = state.nexthops.values().filter_map(|nexthop| match nexthop {
                Nexthop::Single { interface, .. } => Some(interface.clone()),
                Nexthop::Group { .. } | Nexthop::Blackhole { .. } => None,
            });
            let by: BTreeSet<String> = by.collect();
            assert!(by.len() > 1, "{}: {by:?}", node.id);
            assert!(by.is_subset(&guard.ways), "{}: {by:?} in {:?}", node.id, guard.ways);
            assert!(guard.outer.is_subset(&guard.ways), "{}", node.id);
        }
    }
}
