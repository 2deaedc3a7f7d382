//! Steering classes: what moves together costs as much as one, and numbers stay.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use nett_policy::document::{SourceFile, compile};
use nett_policy::fabric::Fabric;
use nett_policy::id::{ServiceId, SiteId};
use nett_policy::log::intent::{Intent, World};
use nett_policy::lower::object::{GuardElement, Layout, NodeState, Subject};
use nett_policy::lower::{Neighbours, Place, all_links, lower};
use nett_policy::place::{Placement, place};
use nett_policy::plan::{Object, Op, plan_kernel};
use nett_policy::service::Catalog;
use nett_policy::traffic::{Spread, Traffic};

/// Two sites with `count` services that live at osl and as many at svg.
fn ground(count: usize) -> (Fabric, Catalog) {
    let fabric = nett_fixtures::fabric_file("two-sites", "fabric.toml").expect("a fixture");
    let fabric = SourceFile::new(fabric.name, fabric.text);
    let one = |n: usize| {
        let (home, standby) = if n.is_multiple_of(2) { ("osl", "svg") } else { ("svg", "osl") };
        let (high, low) = (n / 250, n % 250 + 1);
        format!(
            "[[service]]\nid = \"a/b/s{n:04}\"\ncategory = \"C\"\nprimary = \"{home}\"\n\
             standby = [\"{standby}\"]\n\
             vips = [\"10.99.{high}.{low}\", \"fd00:99::{high:x}:{low:x}\"]\n\
             backends.osl = [\"10.1.20.2\", \"fd00:a:20::2\"]\n\
             backends.svg = [\"10.2.20.2\", \"fd00:b:20::2\"]\n"
        )
    };
    let services = (0..2 * count).map(one).collect::<String>();
    let services = SourceFile::new("services.toml", services);
    compile(&fabric, &services).expect("valid")
}

fn state(node: &str, (fabric, catalog): &(Fabric, Catalog), placement: &Placement) -> NodeState {
    let world = World { fabric, catalog };
    let node = fabric.nodes.iter().find(|n| n.id.as_str() == node).expect("a node");
    let (layout, links_up) = (&Layout::default(), &all_links(world));
    let neighbours = &Neighbours::default();
    lower(Place { world, layout, node, links_up, neighbours }, placement)
}

fn placed((fabric, catalog): &(Fabric, Catalog)) -> Placement {
    place(World { fabric, catalog }, &Intent::default())
}

fn site(id: &str) -> SiteId {
    id.parse().expect("an id")
}

/// Traffic goes to svg, and both sites deliver what arrives.
fn shifted() -> Traffic {
    let spread = Spread::one(site("svg"));
    let accept = BTreeSet::from([site("osl"), site("svg")]);
    Traffic { answers: spread.clone(), spread, accept }
}

const NODES: [&str; 4] = ["osl-b1", "osl-r1", "svg-b1", "svg-r1"];

#[test]
fn a_service_more_renumbers_nothing() {
    let (few, many) = (ground(10), ground(200));
    for node in NODES {
        let before = state(node, &few, &placed(&few));
        let after = state(node, &many, &placed(&many));
        assert_eq!(before.nexthops, after.nexthops, "{node}");
        for (key, target) in &before.routes {
            assert_eq!(after.routes.get(key), Some(target), "{node}: {key}");
        }
    }
}

#[test]
fn a_class_moves_with_one_group_for_each_family_however_many_services_it_has() {
    let mut costs = BTreeSet::new();
    for count in [1, 20, 300] {
        let ground = ground(count);
        let home = placed(&ground);
        let mut moved = home.clone();
        // Both sites accept already: `activate` was before.
        let mut ready = home.clone();
        for (service, placed) in &mut ready.services {
            if ground.1.get(service).and_then(|s| s.primary()) == Some(&site("osl")) {
                Arc::make_mut(&mut placed.traffic).accept = shifted().accept;
                let there = moved.services.get_mut(service).expect("the same services");
                there.traffic = Arc::new(shifted());
            }
        }
        for node in ["osl-b1", "osl-r1"] {
            let before = state(node, &ground, &ready);
            let ops = plan_kernel(&state(node, &ground, &moved), &before).ops;
            let groups = ops.iter().all(|op| matches!(op, Op::ReplaceNexthop { .. }));
            assert!(groups, "{node} with {count}: {ops:#?}");
            costs.insert(ops.len());
        }
    }
    assert_eq!(costs, BTreeSet::from([2]));
}

#[test]
fn a_service_that_departs_costs_its_own_routes_and_no_group() {
    let ground = ground(20);
    let home = placed(&ground);
    let mut gone = home.clone();
    let id: ServiceId = "a/b/s0004".parse().expect("an id");
    gone.services.get_mut(&id).expect("defined").traffic =
        Arc::new(Traffic::settled(Spread::one(site("svg"))));
    for node in NODES {
        let ops = plan_kernel(&state(node, &ground, &gone), &state(node, &ground, &home)).ops;
        let own = ["10.99.0.5", "fd00:99::5"].map(|a| a.parse::<IpAddr>().expect("an address"));
        let of_own = |element: &GuardElement| match element.subject {
            Subject::Vip(vip) => own.contains(&vip),
            Subject::Class(_) => false,
        };
        let routes = ops.iter().filter(|op| match op.object() {
            Some(Object::Route(key)) => own.contains(&key.destination.addr()),
            _ => false,
        });
        assert_eq!(routes.count(), 4, "{node}: two tables, two families: {ops:#?}");
        let elements = ops.iter().filter(|op| match op {
            Op::Elements { add, delete } => add.union(delete).all(of_own),
            _ => false,
        });
        assert_eq!((ops.len(), elements.count()), (5, 1), "{node}: {ops:#?}");
    }
}

/// Every step of a site drain, its end too, and every step of a move that is broken before it is
/// made.
#[test]
fn no_step_of_a_move_of_a_class_costs_more_with_more_services() {
    let osl = || Traffic::settled(Spread::one(site("osl")));
    let accepted = Traffic { accept: shifted().accept, ..osl() };
    let there = Traffic::settled(Spread::one(site("svg")));
    let nowhere = Traffic::settled(Spread::Nowhere);
    let steps = [osl(), accepted, shifted(), there.clone(), nowhere, there, shifted(), osl()];
    let mut costs: BTreeSet<Vec<usize>> = BTreeSet::new();
    for count in [1, 20, 300] {
        let ground = ground(count);
        let mut cost = Vec::new();
        let at = |traffic: &Traffic| {
            let mut placement = placed(&ground);
            for (service, placed) in &mut placement.services {
                if ground.1.get(service).and_then(|s| s.primary()) == Some(&site("osl")) {
                    placed.traffic = Arc::new(traffic.clone());
                }
            }
            placement
        };
        for (from, to) in steps.iter().zip(&steps[1..]) {
            for node in NODES {
                let (from, to) = (state(node, &ground, &at(from)), state(node, &ground, &at(to)));
                let ops = plan_kernel(&to, &from).ops;
                let of_class =
                    |op: &Op| matches!(op, Op::ReplaceNexthop { .. } | Op::Elements { .. });
                assert!(ops.iter().all(of_class), "{node} with {count}: {ops:#?}");
                cost.push(ops.len());
            }
        }
        assert!(cost.iter().sum::<usize>() > 0);
        costs.insert(cost);
    }
    assert_eq!(costs.len(), 1, "{costs:?}");
}
