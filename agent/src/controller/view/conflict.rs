//! Split decisions as documents.

use nett_policy::log::conflict::{Claim, Conflict};

use super::super::Controller;
use crate::api::types::{ClaimDoc, ConflictDoc};

// === impl Controller ===

impl Controller {
    pub(super) fn conflict_docs(&self) -> Vec<ConflictDoc> {
        self.conflicts.iter().map(conflict_doc).collect()
    }
}

fn conflict_doc(conflict: &Conflict) -> ConflictDoc {
    let Conflict { subject, winner, losers } = conflict;
    let loser = |claim: &Claim| claim_doc(claim, conflict.why(claim));
    ConflictDoc {
        subject: subject.to_string(),
        winner: claim_doc(winner, String::new()),
        losers: losers.iter().map(loser).collect(),
        resolve_with: format!("nettctl resolve {subject} --reason TEXT"),
    }
}

fn claim_doc(claim: &Claim, lost_because: String) -> ClaimDoc {
    ClaimDoc {
        task: claim.order().task.to_string(),
        verb: claim.verb.to_owned(),
        person: claim.person.name.clone(),
        site: claim.order().site.to_string(),
        epoch: claim.order().epoch.0,
        reason: claim.reason.clone(),
        wanted: claim.wanted.clone(),
        accepted: claim.accepted.to_string(),
        effective: claim.effective.to_string(),
        at: claim.at.into(),
        lost_because,
    }
}
