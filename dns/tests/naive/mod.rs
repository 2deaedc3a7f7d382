//! What a client is to be told, worked out from the files and a placement by the sentences of
//! `docs/DNS.md`, one after the other: slowly, without tables, and with nothing of the name
//! server's own. And what a snapshot does tell, read from the bytes of its answer by hand.
//!
//! Whoever tests steering includes this file, also the tests of the agent.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nett_dns::{Ask, Outcome, Profile, Transport, Zone, answer};
use nett_policy::fabric::{Fabric, Family, UnknownClient};
use nett_policy::id::{ServiceId, SiteId};
use nett_policy::service::{AllDown, Prefer, Service};
use nett_policy::traffic::Spread;

/// Where questions come from that carry a client subnet: nobody's network.
const RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9));

/// Who asks for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) source: IpAddr,
    /// The client subnet in the question (RFC 7871).
    pub(crate) subnet: Option<IpNet>,
    pub(crate) family: Family,
}

/// What an answer says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) refused: bool,
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Of the addresses, in seconds.
    pub(crate) ttls: BTreeSet<u64>,
    /// Where the question has a subnet.
    pub(crate) scope: Option<u8>,
}

/// All that an answer may depend on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State<'a> {
    pub(crate) fabric: &'a Fabric,
    /// The site of the name server.
    pub(crate) home: Option<&'a SiteId>,
    pub(crate) service: &'a Service,
    /// The `answers` of its traffic state.
    pub(crate) spread: &'a Spread,
    pub(crate) lowered: bool,
    /// A lease of the name server's own site has run out.
    pub(crate) over: bool,
}

/// Where a client is sent.
enum To {
    Site(SiteId),
    Address(IpAddr),
    Refused,
}

// === impl Question ===

impl Question {
    /// As a client asks by itself.
    pub(crate) fn from(source: IpAddr, family: Family) -> Self {
        Self { source, subnet: None, family }
    }

    /// As a resolver asks for so many bits of a client's address.
    pub(crate) fn about(client: IpAddr, bits: u8, family: Family) -> Self {
        let subnet = IpNet::new(client, bits).expect("not longer than the address").trunc();
        Self { source: RESOLVER, subnet: Some(subnet), family }
    }

    /// The ways in which a client may come: by itself, by a resolver that tells its block, and by
    /// ones that tell less and nothing. Both families each.
    pub(crate) fn all_of(client: IpAddr) -> impl Iterator<Item = Self> {
        let [block, less] = if client.is_ipv4() { [24, 18] } else { [56, 40] };
        let ask = move |family| {
            let told = [block, less, 0].map(|bits| Self::about(client, bits, family));
            [Self::from(client, family)].into_iter().chain(told)
        };
        Family::BOTH.into_iter().flat_map(ask)
    }

    /// Who asks: the subnet if it says anything, else the source alone.
    fn network(&self) -> IpNet {
        let told = self.subnet.filter(|subnet| subnet.prefix_len() > 0);
        told.unwrap_or_else(|| IpNet::from(self.source))
    }
}

// === impl State ===

