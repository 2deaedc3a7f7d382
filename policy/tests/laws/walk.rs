//! A packet's way to a VIP, through rules, tables and groups as the kernel reads them.
//!
//! Every member of a group is followed, because any of them may be chosen. Only `Layout`'s table
//! numbers and the objects of a node's state are used: nothing of how they came to be.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use nett_policy::fabric::{Family, Node, Role};
use nett_policy::failover::WayOut;
use nett_policy::id::{NodeId, SiteId, Weight};
use nett_policy::lower::object::{
    Guard, GuardSet, Layout, Nexthop, NexthopId, NodeState, RouteTarget, Rule, RuleAction, Table,
};
use nett_policy::lower::resilient::wanted;

use super::ground::Ground;

/// The kernel's main table: of VIPs it knows nothing but the default route.
const MAIN: Table = Table(254);
/// More nodes than this no packet may pass.
const HOPS: usize = 6;
/// The hops that a host gives its packets.
const FRESH: u8 = 64;

/// How many links a packet may have crossed: one, or two when it went through a site.
fn most_links(hops: u8) -> usize {
    if hops <= Layout::TRANSIT_HOPS { 2 } else { 1 }
}

/// Where a packet stands: a node, and the interface it came in by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At {
    pub(crate) node: NodeId,
    pub(crate) iif: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// Handed to a backend of the service at this site.
    Delivered(SiteId),
    Unreachable,
}

/// Ends with their shares of the flows, which add up to 1.
pub(crate) type Ends = BTreeMap<End, f64>;

#[derive(Debug, Clone, Copy)]
struct Packet {
    vip: IpAddr,
    /// Links it has crossed.
    crossed: usize,
    /// The hops that it has left: IPv4 time to live, IPv6 hop limit.
    hops: u8,
    /// The share of the flows that come this way.
    share: f64,
}

/// The next place of a packet.
enum Hop {
    Node { at: At, crosses: bool },
    Backend,
}

pub(crate) struct Network<'a> {
    pub(crate) ground: &'a Ground,
    pub(crate) states: &'a dyn Fn(&NodeId) -> &'a NodeState,
    /// How often a packet went through a site between two others.
    pub(crate) through: Cell<usize>,
}

/// Where traffic enters a site: from its hosts, from the internet.
pub(crate) fn entries(ground: &Ground) -> Vec<At> {
    let entry = |node: &Node| {
        let iif = if node.role == Role::Route { node.core.clone() } else { "uplink".to_owned() };
        At { node: node.id.clone(), iif }
    };
    ground.fabric.nodes.iter().map(entry).collect()
}

/// Where traffic enters a site from another one: every end of every link.
pub(crate) fn link_ends(ground: &Ground) -> Vec<At> {
    let ends = ground.fabric.links.iter().flat_map(|l| [&l.a, &l.b]);
    ends.map(|end| At { node: end.node.clone(), iif: end.interface.clone() }).collect()
}

impl<'a> Network<'a> {
    pub(crate) fn new(ground: &'a Ground, states: &'a dyn Fn(&NodeId) -> &'a NodeState) -> Self {
        Self { ground, states, through: Cell::new(0) }
    }

    /// All ends that packets to `vip` come to, each with its share of the flows; the error is a way
    /// into trouble.
    pub(crate) fn follow(&self, from: &At, vip: IpAddr) -> Result<Ends, String> {
        let crossed = usize::from(link_ends(self.ground).contains(from));
        let mut ends = Ends::new();
        let packet = Packet { vip, crossed, hops: FRESH, share: 1.0 };
        self.step(from.clone(), packet, &mut Vec::new(), &mut ends)?;
        Ok(ends)
    }

