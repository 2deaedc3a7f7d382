//! Sites that let the traffic of two others through: at every instant a packet is delivered or
//! refused, crosses one link or, through one site alone, two, and never turns around. Links end
//! and are doubted at each end for itself, nodes know of far links what was true at another time,
//! sites do not agree where services are, and every subset of ways through is allowed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nett_policy::fabric::{Family, Role};
use nett_policy::id::{LinkId, NodeId, SiteId};
use nett_policy::log::intent::Intent;
use nett_policy::lower::object::{Layout, NodeState, RuleAction};
use nett_policy::lower::{LinksUp, Neighbours};
use nett_policy::place::{Placement, in_residency, place};
use nett_policy::service::{Handover, Service};
use nett_policy::traffic::{Deliver, Spread, Traffic};
use proptest::prelude::*;

use super::desk::{Desk, Nodes, Order};
use super::ground::{Ground, Pass, States};
use super::mixtures::{self, Judge, whole};
use super::walk::{At, End, Network, entries, link_ends};

const PASSES: [Pass; 3] =
    [("svg", ["osl", "trd"]), ("osl", ["svg", "trd"]), ("trd", ["osl", "svg"])];
const LINKS: usize = 4;

/// What an end of a link sees of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sees {
    Up,
    Doubted,
    Down,
}

/// Each link, as each of its ends sees it.
type Links = [[Sees; 2]; LINKS];

const ALL_UP: Links = [[Sees::Up; 2]; LINKS];

fn sees() -> impl Strategy<Value = Sees> {
    prop_oneof![4 => Just(Sees::Up), 1 => Just(Sees::Doubted), 3 => Just(Sees::Down)]
}

fn links() -> impl Strategy<Value = Links> {
    prop::array::uniform4([sees(), sees()])
}

#[derive(Debug, Clone)]
enum Event {
    Order(Order),
    /// What the ends see, and what other nodes heard of it.
    Links(Links, Links),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let service = || 0..4usize;
    let site = || 0..3usize;
    let order = prop_oneof![
        3 => (service(), site()).prop_map(|(service, to)| Order::Failover { service, to }),
        1 => service().prop_map(|service| Order::Failback { service }),
        2 => (service(), (0..=256u32, 0..=256u32))
            .prop_map(|(service, weights)| Order::Steer { service, weights }),
        1 => (site(), any::<bool>()).prop_map(|(site, on)| Order::DrainSite { site, on }),
        2 => (service(), site(), any::<bool>())
            .prop_map(|(service, site, on)| Order::DrainService { service, site, on }),
    ];
    let event = prop_oneof![
        1 => order.prop_map(Event::Order),
        1 => (links(), links()).prop_map(|(links, told)| Event::Links(links, told)),
    ];
    prop::collection::vec(event, 1..5)
}

fn passes() -> impl Strategy<Value = Vec<Pass>> {
    let chosen = prop_oneof![
        2 => Just([true; 3]),
        1 => Just([true, false, false]),
        2 => any::<[bool; 3]>(),
    ];
    chosen.prop_map(|chosen| {
        PASSES.into_iter().zip(chosen).filter(|(_, is)| *is).map(|(pass, _)| pass).collect()
    })
}

/// What the whole fabric is to have at a moment at which nothing moves.
#[derive(Clone)]
struct Standing {
    placement: Placement,
    states: States,
    links: Links,
}

fn standing(ground: &Ground, intent: &Intent, links: &Links, told: &Links) -> Standing {
    let up = |node: &NodeId| -> LinksUp {
        let mut up = LinksUp::default();
        for (link, ends) in ground.fabric.links.iter().zip(links) {
            let end = [&link.a, &link.b].iter().position(|end| end.node == *node);
            for family in Family::BOTH {
                match end.map(|end| ends[end]) {
                    Some(Sees::Up) => up.insert(link.id.clone(), family),
                    Some(Sees::Doubted) => up.doubt(link.id.clone(), family),
                    Some(Sees::Down) | None => {}
                }
            }
        }
        up
    };
    let mut neighbours = Neighbours::default();
    for border in ground.fabric.nodes.iter().filter(|n| n.role == Role::Border) {
        let ends = ground.fabric.links.iter().zip(told);
        let works = ends.filter(|(link, ends)| {
            let end = [&link.a, &link.b].iter().position(|end| end.node == border.id);
            end.is_some_and(|end| ends[end] == Sees::Up)
        });
        let works: BTreeSet<LinkId> = works.map(|(link, _)| link.id.clone()).collect();
        neighbours.entry(border.id.clone()).links = Some(works);
    }
    let placement = place(ground.world(), intent);
    let states = ground.lower_seeing(intent, &up, &neighbours);
    Standing { placement, states, links: *links }
}

