//! Following a task to its end: long polls one after the other, progress on the error output.
//!
//! A connection that breaks is opened again until the deadline: the task goes on meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use nett_policy::id::EntryId;
use tokio::time::{Instant, sleep_until};

use super::exit::{CtlError, Exit};
use super::session::Session;
use crate::api::client::ClientError;
use crate::api::types::{
    ApiRequest, ApiResponse, Outcome, Payload, StepStateDoc, TaskDoc, TaskStateDoc,
};

/// One long poll. Below the 30 s for which a nats-server lets an agent reply.
const POLL: Duration = Duration::from_secs(15);
/// The least time between two questions, whatever comes back.
const PACE: Duration = Duration::from_millis(250);

/// What has been shown of a task.
#[derive(Default)]
struct Shown {
    state: Option<TaskStateDoc>,
    steps: BTreeMap<u32, StepStateDoc>,
}

/// Follows until the end or the deadline, then shows the task.
pub(super) async fn follow(session: &mut Session, task: &EntryId) -> Result<Exit, CtlError> {
    session.following = true;
    let deadline = Instant::now() + session.task_deadline();
    let mut shown = Shown::default();
    let mut request = ApiRequest::Task { id: task.to_string() };
    loop {
        let pace = Instant::now() + PACE;
        match session.ask(&request).await {
            Ok(answer) => {
                let doc = task_of(&answer)?;
                shown.progress(session, doc)?;
                let left = deadline.saturating_duration_since(Instant::now());
                if doc.state.is_terminal() || left.is_zero() {
                    session.out.answer(&answer)?;
                    return Ok(Exit::of_task(doc.state));
                }
                let poll = POLL.min(left);
                request = ApiRequest::WatchTask {
                    id: task.to_string(),
                    after_revision: doc.revision,
                    timeout_ms: u64::try_from(poll.as_millis()).unwrap_or(u64::MAX),
                };
            }
            Err(error) if is_passing(&error) && Instant::now() < deadline => {
                session.out.note(&format!("{error}; trying again"))?;
            }
            Err(error) => return Err(error),
        }
        sleep_until(pace).await;
    }
}

/// True for what a restart of the agent or a broken link looks like.
fn is_passing(error: &CtlError) -> bool {
    error.exit() == Exit::Unreachable
}

fn task_of(answer: &ApiResponse) -> Result<&TaskDoc, CtlError> {
    match &answer.outcome {
        Outcome::Error(error) => Err(ClientError::Agent(error.clone()).into()),
        Outcome::Ok(payload) => match &**payload {
            Payload::Task(task) => Ok(task),
            _ => Err(ClientError::WrongAnswer.into()),
        },
    }
}

// === impl Shown ===

impl Shown {
    /// One line for each change since the last look.
    fn progress(&mut self, session: &Session, task: &TaskDoc) -> Result<(), CtlError> {
        let ended = task.state.is_terminal();
        if !ended {
            self.state_line(session, task)?;
        }
        for step in &task.steps {
            let before = self.steps.insert(step.number, step.state);
            if before == Some(step.state) || step.state == StepStateDoc::Waiting {
                continue;
            }
            let owed: Vec<&str> = step
                .acknowledge
                .iter()
                .filter(|ack| !ack.acked)
                .map(|ack| ack.node.as_str())
                .collect();
            let mut line = format!(
                "{} step {}/{} {} {}",
                task.id,
                step.number,
                task.steps.len(),
                step.kind,
                step.state.as_str()
            );
            if step.state == StepStateDoc::Started && !owed.is_empty() {
                line += &format!(", waits for {}", owed.join(", "));
            }
            if !step.failure.is_empty() {
                line += &format!(": {}", step.failure);
            }
            session.out.note(&line)?;
        }
        if ended {
            self.state_line(session, task)?;
        }
        Ok(())
    }

    fn state_line(&mut self, session: &Session, task: &TaskDoc) -> Result<(), CtlError> {
        if self.state == Some(task.state) {
            return Ok(());
        }
        self.state = Some(task.state);
        let mut line = format!("{} {}", task.id, task.state.as_str());
        if task.state == TaskStateDoc::WaitingApproval {
            let given = task.approvals.iter().filter(|a| a.approve && a.counts);
            let (given, needed) = (given.count(), task.approvals_needed);
            let id = &task.id;
            line += &format!(" ({given} of {needed}): nettctl approve {id} --reason TEXT");
        }
        if matches!(task.state, TaskStateDoc::Paused | TaskStateDoc::Confirming) {
            let ways: Vec<&str> = task.continue_with.iter().map(String::as_str).collect();
            line += &format!(": {}", ways.join("; "));
        }
        session.out.note(&line)
    }
}
