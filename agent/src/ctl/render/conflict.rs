//! Split decisions, for people.

use crate::api::types::{ClaimDoc, ConflictDoc};

pub(super) fn list(conflicts: &[ConflictDoc]) -> String {
    if conflicts.is_empty() {
        return "no split decisions\n".to_owned();
    }
    conflicts.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn one(conflict: &ConflictDoc) -> String {
    let ConflictDoc { subject, winner, losers, resolve_with } = conflict;
    let mut out = format!("{subject}\n");
    out += &format!("  wins   {}\n", claim(winner));
    for loser in losers {
        out += &format!("  loses  {}\n         because {}\n", claim(loser), loser.lost_because);
    }
    out += &format!("  to end it: {resolve_with}\n");
    out
}

fn claim(claim: &ClaimDoc) -> String {
    let ClaimDoc {
        task,
        verb,
        person,
        site,
        epoch,
        reason,
        without,
        wanted,
        accepted,
        effective,
        at,
        lost_because: _,
    } = claim;
    let off = match without.is_empty() {
        true => String::new(),
        false => format!(" UNPROTECTED ({} said to be off)", without.join(", ")),
    };
    format!(
        "{verb} {wanted}{off} by {person} at {site}, epoch {epoch}, {at}: {reason}\n         \
         task {task}, accepted by entry {accepted}, effective by entry {effective}"
    )
}