    fn step(
        &self,
        at: At,
        packet: Packet,
        way: &mut Vec<At>,
        ends: &mut Ends,
    ) -> Result<(), String> {
        let Packet { vip, crossed, hops, share } = packet;
        let trouble = |what: &str| Err(format!("{vip} {what} at {at:?}, after {way:?}"));
        if way.contains(&at) {
            return trouble("loops");
        }
        if way.len() >= HOPS {
            return trouble("goes on and on");
        }
        if crossed > most_links(hops) {
            return trouble("crossed too many links");
        }
        let node = self.ground.fabric.node(&at.node).expect("a node of the fabric");
        let state = (self.states)(&at.node);
        let outside = self.ground.fabric.outer_interfaces(node).contains(&at.iif);
        let shut = if outside { GuardSet::ShutIn } else { GuardSet::ShutOut };
        let carried = GuardSet::Carried(WayOut::new(&at.iif));
        let refuses = |guard: &Guard| guard.refuses(vip, shut) && !guard.refuses(vip, carried);
        if state.guard.as_ref().is_some_and(refuses) {
            *ends.entry(End::Unreachable).or_default() += share;
            return Ok(());
        }
        let site = self.ground.fabric.site(&node.site).expect("a site of the fabric");
        let own = site.prefixes.iter().any(|prefix| prefix.contains(&vip));
        let target = match decide(state, &at.iif, vip, own) {
            Ok(Decided::Route(target)) => target,
            Ok(Decided::InSite) => {
                *ends.entry(End::Delivered(node.site.clone())).or_default() += share;
                return Ok(());
            }
            Err(what) => return trouble(&what),
        };
        let RouteTarget::Nexthop(id) = target else {
            *ends.entry(End::Unreachable).or_default() += share;
            return Ok(());
        };
        let ways = singles(state, id);
        if ways.is_empty() {
            // A blackhole answers nobody: the guard must have refused it before.
            return trouble("vanishes without an error");
        }
        way.push(at.clone());
        let outer = self.ground.fabric.outer_interfaces(node);
        for (gateway, interface, part) in ways {
            let share = share * part;
            let mut hops = hops - 1;
            if outer.contains(&at.iif) && outer.contains(&interface) {
                let pair = [at.iif.clone(), interface.clone()];
                if !state.guard.as_ref().is_some_and(|guard| guard.transit.contains(&pair)) {
                    return Err(format!("{vip} leaves {at:?} outwards again by {interface}"));
                }
                let behind = |interface: &String| {
                    let mut links = self.ground.fabric.links_of(&at.node);
                    links.find(|view| view.near.interface == *interface).map(|v| v.far_site.clone())
                };
                if behind(&at.iif) == behind(&interface) {
                    return Err(format!("{vip} turns around at {at:?} by {interface}"));
                }
                if hops <= Layout::TRANSIT_HOPS {
                    *ends.entry(End::Unreachable).or_default() += share;
                    continue;
                }
                hops = Layout::TRANSIT_HOPS;
                self.through.set(self.through.get() + 1);
            }
            match self.hop(node, vip, gateway, &interface)? {
                Hop::Backend => {
                    *ends.entry(End::Delivered(node.site.clone())).or_default() += share;
                }
                Hop::Node { at, crosses } => {
                    let crossed = crossed + usize::from(crosses);
                    self.step(at, Packet { vip, crossed, hops, share }, way, ends)?;
                }
            }
        }
        way.pop();
        Ok(())
    }

    /// Who stands at a gateway, from the fabric alone.
    fn hop(
        &self,
        node: &Node,
        vip: IpAddr,
        gateway: IpAddr,
        interface: &str,
    ) -> Result<Hop, String> {
        let fabric = &self.ground.fabric;
        for view in fabric.links_of(&node.id) {
            if view.near.interface == interface
                && view.gateway(Family::of(gateway)) == Some(gateway)
            {
                let at = At { node: view.far.node.clone(), iif: view.far.interface.clone() };
                return Ok(Hop::Node { at, crosses: true });
            }
        }
        let mut inside = fabric.nodes.iter().filter(|n| n.site == node.site);
        if let Some(other) = inside.find(|n| n.addresses.contains(&gateway)) {
            let out =
                if node.role == Role::Route { node.outer.as_deref() } else { Some(&*node.core) };
            if out != Some(interface) {
                return Err(format!("{} sends to {} by {interface}", node.id, other.id));
            }
            let iif = other.outer.clone().unwrap_or_else(|| other.core.clone());
            return Ok(Hop::Node { at: At { node: other.id.clone(), iif }, crosses: false });
        }
        let service = self.ground.catalog.iter().find(|s| s.vips.contains(&vip));
        let mut own = service.and_then(|s| s.backends.get(&node.site)).into_iter().flatten();
        if own.any(|b| b.address == gateway) && interface == node.core {
            return Ok(Hop::Backend);
        }
        Err(format!(
            "{vip} leaves {} for {gateway} by {interface}, where it has no business",
            node.id
        ))
    }
}

