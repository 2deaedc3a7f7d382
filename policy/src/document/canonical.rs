//! The hash of what a fabric file means. Nodes compare it, so the rendering below is part of the
//! protocol between agents: it changes only together with the meaning of a key.

use serde_json::{Value, json};

use crate::fabric::{
    Bfd, BusKeys, ClientPrefix, Cluster, Dnssec, Fabric, Freeze, Lease, Limit, Link, LinkEnd,
    NameServer, Node, Operator, OperatorRole, Role, SafetyRule, Secondary, Site, Transfer, Transit,
    TtlBounds, UnknownClient, VoterChange, VoterStep, Zone, ZoneKeys,
};
use crate::failover::FailoverMark;
use crate::id::sha256_hex;

/// SHA-256 in lower-case hexadecimal over one line of JSON made of arrays alone: no key order, no
/// layout and no spelling of an address can change it. Places in lists count: they are identities.
pub(super) fn hash(fabric: &Fabric, later: &[Value]) -> String {
    let Fabric {
        name,
        generation,
        hash: _,
        vip_ranges,
        anchors,
        unknown_client,
        lease: _,
        voter_step,
        failover,
        zone: Zone { name: zone, hostmaster, ns, transfer, dnssec, ttl },
        sites,
        nodes,
        clusters,
        clients,
        links,
        transits,
        operators,
        bus: BusKeys { admin, system, ca },
        safety,
        freezes,
    } = fabric;
    let unknown_client = match unknown_client {
        UnknownClient::Primary => "primary",
        UnknownClient::Nearest => "nearest",
    };
    let ns = ns.iter().map(|NameServer { name, addresses }| json!([name, texts(addresses)]));
    let clusters = clusters.iter().map(|Cluster { id, site }| json!([id.as_str(), site.as_str()]));
    let clients = clients
        .iter()
        .map(|ClientPrefix { prefix, site }| json!([prefix.to_string(), site.as_str()]));
    let VoterStep { generation: of_voters, change, lease } = voter_step;
    // So have the first voters.
    let voters = match change {
        VoterChange::First => None,
        VoterChange::Added(node) => Some(json!(["voters", of_voters.0, "added", node.as_str()])),
        VoterChange::Removed(node) => {
            Some(json!(["voters", of_voters.0, "removed", node.as_str()]))
        }
        VoterChange::Lease(Lease { duration, wait }) => {
            Some(json!(["voters", of_voters.0, "lease_before", millis(*duration), millis(*wait)]))
        }
    };
    // The usual lease has the form that it had before it could be given.
    let lease = (*lease != Lease::default())
        .then(|| json!(["lease", millis(lease.duration), millis(lease.wait)]));
    // So have TTLs without bounds.
    let TtlBounds { floor, ceiling } = ttl;
    let ttl = (*ttl != TtlBounds::default())
        .then(|| json!(["zone-ttl", floor.as_secs(), ceiling.as_secs()]));
    let failover = failover.map(marked);
    // Nor does a fabric whose sites let nothing through say so.
    let transits =
        (!transits.is_empty()).then(|| json!(["transit", list(transits.iter().map(transit))]));
    let extras = lease.iter().chain(&ttl).chain(&failover).chain(&transits).chain(&voters);
    let later: Vec<&Value> = later.iter().chain(extras).collect();
    let whole = json!([
        "nett-fabric-1",
        name,
        generation.0,
        texts(vip_ranges),
        texts(anchors),
        unknown_client,
        zone_extras(json!([zone, hostmaster, list(ns)]), transfer, dnssec.as_ref()),
        list(sites.iter().map(site)),
        list(nodes.iter().map(node)),
        list(clusters),
        list(clients),
        list(links.iter().map(link)),
        list(operators.iter().map(operator)),
        [admin, system, ca],
        list(safety.iter().map(safety_rule)),
        list(freezes.iter().map(freeze)),
        later,
    ]);
    sha256_hex(whole.to_string().as_bytes())
}

