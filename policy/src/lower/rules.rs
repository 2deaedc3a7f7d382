//! The rule program, identical for border and route node. Priorities are offsets from the base.

use ipnet::IpNet;

use super::Place;
use super::object::{Layout, NodeState, Rule, RuleAction, Table};
use super::{transit, ways};
use crate::fabric::{Family, Role};

/// The kernel's main table (RT_TABLE_MAIN, linux/rtnetlink.h).
const MAIN: Table = Table(254);

pub(super) fn rules(place: Place<'_>, state: &mut NodeState) {
    for family in Family::BOTH {
        from_outside(place, family, state);
        returns(place, family, state);
        from_inside(place, family, state);
    }
}

/// What enters from outside the node's part of the site.
fn from_outside(place: Place<'_>, family: Family, state: &mut NodeState) {
    let layout = place.layout;
    let through = transit::through(place);
    for outer in place.world.fabric.outer_interfaces(place.node) {
        let mut add = |offset: u32, rule: Rule| {
            let priority = layout.rule_base + offset;
            state.rules.insert(Rule { priority, iif: Some(outer.clone()), ..rule });
        };
        // Own prefixes first, each with its floor: when main has lost the way into the site, not
        // even a reply may take the default route.
        for prefix in own_prefixes(place, family) {
            add(0, Rule { to: Some(prefix), ..specific(family, MAIN) });
            add(1, Rule { to: Some(prefix), ..unreachable(family) });
        }
        let sent = (Layout::MARK_SENT, Layout::MARK_CLASS);
        add(2, Rule { fwmark: Some(sent), ..lookup(family, MAIN) });
        // What other sites send each other. The marks are the guard's: without its table, which
        // looks at the hops that are left, nothing is let through.
        for through in through.iter().filter(|t| t.has(&outer)) {
            for back in &through.to {
                // Replies go back by the link that the flow came in by.
                for view in place.world.fabric.links_of(&place.node.id) {
                    if view.far_site == *back {
                        let came = (Layout::MARK_CAME + u32::from(view.index), layout.mark_mask);
                        let table = layout.table_return(view.index);
                        add(8, Rule { fwmark: Some(came), ..lookup(family, table) });
                    }
                }
            }
            let came = (Layout::MARK_CAME, Layout::MARK_CLASS);
            add(9, Rule { fwmark: Some(came), ..lookup(family, through.table) });
        }
        add(10, lookup(family, layout.table_in));
        // With several borders a reply may come in at another one than the flow went out by, and
        // connection marks are of one border: what a service answers goes where main says.
        if place.node.role == Role::Border && several_borders(place) {
            for range in of_family(&place.world.fabric.vip_ranges, family) {
                add(11, Rule { from: Some(range), ..lookup(family, MAIN) });
            }
        }
        add(19, unreachable(family));
    }
}

/// Replies to flows that came from outside leave the way they came.
fn returns(place: Place<'_>, family: Family, state: &mut NodeState) {
    let Place { layout, node, world, .. } = place;
    let indexes: Vec<u8> = match node.role {
        Role::Border => world.fabric.links_of(&node.id).map(|view| view.index).collect(),
        Role::Route => {
            let borders = world.fabric.nodes_of(&node.site, Role::Border);
            borders.filter_map(|b| world.fabric.place_of(&b.id)).collect()
        }
        Role::Witness => Vec::new(),
    };
    for index in indexes {
        let mark = (Layout::MARK_CAME + u32::from(index), layout.mark_mask);
        let rule = Rule { fwmark: Some(mark), ..lookup(family, layout.table_return(index)) };
        state.rules.insert(Rule { priority: layout.rule_base + 20, ..rule });
    }
    if layout.strict_return {
        let came = (Layout::MARK_CAME, Layout::MARK_CLASS);
        let rule = Rule { fwmark: Some(came), ..unreachable(family) };
        state.rules.insert(Rule { priority: layout.rule_base + 29, ..rule });
    }
}

