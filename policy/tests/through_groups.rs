//! Where a site lets traffic through: which groups have another number because of it, what a group
//! whose flows stay has room for, and by which interfaces it comes and goes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use nett_policy::document::{SourceFile, compile};
use nett_policy::fabric::{Fabric, Family, Transit};
use nett_policy::id::{NodeId, ServiceId, SiteId};
use nett_policy::log::intent::{Intent, World};
use nett_policy::lower::object::{Layout, Nexthop, NexthopId, NodeState, RouteTarget};
use nett_policy::lower::resilient::wanted;
use nett_policy::lower::{LinksUp, Neighbours, Place, all_links, lower};
use nett_policy::place::{Placement, place};
use nett_policy::service::{Catalog, Mode, Resilient, Service, Shift, Standby};
use nett_policy::traffic::{Spread, Traffic};

/// Stays in its country, of which svg is not.
const REGISTER: &str = "tax/prod/register";
const PAY: &str = "shop/prod/pay";
const NODES: [&str; 6] = ["osl-b1", "osl-r1", "svg-b1", "svg-r1", "trd-b1", "trd-r1"];

struct Scene {
    fabric: Fabric,
    services: Vec<Service>,
}

fn id<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a valid id")
}

impl Scene {
    fn new() -> Self {
        let file = |name: &str| {
            let text = nett_fixtures::fabric_file("three-sites", name).expect("a fixture");
            SourceFile::new(text.name, text.text)
        };
        let (fabric, catalog) =
            compile(&file("fabric.toml"), &file("services.toml")).expect("the fixture is valid");
        Self { fabric, services: catalog.iter().cloned().collect() }
    }

    /// One site lets the traffic of the two others through.
    fn through(mut self, via: &str, between: [&str; 2]) -> Self {
        self.fabric.transits = vec![Transit { via: id(via), between: between.map(id) }];
        self
    }

    fn service(&mut self, name: &str) -> &mut Service {
        let name: ServiceId = id(name);
        self.services.iter_mut().find(|s| s.id == name).expect("the fixture has it")
    }

    fn state(&self, node: &str, links: Option<LinksUp>, change: fn(&mut Placement)) -> NodeState {
        let (fabric, catalog) = (&self.fabric, &Catalog::new(self.services.clone()));
        let world = World { fabric, catalog };
        let mut placement = place(world, &Intent::default());
        change(&mut placement);
        let node = fabric.node(&id::<NodeId>(node)).expect("a node");
        let links_up = &links.unwrap_or_else(|| all_links(world));
        let (layout, neighbours) = (&Layout::default(), &Neighbours::default());
        lower(Place { world, layout, node, links_up, neighbours }, &placement)
    }

    /// The groups that a service's routes lead to, for each table and VIP.
    fn groups(&self, node: &str, service: &str) -> BTreeMap<String, RouteTarget> {
        let service = self.services.iter().find(|s| s.id.as_str() == service).expect("defined");
        let vips: Vec<IpAddr> = Family::BOTH.iter().flat_map(|f| service.vips(*f)).collect();
        let state = self.state(node, None, |_| {});
        let own = state.routes.iter().filter(|(key, _)| vips.contains(&key.destination.addr()));
        own.map(|(key, target)| (key.to_string(), *target)).collect()
    }
}

/// osl is in another country, and the service at trd alone.
fn abroad() -> Scene {
    let mut scene = Scene::new();
    scene.fabric.sites[0].region = Some("dk".to_owned());
    scene.service(REGISTER).mode = Mode::ActivePassive { primary: id("trd"), standby: vec![] };
    scene
}

/// The same, with the service in that country.
fn at_home() -> Scene {
    let mut scene = abroad();
    scene.service(REGISTER).mode = Mode::ActivePassive { primary: id("osl"), standby: vec![] };
    scene.service(REGISTER).residency = vec!["dk".to_owned()];
    scene
}

#[test]
fn a_group_whose_flows_stay_keeps_its_number_when_a_site_lets_others_through() {
    let scene = || {
        let mut scene = Scene::new();
        scene.service(REGISTER).shift = Shift::Resilient(Resilient::USUAL);
        scene
    };
    let (before, after) = (scene(), scene().through("svg", ["osl", "trd"]));
    for node in NODES {
        let groups = before.groups(node, REGISTER);
        assert!(!groups.is_empty(), "{node}");
        assert_eq!(after.groups(node, REGISTER), groups, "{node}");
    }
}

