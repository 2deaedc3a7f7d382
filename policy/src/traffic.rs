//! Where a service's traffic is: three small values that every step of a task changes in order.

use std::collections::BTreeSet;
use std::fmt;

use crate::fabric::Fabric;
use crate::id::SiteId;

mod weights;

pub use weights::Weights;

/// How traffic is spread over sites.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spread {
    /// Nobody gets traffic.
    Nowhere,
    /// Shares by weight; one site with any weight gets everything.
    Weighted(Weights),
    /// Each of these serves what enters at it; the others send to the nearest of them.
    Nearest(BTreeSet<SiteId>),
}

/// The traffic state of one service in the whole fabric.
///
/// `spread` decides forwarding where traffic enters (table 7000), `accept` who delivers what
/// arrives from other sites (table 7001), `answers` what DNS says. Make-before-break widens
/// `accept` first and narrows it last; break-before-make empties both before it fills them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Traffic {
    pub spread: Spread,
    pub accept: BTreeSet<SiteId>,
    pub answers: Spread,
}

/// What one site does with traffic of a service that enters there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deliver {
    Local,
    Remote(SiteId),
    /// Shares by weight; may include the site itself.
    Split(Weights),
    Drained,
}

// === impl Spread ===

impl Spread {
    pub fn one(site: SiteId) -> Self {
        Self::Weighted(Weights::one(site))
    }

    /// The sites that get traffic.
    pub fn sites(&self) -> BTreeSet<SiteId> {
        match self {
            Self::Nowhere => BTreeSet::new(),
            Self::Weighted(weights) => weights.sites().cloned().collect(),
            Self::Nearest(sites) => sites.clone(),
        }
    }

    /// True when the site gets traffic.
    pub fn has(&self, site: &SiteId) -> bool {
        match self {
            Self::Nowhere => false,
            Self::Weighted(weights) => weights.has(site),
            Self::Nearest(sites) => sites.contains(site),
        }
    }

    /// The share of `site` in percent, rounded down; with `Nearest` every site counts the same.
    pub fn percent(&self, site: &SiteId) -> u32 {
        match self {
            Self::Nowhere => 0,
            Self::Weighted(weights) => {
                let percent = (weights.share(site) * 100).checked_div(weights.total());
                percent.and_then(|p| u32::try_from(p).ok()).unwrap_or(0)
            }
            Self::Nearest(sites) if sites.contains(site) => 100,
            Self::Nearest(_) => 0,
        }
    }

    /// The spread without `site`.
    pub fn without(&self, site: &SiteId) -> Self {
        match self {
            Self::Nowhere => Self::Nowhere,
            Self::Weighted(weights) => {
                let rest = weights.only(|other| other != site);
                if rest.is_empty() { Self::Nowhere } else { Self::Weighted(rest) }
            }
            Self::Nearest(sites) => {
                let mut rest = sites.clone();
                rest.remove(site);
                if rest.is_empty() { Self::Nowhere } else { Self::Nearest(rest) }
            }
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => f.write_str("nowhere"),
            Self::Weighted(weights) if weights.len() == 1 => {
                weights.sites().try_for_each(|site| write!(f, "{site}"))
            }
            Self::Weighted(weights) => {
                let parts: Vec<String> = weights.iter().map(|(s, w)| format!("{s}={w}")).collect();
                f.write_str(&parts.join(","))
            }
            Self::Nearest(sites) => {
                let parts: Vec<&str> = sites.iter().map(SiteId::as_str).collect();
                write!(f, "nearest of {}", parts.join(","))
            }
        }
    }
}

// === impl Traffic ===

impl Traffic {
    /// The state in which a spread is served with nothing under way.
    pub fn settled(spread: Spread) -> Self {
        let accept = spread.sites();
        Self { answers: spread.clone(), spread, accept }
    }

    pub fn deliver(&self, site: &SiteId, fabric: &Fabric) -> Deliver {
        match &self.spread {
            Spread::Nowhere => Deliver::Drained,
            Spread::Weighted(weights) => match weights.len() {
                0 => Deliver::Drained,
                1 if weights.has(site) => Deliver::Local,
                1 => Deliver::Remote(weights.sites().next().expect("one key").clone()),
                _ => Deliver::Split(weights.clone()),
            },
            Spread::Nearest(sites) if sites.contains(site) => Deliver::Local,
            Spread::Nearest(sites) => {
                let by_cost = |to: &&SiteId| {
                    (fabric.link_cost(site, to).unwrap_or(u32::MAX), fabric.rank(to))
                };
                match sites.iter().min_by_key(by_cost) {
                    Some(to) => Deliver::Remote(to.clone()),
                    None => Deliver::Drained,
                }
            }
        }
    }

    /// True when nobody serves it.
    pub fn is_nowhere(&self) -> bool {
        self.spread == Spread::Nowhere && self.accept.is_empty()
    }

    /// True when `site` hands traffic to its own backends.
    pub fn serves_at(&self, site: &SiteId) -> bool {
        self.accept.contains(site) || self.spread.sites().contains(site)
    }
}
