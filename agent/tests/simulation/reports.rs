//! What nodes say of themselves, on its way to the others.

use nett_agent::bus::wire::Report;
use nett_agent::controller::event::Event;
use nett_policy::id::NodeId;

use crate::world::{Happening, World, ms};

impl World {
    pub(crate) fn spread(&mut self, node: &NodeId, report: Report) {
        self.first_reports.entry(node.clone()).or_insert_with(|| report.clone());
        self.reports.insert(node.clone(), report);
        let others = self.agents.values().filter(|a| a.alive && a.setting.node.id != *node);
        let others: Vec<_> = others.map(|a| (a.setting.node.id.clone(), a.life)).collect();
        for (other, life) in others {
            if !self.rough || self.rng.u8(0..50) > 0 {
                let delay = ms(self.rng.u64(1..60));
                self.at(delay, Happening::Hear { node: other, life, from: node.clone() });
            }
        }
    }

    pub(crate) fn hear(&mut self, node: &NodeId, life: u64, from: &NodeId) {
        if !self.lives(node, life) || !self.agents[node].connected {
            return;
        }
        let (here, there) = (self.agents[node].site().clone(), self.agents[from].site().clone());
        if self.joined(&here, &there) {
            let report = self.reports[from].clone();
            self.step(node, Event::Report(report));
        }
    }
}
