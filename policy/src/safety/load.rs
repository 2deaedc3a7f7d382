//! Whether links and sites carry what a change brings to them.
//!
//! Pure. Sites by what the services are said to weigh (`load`), links by what the counters say of
//! each pair of sites. What one service carries is not counted, so the services that a site sends
//! to another share the traffic between the two alike; and of what a site delivers inside itself
//! only the sum is known, so what the rule finds is an upper bound. Without counts of every border
//! of a pair nothing is judged about it: a rule that guesses would stop an evacuation.

use std::collections::BTreeMap;

use super::{Change, SITE_CAPACITY, built_in, configured, limits};
use crate::fabric::{Fabric, Limit, SafetyRule};
use crate::id::{ServiceId, SiteId};
use crate::log::entry::Move;
use crate::log::intent::Intent;
use crate::place::place_one;
use crate::service::Service;
use crate::task::decide::{Present, Refusal};
use crate::traffic::{Deliver, Spread, Traffic};

/// What the borders of one site send to another, bits per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// To services: it goes where they go.
    pub steered: u64,
    /// Replies: they come from where the services are.
    pub replies: u64,
    /// Between the sites' own addresses: it stays.
    pub other: u64,
}

/// From one site to another; from a site to itself is what it delivers inside.
pub type Flows = BTreeMap<(SiteId, SiteId), Flow>;

/// Built in: no site gets more services than its capacity takes.
pub(super) fn site_capacity(present: Present<'_>, change: Change<'_>) -> Option<Refusal> {
    let all: Vec<&SiteId> = present.world.fabric.sites.iter().map(|s| &s.id).collect();
    Some(built_in(SITE_CAPACITY, sites(present, change, &all, 100)?))
}

/// What is wrong with the first site that gets more than the share of its capacity.
pub(super) fn sites(
    present: Present<'_>,
    change: Change<'_>,
    of: &[&SiteId],
    percent: u32,
) -> Option<String> {
    let loaded = |one: &&Move| {
        present.world.catalog.get(&one.service).is_some_and(|service| service.load > 0)
    };
    if !change.moves.iter().any(|one| loaded(&one)) {
        return None;
    }
    let mut before: BTreeMap<&SiteId, u64> = BTreeMap::new();
    let mut after: BTreeMap<&SiteId, u64> = BTreeMap::new();
    let moved: BTreeMap<&ServiceId, &Move> =
        change.moves.iter().map(|one| (&one.service, one)).collect();
    for service in present.world.catalog.iter().filter(|s| s.load > 0) {
        let placed = place_one(present.world, present.intent, service);
        let now = &placed.traffic.spread;
        let then = moved.get(&service.id).map_or(now, |one| &one.to.spread);
        for site in of {
            *before.entry(site).or_default() += weight(service, now, site);
            *after.entry(site).or_default() += weight(service, then, site);
        }
    }
    of.iter().find_map(|site| {
        let capacity = u64::from(present.world.fabric.site(site)?.capacity);
        let (was, is) = (*before.get(site)?, *after.get(site)?);
        // In thousandths, as the weights are.
        let most = capacity * u64::from(percent) * 10;
        (is > most.max(was)).then(|| {
            format!(
                "{site} would carry {} of its capacity of {capacity}, more than {percent} %",
                is.div_ceil(1000)
            )
        })
    })
}

/// In thousandths of a unit of load.
fn weight(service: &Service, spread: &Spread, site: &SiteId) -> u64 {
    let load = u64::from(service.load) * 1000;
    match spread {
        Spread::Nearest(sites) if sites.contains(site) => {
            load / u64::try_from(sites.len()).unwrap_or(1).max(1)
        }
        Spread::Nearest(_) | Spread::Nowhere => 0,
        Spread::Weighted(weights) => load * weights.share(site) / weights.total().max(1),
    }
}

/// The first pair of sites whose links would carry more than the rule lets them.
pub(super) fn links(
    present: Present<'_>,
    change: Change<'_>,
    rule: &SafetyRule,
) -> Option<Refusal> {
    let Limit::LinkLoad { percent, local_share } = &rule.limit else { return None };
    let ways_changed = present.intent.drained_ways() != change.after.drained_ways();
    if change.moves.is_empty() && !ways_changed {
        return None;
    }
    let then = moved(present, change, *local_share);
    for ((from, to), bits) in &then {
        let total = |flow: &Flow| flow.steered + flow.replies + flow.other;
        let was = present.sight.flows.get(&(from.clone(), to.clone())).map_or(0, total);
        let (Some(capacity), before) = (
            capacity(present, change.after, [from, to]),
            capacity(present, present.intent, [from, to]),
        ) else {
            continue;
        };
        let over = u128::from(*bits) * 100 > u128::from(capacity) * u128::from(*percent);
        let worse = *bits > was || before.is_none_or(|before| capacity < before);
        if over && worse {
            let message = format!(
                "rule {} lets links carry {percent} % of their capacity; from {from} to {to} it \
                 would be up to {} of {}",
                rule.id,
                rate(*bits),
                rate(capacity)
            );
            return Some(configured(rule, message));
        }
    }
    None
}

