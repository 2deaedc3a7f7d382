//! Keeps the audit trail: entries as they are first read, and what happened on this node alone.

use std::collections::BTreeSet;
use std::path::Path;

use nett_policy::fact::Measured;
use nett_policy::id::{Epoch, NodeId, ServiceId, WallMs};
use nett_policy::lease::admission::WITHOUT_QUORUM;
use nett_policy::log::entry::{Ask, Body, Effect, Entry, StepState, Turn};
use nett_policy::roster::Rosters;

use crate::api::types::{
    ApiError, AuditDoc, AuditLine, AuditPartDoc, AuditVerdictDoc, ErrorCode, Payload, Stamp,
};
use crate::bus::wire::{OpenError, Sealed};
use crate::controller::effect::AuditEvent;
use crate::controller::event::Now;
use crate::journal::audit::{self, Audit, AuditRecord, Belief, Filter};
use crate::journal::trail::{Trail, WAITING, Written};

/// The trail of one node. A trail that cannot be written is said in the log; nothing waits for it.
pub struct Records {
    node: NodeId,
    trail: Trail,
    clock: crate::clock::Clock,
    /// The newest entries that the trail had when it was opened.
    known: BTreeSet<String>,
}

// === impl Records ===

impl Records {
    pub fn open(
        state_dir: &Path,
        node: NodeId,
        clock: crate::clock::Clock,
    ) -> std::io::Result<Self> {
        let audit = Audit::open(state_dir)?;
        let known = audit.recent()?;
        let trail = Trail::spawn(audit)?;
        Ok(Self { node, trail, clock, known })
    }

    /// Adds the entries of the journal, oldest first, whose lines were under way when the process
    /// before was killed: of the last that may have been those which the trail lacks. They have
    /// the time at which they were added.
    pub fn complete<'a>(&mut self, journal: impl DoubleEndedIterator<Item = &'a Sealed>) {
        let known = std::mem::take(&mut self.known);
        // One line more than wait may be on its way to the file.
        let last = journal.rev().take(WAITING + 1);
        let lost: Vec<&Sealed> =
            last.filter(|sealed| !known.contains(sealed.entry.id.to_string().as_str())).collect();
        let at = self.clock.now().wall;
        for sealed in lost.into_iter().rev() {
            let record = self.entry(sealed, at);
            let text = format!("{} (found in the journal at the start)", record.text);
            self.trail.append(AuditRecord { text, ..record });
        }
    }

    /// An event of this node alone.
    pub fn note(&mut self, kind: &str, text: &str) {
        let at = self.clock.now().wall;
        self.trail.append(AuditRecord { text: text.to_owned(), ..self.blank(at, kind) });
    }

    pub fn write(&mut self, event: &AuditEvent, now: Now) {
        let record = match event {
            AuditEvent::Entry(sealed) => self.entry(sealed, now.wall),
            AuditEvent::Unauthentic { reason, message, count } => AuditRecord {
                text: format!("{count} request(s) refused unread, the last by {reason}: {message}"),
                reason: Some((*reason).to_owned()),
                ..self.blank(now.wall, "unauthentic")
            },
            AuditEvent::Kernel { kind, text } => {
                AuditRecord { text: text.clone(), ..self.blank(now.wall, kind) }
            }
            AuditEvent::Cost { service, text } => AuditRecord {
                services: service.iter().cloned().collect(),
                text: text.clone(),
                ..self.blank(now.wall, "cost")
            },
            AuditEvent::Conflict { service, text } => AuditRecord {
                services: service.iter().cloned().collect(),
                text: text.clone(),
                ..self.blank(now.wall, "conflict")
            },
            AuditEvent::LogTrouble { site, trouble } => AuditRecord {
                site: Some(site.clone()),
                text: trouble.clone(),
                ..self.blank(now.wall, "log-trouble")
            },
        };
        self.trail.append(record);
    }

    /// Where the trail stands, for whoever reads it beside this.
    pub fn path(&self) -> &Path {
        self.trail.path()
    }

    /// For them: waits until all that was noted until now stands there.
    pub fn written(&self) -> Written {
        self.trail.written()
    }

    fn blank(&self, at: WallMs, kind: &str) -> AuditRecord {
        AuditRecord {
            at: at.0,
            node: self.node.to_string(),
            kind: kind.to_owned(),
            site: None,
            seq: None,
            id: None,
            person: None,
            reason: None,
            services: Vec::new(),
            text: String::new(),
            entry: None,
            prev: String::new(),
        }
    }

    fn entry(&self, sealed: &Sealed, at: WallMs) -> AuditRecord {
        let entry = &sealed.entry;
        let request = sealed.request();
        AuditRecord {
            node: entry.node.to_string(),
            site: Some(entry.site.to_string()),
            seq: Some(entry.position.seq),
            id: Some(task_of(entry)),
            person: request.map(|r| r.person.name.clone()),
            reason: request.map(|r| r.reason.clone()),
            services: services(&entry.body),
            text: text(&entry.body),
            entry: serde_json::from_slice(&sealed.bytes).ok(),
            ..self.blank(at, kind(&entry.body))
        }
    }
}

