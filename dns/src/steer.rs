//! Which site a client is sent to: pure, and the same on every name server.
//!
//! Weighted answers use rendezvous hashing: each site draws a number for the client's block and
//! the smallest one, divided by the site's weight, wins. A site that leaves or changes its weight
//! moves only the clients it must. The service is no part of the draw, so a client that a ramp
//! moves is moved for all services that ramp alike, and stays near the backends it talks to.
//!
//! Arithmetic is on integers: two servers with different mathematics libraries must not disagree.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use nett_policy::fabric::UnknownClient;
use nett_policy::id::SiteId;
use nett_policy::lower::answers::ServiceAnswers;
use nett_policy::service::{AllDown, Prefer};
use nett_policy::traffic::Spread;

use crate::client::{Client, block_len};
use crate::topology::{Located, SiteIndex, Topology};

/// A service's spread, ready for questions. Positions are places in `ServiceAnswers::sites`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    One(usize),
    Shares(Arc<[Share]>),
    Nearest {
        /// In failover order.
        sites: Arc<[(usize, Option<SiteIndex>)]>,
        /// The first site of the service: where unknown clients belong by default.
        primary: Option<SiteIndex>,
        prefer: Prefer,
    },
    Nowhere(AllDown),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) position: usize,
    pub(crate) weight: u16,
    seed: u64,
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The addresses of the site at this position.
    Site(usize),
    Address(IpAddr),
    Refused,
}

/// Why, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    OnlySite,
    Share { weight: u16, of: u32, block: IpNet },
    OwnSite,
    Cheapest { from: SiteIndex, cost: u32 },
    FirstInOrder,
    AllDown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) target: Target,
    pub(crate) why: Why,
    /// The prefix length up to which all clients get this answer; 0 is everybody.
    pub(crate) scope: u8,
}

// === impl Plan ===

impl Plan {
    /// Sites of the spread of which `answers` knows no addresses cannot be answered and count as
    /// absent; a spread with no site left is nowhere.
    pub(crate) fn new(answers: &ServiceAnswers, topology: &Topology) -> Self {
        let position = |id: &SiteId| answers.fixed.sites.iter().position(|s| s.site == *id);
        let nowhere = || Self::Nowhere(answers.fixed.all_down);
        match &answers.standing.spread {
            Spread::Nowhere => nowhere(),
            Spread::Weighted(weights) if weights.len() == 1 => {
                let only = weights.sites().find_map(position);
                only.map_or_else(nowhere, Self::One)
            }
            Spread::Weighted(weights) => {
                let shares: Vec<Share> = weights
                    .iter()
                    .filter_map(|(site, weight)| {
                        Some(Share {
                            position: position(site)?,
                            weight: weight.get(),
                            seed: seed(site),
                        })
                    })
                    .collect();
                match shares.as_slice() {
                    [] => nowhere(),
                    [only] => Self::One(only.position),
                    _ => Self::Shares(shares.into()),
                }
            }
            Spread::Nearest(set) => {
                let in_set = |(_, s): &(usize, &SiteId)| set.contains(*s);
                let sites: Vec<(usize, Option<SiteIndex>)> = answers
                    .fixed
                    .sites
                    .iter()
                    .map(|s| &s.site)
                    .enumerate()
                    .filter(in_set)
                    .map(|(at, s)| (at, topology.index(s)))
                    .collect();
                match sites.as_slice() {
                    [] => nowhere(),
                    [(only, _)] => Self::One(*only),
                    _ => Self::Nearest {
                        sites: sites.into(),
                        primary: answers.fixed.sites.first().and_then(|s| topology.index(&s.site)),
                        prefer: answers.fixed.prefer,
                    },
                }
            }
        }
    }

    /// True when distances between sites make a difference.
    pub(crate) fn is_by_distance(&self) -> bool {
        matches!(self, Self::Nearest { .. })
    }

    /// True when the client makes no difference.
    pub(crate) fn is_the_same_for_all(&self) -> bool {
        match self {
            Self::One(_) | Self::Nowhere(_) => true,
            Self::Nearest { prefer, .. } => *prefer == Prefer::Primary,
            Self::Shares(_) => false,
        }
    }

    pub(crate) fn choose(&self, topology: &Topology, client: &Client, located: &Located) -> Choice {
        let site = |position, why, scope| Choice { target: Target::Site(position), why, scope };
        match self {
            Self::One(position) => site(*position, Why::OnlySite, 0),
            Self::Shares(shares) => {
                let block = client.block();
                let share = draw(shares, block).expect("two shares or more");
                let why = Why::Share {
                    weight: share.weight,
                    of: shares.iter().map(|s| u32::from(s.weight)).sum(),
                    block,
                };
                site(share.position, why, block_len(block))
            }
            Self::Nearest { sites, primary, prefer } => {
                let nearest = Nearest { sites, primary: *primary, prefer: *prefer };
                let (position, why) = nearest.of(topology, located);
                let everybody = self.is_the_same_for_all();
                site(position, why, if everybody { 0 } else { located.scope })
            }
            Self::Nowhere(all_down) => Choice {
                target: match all_down {
                    AllDown::LastOrder => Target::Site(0),
                    AllDown::Refuse => Target::Refused,
                    AllDown::Fallback(address) => Target::Address(*address),
                },
                why: Why::AllDown,
                scope: 0,
            },
        }
    }
}

