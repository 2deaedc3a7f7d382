//! Which way a packet takes: rule, table, route, group and guard on each node, from what the nodes
//! should have.
//!
//! Nothing is asked of a kernel here; the agent asks its own for the same packet and says whether
//! the two agree. What the site's own routing decides (the main table) is named as such and not
//! guessed: from there on a packet to the own site counts as on its way to its host.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::fabric::{Fabric, Family, Node, Role};
use crate::failover::FailoverMark;
use crate::id::{NodeId, SiteId};
use crate::lower::object::{
    Layout, Nexthop, NexthopId, NodeState, RouteKey, RouteTarget, Rule, RuleAction, Table,
};

/// A packet where it enters a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub from: IpAddr,
    pub to: IpAddr,
    /// The interface it comes in by; `None` where the host behind it is not known.
    pub interface: Option<String>,
    /// Our bits of its mark once it is marked.
    pub mark: u32,
    /// The node that sent it here.
    pub sender: Option<NodeId>,
    /// It went through a site between two others, and has too few hops left for another one.
    pub went_through: bool,
}

/// What one node does with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    pub node: NodeId,
    pub packet: Packet,
    /// The rule that decided; `None` when none of ours did, and main is next.
    pub rule: Option<Rule>,
    pub route: Option<(RouteKey, RouteTarget)>,
    /// The group or single nexthop, with its ways.
    pub ways: Vec<Way>,
    pub guard: Judged,
    /// What it is marked with as failover traffic, on the first way.
    pub failover: Option<FailoverMark>,
    pub fate: Fate,
}

/// One way of a group: where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    pub id: NexthopId,
    pub gateway: IpAddr,
    pub interface: String,
    /// Relative to the others.
    pub weight: u32,
}

/// What the nft guard makes of it: the counter, and whether it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    pub counter: &'static str,
    pub passes: bool,
}

/// Where it goes from a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// To another node of the fabric, by the first way.
    Node(NodeId),
    /// To a backend, or by the site's own routing to a host of the site.
    Delivered,
    /// By the main table, out of the fabric.
    Main,
    /// An error goes back.
    Unreachable,
    /// The guard stops it.
    Stopped,
}

/// More nodes than any way through a fabric has.
const LONGEST: usize = 8;

/// The way of a packet from a node on, by what every node should have.
pub fn path(
    fabric: &Fabric,
    states: &BTreeMap<NodeId, NodeState>,
    start: &NodeId,
    packet: Packet,
) -> Vec<Hop> {
    let mut hops = Vec::new();
    let (mut at, mut packet) = (start.clone(), packet);
    while let (Some(node), Some(state)) = (fabric.node(&at), states.get(&at))
        && hops.len() < LONGEST
    {
        let hop = hop(fabric, node, state, packet.clone());
        let next = match &hop.fate {
            Fate::Node(next) => Some((next.clone(), hop.ways.first().cloned())),
            Fate::Delivered | Fate::Main | Fate::Unreachable | Fate::Stopped => None,
        };
        let went_through = packet.went_through || hop.guard.counter == "transit";
        hops.push(hop);
        let Some((next, Some(way))) = next else { break };
        let arrival = fabric.node(&next).and_then(|node| arrival(fabric, node, way.gateway));
        packet = Packet { interface: arrival, mark: 0, sender: Some(at), went_through, ..packet };
        at = next;
    }
    hops
}

/// Where a packet from this address enters the fabric: the first route node of its site, or the
/// first border; of an address of no site, the first border of the site its clients belong to, or
/// of the first site.
pub fn entry<'a>(fabric: &'a Fabric, from: IpAddr) -> Option<&'a Node> {
    let first = |site: &'a SiteId, role| fabric.nodes_of(site, role).next();
    let of_site = |site: &&crate::fabric::Site| site.prefixes.iter().any(|p| p.contains(&from));
    if let Some(site) = fabric.sites.iter().find(of_site) {
        return first(&site.id, Role::Route).or_else(|| first(&site.id, Role::Border));
    }
    let client = fabric.clients.iter().find(|client| client.prefix.contains(&from));
    let site = client.map(|c| &c.site).or_else(|| fabric.sites.first().map(|s| &s.id))?;
    first(site, Role::Border)
}

