//! What must hold between the two ends of a link, and between links.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::code::Code;
use super::diagnostic::Span;
use super::fabric_file::{FabricDoc, NodeDoc};
use super::link_file::{EndDoc, LinkDoc};
use super::nearest::nearest;
use super::read::{At, Reader};
use crate::fabric::{Family, Role};

pub(super) fn check(r: &Reader<'_>, doc: &FabricDoc) {
    let mut used: BTreeMap<(&str, &str), Span> = BTreeMap::new();
    for node in &doc.nodes {
        if let (Role::Border, Some(core)) = (node.role, &node.core) {
            used.insert((node.id.value.as_str(), core.value.as_str()), core.span);
        }
    }
    for link in &doc.links {
        for end in [&link.a, &link.b] {
            known_border(r, doc, end);
            interface(r, &mut used, end);
        }
        inside_one_site(r, doc, link);
        same_address(r, link);
        one_hop(r, link);
        for family in Family::BOTH {
            // Two ends in different subnets are one mistake, seen from either.
            let told = gateway(r, link, [&link.a, &link.b], family);
            if !told {
                gateway(r, link, [&link.b, &link.a], family);
            }
        }
    }
}

fn node_of<'d>(doc: &'d FabricDoc, end: &EndDoc) -> Option<&'d NodeDoc> {
    doc.nodes.iter().find(|n| n.id.value == end.node.value)
}

fn known_border(r: &Reader<'_>, doc: &FabricDoc, end: &EndDoc) {
    let id = &end.node.value;
    match node_of(doc, end) {
        Some(node) if node.role == Role::Border => {}
        Some(node) => {
            let message = format!("the link ends on `{id}`, which is no border");
            r.report(
                r.mistake(Code::LinkEndNotBorder, end.node.span, message)
                    .related(r.place(node.id.span), "the node stands here"),
            );
        }
        None if doc.whole => {
            let borders = || {
                let borders = doc.nodes.iter().filter(|n| n.role == Role::Border);
                borders.map(|n| n.id.value.as_str())
            };
            let hint = match nearest(id.as_str(), borders()) {
                Some(word) => format!("did you mean `{word}`?"),
                None => format!("borders: {}", borders().collect::<Vec<_>>().join(", ")),
            };
            let message = format!("there is no node `{id}`");
            r.report(r.mistake(Code::UnknownNode, end.node.span, message).hint(hint));
        }
        None => {}
    }
}

fn interface<'d>(r: &Reader<'_>, used: &mut BTreeMap<(&'d str, &'d str), Span>, end: &'d EndDoc) {
    let Some(interface) = &end.interface else {
        return;
    };
    let key = (end.node.value.as_str(), interface.value.as_str());
    match used.get(&key) {
        None => drop(used.insert(key, interface.span)),
        Some(first) => {
            let message = format!(
                "the interface `{}` of `{}` is used twice",
                interface.value, end.node.value
            );
            r.report(
                r.mistake(Code::InterfaceUsedTwice, interface.span, message)
                    .related(r.place(*first), "first here")
                    .hint("a flow's link is known by the interface it came in on"),
            );
        }
    }
}

fn inside_one_site(r: &Reader<'_>, doc: &FabricDoc, link: &LinkDoc) {
    let (Some(a), Some(b)) = (node_of(doc, &link.a), node_of(doc, &link.b)) else {
        return;
    };
    if a.site.value == b.site.value {
        let message =
            format!("the link `{}` joins two nodes of site `{}`", link.id.value, a.site.value);
        r.report(
            r.mistake(Code::LinkInsideSite, link.b.node.span, message)
                .related(r.place(link.a.node.span), "the other end")
                .hint("links join sites; inside a site the node addresses are enough"),
        );
    }
}

fn same_address(r: &Reader<'_>, link: &LinkDoc) {
    for b in &link.b.addresses {
        let mut ours = link.a.addresses.iter();
        if let Some(a) = ours.find(|a| a.value.addr() == b.value.addr()) {
            let message = format!("both ends of link `{}` have {}", link.id.value, a.value.addr());
            r.report(
                r.mistake(Code::DuplicateAddress, b.span, message)
                    .related(r.place(a.span), "the other end"),
            );
        }
    }
}

/// Single-hop BFD (RFC 5881 section 5) is between neighbours: what came through a router is refused
/// by its hop limit.
fn one_hop(r: &Reader<'_>, link: &LinkDoc) {
    let Some((_, bfd)) = &link.bfd else { return };
    for (near, far) in [(&link.a, &link.b), (&link.b, &link.a)] {
        let of_far = |g: &&At<IpAddr>| far.addresses.iter().any(|a| a.value.addr() == g.value);
        if let Some(between) = near.gateway.iter().find(|g| !of_far(g)) {
            let message =
                format!("`bfd` on link `{}`, whose ends are no neighbours", link.id.value);
            r.report(
                r.mistake(Code::BfdOneHop, *bfd, message)
                    .related(r.place(between.span), "this gateway stands between them")
                    .hint("take `bfd` out: it watches single hops only"),
            );
            return;
        }
    }
}

/// A family is usable from an end when it has a gateway: its own, or the far end's address.
/// Returns whether a mistake was reported.
fn gateway(r: &Reader<'_>, link: &LinkDoc, ends: [&EndDoc; 2], family: Family) -> bool {
    let [near, far] = ends;
    let of_family = |a: &&At<IpNet>| Family::of_net(a.value) == family;
    let own: Vec<&At<IpNet>> = near.addresses.iter().filter(of_family).collect();
    let stated = near.gateway.iter().any(|g| Family::of(g.value) == family);
    // Where addresses could not be read, that is the mistake to show.
    let Some(first) = own.first().filter(|_| !stated && !far.addresses.is_empty()) else {
        return false;
    };
    let version = family.name();
    let (from, to, id) = (&near.node.value, &far.node.value, &link.id.value);
    let mistake = match far.addresses.iter().find(of_family) {
        None => {
            let message = format!("on link `{id}`, `{from}` has {version} and `{to}` has not");
            let hint = format!("give `{to}` an address of that family, or `gateway` here");
            r.mistake(Code::LinkFamilyOneEnd, first.span, message).hint(hint)
        }
        Some(far) if own.iter().any(|a| a.value.contains(&far.value.addr())) => return false,
        Some(far) => {
            let address = far.value.addr();
            let message =
                format!("on link `{id}`, {address} of `{to}` is in no subnet of `{from}`");
            r.mistake(Code::LinkSubnetsDiffer, first.span, message)
                .related(r.place(far.span), "the far end's address")
                .hint("where a provider routes in between, state `gateway` on each end")
        }
    };
    r.report(mistake);
    true
}
