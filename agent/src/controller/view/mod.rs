//! Answers to questions about the present: domain state in, API documents out.

mod conflict;
mod lease;
mod path;
pub(super) mod plan;
mod service;
mod site;
pub(super) mod snapshot;
mod task;

use std::time::Duration;

use nett_policy::id::{EntryId, Selector, ServiceId, SiteId};

use super::effect::Effect;
use super::event::{Now, Token};
use super::{Controller, SILENCE};
use crate::api::types::{
    ApiError, ApiRequest, ApiResponse, CommandReply, ErrorCode, IdentityDoc, Outcome, Payload,
    Stamp,
};
use nett_policy::fabric::OperatorRole;

/// Somebody who waits for a task to change.
#[derive(Debug)]
pub(super) struct Watcher {
    token: Token,
    task: EntryId,
    after_revision: u64,
    until: Duration,
}

/// The longest a watcher waits before it gets the task as it is.
const WATCH_LIMIT: Duration = Duration::from_secs(20);
/// Exit status of a command whose site cannot be reached.
const EXIT_UNREACHABLE: u8 = 3;

// === impl Controller ===

impl Controller {
    pub(super) fn answer(&mut self, token: Token, request: ApiRequest, now: Now) {
        let outcome = match request {
            ApiRequest::Command { subject, envelope } => {
                return match serde_json::to_vec(&envelope) {
                    Ok(bytes) => self.request(token, (&subject, true), bytes, now),
                    Err(error) => {
                        self.respond(token, bad_request(error.to_string()).into(), now);
                    }
                };
            }
            ApiRequest::Fact { subject, envelope } => {
                return match serde_json::to_vec(&envelope) {
                    Ok(bytes) => self.fact_given(token, &subject, &bytes, now),
                    Err(error) => self.respond(token, bad_request(error.to_string()).into(), now),
                };
            }
            ApiRequest::WatchTask { id, after_revision, timeout_ms } => {
                return self.watch(token, &id, after_revision, timeout_ms, now);
            }
            ApiRequest::Identify { key } => Ok(self.identity(key.as_deref())),
            ApiRequest::Status {} => Ok(Payload::Status(self.status_doc(now))),
            ApiRequest::Services { selector } => self.service_lines(selector.as_deref(), now),
            ApiRequest::Service { id } => self.service_doc(&id, now),
            ApiRequest::Sites {} => Ok(Payload::Sites { sites: self.site_docs(now) }),
            ApiRequest::Site { id } => self.site_doc(&id, now),
            ApiRequest::Nodes {} => Ok(Payload::Nodes { nodes: self.node_docs(now) }),
            ApiRequest::Links {} => Ok(Payload::Links { links: self.link_docs(now) }),
            ApiRequest::Tasks {} => Ok(Payload::Tasks { tasks: self.task_lines() }),
            ApiRequest::Task { id } => self.task_payload(&id),
            ApiRequest::Conflicts {} => Ok(Payload::Conflicts { conflicts: self.conflict_docs() }),
            ApiRequest::Plan { verb, overrides, terms } => {
                return self.plan(token, (&verb, &overrides, terms.as_ref()), now);
            }
            ApiRequest::Rejoin { without, reason } => self.rejoin(&without, &reason),
            ApiRequest::ExplainPath { from, to, node } => {
                self.path_doc(&from, &to, node.as_deref())
            }
            ApiRequest::Simulate { lose } => self.simulation_doc(&lose),
            ApiRequest::Separation { since } => {
                Ok(Payload::Separation(self.separation_doc(since, now)))
            }
            ApiRequest::Drained {} => Ok(Payload::Drained(self.drained_doc())),
            ApiRequest::Facts {} => Ok(self.facts_payload(now)),
            ApiRequest::ExplainName { .. }
            | ApiRequest::Audit { .. }
            | ApiRequest::AuditVerify {}
            | ApiRequest::AuditPart { .. }
            | ApiRequest::Backup {}
            | ApiRequest::Restore { .. } => Err(ApiError::new(
                ErrorCode::Internal,
                "the question reached the wrong part of the agent",
                "",
            )),
        };
        let outcome = match outcome {
            Ok(payload) => Outcome::from(payload),
            Err(error) => Outcome::from(error),
        };
        self.respond(token, outcome, now);
    }

    /// The answer with who says it and how old the view behind it is.
    pub(super) fn respond(&mut self, token: Token, outcome: Outcome, now: Now) {
        let response = Box::new(self.envelope(outcome, now));
        self.effects.push(Effect::Reply { token, response });
    }