/// What a node does with a packet.
fn hop(fabric: &Fabric, node: &Node, state: &NodeState, packet: Packet) -> Hop {
    let outer = fabric.outer_interfaces(node);
    let outside = packet.interface.as_ref().is_some_and(|i| outer.contains(i));
    let marked = Packet { mark: mark(fabric, state, &packet), ..packet };
    let decided = decide(fabric, node, state, &marked);
    let ways = match decided.route {
        Some((_, RouteTarget::Nexthop(id))) => ways(state, id),
        Some((_, RouteTarget::Unreachable)) | None => Vec::new(),
    };
    let out = ways.first().map(|way| &way.interface).filter(|out| outer.contains(out));
    let reached = !ways.is_empty();
    let guard = judge(state, &marked, outside, out);
    let out = out.is_some();
    let leaves = ways.first().filter(|_| out && guard.passes).zip(state.guard.as_ref());
    let ends = [marked.from, marked.to];
    let failover = leaves.and_then(|(way, guard)| guard.failover_mark(ends, &way.interface));
    let fate = match (&decided, reached) {
        _ if !guard.passes && reached => Fate::Stopped,
        (Decided { by_main: Some(true), .. }, _) => Fate::Delivered,
        (Decided { by_main: Some(false), .. }, _) => Fate::Main,
        (_, true) => next(fabric, node, &ways[0]),
        (_, false) => Fate::Unreachable,
    };
    Hop {
        node: node.id.clone(),
        packet: marked,
        rule: decided.rule,
        route: decided.route,
        ways,
        guard,
        failover,
        fate,
    }
}

/// The mark that the node's chains give a packet of a new flow.
fn mark(fabric: &Fabric, state: &NodeState, packet: &Packet) -> u32 {
    let (Some(guard), Some(interface)) = (&state.guard, &packet.interface) else {
        return packet.mark;
    };
    let sender = packet.sender.as_ref().and_then(|node| fabric.place_of(node));
    let of_sender = |index: u8| sender.is_none_or(|place| place == index);
    let mut marks = guard.marks.iter().filter(|mark| mark.interface == *interface);
    let came = marks.find(|mark| mark.source.is_none() || of_sender(mark.index));
    came.map_or(packet.mark, |mark| Layout::MARK_CAME | u32::from(mark.index))
}

#[derive(Debug, Default)]
struct Decided {
    rule: Option<Rule>,
    route: Option<(RouteKey, RouteTarget)>,
    /// The main table has the way: to a host of the site, or out.
    by_main: Option<bool>,
}

/// The first rule that leads somewhere (rules are in the order of their priorities).
fn decide(fabric: &Fabric, node: &Node, state: &NodeState, packet: &Packet) -> Decided {
    let family = Family::of(packet.to);
    let own = fabric.site(&node.site).is_some_and(|s| within(&s.prefixes, packet.to));
    for rule in state.rules.iter().filter(|rule| rule.family == family && applies(rule, packet)) {
        let decided = |route, by_main| Decided { rule: Some(rule.clone()), route, by_main };
        match rule.action {
            RuleAction::Unreachable => return decided(None, None),
            // The site's own routing has its own prefixes, and nothing else but the default route.
            RuleAction::Lookup { table: MAIN, suppress_prefixlength: Some(0) } if own => {
                return decided(None, Some(true));
            }
            RuleAction::Lookup { table: MAIN, suppress_prefixlength: None } => {
                return decided(None, Some(own));
            }
            RuleAction::Lookup { table: MAIN, .. } => {}
            RuleAction::Lookup { table, .. } => {
                if let Some(route) = longest(state, family, table, packet.to) {
                    return decided(Some(route), None);
                }
            }
        }
    }
    Decided { by_main: Some(own), ..Decided::default() }
}

/// The kernel's main table (RT_TABLE_MAIN, linux/rtnetlink.h).
const MAIN: Table = Table(254);

fn applies(rule: &Rule, packet: &Packet) -> bool {
    let iif = rule.iif.as_ref().is_none_or(|iif| packet.interface.as_ref() == Some(iif));
    let mark = rule.fwmark.is_none_or(|(value, mask)| packet.mark & mask == value);
    let within = |net: &Option<IpNet>, address| net.is_none_or(|net| net.contains(&address));
    iif && mark && within(&rule.from, packet.from) && within(&rule.to, packet.to)
}

