//! Whose keys count: those of the fabric without those that the log has revoked.
//!
//! What decides about people asks the fabric, so the controller goes on with a fabric without them:
//! requests, wishes that are to be counted, waiting tasks and facts are all judged by it from the
//! entry on that revokes a key. What is in the log was judged when it was written, by the roster of
//! the generation that it names, and stays. A site that has not read the entry yet takes commands
//! as before: they are in its log and count, with their author's name.
//!
//! Crash story: nothing is kept; the log says it again.

use std::sync::Arc;

use nett_policy::fabric::{Fabric, Operator};
use nett_policy::id::EntryId;
use nett_policy::task::decide::Refusal;

use super::Controller;
use crate::api::types::{RevokedDoc, Stamp};
use crate::bus::wire::OpenError;

impl Controller {
    /// After the log was read: who is heard from now on.
    pub(super) fn hear_those_who_count(&mut self) {
        let counts = |one: &&Operator| self.intent.revoked().all(|(key, _)| key != one.key);
        let operators = self.configured.operators.iter();
        let heard = operators.clone().filter(counts).count();
        // A key never counts again, so the number tells.
        if heard == self.setting.fabric.operators.len() {
            return;
        }
        let operators = operators.filter(counts).cloned().collect();
        let fabric = Fabric { operators, ..Fabric::clone(&self.configured) };
        // What they have said before opens no gate any more.
        self.sight.facts.believe_only(|person| fabric.operators.iter().any(|o| o.name == person));
        self.setting.fabric = Arc::new(fabric);
    }

    /// What somebody is told whose request cannot be opened.
    pub(super) fn refusal_of(&self, error: &OpenError) -> Refusal {
        let key = match error {
            OpenError::UnknownOperator { key } => key.as_str(),
            _ => "",
        };
        match self.revoked_doc(key) {
            Some(revoked) => Refusal::rule("revoked", revoked.sentence()),
            None => Refusal::rule(error.reason(), error.message()),
        }
    }

    /// About one key, if it is revoked.
    pub(super) fn revoked_doc(&self, key: &str) -> Option<RevokedDoc> {
        self.revoked_docs().into_iter().find(|doc| doc.key == key)
    }

    pub(super) fn revoked_docs(&self) -> Vec<RevokedDoc> {
        let doc = |(key, task): (&str, &EntryId)| {
            let person = self.configured.operator_by_key(key).map(|one| one.name.clone());
            let command = self.fold.command(task).map(|(_, command)| command);
            let effective = self.fold.effects(task).next();
            RevokedDoc {
                person: person.unwrap_or_default(),
                key: key.to_owned(),
                task: task.to_string(),
                by: command.map(|command| command.request.person.name.clone()),
                since: effective.map(|(fact, _)| Stamp(fact.at)),
            }
        };
        self.intent.revoked().map(doc).collect()
    }
}