/// Bits per second in words.
fn rate(bits: u64) -> String {
    match bits {
        1_000_000_000.. => format!("{}.{} Gbit/s", bits / 1_000_000_000, bits / 100_000_000 % 10),
        1_000_000.. => format!("{}.{} Mbit/s", bits / 1_000_000, bits / 100_000 % 10),
        _ => format!("{bits} bit/s"),
    }
}

/// What the best of the links between two sites carry together, bits per second; `None` where no
/// link is left, or one of them does not say.
fn capacity(present: Present<'_>, intent: &Intent, [a, b]: [&SiteId; 2]) -> Option<u64> {
    let fabric = present.world.fabric;
    let ways = intent.drained_ways();
    let joins = |ends: [&SiteId; 2]| ends == [a, b] || ends == [b, a];
    let links = fabric.links.iter().filter(|l| joins(fabric.joined_by(l)));
    let left: Vec<_> = links.filter(|l| limits::carries(present, &ways, l)).collect();
    let least = left.iter().map(|l| l.cost).min()?;
    left.iter().filter(|l| l.cost == least).map(|l| l.capacity_bps).sum()
}

/// What each site would send to each other one, bits per second.
fn moved(
    present: Present<'_>,
    change: Change<'_>,
    local_share: u8,
) -> BTreeMap<(SiteId, SiteId), u64> {
    let fabric = present.world.fabric;
    let flows = &present.sight.flows;
    let mut then: BTreeMap<(SiteId, SiteId), i128> = BTreeMap::new();
    for ((from, to), flow) in flows.iter().filter(|((from, to), _)| from != to) {
        let all = i128::from(flow.steered) + i128::from(flow.replies) + i128::from(flow.other);
        then.insert((from.clone(), to.clone()), all);
    }
    if change.moves.is_empty() {
        return whole(then);
    }
    let shares = shares(present);
    for one in change.moves {
        for site in fabric.sites.iter().map(|s| &s.id) {
            let (now, next) = (parts(&one.from, site, fabric), parts(&one.to, site, fabric));
            for (at, part) in &now {
                let Some(flow) = flows.get(&(site.clone(), at.clone())) else { continue };
                let of = shares.get(&(site.clone(), at.clone())).copied().unwrap_or(1).max(1);
                let replies = flows.get(&(at.clone(), site.clone())).map_or(0, |f| f.replies);
                let share = |bits: u64| i128::from(bits) * i128::from(*part) / i128::from(of);
                let (there, back) = match at == site {
                    // Only the sum of both directions is known of what stays inside.
                    true => {
                        let inside = share(flow.steered) * i128::from(local_share) / 100;
                        (inside, inside)
                    }
                    false => (share(flow.steered), share(replies)),
                };
                shift(&mut then, (site, at), (there, back), &next);
            }
        }
    }
    whole(then)
}

/// Takes a service's traffic from one way and gives it to those it goes by then.
fn shift(
    then: &mut BTreeMap<(SiteId, SiteId), i128>,
    (site, at): (&SiteId, &SiteId),
    (there, back): (i128, i128),
    next: &BTreeMap<SiteId, u64>,
) {
    let mut add = |from: &SiteId, to: &SiteId, bits: i128| {
        if from != to
            && let Some(sum) = then.get_mut(&(from.clone(), to.clone()))
        {
            *sum += bits;
        }
    };
    add(site, at, -there);
    add(at, site, -back);
    for (target, part) in next {
        let part = i128::from(*part);
        add(site, target, there * part / PARTS);
        add(target, site, back * part / PARTS);
    }
}

/// A site's traffic of one service, all of it.
const PARTS: i128 = 1000;

fn whole(then: BTreeMap<(SiteId, SiteId), i128>) -> BTreeMap<(SiteId, SiteId), u64> {
    let bits = |bits: i128| u64::try_from(bits.max(0)).unwrap_or(u64::MAX);
    then.into_iter().map(|(pair, sum)| (pair, bits(sum))).collect()
}

/// Where a site sends what enters it, in thousandths.
fn parts(traffic: &Traffic, site: &SiteId, fabric: &Fabric) -> BTreeMap<SiteId, u64> {
    match traffic.deliver(site, fabric) {
        Deliver::Local => [(site.clone(), 1000)].into(),
        Deliver::Remote(to) => [(to, 1000)].into(),
        Deliver::Drained => BTreeMap::new(),
        Deliver::Split(weights) => {
            let part = |to: &SiteId| weights.share(to) * 1000 / weights.total().max(1);
            weights.sites().map(|to| (to.clone(), part(to))).collect()
        }
    }
}

/// How many services share the way from a site to another, in thousandths.
fn shares(present: Present<'_>) -> BTreeMap<(SiteId, SiteId), u64> {
    let fabric = present.world.fabric;
    let mut shares: BTreeMap<(SiteId, SiteId), u64> = BTreeMap::new();
    for service in present.world.catalog.iter() {
        let traffic = place_one(present.world, present.intent, service).traffic;
        for site in fabric.sites.iter().map(|s| &s.id) {
            for (at, part) in parts(&traffic, site, fabric) {
                *shares.entry((site.clone(), at)).or_default() += part;
            }
        }
    }
    shares
}
