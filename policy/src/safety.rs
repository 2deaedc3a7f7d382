//! Safety rules, checked on the state after the change. A refusal names the rule, its owner and the
//! exact override.

mod ways;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::fabric::Freeze;
use crate::id::{ServiceId, SiteId};
use crate::lease::admission;
use crate::log::conflict::Contested;
use crate::log::entry::{Move, Object, Terms, Verb};
use crate::log::intent::Intent;
use crate::place::{eligible, resides};
use crate::service::{Handover, Service};
use crate::task::decide::{Present, Refusal};
use crate::traffic::Spread;

/// Built in: a service moves only through the gates that it names. Passed over, its steps wait for
/// none of them.
pub const GATE: &str = "gate";
/// Built in: what a `[[freeze]]` says.
pub const FREEZE: &str = "freeze";
/// Built in: a service always keeps a site that may serve it.
pub const LAST_ELIGIBLE_SITE: &str = "last-eligible-site";

/// Built in: a site keeps a border that is in service.
pub const LAST_BORDER: &str = "last-border";
/// Built in: a site with route nodes keeps one that is in service.
pub const LAST_ROUTE_NODE: &str = "last-route-node";
/// Built in: two sites that a link joins keep one that is in service.
pub const LAST_LINK: &str = "last-link";

/// The built-in rules that an override can name.
pub const BUILT_IN: [&str; 6] =
    [FREEZE, GATE, LAST_BORDER, LAST_ELIGIBLE_SITE, LAST_LINK, LAST_ROUTE_NODE];

/// A view older than this is named in a refusal.
const OLD_VIEW: Duration = Duration::from_secs(10);

/// What is to be judged: a command, and the state after it.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    pub verb: &'a Verb,
    pub after: &'a Intent,
    pub moves: &'a [Move],
    /// The services named or moved.
    pub services: &'a BTreeSet<ServiceId>,
    pub terms: &'a Terms,
}

/// Refuses by the first rule that the change would break and that `overrides` does not name.
pub fn check(
    present: Present<'_>,
    change: Change<'_>,
    overrides: &BTreeSet<String>,
) -> Result<(), Refusal> {
    let Change { verb, after, moves, services, terms } = change;
    directed(present, verb, after)?;
    held(present, verb, services)?;
    if !admission::fences_itself(present, change) {
        fenced(present, verb, terms)?;
    }
    admission::check(present, change)?;
    let broken = last_eligible_site(present, after, moves)
        .into_iter()
        .chain(ways::last_ways(present, after))
        .chain(configured_rules(present, after))
        .chain(frozen(present, verb, services));
    for refusal in broken {
        if !overrides.contains(&refusal.refused_by) {
            return Err(aged(present, refusal));
        }
    }
    Ok(())
}

/// How old the view is that a rule was judged on, where that matters.
fn aged(present: Present<'_>, refusal: Refusal) -> Refusal {
    let age = present.sight.age;
    if age <= OLD_VIEW {
        return refusal;
    }
    let message = format!("{} (the view is {} s old)", refusal.message, age.as_secs());
    Refusal { message, ..refusal }
}

/// A held service is touched by nothing but its release.
fn held(present: Present<'_>, verb: &Verb, services: &BTreeSet<ServiceId>) -> Result<(), Refusal> {
    if matches!(verb, Verb::Hold { .. } | Verb::Release { .. }) {
        return Ok(());
    }
    match services.iter().find(|service| present.intent.is_held(service)) {
        None => Ok(()),
        Some(service) => Err(Refusal::rule("hold", format!("{service} is held"))
            .hint(format!("`nettctl release {service} --reason ...` first"))),
    }
}

/// A dead site acknowledges nothing: somebody has to say that it is off.
fn fenced(present: Present<'_>, verb: &Verb, terms: &Terms) -> Result<(), Refusal> {
    let Verb::Evacuate { site, .. } = verb else { return Ok(()) };
    let mut of_site = present.world.fabric.nodes.iter().filter(|n| n.site == *site);
    match of_site.find(|node| !terms.asserted.contains(&node.id)) {
        None => Ok(()),
        Some(node) => {
            let message = format!("nobody says that {} of {site} is off", node.id);
            Err(Refusal::rule("fencing", message).hint(format!(
                "--fencing asserted says so of every node of {site}; a site that still answers \
                 is taken out of service by `nettctl drain site {site}`"
            )))
        }
    }
}

fn frozen(present: Present<'_>, verb: &Verb, services: &BTreeSet<ServiceId>) -> Option<Refusal> {
    let now = present.sight.now;
    let names = |freeze: &Freeze, service: &ServiceId| {
        freeze.services.is_empty() || freeze.services.iter().any(|p| p.matches(service))
    };
    let applies = |freeze: &&Freeze| {
        freeze.from <= now && now < freeze.to && !freeze.except.iter().any(|v| v == verb.name())
    };
    // What only takes possibilities away is no change.
    if matches!(verb, Verb::Hold { .. }) {
        return None;
    }
    let mut freezes = present.world.fabric.freezes.iter().filter(applies);
    // What a node or a link carries may be anything.
    let way = match verb {
        Verb::Drain { object } | Verb::Undrain { object } => match object {
            Object::Node(node) => Some(node.to_string()),
            Object::Link(link) => Some(link.to_string()),
            Object::Site(_) | Object::ServiceAt(..) => None,
        },
        _ => None,
    };
    let found = freezes.find_map(|freeze| {
        let service = services.iter().find(|service| names(freeze, service));
        let what = service.map(ToString::to_string).or_else(|| way.clone())?;
        Some((freeze, what))
    });
    let (freeze, what) = found?;
    let left = (freeze.to.0 - now.0) / 60_000;
    let except = match freeze.except.is_empty() {
        true => String::new(),
        false => format!(" except {}", freeze.except.join(", ")),
    };
    let message = format!("{what} is frozen for {left} more minutes{except}");
    let hint = format!("change freeze of the fabric; to pass over it: --override {FREEZE}");
    Some(Refusal::rule(FREEZE, message).hint(hint))
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
        Verb::Resolve { subject: Contested::Service(service), to: Some(to) } => {
            let service = present.world.catalog.get(service);
            service.map_or(Ok(()), |service| may_serve(present, after, service, to))
        }
        Verb::Failback { .. }
        | Verb::Drain { .. }
        | Verb::Undrain { .. }
        | Verb::Evacuate { .. }
        | Verb::Hold { .. }
        | Verb::Release { .. }
        | Verb::Revert { .. }
        | Verb::Resolve { .. } => Ok(()),
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