impl State<'_> {
    pub(crate) fn told(&self, question: &Question) -> Told {
        let (to, scope) = self.choice(question.network());
        // A subnet that says nothing is told that the answer is for everybody.
        let wide = question.subnet.is_some_and(|subnet| subnet.prefix_len() == 0);
        let mut told = Told {
            scope: question.subnet.map(|_| if wide || self.over { 0 } else { scope }),
            ..Told::default()
        };
        if self.over {
            return told;
        }
        match to {
            To::Refused => told.refused = true,
            To::Address(address) => told.addresses.extend([address]),
            To::Site(site) => told.addresses = self.addresses(&site, question.family),
        }
        told.addresses.retain(|address| Family::of(*address) == question.family);
        if !told.addresses.is_empty() {
            let ttl = self.service.ttl;
            let ttl = if self.lowered { ttl.floor } else { ttl.ceiling };
            let (least, most) = (self.fabric.zone.ttl.floor, self.fabric.zone.ttl.ceiling);
            told.ttls.insert(ttl.max(least).min(most).as_secs());
        }
        told
    }

    /// The addresses of a site: its own of that family, else the service's.
    pub(crate) fn addresses(&self, site: &SiteId, family: Family) -> BTreeSet<IpAddr> {
        let of = |all: &[IpAddr]| -> BTreeSet<IpAddr> {
            all.iter().copied().filter(|address| Family::of(*address) == family).collect()
        };
        let own = self.service.addresses.get(site).map(|own| of(own)).unwrap_or_default();
        if own.is_empty() { of(&self.service.vips) } else { own }
    }

    /// The sites that clients may be sent to now.
    pub(crate) fn sites(&self) -> BTreeSet<SiteId> {
        match (self.spread, self.service.all_down) {
            (Spread::Nowhere, AllDown::LastOrder) => [self.service.sites()[0].clone()].into(),
            (spread, _) => spread.sites(),
        }
    }

    /// Where clients of a network are sent, and how many of its leading bits that is for.
    fn choice(&self, network: IpNet) -> (To, u8) {
        let order = self.service.sites();
        let served: Vec<&SiteId> = order.iter().filter(|site| self.spread.has(site)).collect();
        let (block, scope) = block(network);
        match (self.spread, served.as_slice()) {
            (_, []) => match self.service.all_down {
                AllDown::LastOrder => (To::Site(order[0].clone()), 0),
                AllDown::Refuse => (To::Refused, 0),
                AllDown::Fallback(address) => (To::Address(address), 0),
            },
            (_, [only]) => (To::Site((*only).clone()), 0),
            (Spread::Weighted(weights), _) => {
                let age = |site: &SiteId| {
                    let weight = weights.get(site).expect("it is served").get();
                    -uniform(block, site).ln() / f64::from(weight)
                };
                let first = served.iter().min_by(|a, b| age(a).total_cmp(&age(b)));
                (To::Site((**first.expect("several")).clone()), scope)
            }
            (Spread::Nearest(_) | Spread::Nowhere, served) => {
                let everybody = self.service.prefer == Prefer::Primary;
                let scope = if everybody { 0 } else { self.alike(network) };
                (To::Site(self.nearest(network, served)), scope)
            }
        }
    }

    fn nearest(&self, network: IpNet, served: &[&SiteId]) -> SiteId {
        let fabric = self.fabric;
        if self.service.prefer == Prefer::Primary {
            return served[0].clone();
        }
        let best = || fabric.sites.iter().min_by_key(|site| site.rank).map(|site| site.id.clone());
        let own = self.site_of(network).unwrap_or_else(|| match fabric.unknown_client {
            UnknownClient::Primary => self.service.sites()[0].clone(),
            UnknownClient::Nearest => self.home.cloned().or_else(best).expect("a site"),
        });
        if served.contains(&&own) {
            return own;
        }
        if self.service.prefer == Prefer::Local {
            return served[0].clone();
        }
        let distance = |site: &SiteId| {
            let joins = fabric.links.iter().filter(|link| {
                let ends = fabric.joined_by(link);
                ends.contains(&&own) && ends.contains(&site)
            });
            let cost = joins.map(|link| link.cost).min().unwrap_or(u32::MAX);
            (cost, fabric.rank(site))
        };
        (*served.iter().min_by_key(|site| distance(site)).expect("several")).clone()
    }

    /// Every prefix that says where a client is. Of equal ones that of `[[client]]` comes last.
    fn prefixes(&self) -> impl Iterator<Item = (IpNet, &SiteId)> {
        let of_sites = self.fabric.sites.iter();
        let of_sites = of_sites.flat_map(|site| site.prefixes.iter().map(|p| (*p, &site.id)));
        of_sites.chain(self.fabric.clients.iter().map(|client| (client.prefix, &client.site)))
    }

    /// The site of the longest prefix around all of the network.
    pub(crate) fn site_of(&self, network: IpNet) -> Option<SiteId> {
        let around = self.prefixes().filter(|(prefix, _)| prefix.contains(&network));
        around.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, site)| site.clone())
    }

    /// The fewest leading bits of the network such that no prefix tells some of the clients with
    /// these bits from others.
    pub(crate) fn alike(&self, network: IpNet) -> u8 {
        let apart = |bits: &u8| {
            let block = IpNet::new(network.addr(), *bits).expect("a length").trunc();
            let inside =
                |prefix: IpNet| prefix.prefix_len() > *bits && block.contains(&prefix.trunc());
            !self.prefixes().any(|(prefix, _)| inside(prefix))
        };
        (0..=network.max_prefix_len()).find(apart).expect("single addresses are told apart")
    }
}

/// The block of clients that share what is drawn, or the network where it is wider; and the bits of
/// such a block.
fn block(network: IpNet) -> (IpNet, u8) {
    let bits = if network.addr().is_ipv4() { 24 } else { 56 };
    let length = network.prefix_len().min(bits);
    (IpNet::new(network.addr(), length).expect("shorter").trunc(), bits)
}

