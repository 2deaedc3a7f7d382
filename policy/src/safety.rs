//! Safety rules, checked on the state after the change. A refusal names the rule, its owner and the
//! exact override.

use std::collections::BTreeSet;

use crate::id::SiteId;
use crate::log::entry::{Move, Object, Verb};
use crate::log::intent::Intent;
use crate::place::{eligible, resides};
use crate::service::{Handover, Service};
use crate::task::decide::{Present, Refusal};
use crate::traffic::Spread;

/// Built in: a service moves only through the gates that it names.
pub const GATE: &str = "gate";
/// Built in: a service always keeps a site that may serve it.
pub const LAST_ELIGIBLE_SITE: &str = "last-eligible-site";

/// The built-in rules that an override can name.
pub const BUILT_IN: [&str; 2] = [GATE, LAST_ELIGIBLE_SITE];

/// Refuses by the first rule that the change would break and that `overrides` does not name.
pub fn check(
    present: Present<'_>,
    verb: &Verb,
    after: &Intent,
    moves: &[Move],
    overrides: &BTreeSet<String>,
) -> Result<(), Refusal> {
    directed(present, verb, after)?;
    let broken = last_eligible_site(present, after, moves)
        .into_iter()
        .chain(configured_rules(present, after))
        .chain(gate(present, moves));
    for refusal in broken {
        if !overrides.contains(&refusal.refused_by) {
            return Err(refusal);
        }
    }
    Ok(())
}

/// Rules about where an operator may send a service. None of them can be passed over.
fn directed(present: Present<'_>, verb: &Verb, after: &Intent) -> Result<(), Refusal> {
    match verb {
        Verb::Failover { services, to } => {
            let named = present.world.catalog.iter().filter(|s| services.matches(&s.id));
            named.into_iter().try_for_each(|service| may_serve(present, after, service, to))
        }
        Verb::Steer { services, to } => {
            let named = present.world.catalog.iter().filter(|s| services.matches(&s.id));
            for service in named {
                if service.handover == Handover::BreakBeforeMake && to.len() > 1 {
                    let message =
                        format!("{} is break-before-make: one site at a time", service.id);
                    return Err(Refusal::rule("one-site-at-a-time", message)
                        .hint("steer it to one site, or use `failover`"));
                }
                to.keys().try_for_each(|site| may_serve(present, after, service, site))?;
            }
            Ok(())
        }
        Verb::Failback { .. } | Verb::Drain { .. } | Verb::Undrain { .. } | Verb::Revert { .. } => {
            Ok(())
        }
    }
}

fn may_serve(
    present: Present<'_>,
    after: &Intent,
    service: &Service,
    site: &SiteId,
) -> Result<(), Refusal> {
    let id = &service.id;
    if !service.sites().contains(site) {
        let sites: Vec<String> = service.sites().iter().map(ToString::to_string).collect();
        return Err(Refusal::rule(
            "not-a-candidate",
            format!("{id} is not defined for site {site}"),
        )
        .hint(format!("its sites are {}", sites.join(", "))));
    }
    if !resides(present.world, service, site) {
        let message = format!("{id} may not be placed at {site}: residency");
        return Err(Refusal::rule("residency", message).hint("residency cannot be overridden"));
    }
    if after.is_drained_at(id, site) {
        return Err(Refusal::rule("drained", format!("{site} is drained for {id}"))
            .hint(undrain_hint(after, service, site)));
    }
    Ok(())
}

fn undrain_hint(after: &Intent, service: &Service, site: &SiteId) -> String {
    if after.is_drained(&Object::Site(site.clone())) {
        format!("`nettctl undrain site {site} --reason ...` first")
    } else {
        format!("`nettctl undrain service {} --at {site} --reason ...` first", service.id)
    }
}

/// A drain counts although the service is elsewhere now: it may take the last standby away.
fn last_eligible_site(present: Present<'_>, after: &Intent, moves: &[Move]) -> Option<Refusal> {
    let world = present.world;
    let emptied = |service: &&Service| {
        eligible(world, after, service).is_empty()
            && !eligible(world, present.intent, service).is_empty()
    };
    let nowhere = moves.iter().find(|m| m.to.spread == Spread::Nowhere).map(|m| &m.service);
    let service = world.catalog.iter().find(emptied).map(|s| &s.id).or(nowhere)?;
    let message = format!("no site could serve {service} after this change");
    Some(
        Refusal::rule(LAST_ELIGIBLE_SITE, message)
            .hint(format!("built-in rule; to pass over it: --override {LAST_ELIGIBLE_SITE}")),
    )
}

fn configured_rules(present: Present<'_>, after: &Intent) -> Vec<Refusal> {
    let in_service = |intent: &Intent, sites: &[SiteId]| {
        let up = |s: &&SiteId| !intent.is_drained(&Object::Site((*s).clone()));
        u32::try_from(sites.iter().filter(up).count()).unwrap_or(u32::MAX)
    };
    let mut broken = Vec::new();
    for rule in &present.world.fabric.safety {
        let left = in_service(after, &rule.of);
        if left < rule.at_least && left < in_service(present.intent, &rule.of) {
            let of: Vec<&str> = rule.of.iter().map(SiteId::as_str).collect();
            let message = format!(
                "rule {} keeps at least {} of {} in service; {left} would be left",
                rule.id,
                rule.at_least,
                of.join(", "),
            );
            let hint = format!("owner: {}; to pass over it: --override {}", rule.owner, rule.id);
            broken.push(Refusal::rule(rule.id.as_str(), message).hint(hint));
        }
    }
    broken
}

/// A service that names gates for a move waits for facts from outside. This release takes no such
/// facts, so the move needs somebody's word that they hold.
fn gate(present: Present<'_>, moves: &[Move]) -> Option<Refusal> {
    let gates = moves.iter().filter_map(|a_move| {
        let service = present.world.catalog.get(&a_move.service)?;
        let homeward =
            service.primary().is_some_and(|p| a_move.to.spread == Spread::one(p.clone()));
        let kind = if homeward { "failback" } else { "failover" };
        let names = service.gates.get(kind).filter(|names| !names.is_empty())?;
        Some((service, kind, names))
    });
    let (service, kind, names) = gates.into_iter().next()?;
    let message = format!("{} asks for {} before a {kind}", service.id, names.join(", "));
    let hint = format!(
        "gates are not opened by facts in this release; when you know that they hold: \
         --override {GATE}"
    );
    Some(Refusal::rule(GATE, message).hint(hint))
}
