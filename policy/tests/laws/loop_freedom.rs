//! At every instant of every task a packet to a VIP comes to an end: never a loop, never a second
//! link, never the internet. Nodes change one operation at a time and not at the same time, so the
//! instants between two states of a task are walked too.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nett_policy::fabric::Family;
use nett_policy::id::{NodeId, SiteId};
use nett_policy::log::intent::Intent;
use nett_policy::lower::LinksUp;
use nett_policy::lower::object::{NexthopId, NodeState, RouteKey, RouteTarget};
use nett_policy::place::{Placement, place};
use nett_policy::service::{Handover, Service};
use nett_policy::traffic::{Spread, Traffic};
use proptest::prelude::*;

use super::desk::{Desk, Nodes, Order, orders};
use super::ground::{Ground, States};
use super::mixtures::{self, Judge, whole};
use super::walk::{At, End, Ends, Network, entries, link_ends};

#[derive(Debug, Clone)]
struct Task {
    order: Order,
    /// The step at which nodes say that they cannot; a task with fewer steps is carried out.
    fails_at: usize,
    /// Links that go down or up, as each end sees them, before the task.
    links: Option<Links>,
}

/// Per link and end, whether it is up.
type Links = [[bool; 2]; 2];

fn tasks() -> impl Strategy<Value = Vec<Task>> {
    let links = prop::option::weighted(0.2, any::<Links>());
    let task = (orders(), 0..9usize, links).prop_map(|(order, fails_at, links)| Task {
        order,
        fails_at,
        links,
    });
    prop::collection::vec(task, 1..6)
}

/// What the forwarding of a moment is held against.
struct Moment<'a> {
    ground: &'a Ground,
    before: (Placement, States),
    after: (Placement, States),
    all_links_up: bool,
}

impl Moment<'_> {
    fn check(&self) -> Result<(), String> {
        mixtures::all(self, &self.before.1, &self.after.1)
    }

    fn judge(&self, service: &Service, from: &At, vip: IpAddr, ends: &Ends) -> Result<(), String> {
        whole(ends, vip, from)?;
        let (before, after) = (self.traffic(service, false), self.traffic(service, true));
        let served = |traffic: &Traffic| traffic.spread != Spread::Nowhere;
        let lossless = self.all_links_up
            && service.handover == Handover::MakeBeforeBreak
            && served(before)
            && served(after);
        if lossless && ends.contains_key(&End::Unreachable) {
            let way = format!("{before:?} to {after:?}");
            return Err(format!("{vip} from {from:?} is lost on the way from {way}"));
        }
        Ok(())
    }

    /// Once nothing moves, every site spreads by the weights: no node decides a second time.
    fn shares(&self) -> Result<(), String> {
        let at = |id: &NodeId| &self.after.1[id];
        let network = Network::new(self.ground, &at);
        for service in self.ground.catalog.iter() {
            let traffic = self.traffic(service, true);
            let Spread::Weighted(weights) = &traffic.spread else { continue };
            if !self.all_links_up || traffic.accept != traffic.spread.sites() {
                continue;
            }
            let total = weights.total() as f64;
            for from in entries(self.ground) {
                let ends = network.follow(&from, service.vips[0])?;
                for (site, weight) in weights.iter() {
                    let share = ends.get(&End::Delivered(site.clone())).copied().unwrap_or(0.0);
                    if (share - f64::from(weight.get()) / total).abs() > 0.01 {
                        let of = format!("{weights:?}, but {site} gets {share:.3} of {from:?}");
                        return Err(format!("{} is to be spread by {of}", service.id));
                    }
                }
            }
        }
        Ok(())
    }

    fn traffic(&self, service: &Service, after: bool) -> &Traffic {
        let placement = if after { &self.after.0 } else { &self.before.0 };
        &placement.services[&service.id].traffic
    }
}

impl Judge for Moment<'_> {
    fn walk<'b>(&'b self, states: &'b dyn Fn(&NodeId) -> &'b NodeState) -> Result<(), String> {
        let network = Network::new(self.ground, states);
        for service in self.ground.catalog.iter() {
            let mut serving: BTreeSet<SiteId> = BTreeSet::new();
            for vip in &service.vips {
                for from in entries(self.ground) {
                    let ends = network.follow(&from, *vip)?;
                    self.judge(service, &from, *vip, &ends)?;
                    serving.extend(ends.keys().filter_map(site_of));
                }
                for from in link_ends(self.ground) {
                    let ends = network.follow(&from, *vip)?;
                    serving.extend(ends.keys().filter_map(site_of));
                }
            }
            let states = [false, true].map(|after| self.traffic(service, after));
            let allowed = mixtures::accepting(states);
            if let Some(site) = serving.difference(&allowed).next() {
                return Err(format!("{} is delivered at {site}, which must not", service.id));
            }
            let one_at_a_time = service.handover == Handover::BreakBeforeMake;
            if one_at_a_time && serving.len() > 1 {
                return Err(format!("{} is delivered at {serving:?} at once", service.id));
            }
        }
        Ok(())
    }
}

