//! The disks of the simulated nodes: what an agent's journal is written to, and made smaller on.

use std::time::Duration;

use nett_agent::bus::wire::{Draft, Sealed};
use nett_agent::controller::Pace;
use nett_agent::controller::effect::{Compact, LocalEntry};
use nett_agent::controller::event::Event;
use nett_policy::id::NodeId;
use nett_policy::log::entry::Body;

use crate::mutants::Mutant;
use crate::said::said;
use crate::world::World;

/// Journals that are made smaller within a run; every third seed has them. Clocks are wrong by
/// less than what is kept.
pub(crate) const FORGETFUL: Pace =
    Pace { records: 8, settle: Duration::from_secs(1), kept: Duration::from_secs(11) };

/// Journals that are never made smaller.
pub(crate) const NEVER: Pace = Pace { records: usize::MAX, ..FORGETFUL };

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

    /// The node's own log takes an entry, if the disk does.
    pub(crate) fn keep_local(&mut self, node: &NodeId, entry: LocalEntry) -> Event {
        let LocalEntry { body, verbatim } = entry;
        let agent = &self.agents[node];
        if !agent.disk_works {
            return Event::LocalKept(Err("no space left".to_owned()));
        }
        let (site, seq) = (agent.site().clone(), agent.own_log.len() as u64 + 1);
        let prev_hash = agent.own_log.last().map(|last| last.entry.position.hash.clone());
        self.watch.taken_locally += usize::from(matches!(body, Body::Command(_)));
        let draft = Draft {
            id: self.next_id(&site),
            site,
            node: node.clone(),
            fabric: self.agents[node].controller.fabric_ref(),
            at: self.clock(node).wall,
            boot: format!("local.{node}"),
            seq,
            prev_hash: prev_hash.unwrap_or_default(),
            body,
            request_verbatim: verbatim,
        };
        let sealed = Sealed::seal(draft, &self.agents[node].key).expect("the key fits");
        self.note(format!("{node} keeps for itself {}", said(&sealed)));
        self.agent(node).own_log.push(sealed.clone());
        Event::LocalKept(Ok(Box::new(sealed)))
    }
}
