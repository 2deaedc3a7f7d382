//! What has no place of its own: explanations, the audit trail, identities, streams.

use super::table::{Cell, Table, Tone, facts};
use super::{Style, or_dash};
use crate::api::types::{
    AuditDoc, AuditLine, AuditVerdictDoc, ExplainDoc, FactDoc, IdentityDoc, RejoinDoc, RestoredDoc,
};
use crate::bus::provision::Finding;

pub(super) fn explain(explain: &ExplainDoc) -> String {
    let ExplainDoc {
        name,
        service,
        client,
        client_site: from,
        target_site: to,
        answers,
        ttl_s,
        serial,
        why,
    } = explain;
    let mut out = facts(&[
        ("name", name.clone()),
        ("service", service.clone().unwrap_or_default()),
        ("client", client.clone().unwrap_or_default()),
        ("client site", from.clone().unwrap_or_default()),
        ("answered with", to.clone().unwrap_or_default()),
        ("answers", or_dash(&answers.join(", "))),
        ("ttl", format!("{ttl_s} s")),
        ("serial", serial.to_string()),
    ]);
    if !why.is_empty() {
        out += "\nBecause:\n";
        for (reason, nth) in why.iter().zip(1..) {
            out += &format!("  {nth}. {reason}\n");
        }
    }
    out
}

pub(super) fn facts_text(all: &[FactDoc], style: Style) -> String {
    let mut table = Table::new(&["FACT", "SERVICE", "VALUE", "BY", "MEASURED", "GOOD UNTIL"]);
    for fact in all {
        let FactDoc { service, name, value, unit, person, measured_at, expires_at } = fact;
        table.row(vec![
            name.clone().into(),
            or_dash(service.as_deref().unwrap_or_default()).into(),
            format!("{value}{unit}").into(),
            person.clone().into(),
            measured_at.to_string().into(),
            expires_at.to_string().into(),
        ]);
    }
    table.text(style)
}

pub(super) fn audit_verdict(verdict: &AuditVerdictDoc) -> String {
    let AuditVerdictDoc { whole, lines, damaged, breaks, unbelieved, unknown, last } = verdict;
    let mut out = match whole {
        true => format!("whole: {lines} lines, each behind the one before\n"),
        false => format!("NOT WHOLE: {lines} lines\n"),
    };
    let lists = [
        ("no record (torn by a crash, or damaged)", damaged),
        ("does not follow the line before", breaks),
        ("an entry that its signer did not sign so", unbelieved),
        ("an entry of an unknown fabric generation", unknown),
    ];
    for (what, numbers) in lists.into_iter().filter(|(_, numbers)| !numbers.is_empty()) {
        let shown: Vec<String> = numbers.iter().take(20).map(u64::to_string).collect();
        let more = if numbers.len() > 20 { " ..." } else { "" };
        out += &format!("{what}: line {}{more}\n", shown.join(", "));
    }
    out + &format!("last line: {last}\n")
}

pub(super) fn audit(audit: &AuditDoc, style: Style) -> String {
    let AuditDoc { entries, truncated } = audit;
    let mut header = vec!["AT", "LOG", "KIND", "BY", "WHAT"];
    if style.wide {
        header.extend(["REASON", "NODE", "ID"]);
    }
    let mut table = Table::new(&header);
    for entry in entries {
        let AuditLine { at, site, seq, node, kind, id, person, reason, text } = entry;
        let log = match (site, seq) {
            (Some(site), Some(seq)) => format!("{site}:{seq}"),
            (Some(site), None) => site.clone(),
            (None, _) => "local".to_owned(),
        };
        let dash = |text: &Option<String>| or_dash(text.as_deref().unwrap_or_default());
        let mut cells: Vec<Cell> = vec![
            at.to_string().into(),
            log.into(),
            kind.clone().into(),
            dash(person).into(),
            if style.wide { text.clone() } else { in_short(text, reason.as_deref()) }.into(),
        ];
        if style.wide {
            cells.extend([dash(reason).into(), node.clone().into(), dash(id).into()]);
        }
        table.row(cells);
    }
    let mut out = table.text(style);
    if *truncated {
        out += "(older entries were left out; see --limit and --since)\n";
    }
    out
}

/// What happened and why, on a line that fits a screen; `-o wide` has all of it.
fn in_short(text: &str, reason: Option<&str>) -> String {
    /// Characters.
    const LONGEST: usize = 100;
    let mut line = text.to_owned();
    if let Some(reason) = reason.filter(|r| !r.is_empty()) {
        line += &format!(" \"{reason}\"");
    }
    if line.chars().count() > LONGEST {
        line = line.chars().take(LONGEST - 3).chain("...".chars()).collect();
    }
    line
}

pub(super) fn identity(identity: &IdentityDoc) -> String {
    let IdentityDoc { site, node, version, operator, roles, revoked: _ } = identity;
    facts(&[
        ("site", site.clone()),
        ("node", node.clone()),
        ("version", version.clone()),
        ("operator", operator.clone().unwrap_or_default()),
        ("roles", roles.join(", ")),
    ])
}

pub(super) fn findings(findings: &[Finding], style: Style) -> String {
    let mut table = Table::new(&["STREAM", "FOR", "STATE"]);
    for Finding { stream, purpose, outcome } in findings {
        let tone = if outcome.is_good() { Tone::Good } else { Tone::Bad };
        let state = Cell::new(outcome.to_string(), tone);
        table.row(vec![stream.clone().into(), purpose.clone().into(), state]);
    }
    table.text(style)
}

pub(super) fn findings_json(findings: &[Finding]) -> serde_json::Value {
    let streams = findings.iter().map(|Finding { stream, purpose, outcome }| {
        serde_json::json!({
            "stream": stream,
            "purpose": purpose,
            "good": outcome.is_good(),
            "state": outcome.to_string(),
        })
    });
    serde_json::json!({ "streams": streams.collect::<Vec<_>>() })
}

/// What is left to be read after an operator's word.
pub(super) fn rejoin(doc: &RejoinDoc) -> String {
    match doc.pending.is_empty() {
        true => format!("this voter votes without having read {}\n", doc.without),
        false => format!("still to be read: {}\n", doc.pending.join(", ")),
    }
}

/// What taking a backup in came to.
pub(super) fn restored(doc: &RestoredDoc) -> String {
    let heads: Vec<String> = doc.heads.iter().map(|(site, seq)| format!("{site} {seq}")).collect();
    let new = doc.new.unwrap_or(0);
    format!("{new} entries taken in; the logs go to {} now\n", heads.join(", "))
}
