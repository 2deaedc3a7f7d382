//! Reading another site's stream at its origin while the mirror here lags behind.
//!
//! After a cut has healed the mirrors of a nats-server may wait in a back-off of up to two minutes,
//! although the origin answers at once. So the ends of both are compared every second; when the
//! origin is ahead twice in a row, a follower reads there from where the mirror stands, and is
//! dropped when the mirror has caught up. Entries that come both ways carry the same number and
//! bytes. Nothing is kept, so there is nothing to lose in a crash.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::follow::{Follower, What};

/// How often the two are compared.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long the origin may take to answer: longer means that it is out of reach.
const ANSWER: Duration = Duration::from_secs(1);

pub(super) struct Tail {
    /// The follower of the mirror; what it reads is read at the origin as well.
    pub(super) mirror: Follower,
    /// The other site's own JetStream, reached over the leaf connections.
    pub(super) origin: Context,
}

/// Ends the follower with its handle.
struct Reading(JoinHandle<()>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Tail {
    pub(super) async fn run(mut self) {
        let mut behind = false;
        let mut reading: Option<Reading> = None;
        loop {
            if self.mirror.link.wait_for(|link| link.up).await.is_err() {
                return;
            }
            sleep(INTERVAL).await;
            let here = self.end(&self.mirror.context).await.unwrap_or(0);
            let there = self.end(&self.origin).await;
            let lags = there.is_some_and(|there| there > here);
            match (lags && behind, &reading) {
                (true, None) => {
                    let stream = &self.mirror.stream;
                    tracing::info!(stream, here, there, "Reading at the origin: the mirror lags.");
                    reading = Some(self.read_there(here));
                }
                (false, Some(_)) if there.is_some() => reading = None,
                (_, _) => {}
            }
            behind = lags;
        }
    }

    /// The last number of the stream, if it can be had in time.
    async fn end(&self, context: &Context) -> Option<u64> {
        let stream = timeout(ANSWER, context.get_stream(&self.mirror.stream)).await.ok()?.ok()?;
        Some(stream.cached_info().state.last_sequence)
    }

    fn read_there(&self, here: u64) -> Reading {
        let mirror = &self.mirror;
        let what = match mirror.what {
            What::Log { start } => What::Log { start: start.max(here + 1) },
            What::State | What::Vote => mirror.what,
        };
        let follower = Follower {
            context: self.origin.clone(),
            stream: mirror.stream.clone(),
            site: mirror.site.clone(),
            what,
            rosters: mirror.rosters.clone(),
            link: mirror.link.clone(),
            events: mirror.events.clone(),
            // Of what the site's log held before, the mirror is asked.
            rewind: Arc::default(),
            votes_refused: mirror.votes_refused.clone(),
        };
        Reading(tokio::spawn(follower.run()))
    }
}
