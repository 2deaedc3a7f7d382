//! A few services that stand for all that a task moves.
//!
//! Pure. Two services are alike when every node does the same for both at every step: they move by
//! the same states, have the same families at the same sites, and are of one kind. So what a step
//! asks of nodes is found from one of each, however many there are.

use std::collections::{BTreeMap, BTreeSet};

use super::acks::Course;
use crate::fabric::Family;
use crate::id::{ServiceId, SiteId};
use crate::log::entry::{Change, Effect, Move, Object, Step, Write};
use crate::log::intent::Intent;
use crate::service::{Catalog, Handover, Isolation, Mode, Service};
use crate::traffic::Traffic;

/// What a task does, cut down to one of each kind of service.
pub(super) struct Sample {
    pub(super) catalog: Catalog,
    pub(super) effect: Effect,
    pub(super) before: Intent,
}

/// What makes two services alike.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Kind<'a> {
    states: Vec<(u32, &'a Traffic)>,
    from: &'a Traffic,
    to: &'a Traffic,
    handover: Handover,
    /// The task is the first that moves it.
    is_first: bool,
    lowered: bool,
    history: Vec<(Option<&'a BTreeSet<SiteId>>, bool)>,
    sites: Vec<SiteId>,
    is_active_active: bool,
    isolation: u8,
    vips: [bool; 2],
    backends: Vec<(&'a SiteId, [bool; 2])>,
    addresses: Vec<(&'a SiteId, [bool; 2])>,
}

impl Sample {
    pub(super) fn of(course: &Course<'_>) -> Self {
        let Course { world, before, task: _, site: _, effect } = *course;
        let mut states: BTreeMap<&ServiceId, Vec<(u32, &Traffic)>> = BTreeMap::new();
        for step in &effect.steps {
            for (service, traffic) in &step.states {
                states.entry(service).or_default().push((step.number, traffic));
            }
        }
        let mut kinds: BTreeMap<Kind<'_>, &Service> = BTreeMap::new();
        for one in &effect.moves {
            let Some(service) = world.catalog.get(&one.service) else { continue };
            let states = states.remove(&one.service).unwrap_or_default();
            kinds.entry(kind(service, one, states, before)).or_insert(service);
        }
        let services: Vec<Service> = kinds.into_values().cloned().collect();
        let ids: BTreeSet<&ServiceId> = services.iter().map(|s| &s.id).collect();
        let effect = only(effect, &ids);
        let before = before.only(&ids);
        Self { catalog: Catalog::new(services), effect, before }
    }
}

fn kind<'a>(
    service: &'a Service,
    one: &'a Move,
    states: Vec<(u32, &'a Traffic)>,
    before: &'a Intent,
) -> Kind<'a> {
    let families = |addresses: &mut dyn Iterator<Item = std::net::IpAddr>| {
        let mut has = [false; 2];
        addresses.for_each(|a| has[usize::from(Family::of(a) == Family::V6)] = true);
        has
    };
    let backends = service.backends.iter();
    let backends = backends.map(|(s, all)| (s, families(&mut all.iter().map(|b| b.address))));
    let addresses = service.addresses.iter();
    let addresses = addresses.map(|(s, all)| (s, families(&mut all.iter().copied())));
    Kind {
        states,
        from: &one.from,
        to: &one.to,
        handover: one.handover,
        is_first: before.mover(&service.id).is_none(),
        lowered: before.is_lowered(service),
        history: before.history(&service.id),
        sites: service.sites(),
        is_active_active: matches!(service.mode, Mode::ActiveActive { .. }),
        isolation: match service.isolation {
            Isolation::Static => 0,
            Isolation::Lease => 1,
            Isolation::Exclusive => 2,
        },
        vips: families(&mut service.vips.iter().copied()),
        backends: backends.collect(),
        addresses: addresses.collect(),
    }
}

/// The effect on some services; what is about none of them stays.
fn only(effect: &Effect, ids: &BTreeSet<&ServiceId>) -> Effect {
    let about = |write: &&Write| match &write.change {
        Change::Service(service, _)
        | Change::Held(service, _)
        | Change::Drained(Object::ServiceAt(service, _), _) => ids.contains(service),
        Change::Drained(
            Object::Site(_) | Object::Node(_) | Object::Link(_) | Object::Cluster(_),
            _,
        )
        | Change::Revoked(..) => true,
    };
    let step = |step: &Step| {
        let states =
            ids.iter().filter_map(|id| Some(((*id).clone(), step.states.get(*id)?.clone())));
        Step {
            number: step.number,
            wave: step.wave,
            kind: step.kind,
            states: states.collect(),
            delay: step.delay,
            timeout: step.timeout,
            gates: step.gates.clone(),
            // Nobody of it is a node.
            asked: None,
            required: BTreeSet::new(),
            owed: BTreeSet::new(),
        }
    };
    Effect {
        rank: effect.rank,
        writes: effect.writes.iter().filter(about).cloned().collect(),
        moves: effect.moves.iter().filter(|m| ids.contains(&m.service)).cloned().collect(),
        steps: effect.steps.iter().map(step).collect(),
    }
}