    /// What every answer of this agent carries around its outcome.
    pub fn envelope(&self, outcome: Outcome, now: Now) -> ApiResponse {
        let node = &self.setting.node;
        let as_of = Stamp::from(now.wall);
        let mut response = ApiResponse::new(node.site.as_str(), node.id.as_str(), as_of, outcome);
        response.isolated_since = self.isolated_since(now).map(|silent| {
            let ms = u64::try_from(silent.as_millis()).unwrap_or(u64::MAX);
            Stamp::from_ms(now.wall.0.saturating_sub(ms))
        });
        response
    }

    /// For how long no node of any other site has been heard, once that is too long.
    pub fn isolated_since(&self, now: Now) -> Option<Duration> {
        let others = self.peers.reports.values().filter(|h| h.report.site != *self.site());
        let newest = others.map(|h| h.at).max();
        let silent = now.mono.saturating_sub(newest.or(self.since).unwrap_or_default());
        (silent > SILENCE && self.setting.fabric.sites.len() > 1).then_some(silent)
    }

    pub(super) fn reply_command(&mut self, token: Token, reply: CommandReply, now: Now) {
        self.respond(token, Payload::Command(reply).into(), now);
    }

    pub(super) fn reply_unreachable(&mut self, token: Token, text: &str, now: Now) {
        let message = text.to_owned();
        let reply = CommandReply { message, exit: EXIT_UNREACHABLE, ..CommandReply::default() };
        self.reply_command(token, reply, now);
    }

    fn identity(&self, key: Option<&str>) -> Payload {
        let operator = key.and_then(|key| self.setting.fabric.operator_by_key(key));
        let role = |role: &OperatorRole| match role {
            OperatorRole::Operator => "operator",
            OperatorRole::Approver => "approver",
            OperatorRole::Gate => "gate",
            OperatorRole::Viewer => "viewer",
        };
        Payload::Identity(IdentityDoc {
            site: self.site().to_string(),
            node: self.setting.node.id.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            operator: operator.map(|o| o.name.clone()),
            roles: operator
                .map(|o| o.roles.iter().map(|r| role(r).to_owned()).collect())
                .unwrap_or_default(),
            revoked: key.and_then(|key| self.revoked_doc(key)),
        })
    }

    fn watch(&mut self, token: Token, id: &str, after_revision: u64, timeout_ms: u64, now: Now) {
        let task = match self.known_task(id) {
            Ok(task) => task,
            Err(error) => return self.respond(token, error.into(), now),
        };
        let wait = Duration::from_millis(timeout_ms).min(WATCH_LIMIT);
        self.watchers.push(Watcher { token, task, after_revision, until: now.mono + wait });
    }

    pub(super) fn watch_deadline(&self) -> Option<Duration> {
        self.watchers.iter().map(|w| w.until).min()
    }

    /// Answers everybody whose task has changed, or who has waited long enough.
    pub(super) fn answer_watchers(&mut self, now: Now) {
        let due = |w: &Watcher, this: &Self| {
            now.mono >= w.until || this.revision(&w.task) > w.after_revision
        };
        let (due, waiting): (Vec<Watcher>, Vec<Watcher>) =
            std::mem::take(&mut self.watchers).into_iter().partition(|w| due(w, self));
        self.watchers = waiting;
        for watcher in due {
            let outcome = match self.task_payload(watcher.task.as_str()) {
                Ok(payload) => Outcome::from(payload),
                Err(error) => Outcome::from(error),
            };
            self.respond(watcher.token, outcome, now);
        }
    }

    fn known_task(&self, id: &str) -> Result<EntryId, ApiError> {
        let task: EntryId = id.parse().map_err(|e: nett_policy::id::IdError| {
            ApiError::new(
                ErrorCode::BadRequest,
                e.to_string(),
                "`nettctl task list` names them all",
            )
        })?;
        match self.fold.command(&task) {
            Some(_) => Ok(task),
            None => Err(not_found(format!("no task {id} is known here"), "nettctl task list")),
        }
    }

    fn known_site(&self, id: &str) -> Result<SiteId, ApiError> {
        let site = id.parse::<SiteId>().ok().filter(|s| self.setting.fabric.site(s).is_some());
        site.ok_or_else(|| not_found(format!("there is no site `{id}`"), "nettctl site list"))
    }

    fn known_service(&self, id: &str) -> Result<ServiceId, ApiError> {
        let known = |s: &ServiceId| self.setting.catalog.get(s).is_some();
        let service = id.parse::<ServiceId>().ok().filter(known);
        service
            .ok_or_else(|| not_found(format!("there is no service `{id}`"), "nettctl service list"))
    }

    fn selector(&self, text: Option<&str>) -> Result<Selector, ApiError> {
        let selector = text.unwrap_or("*").parse::<Selector>();
        selector.map_err(|e| bad_request(e.to_string()))
    }
}

fn not_found(message: String, command: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, message, &format!("`{command}` names them all"))
}

fn bad_request(message: String) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, message, "")
}

/// Milliseconds of a duration, for documents.
pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