/// A class has another number where its services have fewer ways than others, and nowhere else.
#[test]
fn a_class_is_apart_only_where_its_ways_are() {
    let renamed = |scene: fn() -> Scene, via: &str, between: [&str; 2]| {
        let (before, after) = (scene(), scene().through(via, between));
        let other = |node: &&str| before.groups(node, REGISTER) != after.groups(node, REGISTER);
        NODES.into_iter().filter(other).collect::<Vec<_>>()
    };
    let ends = ["osl-b1", "osl-r1", "svg-b1", "trd-b1", "trd-r1"];
    assert_eq!(renamed(Scene::new, "svg", ["osl", "trd"]), ends);
    // Of the two ends trd sends the service nowhere, and osl-r1 is at neither.
    assert_eq!(renamed(abroad, "osl", ["svg", "trd"]), ["osl-b1", "svg-b1", "svg-r1"]);
    assert_eq!(renamed(at_home, "osl", ["svg", "trd"]), [""; 0], "it may go through");
    let others = ["shop/prod/api", PAY, "shop/prod/web"];
    let (before, after) = (Scene::new(), Scene::new().through("svg", ["osl", "trd"]));
    for (node, service) in NODES.iter().flat_map(|node| others.map(|service| (node, service))) {
        // The border in between has routes for what goes through besides.
        let mut now = after.groups(node, service);
        let was = before.groups(node, service);
        now.retain(|key, _| was.contains_key(key));
        assert_eq!(now, was, "{node}: {service}");
    }
}

/// Two links to the site in between are two members that no bucket is meant for, where the direct
/// link would have been one.
#[test]
fn no_bucket_leads_through_another_site_to_one_that_is_left() {
    let mut scene = Scene::new().through("svg", ["osl", "trd"]);
    for link in &mut scene.fabric.links {
        link.cost = 10;
    }
    let pay = scene.service(PAY);
    pay.mode = Mode::ActivePassive {
        primary: id("trd"),
        standby: vec![Standby { site: id("osl"), min_healthy: 1 }],
    };
    pay.shift = Shift::Resilient(Resilient { buckets: 1024, ..Resilient::USUAL });
    let to_osl = |placement: &mut Placement| {
        let placed = placement.services.get_mut(&id::<ServiceId>(PAY)).expect("defined");
        let spread = Spread::one(id("osl"));
        let accept = ["osl", "trd"].map(id::<SiteId>).into();
        placed.traffic = Arc::new(Traffic { answers: spread.clone(), spread, accept });
    };
    let links = scene.fabric.links.iter().map(|link| link.id.clone());
    let others: LinksUp = links.filter(|link| link.as_str() != "osl-trd-1").collect();
    for up in [None, Some(others)] {
        let direct = up.is_none();
        let state = scene.state("osl-b1", up, to_osl);
        for (vip, family) in [("10.99.0.20/32", Family::V4), ("fd00:99::20/128", Family::V6)] {
            let (table, to) = (Layout::default().table_svc, id::<ipnet::IpNet>(vip));
            let mut routes = state.routes.iter().filter(|(key, _)| key.table == table);
            let found = routes.find(|(key, _)| key.destination == to);
            let Some((_, RouteTarget::Nexthop(group))) = found else { panic!("no way to {vip}") };
            let Nexthop::Group { members, buckets: Some(buckets), .. } = &state.nexthops[group]
            else {
                panic!("{group} has no buckets")
            };
            let over = |index: u8| NexthopId::link(index, family);
            let left: Vec<NexthopId> = match direct {
                true => vec![over(3)],
                false => vec![over(1), over(2)],
            };
            let meant = wanted(members, buckets.count);
            let outside = meant.keys().filter(|id| (1..=4).any(|index| over(index) == **id));
            assert_eq!(outside.copied().collect::<Vec<_>>(), left, "{vip}");
            assert_eq!(left.iter().map(|id| meant[id]).sum::<u32>(), 0, "{vip}: {meant:?}");
        }
    }
}

#[test]
fn a_border_in_between_knows_by_which_interfaces_packets_come_and_go_on() {
    let through = Scene::new().through("svg", ["osl", "trd"]).fabric;
    let of = |node: &str| through.through_interfaces(through.node(&id(node)).expect("a node"));
    assert_eq!(of("svg-b1"), ["wan0", "wan1", "wan3"]);
    for node in ["osl-b1", "trd-b1", "svg-r1"] {
        assert_eq!(of(node), [""; 0], "{node}");
    }
}
