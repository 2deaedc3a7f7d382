//! The rules of `[[safety]]` that count: parts in service, drained sites, tasks, independent links.
//!
//! Pure. A rule is broken only by a change that makes things worse: what was below it before is
//! nobody's fault now, and must not stop those who mend it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, LAST_RISK_GROUP, built_in, configured};
use crate::fabric::{Fabric, Limit, Link, Part, SafetyRule};
use crate::id::{LinkId, Selector, SiteId};
use crate::log::entry::Object;
use crate::log::intent::Intent;
use crate::place::Drained;
use crate::task::decide::{Present, Refusal};
use crate::task::view::read;

/// Every rule of the fabric that this change would break.
pub(super) fn broken(present: Present<'_>, change: Change<'_>) -> Vec<Refusal> {
    let rules = &present.world.fabric.safety;
    rules.iter().filter_map(|rule| one(present, change, rule)).collect()
}

fn one(present: Present<'_>, change: Change<'_>, rule: &SafetyRule) -> Option<Refusal> {
    match &rule.limit {
        Limit::AtLeast { least, of } => at_least(present, change.after, rule, (*least, of)),
        Limit::DrainedShare { percent, of } => {
            drained_share(present, change.after, rule, (*percent, of))
        }
        Limit::TasksAtOnce { most, services } => {
            tasks_at_once(present, change, rule, (*most, services))
        }
        Limit::RiskGroups { least, of } => {
            let sites = sites(present.world.fabric, of);
            let broken = |site| lost_groups(present, change.after, site, *least);
            let (site, left) = sites.into_iter().find_map(|site| Some((site, broken(site)?)))?;
            let message = format!(
                "rule {} keeps links of at least {least} independent groups at {site}; {left} \
                 would be left",
                rule.id
            );
            Some(configured(rule, message))
        }
        Limit::LinkLoad { .. } => super::load::links(present, change, rule),
        Limit::SiteLoad { percent, of } => {
            let sites = sites(present.world.fabric, of);
            let found = super::load::sites(present, change, &sites, *percent)?;
            Some(configured(rule, format!("rule {}: {found}", rule.id)))
        }
        Limit::Switch { .. } => super::freeze::switched_off(present, change, rule),
    }
}

/// The sites named, or all.
fn sites<'a>(fabric: &'a Fabric, of: &'a [SiteId]) -> Vec<&'a SiteId> {
    match of.is_empty() {
        true => fabric.sites.iter().map(|s| &s.id).collect(),
        false => of.iter().collect(),
    }
}

fn at_least(
    present: Present<'_>,
    after: &Intent,
    rule: &SafetyRule,
    (least, of): (u32, &[Part]),
) -> Option<Refusal> {
    let in_service = |intent: &Intent| {
        let ways = intent.drained_ways();
        let up = |part: &&Part| is_in_service(present, intent, &ways, part);
        u32::try_from(of.iter().filter(up).count()).unwrap_or(u32::MAX)
    };
    let left = in_service(after);
    if left >= least || left >= in_service(present.intent) {
        return None;
    }
    let of: Vec<String> = of.iter().map(ToString::to_string).collect();
    let message = format!(
        "rule {} keeps at least {least} of {} in service; {left} would be left",
        rule.id,
        of.join(", "),
    );
    Some(configured(rule, message))
}

/// Neither drained nor known to be out.
fn is_in_service(present: Present<'_>, intent: &Intent, ways: &Drained, part: &Part) -> bool {
    match part {
        Part::Site(site) => {
            !intent.is_drained(&Object::Site(site.clone())) && !present.sight.silent.contains(site)
        }
        Part::Node(node) => !ways.nodes.contains(node) && !present.sight.away.contains(node),
        Part::Link(id) => {
            let link = present.world.fabric.links.iter().find(|l| l.id == *id);
            link.is_some_and(|link| carries(present, ways, link))
        }
    }
}

/// Whether a link is neither drained, itself or at an end, nor known to be out.
pub(super) fn carries(present: Present<'_>, ways: &Drained, link: &Link) -> bool {
    let away = [&link.a.node, &link.b.node].iter().any(|n| present.sight.away.contains(*n));
    !is_drained(ways, link) && !away && !present.sight.down.contains(&link.id)
}

/// Whether a link is drained, itself or at an end.
pub(super) fn is_drained(ways: &Drained, link: &Link) -> bool {
    let ends = [&link.a.node, &link.b.node];
    ways.links.contains(&link.id) || ends.iter().any(|n| ways.nodes.contains(*n))
}

