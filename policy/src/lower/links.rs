//! Which links of a node can carry packets now, and of which family.
//!
//! A link is usable per family: after a carrier comes back, IPv6 waits for the end of duplicate
//! address detection while IPv4 can go at once, and an address that was removed takes its family
//! away although the interface is up.

use std::collections::BTreeMap;

use crate::fabric::Family;
use crate::id::LinkId;

/// Links that can carry packets; a link with no usable family is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinksUp(BTreeMap<LinkId, Families>);

/// One or both families.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Families {
    v4: bool,
    v6: bool,
}

// === impl LinksUp ===

impl LinksUp {
    /// True when the link carries at least one family.
    pub fn contains(&self, link: &LinkId) -> bool {
        self.0.contains_key(link)
    }

    pub fn carries(&self, link: &LinkId, family: Family) -> bool {
        self.0.get(link).is_some_and(|families| match family {
            Family::V4 => families.v4,
            Family::V6 => families.v6,
        })
    }

    pub fn insert(&mut self, link: LinkId, family: Family) {
        let families = self.0.entry(link).or_default();
        match family {
            Family::V4 => families.v4 = true,
            Family::V6 => families.v6 = true,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<LinkId> for LinksUp {
    /// Links that carry both families.
    fn from_iter<T: IntoIterator<Item = LinkId>>(links: T) -> Self {
        let both = Families { v4: true, v6: true };
        Self(links.into_iter().map(|link| (link, both)).collect())
    }
}

impl FromIterator<(LinkId, Family)> for LinksUp {
    fn from_iter<T: IntoIterator<Item = (LinkId, Family)>>(links: T) -> Self {
        let mut up = Self::default();
        links.into_iter().for_each(|(link, family)| up.insert(link, family));
        up
    }
}
