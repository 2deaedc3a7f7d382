//! Carries the lease's effects out: disk, gate, bus and name server.
//!
//! What must be on the disk before anything else happens is waited for; everything that crosses the
//! network runs beside. Nothing is decided here, and nothing is kept that a crash could take.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nett_dns::Deadlines;
use nett_policy::fabric::Fabric;
use nett_policy::id::{NodeId, SiteId};
use nett_policy::lease::vote::Ask;
use nett_policy::lease::voter::Ballot;
use nett_policy::log::entry::FabricRef;
use nett_policy::roster::Rosters;
use nkeys::KeyPair;
use tokio::sync::mpsc;

use super::gate::GateJob;
use super::store::LeaseRecord;
use super::{LeaseEffect, LeaseEvent};
use crate::bus::wire::{SealedVote, open_answer, open_ask, seal_answer, seal_ask};
use crate::bus::{Bus, Responder};
use crate::clock::Clock;
use crate::controller::event::{Event, Token};
use crate::journal::{JournalWriter, Record};

/// What the lease needs of this process.
pub struct Hands {
    pub fabric: Arc<Fabric>,
    pub node: NodeId,
    pub bus: Arc<dyn Bus>,
    pub key: Arc<KeyPair>,
    pub rosters: Arc<Rosters>,
    /// The journal `lease`.
    pub store: JournalWriter,
    /// The gate's task; `None` on a witness.
    pub gate: Option<mpsc::Sender<GateJob>>,
    pub deadlines: Arc<Deadlines>,
    pub clock: Clock,
    pub events: mpsc::Sender<Event>,
    /// Nodes that wait for an answer of the voter here.
    pub waiting: Waiting,
}

/// Askers by their tokens.
#[derive(Default)]
pub struct Waiting {
    askers: BTreeMap<Token, Responder>,
    last: u64,
}

/// Askers that may wait at once; the oldest goes first.
const ASKERS: usize = 256;

// === impl Hands ===

impl Hands {
    /// An ask that came over the bus.
    pub fn asked(&mut self, bytes: &[u8], reply: Responder) -> Option<Event> {
        let ask = match open_ask(bytes) {
            Ok(ask) => ask,
            Err(error) => {
                tracing::debug!(error = error.message(), "An ask cannot be read.");
                return None;
            }
        };
        self.waiting.last += 1;
        let token = Token(self.waiting.last);
        if self.waiting.askers.len() >= ASKERS {
            self.waiting.askers.pop_first();
        }
        self.waiting.askers.insert(token, reply);
        Some(Event::Lease(LeaseEvent::Asked { token, ask }))
    }

    /// Carries an effect out; gives the event that it leads to at once, if any.
    pub async fn carry_out(&mut self, effect: LeaseEffect) -> Option<Event> {
        let event = match effect {
            LeaseEffect::Keep { number, records } => {
                let result = self.keep(&records).await;
                LeaseEvent::Kept { number, result }
            }
            LeaseEffect::Vote(ballot) => LeaseEvent::Voted(self.vote(&ballot).await),
            LeaseEffect::Publish(vote) => {
                self.publish(vote);
                return None;
            }
            LeaseEffect::Answer { token, said } => {
                let asker = self.waiting.askers.remove(&token)?;
                match seal_answer(&said, &self.fabric_ref(), &self.key) {
                    Ok(bytes) => drop(tokio::spawn(asker.answer(bytes))),
                    Err(error) => tracing::error!(%error, "An answer cannot be signed."),
                }
                return None;
            }
            LeaseEffect::Shape(shape) => {
                let number = shape.number;
                match self.give(GateJob::Shape(shape)) {
                    Ok(()) => return None,
                    Err(error) => LeaseEvent::Shaped { number, result: Err(error) },
                }
            }
            LeaseEffect::Arm { round, slot, lease } => {
                match self.give(GateJob::Arm { round, slot, lease }) {
                    Ok(()) => return None,
                    Err(error) => LeaseEvent::Armed { round, anew: false, result: Err(error) },
                }
            }
            LeaseEffect::Open { slot, groups } => {
                // The next round opens them.
                let _ = self.give(GateJob::Open { slot, groups });
                return None;
            }
            LeaseEffect::Ask(asks) => {
                asks.iter().for_each(|ask| self.ask(ask));
                return None;
            }
            LeaseEffect::Deadlines(deadlines) => {
                let at = |at: Duration| self.clock.instant(at).into_std();
                let all = deadlines.into_iter().map(|(service, until)| (service, at(until)));
                self.deadlines.set(all.collect());
                return None;
            }
        };
        Some(Event::Lease(event))
    }

    fn fabric_ref(&self) -> FabricRef {
        FabricRef { generation: self.fabric.generation, hash: self.fabric.hash.clone() }
    }

    async fn keep(&self, records: &[LeaseRecord]) -> Result<(), String> {
        let record = |r: &LeaseRecord| Record { stream_seq: 0, bytes: r.encode() };
        let records = records.iter().map(record).collect();
        self.store.append(records).await.map_err(|error| error.to_string())
    }

    async fn vote(&self, ballot: &Ballot) -> Result<SealedVote, String> {
        let vote = SealedVote::seal(ballot, &self.node, &self.fabric_ref(), &self.key);
        let vote = vote.map_err(|error| error.to_string())?;
        self.keep(&[LeaseRecord::Made(vote.clone())]).await?;
        Ok(vote)
    }

    fn publish(&self, vote: SealedVote) {
        let bus = self.bus.clone();
        tokio::spawn(async move {
            // Answers carry it too: nothing waits for the stream.
            if let Err(error) = bus.publish_vote(vote.bytes.to_vec()).await {
                tracing::debug!(%error, "A vote was not put into the stream.");
            }
        });
    }

    fn give(&self, job: GateJob) -> Result<(), String> {
        let gate = self.gate.as_ref().ok_or("this node has no gate")?;
        gate.try_send(job).map_err(|_| "the gate has too much to do".to_owned())
    }

    fn voter_of(&self, site: &SiteId) -> Option<NodeId> {
        self.fabric.electorates().node_of(site).cloned()
    }

    fn ask(&self, ask: &Ask) {
        let (Some(voter), Ok(bytes)) = (self.voter_of(&ask.voter), seal_ask(ask)) else { return };
        let (bus, events, rosters) = (self.bus.clone(), self.events.clone(), self.rosters.clone());
        let site = ask.voter.clone();
        tokio::spawn(async move {
            match bus.ask(&site, &voter, bytes).await {
                Ok(bytes) => match open_answer(&bytes, &*rosters) {
                    Ok(said) => {
                        let event = Event::Lease(LeaseEvent::Answered(Box::new(said)));
                        // The driver is gone when the agent stops.
                        let _ = events.send(event).await;
                    }
                    Err(error) => {
                        let error = error.message();
                        tracing::warn!(%site, error, "An answer is not believed.");
                    }
                },
                Err(error) => tracing::debug!(%site, %error, "A voter does not answer."),
            }
        });
    }
}
