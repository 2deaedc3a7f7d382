//! Groups whose flows stay where they are while shares change: `type resilient` of
//! linux/nexthop.h. A flow hashes to one of a fixed number of buckets, and a bucket that is in use
//! keeps its member; only idle ones follow new weights.
//!
//! Two things make that hold. A service with the setting has a group of its own that is never
//! exchanged for another one, since another one would have other buckets. And a site that still
//! accepts but gets nothing new stays a member, with so small a weight that no bucket is meant for
//! it: the kernel does the same with one that is about to come, and notes from then on which
//! buckets are in use. A group with a single member notes nothing. So it is inside a site with
//! clusters of backends that are drained, and with those that come back (adr/0052).
//!
//! Pure. It never changes how many buckets a group has while the service's sites, backends and
//! links are the same: the kernel refuses that, and what is planned instead moves every flow.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::choice::Choice;
use super::object::{Nexthop, NexthopId, NodeState};
use super::ways::{self, Members};
use super::{Place, classes};
use crate::fabric::{Family, Role};
use crate::id::{ClusterId, SiteId, Weight};
use crate::service::{Catalog, Resilient, Service};

/// `NHA_RES_GROUP_*`: how many buckets, and when one of them may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Buckets {
    pub count: u16,
    /// Hundredths of a second without a packet after which a bucket counts as idle.
    pub idle: u32,
    /// Hundredths of a second after which buckets move although they are in use; 0 is never.
    pub unbalanced: u32,
}

/// The greatest weight of a member, and the least that the others are scaled to.
const GREATEST: u32 = 256;
const LEAST: u32 = 200;
/// Fewer buckets are no shares.
const FEWEST: u16 = 4;

// === impl NexthopId ===

impl NexthopId {
    /// How many services can have resilient groups.
    pub const MOST_RESILIENT: usize = 1024;

    /// The resilient group of a service, by its number below [`Self::MOST_RESILIENT`]: in
    /// `nett-svc`, or with `core` in `nett-core`.
    pub fn resilient(slot: u32, core: bool, family: Family) -> Self {
        Self::of(0x7000 + 4 * slot + 2 * u32::from(core) + Self::v6(family))
    }

    fn is_backend(self) -> bool {
        let most = u32::try_from(Self::BACKEND_SLOTS).unwrap_or(0);
        (Self::backend(0)..Self::backend(most)).contains(&self)
    }

    /// The resilient group of the same service in `nett-in`.
    pub fn resilient_in(slot: u32, family: Family) -> Self {
        Self::of(0x0400 + 2 * slot + Self::v6(family))
    }
}

// === impl Nexthop ===

impl Nexthop {
    /// Whether the kernel can make one of the other in place: a group keeps its type, and how many
    /// buckets it has.
    pub fn becomes(&self, to: &Self) -> bool {
        let count = |nexthop: &Self| match nexthop {
            Self::Group { buckets, .. } => Some(buckets.map(|buckets| buckets.count)),
            Self::Single { .. } | Self::Blackhole { .. } => None,
        };
        count(self) == count(to)
    }
}

// === impl Buckets ===

impl Buckets {
    /// What a node uses for a service. A member that is to get nothing weighs 1 of 256 and more, so
    /// the more of them there can be at once, the fewer buckets can be told apart.
    pub(super) fn of(
        choice: Choice<'_>,
        service: &Service,
        family: Family,
        settings: Resilient,
    ) -> Self {
        Self::beside(rest(choice, service, family), settings)
    }

    /// What a node uses for what only goes to backends of its own site; `None` where none of them
    /// is ever left.
    pub(super) fn inside(
        place: Place<'_>,
        service: &Service,
        family: Family,
        settings: Resilient,
    ) -> Option<Self> {
        let all = service.backends(&place.node.site, family).count();
        let rest = all - fewest_inside(place, service, family);
        let leaves = rest > 0 && ways::hands_to_backends(place);
        leaves.then(|| Self::beside(rest, settings))
    }

    /// As many buckets as can be told apart beside so many members that get none.
    fn beside(rest: usize, settings: Resilient) -> Self {
        let rest = u32::try_from(rest).unwrap_or(u32::MAX).clamp(1, 128);
        // count * rest / (256 + rest) is below one half.
        let most = (GREATEST + rest).div_ceil(2 * rest) - 1;
        let most = u16::try_from(most).unwrap_or(u16::MAX).max(FEWEST);
        let hundredths =
            |time: std::time::Duration| u32::try_from(time.as_millis() / 10).unwrap_or(u32::MAX);
        Self {
            count: settings.buckets.min(most),
            idle: hundredths(settings.idle),
            unbalanced: settings.force.map_or(0, hundredths),
        }
    }
}