/// The way from one standing to another.
struct Moment<'a> {
    ground: &'a Ground,
    before: Standing,
    after: Standing,
}

impl Moment<'_> {
    fn check(&self) -> Result<(), String> {
        mixtures::all(self, &self.before.states, &self.after.states)
    }

    fn is_lossless(&self, service: &Service) -> bool {
        let [before, after] = [&self.before, &self.after].map(|s| traffic(s, service));
        let served = |traffic: &Traffic| traffic.spread != Spread::Nowhere;
        let up = self.before.links == ALL_UP && self.after.links == ALL_UP;
        up && service.handover == Handover::MakeBeforeBreak && served(before) && served(after)
    }
}

impl Judge for Moment<'_> {
    fn walk<'b>(&'b self, states: &'b dyn Fn(&NodeId) -> &'b NodeState) -> Result<(), String> {
        let network = Network::new(self.ground, states);
        let mut starts = entries(self.ground);
        starts.extend(link_ends(self.ground));
        for service in self.ground.catalog.iter() {
            let states = [&self.before, &self.after].map(|s| traffic(s, service));
            let allowed = mixtures::accepting(states);
            for (vip, from) in service.vips.iter().flat_map(|v| starts.iter().map(move |s| (*v, s)))
            {
                let ends = network.follow(from, vip)?;
                whole(&ends, vip, from)?;
                let elsewhere = ends.keys().find(|end| match end {
                    End::Delivered(site) => !allowed.contains(site),
                    End::Unreachable => false,
                });
                if let Some(end) = elsewhere {
                    return Err(format!("{} comes from {from:?} to {end:?}", service.id));
                }
                let inside = !link_ends(self.ground).contains(from);
                if inside && self.is_lossless(service) && ends.contains_key(&End::Unreachable) {
                    return Err(format!("{vip} from {from:?} is lost, and no link is down"));
                }
            }
        }
        for site in &self.ground.fabric.sites {
            for (to, from) in site.prefixes.iter().flat_map(|p| starts.iter().map(move |s| (p, s)))
            {
                let to = to.hosts().nth(9).unwrap_or(to.addr());
                let ends = network.follow(from, to)?;
                whole(&ends, to, from)?;
                let home = End::Delivered(site.id.clone());
                if let Some(end) = ends.keys().find(|e| **e != home && **e != End::Unreachable) {
                    return Err(format!("{to} comes from {from:?} to {end:?}"));
                }
            }
        }
        Ok(())
    }
}

fn traffic<'a>(standing: &'a Standing, service: &Service) -> &'a Traffic {
    &standing.placement.services[&service.id].traffic
}

/// When everybody knows the same and nothing is doubted: who can be reached is reached, directly
/// where there is a link, and never through a site that the service may not go through.
fn reaches(ground: &Ground, standing: &Standing) -> Result<(), String> {
    let works = |a: &SiteId, b: &SiteId| {
        let mut links = ground.fabric.links.iter().zip(&standing.links).filter(|(link, _)| {
            let joined = ground.fabric.joined_by(link);
            joined.contains(&a) && joined.contains(&b)
        });
        links.any(|(_, ends)| *ends == [Sees::Up; 2])
    };
    let same = standing.links.iter().all(|[a, b]| a == b && *a != Sees::Doubted);
    if !same {
        return Ok(());
    }
    let at = |id: &NodeId| &standing.states[id];
    for service in ground.catalog.iter() {
        let traffic = traffic(standing, service);
        for from in entries(ground) {
            let own = &ground.fabric.node(&from.node).expect("a node").site;
            let to = match traffic.deliver(own, &ground.fabric) {
                Deliver::Remote(site) => site,
                Deliver::Local | Deliver::Drained | Deliver::Split(_) => continue,
            };
            if !traffic.accept.contains(&to) {
                continue;
            }
            let direct = works(own, &to);
            let via = ground.fabric.transit_between(own, &to).map(|t| &t.via);
            let via = via.filter(|via| works(own, via) && works(via, &to));
            let may = via.filter(|via| in_residency(ground.world(), &service.residency, via));
            for vip in &service.vips {
                let network = Network::new(ground, &at);
                let ends = network.follow(&from, *vip)?;
                let through = network.through.get() > 0;
                let said = || format!("{vip} from {from:?} comes to {ends:?}, through {through}");
                // What a site on the way accepts it delivers.
                let reached = ends.keys().all(|end| match end {
                    End::Delivered(site) => traffic.accept.contains(site),
                    End::Unreachable => false,
                });
                if reached != (direct || may.is_some()) || through && (direct || may.is_none()) {
                    return Err(said());
                }
            }
        }
    }
    Ok(())
}

