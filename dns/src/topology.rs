//! What steering knows of the fabric: which clients belong to which site, and how far sites are
//! from each other.
//!
//! Built once per fabric and shared by all snapshots of it. Sites are numbered by their place in
//! the fabric file, so that a question touches small integers only.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use nett_policy::fabric::{Fabric, Family, UnknownClient};
use nett_policy::id::SiteId;
use nett_policy::nearness::{RoundTrips, is_nearer};

use crate::client::Client;

/// A site's place in the fabric file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteIndex(pub u16);

/// The sites, their distances and their clients.
#[derive(Debug, Clone)]
pub struct Topology {
    sites: Vec<SiteId>,
    ranks: Vec<u32>,
    /// Row-major; `u32::MAX` where no link joins two sites.
    costs: Vec<u32>,
    /// Row-major: the place of the site in the order of nearness from the site of the row.
    places: Vec<u16>,
    unknown: UnknownClient,
    /// The site that stands in for an unknown client when `unknown_client = "nearest"`.
    nearest_to_unknown: Option<SiteIndex>,
    v4: PrefixMap,
    v6: PrefixMap,
}

/// Where a client was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// The site and the prefix that named it.
    pub found: Option<(SiteIndex, IpNet)>,
    /// The longest prefix around the client in which every client is found alike, in bits: the
    /// scope of an answer that depends on the site (RFC 7871 section 7.2.1).
    pub scope: u8,
}

/// The prefixes of one family, by first address and length: the neighbours of an address bound
/// its scope, and those around it are a chain of parents.
#[derive(Debug, Clone, Default)]
struct PrefixMap {
    sorted: Vec<Prefix>,
}

#[derive(Debug, Clone, Copy)]
struct Prefix {
    /// The first address, left-aligned.
    start: u128,
    length: u8,
    site: SiteIndex,
    /// The place of the next shorter prefix around this one.
    parent: Option<usize>,
}

// === impl Topology ===

impl Topology {
    /// `home` is the site this name server stands in, the best guess for unknown clients under
    /// `unknown_client = "nearest"`; without it the site of the best rank is.
    ///
    /// A `[[client]]` prefix wins over an equal site prefix.
    pub fn new(fabric: &Fabric, home: Option<&SiteId>) -> Self {
        let sites: Vec<SiteId> = fabric.sites.iter().map(|s| s.id.clone()).collect();
        let index = |id: &SiteId| position(&sites, id);
        let cost = |a: &SiteId, b: &SiteId| match a == b {
            true => 0,
            false => fabric.link_cost(a, b).unwrap_or(u32::MAX),
        };
        let costs: Vec<u32> =
            sites.iter().flat_map(|a| sites.iter().map(move |b| cost(a, b))).collect();
        let places = costs.chunks(sites.len().max(1)).flat_map(|row| {
            let mut order: Vec<usize> = (0..sites.len()).collect();
            order.sort_by_key(|to| (row[*to], fabric.sites[*to].rank));
            places_of(&order)
        });
        let places = places.collect();
        let best = || fabric.sites.iter().min_by_key(|s| s.rank);
        let nearest_to_unknown = home.and_then(index).or_else(|| best().and_then(|s| index(&s.id)));
        let mut prefixes: BTreeMap<IpNet, SiteIndex> = BTreeMap::new();
        let of_sites = fabric.sites.iter().flat_map(|s| s.prefixes.iter().map(|p| (*p, &s.id)));
        let of_clients = fabric.clients.iter().map(|c| (c.prefix, &c.site));
        for (prefix, site) in of_sites.chain(of_clients) {
            if let Some(site) = index(site) {
                prefixes.insert(prefix.trunc(), site);
            }
        }
        let family = |family| {
            let of_family = |(net, _): &(&IpNet, _)| Family::of_net(**net) == family;
            PrefixMap::new(prefixes.iter().filter(of_family).map(|(n, s)| (*n, *s)))
        };
        Self {
            ranks: fabric.sites.iter().map(|s| s.rank).collect(),
            costs,
            places,
            unknown: fabric.unknown_client,
            nearest_to_unknown,
            v4: family(Family::V4),
            v6: family(Family::V6),
            sites,
        }
    }

