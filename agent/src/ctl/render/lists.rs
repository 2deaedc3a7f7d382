//! What has no place of its own: explanations, the audit trail, identities.

use super::table::{Cell, Table, facts};
use super::{Style, or_dash};
use crate::api::types::{AuditDoc, AuditLine, ExplainDoc, IdentityDoc};

pub(super) fn explain(explain: &ExplainDoc) -> String {
    let ExplainDoc { name, service, client, client_site, target_site, answers, ttl_s, serial, why } =
        explain;
    let mut out = facts(&[
        ("name", name.clone()),
        ("service", service.clone().unwrap_or_default()),
        ("client", client.clone().unwrap_or_default()),
        ("client site", client_site.clone().unwrap_or_default()),
        ("answered with", target_site.clone().unwrap_or_default()),
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
            text.clone().into(),
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

pub(super) fn identity(identity: &IdentityDoc) -> String {
    let IdentityDoc { site, node, version, operator, roles } = identity;
    facts(&[
        ("site", site.clone()),
        ("node", node.clone()),
        ("version", version.clone()),
        ("operator", operator.clone().unwrap_or_default()),
        ("roles", roles.join(", ")),
    ])
}
