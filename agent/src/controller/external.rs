//! Asks those outside who take part in a step, again and again until they have answered.
//!
//! Every agent of the task's home site may ask, in the order in which they write facts: a request
//! has the same id whoever sends it and however often. The answer is a fact (see `facts`), and what
//! follows from it is judged where all facts are, in `policy`. Crash story: a node that was
//! restarted has forgotten whom it asked and what they said; it asks again, and they answer again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nett_policy::fact::FactKey;
use nett_policy::id::{EntryId, WallMs};
use nett_policy::log::entry::{Asked, Effect as TaskEffect, Slot};
use nett_policy::task::decide::Refusal;
use nett_policy::task::external::{Answer, request_id};
use nett_policy::task::view::{last_effect, read, start_slot};

use super::Controller;
use super::effect::Effect;
use super::event::Now;
use crate::bus::wire::OutsideRequest;

/// How long until somebody who has not answered is asked again.
const AGAIN: Duration = Duration::from_secs(5);

/// What is asked outside at present.
#[derive(Debug, Default)]
pub(super) struct Asking {
    open: BTreeMap<Slot, Open>,
    due: Option<Duration>,
}

#[derive(Debug)]
struct Open {
    /// The name of the request and of its answer.
    id: String,
    party: String,
    /// When it was sent last.
    sent: Option<Duration>,
}

/// A step that waits for somebody outside.
struct OpenStep {
    /// Of its start.
    slot: Slot,
    effect: Arc<TaskEffect>,
    number: u32,
}

// === impl Asking ===

impl Asking {
    /// When somebody is to be asked next.
    pub(super) fn due(&self) -> Option<Duration> {
        self.due
    }
}

// === impl Controller ===

impl Controller {
    /// Sends what is due. Who does not know all of the site's log asks for nothing: a step that is
    /// open in what it has read may long be over.
    pub(super) fn ask_outside(&mut self, now: Now) {
        let own = self.site();
        if !self.reading.is_caught_up(own) || self.reading.cannot_follow(own).is_some() {
            self.asking.due = None;
            return;
        }
        let steps: Vec<OpenStep> =
            self.open.iter().filter_map(|task| self.open_external(task)).collect();
        let before = std::mem::take(&mut self.asking);
        for OpenStep { slot, effect, number } in steps {
            let own = effect.steps.iter().find(|step| step.number == number);
            let Some((step, asked)) = own.and_then(|s| Some((s, s.asked.as_ref()?))) else {
                continue;
            };
            let mut sent = before.open.get(&slot).and_then(|open| open.sent);
            let (turn, begun) = self.turn_of(&slot.task, now);
            let left = step.timeout.saturating_sub(now.mono.saturating_sub(begun));
            let answered = Answer::to(asked, &slot, &self.sight.facts, now.wall).is_some();
            if !answered && !left.is_zero() {
                let mut due = sent.map_or(begun + turn, |sent| sent + AGAIN);
                if now.mono >= due {
                    (sent, due) = (Some(now.mono), now.mono + AGAIN);
                    self.send_outside((&slot, number, asked), left, now);
                }
                self.asking.due = Some(self.asking.due.map_or(due, |other| other.min(due)));
            }
            let (id, party) = (request_id(&slot, asked), asked.party.clone());
            if !before.open.contains_key(&slot) {
                // From before it was asked: nobody else's word may hide the answer.
                self.sight.facts.believe_only_of(&(None, id.clone()), &party);
            }
            self.asking.open.insert(slot, Open { id, party, sent });
        }
    }

    /// The open step of a task of this site in which somebody outside is asked.
    fn open_external(&self, task: &EntryId) -> Option<OpenStep> {
        let effect = last_effect(&self.fold, task)?;
        effect.steps.iter().find(|step| step.asked.is_some())?;
        if self.fold.home(task) != *self.site() {
            return None;
        }
        let number = read(&self.fold, task).open_step()?;
        effect.steps.iter().find(|step| step.number == number)?.asked.as_ref()?;
        let slot = start_slot(&self.fold, task, number)?;
        Some(OpenStep { slot, effect: Arc::clone(effect), number })
    }

    fn send_outside(
        &mut self,
        (slot, step, asked): (&Slot, u32, &Asked),
        left: Duration,
        now: Now,
    ) {
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let node = &self.setting.node;
        let request = OutsideRequest {
            site: node.site.clone(),
            node: node.id.clone(),
            fabric: self.fabric_ref(),
            at: now.wall,
            expires_at: WallMs(now.wall.0.saturating_add(left)),
            slot: slot.clone(),
            step,
            asked: asked.clone(),
        };
        self.effects.push(Effect::AskOutside(Box::new(request)));
    }

    /// Nobody but the one who was asked answers: anybody else's newer word would hide the answer.
    pub(super) fn is_asked(&self, (_, name): &FactKey, person: &str) -> Result<(), Refusal> {
        match self.asking.open.values().find(|open| open.id == *name) {
            Some(open) if open.party != person => {
                let message = format!("{} was asked, and {person} was not", open.party);
                Err(Refusal::rule("not-asked", message)
                    .hint("an answer is signed with the key of the one who was asked"))
            }
            Some(_) | None => Ok(()),
        }
    }
}
