//! What an answer needs of the parts around the controller: who asks the name server too often, and
//! who sends too much over the bus. Read when somebody asks; nothing is kept, so nothing is lost.

use super::driver::Driver;
use crate::api::types::{ApiResponse, FloodDoc, Outcome, Payload};
use crate::bus::intake::ledger::Flood;
use crate::probe::Probe;

impl<P: Probe> Driver<P> {
    pub(super) fn fill_in(&self, response: &mut ApiResponse) {
        let Outcome::Ok(payload) = &mut response.outcome else { return };
        let Payload::Status(status) = &mut **payload else { return };
        status.rate_limited = self.parts.name_server.rate_limited();
        status.floods = self.parts.intake.floods().into_iter().map(flood).collect();
        status.refused += self.parts.intake.refused();
    }
}

fn flood(flood: Flood) -> FloodDoc {
    let Flood { door, from, reply_to, refused, dropped, why, age } = flood;
    FloodDoc {
        kind: door.as_str().to_owned(),
        from,
        reply_to,
        refused,
        dropped,
        why: why.to_owned(),
        age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
    }
}