/// Established connections that stay where they went before: into the site, or over the link that
/// they went out by. While that one is down another to the same site will do.
pub(super) fn kept(place: Place<'_>, state: &mut NodeState) {
    let Place { layout, node, world, links_up, .. } = place;
    let (fabric, mask) = (world.fabric, layout.mark_mask);
    for family in Family::BOTH {
        let mut add = |index: u8, table: Table| {
            let mark = (Layout::MARK_KEPT + u32::from(index), mask);
            let rule = Rule { fwmark: Some(mark), ..lookup(family, table) };
            state.rules.insert(Rule { priority: layout.rule_base + 22, ..rule });
        };
        // Behind route nodes what comes from inside was found to be remote by one of them.
        if node.role == Role::Route || !ways::has_route_nodes(place) {
            add(0, layout.table_in);
        }
        if node.role != Role::Border {
            // What left the site goes to its border, which knows over which link.
            let borders = fabric.nodes_of(&node.site, Role::Border);
            let places = borders.filter_map(|border| fabric.place_of(&border.id));
            places.for_each(|place| add(place, layout.table_return(place)));
            continue;
        }
        for view in fabric.links_of(&node.id) {
            let same = fabric.links_of(&node.id).filter(|other| other.far_site == view.far_site);
            let works = |other: &&_| -> bool {
                let other: &crate::fabric::LinkView<'_> = other;
                links_up.carries(&other.link.id, family)
            };
            let others: Vec<_> = same.collect();
            let own = others.iter().find(|other| other.index == view.index).filter(works);
            if let Some(by) = own.or_else(|| others.iter().find(works)) {
                add(view.index, layout.table_return(by.index));
            }
        }
    }
}

/// What enters from the site itself, from an uplink, or from this node.
fn from_inside(place: Place<'_>, family: Family, state: &mut NodeState) {
    let Place { layout, node, world, .. } = place;
    let mut add = |offset: u32, rule: Rule| {
        state.rules.insert(Rule { priority: layout.rule_base + offset, ..rule });
    };
    if node.role == Role::Border && ways::has_route_nodes(place) {
        add(25, Rule { iif: Some(node.core.clone()), ..lookup(family, layout.table_core) });
    }
    add(30, lookup(family, layout.table_svc));
    for range in of_family(&world.fabric.vip_ranges, family) {
        add(31, Rule { to: Some(range), ..unreachable(family) });
    }
    add(40, specific(family, MAIN));
    add(50, lookup(family, layout.table_guard));
    for prefix in own_prefixes(place, family) {
        add(51, Rule { to: Some(prefix), ..unreachable(family) });
    }
    add(60, lookup(family, layout.table_xs));
    for site in world.fabric.other_sites(&node.site) {
        for prefix in of_family(&site.prefixes, family) {
            add(61, Rule { to: Some(prefix), ..unreachable(family) });
        }
    }
}

fn several_borders(place: Place<'_>) -> bool {
    place.world.fabric.nodes_of(&place.node.site, Role::Border).nth(1).is_some()
}

fn own_prefixes(place: Place<'_>, family: Family) -> Vec<IpNet> {
    let site = place.world.fabric.site(&place.node.site).expect("checked: a node's site exists");
    of_family(&site.prefixes, family)
}

fn of_family(prefixes: &[IpNet], family: Family) -> Vec<IpNet> {
    prefixes.iter().filter(|p| Family::of_net(**p) == family).map(IpNet::trunc).collect()
}

fn rule(family: Family, action: RuleAction) -> Rule {
    Rule { priority: 0, family, iif: None, fwmark: None, from: None, to: None, action }
}

fn lookup(family: Family, table: Table) -> Rule {
    rule(family, RuleAction::Lookup { table, suppress_prefixlength: None })
}

/// A lookup whose default route does not count.
fn specific(family: Family, table: Table) -> Rule {
    rule(family, RuleAction::Lookup { table, suppress_prefixlength: Some(0) })
}

fn unreachable(family: Family) -> Rule {
    rule(family, RuleAction::Unreachable)
}