/// Lets everything happen, one after the other, and walks every moment of it.
fn live(ground: &Ground, events: &[Event]) -> Result<usize, String> {
    let mut desk = Desk::new(ground, 0);
    let (mut links, mut told) = (ALL_UP, ALL_UP);
    let mut now = standing(ground, &Intent::default(), &links, &told);
    let mut moments = 0;
    let mut change = |intent: &Intent, links: &Links, told: &Links| -> Result<(), String> {
        let after = standing(ground, intent, links, told);
        if after.states != now.states {
            moments += 1;
            let before = std::mem::replace(&mut now, after.clone());
            Moment { ground, before, after }.check()?;
        }
        let known = standing(ground, intent, links, links);
        reaches(ground, &known)
    };
    for event in events {
        match event {
            Event::Links(next, heard) => {
                (links, told) = (*next, *heard);
                change(&desk.intent(), &links, &told).map_err(|why| format!("{event:?}: {why}"))?;
            }
            Event::Order(order) => {
                desk.order(1, order, false);
                desk.wish(0, 0, true);
                for _ in 0..40 {
                    if desk.advance(Nodes::Done).is_none() {
                        break;
                    }
                    change(&desk.intent(), &links, &told)
                        .map_err(|why| format!("{order:?}: {why}"))?;
                }
            }
        }
    }
    Ok(moments)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_through_a_site_comes_to_an_end_at_every_moment(
        passes in passes(),
        events in events(),
    ) {
        live(&Ground::three_sites(&passes), &events).map_err(TestCaseError::fail)?;
    }

    /// Sites that cannot hear each other take different decisions, and every node may be anywhere
    /// on the way: what each of them has is drawn by itself.
    #[test]
    fn nodes_that_agree_on_nothing_make_no_loop(
        passes in passes(),
        views in prop::collection::vec((events(), links(), links()), 3),
        picks in prop::collection::vec(0..3usize, 6),
    ) {
        let ground = Ground::three_sites(&passes);
        let of = |(events, links, told): &(Vec<Event>, Links, Links)| {
            let mut desk = Desk::new(&ground, 0);
            for event in events {
                let Event::Order(order) = event else { continue };
                desk.order(1, order, false);
                desk.wish(0, 0, true);
                // Not always to its end.
                for _ in 0..events.len() * 3 {
                    desk.advance(Nodes::Done);
                }
            }
            standing(&ground, &desk.intent(), links, told).states
        };
        let views: Vec<States> = views.iter().map(of).collect();
        let at = |id: &NodeId| {
            let node = ground.fabric.nodes.iter().position(|n| n.id == *id).expect("a node");
            &views[picks[node]][id]
        };
        let network = Network::new(&ground, &at);
        let mut starts = entries(&ground);
        starts.extend(link_ends(&ground));
        let vips = ground.catalog.iter().flat_map(|s| s.vips.clone());
        let hosts = ground.fabric.sites.iter().flat_map(|s| &s.prefixes);
        let hosts = hosts.map(|p| p.hosts().nth(9).unwrap_or(p.addr()));
        for to in vips.chain(hosts) {
            for from in &starts {
                let ends = network.follow(from, to).map_err(TestCaseError::fail)?;
                whole(&ends, to, from).map_err(TestCaseError::fail)?;
            }
        }
    }
}

fn link_of(ground: &Ground, name: &str) -> usize {
    let links = &ground.fabric.links;
    links.iter().position(|l| l.id.as_str() == name).expect("a link of the fixture")
}

fn without(ground: &Ground, names: &[&str]) -> Links {
    let mut links = ALL_UP;
    for name in names {
        links[link_of(ground, name)] = [Sees::Down; 2];
    }
    links
}

fn at(node: &str, iif: &str) -> At {
    At { node: node.parse().expect("an id"), iif: iif.to_owned() }
}