/// How many members of a group may be there that get nothing new, for sites or for clusters: all
/// but those of the site with the fewest, whichever links are up and whatever is drained. A site is
/// reached directly or through another one, never both at once.
fn rest(choice: Choice<'_>, service: &Service, family: Family) -> usize {
    let place = choice.place;
    let Place { world, node, .. } = place;
    let own_role = |role| world.fabric.nodes_of(&node.site, role).count();
    let ways_to = |site: &SiteId| match (node.role, *site == node.site) {
        (Role::Border, true) if own_role(Role::Route) > 0 => own_role(Role::Route),
        (_, true) => service.backends(site, family).count(),
        (Role::Border, false) => {
            let direct = world.fabric.links_of(&node.id).filter(|view| view.far_site == site);
            direct.count().max(choice.through(node, site, family).len())
        }
        (Role::Route | Role::Witness, false) => own_role(Role::Border),
    };
    let hands = ways::hands_to_backends(place);
    let fewest = |site: &SiteId| match hands && *site == node.site {
        true => fewest_inside(place, service, family),
        false => ways_to(site),
    };
    let sites = service.sites();
    let counts: Vec<usize> = sites.iter().map(ways_to).collect();
    let fewest = sites.iter().map(fewest).min().unwrap_or(0);
    let all: usize = match node.role {
        // All other sites lie behind the same borders.
        Role::Route => {
            let own = sites.contains(&node.site).then(|| ways_to(&node.site));
            own.unwrap_or(0) + own_role(Role::Border)
        }
        Role::Border | Role::Witness => counts.iter().sum(),
    };
    all - fewest.min(all)
}

/// Of the backends at the own site, how many get what is new at least, whichever clusters are
/// drained: those of no cluster, else those of the smallest one.
fn fewest_inside(place: Place<'_>, service: &Service, family: Family) -> usize {
    let mut sizes: BTreeMap<Option<&ClusterId>, usize> = BTreeMap::new();
    for backend in service.backends(&place.node.site, family) {
        *sizes.entry(backend.cluster.as_ref()).or_default() += 1;
    }
    match sizes.get(&None) {
        Some(of_none) => *of_none,
        None => sizes.values().copied().min().unwrap_or(0),
    }
}

/// The groups with backends that no bucket is meant for, each with those: flows that are in use go
/// on to them, and how many is said by the kernel's buckets.
pub fn left_over(state: &NodeState) -> BTreeMap<NexthopId, BTreeSet<NexthopId>> {
    let of_group = |(id, nexthop): (&NexthopId, &Nexthop)| {
        let Nexthop::Group { members, buckets: Some(buckets), .. } = nexthop else { return None };
        let wanted = wanted(members, buckets.count);
        let left = wanted.iter().filter(|(id, count)| **count == 0 && id.is_backend());
        let left: BTreeSet<NexthopId> = left.map(|(id, _)| *id).collect();
        (!left.is_empty()).then_some((*id, left))
    };
    state.nexthops.iter().filter_map(of_group).collect()
}

/// The nexthops of the backends in some clusters of a site.
pub fn backends_in(
    catalog: &Catalog,
    site: &SiteId,
    clusters: &BTreeSet<ClusterId>,
) -> BTreeSet<NexthopId> {
    let ids = classes::backend_ids(catalog, site);
    let at_site = catalog.backends().filter_map(|backends| backends.get(site)).flatten();
    let inside = at_site.filter(|b| b.cluster.as_ref().is_some_and(|c| clusters.contains(c)));
    inside.filter_map(|backend| ids.get(&backend.address)).copied().collect()
}

/// How many buckets are meant for each member, as the kernel rounds it: `nh_res_group_rebalance`
/// in net/ipv4/nexthop.c.
pub fn wanted(members: &BTreeMap<NexthopId, Weight>, count: u16) -> BTreeMap<NexthopId, u32> {
    let total: u32 = members.values().map(|w| u32::from(w.get())).sum();
    let (mut weight, mut before) = (0, 0);
    let share = |(id, own): (&NexthopId, &Weight)| {
        weight += u32::from(own.get());
        let upper = (u32::from(count) * weight + total / 2) / total.max(1);
        let wanted = upper - before;
        before = upper;
        (*id, wanted)
    };
    members.iter().map(share).collect()
}

