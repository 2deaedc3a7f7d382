//! What the agents of a fleet say when they are asked.

use nett_agent::api::types::{ApiRequest, ConflictDoc, Outcome, Payload, TaskDoc};
use nett_agent::controller::Snapshot;
use nett_policy::id::NodeId;

use super::{Fleet, id};

impl Fleet {
    pub fn snapshot(&self, node: &str) -> Snapshot {
        self.agents[&id::<NodeId>(node)].controller.snapshot(self.clock())
    }

    pub fn task(&mut self, node: &str, task: &str) -> TaskDoc {
        match self.ask(node, ApiRequest::Task { id: task.to_owned() }) {
            Outcome::Ok(payload) => match *payload {
                Payload::Task(task) => task,
                other => panic!("not a task: {other:?}"),
            },
            Outcome::Error(error) => panic!("no task: {error:?}"),
        }
    }

    pub fn conflicts(&mut self, node: &str) -> Vec<ConflictDoc> {
        match self.ask(node, ApiRequest::Conflicts {}) {
            Outcome::Ok(payload) => match *payload {
                Payload::Conflicts { conflicts } => conflicts,
                other => panic!("no conflicts: {other:?}"),
            },
            Outcome::Error(error) => panic!("no conflicts: {error:?}"),
        }
    }

    pub fn task_state(&mut self, node: &str, task: &str) -> String {
        match self.ask(node, ApiRequest::Task { id: task.to_owned() }) {
            Outcome::Ok(payload) => match *payload {
                Payload::Task(task) => task.state.as_str().to_owned(),
                other => panic!("not a task: {other:?}"),
            },
            Outcome::Error(error) => error.message,
        }
    }
}
