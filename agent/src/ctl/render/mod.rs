//! The only place that prints: answers to the output, everything else to the error output.
//!
//! What people read is built by the modules below as text and written here in one go; what
//! programs read (`-o json`, `-o yaml`) is the answer itself.

mod clean;
mod conflict;
mod lists;
mod path;
mod plan;
mod service;
mod status;
mod table;
mod task;
mod yaml;

use std::io::{self, BufRead, IsTerminal, Write};

use serde::Serialize;

pub(super) use clean::clean;
pub(super) use plan::confirmation;
pub(super) use status::Look;
pub(super) use task::wish_text;

use super::env;
use super::exit::{CtlError, Exit};
use crate::api::client::ClientError;
use crate::api::types::{ApiResponse, BackupDoc, CommandReply, Outcome, Payload, RefusalDoc};
use crate::bus::provision::Finding;
use table::{Tone, paint};

/// How to show an answer: columns for people, more of them, one document with a schema, the same
/// document as YAML.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Table,
    Wide,
    Json,
    Yaml,
}

/// Ages above this are shown, in milliseconds.
const FRESH_MS: u64 = 10_000;

/// How text is to look.
#[derive(Debug, Clone, Copy)]
struct Style {
    wide: bool,
    colour: bool,
}

/// Both outputs, and how to use them.
pub(super) struct Out {
    format: Format,
    style: Style,
}

// === impl Out ===

impl Out {
    pub(super) fn new(format: Format) -> Self {
        let plain = std::env::var_os(env::NO_COLOR).is_some_and(|v| !v.is_empty());
        let style =
            Style { wide: format == Format::Wide, colour: io::stdout().is_terminal() && !plain };
        Self { format, style }
    }

    /// True when control characters in an answer would reach a terminal.
    pub(super) fn is_for_people(&self) -> bool {
        matches!(self.format, Format::Table | Format::Wide)
    }

    /// Shows an answer; an error in it becomes the error of the run.
    pub(super) fn answer(&self, answer: &ApiResponse) -> Result<(), CtlError> {
        self.show(answer, text)
    }

    /// As [`Out::answer`], for a list that was cut down to one: everything about it.
    pub(super) fn single(&self, answer: &ApiResponse) -> Result<(), CtlError> {
        self.show(answer, |payload, style| match payload {
            Payload::Nodes { nodes } => nodes.iter().map(status::node_text).collect(),
            Payload::Links { links } => links.iter().map(status::link_text).collect(),
            other => text(other, style),
        })
    }

    /// As [`Out::answer`], for a status; with `again` over the last one.
    pub(super) fn status(
        &self,
        answer: &ApiResponse,
        look: &Look,
        again: bool,
    ) -> Result<(), CtlError> {
        if again && self.style.colour && self.is_for_people() {
            // Home, and erase to the end (ECMA-48 CUP, ED).
            self.raw(b"\x1b[H\x1b[J")?;
        }
        self.show(answer, |payload, style| match payload {
            Payload::Status(doc) => status::status_text(doc, answer, look, style),
            other => text(other, style),
        })
    }

    /// What became of a command.
    pub(super) fn reply(&self, reply: &CommandReply) -> Result<(), CtlError> {
        match self.format {
            Format::Json | Format::Yaml => self.document(reply)?,
            Format::Table | Format::Wide if reply.accepted => {
                self.line(&task::reply_text(reply))?;
            }
            Format::Table | Format::Wide => {}
        }
        if !reply.accepted {
            let said = match &reply.refused_by {
                Some(rule) => format!("refused by {rule}: {}", reply.message),
                None => format!("not accepted: {}", reply.message),
            };
            self.note(&clean(said))?;
        }
        Ok(())
    }

    /// The rules that would refuse a command, which is therefore not sent.
    pub(super) fn refused_by_plan(&self, refusals: &[&RefusalDoc]) -> Result<Exit, CtlError> {
        for refusal in refusals {
            self.note(&format!("refused by {}", plan::refusal_text(refusal)))?;
        }
        self.note("nothing was sent")?;
        Ok(Exit::Refused)
    }

    /// Says what went wrong; gives the status to end with.
    pub(super) fn error(&self, error: &CtlError) -> Exit {
        if let CtlError::Output(source) = error
            && source.kind() == io::ErrorKind::BrokenPipe
        {
            // The reader has seen enough.
            return Exit::Done;
        }
        let mut lines = String::new();
        if let CtlError::Fabric { mistakes } = error {
            lines.extend(mistakes.iter().map(ToString::to_string));
        }
        lines += &format!("nettctl: {}\n", clean(error.to_string()));
        if let Some(hint) = error.hint() {
            lines += &format!("  {}\n", clean(hint.to_owned()));
        }
        // Nobody is left to tell when the error output is gone.
        let _ = io::stderr().lock().write_all(lines.as_bytes());
        error.exit()
    }

    /// What was found or done about streams.
    pub(super) fn findings(&self, findings: &[Finding]) -> Result<(), CtlError> {
        match self.format {
            Format::Json | Format::Yaml => self.document(&lists::findings_json(findings)),
            Format::Table | Format::Wide => {
                self.raw(lists::findings(findings, self.style).as_bytes())
            }
        }
    }

