//! The last border, the last route node, the last link and the last cluster: a drain must leave one
//! in service.
//!
//! In service is what is neither drained nor known to be out: a node that has not reported for too
//! long, a link that one of its ends cannot use. What was out before is nobody's fault now: a rule
//! is broken only by a command that takes something away.

use super::{LAST_BORDER, LAST_CLUSTER, LAST_LINK, LAST_ROUTE_NODE, built_in};
use crate::fabric::{Family, Link, Node, Role, Transit};
use crate::id::{ClusterId, NodeId, SiteId};
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
                        "{} would have no backends ({family:?}) at {site} but those of drained \
                         clusters; {taken} is the last one",
                        service.id
                    );
                    return Some(built_in(LAST_CLUSTER, message));
                }
            }
        }
    }
    None
}

fn last_link(
    present: Present<'_>,
    sites: [&SiteId; 2],
    [before, after]: [&Drained; 2],
) -> Option<Refusal> {
    let fabric = present.world.fabric;
    let site_of = |node: &NodeId| fabric.node(node).map(|n| n.site.clone());
    let joins = |link: &&Link| {
        let ends = [site_of(&link.a.node), site_of(&link.b.node)];
        let [one, other] = sites.map(|site| Some(site.clone()));
        ends == [one.clone(), other.clone()] || ends == [other, one]
    };
    let links: Vec<&Link> = fabric.links.iter().filter(joins).collect();
    let drained = |drained: &Drained, link: &Link| {
        let ends = [&link.a.node, &link.b.node];
        drained.links.contains(&link.id) || ends.iter().any(|n| drained.nodes.contains(*n))
    };
    let out = |link: &Link| {
        let away = &present.sight.away;
        let silent = away.contains(&link.a.node) || away.contains(&link.b.node);
        silent || present.sight.down.contains(&link.id)
    };
    let serves = |link: &Link| !drained(after, link) && !out(link);
    let left = links.iter().any(|link| serves(link)) || goes_through(present, sites, &serves);
    let taken = links.iter().any(|link| drained(after, link) && !drained(before, link));
    if left || !taken {
        return None;
    }
    let why = links.iter().map(|link| match out(link) {
        true => format!("{} is down", link.id),
        false => format!("{} would be drained", link.id),
    });
    let why = why.collect::<Vec<_>>().join(", ");
    let [one, other] = sites;
    Some(built_in(LAST_LINK, format!("no link between {one} and {other} in service: {why}")))
}

/// Whether traffic between two sites goes through a third one that lets it: every service may, and
/// a border there has links to both that serve.
fn goes_through(present: Present<'_>, sites: [&SiteId; 2], serves: &dyn Fn(&Link) -> bool) -> bool {
    let (world, fabric) = (present.world, present.world.fabric);
    let Some(Transit { via, .. }) = fabric.transit_between(sites[0], sites[1]) else {
        return false;
    };
    let joins = |border: &Node| {
        sites.iter().all(|site| {
            let mut links = fabric.links_of(&border.id).filter(|view| view.far_site == *site);
            links.any(|view| serves(view.link))
        })
    };
    let barred = |service: &Service| {
        service.sites().iter().any(|site| sites.contains(&site)) && !resides(world, service, via)
    };
    fabric.nodes_of(via, Role::Border).any(joins) && !world.catalog.iter().any(barred)
}
