//! Safety rules, checked on the state after the change. A refusal names the rule, its owner and the
//! exact override.

mod freeze;
mod limits;
mod load;
mod ways;

use std::collections::BTreeSet;

pub use load::{Flow, Flows};

use crate::fabric::SafetyRule;
use crate::id::{EntryId, ServiceId, SiteId};
use crate::lease::admission;
use crate::log::conflict::Contested;
use crate::log::entry::{Move, Object, Terms, Verb, Write};
use crate::log::intent::Intent;
use crate::place::{eligible, resides};
use crate::service::{Handover, Service};
use crate::task::decide::{Present, Refusal};
use crate::traffic::Spread;

/// Built in: a service moves only through the gates that it names. Passed over, its steps wait for
/// none of them.
pub const GATE: &str = "gate";
/// Built in: a service moves only with those outside who take part in it. Passed over, nobody
/// outside is asked.
pub const EXTERNAL: &str = "external";
/// Built in: what a `[[freeze]]` says.
pub const FREEZE: &str = "freeze";
/// Built in: a service always keeps a site that may serve it.
pub const LAST_ELIGIBLE_SITE: &str = "last-eligible-site";

/// Built in: a site keeps a border that is in service.
pub const LAST_BORDER: &str = "last-border";
/// Built in: a site with route nodes keeps one that is in service.
pub const LAST_ROUTE_NODE: &str = "last-route-node";
/// Built in: a service keeps backends at a site that are in no drained cluster.
pub const LAST_CLUSTER: &str = "last-cluster";
/// Built in: two sites that a link joins keep one that is in service.
pub const LAST_LINK: &str = "last-link";

/// Built in: a site that is joined to several others keeps links of one shared-risk group.
pub const LAST_RISK_GROUP: &str = "last-risk-group";
/// Built in: the services at a site fit into its capacity, as far as they say what they weigh.
pub const SITE_CAPACITY: &str = "site-capacity";

/// The built-in rules that an override can name.
pub const BUILT_IN: [&str; 10] = [
    EXTERNAL,
    FREEZE,
    GATE,
    LAST_BORDER,
    LAST_CLUSTER,
    LAST_ELIGIBLE_SITE,
    LAST_LINK,
    LAST_RISK_GROUP,
    LAST_ROUTE_NODE,
    SITE_CAPACITY,
];

/// What is to be judged: a command, and the state after it.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    pub verb: &'a Verb,
    pub after: &'a Intent,
    pub writes: &'a [Write],
    pub moves: &'a [Move],
    /// The services named or moved.
    pub services: &'a BTreeSet<ServiceId>,
    pub terms: &'a Terms,
    /// Open tasks that end because of it.
    pub supersedes: &'a [EntryId],
}

/// Refuses by the first rule that the change would break and that `overrides` does not name.
pub fn check(
    present: Present<'_>,
    change: Change<'_>,
    overrides: &BTreeSet<String>,
) -> Result<(), Refusal> {
    let Change { verb, after, moves, services, terms, writes: _, supersedes: _ } = change;
    held(present, verb, services)?;
    if !admission::fences_itself(present, change) {
        fenced(present, verb, terms)?;
    }
    admission::check(present, change)?;
    let broken = last_eligible_site(present, after, moves)
        .into_iter()
        .chain(ways::last_ways(present, after))
        .chain(limits::last_risk_group(present, after))
        .chain(load::site_capacity(present, change))
        .chain(limits::broken(present, change))
        .chain(freeze::frozen(present, change));
    for refusal in broken {
        if !overrides.contains(&refusal.refused_by) {
            return Err(aged(present, refusal));
        }
    }
    Ok(())
}

/// How old the view is that a rule was judged on.
fn aged(present: Present<'_>, refusal: Refusal) -> Refusal {
    let age = present.sight.age.as_secs();
    let message = format!("{} (the view is {age} s old)", refusal.message);
    Refusal { message, ..refusal }
}

/// Refuses by a rule that every fabric has.
fn built_in(rule: &str, message: String) -> Refusal {
    Refusal::rule(rule, message).hint(format!("built-in rule; to pass over it: --override {rule}"))
}

/// Refuses by a rule that this fabric has.
fn configured(rule: &SafetyRule, message: String) -> Refusal {
    let hint = format!("owner: {}; to pass over it: --override {}", rule.owner, rule.id);
    Refusal::rule(rule.id.as_str(), message).hint(hint)
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

/// Rules about where an operator may send a service. None of them can be passed over, and they are
/// asked first: whoever is sent nowhere else hears why, not that nothing would change.
pub(crate) fn directed(present: Present<'_>, verb: &Verb, after: &Intent) -> Result<(), Refusal> {
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
        | Verb::Resolve { .. }
        | Verb::Revoke { .. } => Ok(()),
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
    Some(built_in(LAST_ELIGIBLE_SITE, message))
}
