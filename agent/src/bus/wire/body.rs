//! The bodies of log entries as JSON.
//!
//! A request is never repeated inside a body: it stands beside it, as the operator signed it.

use std::collections::BTreeMap;
use std::sync::Arc;

use nett_policy::id::EntryId;
use nett_policy::log::entry::{
    AdoptFact, Body, Command, EffectiveFact, EndFact, Outcome, Refused, Request, Slot, StepFact,
    StepState, Turn, TurnFact, Wish, Withdrawn,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::effect::EffectDoc;
use super::fact::MeasuredDoc;
use super::{OpenError, WireError, epochs, id, json};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandDoc {
    plan_hash: String,
    approvals_needed: u8,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    supersedes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bad_since: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    effect: Option<EffectDoc>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RefusedDoc {
    refused_by: String,
    message: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WishDoc {}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EffectiveDoc {
    slot: SlotDoc,
    approvals: Vec<String>,
    effect: EffectDoc,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepDoc {
    slot: SlotDoc,
    step: u32,
    state: StateDoc,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TurnDoc {
    slot: SlotDoc,
    turn: TurnKindDoc,
    wish: String,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TurnKindDoc {
    Paused,
    Resumed,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AdoptDoc {
    slot: SlotDoc,
    rank: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndDoc {
    slot: SlotDoc,
    outcome: OutcomeDoc,
    reason: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WithdrawnDoc {
    services: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SlotDoc {
    task: String,
    term: u32,
    index: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase", deny_unknown_fields)]
enum StateDoc {
    Started {
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gates: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        facts: Vec<MeasuredDoc>,
    },
    Done {
        evidence: Vec<String>,
    },
    Failed {
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OutcomeDoc {
    Done,
    Failed,
    Rejected,
    Expired,
    Cancelled,
    Superseded,
    Reverted,
}

/// The body without its request.
pub(super) fn write(body: &Body) -> Result<Map<String, Value>, WireError> {
    match body {
        Body::Command(command) => {
            let Command { request: _, plan_hash, approvals_needed, supersedes, bad_since, effect } =
                command;
            let bad_since = bad_since.map(|at| json::write_time("body.bad_since", at));
            json::object(&CommandDoc {
                bad_since: bad_since.transpose()?,
                plan_hash: plan_hash.clone(),
                approvals_needed: *approvals_needed,
                supersedes: supersedes.iter().map(EntryId::to_string).collect(),
                effect: effect.as_deref().map(EffectDoc::write),
            })
        }
        Body::Refused(Refused { request: _, refused_by, message }) => {
            json::object(&RefusedDoc { refused_by: refused_by.clone(), message: message.clone() })
        }
        Body::Wish(Wish { request: _ }) => json::object(&WishDoc {}),
        Body::Effective(EffectiveFact { slot, approvals, effect }) => json::object(&EffectiveDoc {
            slot: SlotDoc::write(slot),
            approvals: approvals.iter().map(EntryId::to_string).collect(),
            effect: EffectDoc::write(effect),
        }),
        Body::Step(StepFact { slot, step, state }) => json::object(&StepDoc {
            slot: SlotDoc::write(slot),
            step: *step,
            state: StateDoc::write(state)?,
        }),
        Body::Turn(TurnFact { slot, turn, wish }) => json::object(&TurnDoc {
            slot: SlotDoc::write(slot),
            turn: match turn {
                Turn::Paused => TurnKindDoc::Paused,
                Turn::Resumed => TurnKindDoc::Resumed,
            },
            wish: wish.to_string(),
        }),
        Body::Adopt(AdoptFact { request: _, slot, rank }) => {
            json::object(&AdoptDoc { slot: SlotDoc::write(slot), rank: *rank })
        }
        Body::Withdrawn(Withdrawn { services }) => {
            json::object(&WithdrawnDoc { services: epochs::write(services) })
        }
        Body::End(EndFact { slot, outcome, reason }) => json::object(&EndDoc {
            slot: SlotDoc::write(slot),
            outcome: OutcomeDoc::write(*outcome),
            reason: reason.clone(),
        }),
    }
}

/// Reads the body of an entry of this kind; `request` is there exactly for the kinds that embed
/// one.
pub(super) fn read(
    kind: &str,
    body: Map<String, Value>,
    request: Option<Request>,
) -> Result<Body, OpenError> {
    let body = Value::Object(body);
    let wrong = |expected: &'static str| OpenError::Value {
        field: "kind",
        value: kind.to_owned(),
        expected,
    };
    match (kind, request) {
        ("command", Some(request)) => {
            let CommandDoc { plan_hash, approvals_needed, supersedes, bad_since, effect } =
                json::read(body)?;
            let bad_since = bad_since.map(|at| json::read_time("body.bad_since", &at));
            let bad_since = bad_since.transpose()?;
            let effect = effect.map(EffectDoc::read).transpose()?;
            if approvals_needed > 2 || effect.is_some() != (approvals_needed == 0) {
                return Err(OpenError::Value {
                    field: "body.approvals_needed",
                    value: approvals_needed.to_string(),
                    expected: "0 with an effect, or 1 or 2 without",
                });
            }
            let supersedes = supersedes.iter().map(|task| id("body.supersedes", task));
            let supersedes = supersedes.collect::<Result<_, _>>()?;
            Ok(Body::Command(Command {
                request,
                plan_hash,
                approvals_needed,
                supersedes,
                bad_since,
                effect: effect.map(Arc::new),
            }))
        }
        ("refused", Some(request)) => {
            let RefusedDoc { refused_by, message } = json::read(body)?;
            Ok(Body::Refused(Refused { request, refused_by, message }))
        }
        ("adopt", Some(request)) => {
            let AdoptDoc { slot, rank } = json::read(body)?;
            Ok(Body::Adopt(AdoptFact { request, slot: slot.read()?, rank }))
        }
        (
            "approve" | "reject" | "cancel" | "pause" | "resume" | "gate" | "confirm",
            Some(request),
        ) => {
            let WishDoc {} = json::read(body)?;
            Ok(Body::Wish(Wish { request }))
        }
        ("effective", None) => {
            let EffectiveDoc { slot, approvals, effect } = json::read(body)?;
            let approvals = approvals.iter().map(|a| id("body.approvals", a));
            Ok(Body::Effective(EffectiveFact {
                slot: slot.read()?,
                approvals: approvals.collect::<Result<_, _>>()?,
                effect: Arc::new(effect.read()?),
            }))
        }
        ("step", None) => {
            let StepDoc { slot, step, state } = json::read(body)?;
            Ok(Body::Step(StepFact { slot: slot.read()?, step, state: state.read()? }))
        }
        ("turn", None) => {
            let TurnDoc { slot, turn, wish } = json::read(body)?;
            let turn = match turn {
                TurnKindDoc::Paused => Turn::Paused,
                TurnKindDoc::Resumed => Turn::Resumed,
            };
            Ok(Body::Turn(TurnFact { slot: slot.read()?, turn, wish: id("wish", &wish)? }))
        }
        ("end", None) => {
            let EndDoc { slot, outcome, reason } = json::read(body)?;
            Ok(Body::End(EndFact { slot: slot.read()?, outcome: outcome.read(), reason }))
        }
        ("withdrawn", None) => {
            let WithdrawnDoc { services } = json::read(body)?;
            if services.is_empty() {
                return Err(wrong("a withdrawal names services"));
            }
            Ok(Body::Withdrawn(Withdrawn { services: epochs::read("body.services", services)? }))
        }
        (_, Some(_)) => Err(wrong("command, refused, adopt or a wish beside a request")),
        (_, None) => Err(wrong("effective, step, turn, end or withdrawn without a request")),
    }
}

// === impl SlotDoc ===

impl SlotDoc {
    pub(super) fn write(slot: &Slot) -> Self {
        let Slot { task, term, index } = slot;
        Self { task: task.to_string(), term: *term, index: *index }
    }

    pub(super) fn read(self) -> Result<Slot, OpenError> {
        let Self { task, term, index } = self;
        Ok(Slot { task: id("slot.task", &task)?, term, index })
    }
}

// === impl StateDoc ===

impl StateDoc {
    fn write(state: &StepState) -> Result<Self, WireError> {
        Ok(match state {
            StepState::Started { gates, facts } => Self::Started {
                gates: gates.iter().map(EntryId::to_string).collect(),
                facts: facts.iter().map(MeasuredDoc::write).collect::<Result<_, _>>()?,
            },
            StepState::Done { evidence } => Self::Done { evidence: evidence.clone() },
            StepState::Failed { reason } => Self::Failed { reason: reason.clone() },
        })
    }

    fn read(self) -> Result<StepState, OpenError> {
        Ok(match self {
            Self::Started { gates, facts } => {
                let gates = gates.iter().map(|gate| id("state.gates", gate));
                StepState::Started {
                    gates: gates.collect::<Result<_, _>>()?,
                    facts: facts.into_iter().map(MeasuredDoc::read).collect::<Result<_, _>>()?,
                }
            }
            Self::Done { evidence } => StepState::Done { evidence },
            Self::Failed { reason } => StepState::Failed { reason },
        })
    }
}

// === impl OutcomeDoc ===

impl OutcomeDoc {
    fn write(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::Done,
            Outcome::Failed => Self::Failed,
            Outcome::Rejected => Self::Rejected,
            Outcome::Expired => Self::Expired,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Superseded => Self::Superseded,
            Outcome::Reverted => Self::Reverted,
        }
    }

    fn read(self) -> Outcome {
        match self {
            Self::Done => Outcome::Done,
            Self::Failed => Outcome::Failed,
            Self::Rejected => Outcome::Rejected,
            Self::Expired => Outcome::Expired,
            Self::Cancelled => Outcome::Cancelled,
            Self::Superseded => Outcome::Superseded,
            Self::Reverted => Outcome::Reverted,
        }
    }
}
