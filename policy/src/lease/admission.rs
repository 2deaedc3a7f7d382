//! Rules for commands about leased services. They make commands useful; what is safe the predicate
//! alone decides.
//!
//! A command is refused where this site hears no majority of voters: it would wake up an hour later
//! and take a service away from whoever serves it. What it makes of a service is one site, always.

use crate::fabric::Fabric;
use crate::lease::rule::quorum_of;
use crate::log::entry::{Move, Verb};
use crate::safety::Change;
use crate::service::Isolation;
use crate::task::decide::{Present, Refusal};

/// Refuses what cannot become a claim. None of these rules can be passed over.
pub fn check(present: Present<'_>, change: Change<'_>) -> Result<(), Refusal> {
    let is_leased = |one: &&Move| {
        present.world.catalog.get(&one.service).is_some_and(crate::service::Service::is_leased)
    };
    let moves: Vec<&Move> = change.moves.iter().filter(is_leased).collect();
    let Some(first) = moves.first() else { return Ok(()) };
    if let Some(one) = moves.iter().find(|m| m.to.spread.sites().len() != 1) {
        let message =
            format!("{} is served under a lease: a command sends it to one site", one.service);
        return Err(Refusal::rule("lease-one-site", message).hint(
            "send it to a site; no command takes what is lease or exclusive from all of them",
        ));
    }
    let needed = quorum_of(present.world.fabric.voters().count());
    let heard = present.sight.voters_heard;
    if heard < needed {
        let service = &first.service;
        let message =
            format!("{service} needs {needed} voters, and this site hears {heard} of them now");
        let hint = "give the command at a site that hears a majority: `nettctl status` says who";
        let others = match change.verb {
            Verb::Evacuate { .. } => {
                "; services without a lease go by `nettctl failover SELECTOR --to SITE`"
            }
            _ => "",
        };
        return Err(Refusal::rule("lease-majority", message).hint(format!("{hint}{others}")));
    }
    Ok(())
}

/// How many approvals more a command needs because it starts what nobody confirmed.
pub fn extra_approvals(present: Present<'_>, change: Change<'_>) -> u8 {
    let is_exclusive = |one: &Move| {
        let service = present.world.catalog.get(&one.service);
        service.is_some_and(|s| s.isolation == Isolation::Exclusive)
    };
    u8::from(!change.terms.asserted.is_empty() && change.moves.iter().any(is_exclusive))
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
