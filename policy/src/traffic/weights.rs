//! Shares of sites. There is a list for every service of the catalogue, copied wherever its state
//! goes and read with every change: it is one piece of memory, which copies share.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::id::{SiteId, Weight};

/// The weights of some sites, each named once, in the order of their ids.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weights(Arc<[(SiteId, Weight)]>);

impl Weights {
    /// Everything to one site.
    pub fn one(site: SiteId) -> Self {
        Self(Arc::new([(site, Weight::ONE)]))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&SiteId, Weight)> + Clone {
        self.0.iter().map(|(site, weight)| (site, *weight))
    }

    /// The sites, in the order of their ids.
    pub fn sites(&self) -> impl ExactSizeIterator<Item = &SiteId> + Clone {
        self.0.iter().map(|(site, _)| site)
    }

    pub fn get(&self, site: &SiteId) -> Option<Weight> {
        self.0.iter().find(|(other, _)| other == site).map(|(_, weight)| *weight)
    }

    pub fn has(&self, site: &SiteId) -> bool {
        self.get(site).is_some()
    }

    /// The sum of all weights.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(_, weight)| u64::from(weight.get())).sum()
    }

    /// The share of a site in [`Weights::total`]; 0 of one that is not named.
    pub fn share(&self, site: &SiteId) -> u64 {
        self.get(site).map_or(0, |weight| u64::from(weight.get()))
    }

    /// Those of the sites for which `keeps` is true.
    #[must_use]
    pub fn only(&self, keeps: impl Fn(&SiteId) -> bool) -> Self {
        Self(self.0.iter().filter(|(site, _)| keeps(site)).cloned().collect())
    }
}

impl From<BTreeMap<SiteId, Weight>> for Weights {
    fn from(weights: BTreeMap<SiteId, Weight>) -> Self {
        Self(weights.into_iter().collect())
    }
}

impl FromIterator<(SiteId, Weight)> for Weights {
    /// Of a site that is named twice the last weight counts.
    fn from_iter<I: IntoIterator<Item = (SiteId, Weight)>>(weights: I) -> Self {
        BTreeMap::from_iter(weights).into()
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(list: &[(&str, u32)]) -> Weights {
        let one = |(site, weight): &(&str, u32)| {
            (site.parse().expect("an id"), Weight::new(*weight).expect("a weight"))
        };
        list.iter().map(one).collect()
    }

    #[test]
    fn order_and_repetition_make_no_difference() {
        assert_eq!(
            weights(&[("svg", 3), ("osl", 7), ("svg", 1)]),
            weights(&[("osl", 7), ("svg", 1)])
        );
    }

    #[test]
    fn a_site_that_is_not_named_has_no_share() {
        let weights = weights(&[("osl", 7), ("svg", 1)]);
        let site = |id: &str| id.parse().expect("an id");
        assert_eq!((weights.total(), weights.share(&site("osl"))), (8, 7));
        assert_eq!((weights.share(&site("ber")), weights.has(&site("ber"))), (0, false));
        assert_eq!(weights.only(|s| *s != site("osl")), self::weights(&[("svg", 1)]));
    }
}
