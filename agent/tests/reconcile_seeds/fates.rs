//! What becomes of packets to VIPs at one node, as rules, tables, groups and the nft table say: a
//! short second opinion that is cheap enough to be asked after every write.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nett_policy::fabric::Family;
use nett_policy::lower::object::{
    GuardSet, Layout, Nexthop, NexthopId, NodeState, RouteKey, RouteTarget, Rule, RuleAction, Table,
};

/// The kernel's main table: of VIPs it knows nothing but the default route.
const MAIN: Table = Table(254);

/// What becomes of a packet at a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Takes the default route, and nothing stops it.
    Leaks,
    /// Is refused or ends here.
    Stopped,
    /// Goes to one of these.
    Goes(BTreeSet<NexthopId>),
}

/// A packet that comes by an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) iif: String,
    pub(crate) vip: IpAddr,
    /// From outside the node's part of the site.
    pub(crate) outside: bool,
}

/// What becomes of each packet.
pub(crate) fn fates(packets: &[Packet], state: &NodeState) -> Vec<Fate> {
    packets.iter().map(|packet| fate(packet, state)).collect()
}

/// By which each packet may go while tables are being filled: where one has nothing for it yet, the
/// next that it is looked up in decides.
pub(crate) fn ways_of_all(packets: &[Packet], state: &NodeState) -> Vec<BTreeSet<NexthopId>> {
    let of = |packet: &Packet| {
        let mut all = BTreeSet::new();
        for rule in matching(packet, state) {
            if let RuleAction::Lookup { table, .. } = rule.action
                && let Some(RouteTarget::Nexthop(id)) = lookup(state, table, packet.vip)
            {
                all.append(&mut ways(state, id));
            }
        }
        all
    };
    packets.iter().map(of).collect()
}

fn fate(packet: &Packet, state: &NodeState) -> Fate {
    let shut = if packet.outside { GuardSet::ShutIn } else { GuardSet::ShutOut };
    // The mask of a table that somebody has damaged is 0: nobody knows what it still stops.
    let guard = state.guard.as_ref().filter(|guard| guard.mark_mask != 0);
    if guard
        .is_some_and(|g| g.refuses(packet.vip, shut) || g.refuses(packet.vip, GuardSet::Drained))
    {
        return Fate::Stopped;
    }
    match routed(packet, state) {
        // The table lets packets to VIPs out by the ways of the fabric only.
        None if guard.is_some() => Fate::Stopped,
        None => Fate::Leaks,
        Some(RouteTarget::Unreachable) => Fate::Stopped,
        Some(RouteTarget::Nexthop(id)) => {
            let ways = ways(state, id);
            if ways.is_empty() { Fate::Stopped } else { Fate::Goes(ways) }
        }
    }
}

/// `None` where the default route is taken.
fn routed(packet: &Packet, state: &NodeState) -> Option<RouteTarget> {
    // Rules are ordered by priority first.
    for rule in matching(packet, state) {
        match rule.action {
            RuleAction::Unreachable => return Some(RouteTarget::Unreachable),
            RuleAction::Lookup { table: MAIN, suppress_prefixlength: Some(0) } => {}
            RuleAction::Lookup { table: MAIN, .. } => return None,
            RuleAction::Lookup { table, suppress_prefixlength: _ } => {
                if let Some(target) = lookup(state, table, packet.vip) {
                    return Some(target);
                }
            }
        }
    }
    None
}

fn matching<'a>(packet: &'a Packet, state: &'a NodeState) -> impl Iterator<Item = &'a Rule> {
    let marks = state.guard.iter().filter(|guard| guard.mark_mask != 0).flat_map(|g| &g.marks);
    let marks = marks.filter(|m| m.interface == packet.iif);
    let mark = marks.map(|m| Layout::MARK_CAME + u32::from(m.index)).max().unwrap_or(0);
    state.rules.iter().filter(move |rule| {
        rule.family == Family::of(packet.vip)
            && rule.iif.as_deref().is_none_or(|i| i == packet.iif)
            && rule.fwmark.is_none_or(|(value, mask)| mark & mask == value)
            && rule.to.is_none_or(|to| to.contains(&packet.vip))
            // The source is some client: never one of the service's own addresses.
            && rule.from.is_none()
    })
}

/// The longest prefix, and of equal ones the lowest metric.
fn lookup(state: &NodeState, table: Table, vip: IpAddr) -> Option<RouteTarget> {
    let first = RouteKey { table, destination: Family::V4.default_route(), metric: 0 };
    let in_table = state.routes.range(first..).take_while(|(key, _)| key.table == table);
    let routes = in_table.filter(|(key, _)| key.destination.contains(&vip));
    let best =
        routes.min_by_key(|(key, _)| (std::cmp::Reverse(key.destination.prefix_len()), key.metric));
    best.map(|(_, target)| *target)
}

/// The single nexthops behind an id, without blackholes.
fn ways(state: &NodeState, id: NexthopId) -> BTreeSet<NexthopId> {
    match state.nexthops.get(&id) {
        Some(Nexthop::Single { .. }) => BTreeSet::from([id]),
        Some(Nexthop::Group { members, .. }) => {
            let black = |id: &&NexthopId| {
                matches!(state.nexthops.get(id), Some(Nexthop::Blackhole { .. }) | None)
            };
            members.keys().filter(|id| !black(id)).copied().collect()
        }
        Some(Nexthop::Blackhole { .. }) | None => BTreeSet::new(),
    }
}