/// The number between 0 and 1 that a site draws for a block, as `docs/DNS.md` has it.
fn uniform(block: IpNet, site: &SiteId) -> f64 {
    let mix = |mut n: u64| {
        for (shift, factor) in [(30, 0xbf58_476d_1ce4_e5b9_u64), (27, 0x94d0_49bb_1331_11eb)] {
            n = (n ^ (n >> shift)).wrapping_mul(factor);
        }
        n ^ (n >> 31)
    };
    let mut name: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in site.as_str().bytes() {
        name = (name ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let bits = match block.addr() {
        IpAddr::V4(address) => (1 << 40) + u64::from(u32::from(address)),
        // A block has 56 bits at most.
        IpAddr::V6(address) => (u128::from(address) >> 64) as u64,
    };
    let number = mix(mix(bits).wrapping_add(u64::from(block.prefix_len())) ^ mix(name));
    (number.max(1)) as f64 / 2f64.powi(64)
}

// === the wire ===

/// Asks a snapshot for a service's own name.
///
/// # Panics
/// What comes back is no whole, authoritative answer, or a refusal with records.
pub(crate) fn ask(zone: &Zone, fabric: &Fabric, service: &ServiceId, question: &Question) -> Told {
    let packet = question_packet(fabric, service, question);
    let (profile, source) = (&Profile::default(), question.source);
    let asked = Ask { packet: &packet, source, transport: Transport::Udp, now: 0, profile };
    let mut out = Vec::new();
    let outcome = answer(zone, &asked, &mut out);
    assert!(matches!(outcome, Outcome::Reply { truncated: false, .. }), "{outcome:?}");
    read(&out, question)
}

/// A question on the wire.
pub(crate) fn question_packet(
    fabric: &Fabric,
    service: &ServiceId,
    question: &Question,
) -> Vec<u8> {
    let mut packet = vec![7, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(question.subnet.is_some())];
    let labels = service.as_str().rsplit('/').chain(fabric.zone.name.split_terminator('.'));
    for label in labels {
        packet.push(u8::try_from(label.len()).expect("a label"));
        packet.extend(label.bytes());
    }
    packet.extend([0, 0, kind(question.family), 0, 1]);
    if let Some(subnet) = question.subnet {
        let bytes = usize::from(subnet.prefix_len().div_ceil(8));
        let address = match subnet.addr() {
            IpAddr::V4(a) => a.octets()[..bytes].to_vec(),
            IpAddr::V6(a) => a.octets()[..bytes].to_vec(),
        };
        let long = u8::try_from(bytes).expect("sixteen at most") + 4;
        packet.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, long + 4, 0, 8, 0, long, 0]);
        packet.extend([if subnet.addr().is_ipv4() { 1 } else { 2 }, subnet.prefix_len(), 0]);
        packet.extend(address);
    }
    packet
}

/// The number of the record type for addresses of a family.
fn kind(family: Family) -> u8 {
    if family == Family::V4 { 1 } else { 28 }
}

/// What an answer to it says.
pub(crate) fn read(bytes: &[u8], question: &Question) -> Told {
    let number = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let code = bytes[3] & 15;
    assert_eq!((number(0), bytes[2] & 0x80), (0x0709, 0x80), "an answer to this question");
    assert!(matches!(code, 0 | 5), "code {code}");
    assert_eq!(bytes[2] & 4 != 0, code == 0, "a refusal alone is not authoritative");
    let mut told = Told { refused: code == 5, ..Told::default() };
    let mut at = 12;
    let name = |mut at: usize| loop {
        match bytes[at] {
            0 => break at + 1,
            0xc0.. => break at + 2,
            length => at += 1 + usize::from(length),
        }
    };
    at = name(at) + 4;
    let counts = [number(6), number(8), number(10)];
    for (section, count) in counts.into_iter().enumerate() {
        for _ in 0..count {
            at = name(at);
            let (of_type, length) = (number(at), usize::from(number(at + 8)));
            let ttl = u32::from_be_bytes(bytes[at + 4..at + 8].try_into().expect("four"));
            let data = &bytes[at + 10..at + 10 + length];
            at += 10 + length;
            match (section, of_type) {
                (0, of_type) => {
                    assert_eq!(of_type, u16::from(kind(question.family)), "what was asked for");
                    let new = told.addresses.insert(address(data));
                    assert!(new, "a record twice");
                    told.ttls.insert(u64::from(ttl));
                }
                (2, 41) => told.scope = scope(data, question),
                _ => {}
            }
        }
    }
    assert_eq!(at, bytes.len(), "nothing behind the records");
    told
}

fn address(data: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(data) {
        Ok(octets) => Ipv4Addr::from(octets).into(),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(data).expect("an address")).into(),
    }
}

/// The scope in the client subnet of an answer, which repeats that of the question.
fn scope(mut options: &[u8], question: &Question) -> Option<u8> {
    while let [c0, c1, l0, l1, rest @ ..] = options {
        let (data, next) = rest.split_at(usize::from(u16::from_be_bytes([*l0, *l1])));
        if [*c0, *c1] == [0, 8] {
            let subnet = question.subnet.expect("only where there was one");
            assert_eq!(data[2], subnet.prefix_len(), "the subnet of the question");
            return Some(data[3]);
        }
        options = next;
    }
    None
}
