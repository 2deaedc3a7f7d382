//! From checked documents to domain types. Every document is taken apart in full, so that a new
//! key cannot be forgotten here.
//!
//! Runs only when no mistake was found; the invariants it expects are those of the checks.

use std::sync::Arc;

use super::canonical;
use super::fabric_file::{ClusterDoc, FabricDoc, Head, NodeDoc, OperatorDoc, SiteDoc};
use super::link_file::{EndDoc, LinkDoc};
use super::read::At;
use super::safety_file::SafetyDoc;
use super::service_file::{BackendDoc, IsolationDoc, IsolationWord, RampDoc, ServiceDoc, SitesDoc};
use super::transit_file::TransitDoc;
use super::voters_file;
use super::zone_file::ZoneDoc;
use crate::fabric::{
    ClientPrefix, Cluster, Fabric, Link, LinkEnd, Node, Operator, SafetyRule, Site, Transit,
    TtlBounds, UnknownClient, Zone,
};
use crate::service::{Backend, Isolation, Mode, Readmit, Service, Standby};

const CHECKED: &str = "checked: a file with a missing or broken key is refused";

fn values<T>(list: Vec<At<T>>) -> Vec<T> {
    list.into_iter().map(|at| at.value).collect()
}

/// `later` is what the file says about keys without a function yet; it counts for the hash.
pub(super) fn fabric(doc: FabricDoc, later: &[serde_json::Value]) -> Fabric {
    let FabricDoc {
        head,
        zone,
        sites,
        sites_span: _,
        nodes,
        clusters,
        clients,
        links,
        transits,
        operators,
        bus,
        safety,
        freezes,
        whole: _,
    } = doc;
    let Head { name, generation, vip_ranges, anchors, unknown_client, lease, voters, failover } =
        head;
    let (lease, voter_step) = voters_file::build(voters, lease.unwrap_or_default());
    let client =
        |(prefix, site): (At<_>, At<_>)| ClientPrefix { prefix: prefix.value, site: site.value };
    let mut fabric = Fabric {
        name,
        generation: generation.expect(CHECKED),
        hash: String::new(),
        vip_ranges: values(vip_ranges),
        anchors,
        unknown_client: unknown_client.unwrap_or(UnknownClient::Primary),
        lease,
        voter_step,
        failover,
        zone: zone.map(zone_of).expect(CHECKED),
        sites: sites.into_iter().map(site).collect(),
        nodes: nodes.into_iter().map(node).collect(),
        clusters: clusters.into_iter().map(cluster).collect(),
        clients: clients.into_iter().map(client).collect(),
        links: links.into_iter().map(link).collect(),
        transits: transits.into_iter().map(transit).collect(),
        operators: operators.into_iter().map(operator).collect(),
        bus,
        safety: safety.into_iter().map(safety_rule).collect(),
        freezes,
    };
    fabric.hash = canonical::hash(&fabric, later);
    fabric
}

/// The other parts say where things stand in the file.
fn zone_of(doc: ZoneDoc) -> Zone {
    let ZoneDoc { zone, transfer_from: _, transfer_site: _ } = doc;
    zone
}

fn site(doc: SiteDoc) -> Site {
    let SiteDoc {
        id,
        region,
        rank,
        capacity,
        prefixes,
        prefixes_given: _,
        prefixes_whole: _,
        nats,
        leaf,
        leaf_key,
    } = doc;
    Site {
        id: id.value,
        region,
        rank: rank.expect(CHECKED).value,
        capacity,
        prefixes: values(prefixes),
        nats,
        leaf,
        leaf_key: leaf_key.map(|k| k.value),
    }
}

fn node(doc: NodeDoc) -> Node {
    let NodeDoc { id, site, role, addresses, core, outer, key, voter } = doc;
    Node {
        id: id.value,
        site: site.value,
        role,
        addresses: values(addresses),
        core: core.map(|c| c.value).unwrap_or_default(),
        outer: outer.map(|o| o.value),
        key: key.expect(CHECKED).value,
        voter: voter.is_some(),
    }
}

