//! What a command does, as JSON: registers, moves and steps.
//!
//! Traffic states repeat over services and steps, so they stand in one list and are referred to by
//! their place in it. Services that move alike are one move with a list of names, sorted by what
//! their names begin with, and steps refer to moves: a command for a hundred thousand services is
//! little more than their names.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nett_policy::id::{EntryId, Epoch, NodeId, ServiceId, SiteId, Weight};
use nett_policy::log::entry::{Change, Directive, Effect, Move, Step, StepKind, Write};
use nett_policy::service::Handover;
use nett_policy::traffic::{Spread, Traffic};
use serde::{Deserialize, Serialize};

use super::external::AskedDoc;
use super::request::{ObjectDoc, read_weights, write_weights};
use super::{OpenError, id};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EffectDoc {
    rank: u32,
    writes: Vec<WriteDoc>,
    /// Every state that a move or step refers to.
    traffic: Vec<TrafficDoc>,
    moves: Vec<MoveDoc>,
    steps: Vec<StepDoc>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteDoc {
    epoch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prev: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    settles: BTreeSet<String>,
    change: ChangeDoc,
    before: ChangeDoc,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "register", rename_all = "lowercase", deny_unknown_fields)]
enum ChangeDoc {
    Service { service: String, directive: DirectiveDoc },
    Drained { object: ObjectDoc, drained: bool },
    Held { service: String, held: bool },
    Revoked { key: String, revoked: bool },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum DirectiveDoc {
    Nominal {},
    Failover { to: String },
    Steer { to: BTreeMap<String, u32> },
}

/// Services that move alike and are in the same state at every step.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MoveDoc {
    /// Instances by project and environment: `{"shop/prod": ["api", "pay"]}`.
    services: NamesDoc,
    epoch: u64,
    prev_epoch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prev: Option<String>,
    from: usize,
    to: usize,
    handover: HandoverDoc,
    /// Where a task before this one left established connections.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    kept: BTreeSet<String>,
}

/// A step; its number is its place in the list, from 1.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepDoc {
    kind: StepKindDoc,
    #[serde(default, skip_serializing_if = "is_zero")]
    wave: u8,
    states: Vec<StateDoc>,
    delay_ms: u64,
    timeout_ms: u64,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    gates: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asked: Option<AskedDoc>,
    acknowledge: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    owed: BTreeSet<String>,
}

/// Moves whose services are in one state from a step on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateDoc {
    traffic: usize,
    /// Places in the list of moves.
    moves: Vec<usize>,
}

pub(super) type NamesDoc = BTreeMap<String, Vec<String>>;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StepKindDoc {
    LowerTtl,
    Activate,
    Verify,
    Shift,
    Withdraw,
    Drained,
    Reroute,
    External,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(value: &u8) -> bool {
    *value == 0
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

// === impl EffectDoc ===

impl EffectDoc {
    pub(super) fn write(effect: &Effect) -> Self {
        let Effect { rank, writes, moves, steps } = effect;
        let mut table = Table::default();
        let groups = groups(moves, steps, &mut table);
        let mut docs = Vec::with_capacity(groups.len());
        let mut of_step: Vec<BTreeMap<usize, Vec<usize>>> = vec![BTreeMap::new(); steps.len()];
        for (place, (group, members)) in groups.into_iter().enumerate() {
            for (step, traffic) in group.states {
                of_step[step].entry(traffic).or_default().push(place);
            }
            docs.push(MoveDoc::write(members, &mut table));
        }
        let writes = writes.iter().map(WriteDoc::write).collect();
        let steps = steps.iter().zip(of_step).map(|(step, states)| StepDoc::write(step, states));
        let steps = steps.collect();
        Self { rank: *rank, writes, traffic: table.docs(), moves: docs, steps }
    }

    pub(super) fn read(self) -> Result<Effect, OpenError> {
        let Self { rank, writes, traffic, moves, steps } = self;
        let traffic: Vec<Traffic> =
            traffic.into_iter().map(TrafficDoc::read).collect::<Result<_, _>>()?;
        let moves: Vec<Vec<Move>> =
            moves.into_iter().map(|m| m.read(&traffic)).collect::<Result<_, _>>()?;
        let steps = (1u32..).zip(steps).map(|(number, step)| step.read(number, &traffic, &moves));
        let steps = steps.collect::<Result<_, _>>()?;
        let mut moves: Vec<Move> = moves.into_iter().flatten().collect();
        moves.sort_by(|a, b| a.service.cmp(&b.service));
        Ok(Effect {
            rank,
            writes: writes.into_iter().map(WriteDoc::read).collect::<Result<_, _>>()?,
            moves,
            steps,
        })
    }
}

/// What services of one move have in common: how they move, and the state of each step, by places.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Group<'a> {
    epoch: Epoch,
    prev_epoch: Epoch,
    prev: &'a Option<EntryId>,
    from: usize,
    to: usize,
    handover: Handover,
    kept: &'a BTreeSet<SiteId>,
    states: Vec<(usize, usize)>,
}

fn groups<'a>(
    moves: &'a [Move],
    steps: &'a [Step],
    table: &mut Table<'a>,
) -> BTreeMap<Group<'a>, Vec<&'a Move>> {
    let mut states: BTreeMap<&ServiceId, Vec<(usize, usize)>> = BTreeMap::new();
    let mut from_to = Vec::with_capacity(moves.len());
    for one in moves {
        from_to.push((table.place(&one.from), table.place(&one.to)));
    }
    for (place, step) in steps.iter().enumerate() {
        for (service, traffic) in &step.states {
            states.entry(service).or_default().push((place, table.place(traffic)));
        }
    }
    let mut groups: BTreeMap<Group<'a>, Vec<&'a Move>> = BTreeMap::new();
    for (one, (from, to)) in moves.iter().zip(from_to) {
        let Move { service, epoch, prev_epoch, prev, from: _, to: _, handover, kept } = one;
        let (epoch, prev_epoch, handover) = (*epoch, *prev_epoch, *handover);
        let states = states.remove(service).unwrap_or_default();
        let group = Group { epoch, prev_epoch, prev, from, to, handover, kept, states };
        groups.entry(group).or_default().push(one);
    }
    groups
}

