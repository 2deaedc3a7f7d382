//! Where a site lets traffic through: what a group whose flows stay has room for.

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

const PAY: &str = "shop/prod/pay";

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
