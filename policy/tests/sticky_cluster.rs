//! A cluster on its way out of service or back, at the nodes that hand to its backends: members
//! without buckets where flows stay, and in the same groups as before and after.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nett_policy::document::{SourceFile, compile};
use nett_policy::fabric::{Fabric, Role};
use nett_policy::id::{ClusterId, NodeId, ServiceId, SiteId, Weight};
use nett_policy::log::intent::{Intent, World};
use nett_policy::lower::object::{
    Buckets, Layout, Nexthop, NexthopId, NodeState, RouteTarget, Table,
};
use nett_policy::lower::resilient::{backends_in, left_over, wanted};
use nett_policy::lower::{Neighbours, Place, all_links, lower};
use nett_policy::place::{Drained, place};
use nett_policy::plan::{Op, plan};
use nett_policy::service::{Catalog, Resilient, Shift};

const WEB: &str = "shop/prod/web";
const VIP: &str = "10.99.0.30/32";
const FIRST: &str = "10.1.20.4";
const SECOND: &str = "10.1.20.5";

struct Scene {
    fabric: Fabric,
    catalog: Catalog,
    drained: Drained,
}

/// What a route leads to: its id, its buckets, and for each gateway how many buckets are meant for
/// it, or its weight in an ordinary group.
#[derive(Debug, PartialEq, Eq)]
struct Way {
    id: NexthopId,
    buckets: Option<Buckets>,
    parts: BTreeMap<String, u32>,
}

fn id<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a valid id")
}

impl Scene {
    /// The service has a backend in each of two clusters at osl.
    fn of(shift: Shift) -> Self {
        let file = |name: &str| {
            let text = nett_fixtures::fabric_file("pairs", name).expect("a fixture");
            SourceFile::new(text.name, text.text)
        };
        let (fabric, catalog) =
            compile(&file("fabric.toml"), &file("services.toml")).expect("the fixture is valid");
        let mut services: Vec<_> = catalog.iter().cloned().collect();
        let web: ServiceId = id(WEB);
        let service = services.iter_mut().find(|s| s.id == web).expect("the fixture has it");
        service.shift = shift;
        let backends = Arc::make_mut(&mut service.backends);
        let here = backends.get_mut(&id::<SiteId>("osl")).expect("it has some there");
        for backend in here {
            backend.weight = Weight::ONE;
            if backend.address.to_string() == SECOND {
                backend.cluster = Some(id("osl/k2"));
            }
        }
        Self { fabric, catalog: Catalog::new(services), drained: Drained::default() }
    }

    fn resilient() -> Self {
        Self::of(Shift::Resilient(Resilient::USUAL))
    }

    fn state(&self, node: &str) -> NodeState {
        let world = World { fabric: &self.fabric, catalog: &self.catalog };
        let mut placement = place(world, &Intent::default());
        placement.drained = self.drained.clone();
        let node = self.fabric.node(&id::<NodeId>(node)).expect("a node");
        let (layout, links_up) = (&Layout::default(), &all_links(world));
        let neighbours = &Neighbours::default();
        lower(Place { world, layout, node, links_up, neighbours }, &placement)
    }

    /// Where the VIP leads at a node, for what comes from inside and from outside.
    fn ways(&self, node: &str) -> [Way; 2] {
        let state = self.state(node);
        let layout = Layout::default();
        [layout.table_svc, layout.table_in].map(|table| way(&state, table))
    }

    fn drain(&mut self, cluster: &str, easing: bool) {
        self.drained.clusters.insert(id(cluster));
        match easing {
            true => self.drained.easing.insert(id(cluster)),
            false => self.drained.easing.remove(&id::<ClusterId>(cluster)),
        };
    }
}

fn way(state: &NodeState, table: Table) -> Way {
    let to: ipnet::IpNet = VIP.parse().expect("a prefix");
    let mut routes = state.routes.iter().filter(|(key, _)| key.table == table);
    let found = routes.find(|(key, _)| key.destination == to);
    let Some((_, RouteTarget::Nexthop(id))) = found else { panic!("no way in {table}") };
    let Nexthop::Group { members, buckets, .. } = &state.nexthops[id] else {
        panic!("{id} is no group")
    };
    let meant = match buckets {
        Some(buckets) => wanted(members, buckets.count),
        None => members.iter().map(|(id, weight)| (*id, weight.get().into())).collect(),
    };
    let gateway = |id: &NexthopId| match &state.nexthops[id] {
        Nexthop::Single { gateway, .. } => gateway.to_string(),
        other => panic!("{other} in a group"),
    };
    let parts = meant.iter().map(|(id, count)| (gateway(id), *count)).collect();
    Way { id: *id, buckets: *buckets, parts }
}

fn parts(all: &[(&str, u32)]) -> BTreeMap<String, u32> {
    all.iter().map(|(gateway, count)| ((*gateway).to_owned(), *count)).collect()
}