/// A way, or the routing of the site itself.
enum Decided {
    Route(RouteTarget),
    InSite,
}

/// What the rules of a node say about a packet to `vip` in the original direction of its flow.
/// `own`: it is an address of the node's site, which the main table knows.
fn decide(state: &NodeState, iif: &str, vip: IpAddr, own: bool) -> Result<Decided, String> {
    let marks = state.guard.iter().flat_map(|g| &g.marks);
    let mark = marks.filter(|m| m.interface == iif).map(|m| Layout::MARK_CAME + u32::from(m.index));
    let mark = mark.max().unwrap_or(0);
    let matches = |rule: &&Rule| {
        rule.family == Family::of(vip)
            && rule.iif.as_deref().is_none_or(|i| i == iif)
            && rule.fwmark.is_none_or(|(value, mask)| mark & mask == value)
            && rule.to.is_none_or(|to| to.contains(&vip))
            // The source is some client: never one of the service's own addresses.
            && rule.from.is_none()
    };
    // Rules are ordered by priority first.
    for rule in state.rules.iter().filter(matches) {
        match rule.action {
            RuleAction::Unreachable => return Ok(Decided::Route(RouteTarget::Unreachable)),
            RuleAction::Lookup { table: MAIN, .. } if own => return Ok(Decided::InSite),
            RuleAction::Lookup { table: MAIN, suppress_prefixlength: Some(0) } => {}
            RuleAction::Lookup { table: MAIN, .. } => {
                return Err(format!("takes the default route by {rule}"));
            }
            RuleAction::Lookup { table, suppress_prefixlength } => {
                if let Some(target) = lookup(state, table, suppress_prefixlength, vip) {
                    return Ok(Decided::Route(target));
                }
            }
        }
    }
    Err("falls through all rules to the default route".to_owned())
}

/// The longest prefix, and of equal ones the lowest metric.
fn lookup(
    state: &NodeState,
    table: Table,
    suppress: Option<u32>,
    vip: IpAddr,
) -> Option<RouteTarget> {
    let routes = state.routes.iter().filter(|(key, _)| {
        let length = u32::from(key.destination.prefix_len());
        key.table == table && key.destination.contains(&vip) && suppress.is_none_or(|s| length > s)
    });
    let best =
        routes.min_by_key(|(key, _)| (std::cmp::Reverse(key.destination.prefix_len()), key.metric));
    best.map(|(_, target)| *target)
}

/// The single nexthops behind an id, with their shares.
fn singles(state: &NodeState, id: NexthopId) -> Vec<(IpAddr, String, f64)> {
    match state.nexthops.get(&id) {
        Some(Nexthop::Single { gateway, interface }) => vec![(*gateway, interface.clone(), 1.0)],
        Some(Nexthop::Blackhole { .. }) => Vec::new(),
        Some(Nexthop::Group { members, buckets, .. }) => {
            // What has no bucket gets nothing that is new.
            let meant = buckets.map(|buckets| wanted(members, buckets.count));
            let gets = |member: &NexthopId| meant.as_ref().is_none_or(|m| m[member] > 0);
            let members = members.iter().filter(|(id, _)| gets(id));
            let members: BTreeMap<NexthopId, Weight> = members.map(|(id, w)| (*id, *w)).collect();
            let total: f64 = members.values().map(|w| f64::from(w.get())).sum();
            let part = |(member, weight): (&NexthopId, &Weight)| {
                let part = f64::from(weight.get()) / total;
                singles(state, *member).into_iter().map(move |(g, i, p)| (g, i, p * part))
            };
            members.iter().flat_map(part).collect()
        }
        None => Vec::new(),
    }
}
