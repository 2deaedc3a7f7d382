//! What must hold between the safety rules and the rest of the fabric.
//!
//! Pure. A rule that names nothing known, or that can never hold, would refuse everything or
//! nothing in the hour in which it is needed.

use super::code::Code;
use super::diagnostic::{Diagnostic, Span};
use super::fabric_check::{Unique, has_site, unknown_site};
use super::fabric_file::FabricDoc;
use super::nearest::nearest;
use super::read::Reader;
use super::safety_file::SafetyDoc;
use crate::fabric::{Limit, Part};

pub(super) fn check(r: &Reader<'_>, doc: &FabricDoc) {
    for rule in &doc.safety {
        parts(r, doc, rule);
        possible(r, doc, rule);
    }
}

fn parts(r: &Reader<'_>, doc: &FabricDoc, rule: &SafetyDoc) {
    let mut parts = Unique::new(r, Code::SiteRepeated, "the part");
    for part in &rule.of {
        parts.add(&part.value, part.span);
        match &part.value {
            Part::Site(site) if !has_site(doc, site) => {
                r.report(unknown_site(r, doc, site, part.span));
            }
            Part::Node(node) if !doc.nodes.iter().any(|n| n.id.value == *node) && doc.whole => {
                let known = doc.nodes.iter().map(|n| n.id.value.as_str());
                let message = format!("there is no node `{node}`");
                let found = r.mistake(Code::UnknownNode, part.span, message);
                r.report(with_nearest(found, node.as_str(), known));
            }
            Part::Link(link) if !doc.links.iter().any(|l| l.id.value == *link) && doc.whole => {
                let known = doc.links.iter().map(|l| l.id.value.as_str());
                let message = format!("there is no link `{link}`");
                let found = r.mistake(Code::UnknownLink, part.span, message);
                r.report(with_nearest(found, link.as_str(), known));
            }
            Part::Site(_) | Part::Node(_) | Part::Link(_) => {}
        }
    }
}

fn with_nearest<'a>(
    found: Diagnostic,
    text: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Diagnostic {
    match nearest(text, known.clone()) {
        Some(word) => found.hint(format!("did you mean `{word}`?")),
        None => found.hint(format!("known: {}", known.collect::<Vec<_>>().join(", "))),
    }
}

fn possible(r: &Reader<'_>, doc: &FabricDoc, rule: &SafetyDoc) {
    let count = u32::try_from(rule.of.len()).unwrap_or(u32::MAX);
    let id = &rule.id.value;
    let impossible = |span: Span, message: String| {
        r.report(r.mistake(Code::SafetyImpossible, span, message));
    };
    match &rule.limit {
        Some(Limit::AtLeast { least, .. }) if count > 0 && *least > count => {
            let span = rule.least.map_or(rule.id.span, |least| least.span);
            let things = match rule.of.iter().all(|part| matches!(part.value, Part::Site(_))) {
                true => "sites",
                false => "parts",
            };
            let message =
                format!("the rule `{id}` wants {least} of {count} {things}, which can never hold");
            impossible(span, message);
        }
        Some(Limit::LinkLoad { .. })
            if doc.whole && doc.links.iter().all(|l| l.capacity_bps.is_none()) =>
        {
            let message = format!("the rule `{id}` is about links, none of which has a `capacity`");
            impossible(rule.id.span, message);
        }
        Some(_) | None => {}
    }
}