fn site_of(end: &End) -> Option<SiteId> {
    match end {
        End::Delivered(site) => Some(site.clone()),
        End::Unreachable => None,
    }
}

/// What forwarding depends on, before and after a moment: moments that were walked already.
type Walked = BTreeSet<[(Vec<Traffic>, Links); 2]>;

/// The present of a fabric, from which every change is a moment.
struct Present<'a> {
    ground: &'a Ground,
    walked: &'a mut Walked,
    placement: Placement,
    states: States,
    links: Links,
}

impl<'a> Present<'a> {
    fn new(ground: &'a Ground, walked: &'a mut Walked) -> Self {
        let links = [[true; 2]; 2];
        let (placement, states) = seen(ground, &Intent::default(), &links);
        Self { ground, walked, placement, states, links }
    }

    /// Goes on to another intent or other links; the way there is walked.
    fn change(&mut self, intent: &Intent, links: Links) -> Result<(), String> {
        let (placement, states) = seen(self.ground, intent, &links);
        let all_links_up = [self.links, links].iter().flatten().flatten().all(|up| *up);
        let moment = Moment {
            ground: self.ground,
            before: (self.placement.clone(), self.states.clone()),
            after: (placement, states),
            all_links_up,
        };
        let traffic = |p: &Placement| p.services.values().map(|s| (*s.traffic).clone()).collect();
        let key = [(traffic(&moment.before.0), self.links), (traffic(&moment.after.0), links)];
        if self.walked.insert(key) {
            moment.check()?;
            moment.shares()?;
        }
        (self.placement, self.states) = moment.after;
        self.links = links;
        Ok(())
    }
}

fn seen(ground: &Ground, intent: &Intent, links: &Links) -> (Placement, States) {
    let up = |node: &NodeId| -> LinksUp {
        let ends = ground.fabric.links.iter().zip(links);
        let sees = ends.filter(|(link, [a, b])| if link.b.node == *node { *b } else { *a });
        sees.map(|(link, _)| link.id.clone()).collect()
    };
    (place(ground.world(), intent), ground.lower(intent, &up))
}

/// Gives the tasks one after the other and walks every moment of them.
fn live(ground: &Ground, tasks: &[Task], walked: &mut Walked) -> Result<(), String> {
    let mut desk = Desk::new(ground, 0);
    let mut present = Present::new(ground, walked);
    for task in tasks {
        if let Some(links) = task.links {
            present.change(&desk.intent(), links)?;
        }
        desk.order(1, &task.order, false);
        desk.wish(0, 0, true);
        for fact in 0.. {
            // The first fact is the effect; then one starts a step and one says how it went.
            let nodes = if fact / 2 == task.fails_at { Nodes::Failing } else { Nodes::Done };
            if desk.advance(nodes).is_none() {
                break;
            }
            present
                .change(&desk.intent(), present.links)
                .map_err(|why| format!("{:?}: {why}", task.order))?;
        }
    }
    Ok(())
}

/// Everything an operator can ask of the fabric, one of each kind per service and site.
fn every_order() -> Vec<Order> {
    let mut all: Vec<Order> = Vec::new();
    for service in 0..3 {
        all.push(Order::Failback { service });
        all.push(Order::Steer { service, weights: (3, 1) });
        for site in 0..2 {
            all.push(Order::Failover { service, to: site });
            all.extend([true, false].map(|on| Order::DrainService { service, site, on }));
        }
    }
    for site in 0..2 {
        all.extend([true, false].map(|on| Order::DrainSite { site, on }));
        all.extend([true, false].map(|on| Order::DrainCluster { cluster: site, on }));
    }
    all
}

