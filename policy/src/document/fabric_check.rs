//! What must hold between the parts of a fabric file, and the way to [`Fabric`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::code::Code;
use super::diagnostic::{Diagnostic, Span};
use super::fabric_file::{FabricDoc, NodeDoc, SiteDoc};
use super::link_check;
use super::nearest::nearest;
use super::read::{At, Reader};
use super::safety_check;
use super::transit_file;
use super::voters_file;
use crate::fabric::{Family, Role};
use crate::id::SiteId;

/// The most nodes and links there may be: their places make routing tables and nexthop ids.
const MOST: usize = 127;

pub(super) fn check(r: &Reader<'_>, doc: &FabricDoc) {
    if let (true, true, Some(span)) = (doc.sites.is_empty(), doc.whole, doc.sites_span) {
        let message = "the list of sites is empty";
        r.report(r.mistake(Code::NoSites, span, message));
    }
    repeats(r, doc);
    limits(r, doc);
    site_prefixes(r, doc);
    vip_ranges(r, doc);
    references(r, doc);
    voters_file::check(r, doc);
    for node in &doc.nodes {
        interfaces(r, node);
        route_node(r, doc, node);
    }
    node_addresses(r, doc);
    link_check::check(r, doc);
    transit_file::check(r, doc);
    safety_check::check(r, doc);
}

/// Remembers where each value was first seen and reports the second one.
pub(super) struct Unique<'a, 'f, K> {
    reader: &'a Reader<'f>,
    code: Code,
    what: &'static str,
    seen: BTreeMap<K, Span>,
}