pub(super) fn write_names<'a>(services: impl Iterator<Item = &'a ServiceId>) -> NamesDoc {
    let mut names = NamesDoc::new();
    for service in services {
        let text = service.as_str();
        let (stem, instance) = text.rsplit_once('/').unwrap_or(("", text));
        names.entry(stem.to_owned()).or_default().push(instance.to_owned());
    }
    names
}

pub(super) fn read_names(names: NamesDoc) -> Result<Vec<ServiceId>, OpenError> {
    let mut services = Vec::new();
    for (stem, instances) in names {
        for instance in instances {
            services.push(id("moves.services", &format!("{stem}/{instance}"))?);
        }
    }
    Ok(services)
}

/// The states of an effect, each once, in the order in which they are met.
#[derive(Default)]
struct Table<'a> {
    places: BTreeMap<&'a Traffic, usize>,
    states: Vec<&'a Traffic>,
}

impl<'a> Table<'a> {
    fn place(&mut self, traffic: &'a Traffic) -> usize {
        *self.places.entry(traffic).or_insert_with(|| {
            self.states.push(traffic);
            self.states.len() - 1
        })
    }

    fn docs(&self) -> Vec<TrafficDoc> {
        self.states.iter().map(|traffic| TrafficDoc::write(traffic)).collect()
    }
}

fn at(traffic: &[Traffic], place: usize) -> Result<Traffic, OpenError> {
    traffic.get(place).cloned().ok_or_else(|| OpenError::Value {
        field: "traffic",
        value: place.to_string(),
        expected: "the place of a state in the effect's list",
    })
}

// === impl StepDoc ===

impl StepDoc {
    fn write(step: &Step, states: BTreeMap<usize, Vec<usize>>) -> Self {
        let Step {
            // Its place in the list.
            number: _,
            wave,
            kind,
            states: _,
            delay,
            timeout,
            gates,
            asked,
            required,
            owed,
        } = step;
        let states = states.into_iter().map(|(traffic, moves)| StateDoc { traffic, moves });
        let ms = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let names = |nodes: &BTreeSet<NodeId>| nodes.iter().map(NodeId::to_string).collect();
        Self {
            kind: match kind {
                StepKind::LowerTtl => StepKindDoc::LowerTtl,
                StepKind::Activate => StepKindDoc::Activate,
                StepKind::Verify => StepKindDoc::Verify,
                StepKind::Shift => StepKindDoc::Shift,
                StepKind::Withdraw => StepKindDoc::Withdraw,
                StepKind::Drained => StepKindDoc::Drained,
                StepKind::Reroute => StepKindDoc::Reroute,
                StepKind::External => StepKindDoc::External,
            },
            wave: *wave,
            states: states.collect(),
            delay_ms: ms(delay),
            timeout_ms: ms(timeout),
            gates: gates.clone(),
            asked: asked.as_ref().map(AskedDoc::write),
            acknowledge: names(required),
            owed: names(owed),
        }
    }