/// The service is at both sites, so the route node of this one delivers all that enters.
#[test]
fn a_drained_cluster_keeps_its_place_without_buckets_until_it_is_left() {
    let mut scene = Scene::resilient();
    let before = scene.ways("osl-r1");
    let counts = before.each_ref().map(|way| way.buckets.expect("flows stay").count);
    for (way, count) in before.iter().zip(counts) {
        let meant: Vec<u32> = way.parts.values().copied().collect();
        assert_eq!(meant.iter().sum::<u32>(), u32::from(count));
        assert!(meant.len() == 2 && meant[0].abs_diff(meant[1]) <= 1, "{way:?}");
    }
    assert_ne!(before[0].id, before[1].id);

    scene.drain("osl/k1", true);
    let leaving = scene.ways("osl-r1");
    for (way, count) in leaving.iter().zip(counts) {
        assert_eq!(way.parts, parts(&[(FIRST, 0), (SECOND, count.into())]));
    }
    let state = scene.state("osl-r1");
    let backends = backends_in(&scene.catalog, &id("osl"), &BTreeSet::from([id("osl/k1")]));
    let groups = left_over(&state);
    for way in &leaving {
        assert!(groups[&way.id].is_subset(&backends), "{groups:?}");
    }

    scene.drain("osl/k1", false);
    let left = scene.ways("osl-r1");
    for (way, count) in left.iter().zip(counts) {
        assert_eq!(way.parts, parts(&[(SECOND, count.into())]));
    }
    assert!(left_over(&scene.state("osl-r1")).is_empty());

    // Back again, a member before it gets anything.
    scene.drained = Drained { easing: [id("osl/k1")].into(), ..Drained::default() };
    assert_eq!(scene.ways("osl-r1"), leaving);
    for ways in [&leaving, &left] {
        let same = |(one, other): (&Way, &Way)| (one.id, one.buckets) == (other.id, other.buckets);
        assert!(ways.iter().zip(&before).all(same), "{ways:?}");
    }
}

/// The kernel is told of members alone: no group is made anew, and no route changes.
#[test]
fn a_drain_changes_groups_in_place() {
    let mut scene = Scene::resilient();
    let before = scene.state("osl-r1");
    for easing in [true, false] {
        scene.drain("osl/k1", easing);
        let ops = plan(&scene.state("osl-r1"), &before).ops;
        let in_place = |op: &Op| match op {
            Op::ReplaceNexthop { from, to, .. } => from.becomes(to),
            // Nothing leads to it any more.
            Op::DeleteNexthop(_, nexthop) => !easing && matches!(nexthop, Nexthop::Single { .. }),
            _ => false,
        };
        assert!(!ops.is_empty() && ops.iter().all(in_place), "{ops:#?}");
    }
}

#[test]
fn without_the_setting_a_cluster_is_left_at_once() {
    let mut scene = Scene::of(Shift::Plain);
    assert!(scene.ways("osl-r1").iter().all(|way| way.buckets.is_none()));
    for easing in [true, false] {
        scene.drain("osl/k1", easing);
        for way in scene.ways("osl-r1") {
            assert_eq!(way.parts, parts(&[(SECOND, 1)]));
        }
    }
    // What comes back is there at once as well.
    scene.drained = Drained { easing: [id("osl/k1")].into(), ..Drained::default() };
    for way in scene.ways("osl-r1") {
        assert_eq!(way.parts, parts(&[(FIRST, 1), (SECOND, 1)]));
    }
}

#[test]
fn where_nothing_else_is_left_all_go_on() {
    let mut scene = Scene::resilient();
    let before = scene.ways("osl-r1");
    for easing in [true, false] {
        scene.drain("osl/k1", easing);
        scene.drain("osl/k2", easing);
        assert_eq!(scene.ways("osl-r1"), before, "it is a preference, and no wall");
        assert!(left_over(&scene.state("osl-r1")).is_empty());
    }
}

/// Somebody drains the one while the other is on its way back.
#[test]
fn what_comes_back_serves_before_what_is_drained() {
    let mut scene = Scene::resilient();
    scene.drain("osl/k2", true);
    scene.drained.easing.insert(id("osl/k1"));
    for way in scene.ways("osl-r1") {
        let count = way.buckets.expect("flows stay").count;
        assert_eq!(way.parts, parts(&[(FIRST, count.into()), (SECOND, 0)]));
    }
    scene.drain("osl/k2", false);
    for way in scene.ways("osl-r1") {
        let count = way.buckets.expect("flows stay").count;
        assert_eq!(way.parts, parts(&[(FIRST, count.into())]));
    }
}

/// A border sends to route nodes, and does not tell clusters apart; where it has none, it does.
#[test]
fn only_who_hands_to_backends_has_anything_to_do() {
    let mut scene = Scene::resilient();
    let before = scene.state("osl-b1");
    scene.drain("osl/k1", true);
    assert_eq!(scene.state("osl-b1"), before);
    let inside = |scene: &Scene| scene.ways("osl-b1")[1].buckets;
    assert_eq!(inside(&scene), None, "what goes to route nodes has no shares");

    scene.fabric.nodes.retain(|node| node.role != Role::Route);
    let [out, inside] = scene.ways("osl-b1");
    for way in [&out, &inside] {
        let count = way.buckets.expect("flows stay").count;
        assert_eq!(way.parts, parts(&[(FIRST, 0), (SECOND, count.into())]));
    }
    assert!(out.buckets.expect("it has").count <= 128);
}