impl<'a, 'f, K: Ord + std::fmt::Display> Unique<'a, 'f, K> {
    pub(super) fn new(reader: &'a Reader<'f>, code: Code, what: &'static str) -> Self {
        Self { reader, code, what, seen: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, value: K, span: Span) {
        match self.seen.get(&value) {
            None => drop(self.seen.insert(value, span)),
            Some(first) => {
                let r = self.reader;
                let message = format!("{} `{value}` stands twice", self.what);
                r.report(
                    r.mistake(self.code, span, message).related(r.place(*first), "first here"),
                );
            }
        }
    }
}

fn repeats(r: &Reader<'_>, doc: &FabricDoc) {
    let mut ids = Unique::new(r, Code::DuplicateId, "the site");
    let mut ranks = Unique::new(r, Code::DuplicateRank, "rank");
    let mut keys = Unique::new(r, Code::DuplicateKey, "the key");
    for site in &doc.sites {
        ids.add(&site.id.value, site.id.span);
        if let Some(rank) = site.rank {
            ranks.add(rank.value, rank.span);
        }
        if let Some(key) = &site.leaf_key {
            keys.add(&key.value, key.span);
        }
    }
    let mut ids = Unique::new(r, Code::DuplicateId, "the node");
    for node in &doc.nodes {
        ids.add(&node.id.value, node.id.span);
        if let Some(key) = &node.key {
            keys.add(&key.value, key.span);
        }
    }
    let mut ids = Unique::new(r, Code::DuplicateId, "the operator");
    for operator in &doc.operators {
        ids.add(&operator.name.value, operator.name.span);
        if let Some(key) = &operator.key {
            keys.add(&key.value, key.span);
        }
    }
    let mut ids = Unique::new(r, Code::DuplicateId, "the cluster");
    for cluster in &doc.clusters {
        ids.add(&cluster.id.value, cluster.id.span);
    }
    let mut ids = Unique::new(r, Code::DuplicateId, "the link");
    for link in &doc.links {
        ids.add(&link.id.value, link.id.span);
    }
    let mut ids = Unique::new(r, Code::DuplicateId, "the safety rule");
    for rule in &doc.safety {
        ids.add(&rule.id.value, rule.id.span);
    }
    let mut prefixes = Unique::new(r, Code::DuplicateAddress, "the client prefix");
    for (prefix, _) in &doc.clients {
        prefixes.add(prefix.value, prefix.span);
    }
}

fn limits(r: &Reader<'_>, doc: &FabricDoc) {
    let too_many = |what: &str, span: Option<Span>| {
        if let Some(span) = span {
            let message = format!("more than {MOST} {what}");
            let hint = format!("{what} are numbered 1 to {MOST} in routing tables and nexthop ids");
            r.report(r.mistake(Code::TooMany, span, message).hint(hint));
        }
    };
    too_many("nodes", doc.nodes.get(MOST).map(|n| n.id.span));
    too_many("links", doc.links.get(MOST).map(|l| l.id.span));
}

pub(super) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

fn site_prefixes(r: &Reader<'_>, doc: &FabricDoc) {
    let all: Vec<(&SiteDoc, At<IpNet>)> =
        doc.sites.iter().flat_map(|s| s.prefixes.iter().map(move |p| (s, *p))).collect();
    for (at, (site, prefix)) in all.iter().enumerate() {
        let earlier = all[..at].iter().find(|(_, e)| overlap(e.value, prefix.value));
        if let Some((other, first)) = earlier {
            let message = format!(
                "the prefix {} of site `{}` overlaps {} of site `{}`",
                prefix.value, site.id.value, first.value, other.id.value
            );
            r.report(
                r.mistake(Code::PrefixOverlap, prefix.span, message)
                    .related(r.place(first.span), "the other prefix")
                    .hint("an address belongs to one site, and is listed once"),
            );
        }
    }
    for site in &doc.sites {
        let forwards = |n: &&NodeDoc| n.site.value == site.id.value && n.role != Role::Witness;
        let node = doc.nodes.iter().find(forwards);
        if let (Some(node), false) = (node, site.prefixes_given) {
            let message = format!("site `{}` lacks the key `prefixes`", site.id.value);
            r.report(
                r.mistake(Code::MissingKey, site.id.span, message)
                    .related(r.place(node.id.span), "this node forwards for the site")
                    .hint("only a site of witnesses alone has no prefixes"),
            );
        }
    }
}

fn vip_ranges(r: &Reader<'_>, doc: &FabricDoc) {
    let ends = doc.links.iter().flat_map(|l| [&l.a, &l.b]);
    let links = ends.flat_map(|e| &e.addresses).map(|a| (*a, "a link"));
    let sites = doc.sites.iter().flat_map(|s| &s.prefixes);
    let sites = sites.map(|p| (*p, "a site's prefix"));
    let others: Vec<(At<IpNet>, &str)> = sites.chain(links).collect();
    for (at, range) in doc.head.vip_ranges.iter().enumerate() {
        let earlier = doc.head.vip_ranges[..at].iter();
        let earlier = earlier.map(|e| (*e, "another range"));
        let mut against = earlier.chain(others.iter().copied());
        if let Some((other, what)) = against.find(|(o, _)| overlap(o.value.trunc(), range.value)) {
            let message = format!("the VIP range {} overlaps {what}", range.value);
            r.report(
                r.mistake(Code::VipRangeOverlap, range.span, message)
                    .related(r.place(other.span), format!("{} stands here", other.value))
                    .hint("VIPs need a range of their own that is routed nowhere else"),
            );
        }
    }
}

/// Says that there is no such site, with the nearest one.
pub(super) fn unknown_site(
    r: &Reader<'_>,
    doc: &FabricDoc,
    site: &SiteId,
    span: Span,
) -> Diagnostic {
    let known = || doc.sites.iter().map(|s| s.id.value.as_str());
    let hint = match nearest(site.as_str(), known()) {
        Some(word) => format!("did you mean `{word}`?"),
        None => format!("known sites: {}", known().collect::<Vec<_>>().join(", ")),
    };
    let message = format!("there is no site `{site}`");
    r.mistake(Code::UnknownSite, span, message).hint(hint)
}

/// Whether `site` is known; elements that could not be read may be the ones that are missing.
pub(super) fn has_site(doc: &FabricDoc, site: &SiteId) -> bool {
    !doc.whole || doc.sites.iter().any(|s| s.id.value == *site)
}

fn references(r: &Reader<'_>, doc: &FabricDoc) {
    let nodes = doc.nodes.iter().map(|n| &n.site);
    let clusters = doc.clusters.iter().map(|c| &c.site);
    let clients = doc.clients.iter().map(|(_, site)| site);
    let zone = doc.zone.iter().filter_map(|z| z.transfer_site.as_ref());
    for site in nodes.chain(clusters).chain(clients).chain(zone) {
        if !has_site(doc, &site.value) {
            r.report(unknown_site(r, doc, &site.value, site.span));
        }
    }
    if let Some(from) = doc.zone.as_ref().and_then(|z| z.transfer_from.as_ref())
        && !doc.nodes.iter().any(|n| n.id.value == from.value)
        && doc.whole
    {
        let message = format!("there is no node `{}`", from.value);
        let mistake = r.mistake(Code::UnknownNode, from.span, message);
        let names = doc.nodes.iter().map(|n| n.id.value.as_str());
        r.report(match nearest(from.value.as_str(), names) {
            Some(name) => mistake.hint(format!("did you mean `{name}`?")),
            None => mistake.hint("the node whose name server the secondaries copy from"),
        });
    }
    for cluster in &doc.clusters {
        let prefix = cluster.id.value.as_str().split('/').next();
        if prefix != Some(cluster.site.value.as_str()) {
            let message = format!(
                "the cluster `{}` is named after another site than its own, `{}`",
                cluster.id.value, cluster.site.value
            );
            r.report(r.mistake(Code::ClusterSite, cluster.id.span, message));
        }
    }
}

fn interfaces(r: &Reader<'_>, node: &NodeDoc) {
    let id = &node.id.value;
    match (node.role, &node.outer) {
        (Role::Route, None) => {
            let message = format!("the route node `{id}` has no `outer` interface");
            r.report(
                r.mistake(Code::OuterMissing, node.id.span, message)
                    .hint("name the interface towards the site's borders"),
            );
        }
        (Role::Border | Role::Witness, Some(outer)) => {
            let message = format!("`outer` stands on `{id}`, which is no route node");
            r.report(
                r.mistake(Code::OuterNotAllowed, outer.span, message)
                    .hint("a border's outer interfaces are the ends of its links"),
            );
        }
        (Role::Route, Some(outer)) => {
            let core = node.core.as_ref();
            if let Some(core) = core.filter(|c| c.value == outer.value) {
                let message = format!("`core` and `outer` of `{id}` are the same interface");
                r.report(
                    r.mistake(Code::InterfaceUsedTwice, outer.span, message)
                        .related(r.place(core.span), "`core` stands here")
                        .hint("what comes from outside is told apart by its interface"),
                );
            }
        }
        (Role::Border | Role::Witness, None) => {}
    }
}

/// The file knows no prefix lengths of node addresses. Two addresses count as one subnet when they
/// lie in the same prefix of the site, or both in none (a transfer network).
fn route_node(r: &Reader<'_>, doc: &FabricDoc, node: &NodeDoc) {
    if node.role != Role::Route || node.addresses.is_empty() || !doc.whole {
        return;
    }
    let site = doc.sites.iter().find(|s| s.id.value == node.site.value);
    let Some(site) = site else { return };
    let home = |a: IpAddr| site.prefixes.iter().position(|p| p.value.contains(&a));
    let together = |a: IpAddr, b: IpAddr| Family::of(a) == Family::of(b) && home(a) == home(b);
    let mut borders =
        doc.nodes.iter().filter(|n| n.role == Role::Border && n.site.value == node.site.value);
    let reachable = borders.any(|b| {
        let pairs = |a: &At<IpAddr>| node.addresses.iter().any(|n| together(n.value, a.value));
        // A border whose addresses could not be read is reported for that.
        b.addresses.is_empty() || b.addresses.iter().any(pairs)
    });
    if !reachable {
        let message = format!(
            "no border of site `{}` has an address in a subnet of the route node `{}`",
            node.site.value, node.id.value
        );
        r.report(
            r.mistake(Code::RouteWithoutBorder, node.id.span, message)
                .hint("add a border with an address of the same family and prefix"),
        );
    }
}

fn node_addresses(r: &Reader<'_>, doc: &FabricDoc) {
    let mut seen = Unique::new(r, Code::DuplicateAddress, "the node address");
    for address in doc.nodes.iter().flat_map(|n| &n.addresses) {
        seen.add(address.value, address.span);
    }
}
