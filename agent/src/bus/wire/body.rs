//! The bodies of log entries as JSON.
//!
//! A request is never repeated inside a body: it stands beside it, as the operator signed it.

use std::collections::{BTreeMap, BTreeSet};

use nett_policy::id::{EntryId, Epoch, SiteId};
use nett_policy::log::entry::{
    Body, Change, Command, Directive, Effect, EffectiveFact, EndFact, Move, Outcome, Refused,
    Request, Slot, StepFact, StepState, Wish, Write,
};
use nett_policy::service::Handover;
use nett_policy::traffic::{Spread, Traffic};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::request::{ObjectDoc, read_weights, write_weights};
use super::{OpenError, WireError, id, json};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandDoc {
    plan_hash: String,
    approvals_needed: u8,
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
struct EndDoc {
    slot: SlotDoc,
    outcome: OutcomeDoc,
    reason: String,
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
    Started {},
    Done { evidence: Vec<String> },
    Failed { reason: String },
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

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EffectDoc {
    rank: u32,
    writes: Vec<WriteDoc>,
    moves: Vec<MoveDoc>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteDoc {
    epoch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prev: Option<String>,
    change: ChangeDoc,
    before: ChangeDoc,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "register", rename_all = "lowercase", deny_unknown_fields)]
enum ChangeDoc {
    Service { service: String, directive: DirectiveDoc },
    Drained { object: ObjectDoc, drained: bool },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum DirectiveDoc {
    Nominal {},
    Failover { to: String },
    Steer { to: BTreeMap<String, u32> },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MoveDoc {
    service: String,
    epoch: u64,
    prev_epoch: u64,
    from: TrafficDoc,
    to: TrafficDoc,
    handover: HandoverDoc,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum HandoverDoc {
    MakeBeforeBreak,
    BreakBeforeMake,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrafficDoc {
    spread: SpreadDoc,
    accept: BTreeSet<String>,
    answers: SpreadDoc,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum SpreadDoc {
    Nowhere {},
    Weighted { weights: BTreeMap<String, u32> },
    Nearest { sites: BTreeSet<String> },
}

/// The body without its request.
pub(super) fn write(body: &Body) -> Result<Map<String, Value>, WireError> {
    match body {
        Body::Command(command) => {
            let Command { request: _, plan_hash, approvals_needed, effect } = command;
            json::object(&CommandDoc {
                plan_hash: plan_hash.clone(),
                approvals_needed: *approvals_needed,
                effect: effect.as_ref().map(EffectDoc::write),
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
            state: StateDoc::write(state),
        }),
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
            let CommandDoc { plan_hash, approvals_needed, effect } = json::read(body)?;
            let effect = effect.map(EffectDoc::read).transpose()?;
            if approvals_needed > 2 || effect.is_some() != (approvals_needed == 0) {
                return Err(OpenError::Value {
                    field: "body.approvals_needed",
                    value: approvals_needed.to_string(),
                    expected: "0 with an effect, or 1 or 2 without",
                });
            }
            Ok(Body::Command(Command { request, plan_hash, approvals_needed, effect }))
        }
        ("refused", Some(request)) => {
            let RefusedDoc { refused_by, message } = json::read(body)?;
            Ok(Body::Refused(Refused { request, refused_by, message }))
        }
        ("approve" | "reject", Some(request)) => {
            let WishDoc {} = json::read(body)?;
            Ok(Body::Wish(Wish { request }))
        }
        ("effective", None) => {
            let EffectiveDoc { slot, approvals, effect } = json::read(body)?;
            let approvals = approvals.iter().map(|a| id("body.approvals", a));
            Ok(Body::Effective(EffectiveFact {
                slot: slot.read()?,
                approvals: approvals.collect::<Result<_, _>>()?,
                effect: effect.read()?,
            }))
        }
        ("step", None) => {
            let StepDoc { slot, step, state } = json::read(body)?;
            Ok(Body::Step(StepFact { slot: slot.read()?, step, state: state.read() }))
        }
        ("end", None) => {
            let EndDoc { slot, outcome, reason } = json::read(body)?;
            Ok(Body::End(EndFact { slot: slot.read()?, outcome: outcome.read(), reason }))
        }
        (_, Some(_)) => Err(wrong("command, refused, approve or reject beside a request")),
        (_, None) => Err(wrong("effective, step or end without a request")),
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
    fn write(state: &StepState) -> Self {
        match state {
            StepState::Started => Self::Started {},
            StepState::Done { evidence } => Self::Done { evidence: evidence.clone() },
            StepState::Failed { reason } => Self::Failed { reason: reason.clone() },
        }
    }

    fn read(self) -> StepState {
        match self {
            Self::Started {} => StepState::Started,
            Self::Done { evidence } => StepState::Done { evidence },
            Self::Failed { reason } => StepState::Failed { reason },
        }
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

// === impl EffectDoc ===

impl EffectDoc {
    fn write(effect: &Effect) -> Self {
        let Effect { rank, writes, moves } = effect;
        Self {
            rank: *rank,
            writes: writes.iter().map(WriteDoc::write).collect(),
            moves: moves.iter().map(MoveDoc::write).collect(),
        }
    }

    fn read(self) -> Result<Effect, OpenError> {
        let Self { rank, writes, moves } = self;
        Ok(Effect {
            rank,
            writes: writes.into_iter().map(WriteDoc::read).collect::<Result<_, _>>()?,
            moves: moves.into_iter().map(MoveDoc::read).collect::<Result<_, _>>()?,
        })
    }
}

// === impl WriteDoc ===

impl WriteDoc {
    fn write(write: &Write) -> Self {
        let Write { epoch, prev, change, before } = write;
        Self {
            epoch: epoch.0,
            prev: prev.as_ref().map(EntryId::to_string),
            change: ChangeDoc::write(change),
            before: ChangeDoc::write(before),
        }
    }

    fn read(self) -> Result<Write, OpenError> {
        let Self { epoch, prev, change, before } = self;
        Ok(Write {
            epoch: Epoch(epoch),
            prev: prev.map(|p| id("prev", &p)).transpose()?,
            change: change.read()?,
            before: before.read()?,
        })
    }
}

// === impl ChangeDoc ===

impl ChangeDoc {
    fn write(change: &Change) -> Self {
        match change {
            Change::Service(service, directive) => Self::Service {
                service: service.to_string(),
                directive: DirectiveDoc::write(directive),
            },
            Change::Drained(object, drained) => {
                Self::Drained { object: ObjectDoc::write(object), drained: *drained }
            }
        }
    }

    fn read(self) -> Result<Change, OpenError> {
        Ok(match self {
            Self::Service { service, directive } => {
                Change::Service(id("change.service", &service)?, directive.read()?)
            }
            Self::Drained { object, drained } => Change::Drained(object.read()?, drained),
        })
    }
}

// === impl DirectiveDoc ===

impl DirectiveDoc {
    fn write(directive: &Directive) -> Self {
        match directive {
            Directive::Nominal => Self::Nominal {},
            Directive::Failover(site) => Self::Failover { to: site.to_string() },
            Directive::Steer(weights) => Self::Steer { to: write_weights(weights) },
        }
    }

    fn read(self) -> Result<Directive, OpenError> {
        Ok(match self {
            Self::Nominal {} => Directive::Nominal,
            Self::Failover { to } => Directive::Failover(id("directive.to", &to)?),
            Self::Steer { to } => Directive::Steer(read_weights("directive.to", to)?),
        })
    }
}

// === impl MoveDoc ===

impl MoveDoc {
    fn write(one: &Move) -> Self {
        let Move { service, epoch, prev_epoch, from, to, handover } = one;
        Self {
            service: service.to_string(),
            epoch: epoch.0,
            prev_epoch: prev_epoch.0,
            from: TrafficDoc::write(from),
            to: TrafficDoc::write(to),
            handover: match handover {
                Handover::MakeBeforeBreak => HandoverDoc::MakeBeforeBreak,
                Handover::BreakBeforeMake => HandoverDoc::BreakBeforeMake,
            },
        }
    }

    fn read(self) -> Result<Move, OpenError> {
        let Self { service, epoch, prev_epoch, from, to, handover } = self;
        Ok(Move {
            service: id("move.service", &service)?,
            epoch: Epoch(epoch),
            prev_epoch: Epoch(prev_epoch),
            from: from.read()?,
            to: to.read()?,
            handover: match handover {
                HandoverDoc::MakeBeforeBreak => Handover::MakeBeforeBreak,
                HandoverDoc::BreakBeforeMake => Handover::BreakBeforeMake,
            },
        })
    }
}

// === impl TrafficDoc ===

fn write_sites(sites: &BTreeSet<SiteId>) -> BTreeSet<String> {
    sites.iter().map(SiteId::to_string).collect()
}

fn read_sites(sites: &BTreeSet<String>) -> Result<BTreeSet<SiteId>, OpenError> {
    sites.iter().map(|site| id("traffic.site", site)).collect()
}

impl TrafficDoc {
    fn write(traffic: &Traffic) -> Self {
        let Traffic { spread, accept, answers } = traffic;
        Self {
            spread: SpreadDoc::write(spread),
            accept: write_sites(accept),
            answers: SpreadDoc::write(answers),
        }
    }

    fn read(self) -> Result<Traffic, OpenError> {
        let Self { spread, accept, answers } = self;
        Ok(Traffic {
            spread: spread.read()?,
            accept: read_sites(&accept)?,
            answers: answers.read()?,
        })
    }
}

// === impl SpreadDoc ===

impl SpreadDoc {
    fn write(spread: &Spread) -> Self {
        match spread {
            Spread::Nowhere => Self::Nowhere {},
            Spread::Weighted(weights) => Self::Weighted { weights: write_weights(weights) },
            Spread::Nearest(sites) => Self::Nearest { sites: write_sites(sites) },
        }
    }

    fn read(self) -> Result<Spread, OpenError> {
        Ok(match self {
            Self::Nowhere {} => Spread::Nowhere,
            Self::Weighted { weights } => {
                Spread::Weighted(read_weights("traffic.weights", weights)?)
            }
            Self::Nearest { sites } => Spread::Nearest(read_sites(&sites)?),
        })
    }
}
