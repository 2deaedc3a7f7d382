//! What a refusal says, and how many of one person's become entries of the log.
//!
//! Whoever has a key that counts may be refused as often as he likes, and each refusal is an entry
//! that every node keeps and every other command has to go behind. So only so many of one person
//! are recorded a second; the others are answered all the same. Nothing is kept: after a start
//! everybody may again.

use std::collections::BTreeMap;
use std::time::Duration;

use nett_policy::log::entry::{Body, Person, Refused, Request};
use nett_policy::task::decide::{Refusal, RefusalKind};

use crate::api::types::CommandReply;

#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// When the last one that may be recorded is paid for. There are no more people than operators.
    paid: BTreeMap<String, Duration>,
}

/// One refusal in so long a time.
const EACH: Duration = Duration::from_millis(250);
/// So many at once.
const AT_ONCE: u32 = 8;

impl Refusals {
    /// Counts it, where it may be recorded.
    pub(super) fn may_record(&mut self, person: &Person, now: Duration) -> bool {
        let paid = self.paid.entry(person.key.clone()).or_default();
        let next = (*paid).max(now) + EACH;
        let there = next <= now + EACH * AT_ONCE;
        if there {
            *paid = next;
        }
        there
    }
}

pub(super) fn refusal_body(request: &Request, refusal: &Refusal) -> Body {
    let hint = refusal.hint.iter().map(|h| format!("; {h}")).collect::<String>();
    Body::Refused(Refused {
        request: request.clone(),
        refused_by: refusal.refused_by.clone(),
        message: format!("{}{hint}", refusal.message),
    })
}

pub(super) fn refusal_reply(refusal: &Refusal) -> CommandReply {
    let hint = refusal.hint.iter().map(|h| format!("; {h}")).collect::<String>();
    CommandReply {
        refused_by: Some(refusal.refused_by.clone()),
        message: format!("{}{hint}", refusal.message),
        exit: exit_of(refusal.kind),
        ..CommandReply::default()
    }
}

fn exit_of(kind: RefusalKind) -> u8 {
    match kind {
        RefusalKind::Usage => 2,
        RefusalKind::Rule => 4,
        RefusalKind::Changed => 7,
    }
}

/// The answer to a refusal that leaves no entry.
pub(super) fn unrecorded(refused: &Refused) -> CommandReply {
    let Refused { request: _, refused_by, message } = refused;
    CommandReply {
        refused_by: Some(refused_by.clone()),
        message: format!("{message} (not recorded: too many of this person's are refused)"),
        exit: exit_of_recorded(refused_by),
        ..CommandReply::default()
    }
}

/// A recorded refusal keeps its name, not its kind.
pub(super) fn exit_of_recorded(refused_by: &str) -> u8 {
    match refused_by {
        "unknown-service" | "unknown-site" | "unknown-task" | "unknown-node" | "unknown-rule"
        | "other-site" | "same-site" | "no-site" | "ramp" | "until" => 2,
        "plan-hash" | "moved-since" | "not-waiting" => 7,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_at_once_and_then_four_a_second_of_each_person() {
        let person = |key: &str| Person { name: key.to_owned(), key: key.to_owned() };
        let mut refusals = Refusals::default();
        let mut recorded = |key: &str, ms: u64| {
            let now = Duration::from_millis(5000 + ms);
            (0..100).filter(|_| refusals.may_record(&person(key), now)).count()
        };
        assert_eq!([recorded("jon", 0), recorded("jon", 1000), recorded("jon", 1100)], [8, 4, 0]);
        assert_eq!(recorded("mira", 1100), 8, "another one's do not count");
    }
}