fn whole_task(order: &Order) -> Task {
    Task { order: order.clone(), fails_at: usize::MAX, links: None }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_packet_comes_to_an_end_at_every_moment(tasks in tasks(), stays in any::<bool>()) {
        let ground = if stays { Ground::resilient() } else { Ground::two_sites() };
        live(&ground, &tasks, &mut Walked::new()).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn every_pair_of_orders_is_walked() {
    let ground = Ground::two_sites();
    let mut walked = Walked::new();
    for first in every_order() {
        for second in every_order() {
            let tasks = [whole_task(&first), whole_task(&second)];
            live(&ground, &tasks, &mut walked).unwrap_or_else(|why| panic!("{first:?}, {why}"));
        }
    }
    let spreads = |moment: &[(Vec<Traffic>, Links); 2]| {
        let of = |(traffic, _): &(Vec<Traffic>, Links)| -> Vec<Spread> {
            traffic.iter().map(|t| t.spread.clone()).collect()
        };
        of(&moment[0]) != of(&moment[1])
    };
    let shifts = walked.iter().filter(|moment| spreads(moment)).count();
    assert!(shifts > 100, "only {shifts} moments in which traffic moves");
}

/// A border may change before its own route nodes: they must accept before it delivers to them.
#[test]
fn a_returning_site_loses_nothing_although_its_border_is_first() {
    let ground = Ground::two_sites();
    let mut desk = Desk::new(&ground, 0);
    let mut before = desk.intent();
    let mut lost: Vec<String> = Vec::new();
    for on in [true, false] {
        desk.order(1, &Order::DrainService { service: 2, site: 1, on }, false);
        desk.wish(0, 0, true);
        while desk.advance(Nodes::Done).is_some() {
            let after = desk.intent();
            let all = [[true; 2]; 2];
            let (old, new) = (seen(&ground, &before, &all).1, seen(&ground, &after, &all).1);
            let at = |id: &NodeId| if id.as_str() == "svg-b1" { &new[id] } else { &old[id] };
            let network = Network::new(&ground, &at);
            for from in entries(&ground) {
                let ends = network.follow(&from, "10.99.0.30".parse().expect("an address"));
                if ends.expect("no loop").contains_key(&End::Unreachable) {
                    lost.push(from.node.to_string());
                }
            }
            before = after;
        }
    }
    assert_eq!(lost, Vec::<String>::new());
}

/// The walk is worth its laws only if it notices what it is to notice.
#[test]
fn the_walk_notices_trouble() {
    let ground = Ground::two_sites();
    let layout = &ground.layout;
    let (_, good) = seen(&ground, &Intent::default(), &[[true; 2]; 2]);
    let vip = "10.99.0.10".parse().expect("an address");
    let at = |node: &str, iif: &str| At { node: node.parse().expect("an id"), iif: iif.to_owned() };
    let told = |change: &dyn Fn(&mut States), from: At| {
        let mut states = good.clone();
        change(&mut states);
        let state = |id: &NodeId| &states[id];
        let network = Network::new(&ground, &state);
        network.follow(&from, vip).map_or_else(|why| why, |ends| format!("{ends:?}"))
    };
    let route = |states: &mut States, node: &str, table, to: NexthopId| {
        let state = states.get_mut(&node.parse::<NodeId>().expect("an id")).expect("a node");
        let to_vip = |key: &RouteKey| key.table == table && key.destination.addr() == vip;
        let key = *state.routes.keys().find(|key| to_vip(key)).expect("a route to the VIP");
        state.routes.insert(key, RouteTarget::Nexthop(to));
    };
    let link = NexthopId::link(1, Family::V4);
    let svg_border = NexthopId::node(3, Family::V4);
    let osl_border = NexthopId::node(1, Family::V4);
    let osl_route = NexthopId::node(2, Family::V4);

    let fine = told(&|_| {}, at("svg-r1", "lan"));
    assert!(fine.contains("osl") && !fine.contains("Unreachable"), "{fine}");
    let back = told(&|s| route(s, "osl-b1", layout.table_in, link), at("svg-r1", "lan"));
    assert!(back.contains("outwards again"), "{back}");
    let ping_pong = |s: &mut States| {
        route(s, "osl-r1", layout.table_svc, osl_border);
        route(s, "osl-r1", layout.table_in, osl_border);
        route(s, "osl-b1", layout.table_svc, osl_route);
    };
    let pong = told(&ping_pong, at("osl-r1", "lan"));
    assert!(pong.contains("outwards again"), "{pong}");
    let stranger = told(&|s| route(s, "svg-r1", layout.table_svc, osl_border), at("svg-r1", "lan"));
    assert!(stranger.contains("vanishes"), "{stranger}");
    let black = NexthopId::blackhole(Family::V4);
    let silent = told(&|s| route(s, "svg-r1", layout.table_svc, black), at("svg-r1", "lan"));
    assert!(silent.contains("vanishes"), "{silent}");
    let bare = |s: &mut States| {
        s.values_mut().for_each(|state| {
            state.routes.clear();
            state.rules.retain(|rule| rule.priority < 4431);
        });
    };
    let bare = told(&bare, at("svg-r1", "lan"));
    assert!(bare.contains("default route"), "{bare}");
    let lan_again = |s: &mut States| {
        route(s, "svg-r1", layout.table_svc, svg_border);
        route(s, "svg-b1", layout.table_svc, link);
        route(s, "osl-b1", layout.table_in, osl_route);
        route(s, "osl-r1", layout.table_in, NexthopId::node(1, Family::V4));
    };
    let again = told(&lan_again, at("svg-r1", "lan"));
    assert!(again.contains("outwards again"), "{again}");
}