fn vip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// pay is at trd, and so is register, which may not leave the country of osl and trd.
#[test]
fn a_way_through_is_taken_when_the_direct_one_is_gone_and_by_nobody_who_may_not() {
    for (passes, expected) in [
        (&PASSES[..1], "{Delivered(SiteId(\"trd\")): 1.0}"),
        (&[], "{Unreachable: 1.0}"),
        (&PASSES[1..], "{Unreachable: 1.0}"),
    ] {
        let ground = Ground::three_sites(passes);
        let intent = Intent::default();
        let ends = |links: &Links, to: &str| {
            let standing = standing(&ground, &intent, links, links);
            reaches(&ground, &standing).expect("who can be reached");
            let states = |id: &NodeId| &standing.states[id];
            let network = Network::new(&ground, &states);
            let ends = network.follow(&at("osl-r1", "lan"), vip(to)).expect("an end");
            (format!("{ends:?}"), network.through.get())
        };
        let through = usize::from(passes.len() == 1);
        let cut = without(&ground, &["osl-trd-1"]);
        for to in ["10.99.0.20", "fd00:99::20", "10.3.40.2", "fd00:c:40::2"] {
            assert_eq!(ends(&cut, to), (expected.to_owned(), through), "{to} with {passes:?}");
            assert_eq!(ends(&ALL_UP, to).1, 0, "{to}: the direct link comes first");
        }
        for to in ["10.99.0.40", "fd00:99::40"] {
            let refused = "{Unreachable: 1.0}".to_owned();
            assert_eq!(ends(&cut, to), (refused, 0), "{to} stays in its country");
        }
        let apart = without(&ground, &["osl-trd-1", "svg-trd-1"]);
        assert_eq!(ends(&apart, "10.99.0.20"), ("{Unreachable: 1.0}".to_owned(), 0));
    }
}

/// Three sites that let each other's traffic through and do not agree where a service is: without
/// the hops that are taken from a packet it goes round and round.
#[test]
fn the_hops_that_are_left_are_what_ends_a_ring() {
    let ground = Ground::three_sites(&PASSES);
    let moved = |to: usize| {
        let mut desk = Desk::new(&ground, 0);
        desk.order(1, &Order::Failover { service: 1, to }, false);
        desk.wish(0, 0, true);
        while desk.advance(Nodes::Done).is_some() {}
        standing(&ground, &desk.intent(), &ALL_UP, &ALL_UP).states
    };
    // In the order of the fixture: osl, svg, trd.
    let views = [0, 1, 2].map(moved);
    let says = |site: &str| match site {
        "osl" => &views[1],
        "svg" => &views[2],
        _ => &views[0],
    };
    let at_nodes = |id: &NodeId| &says(&id.as_str()[..3])[id];
    let network = Network::new(&ground, &at_nodes);
    let ends = network.follow(&at("osl-r1", "lan"), vip("10.99.0.20")).expect("no loop");
    assert_eq!(format!("{ends:?}"), "{Unreachable: 1.0}");
    assert_eq!(network.through.get(), 1, "it is let through once and then no more");
}

/// Which rule sends an answer back is what the flow's mark says, for clients outside of all sites.
#[test]
fn answers_go_back_by_the_link_that_the_flow_came_by() {
    let ground = Ground::three_sites(&PASSES[..1]);
    let standing = standing(&ground, &Intent::default(), &ALL_UP, &ALL_UP);
    let (layout, node) = (&ground.layout, "svg-b1".parse::<NodeId>().expect("an id"));
    let index = |link: &str| u8::try_from(link_of(&ground, link) + 1).expect("few");
    let back = standing.states[&node].rules.iter().filter(|rule| {
        let table = match rule.action {
            RuleAction::Lookup { table, .. } => table,
            RuleAction::Unreachable => return false,
        };
        rule.iif.as_deref() == Some("wan3") && table == layout.table_return(index("osl-svg-1"))
    });
    let marks: Vec<_> = back.map(|rule| (rule.priority, rule.fwmark)).collect();
    let came = Layout::MARK_CAME + u32::from(index("osl-svg-1"));
    assert_eq!(marks, [(4408, Some((came, layout.mark_mask))); 2], "one of each family");
    let others = standing.states.iter().filter(|(id, _)| **id != node);
    for (id, state) in others {
        let guard = state.guard.as_ref().expect("a guard");
        assert!(guard.transit.is_empty(), "{id}");
        let early = state.rules.iter().filter(|r| [4408, 4409].contains(&r.priority));
        assert_eq!(early.count(), 0, "{id}");
    }
}