/// The newest lines of a trail that match, oldest first. Reads the whole file: not for the driver.
pub fn read(path: &Path, filter: &Filter) -> Result<Payload, ApiError> {
    let (records, truncated) = audit::read(path, filter).map_err(|e| unreadable(path, &e))?;
    let entries = records.into_iter().map(line).collect();
    Ok(Payload::Audit(AuditDoc { entries, truncated }))
}

/// Whole lines of a trail from a byte on.
pub fn part(path: &Path, from: u64) -> Result<Payload, ApiError> {
    let (text, next) = audit::part(path, from).map_err(|e| unreadable(path, &e))?;
    Ok(Payload::AuditPart(AuditPartDoc { text, next }))
}

/// Follows a trail's hash chain, and judges every entry in it. Reads the whole file.
pub fn verify(path: &Path, rosters: &Rosters) -> Result<Payload, ApiError> {
    let believe = |entry: &serde_json::Value| {
        let bytes = serde_json_canonicalizer::to_vec(entry).unwrap_or_default();
        match Sealed::open_stored(&bytes, rosters) {
            Ok(_) => Belief::Good,
            Err(OpenError::UnknownFabric { .. } | OpenError::NeedsUpgrade { .. }) => {
                Belief::Unknown
            }
            Err(_) => Belief::Forged,
        }
    };
    let verdict = audit::verify(path, believe).map_err(|e| unreadable(path, &e))?;
    let audit::Verdict { lines, damaged, breaks, unbelieved, unknown, last } = verdict;
    Ok(Payload::AuditVerdict(AuditVerdictDoc {
        whole: breaks.is_empty() && unbelieved.is_empty(),
        lines,
        damaged,
        breaks,
        unbelieved,
        unknown,
        last,
    }))
}

fn unreadable(path: &Path, error: &std::io::Error) -> ApiError {
    ApiError::new(ErrorCode::Internal, format!("cannot read {}: {error}", path.display()), "")
}

/// One word for what an entry says.
pub(crate) fn kind(body: &Body) -> &'static str {
    match body {
        Body::Command(_) => "command",
        Body::Refused(_) => "refused",
        Body::Wish(wish) => wish.request.ask.verb_name(),
        Body::Effective(_) => "effective",
        Body::Step(_) => "step",
        Body::Turn(_) => "turn",
        Body::End(_) => "end",
        Body::Adopt(_) => "adopt",
        Body::Withdrawn(_) => "withdrawn",
    }
}

/// The task, or for a refused request its own id.
fn task_of(entry: &Entry) -> String {
    match (&entry.body, entry.about()) {
        (_, Some(task)) => task.to_string(),
        (Body::Refused(refused), None) => refused.request.id.to_string(),
        (_, None) => entry.id.to_string(),
    }
}

