//! What must hold inside a service, between services, and between a service and its fabric.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::code::Code;
use super::diagnostic::Span;
use super::fabric_check::{Unique, has_site, unknown_site};
use super::fabric_file::{FabricDoc, SiteDoc};
use super::party_file;
use super::read::{At, Reader};
use super::service_file::{BackendDoc, IsolationWord, ServiceDoc, SitesDoc};
use crate::fabric::{Family, OperatorRole, Role};
use crate::id::SiteId;
use crate::lower::object::NexthopId;
use crate::service::{Handover, Shift};

/// The fabric's part of the check; `None` when that file could not be read.
pub(super) type FabricPart<'a, 'f> = Option<(&'a Reader<'f>, &'a FabricDoc)>;

pub(super) fn check(r: &Reader<'_>, services: &[ServiceDoc], fabric: FabricPart<'_, '_>) {
    let mut ids = Unique::new(r, Code::DuplicateId, "the service");
    let mut vips = Unique::new(r, Code::VipUsedTwice, "the VIP");
    let nodes = fabric.map(|(_, doc)| node_addresses(doc)).unwrap_or_default();
    limits(r, services);
    let mut resilient = services.iter().filter(|s| matches!(s.shift.value, Shift::Resilient(_)));
    if let Some(service) = resilient.nth(NexthopId::MOST_RESILIENT) {
        let most = NexthopId::MOST_RESILIENT;
        let message = format!("more than {most} services with `shift = \"resilient\"`");
        let hint = "each of them has nexthop groups of its own";
        r.report(r.mistake(Code::TooMany, service.shift.span, message).hint(hint));
    }
    for service in services {
        ids.add(&service.id.value, service.id.span);
        for vip in &service.vips {
            vips.add(vip.value, vip.span);
        }
        mode(r, service);
        sites_once(r, &service.sites);
        backends(r, service, fabric.map(|(_, doc)| doc));
        isolation(r, service, fabric.map(|(_, doc)| doc));
        ramp(r, service);
        shift(r, service);
        if let Some((of, doc)) = fabric {
            in_fabric(r, service, doc);
            party_file::known(r, service, doc);
            vip_places(r, service, of, doc, &nodes);
        }
    }
}

/// Backends have nexthop ids in a range of their own.
fn limits(r: &Reader<'_>, services: &[ServiceDoc]) {
    let mut seen: BTreeMap<&SiteId, BTreeSet<IpAddr>> = BTreeMap::new();
    for backend in services.iter().flat_map(|s| &s.backends) {
        let (site, backends) = backend;
        let known = seen.entry(&site.value).or_default();
        let before = known.len();
        known.extend(backends.iter().map(|b| b.address.value));
        if before <= NexthopId::MOST_BACKENDS && known.len() > NexthopId::MOST_BACKENDS {
            let message = format!(
                "more than {} backend addresses at {}",
                NexthopId::MOST_BACKENDS,
                site.value
            );
            let hint = "backends of a site are numbered in nexthop ids";
            r.report(r.mistake(Code::TooMany, site.span, message).hint(hint));
        }
    }
}

fn node_addresses(doc: &FabricDoc) -> BTreeMap<IpAddr, Span> {
    let nodes = doc.nodes.iter().flat_map(|n| &n.addresses);
    let ends = doc.links.iter().flat_map(|l| [&l.a, &l.b]);
    let ends = ends.flat_map(|e| &e.addresses);
    let ends = ends.map(|a| (a.value.addr(), a.span));
    nodes.map(|a| (a.value, a.span)).chain(ends).collect()
}

/// Every site the service may run at, in failover order.
fn listed(sites: &SitesDoc) -> Vec<&At<SiteId>> {
    if sites.active_active {
        return sites.active.iter().collect();
    }
    let standby = sites.standby.iter().map(|(site, _)| site);
    sites.primary.iter().chain(standby).collect()
}

fn mode(r: &Reader<'_>, service: &ServiceDoc) {
    let sites = &service.sites;
    let foreign: Vec<(&str, Span)> = if sites.active_active {
        let primary = sites.primary.as_ref().map(|p| ("primary", p.span));
        let standby = sites.standby_span.map(|span| ("standby", span));
        primary.into_iter().chain(standby).collect()
    } else {
        let active = sites.active_span.map(|span| ("active", span));
        let readmit = sites.readmit.map(|r| ("readmit", r.span));
        active.into_iter().chain(readmit).collect()
    };
    let (mode, other) = if sites.active_active {
        ("active-active", "active-passive")
    } else {
        ("active-passive", "active-active")
    };
    for (key, span) in foreign {
        let message = format!("`{key}` does not belong to mode {mode}");
        r.report(
            r.mistake(Code::ModeConflict, span, message)
                .hint(format!("take it out, or set `mode = \"{other}\"`")),
        );
    }
    if service.sites.active_span.is_some() && sites.active_active && sites.active.is_empty() {
        let span = sites.active_span.unwrap_or(sites.span);
        let message = "`active` names no site";
        r.report(r.mistake(Code::NoSites, span, message));
    }
}

fn sites_once(r: &Reader<'_>, sites: &SitesDoc) {
    let mut repeated = Unique::new(r, Code::SiteRepeated, "the site");
    for (site, _) in &sites.standby {
        match &sites.primary {
            Some(primary) if primary.value == site.value => {
                let message = format!("`{}` is the primary and also a standby", site.value);
                r.report(
                    r.mistake(Code::PrimaryInStandby, site.span, message)
                        .related(r.place(primary.span), "the primary"),
                );
            }
            _ => repeated.add(&site.value, site.span),
        }
    }
    for site in &sites.active {
        repeated.add(&site.value, site.span);
    }
}

/// Every listed site can deliver every family the service has, and no other site is named.
fn backends(r: &Reader<'_>, service: &ServiceDoc, fabric: Option<&FabricDoc>) {
    let listed = listed(&service.sites);
    // An unknown site is probably a known one misspelt: its own mistake is enough.
    let strange = |l: &&At<SiteId>| fabric.is_some_and(|doc| !has_site(doc, &l.value));
    if listed.is_empty() || !service.sites.whole || listed.iter().any(strange) {
        return;
    }
    let mut known: BTreeMap<&SiteId, &[BackendDoc]> = BTreeMap::new();
    for (site, backends) in &service.backends {
        known.insert(&site.value, backends);
    }
    let named = service.backends.iter().map(|(site, _)| site);
    for site in named.chain(service.addresses.iter().map(|(site, _)| site)) {
        if !listed.iter().any(|l| l.value == site.value) {
            let message =
                format!("`{}` is no site of the service `{}`", site.value, service.id.value);
            let sites: Vec<&str> = listed.iter().map(|l| l.value.as_str()).collect();
            r.report(
                r.mistake(Code::SiteNotListed, site.span, message)
                    .hint(format!("its sites are {}", sites.join(", "))),
            );
        }
    }
    if !service.backends_whole {
        return;
    }
    for site in listed {
        let at = known.get(&site.value).copied().unwrap_or_default();
        if at.is_empty() {
            let message = format!("no backend at `{}`, a site of this service", site.value);
            let hint = format!("add `backends.{} = [...]` or take the site out", site.value);
            r.report(
                r.mistake(Code::BackendMissing, service.backends_span, message)
                    .related(r.place(site.span), "the site is listed here")
                    .hint(hint),
            );
            continue;
        }
        for family in Family::BOTH {
            let mut vips = service.vips.iter();
            let vip = vips.find(|v| Family::of(v.value) == family);
            let served = at.iter().any(|b| Family::of(b.address.value) == family);
            if let (Some(vip), false) = (vip, served) {
                let span = at.first().map_or(site.span, |b| b.address.span);
                let message = format!(
                    "no backend at `{}` for the VIP {}: one family is missing",
                    site.value, vip.value
                );
                r.report(
                    r.mistake(Code::FamilyMissing, span, message)
                        .related(r.place(vip.span), "the VIP stands here"),
                );
            }
        }
    }
}

/// One site at a time serves what is `lease` or `exclusive`, by the votes of three sites or more.
fn isolation(r: &Reader<'_>, service: &ServiceDoc, fabric: Option<&FabricDoc>) {
    let isolation = &service.isolation;
    let conflict = |span, message: &str, hint: &str| {
        r.report(r.mistake(Code::IsolationConflict, span, message).hint(hint.to_owned()));
    };
    let word = match isolation.word.value {
        IsolationWord::Static => {
            if let Some(fence) = isolation.fence {
                let message = "`fence` does not belong to `isolation = \"static\"`";
                conflict(fence, message, "a static service is never fenced; take it out");
            }
            return;
        }
        IsolationWord::Lease => "lease",
        IsolationWord::Exclusive => "exclusive",
    };
    let span = isolation.word.span;
    if let Some(span) = isolation.overlapping_handover {
        let message = format!("`make-before-break` does not go with `isolation = \"{word}\"`");
        let hint = "one site serves at a time, so the old one stops first: break-before-make";
        conflict(span, &message, hint);
    }
    if service.sites.active_active {
        let message = format!("`isolation = \"{word}\"` does not go with mode active-active");
        conflict(span, &message, "only `static` serves at several sites at once");
    }
    if let (Some(span), 2..) = (service.ramp.span, service.ramp.steps.len()) {
        let message = format!("a ramp of several steps does not go with `isolation = \"{word}\"`");
        conflict(span, &message, "at most one site has weight; take the ramp out");
    }
    if let (Some((site, _)), None) = (service.addresses.first(), isolation.fence) {
        let message =
            format!("`addresses` lead past the gate of an `isolation = \"{word}\"` service");
        let hint = "add `fence = \"external\"` if something else stops them when the lease ends";
        conflict(site.span, &message, hint);
    }
    let Some(doc) = fabric.filter(|doc| doc.whole) else { return };
    let voters = doc.nodes.iter().filter(|n| n.voter.is_some()).count();
    let sites = doc.sites.len();
    if voters < 3 || sites < 3 {
        let message = format!(
            "`{word}` needs three voters at three sites; the fabric has {voters} voters and \
             {sites} sites"
        );
        let hint = "a third site may be one witness; or use `isolation = \"static\"`, knowing that \
                    a cut-off site goes on serving";
        r.report(r.mistake(Code::TooFewVoters, span, message).hint(hint));
    }
}

fn ramp(r: &Reader<'_>, service: &ServiceDoc) {
    let word = service.isolation.word.value;
    let steps = service.ramp.steps.len();
    if let (Some(span), IsolationWord::Static, 2..) = (service.ramp.span, word, steps) {
        let message = "a ramp of several steps is not in this release";
        r.report(
            r.mistake(Code::NotInThisRelease, span, message)
                .hint("use `steps = [100]`, or take the ramp out"),
        );
    }
}

/// What stays where it is must be served there meanwhile.
fn shift(r: &Reader<'_>, service: &ServiceDoc) {
    let At { value: Shift::Resilient(_), span } = service.shift else { return };
    if service.handover == Handover::BreakBeforeMake {
        let message = "flows cannot stay at a site that is closed before another one serves";
        r.report(
            r.mistake(Code::ShiftConflict, span, message)
                .hint("use `handover = \"make-before-break\"`, or `shift = \"plain\"`"),
        );
    }
    for (site, backends) in &service.backends {
        let of = |v6: bool| backends.iter().filter(|b| b.address.value.is_ipv6() == v6).count();
        let most = of(false).max(of(true));
        if most > MOST_RESILIENT_BACKENDS {
            let message = format!(
                "`{}` has {most} backends of one family; a group whose flows stay has parts for \
                 {MOST_RESILIENT_BACKENDS}",
                site.value
            );
            let hint = "put fewer backends behind the VIP, or use `shift = \"plain\"`";
            r.report(r.mistake(Code::ShiftConflict, site.span, message).hint(hint));
        }
    }
}

/// Buckets are told apart only as far as members without a share get none, so with more of them
/// some backends would get nothing: see `lower::resilient`.
const MOST_RESILIENT_BACKENDS: usize = 8;

fn in_fabric(r: &Reader<'_>, service: &ServiceDoc, doc: &FabricDoc) {
    let sites = &service.sites;
    let standby = sites.standby.iter().map(|(site, _)| site);
    let all = sites.primary.iter().chain(standby).chain(&sites.active);
    let keys = service.backends.iter().map(|(site, _)| site);
    let keys = keys.chain(service.addresses.iter().map(|(site, _)| site));
    for site in all.chain(keys) {
        if !has_site(doc, &site.value) {
            r.report(unknown_site(r, doc, &site.value, site.span));
        }
    }
    for site in listed(sites) {
        let found = doc.sites.iter().find(|s| s.id.value == site.value);
        let Some(found) = found else { continue };
        residency(r, service, site, found);
        let mut nodes = doc.nodes.iter().filter(|n| n.site.value == site.value);
        let any = nodes.clone().next().is_some();
        if doc.whole && any && nodes.all(|n| n.role == Role::Witness) {
            let message = format!("`{}` has witnesses only, which forward nothing", site.value);
            r.report(r.mistake(Code::WitnessSite, site.span, message));
        }
    }
    for (site, backends) in &service.backends {
        for backend in backends {
            backend_place(r, doc, &site.value, backend);
        }
    }
    for (site, addresses) in &service.addresses {
        let found = doc.sites.iter().find(|s| s.id.value == site.value);
        let Some(found) = found else { continue };
        for address in addresses {
            own_address(r, found, *address);
        }
    }
    approvers(r, service, doc);
}

fn residency(r: &Reader<'_>, service: &ServiceDoc, site: &At<SiteId>, found: &SiteDoc) {
    let region = found.region.as_deref();
    let allowed = |r: &At<String>| Some(r.value.as_str()) == region;
    if service.residency.is_empty() || service.residency.iter().any(allowed) {
        return;
    }
    let first = service.residency[0].span;
    let message = format!(
        "`residency` keeps the service out of `{}`, which is in {}",
        site.value,
        region.map_or("no region".to_owned(), |r| format!("region `{r}`"))
    );
    r.report(
        r.mistake(Code::ResidencyConflict, site.span, message)
            .related(r.place(first), "`residency` stands here")
            .hint("traffic is never placed outside, so the site could never serve"),
    );
}

fn backend_place(r: &Reader<'_>, doc: &FabricDoc, site: &SiteId, backend: &BackendDoc) {
    let address = backend.address.value;
    let span = backend.address.span;
    let owner = doc.sites.iter().find(|s| s.prefixes.iter().any(|p| p.value.contains(&address)));
    let misplaced = owner.filter(|o| o.id.value != *site && has_site(doc, site));
    if let Some(owner) = misplaced {
        let message = format!(
            "{address} is a backend at `{site}` and lies in a prefix of `{}`",
            owner.id.value
        );
        r.report(
            r.mistake(Code::BackendElsewhere, span, message)
                .hint("a backend is a next hop inside its own site"),
        );
    }
    let mut ranges = doc.head.vip_ranges.iter();
    if let Some(range) = ranges.find(|range| range.value.contains(&address)) {
        let message = format!("the backend {address} lies in the VIP range {}", range.value);
        r.report(
            r.mistake(Code::BackendIsVip, span, message)
                .hint("a backend is the next hop that owns the VIP, not the VIP itself"),
        );
    }
    let Some(cluster) = &backend.cluster else {
        return;
    };
    let mut clusters = doc.clusters.iter();
    let found = clusters.find(|c| c.id.value == cluster.value);
    match found {
        Some(found) if found.site.value == *site => {}
        Some(_) => {
            let message = format!("the cluster `{}` is not at `{site}`", cluster.value);
            r.report(r.mistake(Code::ClusterSite, cluster.span, message));
        }
        None if doc.whole => {
            let message = format!("there is no cluster `{}`", cluster.value);
            r.report(
                r.mistake(Code::UnknownCluster, cluster.span, message)
                    .hint("add a `[[cluster]]` to the fabric file, or take it out"),
            );
        }
        None => {}
    }
}

/// A border lets packets from outside through to own-site prefixes only (and to VIPs).
fn own_address(r: &Reader<'_>, site: &SiteDoc, address: At<IpAddr>) {
    let inside = |p: &At<ipnet::IpNet>| p.value.contains(&address.value);
    if !site.prefixes_whole || site.prefixes.iter().any(inside) {
        return;
    }
    let message = format!(
        "{} is answered for `{}` and lies in none of its prefixes",
        address.value, site.id.value
    );
    r.report(
        r.mistake(Code::AddressOutsideSite, address.span, message)
            .hint("a border lets only its own site's prefixes in; add the prefix to the site"),
    );
}

fn approvers(r: &Reader<'_>, service: &ServiceDoc, doc: &FabricDoc) {
    let approvals = service.approvals;
    let id = &service.id.value;
    let may = |o: &&super::fabric_file::OperatorDoc| {
        o.roles.contains(&OperatorRole::Approver)
            && (o.services.is_empty() || o.services.iter().any(|s| s.matches(id)))
    };
    let count = doc.operators.iter().filter(may).count();
    if doc.whole && count < usize::from(approvals.value) {
        let message = format!(
            "`{id}` needs {} approvals, and {count} of the operators may give one",
            approvals.value
        );
        r.report(
            r.mistake(Code::TooFewApprovers, approvals.span, message)
                .hint("add operators with role `approver` for this service to the fabric file"),
        );
    }
}

fn vip_places(
    r: &Reader<'_>,
    service: &ServiceDoc,
    of: &Reader<'_>,
    doc: &FabricDoc,
    nodes: &BTreeMap<IpAddr, Span>,
) {
    for vip in &service.vips {
        if let Some(node) = nodes.get(&vip.value) {
            let message = format!("the VIP {} is the address of a node", vip.value);
            r.report(
                r.mistake(Code::VipIsNode, vip.span, message)
                    .related(of.place(*node), "the node's address"),
            );
        }
        let ranges = &doc.head.vip_ranges;
        let inside = ranges.iter().any(|range| range.value.contains(&vip.value));
        if !inside && !ranges.is_empty() {
            let ranges: Vec<String> = ranges.iter().map(|r| r.value.to_string()).collect();
            let message = format!("the VIP {} lies in no VIP range", vip.value);
            r.report(
                r.mistake(Code::VipOutsideRanges, vip.span, message)
                    .hint(format!("the fabric's ranges are {}", ranges.join(", "))),
            );
        }
    }
}
