//! A small fabric and a service to ask for, shared by all tests of the crate.
//!
//! Four sites: osl - sto 10, osl - fra 30, sto - fra 20, fra - lon 5; lon has the best rank.

#![allow(dead_code, reason = "every test crate uses a part of it")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nett_policy::fabric::{
    BusKeys, ClientPrefix, Fabric, Link, LinkEnd, NameServer, Node, Role, Site, Transfer,
    UnknownClient, Zone,
};
use nett_policy::id::{Epoch, Generation, SiteId, Weight};
use nett_policy::lower::answers::{Answers, ServiceAnswers, SiteHealth, Standing};
use nett_policy::service::{AllDown, FixedAnswers, Port, Prefer, SiteAddresses, Ttl};
use nett_policy::traffic::Spread;

pub(crate) const ZONE: &str = "steer.example.";

pub(crate) fn site(id: &str) -> SiteId {
    id.parse().expect(id)
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

pub(crate) fn zone() -> Zone {
    let server = |name: &str, addresses: &[&str]| NameServer {
        name: name.to_owned(),
        addresses: addresses.iter().map(|a| ip(a)).collect(),
    };
    Zone {
        name: ZONE.to_owned(),
        hostmaster: "dns.example.".to_owned(),
        ns: vec![
            server("ns1.steer.example.", &["192.0.2.53", "2001:db8::53"]),
            server("ns2.dc.steer.example.", &["192.0.2.54"]),
            server("ns.elsewhere.example.", &["192.0.2.55"]),
        ],
        transfer: Transfer::default(),
        dnssec: None,
        ttl: nett_policy::fabric::TtlBounds::default(),
    }
}

fn make_site(id: &str, rank: u32, prefixes: &[&str]) -> Site {
    Site {
        id: site(id),
        region: None,
        rank,
        capacity: 1,
        prefixes: prefixes.iter().map(|p| p.parse().expect(p)).collect(),
        nats: Vec::new(),
        leaf: Vec::new(),
        leaf_key: None,
    }
}

fn make_node(at: &str) -> Node {
    Node {
        id: format!("{at}-b1").parse().expect("a node id"),
        site: site(at),
        role: Role::Border,
        addresses: Vec::new(),
        core: "core0".to_owned(),
        outer: None,
        key: String::new(),
        voter: false,
    }
}

fn make_link(a: &str, b: &str, cost: u32) -> Link {
    let end = |at: &str, to: &str| LinkEnd {
        node: format!("{at}-b1").parse().expect("a node id"),
        interface: format!("to-{to}"),
        addresses: Vec::new(),
        gateway: Vec::new(),
    };
    Link {
        id: format!("{a}-{b}").parse().expect("a link id"),
        cost,
        capacity_bps: None,
        risk: Vec::new(),
        bfd: None,
        failover: None,
        a: end(a, b),
        b: end(b, a),
    }
}

pub(crate) fn fabric() -> Fabric {
    let client = |prefix: &str, at: &str| ClientPrefix {
        prefix: prefix.parse().expect(prefix),
        site: site(at),
    };
    Fabric {
        transits: Vec::new(),
        name: "sample".to_owned(),
        generation: Generation(1),
        hash: String::new(),
        vip_ranges: Vec::new(),
        anchors: Vec::new(),
        unknown_client: UnknownClient::Primary,
        lease: nett_policy::fabric::Lease::default(),
        voter_step: nett_policy::fabric::VoterStep {
            generation: nett_policy::id::Generation(1),
            change: nett_policy::fabric::VoterChange::First,
            lease: nett_policy::fabric::Lease::default(),
        },
        failover: None,
        zone: zone(),
        sites: vec![
            make_site("osl", 2, &["10.1.0.0/16", "2001:db8:1::/48"]),
            make_site("sto", 3, &["10.2.0.0/16"]),
            make_site("fra", 4, &["10.3.0.0/16"]),
            make_site("lon", 1, &["10.4.0.0/16"]),
        ],
        nodes: ["osl", "sto", "fra", "lon"].map(make_node).to_vec(),
        clusters: Vec::new(),
        clients: vec![
            client("198.51.100.0/24", "osl"),
            client("198.51.100.128/25", "sto"),
            client("127.0.0.0/8", "osl"),
            client("127.0.0.2/32", "fra"),
            client("2001:db8:2::/48", "sto"),
        ],
        links: vec![
            make_link("osl", "sto", 10),
            make_link("osl", "fra", 30),
            make_link("sto", "fra", 20),
            make_link("fra", "lon", 5),
        ],
        operators: Vec::new(),
        bus: BusKeys { admin: None, system: None, ca: None },
        safety: Vec::new(),
        freezes: Vec::new(),
    }
}

pub(crate) fn weighted(shares: &[(&str, u32)]) -> Spread {
    let share = |(id, weight): &(&str, u32)| (site(id), Weight::new(*weight).expect("a weight"));
    Spread::Weighted(shares.iter().map(share).collect())
}

pub(crate) fn nearest(sites: &[&str]) -> Spread {
    Spread::Nearest(sites.iter().map(|s| site(s)).collect::<BTreeSet<_>>())
}

/// A service at osl, sto and fra, in this order; site number N answers 192.0.2.N and 2001:db8::N.
pub(crate) fn answers(service: &str, spread: Spread) -> ServiceAnswers {
    let one = |(id, n): (&str, u8)| SiteAddresses {
        site: site(id),
        addresses: vec![ip(&format!("192.0.2.{n}")), ip(&format!("2001:db8::{n}"))],
    };
    let sites: Vec<SiteAddresses> = [("osl", 1), ("sto", 2), ("fra", 3)].map(one).to_vec();
    let health = sites.iter().map(|s| (s.site.clone(), SiteHealth::Up)).collect();
    let fixed = FixedAnswers {
        service: service.parse().expect(service),
        ttl: Ttl::fixed(Duration::from_secs(30)),
        prefer: Prefer::Nearest,
        all_down: AllDown::LastOrder,
        ports: Vec::new(),
        sites,
    };
    let standing =
        Standing { lowered: false, unprotected: false, spread, drained: BTreeSet::new(), health };
    ServiceAnswers { fixed: Arc::new(fixed), epoch: Epoch(7), standing: Arc::new(standing) }
}

/// What no move changes of these answers, to change it.
pub(crate) fn fixed(answers: &mut ServiceAnswers) -> &mut FixedAnswers {
    Arc::make_mut(&mut answers.fixed)
}

/// What a move changes of these answers, to change it.
pub(crate) fn standing(answers: &mut ServiceAnswers) -> &mut Standing {
    Arc::make_mut(&mut answers.standing)
}

pub(crate) fn services(all: impl IntoIterator<Item = ServiceAnswers>) -> Answers {
    all.into_iter().map(|a| (a.fixed.service.clone(), a)).collect()
}

/// One service of each kind of spread.
pub(crate) fn usual() -> Answers {
    let mut refuse = answers("shop/prod/refuse", Spread::Nowhere);
    fixed(&mut refuse).all_down = AllDown::Refuse;
    let mut fallback = answers("shop/prod/fallback", Spread::Nowhere);
    fixed(&mut fallback).all_down = AllDown::Fallback(ip("203.0.113.9"));
    let mut drained = answers("shop/prod/drained", weighted(&[("sto", 1)]));
    standing(&mut drained).drained.insert(site("osl"));
    let mut v4 = answers("shop/prod/v4", weighted(&[("osl", 1)]));
    fixed(&mut v4).sites[0].addresses = vec![ip("192.0.2.1"), ip("192.0.2.11"), ip("192.0.2.1")];
    let mut wide = answers("shop/prod/wide", weighted(&[("osl", 1)]));
    fixed(&mut wide).sites[0].addresses = (0..=255).map(|n| ip(&format!("10.0.0.{n}"))).collect();
    let mut ports = answers("shop/prod/ports", nearest(&["osl", "sto", "fra"]));
    let port = |name: &str, port| Port { name: name.to_owned(), port };
    fixed(&mut ports).ports = vec![port("https", 8443), port("smtp", 25)];
    services([
        ports,
        answers("shop/prod/api", weighted(&[("osl", 1)])),
        answers("shop/prod/ramp", weighted(&[("osl", 3), ("sto", 1)])),
        answers("shop/prod/near", nearest(&["osl", "sto", "fra"])),
        answers("shop/prod/last", Spread::Nowhere),
        refuse,
        fallback,
        drained,
        v4,
        wide,
    ])
}