    /// All sites, in the order of their indexes.
    pub fn sites(&self) -> &[SiteId] {
        &self.sites
    }

    pub fn site(&self, index: SiteIndex) -> &SiteId {
        &self.sites[usize::from(index.0)]
    }

    pub fn index(&self, id: &SiteId) -> Option<SiteIndex> {
        position(&self.sites, id)
    }

    pub(crate) fn unknown(&self) -> UnknownClient {
        self.unknown
    }

    pub(crate) fn nearest_to_unknown(&self) -> Option<SiteIndex> {
        self.nearest_to_unknown
    }

    /// Orders sites by how far they are from `from`: link cost, then what was measured, then rank.
    /// Sites without a link to it come last.
    pub(crate) fn distance(&self, from: SiteIndex, to: SiteIndex) -> (u32, u16) {
        let at = usize::from(from.0) * self.sites.len() + usize::from(to.0);
        (self.costs[at], self.places[at])
    }

    /// The same fabric with round-trip times between borders of sites, from the first of each pair
    /// to the second; the times that were given before count no more.
    ///
    /// Of sites at equal link cost the one of better rank comes first, unless another is nearer by
    /// [`is_nearer`]. One that was not measured keeps the place that its rank gives it. Nothing is
    /// remembered here: all name servers that are told the same have the same order.
    pub fn with_rtts(&self, rtts: &RoundTrips) -> Self {
        let sites = self.sites.len();
        let mut next = self.clone();
        for (from, row) in next.places.chunks_mut(sites.max(1)).enumerate() {
            let rtt = |to: usize| rtts.get(&(self.sites[from].clone(), self.sites[to].clone()));
            let cost = |to: usize| self.costs[from * sites + to];
            let mut order: Vec<usize> = (0..sites).collect();
            order.sort_by_key(|to| (cost(*to), self.ranks[*to]));
            for tied in order.chunk_by_mut(|a, b| cost(*a) == cost(*b)) {
                by_time(tied, |to| rtt(to).copied());
            }
            row.copy_from_slice(&places_of(&order));
        }
        next
    }

    /// Whether clients of every site find the others in the same order.
    pub fn has_order_of(&self, other: &Self) -> bool {
        self.sites == other.sites && self.places == other.places
    }

    /// The sites as a client at `from` finds them, the nearest first, with the cost of the cheapest
    /// link there; `None` where there is no link.
    pub fn order_from(&self, from: &SiteId) -> Vec<(&SiteId, Option<u32>)> {
        let Some(from) = self.index(from) else { return Vec::new() };
        let mut order: Vec<SiteIndex> = (0u16..).take(self.sites.len()).map(SiteIndex).collect();
        order.sort_by_key(|to| self.distance(from, *to));
        let cost = |to: SiteIndex| Some(self.distance(from, to).0).filter(|cost| *cost < u32::MAX);
        order.into_iter().map(|to| (self.site(to), cost(to))).collect()
    }

    /// The client's site alone: all that counters need when the answer is the same for everybody.
    pub(crate) fn site_of(&self, client: &Client) -> Option<SiteIndex> {
        let network = client.network();
        let (map, key, _) = self.map_of(network);
        Some(map.longest(key, network.prefix_len())?.0)
    }

    /// The prefixes of the network's family, its first address there, and the family's width.
    fn map_of(&self, network: IpNet) -> (&PrefixMap, u128, u8) {
        match network.addr() {
            IpAddr::V4(a) => (&self.v4, u128::from(a.to_bits()) << 96, 32),
            IpAddr::V6(a) => (&self.v6, a.to_bits(), 128),
        }
    }

    /// Finds the longest prefix that holds the whole network of the client.
    pub fn locate(&self, client: &Client) -> Located {
        let network = client.network();
        let length = network.prefix_len();
        let (map, key, width) = self.map_of(network);
        let found = map.longest(key, length);
        let prefix = |length| {
            IpNet::new(network.addr(), length)
                .expect("not longer than the client's own prefix")
                .trunc()
        };
        Located {
            found: found.map(|(site, length)| (site, prefix(length))),
            scope: map.scope(key, length, found.map_or(0, |f| f.1)).min(width),
        }
    }
}