/// A zone that is neither copied nor signed has the form it had before it could be.
fn zone_extras(zone: Value, transfer: &Transfer, dnssec: Option<&Dnssec>) -> Value {
    let (Value::Array(mut zone), false) =
        (zone.clone(), *transfer == Transfer::default() && dnssec.is_none())
    else {
        return zone;
    };
    let Transfer { from, site, to } = transfer;
    let to =
        to.iter().map(|Secondary { address, tsig }| json!([address.map(|a| a.to_string()), tsig]));
    let from = from.as_ref().map(|n| n.as_str());
    zone.push(json!([from, site.as_ref().map(|s| s.as_str()), list(to)]));
    zone.extend(dnssec.map(|Dnssec { keys, publish, validity }| {
        let keys = match keys {
            ZoneKeys::One(key) => json!([key]),
            ZoneKeys::Split { ksk, zsk } => json!([ksk, zsk]),
        };
        json!([keys, texts(publish), validity.as_secs()])
    }));
    Value::Array(zone)
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).expect("the form has a bound")
}

fn list(items: impl Iterator<Item = Value>) -> Value {
    Value::Array(items.collect())
}

fn texts<T: std::fmt::Display>(items: &[T]) -> Value {
    list(items.iter().map(|i| Value::String(i.to_string())))
}

fn site(site: &Site) -> Value {
    let Site { id, region, rank, capacity, prefixes, nats, leaf, leaf_key } = site;
    let prefixes = texts(prefixes);
    json!([id.as_str(), region, rank, capacity, prefixes, nats, leaf, leaf_key])
}

fn node(node: &Node) -> Value {
    let Node { id, site, role, addresses, core, outer, key, voter } = node;
    let role = match role {
        Role::Border => "border",
        Role::Route => "route",
        Role::Witness => "witness",
    };
    let addresses = texts(addresses);
    json!([id.as_str(), site.as_str(), role, addresses, core, outer, key, voter])
}

fn link(link: &Link) -> Value {
    let Link { id, cost, capacity_bps, risk, bfd, failover, a, b } = link;
    let (a, b) = (link_end(a), link_end(b));
    // A link without sessions and marks has the form that it had before there were any.
    let bfd = bfd.map(|Bfd { tx, rx, multiplier }| {
        json!(["bfd", millis(tx), millis(rx), multiplier]) //
    });
    let mut all = vec![json!(id.as_str()), json!(cost), json!(capacity_bps), json!(risk), a, b];
    all.extend(bfd);
    all.extend(failover.map(marked));
    Value::Array(all)
}

fn marked(mark: FailoverMark) -> Value {
    let FailoverMark { dscp, class } = mark;
    json!(["failover", dscp, class.map(|class| class.to_string())])
}

fn transit(transit: &Transit) -> Value {
    let Transit { via, between } = transit;
    json!([via.as_str(), texts(between)])
}

fn link_end(end: &LinkEnd) -> Value {
    let LinkEnd { node, interface, addresses, gateway } = end;
    json!([node.as_str(), interface, texts(addresses), texts(gateway)])
}

fn operator(operator: &Operator) -> Value {
    let Operator { name, key, roles, services } = operator;
    let role = |r: &OperatorRole| match r {
        OperatorRole::Operator => "operator",
        OperatorRole::Approver => "approver",
        OperatorRole::Gate => "gate",
        OperatorRole::Viewer => "viewer",
    };
    let roles: Vec<&str> = roles.iter().map(role).collect();
    json!([name, key, roles, texts(services)])
}

/// The rule that there was before the others has the form it had then.
fn safety_rule(rule: &SafetyRule) -> Value {
    let SafetyRule { id, owner, limit } = rule;
    match limit {
        Limit::AtLeast { least, of } => json!([id.as_str(), least, texts(of), owner]),
        Limit::DrainedShare { percent, of } => {
            json!([id.as_str(), owner, "drained_share", percent, texts(of)])
        }
        Limit::TasksAtOnce { most, services } => {
            json!([id.as_str(), owner, "tasks_at_once", most, texts(services)])
        }
        Limit::LinkLoad { percent, local_share } => {
            json!([id.as_str(), owner, "link_load", percent, local_share])
        }
        Limit::SiteLoad { percent, of } => {
            json!([id.as_str(), owner, "site_load", percent, texts(of)])
        }
        Limit::RiskGroups { least, of } => {
            json!([id.as_str(), owner, "risk_groups", least, texts(of)])
        }
        Limit::Switch { fact, services, except } => {
            json!([id.as_str(), owner, "switch", fact, texts(services), except])
        }
    }
}

fn freeze(freeze: &Freeze) -> Value {
    let Freeze { from, to, services, except, owner } = freeze;
    match owner {
        None => json!([from.0, to.0, texts(services), except]),
        Some(owner) => json!([from.0, to.0, texts(services), except, owner]),
    }
}
