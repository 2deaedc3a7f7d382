//! What becomes of transitions: a log line, a counter, a line of the audit trail; and the newest
//! views for whoever asks the controller.
//!
//! It may be slow, since nothing of the protocol waits for it. A far end that comes and goes all
//! the time fills neither log nor trail: so many transitions a second are told, all are counted.
//!
//! Crash story: what was not told yet is lost with the process; the kernel's routes are not.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, watch};

use super::{PathId, Transition, Views, What};
use crate::controller::event::{Event, News};
use crate::telemetry::Metrics;
use crate::telemetry::event::{LinkDoubted, SessionChanged};
use crate::telemetry::seldom::Seldom;

/// Transitions that are told, a second.
const TOLD: u32 = 50;

/// Tells until the controller or the thread is gone. The transitions outlive a reload.
pub async fn tell(
    transitions: Arc<Mutex<mpsc::Receiver<Transition>>>,
    mut views: watch::Receiver<Views>,
    events: mpsc::Sender<Event>,
    metrics: Metrics,
) {
    let mut transitions = transitions.lock().await;
    let said = Seldom::of(TOLD);
    views.mark_changed();
    loop {
        let news = tokio::select! {
            transition = transitions.recv() => match transition {
                Some(transition) => vec![told(&transition, &said, &metrics)],
                None => return,
            },
            changed = views.changed() => match changed {
                Ok(()) => Vec::new(),
                Err(_) => return,
            },
        };
        let news = news.into_iter().flatten().collect();
        let views = views.borrow_and_update().clone();
        if events.send(Event::Paths { views, news }).await.is_err() {
            return;
        }
    }
}

fn told(transition: &Transition, said: &Seldom, metrics: &Metrics) -> Option<News> {
    let Transition { path: path @ (link, family), what } = transition;
    match what {
        What::Session { from, to, fall, diagnostic, remote } => {
            let unsaid = said.due();
            metrics.emit(SessionChanged {
                unsaid,
                link,
                family: family.name(),
                from: from.as_str(),
                to: to.as_str(),
                reason: diagnostic.text(),
                remote: remote.map_or("not heard", |(_, diagnostic)| diagnostic.text()),
            });
            // The way up, and what never was up, is no news for the records.
            let up = *to == super::State::Up;
            (unsaid.is_some() && (up || fall.is_some())).then(|| News {
                kind: "bfd",
                text: match up {
                    true => format!("{}: the session is up", name(path)),
                    false => format!("{}: the session is down: {}", name(path), diagnostic.text()),
                },
            })
        }
        What::Belief { from, to } => {
            if from.is_doubt() == to.is_doubt() {
                return None;
            }
            let doubted = to.is_doubt();
            metrics.emit(LinkDoubted { link, family: family.name(), doubted });
            let text = match doubted {
                true => "is not used where there is another way",
                false => "is used again",
            };
            Some(News { kind: "bfd", text: format!("{}: {text}", name(path)) })
        }
    }
}

fn name((link, family): &PathId) -> String {
    format!("link {link}, {}", family.name())
}
