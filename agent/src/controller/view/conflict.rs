//! Split decisions as documents.

use nett_policy::log::conflict::{Claim, Conflict};

use super::super::Controller;
use super::task::without_of;
use crate::api::types::{ClaimDoc, ConflictDoc};

// === impl Controller ===

impl Controller {
    pub(super) fn conflict_docs(&self) -> Vec<ConflictDoc> {
        self.conflicts.iter().map(|conflict| self.conflict_doc(conflict)).collect()
    }

    fn conflict_doc(&self, conflict: &Conflict) -> ConflictDoc {
        let Conflict { subject, winner, losers } = conflict;
        let doc = |claim: &Claim, lost_because| {
            let command = self.fold.command(&claim.order().task);
            let ask = command.map(|(_, command)| &command.request.ask);
            claim_doc(claim, ask.map(without_of).unwrap_or_default(), lost_because)
        };
        ConflictDoc {
            subject: subject.to_string(),
            winner: doc(winner, String::new()),
            losers: losers.iter().map(|claim| doc(claim, conflict.why(claim))).collect(),
            resolve_with: format!("nettctl resolve {subject} --reason TEXT"),
        }
    }
}

fn claim_doc(claim: &Claim, without: Vec<String>, lost_because: String) -> ClaimDoc {
    ClaimDoc {
        without,
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