/// Longest prefix first, then the lowest metric.
fn longest(
    state: &NodeState,
    family: Family,
    table: Table,
    to: IpAddr,
) -> Option<(RouteKey, RouteTarget)> {
    let longest = family.default_route().max_prefix_len();
    let lengths = (0..=longest).rev();
    let key = |length: u8, metric| {
        let destination = IpNet::new(to, length).ok()?.trunc();
        let key = RouteKey { table, destination, metric };
        state.routes.get(&key).map(|target| (key, *target))
    };
    let metrics = [Layout::METRIC_ACTIVE, Layout::METRIC_FLOOR];
    lengths.flat_map(|length| metrics.map(|metric| (length, metric))).find_map(|(l, m)| key(l, m))
}

fn ways(state: &NodeState, id: NexthopId) -> Vec<Way> {
    let single = |id: NexthopId, weight| match state.nexthops.get(&id) {
        Some(Nexthop::Single { gateway, interface }) => {
            Some(Way { id, gateway: *gateway, interface: interface.clone(), weight })
        }
        Some(Nexthop::Group { .. } | Nexthop::Blackhole { .. }) | None => None,
    };
    match state.nexthops.get(&id) {
        Some(Nexthop::Group { members, .. }) => {
            members.iter().filter_map(|(id, weight)| single(*id, u32::from(weight.get()))).collect()
        }
        Some(Nexthop::Single { .. }) => single(id, 1).into_iter().collect(),
        Some(Nexthop::Blackhole { .. }) | None => Vec::new(),
    }
}

/// The forward chain of the guard, for a packet of a flow that this site began or that came in. Its
/// rule about ways is left out: every nexthop of a [`NodeState`] is on one of them.
fn judge(state: &NodeState, packet: &Packet, outside: bool, out: Option<&String>) -> Judged {
    let Some(guard) = &state.guard else { return Judged { counter: "none", passes: true } };
    let within =
        |nets: &std::collections::BTreeSet<IpNet>| nets.iter().any(|n| n.contains(&packet.to));
    let judged = |counter, passes| Judged { counter, passes };
    let through = packet.interface.as_ref().zip(out).is_some_and(|(came, leaves)| {
        guard.transit.contains(&[came.clone(), leaves.clone()])
            && (within(&guard.remote) || within(&guard.vips))
    });
    match (outside, out.is_some()) {
        (true, true) if through && packet.went_through => judged("spent", false),
        (true, true) if through => judged("transit", true),
        (true, false) => judged("arrived", true),
        (false, false) => judged("local", true),
        (true, true) => judged("hairpin", false),
        (false, true) if guard.kind == crate::lower::object::GuardKind::Route => {
            judged(if within(&guard.vips) { "steered" } else { "intersite" }, true)
        }
        (false, true) if within(&guard.site) => judged("leak", false),
        (false, true) if packet.mark & Layout::MARK_CLASS == Layout::MARK_CAME => {
            judged("return", true)
        }
        (false, true) if within(&guard.vips) => judged("steered", true),
        (false, true) if within(&guard.remote) => judged("intersite", true),
        (false, true) => judged("stray", false),
    }
}

fn next(fabric: &Fabric, node: &Node, way: &Way) -> Fate {
    let mut links = fabric.links_of(&node.id);
    if let Some(view) = links.find(|view| view.near.interface == way.interface) {
        return Fate::Node(view.far.node.clone());
    }
    let mut others = fabric.nodes.iter().filter(|n| n.site == node.site && n.id != node.id);
    match others.find(|other| other.addresses.contains(&way.gateway)) {
        Some(other) => Fate::Node(other.id.clone()),
        None => Fate::Delivered,
    }
}

/// The interface by which a packet for this gateway enters a node: that of the link, or the one
/// towards the site's other nodes.
fn arrival(fabric: &Fabric, node: &Node, gateway: IpAddr) -> Option<String> {
    let here = |view: &crate::fabric::LinkView<'_>| {
        view.near.addresses.iter().any(|net| net.addr() == gateway)
    };
    let link = fabric.links_of(&node.id).find(here).map(|view| view.near.interface.clone());
    link.or_else(|| node.outer.clone()).or_else(|| Some(node.core.clone()))
}

fn within(prefixes: &[IpNet], address: IpAddr) -> bool {
    prefixes.iter().any(|prefix| prefix.contains(&address))
}
