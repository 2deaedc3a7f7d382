//! How often the open tasks are asked what they need next.
//!
//! The answer depends on the log, on acknowledgements and on time; it costs more the more services
//! a task moves. Most events change nothing about it: after those a task of very many services is
//! asked again only now and then. Small tasks are asked after every event. Nothing is kept here
//! that a restart would miss.

use std::time::Duration;

use nett_policy::task::view::last_effect;

use super::Controller;
use super::event::Event;

/// Tasks that move fewer services are asked after every event.
const FEW: usize = 1000;
/// What a service more adds to the pause: about what it costs to ask, twenty times.
const PER_SERVICE: Duration = Duration::from_micros(20);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Pacing {
    /// Something has happened since that a task may wait for.
    news: bool,
    asked: Option<Asked>,
}

/// Nothing was due when the tasks were asked last.
#[derive(Debug)]
struct Asked {
    at: Duration,
    pause: Duration,
    /// When something is due if nothing else happens.
    wake: Option<Duration>,
}

// === impl Pacing ===

impl Pacing {
    pub(super) fn news(&mut self) {
        self.news = true;
    }

    /// When to ask, if that is not now.
    pub(super) fn rests(&self, now: Duration) -> Option<Option<Duration>> {
        let asked = self.asked.as_ref().filter(|_| !self.news)?;
        let due = asked.wake.is_some_and(|wake| now >= wake);
        (!due && now < asked.at + asked.pause).then_some(asked.wake)
    }

    /// The tasks were asked, and nothing is due before `wake`.
    pub(super) fn asked(&mut self, at: Duration, services: usize, wake: Option<Duration>) {
        self.news = false;
        self.asked = Some(Asked { at, pause: pause(services), wake });
    }

    /// Something was due.
    pub(super) fn acted(&mut self) {
        self.asked = None;
    }
}

/// How long tasks that move so many services are left alone.
fn pause(services: usize) -> Duration {
    match services < FEW {
        true => Duration::ZERO,
        false => LONGEST.min(PER_SERVICE * u32::try_from(services).unwrap_or(u32::MAX)),
    }
}

// === impl Controller ===

impl Controller {
    /// True when no task waits for what the event says.
    pub(super) fn is_no_news(&self, event: &Event) -> bool {
        match event {
            Event::Api { .. }
            | Event::Paths { .. }
            | Event::RoundTrips { .. }
            | Event::Neighbours { .. }
            | Event::Counted { .. }
            | Event::Timer => true,
            Event::Report(report) => {
                let known = self.peers.reports.get(&report.node).map(|heard| &heard.report);
                known.is_some_and(|known| {
                    known.acks == report.acks && known.measuring == report.measuring
                })
            }
            _ => false,
        }
    }

    /// How many services the open tasks of this site move.
    pub(super) fn moving(&self) -> usize {
        let ours = self.open.iter().filter(|task| self.fold.home(task) == *self.site());
        ours.filter_map(|task| last_effect(&self.fold, task)).map(|e| e.moves.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn few_services_are_asked_after_every_event() {
        let mut pacing = Pacing::default();
        assert_eq!(pacing.rests(ms(0)), None, "never asked");
        pacing.asked(ms(5), FEW - 1, None);
        assert_eq!(pacing.rests(ms(5)), None);
    }

    #[test]
    fn very_many_are_left_alone_for_a_while_unless_something_is_due_or_new() {
        let mut pacing = Pacing::default();
        pacing.asked(ms(100), 50_000, Some(ms(900)));
        assert_eq!(pacing.rests(ms(100)), Some(Some(ms(900))));
        assert_eq!(pacing.rests(ms(899)), Some(Some(ms(900))));
        assert_eq!(pacing.rests(ms(900)), None, "due");
        pacing.asked(ms(100), 50_000, None);
        assert_eq!(pacing.rests(ms(1099)), Some(None));
        assert_eq!(pacing.rests(ms(1100)), None, "a second for 50 000 services");
        pacing.asked(ms(100), 10_000_000, None);
        assert_eq!(pacing.rests(ms(2099)), Some(None));
        assert_eq!(pacing.rests(ms(2100)), None, "and two at most");
        pacing.asked(ms(100), 50_000, None);
        pacing.news();
        assert_eq!(pacing.rests(ms(101)), None, "news");
        pacing.asked(ms(100), 50_000, None);
        pacing.acted();
        assert_eq!(pacing.rests(ms(101)), None, "something was due");
    }
}