    /// What was found by a comparison: lines for people, all of it for programs.
    pub(super) fn checked<T: Serialize>(&self, all: &T, lines: &[String]) -> Result<(), CtlError> {
        match self.format {
            Format::Json | Format::Yaml => self.document(all),
            Format::Table | Format::Wide => lines.iter().try_for_each(|line| self.line(line)),
        }
    }

    /// One line about what goes on, to the error output.
    pub(super) fn note(&self, line: &str) -> Result<(), CtlError> {
        Ok(writeln!(io::stderr().lock(), "{line}")?)
    }

    /// What a question is about, to the error output.
    pub(super) fn ask_text(&self, text: &str) -> Result<(), CtlError> {
        Ok(io::stderr().lock().write_all(text.as_bytes())?)
    }

    /// True when somebody is there to answer a question.
    pub(super) fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// True for `y` and `yes`; the end of the input is a no.
    pub(super) fn confirm(&self, question: &str) -> Result<bool, CtlError> {
        let mut error = io::stderr().lock();
        error.write_all(question.as_bytes())?;
        error.flush()?;
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        let answer = line.trim().to_lowercase();
        Ok(answer == "y" || answer == "yes")
    }

    pub(super) fn line(&self, line: &str) -> Result<(), CtlError> {
        self.raw(format!("{line}\n").as_bytes())
    }

    pub(super) fn raw(&self, bytes: &[u8]) -> Result<(), CtlError> {
        let mut output = io::stdout().lock();
        output.write_all(bytes)?;
        Ok(output.flush()?)
    }

    fn show(
        &self,
        answer: &ApiResponse,
        text: impl FnOnce(&Payload, Style) -> String,
    ) -> Result<(), CtlError> {
        match self.format {
            Format::Json | Format::Yaml => self.document(answer)?,
            Format::Table | Format::Wide => {
                if let Outcome::Ok(payload) = &answer.outcome {
                    let head = view_line(answer, self.style);
                    self.raw((head + &text(payload, self.style)).as_bytes())?;
                }
            }
        }
        match &answer.outcome {
            Outcome::Ok(_) => Ok(()),
            Outcome::Error(error) => Err(ClientError::Agent(error.clone()).into()),
        }
    }

    fn document<T: Serialize>(&self, document: &T) -> Result<(), CtlError> {
        let invariant = "keys of the API's types are strings";
        if self.format == Format::Yaml {
            let value = serde_json::to_value(document).expect(invariant);
            self.raw(yaml::emit(&value).as_bytes())
        } else {
            self.line(&serde_json::to_string_pretty(document).expect(invariant))
        }
    }
}

/// What everything below it rests on, if that is not the present state of the fabric.
fn view_line(answer: &ApiResponse, style: Style) -> String {
    let mut line = String::new();
    if let Some(since) = answer.isolated_since {
        line = format!("VIEW: isolated since {since}");
    }
    if answer.age_ms > FRESH_MS {
        let age = age_text(answer.age_ms);
        line =
            if line.is_empty() { format!("VIEW: {age} old") } else { format!("{line}, {age} old") };
    }
    if line.is_empty() {
        return line;
    }
    paint(&line, Tone::Warn, style.colour) + "\n"
}

/// The mark of a line that rests on an old report, or on none.
fn age_note(age_ms: Option<u64>) -> Option<String> {
    match age_ms {
        None => Some("(never seen)".to_owned()),
        Some(age) if age > FRESH_MS => Some(format!("({} old)", age_text(age))),
        Some(_) => None,
    }
}

fn age_text(age_ms: u64) -> String {
    let seconds = age_ms / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `-` where there is nothing to say.
fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

/// The beginning of a hash: enough to compare by eye.
fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

fn text(payload: &Payload, style: Style) -> String {
    match payload {
        Payload::Identity(identity) => lists::identity(identity),
        Payload::Status(doc) => status::sites_text(&doc.sites, style),
        Payload::Services { services } => service::list(services, style),
        Payload::Service(doc) => service::show(doc, style),
        Payload::Sites { sites } => status::sites_text(sites, style),
        Payload::Site(site) => {
            let sites = std::slice::from_ref(site);
            let nodes = status::nodes_text(&site.nodes, style);
            format!("{}\n{nodes}", status::sites_text(sites, style))
        }
        Payload::Nodes { nodes } => status::nodes_text(nodes, style),
        Payload::Links { links } => status::links_text(links, style),
        Payload::Tasks { tasks } => task::list(tasks, style),
        Payload::Task(doc) => task::show(doc, style),
        Payload::Conflicts { conflicts } => conflict::list(conflicts),
        Payload::Plan(doc) => plan::show(doc, style),
        Payload::Explain(doc) => lists::explain(doc),
        Payload::Path(doc) => path::path(doc),
        Payload::Simulation(doc) => path::simulation(doc, style),
        Payload::Separation(doc) => path::separation(doc, style),
        Payload::Drained(doc) => path::drained(doc, style),
        Payload::Facts { facts } => lists::facts_text(facts, style),
        Payload::Audit(doc) => lists::audit(doc, style),
        Payload::AuditVerdict(doc) => lists::audit_verdict(doc),
        Payload::Command(reply) => task::reply_text(reply) + "\n",
        Payload::Rejoin(doc) => lists::rejoin(doc),
        Payload::Restored(doc) => lists::restored(doc),
        Payload::Backup(BackupDoc { log, .. }) => log.clone(),
        Payload::AuditPart(part) => part.text.clone(),
    }
}
