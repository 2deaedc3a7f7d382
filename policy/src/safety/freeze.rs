//! Times and switches: when nothing may be changed, whoever asks.
//!
//! Pure; a switch is read from the facts that outside reporters signed, and one that nobody reports
//! is off.

use super::{FREEZE, configured};
use crate::fabric::{Freeze, Limit, SafetyRule};
use crate::id::{Selector, ServiceId};
use crate::log::entry::{Object, Verb};
use crate::safety::Change;
use crate::task::decide::{Present, Refusal};

/// What only takes possibilities away is no change.
fn changes_nothing(verb: &Verb) -> bool {
    matches!(verb, Verb::Hold { .. })
}

/// The first of the services, or the node or link, that selectors are about.
fn covered(change: Change<'_>, selectors: &[Selector]) -> Option<String> {
    let names =
        |service: &&ServiceId| selectors.is_empty() || selectors.iter().any(|p| p.matches(service));
    // What a node, a link or a cluster carries may be anything.
    let way = match change.verb {
        Verb::Drain { object } | Verb::Undrain { object } => match object {
            Object::Node(node) => Some(node.to_string()),
            Object::Link(link) => Some(link.to_string()),
            Object::Cluster(cluster) => Some(cluster.to_string()),
            Object::Site(_) | Object::ServiceAt(..) => None,
        },
        _ => None,
    };
    change.services.iter().find(names).map(ToString::to_string).or(way)
}

pub(super) fn frozen(present: Present<'_>, change: Change<'_>) -> Option<Refusal> {
    let (now, verb) = (present.sight.now, change.verb);
    if changes_nothing(verb) {
        return None;
    }
    let applies = |freeze: &&Freeze| {
        freeze.from <= now && now < freeze.to && !freeze.except.iter().any(|v| v == verb.name())
    };
    let mut freezes = present.world.fabric.freezes.iter().filter(applies);
    let (freeze, what) =
        freezes.find_map(|freeze| Some((freeze, covered(change, &freeze.services)?)))?;
    let left = (freeze.to.0 - now.0) / 60_000;
    let except = match freeze.except.is_empty() {
        true => String::new(),
        false => format!(" except {}", freeze.except.join(", ")),
    };
    let message = format!("{what} is frozen for {left} more minutes{except}");
    let owner = match &freeze.owner {
        Some(owner) => format!("owner: {owner}"),
        None => "change freeze of the fabric".to_owned(),
    };
    Some(
        Refusal::rule(FREEZE, message)
            .hint(format!("{owner}; to pass over it: --override {FREEZE}")),
    )
}

/// A rule that lets changes through only while a fact says so.
pub(super) fn switched_off(
    present: Present<'_>,
    change: Change<'_>,
    rule: &SafetyRule,
) -> Option<Refusal> {
    let Limit::Switch { fact, services, except } = &rule.limit else { return None };
    if changes_nothing(change.verb) || except.iter().any(|v| v == change.verb.name()) {
        return None;
    }
    if present.sight.facts.is_on(fact, present.sight.now) {
        return None;
    }
    let what = covered(change, services)?;
    let message = format!("rule {}: {what} may not be changed now: `{fact}` is not on", rule.id);
    Some(configured(rule, message))
}