fn services(body: &Body) -> Vec<String> {
    let moved = |effect: &Effect| effect.moves.iter().map(|m| m.service.to_string()).collect();
    match body {
        Body::Command(command) => command.effect.as_deref().map(moved).unwrap_or_default(),
        Body::Effective(fact) => moved(&fact.effect),
        Body::Refused(_)
        | Body::Wish(_)
        | Body::Step(_)
        | Body::Turn(_)
        | Body::End(_)
        | Body::Adopt(_) => Vec::new(),
        Body::Withdrawn(withdrawn) => withdrawn.services.keys().map(ToString::to_string).collect(),
    }
}

fn text(body: &Body) -> String {
    let moves = |effect: &Effect| -> String {
        let one = |m: &nett_policy::log::entry::Move| {
            format!("{} {} -> {} (epoch {})", m.service, m.from.spread, m.to.spread, m.epoch)
        };
        effect.moves.iter().map(one).collect::<Vec<_>>().join("; ")
    };
    match body {
        Body::Command(command) => {
            let verb = command.request.ask.verb_name();
            let passed = passed_over(&command.request.ask);
            match &command.effect {
                Some(effect) => format!("{verb} accepted{passed}: {}", moves(effect)),
                None => {
                    let needed = command.approvals_needed;
                    format!("{verb} accepted{passed}, waits for {needed} approval(s)")
                }
            }
        }
        Body::Refused(refused) => {
            let verb = refused.request.ask.verb_name();
            let passed = passed_over(&refused.request.ask);
            format!("{verb}{passed} refused by {}: {}", refused.refused_by, refused.message)
        }
        Body::Wish(wish) => format!("{} given", wish.request.ask.verb_name()),
        Body::Effective(fact) => format!("effective: {}", moves(&fact.effect)),
        Body::Step(fact) => match &fact.state {
            StepState::Started { gates: _, facts } => {
                let one =
                    |f: &Measured| format!("; {} of {} {}{}", f.name, f.service, f.value, f.unit);
                let facts: String = facts.iter().take(20).map(one).collect();
                format!("step {} started{facts}", fact.step)
            }
            StepState::Done { evidence } if evidence.is_empty() => {
                format!("step {} done", fact.step)
            }
            StepState::Done { evidence } => {
                format!("step {} done: {}", fact.step, evidence.join("; "))
            }
            StepState::Failed { reason } => format!("step {} failed: {reason}", fact.step),
        },
        Body::Turn(fact) => match fact.turn {
            Turn::Paused => "paused".to_owned(),
            Turn::Resumed => "resumed".to_owned(),
        },
        Body::Adopt(fact) => format!("adopted from fact {} on", fact.slot.index),
        Body::Withdrawn(withdrawn) => {
            let one = |(service, epoch): (&ServiceId, &Epoch)| format!("{service} (epoch {epoch})");
            let all: Vec<String> = withdrawn.services.iter().map(one).collect();
            format!("gate shut for {}", all.join(", "))
        }
        Body::End(fact) if fact.reason.is_empty() => format!("ended {}", fact.outcome.as_str()),
        Body::End(fact) => format!("ended {}: {}", fact.outcome.as_str(), fact.reason),
    }
}

/// The override by which a command asks for no majority of the voters, by name.
fn passed_over(ask: &Ask) -> String {
    match ask {
        Ask::Command { terms, .. } if !terms.without.is_empty() => {
            let sites: Vec<&str> = terms.without.iter().map(|site| site.as_str()).collect();
            format!(" (override {WITHOUT_QUORUM}: {} said to be off)", sites.join(", "))
        }
        Ask::Command { .. } | Ask::Wish { .. } => String::new(),
    }
}

fn line(record: AuditRecord) -> AuditLine {
    let AuditRecord {
        at,
        node,
        kind,
        site,
        seq,
        id,
        person,
        reason,
        services: _,
        text,
        entry: _,
        prev: _,
    } = record;
    AuditLine { at: Stamp::from_ms(at), site, seq, node, kind, id, person, reason, text }
}
