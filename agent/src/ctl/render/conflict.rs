//! Split decisions, for people.

use super::be;
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
        // Whether it has a majority by now is a question to `service show`.
        false => {
            format!(" without a majority ({} said to be off)", be(without, ["was", "were"]))
        }
    };
    format!(
        "{verb} {wanted}{off} by {person} at {site}, epoch {epoch}, {at}: {reason}\n         \
         task {task}, accepted by entry {accepted}, effective by entry {effective}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::Stamp;

    /// What is shown was decided then; a majority may have voted for it since.
    #[test]
    fn a_claim_without_a_majority_is_told_as_what_was() {
        let text = |without: &[&str]| {
            claim(&ClaimDoc {
                task: "osl.01jd3m5w7r8v3qyb2s9t4k6e1h".to_owned(),
                verb: "failover".to_owned(),
                person: "mira".to_owned(),
                site: "trd".to_owned(),
                epoch: 2,
                reason: "both are dark".to_owned(),
                without: without.iter().map(|site| (*site).to_owned()).collect(),
                wanted: "to trd".to_owned(),
                accepted: "trd.7".to_owned(),
                effective: "trd.9".to_owned(),
                at: Stamp(nett_policy::id::WallMs(0)),
                lost_because: String::new(),
            })
        };
        let said = |without: &[&str]| text(without).lines().next().map(str::to_owned);
        assert_eq!(
            said(&["svg"]).as_deref(),
            Some(
                "failover to trd without a majority (svg was said to be off) by mira at trd, \
                 epoch 2, 1970-01-01T00:00:00Z: both are dark"
            )
        );
        let two = text(&["osl", "svg"]);
        assert!(two.contains("(osl and svg were said to be off)"), "{two}");
        assert!(!text(&[]).contains("majority"), "{}", text(&[]));
    }
}