fn cluster(doc: ClusterDoc) -> Cluster {
    let ClusterDoc { id, site } = doc;
    Cluster { id: id.value, site: site.value }
}

fn link(doc: LinkDoc) -> Link {
    let LinkDoc { id, cost, capacity_bps, risk, bfd, failover, a, b } = doc;
    let bfd = bfd.map(|(bfd, _)| bfd);
    let (a, b) = (link_end(a), link_end(b));
    Link { id: id.value, cost, capacity_bps, risk, bfd, failover, a, b }
}

fn link_end(doc: EndDoc) -> LinkEnd {
    let EndDoc { node, interface, addresses, gateway } = doc;
    LinkEnd {
        node: node.value,
        interface: interface.expect(CHECKED).value,
        addresses: values(addresses),
        gateway: values(gateway),
    }
}

fn transit(doc: TransitDoc) -> Transit {
    let TransitDoc { via, between, between_span: _ } = doc;
    let mut between = <[At<_>; 2]>::try_from(between).expect(CHECKED).map(|site| site.value);
    between.sort_unstable();
    Transit { via: via.value, between }
}

fn operator(doc: OperatorDoc) -> Operator {
    let OperatorDoc { name, key, roles, services } = doc;
    Operator { name: name.value, key: key.expect(CHECKED).value, roles, services }
}

fn safety_rule(doc: SafetyDoc) -> SafetyRule {
    let SafetyDoc { id, owner, limit, least: _, of: _ } = doc;
    SafetyRule { id: id.value, owner, limit: limit.expect(CHECKED) }
}

pub(super) fn service(doc: ServiceDoc, ttl_bounds: TtlBounds) -> Service {
    let ServiceDoc {
        id,
        category,
        sites,
        vips,
        backends,
        backends_span: _,
        backends_whole: _,
        addresses,
        isolation,
        handover,
        trigger,
        approvals,
        residency,
        ramp,
        shift,
        sticky,
        prefer,
        all_down,
        ttl,
        ports,
        health,
        hold_down,
        drain,
        gates,
        external,
        load,
        rto,
        rpo,
    } = doc;
    let IsolationDoc { word, fence, overlapping_handover: _ } = isolation;
    let RampDoc { steps, dwell, span: _ } = ramp;
    let backends = backends
        .into_iter()
        .map(|(site, list)| (site.value, list.into_iter().map(backend).collect()));
    let addresses = addresses.into_iter().map(|(s, list)| (s.value, values(list)));
    Service {
        id: id.value,
        category,
        mode: mode(sites),
        vips: values(vips),
        backends: Arc::new(backends.collect()),
        addresses: addresses.collect(),
        handover,
        isolation: match word.value {
            IsolationWord::Static => Isolation::Static,
            IsolationWord::Lease => Isolation::Lease,
            IsolationWord::Exclusive => Isolation::Exclusive,
        },
        fenced_outside: fence.is_some(),
        trigger,
        approvals: approvals.value,
        residency: values(residency),
        ramp: steps,
        ramp_dwell: dwell,
        shift: shift.value,
        sticky,
        prefer,
        all_down,
        ttl: ttl.within(ttl_bounds),
        ports,
        health,
        hold_down,
        drain,
        gates,
        external: values(external),
        load,
        rto,
        rpo,
    }
}

fn backend(doc: BackendDoc) -> Backend {
    let BackendDoc { address, cluster, weight } = doc;
    Backend { address: address.value, cluster: cluster.map(|c| c.value), weight }
}

fn mode(doc: SitesDoc) -> Mode {
    let SitesDoc {
        active_active,
        primary,
        standby,
        standby_span: _,
        active,
        active_span: _,
        readmit,
        whole: _,
        span: _,
    } = doc;
    if active_active {
        return Mode::ActiveActive {
            active: values(active),
            readmit: readmit.map_or(Readmit::Manual, |r| r.value),
        };
    }
    let standby =
        standby.into_iter().map(|(site, min_healthy)| Standby { site: site.value, min_healthy });
    Mode::ActivePassive { primary: primary.expect(CHECKED).value, standby: standby.collect() }
}
