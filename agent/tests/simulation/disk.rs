//! The disks of the simulated nodes: what an agent's journal is written to, and made smaller on.

use nett_agent::bus::wire::Sealed;
use nett_agent::controller::effect::Compact;
use nett_agent::controller::event::Event;
use nett_policy::id::NodeId;

use crate::faults::Mutant;
use crate::world::World;

impl World {
    pub(crate) fn journal(
        &mut self,
        node: &NodeId,
        sealed: Sealed,
        stream_seq: u64,
    ) -> Option<Event> {
        let forget = self.mutant == Some(Mutant::ForgetfulDisk) && self.rng.bool();
        let agent = self.agent(node);
        if forget {
            return None;
        }
        if agent.disk_works && agent.unsaved.is_empty() {
            agent.journal.push((sealed, stream_seq));
            return None;
        }
        agent.unsaved.push_back((sealed, stream_seq));
        Some(Event::Journal { trouble: Some("no space left".to_owned()) })
    }

    /// The journal is written anew, if the disk takes that.
    pub(crate) fn compact(&mut self, node: &NodeId, compact: &Compact) -> Option<usize> {
        let agent = self.agent(node);
        if !agent.disk_works {
            return None;
        }
        let places = compact.saved.kept(&compact.fold, &agent.journal);
        let (before, after) = (agent.journal.len(), places.len());
        agent.journal = places.iter().map(|at| agent.journal[*at].clone()).collect();
        agent.saved = compact.saved.clone();
        self.watch.forgotten += before - after;
        self.note(format!("{node} forgets {} of {before} records", before - after));
        Some(after)
    }
}
