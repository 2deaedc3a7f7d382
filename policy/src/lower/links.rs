//! Which links of a node can carry packets now, and of which family.
//!
//! A link is usable per family: after a carrier comes back, IPv6 waits for the end of duplicate
//! address detection while IPv4 can go at once, and an address that was removed takes its family
//! away although the interface is up. A family of a link is *doubted* when packets can be sent and
//! nothing says that they arrive: it is not used while there is another way, and is the way where
//! there is none.

use std::collections::BTreeMap;

use crate::fabric::Family;
use crate::id::LinkId;

/// Links that can carry packets or may; a link over which nothing can be sent is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinksUp(BTreeMap<LinkId, Families>);

/// What each family is worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Families {
    v4: Worth,
    v6: Worth,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    #[default]
    Nothing,
    Doubted,
    Carries,
}

// === impl LinksUp ===

impl LinksUp {
    /// True when the link carries at least one family.
    pub fn contains(&self, link: &LinkId) -> bool {
        Family::BOTH.iter().any(|family| self.carries(link, *family))
    }

    pub fn carries(&self, link: &LinkId, family: Family) -> bool {
        self.worth(link, family) == Worth::Carries
    }

    /// True when packets can be sent, whatever becomes of them.
    pub fn sends(&self, link: &LinkId, family: Family) -> bool {
        self.worth(link, family) >= Worth::Doubted
    }

    /// True when packets of at least one family can be sent, whatever becomes of them.
    pub fn may_carry(&self, link: &LinkId) -> bool {
        self.0.contains_key(link)
    }

    pub fn insert(&mut self, link: LinkId, family: Family) {
        *self.0.entry(link).or_default().of(family) = Worth::Carries;
    }

    /// Packets can be sent, and are not known to arrive.
    pub fn doubt(&mut self, link: LinkId, family: Family) {
        *self.0.entry(link).or_default().of(family) = Worth::Doubted;
    }

    /// What both say: of each family of a link, the worse.
    pub fn meet(&self, other: &Self) -> Self {
        let both = self.0.iter().filter_map(|(link, one)| {
            let two = other.0.get(link)?;
            let met = Families { v4: one.v4.min(two.v4), v6: one.v6.min(two.v6) };
            Some((link.clone(), met))
        });
        Self(both.filter(|(_, met)| *met != Families::default()).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn worth(&self, link: &LinkId, family: Family) -> Worth {
        self.0.get(link).map_or(Worth::Nothing, |families| match family {
            Family::V4 => families.v4,
            Family::V6 => families.v6,
        })
    }
}

impl FromIterator<LinkId> for LinksUp {
    /// Links that carry both families.
    fn from_iter<T: IntoIterator<Item = LinkId>>(links: T) -> Self {
        let both = Families { v4: Worth::Carries, v6: Worth::Carries };
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

// === impl Families ===

impl Families {
    fn of(&mut self, family: Family) -> &mut Worth {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}