    fn read(self, number: u32, traffic: &[Traffic], all: &[Vec<Move>]) -> Result<Step, OpenError> {
        let Self { kind, wave, states, delay_ms, timeout_ms, gates, asked, acknowledge, owed } =
            self;
        let mut by_service: BTreeMap<ServiceId, Traffic> = BTreeMap::new();
        for StateDoc { traffic: place, moves } in states {
            let state = at(traffic, place)?;
            for place in moves {
                let moves = all.get(place).ok_or_else(|| OpenError::Value {
                    field: "states.moves",
                    value: place.to_string(),
                    expected: "the place of a move in the effect's list",
                })?;
                by_service.extend(moves.iter().map(|one| (one.service.clone(), state.clone())));
            }
        }
        let nodes = |names: BTreeSet<String>| {
            let nodes = names.iter().map(|node| id("acknowledge", node));
            nodes.collect::<Result<BTreeSet<NodeId>, OpenError>>()
        };
        Ok(Step {
            number,
            wave,
            kind: match kind {
                StepKindDoc::LowerTtl => StepKind::LowerTtl,
                StepKindDoc::Activate => StepKind::Activate,
                StepKindDoc::Verify => StepKind::Verify,
                StepKindDoc::Shift => StepKind::Shift,
                StepKindDoc::Withdraw => StepKind::Withdraw,
                StepKindDoc::Drained => StepKind::Drained,
                StepKindDoc::Reroute => StepKind::Reroute,
                StepKindDoc::External => StepKind::External,
            },
            states: by_service,
            delay: Duration::from_millis(delay_ms),
            timeout: Duration::from_millis(timeout_ms),
            gates,
            asked: asked.map(AskedDoc::read).transpose()?,
            required: nodes(acknowledge)?,
            owed: nodes(owed)?,
        })
    }
}

// === impl WriteDoc ===

impl WriteDoc {
    fn write(write: &Write) -> Self {
        let Write { epoch, prev, settles, change, before } = write;
        Self {
            epoch: epoch.0,
            prev: prev.as_ref().map(EntryId::to_string),
            settles: settles.iter().map(EntryId::to_string).collect(),
            change: ChangeDoc::write(change),
            before: ChangeDoc::write(before),
        }
    }

    fn read(self) -> Result<Write, OpenError> {
        let Self { epoch, prev, settles, change, before } = self;
        Ok(Write {
            epoch: Epoch(epoch),
            prev: prev.map(|p| id("prev", &p)).transpose()?,
            settles: settles.iter().map(|s| id("settles", s)).collect::<Result<_, _>>()?,
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
            Change::Held(service, held) => Self::Held { service: service.to_string(), held: *held },
            Change::Revoked(key, revoked) => Self::Revoked { key: key.clone(), revoked: *revoked },
        }
    }

    fn read(self) -> Result<Change, OpenError> {
        Ok(match self {
            Self::Service { service, directive } => {
                Change::Service(id("change.service", &service)?, directive.read()?)
            }
            Self::Drained { object, drained } => Change::Drained(object.read()?, drained),
            Self::Held { service, held } => Change::Held(id("change.service", &service)?, held),
            Self::Revoked { key, revoked } => Change::Revoked(key, revoked),
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
    /// All of them move alike; there is one at least.
    fn write<'a>(members: Vec<&'a Move>, table: &mut Table<'a>) -> Self {
        let Move { service: _, epoch, prev_epoch, prev, from, to, handover, kept } = members[0];
        Self {
            services: write_names(members.iter().map(|one| &one.service)),
            epoch: epoch.0,
            prev_epoch: prev_epoch.0,
            prev: prev.as_ref().map(EntryId::to_string),
            from: table.place(from),
            to: table.place(to),
            handover: match handover {
                Handover::MakeBeforeBreak => HandoverDoc::MakeBeforeBreak,
                Handover::BreakBeforeMake => HandoverDoc::BreakBeforeMake,
            },
            kept: write_sites(kept),
        }
    }

    fn read(self, traffic: &[Traffic]) -> Result<Vec<Move>, OpenError> {
        let Self { services, epoch, prev_epoch, prev, from, to, handover, kept } = self;
        let kept = read_sites(&kept)?;
        let prev: Option<EntryId> = prev.map(|p| id("prev", &p)).transpose()?;
        let (from, to) = (at(traffic, from)?, at(traffic, to)?);
        let handover = match handover {
            HandoverDoc::MakeBeforeBreak => Handover::MakeBeforeBreak,
            HandoverDoc::BreakBeforeMake => Handover::BreakBeforeMake,
        };
        let one = |service| Move {
            service,
            epoch: Epoch(epoch),
            prev_epoch: Epoch(prev_epoch),
            prev: prev.clone(),
            from: from.clone(),
            to: to.clone(),
            handover,
            kept: kept.clone(),
        };
        Ok(read_names(services)?.into_iter().map(one).collect())
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
            Spread::Weighted(weights) => {
                let write =
                    |(site, weight): (&SiteId, Weight)| (site.to_string(), u32::from(weight.get()));
                Self::Weighted { weights: weights.iter().map(write).collect() }
            }
            Spread::Nearest(sites) => Self::Nearest { sites: write_sites(sites) },
        }
    }

    fn read(self) -> Result<Spread, OpenError> {
        Ok(match self {
            Self::Nowhere {} => Spread::Nowhere,
            Self::Weighted { weights } => {
                Spread::Weighted(read_weights("traffic.weights", weights)?.into())
            }
            Self::Nearest { sites } => Spread::Nearest(read_sites(&sites)?),
        })
    }
}
