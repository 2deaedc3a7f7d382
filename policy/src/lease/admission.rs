//! Rules for commands about leased services. They make commands useful; what is safe the predicate
//! alone decides.
//!
//! A command is refused where this site hears no majority of voters: it would wake up an hour later
//! and take a service away from whoever serves it. What it makes of a service is one site, always.

use std::collections::BTreeSet;

use crate::fabric::Fabric;
use crate::id::{NodeId, SiteId};
use crate::log::entry::{Move, Terms, Verb};
use crate::safety::Change;
use crate::service::{Isolation, Service};
use crate::task::decide::{Present, Refusal};

/// The rule that a command asks not to be judged by, by name in `--without-quorum`.
pub const WITHOUT_QUORUM: &str = "without-quorum";

/// Refuses what cannot become a claim. None of these rules can be passed over.
pub fn check(present: Present<'_>, change: Change<'_>) -> Result<(), Refusal> {
    let is_leased =
        |one: &&Move| present.world.catalog.get(&one.service).is_some_and(Service::is_leased);
    let moves: Vec<&Move> = change.moves.iter().filter(is_leased).collect();
    let alone = !change.terms.without.is_empty();
    if let Some(one) = change.moves.iter().find(|m| alone && !is_leased(m)) {
        let message = format!("{} has no lease: it needs no majority", one.service);
        return Err(Refusal::rule(WITHOUT_QUORUM, message).hint(
            "name the services under a lease alone; the others go by a command of their own",
        ));
    }
    let Some(first) = moves.first() else { return Ok(()) };
    if let Some(one) = moves.iter().find(|m| m.to.spread.sites().len() != 1) {
        let message =
            format!("{} is served under a lease: a command sends it to one site", one.service);
        return Err(Refusal::rule("lease-one-site", message).hint(
            "send it to a site; no command takes what is lease or exclusive from all of them",
        ));
    }
    let lack = lacking(present, &moves);
    if alone {
        return without_quorum(present, change, &moves, lack.is_none());
    }
    let Some(message) = lack else { return Ok(()) };
    let hint = "give the command at a site that hears a majority: `nettctl status` says who";
    let others = match change.verb {
        Verb::Evacuate { .. } => {
            "; services without a lease go by `nettctl failover SELECTOR --to SITE`"
        }
        _ => "; where the others are off, read about --without-quorum in LEASES.md",
    };
    let message = format!("{} {message}", first.service);
    Err(Refusal::rule("lease-majority", message).hint(format!("{hint}{others}")))
}

/// Which voters are not heard without which none of these moves would ever be served.
fn lacking(present: Present<'_>, moves: &[&Move]) -> Option<String> {
    let electorates = present.world.fabric.electorates();
    let counted = present.sight.counted.and_then(|generation| electorates.get(generation));
    let electorate = counted.unwrap_or(&electorates.present);
    let (needed, heard) = (electorate.quorum(), &present.sight.voters);
    let count = heard.intersection(&electorate.voters).count();
    if count < needed {
        return Some(format!("needs {needed} voters, and this site hears {count} of them now"));
    }
    let bound = moves.iter().filter_map(|one| present.sight.bound.get(&one.service)).flatten();
    let unheard = bound.into_iter().find(|voters| voters.is_disjoint(heard))?;
    Some(format!(
        "was taken without a majority, and of {} no voter is heard now: nobody else may serve it \
         before one of them has voted",
        names(unheard)
    ))
}

/// Judges a command whose author says that sites are off: each voter is heard or of one of these,
/// and nobody hears of a site that is named.
fn without_quorum(
    present: Present<'_>,
    change: Change<'_>,
    moves: &[&Move],
    is_needless: bool,
) -> Result<(), Refusal> {
    let (fabric, sight) = (present.world.fabric, present.sight);
    let Terms { without, asserted, .. } = change.terms;
    let refuse = |message: String| Refusal::rule(WITHOUT_QUORUM, message);
    if is_needless {
        return Err(refuse("a majority of the voters is heard: it is not needed".to_owned()).hint(
            "give the command without it; of nodes that are off say so by --fencing asserted",
        ));
    }
    if without.contains(present.home) {
        return Err(refuse(format!("this is {}, and not off", present.home))
            .hint("name the sites that are off, each with --without SITE"));
    }
    let targets = moves.iter().flat_map(|one| one.to.spread.sites());
    if let Some(site) = targets.into_iter().find(|site| without.contains(site)) {
        return Err(refuse(format!("{site} cannot be off and serve")));
    }
    let is_heard = |site: &&SiteId| sight.voters.contains(site) || !sight.silent.contains(site);
    if let Some(site) = without.iter().find(is_heard) {
        return Err(refuse(format!("{site} was heard a moment ago: it is not off"))
            .hint("nobody there may serve or vote before it has read this claim"));
    }
    let voters = fabric.electorates().all();
    let unknown = |site: &&SiteId| !sight.voters.contains(*site) && !without.contains(*site);
    let unknown: Vec<&str> = voters.iter().filter(unknown).map(|site| site.as_str()).collect();
    if !unknown.is_empty() {
        let sites: Vec<String> = unknown.iter().map(|site| format!("--without {site}")).collect();
        let message = format!(
            "the voter of {} is neither heard nor said to be off: all that are left have to vote",
            unknown.join(", ")
        );
        return Err(refuse(message).hint(format!("if it is off: {}", sites.join(" "))));
    }
    if voters.iter().all(|site| without.contains(site)) {
        return Err(refuse("no voter is left: nobody could permit serving".to_owned())
            .hint("bring one voter back first"));
    }
    let off = |node: &&NodeId| asserted.contains(*node) || !sight.away.contains(*node);
    let services = moves.iter().filter_map(|one| present.world.catalog.get(&one.service));
    let sites: BTreeSet<SiteId> = services.flat_map(Service::sites).collect();
    let others = sites.iter().filter(|site| !without.contains(*site));
    let mut nodes = others.flat_map(|site| fabric.serving_nodes(site)).map(|node| &node.id);
    match nodes.find(|node| !off(node)) {
        None => Ok(()),
        Some(node) => Err(refuse(format!("{node} is neither heard nor said to be off"))
            .hint(format!("if it is off: --fencing asserted --off {node}"))),
    }
}

fn names(sites: &BTreeSet<SiteId>) -> String {
    sites.iter().map(SiteId::as_str).collect::<Vec<_>>().join(", ")
}

/// How many approvals more a command needs because it starts what nobody confirmed.
pub fn extra_approvals(present: Present<'_>, change: Change<'_>) -> u8 {
    let is_exclusive = |one: &Move| {
        let service = present.world.catalog.get(&one.service);
        service.is_some_and(|s| s.isolation == Isolation::Exclusive)
    };
    let said = !change.terms.asserted.is_empty() || !change.terms.without.is_empty();
    u8::from(said && change.moves.iter().any(is_exclusive))
}

/// True where an evacuation needs nobody's word: what it moves ends with its lease.
pub fn fences_itself(present: Present<'_>, change: Change<'_>) -> bool {
    let ends = |one: &Move| {
        let service = present.world.catalog.get(&one.service);
        service.is_some_and(|s| s.isolation == Isolation::Lease)
    };
    matches!(change.verb, Verb::Evacuate { .. })
        && !change.moves.is_empty()
        && change.moves.iter().all(ends)
        && has_voters(present.world.fabric)
}

fn has_voters(fabric: &Fabric) -> bool {
    fabric.voters().next().is_some()
}
