//! What outside reporters say, as far as it is good.
//!
//! A fact is never an entry of the log: what a step used of it goes there with the step's start.
//! Crash story: facts are gone after a restart, and gates stay closed until the reporters, who
//! repeat themselves because facts expire, have spoken again.

use std::collections::BTreeMap;
use std::time::Duration;

use nett_policy::fact::{Fact, FactKey};
use nett_policy::task::decide::{CLOCK_SKEW, Refusal};
use nett_policy::task::external::PREFIX;

use super::Controller;
use super::effect::{AuditEvent, Effect};
use super::event::{Now, Token};
use super::view::snapshot::SERVICE_SERIES;
use crate::api::types::{CommandReply, FactDoc, Payload, Stamp};
use crate::bus::wire::open_fact;

/// How many facts are kept; more are turned away by name.
const MOST: usize = 4096;
/// The longest time that a fact may be good.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

impl Controller {
    /// A fact from the bus, where nobody waits for an answer.
    pub(super) fn fact_heard(&mut self, subject: &str, bytes: &[u8], now: Now) {
        if let Err(refusal) = self.take_fact(subject, bytes, now) {
            tracing::debug!(reason = refusal.refused_by, "A fact is not believed.");
        }
    }

    /// A fact over the socket.
    pub(super) fn fact_given(&mut self, token: Token, subject: &str, bytes: &[u8], now: Now) {
        let reply = match self.take_fact(subject, bytes, now) {
            Ok((about, fact)) => CommandReply {
                accepted: true,
                message: format!("{} is {}{}", name_of(&about), fact.value, fact.unit),
                ..CommandReply::default()
            },
            Err(refusal) => super::refusals::refusal_reply(&refusal),
        };
        self.reply_command(token, reply, now);
    }

    fn take_fact(
        &mut self,
        subject: &str,
        bytes: &[u8],
        now: Now,
    ) -> Result<(FactKey, Fact), Refusal> {
        let opened = open_fact(bytes, subject, self.site(), &self.setting.fabric);
        let (about, fact) =
            opened.map_err(|error| Refusal::rule(error.reason(), error.message()))?;
        let skew = ms(CLOCK_SKEW);
        if fact.measured_at.0 > now.wall.0 + skew {
            return Err(Refusal::rule("issued-in-the-future", "the fact was measured after now")
                .hint("check the clocks of both machines"));
        }
        if fact.expires_at <= now.wall {
            return Err(Refusal::rule("expired", "the fact is not good any more"));
        }
        if fact.expires_at.0 - now.wall.0 > ms(LONGEST) + skew {
            return Err(Refusal::rule("too-long", "a fact is good for a day at most"));
        }
        let known = about.0.as_ref().is_none_or(|s| self.setting.catalog.get(s).is_some());
        if !known {
            let message = format!("there is no service for {}", name_of(&about));
            return Err(Refusal::usage("unknown-service", message));
        }
        self.is_asked(&about, &fact.person)?;
        let facts = &mut self.sight.facts;
        if facts.len() >= MOST {
            facts.forget(now.wall);
        }
        if facts.len() >= MOST && !facts.iter().any(|(key, _)| *key == about) {
            return Err(Refusal::rule("too-many", format!("{MOST} facts are known already")));
        }
        let first = !facts.iter().any(|(key, _)| *key == about);
        facts.take(about.clone(), fact.clone());
        if first {
            let text = format!(
                "{} reports {} for the first time: {}{}",
                fact.person,
                name_of(&about),
                fact.value,
                fact.unit
            );
            self.effects.push(Effect::Audit(AuditEvent::Kernel { kind: "fact", text }));
        }
        Ok((about, fact))
    }

    /// What is good now, as numbers by service, site and name.
    pub(super) fn fact_values(&self, now: Now) -> BTreeMap<[String; 3], f64> {
        let good = self.sight.facts.iter().filter(|(_, fact)| now.wall < fact.expires_at);
        // Each answer to a request has a name of its own, which nobody asks for again.
        let good = good.filter(|((_, name), _)| !name.starts_with(PREFIX));
        let series = good.take(SERVICE_SERIES).map(|((service, name), fact)| {
            let service = service.as_ref().map(ToString::to_string).unwrap_or_default();
            ([service, self.site().to_string(), name.clone()], fact.value.as_f64())
        });
        series.collect()
    }

    pub(super) fn facts_payload(&self, now: Now) -> Payload {
        let good = self.sight.facts.iter().filter(|(_, fact)| now.wall < fact.expires_at);
        let doc = |((service, name), fact): (&FactKey, &Fact)| FactDoc {
            service: service.as_ref().map(ToString::to_string),
            name: name.clone(),
            value: fact.value.to_string(),
            unit: fact.unit.clone(),
            person: fact.person.clone(),
            measured_at: Stamp::from(fact.measured_at),
            expires_at: Stamp::from(fact.expires_at),
        };
        Payload::Facts { facts: good.map(doc).collect() }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// `data-lag of shop/prod/api`
fn name_of((service, name): &FactKey) -> String {
    match service {
        Some(service) => format!("{name} of {service}"),
        None => name.clone(),
    }
}
