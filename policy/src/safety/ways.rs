//! The last border, the last route node, the last link and the last cluster: a drain must leave one
//! in service.
//!
//! In service is what is neither drained nor known to be out: a node that has not reported for too
//! long, a link that one of its ends cannot use. What was out before is nobody's fault now: a rule
//! is broken only by a command that takes something away.

use super::limits::{carries, is_drained};
use super::{LAST_BORDER, LAST_CLUSTER, LAST_LINK, LAST_ROUTE_NODE, built_in};
use crate::fabric::{Family, Link, Node, Role, Transit};
use crate::id::{ClusterId, SiteId};
use crate::log::intent::Intent;
use crate::place::{Drained, resides};
use crate::service::Service;
use crate::task::decide::{Present, Refusal};

/// The rules that the state after a change would break.
pub(super) fn last_ways(present: Present<'_>, after: &Intent) -> Vec<Refusal> {
    let (before, after) = (present.intent.drained_ways(), after.drained_ways());
    if before == after {
        return Vec::new();
    }
    let fabric = present.world.fabric;
    let mut broken: Vec<Refusal> = last_cluster(present, [&before, &after]).into_iter().collect();
    for site in &fabric.sites {
        for role in [Role::Border, Role::Route] {
            broken.extend(last_node(present, &site.id, role, [&before, &after]));
        }
        let later = fabric.sites.iter().skip_while(|other| other.id != site.id).skip(1);
        for other in later {
            broken.extend(last_link(present, [&site.id, &other.id], [&before, &after]));
        }
    }
    broken
}

fn last_node(
    present: Present<'_>,
    site: &SiteId,
    role: Role,
    [before, after]: [&Drained; 2],
) -> Option<Refusal> {
    let nodes: Vec<&Node> = present.world.fabric.nodes_of(site, role).collect();
    let out = |n: &&&Node| after.nodes.contains(&n.id) || present.sight.away.contains(&n.id);
    if nodes.iter().filter(|n| !out(n)).count() > 0 {
        return None;
    }
    let taken = nodes.iter().any(|n| after.nodes.contains(&n.id) && !before.nodes.contains(&n.id));
    let (rule, what) = match role {
        Role::Border => (LAST_BORDER, "border"),
        Role::Route | Role::Witness => (LAST_ROUTE_NODE, "route node"),
    };
    let why = nodes.iter().map(|node| match present.sight.away.contains(&node.id) {
        true => format!("{} has not been heard", node.id),
        false => format!("{} would be drained", node.id),
    });
    let why = why.collect::<Vec<_>>().join(", ");
    let message = format!("site {site} would have no {what} in service: {why}");
    taken.then(|| built_in(rule, message))
}

/// Whatever of it is drained, a service keeps backends at each of its sites, of each family that it
/// has there. Nobody knows yet which of them are healthy.
fn last_cluster(present: Present<'_>, [before, after]: [&Drained; 2]) -> Option<Refusal> {
    let new: Vec<_> = after.clusters.difference(&before.clusters).collect();
    if new.is_empty() {
        return None;
    }
    for service in present.world.catalog.iter() {
        for (site, _) in service.backends.iter() {
            for family in Family::BOTH {
                let clusters: Vec<_> =
                    service.backends(site, family).map(|b| b.cluster.as_ref()).collect();
                let taken = clusters.iter().flatten().find(|cluster| new.contains(cluster));
                let out = |cluster: &ClusterId| after.clusters.contains(cluster);
                let left = clusters.iter().any(|cluster| cluster.is_none_or(|one| !out(one)));
                if let Some(taken) = taken.filter(|_| !left) {
                    let message = format!(
                        "{} would have no backends ({}) at {site} but those of drained \
                         clusters; {taken} is the last one",
                        service.id,
                        family.name()
                    );
                    return Some(built_in(LAST_CLUSTER, message));
                }
            }
        }
    }
    None
}

/// Each family is judged for itself: a packet takes none of the other's links. A way through a
/// third site is one for it, as `Fabric::goes_through` says; taken away, it is missed like a link.
fn last_link(
    present: Present<'_>,
    sites: [&SiteId; 2],
    [before, after]: [&Drained; 2],
) -> Option<Refusal> {
    let fabric = present.world.fabric;
    let through = |drained: &Drained, family| {
        fabric.goes_through(sites, family, &|link| carries(present, drained, link))
    };
    let left = |family| {
        let mut links = fabric.links_between(sites, family);
        let all_may = |transit: &Transit| barred(present, sites, &transit.via).is_none();
        links.any(|link| carries(present, after, link))
            || through(after, family).is_some_and(all_may)
    };
    let taken = |family| {
        let mut links = fabric.links_between(sites, family);
        links.any(|link| is_drained(after, link) && !is_drained(before, link))
            || through(before, family).is_some() && through(after, family).is_none()
    };
    let family = Family::BOTH.into_iter().find(|family| !left(*family) && taken(*family))?;
    let why = |link: &Link| match carries(present, &Drained::default(), link) {
        true => format!("{} would be drained", link.id),
        false => format!("{} is down", link.id),
    };
    let mut whys: Vec<String> = fabric.links_between(sites, family).map(why).collect();
    if let Some(Transit { via, .. }) = fabric.transit_between(sites[0], sites[1]) {
        let halves = sites.iter().flat_map(|site| fabric.links_between([site, via], family));
        let lost = halves.filter(|link| !carries(present, after, link)).map(why);
        let barred = barred(present, sites, via).map(|service| &service.id);
        match through(after, family) {
            Some(_) => whys.extend(barred.map(|id| format!("{id} may not go through {via}"))),
            None => whys.extend(lost),
        }
    }
    let other = Family::BOTH.into_iter().any(|other| other != family && left(other));
    let only = if other { format!(" ({})", family.name()) } else { String::new() };
    let ([one, other], why) = (sites, whys.join(", "));
    let message = format!("no link{only} between {one} and {other} in service: {why}");
    Some(built_in(LAST_LINK, message))
}

/// A service at one of two sites that may not go through a third one.
fn barred<'a>(present: Present<'a>, sites: [&SiteId; 2], via: &SiteId) -> Option<&'a Service> {
    let is_barred = |service: &&Service| {
        service.sites().iter().any(|site| sites.contains(&site))
            && !resides(present.world, service, via)
    };
    present.world.catalog.iter().find(is_barred)
}