fn drained_share(
    present: Present<'_>,
    after: &Intent,
    rule: &SafetyRule,
    (percent, of): (u8, &[SiteId]),
) -> Option<Refusal> {
    let sites = sites(present.world.fabric, of);
    let drained = |intent: &Intent| {
        sites.iter().filter(|site| intent.is_drained(&Object::Site((**site).clone()))).count()
    };
    let (before, now) = (drained(present.intent), drained(after));
    if now <= before || now * 100 <= usize::from(percent) * sites.len() {
        return None;
    }
    let message = format!(
        "rule {} lets at most {percent} % of {} sites be drained; it would be {now}",
        rule.id,
        sites.len()
    );
    Some(configured(rule, message))
}

/// Tasks that have taken effect and not ended; those that wait for approval move nothing.
fn tasks_at_once(
    present: Present<'_>,
    change: Change<'_>,
    rule: &SafetyRule,
    (most, services): (u32, &[Selector]),
) -> Option<Refusal> {
    let about = |service: &crate::id::ServiceId| {
        services.is_empty() || services.iter().any(|s| s.matches(service))
    };
    let ways = change.writes.iter().any(
        |write| matches!(&write.change, crate::log::entry::Change::Drained(one, _) if one.is_way()),
    );
    let moves = change.moves.iter().any(|one| about(&one.service));
    let concerned = moves || ways && services.is_empty();
    if !concerned {
        return None;
    }
    let mut running = Vec::new();
    for (task, ..) in present.fold.commands() {
        if change.supersedes.contains(task) {
            continue;
        }
        let reading = read(present.fold, task);
        let effect = crate::task::view::last_effect(present.fold, task);
        let concerns = effect.is_some_and(|effect| {
            effect.moves.iter().any(|one| about(&one.service))
                || (services.is_empty() && effect.touches_ways())
        });
        if reading.effective() && reading.end.is_none() && concerns {
            running.push(task.to_string());
        }
    }
    if running.len() < usize::try_from(most).unwrap_or(usize::MAX) {
        return None;
    }
    let message = format!(
        "rule {} lets at most {most} tasks move something at once; there are {}",
        rule.id,
        running.join(", ")
    );
    Some(configured(rule, message))
}

/// Built in: a site that is joined to several others keeps links of one group. Where it is joined
/// to one, the rule about the last link says the same.
pub(super) fn last_risk_group(present: Present<'_>, after: &Intent) -> Option<Refusal> {
    let fabric = present.world.fabric;
    let several = |site: &&SiteId| {
        let mut peers = BTreeSet::new();
        for link in &fabric.links {
            let ends = fabric.joined_by(link);
            if ends.contains(site) {
                peers.extend(ends.into_iter().filter(|end| end != site));
            }
        }
        peers.len() > 1
    };
    let mut sites = fabric.sites.iter().map(|s| &s.id).filter(several);
    let site = sites.find(|site| lost_groups(present, after, site, 1).is_some())?;
    let message = format!("site {site} would have no link of any shared-risk group in service");
    Some(built_in(LAST_RISK_GROUP, message))
}

/// How many groups are left, where they are too few and fewer than before.
fn lost_groups(present: Present<'_>, after: &Intent, site: &SiteId, least: u32) -> Option<usize> {
    let count = |intent: &Intent| {
        let ways = intent.drained_ways();
        let fabric = present.world.fabric;
        let of_site = fabric.links.iter().filter(|l| fabric.joined_by(l).contains(&site));
        groups(of_site.filter(|l| carries(present, &ways, l)))
    };
    let left = count(after);
    let enough = left >= usize::try_from(least).unwrap_or(usize::MAX);
    (!enough && left < count(present.intent)).then_some(left)
}

/// How many groups links fall into, when those that share a risk fall together, directly or by way
/// of others. A link without a risk is a group of its own.
fn groups<'a>(links: impl Iterator<Item = &'a Link>) -> usize {
    let mut of_risk: BTreeMap<&str, usize> = BTreeMap::new();
    let mut group_of: BTreeMap<&LinkId, usize> = BTreeMap::new();
    let mut next = 0;
    for link in links {
        let known: BTreeSet<usize> =
            link.risk.iter().filter_map(|risk| of_risk.get(risk.as_str()).copied()).collect();
        let group = known.first().copied().unwrap_or_else(|| {
            next += 1;
            next
        });
        let merge = |other: &mut usize| {
            if known.contains(other) {
                *other = group;
            }
        };
        of_risk.values_mut().for_each(merge);
        group_of.values_mut().for_each(merge);
        of_risk.extend(link.risk.iter().map(|risk| (risk.as_str(), group)));
        group_of.insert(&link.id, group);
    }
    group_of.values().collect::<BTreeSet<_>>().len()
}
