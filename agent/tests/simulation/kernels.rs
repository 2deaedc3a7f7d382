//! The work of the kernels, and what they count for drains: packets come now and then, and are read
//! once a second.

use std::time::Duration;

use nett_agent::controller::event::{Applied, Event};
use nett_policy::id::{NodeId, ServiceId};

use crate::agent::Visit;
use crate::mutants::Mutant;
use crate::world::{Happening, World, ms};

impl World {
    pub(crate) fn look_at_kernel(&mut self, node: &NodeId, delay: Duration) {
        let agent = self.agent(node);
        let life = agent.life;
        if !std::mem::replace(&mut agent.applying, true) {
            self.at(delay, Happening::Kernel { node: node.clone(), life });
        }
    }

    pub(crate) fn work_kernel(&mut self, node: &NodeId, life: u64) {
        if !self.lives(node, life) {
            return;
        }
        let most = if self.rng.u8(0..4) == 0 { self.rng.usize(1..10) } else { usize::MAX };
        let lies = self.mutant == Some(Mutant::LyingKernel);
        let catalog = self.catalog.clone();
        let noisy = self.is_noisy();
        let agent = self.agent(node);
        agent.applying = false;
        agent.use_backends(noisy);
        let Some((generation, _)) = agent.wanted else { return };
        let visit = if lies { Visit::Done(0) } else { agent.visit_kernel(most) };
        let delivers = agent.delivers(&catalog);
        let leased = |s: &&ServiceId| catalog.get(s).is_some_and(|s| s.is_leased());
        agent.lease.delivers = delivers.iter().filter(leased).cloned().collect();
        self.watch.delivering(node, delivers);
        self.watch_leases();
        self.heed();
        let applied = |operations, failures| {
            Event::Applied(Applied { generation, operations, failures, ..Applied::default() })
        };
        let event = match visit {
            Visit::Halfway => return self.look_at_kernel(node, ms(1)),
            Visit::Done(operations) => applied(operations, Vec::new()),
            Visit::Failed(failures) => {
                self.look_at_kernel(node, ms(100));
                applied(0, failures)
            }
        };
        let delay = ms(self.rng.u64(0..5));
        self.reach(node, delay, event);
        self.look_at_counters(node);
    }

    /// From now on, if anything is counted there and nobody looks yet.
    pub(crate) fn look_at_counters(&mut self, node: &NodeId) {
        let agent = self.agent(node);
        if agent.watches() && !std::mem::replace(&mut agent.watching, true) {
            let life = agent.life;
            self.at(ms(1000), Happening::Counters { node: node.clone(), life });
        }
    }

    /// In a quarter of the time somebody still comes to what is left.
    fn is_noisy(&self) -> bool {
        self.now.as_secs() % 20 < 5
    }

    pub(crate) fn read_counters(&mut self, node: &NodeId, life: u64) {
        if !self.lives(node, life) {
            return;
        }
        let noisy = self.is_noisy();
        let agent = self.agent(node);
        agent.use_backends(noisy);
        let events = agent.watch(|_| if noisy { 7 } else { 0 });
        agent.watching = !events.is_empty();
        if agent.watching {
            self.at(ms(1000), Happening::Counters { node: node.clone(), life });
        }
        for event in events {
            // The one before may have been its last.
            if self.lives(node, life) {
                self.step(node, event);
            }
        }
    }
}