/// Orders sites of one link cost, given by rank: next is always the first that none of the rest is
/// nearer than. The nearest of all is such a one.
fn by_time(tied: &mut [usize], rtt: impl Fn(usize) -> Option<Duration>) {
    let mut rest: Vec<(usize, Duration)> =
        tied.iter().filter_map(|to| Some((*to, rtt(*to)?))).collect();
    for place in tied.iter_mut().filter(|to| rtt(**to).is_some()) {
        let first = |(_, own): &(usize, Duration)| rest.iter().all(|(_, o)| !is_nearer(*o, *own));
        let next = rest.iter().position(first).expect("nobody is nearer than the nearest");
        (*place, _) = rest.remove(next);
    }
}

/// The place of each site in `order`.
fn places_of(order: &[usize]) -> Vec<u16> {
    let mut places = vec![0; order.len()];
    for (place, site) in (0u16..).zip(order) {
        places[*site] = place;
    }
    places
}

fn position(sites: &[SiteId], id: &SiteId) -> Option<SiteIndex> {
    let at = sites.iter().position(|s| s == id)?;
    u16::try_from(at).ok().map(SiteIndex)
}

// === impl PrefixMap ===

/// The first `length` bits of `key`; keys of both families are left-aligned.
fn mask(key: u128, length: u8) -> u128 {
    match length {
        0 => 0,
        length => key & (u128::MAX << (128 - u32::from(length.min(128)))),
    }
}

/// How many leading bits two keys share.
fn common(a: u128, b: u128) -> u8 {
    u8::try_from((a ^ b).leading_zeros()).expect("at most 128")
}

impl PrefixMap {
    fn new(prefixes: impl Iterator<Item = (IpNet, SiteIndex)>) -> Self {
        let mut sorted: Vec<Prefix> = prefixes
            .map(|(prefix, site)| {
                let start = match prefix.network() {
                    IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
                    IpAddr::V6(a) => a.to_bits(),
                };
                Prefix { start, length: prefix.prefix_len(), site, parent: None }
            })
            .collect();
        sorted.sort_by_key(|p| (p.start, p.length));
        for at in 1..sorted.len() {
            let mut around = Some(at - 1);
            while let Some(other) = around
                && !sorted[other].holds(sorted[at].start)
            {
                around = sorted[other].parent;
            }
            sorted[at].parent = around;
        }
        Self { sorted }
    }

    /// The longest prefix around `key` of at most `longest` bits.
    ///
    /// It is the last one that does not begin behind `key`, or one of those around that one: what
    /// begins later and ends before `key` lies inside of it.
    fn longest(&self, key: u128, longest: u8) -> Option<(SiteIndex, u8)> {
        let behind = self.sorted.partition_point(|p| (p.start, p.length) <= (key, longest));
        let mut at = behind.checked_sub(1)?;
        loop {
            let prefix = &self.sorted[at];
            if prefix.length <= longest && prefix.holds(key) {
                return Some((prefix.site, prefix.length));
            }
            at = prefix.parent?;
        }
    }

    /// The shortest prefix around `key` that no more specific prefix reaches into, given that the
    /// client's network has `known` bits and its own match has `matched`.
    ///
    /// Of all first addresses the nearest one below (or equal) and the nearest one above share
    /// the most bits with `key`, so looking at those two is enough.
    fn scope(&self, key: u128, known: u8, matched: u8) -> u8 {
        let split = self.sorted.partition_point(|p| p.start <= key);
        let (below, above) = self.sorted.split_at(split);
        let mut scope = matched;
        if let Some(next) = above.first() {
            scope = scope.max(common(key, next.start) + 1);
        }
        let nearest = below.last().map(|p| p.start);
        let at_nearest = below.iter().rev().take_while(|p| Some(p.start) == nearest);
        for prefix in at_nearest {
            let shared = common(key, prefix.start);
            if prefix.length > shared {
                scope = scope.max(shared + 1);
            } else if prefix.length > known {
                scope = scope.max(prefix.length);
            }
        }
        scope
    }
}

impl Prefix {
    fn holds(&self, key: u128) -> bool {
        mask(key, self.length) == self.start
    }
}

#[cfg(test)]
mod tests;
