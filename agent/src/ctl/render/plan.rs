//! Plans.

use nett_policy::log::entry::Verb;

use super::table::{Tone, paint};
use super::{Style, short, task};
use crate::api::types::{OpKind, PlanDoc, RefusalDoc, VerbDoc};

/// More services than this are shown by their number and the first ones.
const SHOWN: usize = 40;

pub(super) fn show(plan: &PlanDoc, style: Style) -> String {
    let PlanDoc {
        verb,
        services,
        more_services,
        plan_hash,
        approvals_needed,
        steps,
        warnings,
        refusals,
    } = plan;
    let all = task::total(services, *more_services);
    let mut out = match plan_hash.as_str() {
        "" => String::new(),
        hash => format!("plan {hash}\n"),
    };
    out += &format!("{}\n", verb_text(verb));
    out += &format!("services: {}\n", task::services(services, *more_services));
    out += &format!("approvals needed: {approvals_needed}\n");
    for step in steps {
        let head = format!("step {} {}", step.number, step.kind);
        out += &format!("\n{}", paint(&head, Tone::Head, style.colour));
        let own = task::total(&step.services, step.more_services);
        if own > 0 && own < all {
            let more = task::and_more(step.more_services);
            out += &format!(" ({}{more})", step.services.join(", "));
        }
        if !step.acknowledge.is_empty() {
            out += &format!(", acknowledged by {}", step.acknowledge.join(", "));
        }
        out.push('\n');
        for remark in &step.remarks {
            out += &format!("  {remark}\n");
        }
        for node in &step.nodes {
            out += &format!("  {} at {}\n", node.node, node.site);
            for op in &node.ops {
                let tone = match op.op {
                    OpKind::Add => Tone::Good,
                    OpKind::Replace => Tone::Warn,
                    OpKind::Delete => Tone::Bad,
                };
                out += &format!("    {}\n", paint(&op.text, tone, style.colour));
            }
            if node.more_ops > 0 {
                out += &format!("    ... and {} operations more\n", node.more_ops);
            }
        }
    }
    if steps.is_empty() && refusals.is_empty() {
        out += "\nnothing to do\n";
    }
    out + &remarks(plan, refusals, warnings.len(), style)
}

fn remarks(plan: &PlanDoc, refusals: &[RefusalDoc], warnings: usize, style: Style) -> String {
    let mut out = String::new();
    if warnings + refusals.len() > 0 {
        out.push('\n');
    }
    for warning in &plan.warnings {
        let line = format!("warning ({}): {}", warning.kind, warning.message);
        out += &format!("{}\n", paint(&line, Tone::Warn, style.colour));
    }
    for refusal in refusals {
        let line = format!("would be refused by {}", refusal_text(refusal));
        out += &format!("{}\n", paint(&line, Tone::Bad, style.colour));
    }
    out
}

/// A rule with its owner, what it says, and what passes over it.
pub(super) fn refusal_text(refusal: &RefusalDoc) -> String {
    let RefusalDoc { rule, owner, message, override_with } = refusal;
    let owner = if owner.is_empty() { String::new() } else { format!(" (owner {owner})") };
    let way = match override_with {
        Some(option) => format!("; pass over it with {option}"),
        None => "; no override passes over it".to_owned(),
    };
    format!("{rule}{owner}: {message}{way}")
}

/// What an operator is asked about before a command is sent.
pub(in crate::ctl) fn confirmation(plan: &PlanDoc, verb: &Verb) -> String {
    let count = task::total(&plan.services, plan.more_services);
    let noun = if count == 1 { "service" } else { "services" };
    let mut out = format!("{}: {count} {noun}\n", verb_text(&VerbDoc::from(verb)));
    for id in plan.services.iter().take(SHOWN) {
        out += &format!("  {id}\n");
    }
    let rest = count.saturating_sub(SHOWN as u64);
    if rest > 0 {
        out += &format!("  and {rest} more\n");
    }
    let kinds: Vec<&str> = plan.steps.iter().map(|s| s.kind.as_str()).collect();
    if kinds.is_empty() {
        out += "nothing to do\n";
    } else {
        out += &format!("steps: {}\n", kinds.join(", "));
    }
    for remark in plan.steps.iter().flat_map(|step| &step.remarks) {
        out += &format!("  {remark}\n");
    }
    out +=
        &format!("plan {}, approvals needed: {}\n", short(&plan.plan_hash), plan.approvals_needed);
    let plain = Style { wide: false, colour: false };
    out + &remarks(plan, &[], plan.warnings.len(), plain)
}

fn verb_text(verb: &VerbDoc) -> String {
    let object = |object: &crate::api::types::ObjectDoc| {
        let crate::api::types::ObjectDoc { site, service, node, link, cluster } = object;
        let site = site.as_deref().unwrap_or("-");
        match (service, node, link, cluster) {
            (Some(service), ..) => format!("service {service} at {site}"),
            (None, Some(node), ..) => format!("node {node}"),
            (None, None, Some(link), _) => format!("link {link}"),
            (None, None, None, Some(cluster)) => format!("cluster {cluster}"),
            (None, None, None, None) => format!("site {site}"),
        }
    };
    match verb {
        VerbDoc::Failover { services, to } => format!("failover {services} to {to}"),
        VerbDoc::Failback { services } => format!("failback {services}"),
        VerbDoc::Steer { services, to } => {
            let parts: Vec<String> = to.iter().map(|(s, w)| format!("{s}={w}")).collect();
            format!("steer {services} to {}", parts.join(","))
        }
        VerbDoc::Drain { object: what } => format!("drain {}", object(what)),
        VerbDoc::Undrain { object: what } => format!("undrain {}", object(what)),
        VerbDoc::Evacuate { site, to: None } => format!("evacuate {site}"),
        VerbDoc::Evacuate { site, to: Some(to) } => format!("evacuate {site} to {to}"),
        VerbDoc::Hold { services } => format!("hold {services}"),
        VerbDoc::Release { services } => format!("release {services}"),
        VerbDoc::Revert { task } => format!("revert {task}"),
        VerbDoc::Resolve { subject, to: None } => format!("resolve {subject}"),
        VerbDoc::Resolve { subject, to: Some(to) } => format!("resolve {subject} to {to}"),
        VerbDoc::Revoke { person } => format!("revoke the key of {person}"),
    }
}
