//! Answers that take long, on threads beside the driver's: it has votes to answer and entries to
//! read meanwhile.
//!
//! An audit file may be long and its disk slow. The steps of a plan over very many services take
//! seconds to work out; they are worked out for one asker at a time, since each plan holds states
//! of nodes in memory. Nothing is kept: after a crash people ask again.

use std::path::Path;
use std::sync::Arc;

use nett_policy::roster::Rosters;

use super::asker::{Asker, send};
use super::driver::Driver;
use super::effect::Planning;
use super::event::Token;
use crate::api::types::{ApiError, ApiResponse, ErrorCode, Outcome, Payload};
use crate::probe::Probe;

impl<P: Probe> Driver<P> {
    /// Answers from the audit file on a thread of its own: the file may be long, and the driver
    /// must not wait for a disk.
    pub(super) fn beside(
        &self,
        asker: Asker,
        read: impl FnOnce(&Path, &Rosters) -> Result<Payload, ApiError> + Send + 'static,
    ) {
        let now = self.parts.clock.now();
        let busy = ApiError::new(
            ErrorCode::Busy,
            "the audit trail is being read for others",
            "try again in a moment",
        );
        let mut answer = self.controller.envelope(Outcome::from(busy), now);
        let Ok(permit) = self.readers.clone().try_acquire_owned() else {
            return send(asker, answer);
        };
        let path = self.parts.records.path().to_owned();
        let written = self.parts.records.written();
        let rosters = self.parts.rosters.clone();
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            written.wait();
            answer.outcome = match read(&path, &rosters) {
                Ok(payload) => Outcome::from(payload),
                Err(error) => Outcome::from(error),
            };
            drop(permit);
            let _inside = runtime.enter();
            send(asker, answer);
        });
    }

    /// Finishes a plan and answers with it.
    pub(super) fn plan(
        &mut self,
        token: Token,
        mut response: Box<ApiResponse>,
        planning: Box<Planning>,
    ) {
        let Some(asker) = self.waiting.remove(&token) else { return };
        let Ok(place) = self.planned.clone().try_acquire_owned() else {
            let busy = "plans are being worked out for others";
            let busy = ApiError::new(ErrorCode::Busy, busy, "try again in a moment");
            response.outcome = Outcome::from(busy);
            return send(asker, *response);
        };
        let planners = Arc::clone(&self.planners);
        let runtime = tokio::runtime::Handle::current();
        tokio::spawn(async move {
            let permit = planners.acquire_owned().await;
            if asker.is_gone() {
                return;
            }
            let mut failed = response.clone();
            let work = tokio::task::spawn_blocking(move || {
                planning.finish(&mut response);
                response
            });
            let answer = work.await.unwrap_or_else(|_| {
                let hint = "report it with the agent's log; the agent goes on";
                let error = "the plan could not be worked out";
                failed.outcome = Outcome::from(ApiError::new(ErrorCode::Internal, error, hint));
                failed
            });
            drop((permit, place));
            let _inside = runtime.enter();
            send(asker, *answer);
        });
    }
}
