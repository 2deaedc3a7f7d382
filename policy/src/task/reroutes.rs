//! The steps of a drain of a node, a link or a cluster, and of its end.
//!
//! One step `reroute`, which all nodes acknowledge in any order, is enough where what is drained
//! goes on carrying what still arrives. A cluster is left in three, where services whose flows stay
//! have backends in it: no bucket is meant for those any more, the nodes that hand to them wait
//! until none leads there, the backends leave the groups. It comes back in two: a group with one
//! member does not note which of its flows are in use, so its backends are members for a while
//! before they get buckets (adr/0052).
//!
//! Pure. Computed once, when a command takes effect; how far it has come is read from the log.

use std::collections::BTreeSet;
use std::time::Duration;

use super::steps::{SOFT_PATIENCE, STEP_TIMEOUT};
use crate::id::ClusterId;
use crate::log::effect::{Change, Effect, Step, StepKind, Write};
use crate::log::intent::{Intent, Progress, World};
use crate::log::request::Object;
use crate::service::Service;

/// The steps for what some writes say of nodes, links and clusters, numbered from `first` on; none
/// where they say nothing of these. Where there is no time to wait (`unhurried` is false), flows in
/// use move at once.
pub(super) fn reroutes(
    world: World<'_>,
    before: &Intent,
    writes: &[Write],
    unhurried: bool,
    first: u32,
) -> Vec<Step> {
    let ways = |w: &Write| matches!(&w.change, Change::Drained(object, _) if object.is_way());
    if !writes.iter().any(ways) {
        return Vec::new();
    }
    let mut steps = vec![step(StepKind::Reroute)];
    if unhurried {
        let easing = before.drained_ways().easing;
        let leaving = longest_idle(world, &clusters(writes, true).collect());
        // What has not left its groups is noted in them all the time.
        let gone = clusters(writes, false).filter(|cluster| !easing.contains(*cluster));
        let coming = longest_idle(world, &gone.collect());
        if let Some(idle) = leaving {
            let timeout = SOFT_PATIENCE + idle;
            steps.push(Step { timeout, ..step(StepKind::Drained) });
        }
        if leaving.is_some() || coming.is_some() {
            let delay = coming.unwrap_or_default();
            steps.push(Step { delay, ..step(StepKind::Reroute) });
        }
    }
    (first..).zip(steps).map(|(number, step)| Step { number, ..step }).collect()
}

fn step(kind: StepKind) -> Step {
    Step {
        number: 0,
        wave: 0,
        kind,
        states: [].into(),
        delay: Duration::ZERO,
        timeout: STEP_TIMEOUT,
        gates: BTreeSet::new(),
        asked: None,
        required: BTreeSet::new(),
        owed: BTreeSet::new(),
    }
}

/// The clusters that are drained by some writes, or that are not any more.
fn clusters(writes: &[Write], drained: bool) -> impl Iterator<Item = &ClusterId> {
    writes.iter().filter_map(move |write| match &write.change {
        Change::Drained(Object::Cluster(cluster), to) if *to == drained => Some(cluster),
        Change::Drained(..) | Change::Service(..) | Change::Held(..) | Change::Revoked(..) => None,
    })
}

/// Of the services with backends in these clusters whose flows stay where they are, the longest
/// time after which a flow counts as idle; `None` without such a service.
fn longest_idle(world: World<'_>, clusters: &BTreeSet<&ClusterId>) -> Option<Duration> {
    if clusters.is_empty() {
        return None;
    }
    let uses = |service: &Service| {
        let mut backends = service.backends.values().flatten();
        backends.any(|b| b.cluster.as_ref().is_some_and(|cluster| clusters.contains(cluster)))
    };
    let idle = |service: &Service| Some(service.resilient()?.idle).filter(|_| uses(service));
    world.catalog.iter().filter_map(idle).max()
}

/// Whether these steps leave flows at the backends of a cluster, or do not send any there yet:
/// until the last of several reroutes has begun. A drain that is over before it has come to that
/// leaves them there, since a task that is stopped moves nobody; the end of a drain is then the
/// end.
pub(crate) fn is_easing(steps: &[Step], change: &Change, progress: &Progress, over: bool) -> bool {
    let Change::Drained(Object::Cluster(_), drained) = change else { return false };
    let Some(last) = last_reroute(steps) else { return false };
    let begun = progress.of(steps).any(|step| step.number == last.number);
    !begun && (*drained || !over)
}

/// The reroute that ends what the one before it began; `None` where one is all.
fn last_reroute(steps: &[Step]) -> Option<&Step> {
    let mut reroutes = steps.iter().filter(|step| step.kind == StepKind::Reroute);
    reroutes.next()?;
    reroutes.next_back()
}

/// The clusters that an effect drains while flows in use stay at them.
pub fn left_slowly(effect: &Effect) -> BTreeSet<ClusterId> {
    let waits = effect.steps.iter().any(is_of_clusters);
    clusters(&effect.writes, true).filter(|_| waits).cloned().collect()
}

/// The clusters that an effect puts back while flows in use stay where they are.
pub fn filled_slowly(effect: &Effect) -> BTreeSet<ClusterId> {
    let waits = last_reroute(&effect.steps).is_some();
    clusters(&effect.writes, false).filter(|_| waits).cloned().collect()
}

/// Whether a step waits until no bucket leads to the backends of drained clusters: it is of no
/// service.
pub fn is_of_clusters(step: &Step) -> bool {
    step.kind == StepKind::Drained && step.states.is_empty()
}

/// Whether it is the step with which drained clusters are left for good, or those that come back
/// get their share.
pub fn is_last(effect: &Effect, step: &Step) -> bool {
    last_reroute(&effect.steps).is_some_and(|last| last.number == step.number)
}