/// The members that get what is new, and besides those of sites that get nothing. Shares become
/// whole buckets, so that the kernel's rounding has no bucket left for any of the latter.
pub(super) fn with_rest(main: Members, rest: Members, count: u16) -> Members {
    let rest: BTreeSet<NexthopId> = rest.into_keys().filter(|id| !main.contains_key(id)).collect();
    if rest.is_empty() {
        return main;
    }
    let parts = parts(&main, count);
    let most = parts.values().copied().max().unwrap_or(1).max(1);
    let scaled = |top: u32| -> Members {
        let weight = |part: u32| ((part * top + most / 2) / most).clamp(1, GREATEST);
        let weight = |part: u32| Weight::new(weight(part)).expect("clamped to the range");
        let scaled = parts.iter().map(|(id, part)| (*id, weight(*part)));
        scaled.chain(rest.iter().map(|id| (*id, Weight::ONE))).collect()
    };
    let meant = |members: &Members| -> u32 {
        let wanted = wanted(members, count);
        rest.iter().map(|id| wanted[id]).sum()
    };
    let all = (LEAST..=GREATEST).rev().map(scaled);
    all.min_by_key(meant).unwrap_or(main)
}

/// Whole numbers of buckets for shares: none gets less than one while there are enough, and what
/// rounding leaves goes to those that lost the most by it.
fn parts(main: &Members, count: u16) -> BTreeMap<NexthopId, u32> {
    let count = u32::from(count);
    let total: u32 = main.values().map(|w| u32::from(w.get())).sum::<u32>().max(1);
    let exact = |w: &Weight| u32::from(w.get()) * count;
    let mut parts: BTreeMap<NexthopId, u32> =
        main.iter().map(|(id, w)| (*id, (exact(w) / total).max(1))).collect();
    let mut lost: Vec<(u32, NexthopId)> =
        main.iter().map(|(id, w)| (exact(w) % total, *id)).collect();
    lost.sort_unstable_by_key(|(rest, id)| (std::cmp::Reverse(*rest), *id));
    let mut next = lost.iter().cycle();
    while parts.values().sum::<u32>() < count
        && let Some((_, id)) = next.next()
    {
        *parts.entry(*id).or_default() += 1;
    }
    while parts.values().sum::<u32>() > count {
        let Some(most) = parts.values_mut().max_by_key(|part| **part) else { break };
        *most = most.saturating_sub(1);
    }
    parts
}

impl fmt::Display for Buckets {
    /// In iproute2's words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, idle, unbalanced } = self;
        let time = |hundredths: u32| match (hundredths / 100, hundredths % 100) {
            (whole, 0) => whole.to_string(),
            (whole, part) => format!("{whole}.{part:02}"),
        };
        let (idle, unbalanced) = (time(*idle), time(*unbalanced));
        write!(f, "type resilient buckets {count} idle_timer {idle} unbalanced_timer {unbalanced}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(weights: &[u32]) -> Members {
        let weight = |w: &u32| Weight::new(*w).expect("1 to 256");
        (0..).zip(weights).map(|(n, w)| (NexthopId::link(n, Family::V4), weight(w))).collect()
    }

    #[test]
    fn buckets_are_rounded_as_the_kernel_does() {
        // Read with `ip nexthop bucket show` on Linux 6.18.
        for (weights, count, expected) in [
            (vec![1, 256], 128, vec![0, 128]),
            (vec![256, 1], 128, vec![128, 0]),
            (vec![1, 1], 32, vec![16, 16]),
            (vec![3, 1], 32, vec![24, 8]),
        ] {
            let wanted: Vec<u32> = wanted(&members(&weights), count).into_values().collect();
            assert_eq!(wanted, expected, "{weights:?}");
        }
    }

    /// Wherever they stand among the others, and whatever these weigh.
    #[test]
    fn nothing_is_meant_for_those_that_only_stay() {
        for rest in 1..=16u32 {
            let count = u16::try_from((GREATEST + rest).div_ceil(2 * rest) - 1).expect("small");
            for main in [vec![1], vec![7, 3], vec![1, 1, 1], vec![256, 19], vec![70, 20, 10]] {
                for place in 0..=main.len() {
                    let all = u8::try_from(main.len()).expect("few") + 16;
                    let ids: Vec<u8> = (0..all).collect();
                    let place = u8::try_from(place).expect("few");
                    let is_rest = |n: &u8| *n >= place && u32::from(*n - place) < rest;
                    let id = |n: &u8| NexthopId::link(*n, Family::V4);
                    let others = ids.iter().filter(|n| !is_rest(n)).map(id);
                    let weight = |w: &u32| Weight::new(*w).expect("1 to 256");
                    let main: Members = others.zip(main.iter().map(weight)).collect();
                    let stays: Members =
                        ids.iter().filter(|n| is_rest(n)).map(|n| (id(n), Weight::ONE)).collect();
                    let group = with_rest(main.clone(), stays.clone(), count);
                    let wanted = wanted(&group, count);
                    let meant: u32 = stays.keys().map(|id| wanted[id]).sum();
                    assert_eq!(meant, 0, "{main:?} with {rest} at {place}: {group:?}");
                }
            }
        }
    }
}
