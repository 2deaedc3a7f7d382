//! The moments between two states of a fabric, in which nodes are not all equally far.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nett_policy::id::{NodeId, SiteId};
use nett_policy::lower::object::NodeState;
use nett_policy::plan::plan;
use nett_policy::traffic::Traffic;

use super::ground::States;
use super::machine::apply;
use super::walk::{At, Ends};

/// Who looks at each moment.
pub(crate) trait Judge {
    /// Walks a network whose nodes have these states.
    fn walk<'b>(&'b self, states: &'b dyn Fn(&NodeId) -> &'b NodeState) -> Result<(), String>;
}

/// Every mixture of nodes that are before and nodes that are after; and for each node every
/// operation on its way.
pub(crate) fn all(judge: &impl Judge, before: &States, after: &States) -> Result<(), String> {
    let changed: Vec<&NodeId> =
        after.iter().filter(|(id, state)| before[*id] != **state).map(|(id, _)| id).collect();
    for bits in 0..1usize << changed.len() {
        let done = |id: &NodeId| {
            changed.iter().position(|c| *c == id).is_some_and(|n| bits & (1 << n) != 0)
        };
        let at = |id: &NodeId| if done(id) { &after[id] } else { &before[id] };
        judge.walk(&at).map_err(|why| format!("nodes {bits:06b} of {changed:?}: {why}"))?;
    }
    for id in changed {
        let mut half = before[id].clone();
        for op in &plan(&after[id], &before[id]).ops {
            apply(&mut half, op)?;
            for others in [before, after] {
                let at = |node: &NodeId| if node == id { &half } else { &others[node] };
                judge.walk(&at).map_err(|why| format!("{id} after {op}: {why}"))?;
            }
        }
    }
    Ok(())
}

/// The sites that may deliver between two states of a service.
pub(crate) fn accepting(states: [&Traffic; 2]) -> BTreeSet<SiteId> {
    let of = |t: &Traffic| t.accept.union(&t.spread.sites()).cloned().collect::<Vec<_>>();
    states.into_iter().flat_map(of).collect()
}

/// Every flow comes to an end.
pub(crate) fn whole(ends: &Ends, to: IpAddr, from: &At) -> Result<(), String> {
    match (ends.values().sum::<f64>() - 1.0).abs() < 1e-9 {
        true => Ok(()),
        false => Err(format!("{to} from {from:?} comes to no end in part: {ends:?}")),
    }
}
