//! The name server, as it stands with its addresses: started with the first answers, and tried
//! again while it cannot listen. The controller is told of that and says it to people; nothing
//! else of the agent waits for it.

use super::Snapshot;
use super::driver::Driver;
use super::event::{Event, Now};
use crate::probe::Probe;
use crate::telemetry::Duty;

impl<P: Probe> Driver<P> {
    /// Starts the name server, if it has something to serve, does not run yet and is not to wait;
    /// gives what there is to tell of that.
    pub(super) fn start_name_server(&mut self) -> Option<Event> {
        if !self.parts.zone.has_begun() {
            return None;
        }
        let news = self.parts.name_server.start(self.parts.zone.zone());
        if self.parts.name_server.is_well() && !self.parts.metrics.is_fulfilled(Duty::Zone) {
            self.parts.metrics.fulfil(Duty::Zone);
        }
        news.map(|trouble| Event::NameServer { trouble })
    }

    /// The controller's view in numbers, and whether the name server listens.
    pub(super) fn measured(&self, now: Now) -> Snapshot {
        let dns_listening = self.parts.name_server.is_listening();
        Snapshot { dns_listening, ..self.controller.snapshot(now) }
    }
}