struct Nearest<'a> {
    sites: &'a [(usize, Option<SiteIndex>)],
    primary: Option<SiteIndex>,
    prefer: Prefer,
}

impl Nearest<'_> {
    fn of(&self, topology: &Topology, located: &Located) -> (usize, Why) {
        let (first, _) = self.sites.first().expect("two sites or more");
        if self.prefer == Prefer::Primary {
            return (*first, Why::FirstInOrder);
        }
        let own = located.found.map(|(site, _)| site);
        let assumed = || match topology.unknown() {
            UnknownClient::Primary => self.primary,
            UnknownClient::Nearest => topology.nearest_to_unknown(),
        };
        let Some(from) = own.or_else(assumed) else {
            return (*first, Why::FirstInOrder);
        };
        if let Some((position, _)) = self.sites.iter().find(|(_, s)| *s == Some(from)) {
            let why = match own {
                Some(_) => Why::OwnSite,
                None => Why::Cheapest { from, cost: 0 },
            };
            return (*position, why);
        }
        if self.prefer == Prefer::Local {
            return (*first, Why::FirstInOrder);
        }
        let known = |(p, s): &(usize, Option<SiteIndex>)| s.map(|s| (*p, s));
        let cheapest =
            self.sites.iter().filter_map(known).min_by_key(|(_, s)| topology.distance(from, *s));
        match cheapest {
            Some((position, to)) => {
                let (cost, _) = topology.distance(from, to);
                (position, Why::Cheapest { from, cost })
            }
            None => (*first, Why::FirstInOrder),
        }
    }
}

// === rendezvous ===

/// Mixes 64 bits so that each input bit moves every output bit (the finaliser of SplitMix64).
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A number of the site's name alone (FNV-1a, mixed), equal on every server and in every release.
fn seed(site: &SiteId) -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    mix(site.as_str().bytes().fold(0xcbf2_9ce4_8422_2325, fold))
}

/// The number of a block of clients, before any site.
fn key(block: IpNet) -> u64 {
    /// Keeps the two families apart.
    const V4_MARK: u64 = 1 << 40;
    let key = match block.addr() {
        IpAddr::V4(a) => mix(u64::from(a.to_bits()) | V4_MARK),
        // A block is 56 bits at most, so the first half has all of it.
        IpAddr::V6(a) => mix(u64::try_from(a.to_bits() >> 64).expect("64 bits are left")),
    };
    key.wrapping_add(u64::from(block.prefix_len()))
}

/// The share that takes the clients of `block`.
fn draw(shares: &[Share], block: IpNet) -> Option<Share> {
    let key = key(block);
    let age = |share: &Share| exponential(mix(key ^ share.seed));
    let aged = shares.iter().map(|share| (age(share), *share));
    let (_, first) = aged.reduce(|best, next| {
        match comes_first((best.0, best.1.weight), (next.0, next.1.weight)) {
            true => best,
            false => next,
        }
    })?;
    Some(first)
}

/// True when the first number, divided by its weight, is not above the second; without division.
fn comes_first((a, a_weight): (u64, u16), (b, b_weight): (u64, u16)) -> bool {
    a * u64::from(b_weight) <= b * u64::from(a_weight)
}

/// `-log2(x / 2^64)` in units of 2^-32: of a uniform `x`, an exponentially distributed number.
///
/// At most 64 * 2^32, so that a product with a weight of 256 fits into 64 bits.
fn exponential(x: u64) -> u64 {
    const FRACTION_BITS: u32 = 32;
    let x = x.max(1);
    let zeros = x.leading_zeros();
    // The mantissa in [1, 2) as 1.63 bits; each squaring gives one more bit of its logarithm.
    let mut mantissa = x << zeros;
    let mut fraction: u64 = 0;
    for _ in 0..FRACTION_BITS {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        fraction <<= 1;
        mantissa = if square >> 64 != 0 {
            fraction |= 1;
            u64::try_from(square >> 1).expect("below 4 in 1.63 bits")
        } else {
            u64::try_from(square).expect("below 2 in 1.63 bits")
        };
    }
    let log2 = (u64::from(63 - zeros) << FRACTION_BITS) | fraction;
    (64 << FRACTION_BITS) - log2
}

#[cfg(test)]
mod tests;
